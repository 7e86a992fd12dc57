"""A newcomer's first minutes: what the quickstart prints is pasted into a shell as it stands, and works."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .relay import ROOT, until

BIN = Path(sys.executable).parent


def base_port() -> int:
    """A base whose three ports are free."""
    for base in range(20000 + os.getpid() % 20000, 64000, 7):
        try:
            for offset in (465, 525, 587):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


class Newcomer:
    """Somebody who reads what is on the screen and types it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        environ = {**os.environ, "RELAYD_BASE_PORT": str(base_port())}
        command = [sys.executable, "-m", "relayd.quickstart", str(home)]
        self.screen = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True).stdout
        self.log = home / "log"
        with open(self.log, "wb") as log:
            started = [str(BIN / "twistd"), "-n", "--pidfile=", "relayd", "--config", str(home / "relayd.toml")]
            self.relay = subprocess.Popen(started, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(lambda: "relayd is up" in self.log.read_text() or self.relay.poll() is not None, 30, "relayd is up")
        assert self.relay.poll() is None, self.log.read_text()

    def read(self, start: str) -> str:
        """The command on the screen that begins so, with its continued lines."""
        found = re.search(rf"^  {re.escape(start)}.*\n(?:^    .*\n)*", self.screen, re.MULTILINE)
        assert found, start
        return found[0]

    def type(self, command: str) -> str:
        """Types it into a shell that has read the variables."""
        script = self.read("set -a") + command
        ran = subprocess.run(["sh", "-ec", script], cwd=self.home, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def sandbox(self) -> str:
        """What "cat" shows of the sandbox: nothing until a message is there."""
        there = list((self.home / "sandbox" / "new").iterdir())
        return self.type(self.read("cat ")) if there else ""


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    if not (BIN / "twistd").exists():
        pytest.skip("twistd is not installed here")
    newcomer = Newcomer(tmp_path_factory.mktemp("var"))
    try:
        yield newcomer
    finally:
        newcomer.relay.terminate()
        newcomer.relay.wait(30)


@pytest.mark.parametrize(("client", "start"), [("curl", "printf "), ("swaks", "swaks ")])
def test_the_printed_command_sends_a_first_message_to_the_sandbox(newcomer: Newcomer, client: str, start: str) -> None:
    if not shutil.which(client):
        pytest.skip(f"no {client}")
    recipient = f"{client}@example.net"
    newcomer.type(newcomer.read(start).replace("friend@example.net", recipient))
    kept = until(lambda: f"Delivered-To: {recipient}" in (seen := newcomer.sandbox()) and seen, 20, "the message")
    assert "Return-Path: <hello@quickstart.example>" in kept
    assert "Received: from" in kept


def test_the_printed_relayctl_finds_the_relay(newcomer: Newcomer) -> None:
    command = newcomer.read(str(BIN / "relayctl"))
    if not (BIN / "relayctl").exists():
        command = f"{sys.executable} -m relayd.ctl status"
    assert re.search(r"^ok +yes$", newcomer.type(f"cd {ROOT}; {command}"), re.MULTILINE)


def test_a_stop_is_clean(newcomer: Newcomer) -> None:
    newcomer.relay.terminate()
    # twistd stops in good order, then ends itself by the signal it got.
    assert newcomer.relay.wait(30) in (0, -signal.SIGTERM)
    log = newcomer.log.read_text()
    assert "everything accepted is on disk" in log
    assert "Traceback" not in log
