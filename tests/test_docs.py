"""What the documents say is true: their configurations load, their commands exist, their files are there."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from relayd import config, ctl, quickstart, service
from relayd.envelope import UNSTEERED
from relayd.events import MEANING
from relayd.message import steering
from relayd.message.headers import survey
from relayd.submission import steered

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """The indented blocks of a page."""
    found = re.findall(r"(?:^    .*\n(?:\n(?=    ))*)+", page.read_text("utf-8"), re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found]


def commands(page: Path, program: str) -> list[list[str]]:
    """Every command of the program on a page, in blocks and between backquotes, as words."""
    text = page.read_text("utf-8")
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    lines += [quoted.replace("\n", " ") for quoted in re.findall(r"`([^`]+)`", text)]
    words = (shlex.split(line, comments=True) for line in lines if program in line and "'" not in line)
    return [line for line in words if line and line[0].rpartition("/")[2] == program]


RELAYCTL = [
    pytest.param(words[1:], id=" ".join(words)) for page in PAGES for words in commands(page, "relayctl") if words[1:]
]


def test_there_are_commands_to_check() -> None:
    assert len(RELAYCTL) > 20


@pytest.mark.parametrize("words", RELAYCTL)
def test_every_relayctl_command_is_understood(words: list[str]) -> None:
    if words == ["--help"] or words == ["VERB", "--help"]:
        return
    assert ctl.parser().parse_args(words).verb


@pytest.mark.parametrize("words", [words for page in PAGES for words in commands(page, "twistd")], ids=" ".join)
def test_every_twistd_command_has_options_that_exist(words: list[str]) -> None:
    if words == ["twistd"] or "relayd" not in words:
        return
    known = {f"--{option[0]}" for option in [*service.Options.optParameters, *service.Options.optFlags]}
    assert {word for word in words[words.index("relayd") :] if word.startswith("--")} <= known


def test_the_configuration_in_the_readme_is_valid(tmp_path: Path) -> None:
    (text,) = (block for block in blocks(ROOT / "README.md") if block.startswith("[node]"))
    quickstart._certificate(tmp_path / "tls")
    text = text.replace("/etc/relayd/tls/fullchain.pem", str(tmp_path / "tls" / "cert.pem"))
    text = text.replace("/etc/relayd/tls/privkey.pem", str(tmp_path / "tls" / "key.pem"))
    (tmp_path / "relayd.toml").write_text(text)
    loaded = config.load(tmp_path / "relayd.toml")
    assert not loaded.route
    assert {name: stream.pool for name, stream in loaded.stream.items()} == {
        "transactional": "transactional",
        "marketing": "marketing",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


HEADERS = ROOT / "docs" / "headers.md"


def test_every_header_that_steers_is_explained_and_has_an_example() -> None:
    explained = re.findall(r"^\| `(X-[A-Za-z-]+)` \|", HEADERS.read_text("utf-8"), re.MULTILINE)
    assert list(dict.fromkeys(explained)) == list(steering.NAMES.values())
    examples = {line.partition(":")[0] for block in blocks(HEADERS) for line in block.splitlines()}
    assert set(explained) <= examples


@pytest.mark.parametrize("line", [b for block in blocks(HEADERS) for b in block.splitlines() if b.startswith("X-")])
def test_every_example_of_a_header_that_steers_is_understood(line: str) -> None:
    now = 1_797_000_000.0  # in December 2026
    assert steering.read(survey(f"{line}\r\n\r\n".encode()).steering, now) is not UNSTEERED


def test_the_refusal_of_a_header_is_told_as_it_is() -> None:
    (said,) = (line.strip() for line in HEADERS.read_text("utf-8").splitlines() if line.strip().startswith("550"))
    assert said == str(steered(survey(b"X-Relayd-Send-At: tomorrow\r\n\r\n"), 0.0))


@pytest.mark.parametrize("name", ["flow.md", "architecture.md"])
def test_every_file_and_room_that_is_named_exists(name: str) -> None:
    text = (ROOT / "docs" / name).read_text("utf-8")
    for file in re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", text):
        assert any((ROOT / place / file).exists() for place in ("", "relayd")), file


def test_the_quickstart_and_the_readme_tell_the_same_commands() -> None:
    """Who follows the one or the other types the same."""
    told = quickstart._WELCOME.format(
        directory="", env="var/quickstart.env", look="", bin=".venv/bin", submissions=4465, submission=4587
    )
    readme = "\n".join(blocks(ROOT / "README.md"))
    flat = " ".join(readme.split())
    for part in re.findall(r"(?:^  \S.*\n)+(?:^    .*\n)*", told, re.MULTILINE)[:2]:
        assert " ".join(part.split()) in flat


CLIENTS = (ROOT / "docs" / "clients.md").read_text("utf-8")


@pytest.mark.parametrize("file", sorted((ROOT / "tests/clients/recipes").iterdir()), ids=lambda file: file.name)
def test_every_recipe_stands_in_the_clients_page_as_it_is_run(file: Path) -> None:
    assert textwrap.indent(file.read_text("utf-8"), "    ") in CLIENTS


@pytest.mark.parametrize("reply", re.findall(r"`[245]\d\d \d\.\d+\.\d+ ([^`]+)`", CLIENTS))
def test_every_reply_that_the_clients_page_explains_is_one_of_ours(reply: str) -> None:
    ours = "".join(file.read_text("utf-8") for file in (ROOT / "relayd").rglob("*.py"))
    parts = re.split(r"<?…>?|[0-9a-f]{16}", reply)
    assert all(part.strip() in ours for part in parts), reply


def test_every_event_is_on_the_page_of_webhooks_with_its_meaning() -> None:
    text = (ROOT / "docs" / "webhooks.md").read_text("utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE)) == MEANING
