"""Completion: what real shells offer after ``relayctl``."""

import shutil
import subprocess
from pathlib import Path

import pytest

from relayd import ctl
from relayd.completion import SHELLS, script

_ASK = """
source {file}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_LINE="{line}"
_relayctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def bash(tmp_path: Path, *words: str) -> set[str]:
    """What bash offers for the last of these words."""
    file = tmp_path / "relayctl.bash"
    file.write_text(script("bash", ctl.COMMANDS))
    quoted = " ".join(f"'{word}'" for word in ("relayctl", *words))
    text = _ASK.format(file=file, words=quoted, line=" ".join(words))
    done = subprocess.run([shell("bash"), "-c", text], capture_output=True, text=True, check=True, timeout=20)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_the_first_word_is_a_noun_or_an_option_of_all(tmp_path: Path) -> None:
    found = bash(tmp_path, "")
    assert {"account", "queue", "audit", "completion", "--control"} <= found and "add" not in found


def test_the_second_word_is_what_can_be_done_with_the_first(tmp_path: Path) -> None:
    assert bash(tmp_path, "account", "s") == {"set", "shape", "show", "suspend"}
    assert bash(tmp_path, "--control", "/run/x", "account", "sh") == {"shape", "show"}


def test_options_are_those_of_the_verb_as_relayctl_has_them(tmp_path: Path) -> None:
    assert {"--password-file", "--sender", "--json"} <= bash(tmp_path, "connection", "add", "--")
    assert bash(tmp_path, "audit", "--j") == {"--json"}
    assert {"--worst", "--no-worst"} <= bash(tmp_path, "reputation", "list", "--")


def test_choices_follow_their_option(tmp_path: Path) -> None:
    assert bash(tmp_path, "account", "set", "--risk", "") == {"low", "normal", "high"}
    assert bash(tmp_path, "completion", "") >= {"--help"}


def test_files_follow_options_that_are_read_from_one(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").touch()
    assert bash(tmp_path, "connection", "add", "--password-file", f"{tmp_path}/sec") == {f"{tmp_path}/secret.txt"}


@pytest.mark.parametrize("name", SHELLS)
def test_each_shell_reads_its_script_without_a_complaint(tmp_path: Path, name: str) -> None:
    file = tmp_path / "script"
    file.write_text(script(name, ctl.COMMANDS))
    done = subprocess.run([shell(name), "-n", str(file)], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")


def test_relayctl_prints_the_script_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["completion", "fish"]) == 0
    assert capsys.readouterr().out == script("fish", ctl.COMMANDS)


@pytest.mark.parametrize("name", SHELLS)
def test_every_command_and_option_is_in_every_script(name: str) -> None:
    text = script(name, ctl.COMMANDS)
    for verb in ctl.COMMANDS:
        assert verb.name.split(" ")[-1] in text
        for arg in verb.args:
            if not arg.positional and arg.kind != "row":
                assert arg.name.replace("_", "-") in text
