"""OpenSSH's own client, without a terminal and on one, and keys for it."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SSH = shutil.which("ssh")


def make_key(path: Path, kind: str = "ed25519") -> str:
    """A private key; gives its public line, without a name."""
    key = Ed25519PrivateKey.generate() if kind == "ed25519" else generate_private_key(65537, 2048)
    path.touch(0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


class Client:
    """Calls of ssh with one key, to one port."""

    def __init__(self, home: Path, port: int, key: Path) -> None:
        self._home, self._port, self._key = home, port, key

    def command(self, *words: str) -> list[str]:
        assert SSH is not None
        known = self._home / "known_hosts"
        options = [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=accept-new",
            f"UserKnownHostsFile={known}",
            "ConnectTimeout=20",
        ]
        settings = [part for option in options for part in ("-o", option)]
        return [SSH, "-F", "none", *settings, "-i", str(self._key), "-p", str(self._port), *words]

    def run(self, *words: str, given: str = "") -> tuple[int, str, str]:
        """Exit code, output and what was said besides."""
        done = subprocess.run(self.command(*words), input=given, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    def screen(self, *words: str) -> "Screen":
        return Screen(self.command("-t", *words))


class Screen:
    """A command on a terminal of 24 lines."""

    def __init__(self, command: list[str], columns: int = 80) -> None:
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.environ["TERM"] = "xterm"
            os.execv(command[0], command)
        self.resize(24, columns)
        self.seen = ""
        self.code: int | None = None

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait(self, pattern: str, seconds: float = 20) -> str:
        """What was shown since the last wait, up to where the pattern matches."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            assert time.monotonic() < deadline, f"{pattern!r} was not seen in {self.seen[-2000:]!r}"
            assert self._read(0.1), f"it ended without {pattern!r}: {self.seen[-2000:]!r}"
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def ended(self, seconds: float = 20) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while self._read(0.1):
            assert time.monotonic() < deadline, f"it did not end: {self.seen[-2000:]!r}"
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return self.code

    def _read(self, seconds: float) -> bool:
        """False at the end."""
        if select.select([self._terminal], [], [], seconds)[0]:
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                return False
            self.seen += data.decode("utf-8", "replace")
        return True

    def close(self) -> None:
        if self.code is None:
            os.kill(self.process, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        os.close(self._terminal)
