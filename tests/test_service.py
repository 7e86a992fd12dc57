"""A node from its configuration file to its stop, with a real spool, on a clock and connections in memory."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from relayd import config
from relayd.errors import InputError
from relayd.service import Node, Options
from relayd.suppression import entry
from tests.harness import HANG, Host, Reactor, pair
from tests.test_listener import Client

MAIL = b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
MESSAGE = b"From: a@crm.example\r\n\r\nhello\r\n.\r\n"

CONFIG = """
[node]
name = "mx1.relay.example"
spool = "spool"
control = "control.sock"
min_free = "1"
drain = "10s"

[[listener]]
service = "relay"
listen = "tcp:2525:interface=127.0.0.1"
allow = ["198.51.100.0/24"]
account = "crm"
stream = "bulk"

[source.s1]
address = "127.0.0.11"
ehlo = "s1.relay.example"

[stream.bulk]
pool = "default"

[[route]]
domain = "*"
via = "203.0.113.1:25"
"""


class Running:
    """A node that runs, and its one mail server."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "relayd.toml"
        if not self.path.exists():
            self.path.write_text(CONFIG)
        self.reactor = Reactor()
        self.mx = self.reactor.hosts["203.0.113.1"] = Host()
        self.node = Node(self.reactor, self.path, config.load(self.path), self.reactor.seconds)
        self.node.startService()
        self.reactor.until(lambda: self.node.directory.account("crm"))

    def call(self, port: int = 2525) -> Client:
        factory = next(server[1] for server in self.reactor.tcpServers if server[0] == port)
        theirs, ours = pair(self.reactor, "198.51.100.1", "127.0.0.1", port)
        client, session = Client(self.reactor), factory.buildProtocol(None)
        theirs.protocol, ours.protocol = client, session
        client.makeConnection(theirs)
        session.makeConnection(ours)
        self.reactor.pump()
        if client.heard.startswith(b"220"):
            client.say(b"EHLO crm.example\r\n")
        return client

    def send(self) -> str:
        client = self.call()
        assert "354" in client.say(MAIL)
        client.say(MESSAGE)
        self.reactor.until(lambda: client.heard)
        return client.heard.decode()

    def later(self, seconds: float, fact: Any) -> None:
        """Lets time pass, and then second by second until something is so; the spool answers within each."""
        self.reactor.wait(seconds)
        for _ in range(60):
            if fact():
                return
            self.reactor.wait(1)
            self.asked(self.node.queues(1))
        raise AssertionError("it did not come to be")

    def asked(self, answer: Any) -> Any:
        """The answer to a verb that asks the spool."""
        found: list[Any] = []
        Deferred.fromCoroutine(answer).addBoth(found.append)
        self.reactor.until(lambda: found)
        return found[0]

    def stop(self) -> None:
        stopped = self.node.stopService()
        while not stopped.called:
            self.reactor.wait(1)
            if self.node.courier._drained is None and not any(
                listener._stopped for listener in self.node.listeners.values()
            ):
                self.reactor.until(lambda: stopped.called)


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    made = Running(tmp_path)
    yield made
    if not made.node.stopping:
        made.stop()
    sys.setswitchinterval(interval)


def test_a_message_comes_in_is_kept_and_goes_out(relay: Running):
    assert relay.send().startswith("250 2.0.0 queued as ")
    relay.reactor.until(lambda: relay.mx.got)
    (sender, recipient, content) = relay.mx.got[0]
    assert (sender, recipient) == ("a@crm.example", "b@x.example")
    assert b"Received: from crm.example ([198.51.100.1])" in content and content.endswith(b"\r\n\r\nhello\r\n")
    assert relay.reactor.dialled == [("203.0.113.1", "127.0.0.11")]
    assert relay.mx.seen[0].heard[0] == "EHLO s1.relay.example"


def test_the_story_of_a_message_can_be_asked_for_and_the_audit_is_clean(relay: Running):
    identity = relay.send().split()[-1]
    relay.reactor.until(lambda: relay.node.courier.scheduler.loaded == 0)
    told = relay.asked(relay.node.inspect(int(identity, 16)))
    assert told["deliveries"][0]["state"] == "delivered" and told["message"]["account"] == "crm"
    assert relay.asked(relay.node.audit())["clean"]


def test_an_unknown_message_is_said_to_be_unknown(relay: Running):
    failure = relay.asked(relay.node.inspect(77))
    assert failure.type is InputError


def test_a_new_start_finds_what_the_last_one_left(relay: Running, tmp_path: Path):
    relay.mx.open = 0
    relay.send()
    relay.reactor.until(lambda: relay.node.courier.scheduler.loaded == 0 and relay.node.scheduler.sessions == 0)
    relay.stop()
    again = Running(tmp_path)
    try:
        assert again.node.spool.queued_at_start == 1
        again.later(4000, lambda: again.mx.got)
    finally:
        again.stop()


def test_a_spool_in_use_is_refused_with_a_sentence(relay: Running, tmp_path: Path):
    other = Node(Reactor(), relay.path, config.load(relay.path))
    with pytest.raises(SystemExit, match="in use by the relayd with process id"):
        other.startService()


def test_a_stop_finishes_a_message_that_is_coming_in(relay: Running):
    client = relay.call()
    client.say(MAIL)
    stopped = relay.node.stopService()
    relay.reactor.pump()
    assert not stopped.called
    client.say(MESSAGE)
    relay.reactor.until(lambda: client.heard)
    relay.reactor.wait(2)
    assert client.heard.startswith(b"250 2.0.0 queued") and client.closed
    relay.reactor.until(lambda: stopped.called)
    assert relay.mx.got == []  # it is on disk, for the next start


def test_a_stop_with_a_hung_peer_ends_after_the_drain_time(relay: Running):
    relay.mx.says["DOT"] = HANG
    relay.send()
    relay.reactor.until(lambda: relay.mx.got)
    stopped = relay.node.stopService()
    relay.reactor.wait(9)
    assert not stopped.called
    relay.reactor.wait(2)
    relay.reactor.until(lambda: stopped.called)


def test_health_is_well_until_it_stops(relay: Running):
    assert relay.node.health() == {"ok": True, "faults": [], "warnings": []}
    relay.stop()
    assert "relayd is stopping" in relay.node.health()["faults"]


def test_a_valid_change_is_applied_as_a_whole(relay: Running):
    relay.path.write_text(CONFIG.replace("127.0.0.11", "127.0.0.12").replace("tcp:2525", "tcp:2526"))
    assert sorted(relay.node.reload()["changed"]) == ["listener", "source"]
    client = relay.call(2526)
    client.say(MAIL)
    client.say(MESSAGE)
    relay.reactor.until(lambda: relay.mx.got)
    assert relay.reactor.dialled == [("203.0.113.1", "127.0.0.12")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "mx1', 'nam = "mx1', "nam"),
        ('name = "mx1', 'name = "mx2', "node.name changed: that needs a restart"),
        ('service = "relay"', 'service = "submissions"', "tls"),
    ],
)
def test_an_invalid_change_leaves_the_old_configuration_and_says_why(relay: Running, old, new, words):
    before = relay.node.config
    relay.path.write_text(CONFIG.replace(old, new))
    with pytest.raises(InputError, match=words):
        relay.node.reload()
    assert relay.node.config is before and "the last reload failed" in relay.node.health()["warnings"][0]
    relay.path.write_text(CONFIG)
    assert relay.node.reload() == {"changed": []} and relay.node.health()["warnings"] == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read_change_nothing_at_a_reload(relay: Running, content: str | None):
    if content is not None:
        (relay.path.parent / "ca.pem").write_text(content)
    pools = relay.node.pools
    changed = CONFIG.replace("127.0.0.11", "127.0.0.12").replace("tcp:2525", "tcp:2526")
    relay.path.write_text(changed + '\n[egress]\nauthorities = "ca.pem"\n')
    with pytest.raises(InputError):
        relay.node.reload()
    assert relay.node.pools is pools and list(relay.node.listeners) == ["tcp:2525:interface=127.0.0.1"]


def test_check_says_that_all_is_well_or_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(CONFIG)
    bad.write_text(CONFIG.replace("allow = ", "alow = "))
    for path, code in ((good, 0), (bad, 1)):
        with pytest.raises(SystemExit) as left:
            Options().parseOptions(["--config", str(path), "--check"])
        assert left.value.code == code
    out = capsys.readouterr()
    assert "all is well" in out.out and "alow" in out.err


def test_suppression_lists_are_open_swept_and_heard_of_when_they_fail(relay: Running):
    lists = relay.node.suppressions
    relay.reactor.until(lambda: lists.ready)
    now = relay.reactor.seconds()
    made = lists.add_list("complaints", now=now)
    relay.reactor.until(made.done)
    over = entry("complaints", "a@b.example", reason="manual", added=now, expires=now + 5, by="test")
    lists.add([over])
    relay.reactor.until(lambda: lists.suspects(["complaints"], "a@b.example"))
    relay.later(6, lambda: not lists.suspects(["complaints"], "a@b.example"))
    assert relay.node.health()["warnings"] == []
    lists.fault = "suppression lists: disk I/O error"
    assert relay.node.health()["warnings"] == ["suppression lists: disk I/O error"]
