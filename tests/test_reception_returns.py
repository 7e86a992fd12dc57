"""The door for what comes back: over real sockets, and on connections in memory where time or memory matter."""

import smtplib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd.identity import lower_bound
from relayd.listener import Limits, SMTPServerFactory
from relayd.reception import Returned, ReturnsDoor, returns
from relayd.returnpath import Key, Keys, Role, Token, make
from relayd.smtp.events import ServerSettings
from tests.reception_kit import Receiving
from tests.test_listener import Client

DOMAIN = "bounce.relay.example"
REPORT = b"From: MAILER-DAEMON@x.example\r\nContent-Type: multipart/report\r\n\r\nno such user\r\n"
KEY = Key(7, b"k" * 32, 0.0)


class Returning(Receiving):
    """A feedback listener; what it takes is kept when the test says so."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory)
        self.id = lower_bound(self.reactor.seconds()) + 1
        self.keys = Keys({7: KEY}, KEY)
        self.taken: list[Returned] = []
        self.kept: list[Callable[[Exception | None], None]] = []
        made = ServerSettings("mx1.relay.example", **settings)
        door = self.returns = ReturnsDoor(self.relay, made, lambda: self.keys, lambda: {DOMAIN}, self._keep)
        self.factory = SMTPServerFactory(self.reactor, door, Limits(), None, secure=False)

    def _keep(self, returned: Returned, done: Callable[[Exception | None], None]) -> None:
        self.taken.append(returned)
        self.kept.append(done)

    @property
    def token(self) -> str:
        return f"{make('bounce', self.id, KEY)}@{DOMAIN}"

    def data(self, client: Client, *to: str, sender: str = "") -> str:
        """A transaction up to DATA; gives the last answer."""
        said = self.mail(client, *(to or (self.token,)), sender=sender)
        assert all(line.startswith("250") for line in said), said
        return client.say(b"DATA\r\n")

    def settle(self, fault: Exception | None = None) -> None:
        self.kept.pop(0)(fault)
        self.reactor.pump()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Returning]:
    made = Returning(tmp_path)
    yield made
    made.close()


# Who is written to.


@pytest.mark.parametrize("sender", ["", "someone@x.example"])
def test_a_token_takes_a_report_from_any_sender_or_none(relay: Returning, sender):
    client = relay.call("203.0.113.9")
    assert relay.data(client, sender=sender).startswith("354")
    assert client.say(REPORT + b".\r\n") == ""  # not before it is on disk
    (taken,) = relay.taken
    (target,) = taken.targets
    assert isinstance(target, Token) and (target.purpose, target.id) == ("bounce", relay.id)
    assert (taken.content, taken.size, taken.peer) == (REPORT, len(REPORT), "203.0.113.9")
    assert taken.envelope.sender == sender
    relay.settle()
    assert client.heard.startswith(b"250 2.0.0 taken as %016x" % taken.id)


def test_functions_of_our_domains_take_mail_and_so_does_postmaster_without_a_domain(relay: Returning):
    client = relay.call()
    relay.data(client, f"fbl@{DOMAIN}", f"ABUSE@{DOMAIN.upper()}", "postmaster", sender="fbl@x.example")
    client.say(REPORT + b".\r\n")
    assert relay.taken[0].targets == (Role("fbl"), Role("abuse"), Role("postmaster"))


@pytest.mark.parametrize(
    ("to", "refusal"),
    [
        ("victim@x.example", "550 5.7.1 This server relays nothing"),
        (f"someone@{DOMAIN}", "550 5.1.1"),
        (f"b{'a' * 32}@{DOMAIN}", "550 5.1.1"),
    ],
)
def test_other_addresses_are_refused_and_recorded(relay: Returning, to, refusal):
    client = relay.call("203.0.113.9")
    assert relay.mail(client, to)[1].startswith(refusal)
    (record,) = relay.rejections()
    assert record.kind == "Rejection" and record.recipient == to and "203.0.113.9" in record.note
    assert client.say(b"DATA\r\n").startswith("554")


def test_a_token_of_long_ago_is_refused_for_good(relay: Returning):
    relay.keys = Keys({7: KEY}, KEY, accept=10.0)
    relay.reactor.wait(11)
    assert relay.mail(relay.call(), relay.token)[1].startswith("550 5.2.1")


def test_nobody_logs_in(relay: Returning):
    client = relay.call()
    assert client.say(b"AUTH PLAIN AGEAYg==\r\n").startswith("502")
    assert "AUTH" not in client.say(b"EHLO x.example\r\n")


# What it may cost.


def test_of_a_long_report_the_beginning_is_kept(relay: Returning, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(returns, "KEPT", 1000)
    client = relay.call()
    relay.data(client)
    client.say(REPORT + b"x" * 500 + b"\r\n")
    client.say(b"y" * 5000 + b"\r\n.\r\n")
    (taken,) = relay.taken
    assert len(taken.content) == 1000 and taken.content.startswith(REPORT + b"x" * 500)
    assert taken.size == len(REPORT) + 502 + 5002
    relay.settle()
    assert client.heard.startswith(b"250") and relay.returns.memory == 0


def test_more_than_memory_may_hold_is_put_off_and_forgotten(relay: Returning, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(returns, "MEMORY", 1000)
    first, second = relay.call(), relay.call()
    relay.data(first)
    first.say(b"x" * 800 + b"\r\n")
    relay.data(second)
    assert second.say(b"y" * 800 + b"\r\n.\r\n").startswith("451 4.3.2")
    first.say(b".\r\n")
    relay.settle()
    assert first.heard.startswith(b"250") and relay.returns.memory == 0
    assert relay.relay.memory == 0  # what submission may use is another's


def test_a_message_larger_than_the_listener_takes_is_refused(tmp_path: Path):
    relay = Returning(tmp_path, max_size=1000)
    client = relay.call()
    assert client.say(b"MAIL FROM:<> SIZE=2000\r\n").startswith("552 5.3.4")
    relay.data(client)
    assert client.say(b"x" * 2000 + b"\r\n.\r\n").startswith("552 5.3.4")
    assert relay.taken == [] and relay.returns.memory == 0
    relay.close()


def test_one_neighbourhood_has_its_pace_and_others_theirs(relay: Returning, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(returns, "PACE", returns.Limits(messages=(returns.rate("2/min"),)))
    for ip, code in (
        ("2001:db8::1", "250"),
        ("2001:db8::2", "250"),
        ("2001:db8::3", "451"),
        ("2001:db8:0:1::1", "250"),
    ):
        assert relay.call(ip).say(b"MAIL FROM:<>\r\n").startswith(code)


def test_a_lost_session_leaves_nothing_behind(relay: Returning):
    client = relay.call()
    relay.data(client)
    client.say(REPORT)
    assert relay.returns.memory
    relay.leave(client)
    assert relay.returns.memory == 0 and relay.taken == []


def test_a_session_lost_before_its_answer_takes_nothing_back(relay: Returning):
    client = relay.call()
    relay.data(client)
    client.say(REPORT + b".\r\n")
    relay.leave(client)
    assert relay.taken[0].content == REPORT and relay.returns.memory
    relay.settle()
    assert relay.returns.memory == 0


def test_what_cannot_be_kept_is_to_come_again(relay: Returning):
    client = relay.call()
    relay.data(client)
    client.say(REPORT + b".\r\n")
    relay.settle(OSError("disk"))
    assert client.heard.startswith(b"451 4.3.0") and relay.returns.memory == 0


@pytest.mark.parametrize("fault", ["spool_fault", "stopping"])
def test_a_node_that_cannot_keep_anything_takes_nothing(relay: Returning, fault):
    setattr(relay.health, fault, "it is so")
    assert relay.call().heard.startswith(b"421")


# Over real sockets.


class SocketTests(TestCase):
    async def test_a_library_client_reports_and_cannot_relay(self) -> None:
        from twisted.internet import reactor

        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        relay = Returning(Path(folder.name))
        self.addCleanup(relay.close)

        def keep(returned: Returned, done: Callable[[Exception | None], None]) -> None:
            relay.taken.append(returned)
            done(None)

        relay.returns.keep = keep
        loop: Any = reactor
        port = loop.listenTCP(0, relay.factory, interface="127.0.0.1")

        def send() -> dict[str, Any]:
            with smtplib.SMTP("127.0.0.1", port.getHost().port, timeout=10) as client:
                return client.sendmail("", [relay.token, "victim@x.example"], REPORT)

        try:
            refused = await deferToThread(send)
        finally:
            await maybeDeferred(port.stopListening)
        assert {to: code for to, (code, _) in refused.items()} == {"victim@x.example": 550}
        assert [taken.content for taken in relay.taken] == [REPORT]
