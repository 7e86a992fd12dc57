"""Listeners: sessions with clients on connections in memory; the clock is moved by hand."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from relayd.envelope import Envelope, Recipient
from relayd.listener import BACKLOG, Limits, ListenerService, Session, SMTPServerFactory
from relayd.reply import Reply
from relayd.smtp import events
from relayd.smtp.server import ServerSettings
from tests.harness import Reactor, Wire, pair

TRANSACTION = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
TAKEN = Reply(250, "2.0.0", "taken")


class Intake:
    """A receiver that answers when it is told to."""

    def __init__(self) -> None:
        self.content = b""
        self.aborted = 0
        self.answer: Callable[[Reply], None] | None = None

    def write(self, chunk: bytes) -> None:
        self.content += chunk

    def end(self, size: int, answer: Callable[[Reply], None]) -> None:
        self.answer = answer

    def abort(self) -> None:
        self.aborted += 1


class Notes:
    """A door that says yes, unless ``refusals`` has a reply for the question."""

    def __init__(self, **settings: Any) -> None:
        self.settings = ServerSettings("mx.example", **settings)
        self.refusals: dict[str, Reply] = {}
        self.intakes: list[Intake] = []
        self.logins: list[Callable[[Reply | None], None]] = []
        self.gone: list[Session] = []

    def connected(self, session: Session) -> Reply | None:
        return self.refusals.get("connected")

    def disconnected(self, session: Session) -> None:
        self.gone.append(session)

    def authenticate(
        self, session: Session, proposal: events.AuthProposed, answer: Callable[[Reply | None], None]
    ) -> None:
        self.logins.append(answer)

    def mail(self, session: Session, proposal: events.MailProposed) -> Reply | None:
        return self.refusals.get("mail")

    def recipient(self, session: Session, recipient: Recipient, answer: Callable[[Reply | None], None]) -> None:
        answer(self.refusals.get("recipient"))

    def begin(self, session: Session, envelope: Envelope) -> Intake | Reply:
        if "begin" in self.refusals:
            return self.refusals["begin"]
        self.intakes.append(Intake())
        return self.intakes[-1]


class Client(Protocol):
    transport: Any

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.heard = b""
        self.closed = False

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = True

    def say(self, data: bytes) -> str:
        """Says it and gives what came back."""
        self.heard = b""
        self.transport.write(data)
        self.reactor.pump()
        return self.heard.decode()


class Listening:
    def __init__(self, limits: Limits | None = None, *, secure: bool = False, **settings: Any) -> None:
        self.reactor = Reactor()
        self.door = Notes(**settings)
        self.factory = SMTPServerFactory(self.reactor, self.door, limits or Limits(), None, secure=secure)
        self.service = ListenerService(self.reactor, "test", "tcp:2525", self.factory)
        self.factory.secure = False  # connections in memory come as if TLS were done
        Deferred.fromCoroutine(self.service.listen())
        self.factory.secure = secure

    def call(self, ip: str = "198.51.100.1", hello: bool = True) -> Client:
        """A client that has heard the banner, and said hello."""
        theirs, ours = pair(self.reactor, ip, "127.0.0.1", 2525)
        client = Client(self.reactor)
        session = self.factory.buildProtocol(None)
        theirs.protocol, ours.protocol = client, session
        client.makeConnection(theirs)
        session.makeConnection(ours)
        self.reactor.pump()
        if hello and client.heard.startswith(b"220"):
            client.say(b"EHLO crm.example\r\n")
        return client

    def session(self, client: Client) -> Session:
        wire: Wire = client.transport
        found: Session = wire.other.protocol
        return found

    def wait(self, seconds: float) -> None:
        self.reactor.wait(seconds)


def at_data(relay: Listening) -> Client:
    client = relay.call()
    assert "354" in client.say(TRANSACTION)
    return client


# A message.


def test_a_message_reaches_the_door_and_its_reply_the_client():
    relay = Listening()
    client = at_data(relay)
    assert client.say(b"Subject: one\r\n\r\n..hi\r\n.\r\n") == ""
    intake = relay.door.intakes[0]
    assert intake.content == b"Subject: one\r\n\r\n.hi\r\n" and intake.answer is not None
    intake.answer(TAKEN)
    relay.reactor.pump()
    assert client.heard == b"250 2.0.0 taken\r\n" and relay.session(client).number == 1


def test_pipelined_commands_behind_a_message_wait_for_its_answer():
    relay = Listening()
    client = at_data(relay)
    assert client.say(b"one\r\n.\r\n" + TRANSACTION) == ""
    relay.door.intakes[0].answer(TAKEN)
    relay.reactor.pump()
    assert [line[:3] for line in client.heard.decode().splitlines()] == ["250", "250", "250", "354"]


@pytest.mark.parametrize("question", ["mail", "recipient", "begin"])
def test_a_refusal_of_the_door_goes_out_and_the_session_goes_on(question):
    relay = Listening()
    relay.door.refusals[question] = Reply(450, "4.7.1", "not now")
    client = relay.call()
    said = "".join(client.say(line + b"\r\n") for line in TRANSACTION.split(b"\r\n")[:3])
    assert "450 4.7.1 not now" in said and relay.door.intakes == []
    assert client.say(b"NOOP\r\n").startswith("250")


def test_a_door_that_says_421_at_mail_ends_the_session():
    relay = Listening()
    client = relay.call()
    relay.door.refusals["mail"] = Reply(421, "4.7.0", "blocked")
    assert client.say(b"MAIL FROM:<a@x.example>\r\n") == "421 4.7.0 blocked\r\n"
    assert client.closed and relay.factory.sessions == {}


def test_a_reset_amid_chunks_aborts_the_message():
    relay = Listening()
    client = relay.call()
    client.say(b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 5\r\nhello")
    assert client.say(b"RSET\r\n").startswith("250") and relay.door.intakes[0].aborted == 1


# The peer vanishes.


def test_a_client_that_vanishes_amid_its_content_aborts_the_message_once():
    relay = Listening()
    client = at_data(relay)
    client.say(b"half a mess")
    client.transport.abortConnection()
    relay.reactor.pump()
    assert relay.door.intakes[0].aborted == 1 and len(relay.door.gone) == 1
    assert relay.factory.sessions == {} and dict(relay.factory.by_ip) == {}


def test_an_answer_to_a_client_that_has_vanished_troubles_nobody():
    relay = Listening()
    client = at_data(relay)
    client.say(b"one\r\n.\r\n")
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.door.intakes[0].answer(TAKEN)
    relay.reactor.pump()
    assert relay.factory.sessions == {}


def test_a_login_answered_after_the_client_has_vanished_is_not_counted():
    relay = Listening(auth=True, auth_required=True, secure=True)
    client = relay.call()
    client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.door.logins[0](None)
    assert dict(relay.factory.by_login) == {}


# Limits.


def test_one_connection_too_many_is_told_so_and_closed():
    relay = Listening(Limits(connections=2))
    first, _, third = relay.call(), relay.call(), relay.call()
    assert third.heard == b"421 4.3.2 Too many connections, try again later\r\n" and third.closed
    assert (relay.factory.comings.opened, relay.factory.comings.refused) == (3, 1)
    first.say(b"QUIT\r\n")
    assert b"250" in relay.call().heard


def test_one_connection_too_many_from_an_address_is_told_so_and_others_are_let_in():
    relay = Listening(Limits(connections_per_ip=1))
    relay.call("198.51.100.1")
    refused = relay.call("198.51.100.1")
    assert refused.heard == b"421 4.7.0 Too many connections from 198.51.100.1\r\n" and refused.closed
    assert not relay.call("198.51.100.2").closed


def test_an_address_mapped_into_ipv6_counts_as_the_ipv4_address_it_is():
    relay = Listening(Limits(connections_per_ip=1))
    relay.call("198.51.100.1")
    assert relay.call("::ffff:198.51.100.1").closed


def logged_in(relay: Listening) -> Client:
    client = relay.call()
    client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
    relay.door.logins[-1](None)
    relay.reactor.pump()
    return client


def test_one_connection_too_many_with_a_login_is_told_so_and_closed():
    relay = Listening(Limits(connections_per_login=1), auth=True, auth_required=True, secure=True)
    first = logged_in(relay)
    assert first.heard.startswith(b"235")
    second = logged_in(relay)
    assert second.heard == b"421 4.7.0 Too many sessions of this login\r\n" and second.closed
    assert relay.factory.by_login == {"login": 1}
    first.say(b"QUIT\r\n")
    assert logged_in(relay).heard.startswith(b"235") and relay.factory.by_login == {"login": 1}


def test_a_refused_login_is_not_counted():
    relay = Listening(auth=True, auth_required=True, secure=True)
    client = relay.call()
    client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
    relay.door.logins[0](Reply(535, "5.7.8", "no"))
    relay.reactor.pump()
    assert client.heard.startswith(b"535") and dict(relay.factory.by_login) == {}


def test_a_door_that_takes_nobody_says_why_before_it_closes():
    relay = Listening()
    relay.door.refusals["connected"] = Reply(554, "5.7.1", "strangers are not served")
    client = relay.call()
    assert client.heard == b"554 5.7.1 strangers are not served\r\n" and client.closed


def test_a_client_that_pipelines_far_ahead_of_an_answer_is_read_no_further():
    relay = Listening()
    client = at_data(relay)
    client.say(b"one\r\n.\r\n")
    for _ in range(20):
        client.say(b"NOOP\r\n" * 4000)
    session = relay.session(client)
    assert session.machine.backlog <= BACKLOG + 24_000
    assert not client.transport.other.reading
    relay.door.intakes[0].answer(TAKEN)
    relay.reactor.pump()
    assert client.transport.other.reading
    assert client.heard.startswith(b"250 2.0.0 taken\r\n")


# Time.


def test_an_idle_client_is_told_and_closed():
    relay = Listening(Limits(idle=60))
    client = relay.call()
    relay.wait(59)
    assert not client.closed
    relay.wait(3)
    assert b"421 4.4.2 Nothing came for too long" in client.heard and client.closed


def test_a_client_that_does_something_is_not_idle():
    relay = Listening(Limits(idle=60))
    client = relay.call()
    for _ in range(5):
        relay.wait(50)
        client.say(b"NOOP\r\n")
    assert not client.closed


def test_a_command_that_comes_byte_by_byte_gains_no_time():
    relay = Listening(Limits(idle=60))
    client = relay.call()
    for _ in range(9):
        client.say(b"N")
        relay.wait(8)
    assert client.closed


def test_content_that_comes_byte_by_byte_has_its_time_in_all():
    relay = Listening(Limits(idle=60, data=100))
    client = at_data(relay)
    for _ in range(12):
        if not client.closed:
            client.say(b"x")
        relay.wait(9)
    assert client.closed and b"421 4.4.2 The message took too long" in client.heard
    assert relay.door.intakes[0].aborted == 1


def test_content_that_is_refused_has_no_more_time_than_any():
    relay = Listening(Limits(idle=60, data=100), max_size=1000)
    client = at_data(relay)
    for _ in range(12):
        if not client.closed:
            client.say(b"x" * 70 + b"\r\n" + b"y" * 1000 + b"\r\n")
        relay.wait(9)
    assert client.closed


def test_who_does_not_log_in_in_time_is_told_and_closed_whatever_else_he_says():
    relay = Listening(Limits(idle=300, auth_time=30), auth=True, auth_required=True, secure=True)
    client = relay.call()
    for _ in range(4):
        if not client.closed:
            client.say(b"NOOP\r\n")
        relay.wait(8)
    assert b"421 4.7.0 No login came in time" in client.heard and client.closed


def test_who_has_logged_in_has_the_time_of_the_idle():
    relay = Listening(Limits(idle=300, auth_time=30), auth=True, auth_required=True, secure=True)
    client = logged_in(relay)
    relay.wait(200)
    assert not client.closed


def test_no_time_runs_while_the_client_waits_for_us():
    relay = Listening(Limits(idle=10, data=10))
    client = at_data(relay)
    client.say(b"one\r\n.\r\n")
    relay.wait(60)
    assert not client.closed
    relay.door.intakes[0].answer(TAKEN)
    relay.reactor.pump()
    assert client.heard == b"250 2.0.0 taken\r\n"
    relay.wait(5)
    assert not client.closed


def test_a_client_that_never_lets_go_is_cut_off_though_it_goes_on_talking():
    relay = Listening()
    client = relay.call()
    client.transport.other.taking = False  # the goodbye is never taken
    session = relay.session(client)
    session.shut(Reply(421, "4.3.2", "bye"))
    for _ in range(5):
        if not client.closed:
            client.say(b"NOOP\r\n")
        relay.wait(8)
    assert client.closed and relay.factory.sessions == {}


# STARTTLS.


def test_what_a_client_sent_in_clear_behind_starttls_is_dropped():
    relay = Listening(starttls=True)
    relay.factory.tls = object()  # type: ignore[assignment]
    client = relay.call()
    assert client.say(b"STARTTLS\r\nMAIL FROM:<evil@x.example>\r\n").startswith("220")
    session = relay.session(client)
    assert session.secure and client.transport.other.secured is relay.factory.tls
    assert session.machine.backlog == 0
    assert client.say(b"MAIL FROM:<a@x.example>\r\n").startswith("503")  # who it was must be said anew
    assert "STARTTLS" not in client.say(b"EHLO crm.example\r\n")


# Stop.


def test_a_stop_tells_idle_clients_and_lets_a_message_be_finished():
    relay = Listening()
    idle, busy = relay.call(), at_data(relay)
    stopped = relay.service.stopService()
    relay.reactor.pump()
    assert idle.heard.endswith(b"421 4.4.5 Server is temporarily unavailable\r\n") and idle.closed
    assert not busy.closed and not stopped.called
    busy.say(b"one\r\n.\r\n")
    relay.door.intakes[0].answer(TAKEN)
    relay.reactor.pump()
    assert busy.heard == b"250 2.0.0 taken\r\n421 4.4.5 Server is temporarily unavailable\r\n" and busy.closed
    relay.wait(1)
    assert stopped.called


def test_a_stop_waits_for_no_message_longer_than_the_drain_time():
    relay = Listening()
    relay.service.drain = 10.0
    at_data(relay)
    stopped = relay.service.stopService()
    relay.wait(9)
    assert not stopped.called
    relay.wait(2)
    assert stopped.called


def test_a_session_left_by_a_stop_still_has_its_time_limit():
    relay = Listening(Limits(data=100))
    client = at_data(relay)
    relay.service.stopService()
    relay.wait(102)
    assert client.closed and relay.factory.sessions == {}
    assert relay.reactor.getDelayedCalls() == []
