"""Real mail servers for tests: Debian's packages, unpacked over a view of this machine that only they see.

A ``Machine`` is a mount and a process namespace: an overlay in memory over this machine's files, the packages unpacked
into it, users of its own.  Nothing is installed, no user is made and no file is written outside of the test's
directory, and all of it is gone when its first process ends.  The network is this machine's: peers listen on free
ports of the loopback.  What cannot be had (no root, no namespaces, no package) raises ``Unavailable`` with the reason.
"""

import ctypes
import os
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.relay import ROOT, until

PACKAGES = ROOT / "build" / "peers"
UIDS = 64100  # of the users that a machine gets; none of this machine's are there
MAIL = "vmail"  # whose the mailboxes are
INSIDE = "/peer"  # where a machine sees its home

_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]

# $1: home; the rest: packages.
_ENTER = f"""
set -e
home=$1; shift
mount -t tmpfs tmpfs "$home/root"
cd "$home/root"
mkdir up work all
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/up,workdir=$PWD/work" all
for package; do dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C all; done
for part in dev proc; do mount --rbind "/$part" "all/$part"; done
mkdir all{INSIDE}
mount --bind "$home" all{INSIDE}
# First, or a user of that name on this machine would be found.
for file in passwd group; do
    cat "$home/$file" "/etc/$file" > "all/etc/$file.new"
    mv "all/etc/$file.new" "all/etc/$file"
done
rm -f all/etc/nsswitch.conf all/etc/aliases
printf 'passwd: files\\ngroup: files\\nhosts: files\\n' > all/etc/nsswitch.conf
chown {UIDS}:{UIDS} "$home/mail"
exec chroot all sh -e {INSIDE}/start
"""


class Unavailable(Exception):
    """Why a peer cannot be had here."""


@cache
def fetch(package: str) -> tuple[Path, ...]:
    """The package and what it needs that this machine has not, downloaded and nothing more."""
    for tool in ("apt-get", "dpkg-deb", "unshare", "tar"):
        if not shutil.which(tool):
            raise Unavailable(f"there is no {tool}")
    if os.geteuid() != 0:
        raise Unavailable("only root may make the namespaces that it runs in")
    here = PACKAGES / package
    if not (here / "complete").exists():
        (here / "partial").mkdir(parents=True, exist_ok=True)
        get = ["apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", f"-oDir::Cache::archives={here}"]
        if _ran(*get, "install", package):
            _ran("apt-get", "-qq", "update")
            if said := _ran(*get, "install", package):
                raise Unavailable(f"apt-get cannot fetch {package}: {said.strip()[-300:]}")
        (here / "complete").touch()
    return tuple(sorted(here.glob("*.deb")))


def _ran(*words: str) -> str:
    """ "" if the command went well, else what it said."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=150, stdin=subprocess.DEVNULL)
    return (done.stdout + done.stderr or "failed") if done.returncode else ""


def packages(*names: str) -> tuple[Path, ...]:
    """All that are needed, or the test is skipped."""
    try:
        return tuple(dict.fromkeys(file for name in names for file in fetch(name)))
    except Unavailable as why:
        pytest.skip(f"{' and '.join(names)} cannot be had: {why}")


class Machine:
    """Runs the shell commands ``start`` among the packages' files; the last one stays.  ``files`` are written first."""

    def __init__(self, home: Path, *names: str, users: tuple[str, ...], files: dict[str, str], start: str) -> None:
        self.home = home
        debs = packages(*names)
        for part in ("root", "mail"):
            (home / part).mkdir(parents=True)
        # Only where the mailboxes are may others than root look: what leads there must let them.
        home.chmod(0o755)
        everyone = [(MAIL, UIDS), *((name, UIDS + n) for n, name in enumerate(users, 1))]
        nobody = f"{INSIDE}:/usr/sbin/nologin"
        (home / "passwd").write_text("".join(f"{name}:x:{uid}:{uid}::{nobody}\n" for name, uid in everyone))
        (home / "group").write_text("".join(f"{name}:x:{uid}:\n" for name, uid in everyone))
        for name, text in files.items():
            (home / name).write_text(text)
        (home / "start").write_text(start)
        self.log_file = home / "log"
        with open(self.log_file, "wb") as log:
            self._process = subprocess.Popen(
                [*_NAMESPACES, "sh", "-c", _ENTER, "enter", str(home), *map(str, debs)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )

    def listens(self, *ports: int) -> None:
        """Back when it does on all of them; skips the test where namespaces or overlays are forbidden."""
        waiting = {f":{port:04X}" for port in ports}

        def all_there() -> bool:
            if self._process.poll() is not None:
                if "mount failed" in self.log() or "unshare failed" in self.log() or "mount:" in self.log():
                    pytest.skip(f"no machine of its own for a peer: {self.log()[-300:]}")
                raise AssertionError(f"the peer ended with {self._process.returncode}:\n{self.log()[-3000:]}")
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return waiting <= {row[1][8:] for row in rows if row[3] == "0A"}

        until(all_there, 20, f"the peer at {self.home} listens")

    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    def mail(self, user: str) -> list[bytes]:
        """What is in a mailbox, the oldest first."""
        files = (self.home / "mail" / user / "new").glob("*")
        return [file.read_bytes() for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    def arrived(self, user: str, count: int = 1, seconds: float = 20) -> list[bytes]:
        """The mailbox, once it has so many messages."""
        until(lambda: len(self.mail(user)) >= count, seconds, f"mail for {user} arrives")
        return self.mail(user)

    def stop(self) -> None:
        """With the first process of a namespace all others end; that is the child of ours."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        self._process.kill()
        self._process.wait()


def _die_with_parent() -> None:
    """Also when the tests themselves are killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
