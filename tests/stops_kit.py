"""A node on a clock with two accounts, pools and destinations, to which operators say verbs."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from tests.harness import Host
from tests.test_service import CONFIG, MAIL, MESSAGE, Running

TWO = CONFIG.replace('[stream.bulk]\npool = "default"\n', '[stream.bulk]\npool = "one"\n')
TWO += """
[source.s2]
address = "127.0.0.12"
ehlo = "s2.relay.example"
[pool.one]
sources = { s1 = 1 }
[pool.two]
sources = { s1 = 1, s2 = 1 }
[stream.other]
pool = "two"
[[listener]]
service = "relay"
listen = "tcp:2526:interface=127.0.0.1"
allow = ["198.51.100.0/24"]
account = "shop"
stream = "other"
[[route]]
domain = "y.example"
via = "203.0.113.2:25"
"""


class Stopping(Running):
    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.other = self.reactor.hosts["203.0.113.2"] = Host()

    def say(self, verb: str, **given: Any) -> Any:
        """A verb's answer, in anna's name.  Raises InputError."""
        found: list[Any] = []
        row = BY_PATH[f"/v1/{verb}"]
        reason = {"reason": "a test"} if any(arg.name == "reason" for arg in row.args) else {}
        value = run(row, self.node.operations, {**reason, **given}, "anna")  # type: ignore[arg-type]
        if hasattr(value, "send"):
            Deferred.fromCoroutine(value).addBoth(found.append)
            self.reactor.until(lambda: found)
            value = found[0]
        if isinstance(value, Failure):
            value.raiseException()
        if hasattr(value, "add_done_callback"):
            self.reactor.until(value.done)
            value = value.result()
        self.reactor.wait(0.3)
        return value

    def submit(self, to: str = "b@x.example", port: int = 2525) -> str:
        client = self.call(port)
        assert "354" in client.say(MAIL.replace(b"b@x.example", to.encode())), client.heard
        client.say(MESSAGE)
        self.reactor.until(lambda: client.heard)
        return client.heard.decode().split()[-1]

    def why(self, domain: str) -> str:
        return self.asked(self.node.operations.why(domain))[0]["why"]


def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopping]:
    """One that is stopped in the end.  ``other``: the mail server of y.example."""
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    (tmp_path / "relayd.toml").write_text(TWO)
    made = Stopping(tmp_path)
    yield made
    if not made.node.health.stopping:
        made.stop()
    sys.setswitchinterval(interval)
