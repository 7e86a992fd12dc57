"""What the benchmark needs of Debian: Postfix with smtp-source and smtp-sink, OpenDKIM; unpacked, never installed.

In: a directory to keep them in.  Out: paths of programs and the environment to start them with.
"""

import contextlib
import grp
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

PACKAGES = ("postfix", "opendkim")
USER, GROUP = "postfix", "postdrop"
_LIBRARIES = ("usr/lib/postfix", "usr/lib", "usr/lib/*-linux-gnu", "lib/*-linux-gnu")


class Unavailable(Exception):
    """The benchmark cannot run here; the text says why."""


class Tools:
    """The unpacked packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        found = [str(path) for pattern in _LIBRARIES for path in root.glob(pattern)]
        self.environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(found)}

    def program(self, name: str) -> str:
        """The path of a program, such as "smtp-sink"."""
        return str(self.root / "usr/sbin" / name)


def prepare(work: Path) -> Tools:
    """Unpacks the packages unless that is done.  Raises Unavailable."""
    root = work / "debian"
    if not (root / ".whole").exists():
        _unpack(work, root)
    tools = Tools(root)
    for name in ("smtp-source", "smtp-sink", "postfix", "opendkim"):
        _check_libraries(tools, name)
    return tools


def make_users() -> list[str]:
    """Makes the user and groups without which Postfix does not start; gives those that were missing.
    Raises Unavailable."""
    if os.getuid() != 0:
        raise Unavailable("Postfix has to be started by root: run the benchmark as root")
    made = []
    for name, known, command in (
        (GROUP, grp.getgrnam, ["groupadd", "--system", GROUP]),
        (USER, pwd.getpwnam, ["useradd", "--system", "--user-group", "--no-create-home", "-s", "/bin/false", USER]),
    ):
        try:
            known(name)
        except KeyError:
            _run(command)
            made.append(name)
    return made


def _unpack(work: Path, root: Path) -> None:
    missing = [name for name in ("apt-get", "dpkg") if not shutil.which(name)]
    if missing:
        raise Unavailable(f"no {missing[0]} here: Postfix and smtp-source come from Debian's packages")
    shutil.rmtree(root, ignore_errors=True)
    archives = work / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    # A dry run names exactly what this machine lacks.
    simulate = ["apt-get", "-s", "--no-install-recommends", "install", *PACKAGES]
    try:
        plan = _run(simulate)
    except Unavailable:
        _run(["apt-get", "-qq", "update"])
        plan = _run(simulate)
    names = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
    # Where they are installed the dry run does not name them.
    _run(["apt-get", "-qq", "download", *dict.fromkeys([*PACKAGES, *names])], cwd=archives)
    for archive in sorted(archives.glob("*.deb")):
        _run(["dpkg", "-x", str(archive), str(root)])
    shutil.rmtree(archives)
    (root / ".whole").touch()


def _check_libraries(tools: Tools, name: str) -> None:
    said = _run(["ldd", tools.program(name)], env=tools.environment)
    lost = re.findall(r"(\S+) => not found", said)
    if lost:
        raise Unavailable(f"{name} lacks {', '.join(lost)}: remove {tools.root} and try again")


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode == 0:
            return done.stdout
        raise Unavailable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    raise Unavailable(f"{' '.join(command)} took too long")
