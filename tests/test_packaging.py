"""What is built from the tree holds all of relayd, and twistd finds it wherever it is started."""

import email
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILDER = "import sys; from hatchling.build import build_{0}; print(build_{0}(sys.argv[1]))"
TWISTD = "from twisted.scripts.twistd import run; run()"


def run(*words: str, cwd: Path = ROOT, **environ: str) -> str:
    ran = subprocess.run(words, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def tracked(*folders: str) -> set[str]:
    """What the tree holds that a package should hold too: everything but what tools leave behind."""
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts and path.suffix != ".cache"
    }


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds with the backend itself: no isolation, no network."""
    pytest.importorskip("hatchling")

    def build(kind: str) -> Path:
        out = tmp_path_factory.mktemp(kind)
        run(sys.executable, "-c", BUILDER.format(kind), str(out))
        (built,) = out.iterdir()
        return built

    return build


@pytest.fixture(scope="module")
def wheel(build: Callable[[str], Path]) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel"))


@pytest.fixture(scope="module")
def sdist(build: Callable[[str], Path]) -> set[str]:
    with tarfile.open(build("sdist")) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def test_the_wheel_holds_every_file_of_relayd_and_the_console_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    console = {name.removeprefix("console/") for name in tracked("console")}
    assert names == tracked("relayd") | console | {"twisted/plugins/relayd_plugin.py"}


@pytest.mark.parametrize(
    "name",
    [
        "relayd/py.typed",
        "relayd/spool/schema.sql",
        "relayd/directory/schema.sql",
        "relayd/validation/lists/typos.txt",
        "relayd_console/app.py",
    ],
)
def test_the_wheel_holds_what_is_easily_forgotten(wheel: zipfile.ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_the_wheel_brings_both_commands(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    assert "relayctl = relayd.ctl:main" in text
    assert "relayd-console = relayd_console.app:main" in text


def test_the_wheel_says_the_version_that_relayd_says(wheel: zipfile.ZipFile) -> None:
    import relayd

    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    assert email.message_from_bytes(wheel.read(name))["Version"] == relayd.__version__


def test_twistd_finds_relayd_in_an_unpacked_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    # The tree itself may be installed editable: it must not lend a hand.
    alone = (
        f"sys.path[:] = [{str(tmp_path)!r}, *(p for p in sys.path if p not in {(str(ROOT), str(ROOT / 'console'))!r})]"
    )
    script = f"import sys; {alone}; sys.argv = ['twistd', '--help']; {TWISTD}"
    assert "Outbound mail relay" in run(sys.executable, "-c", script, cwd=tmp_path)
    script = f"import sys; {alone}; import relayd.service; print(relayd.service.__file__)"
    assert run(sys.executable, "-c", script, cwd=tmp_path).strip() == str(tmp_path / "relayd" / "service.py")


def test_the_sdist_holds_all_that_building_and_testing_need(sdist: set[str]) -> None:
    assert tracked("relayd", "console", "twisted", "tests", "etc", "docs", ".ci") <= sdist
    assert {"pyproject.toml", "README.md", "Makefile"} <= sdist


def test_the_sdist_holds_nothing_that_a_run_leaves_behind(sdist: set[str]) -> None:
    assert not [name for name in sdist if name.endswith((".pyc", ".cache")) or name.startswith(("var/", ".venv"))]


def test_installed_editable_twistd_finds_relayd_from_anywhere(tmp_path: Path) -> None:
    twistd = Path(sys.executable).parent / "twistd"
    if not (twistd.exists() and (twistd.parent / "relayctl").exists()):
        pytest.skip("relayd is not installed here")
    assert "Outbound mail relay" in run(str(twistd), "--help", cwd=tmp_path)


@pytest.mark.parametrize("command", [("-m", "twisted"), ("-c", TWISTD)], ids=["twist", "twistd"])
def test_without_an_installation_the_tree_on_the_path_is_enough(command: tuple[str, str], tmp_path: Path) -> None:
    assert "Outbound mail relay" in run(sys.executable, *command, "--help", cwd=tmp_path, PYTHONPATH=str(ROOT))


def test_options_of_the_plugin_are_those_of_the_service(tmp_path: Path) -> None:
    said = run(sys.executable, "-c", TWISTD, "relayd", "--help", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "--config" in said and "--check" in said


@pytest.mark.parametrize("module", ["relayd.ctl", "relayd.quickstart"])
def test_commands_start_without_twisted(module: str) -> None:
    """They are run by hand, often: the reactor has no business in them."""
    script = f"import sys, {module}; print([name for name in sys.modules if name.split('.')[0] == 'twisted'])"
    assert run(sys.executable, "-c", script, PYTHONPATH=str(ROOT)).strip() == "[]"


def test_the_unit_file_starts_what_the_readme_says() -> None:
    unit = (ROOT / "etc" / "systemd" / "relayd.service").read_text()
    assert "relayd --config /etc/relayd/relayd.toml" in unit
    assert "ExecReload=/bin/kill -HUP $MAINPID" in unit
