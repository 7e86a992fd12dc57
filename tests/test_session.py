"""The delivery session against an owner that only takes notes: its edges, one by one."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from twisted.internet import error
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from relayd.delivery.routing import Hop, Policy, Site
from relayd.delivery.session import PeerSession, Timeouts
from relayd.envelope import Delivery, Edits, Envelope, Marks, Message, Recipient
from relayd.queue.state import Path
from relayd.smtp.client import ClientSettings
from relayd.tls import ClientTLS

GREETING = b"220 mx\r\n"
EHLO = b"250-mx\r\n250 PIPELINING\r\n"
DONE = Failure(error.ConnectionDone())


class Notes:
    """An owner (session.Owner) with deliveries to give."""

    timeouts = Timeouts()
    deliveries_per_session = 100

    def __init__(self) -> None:
        self.time = 0.0
        self.stock: list[Delivery] = []
        self.log: list[tuple[Any, ...]] = []
        self.bodies = SimpleNamespace(read=lambda *asked: self.log.append(("read", *asked)))

    def now(self) -> float:
        return self.time

    def marks(self, delivery: Delivery) -> Marks:
        return Marks(delivery.message.envelope.sender)

    def take(self, session: PeerSession) -> Delivery | None:
        return self.stock.pop(0) if self.stock else None

    def ready(self, session: PeerSession) -> None:
        self.log.append(("ready", len(self.stock)))

    def finished(self, session: Any, delivery: Delivery, outcome: Any, *, dsn_passed_on: bool = False) -> None:
        self.log.append(("finished", delivery.id, outcome.kind, outcome.evidence))

    def returned(self, path: Path, delivery: Delivery) -> None:
        self.log.append(("returned", delivery.id))

    def idle(self, session: PeerSession, idle: bool) -> None:
        self.log.append(("idle", idle))

    def ended(self, session: PeerSession, evidence: Any) -> None:
        self.log.append(("ended", evidence.stage))

    def names(self) -> list[str]:
        return [entry[0] for entry in self.log]


def delivery(number: int, body: bytes | None = b"hello\r\n", to: str = "b@x.example") -> Delivery:
    envelope = Envelope("a@crm.example", (Recipient(to),))
    message = Message(number * 10, 0.0, "crm", "login", "bulk", envelope, Edits(), b"A: b\r\n\r\n", body, 13)
    return Delivery(number, message, Recipient(to), "crm/bulk/x.example", 0.0)


@pytest.fixture
def owner() -> Notes:
    return Notes()


def opened(owner: Notes, *said: bytes) -> tuple[PeerSession, StringTransport]:
    site = Site("mx", (), 0.0)
    hop = Hop("mx", "203.0.113.1", 25)
    session = PeerSession(owner, "1", Path("s1", "mx"), site, hop, ClientSettings(ehlo="us", starttls="off"))
    transport = StringTransport()
    session.makeConnection(transport)
    for data in said:
        session.dataReceived(data)
    return session, transport


def test_what_is_ready_is_taken_before_the_owner_is_told_that_the_session_is_ready(owner: Notes):
    owner.stock = [delivery(1), delivery(2), delivery(3)]
    opened(owner, GREETING, EHLO)
    assert owner.log == [("ready", 1)]  # one under way and one behind it


def test_a_session_with_nothing_to_carry_is_idle_and_works_when_there_is_something(owner: Notes):
    session, transport = opened(owner, GREETING, EHLO)
    assert owner.log == [("ready", 0), ("idle", True)]
    owner.stock = [delivery(1)]
    transport.clear()
    session.work()
    assert transport.value().startswith(b"MAIL FROM:<a@crm.example>") and owner.log[-1] == ("idle", False)
    assert session.carries(1) and not session.carries(2)


def test_the_end_is_told_once_however_often_it_comes(owner: Notes):
    owner.stock = [delivery(1)]
    session, _ = opened(owner, GREETING, EHLO)
    session.connectionLost(DONE)
    session.time_out()
    session.connectionLost(DONE)
    session.dataReceived(b"250 ok\r\n")
    session.work()
    session.quit()
    assert owner.names() == ["ready", "finished", "ended"]
    assert session.lost


def test_replies_after_the_end_change_nothing(owner: Notes):
    owner.stock = [delivery(1)]
    session, transport = opened(owner, GREETING, EHLO, b"421 closing\r\n")
    assert owner.names() == ["ready", "finished", "ended"] and transport.disconnecting
    session.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n")
    assert owner.names() == ["ready", "finished", "ended"]


def test_a_handshake_that_completes_unasked_changes_nothing(owner: Notes):
    session, transport = opened(owner, GREETING)
    transport.clear()
    session.handshakeCompleted()
    assert transport.value() == b"" and owner.log == []


def test_a_piece_that_comes_after_the_connection_was_lost_goes_nowhere(owner: Notes):
    owner.stock = [delivery(1, None)]
    session, transport = opened(owner, GREETING, EHLO, b"250 ok\r\n250 ok\r\n354 go\r\n")
    (_, message, offset, done) = owner.log[-1]
    assert (message, offset) == (10, 0)
    session.connectionLost(DONE)
    said = transport.value()
    done(b"piece")
    assert transport.value() == said and owner.names() == ["ready", "read", "finished", "ended"]
    assert transport.producer is None


def test_a_body_is_read_piece_by_piece_and_never_ahead_of_the_transport(owner: Notes):
    owner.stock = [delivery(1, None)]
    session, transport = opened(owner, GREETING, EHLO, b"250 ok\r\n250 ok\r\n354 go\r\n")
    session.resumeProducing()
    session.resumeProducing()
    assert owner.names().count("read") == 1
    session.pauseProducing()
    owner.log.pop()[3](b"one\r\n")
    assert owner.names().count("read") == 0
    session.resumeProducing()
    assert owner.log[-1][2] == 5
    owner.log.pop()[3](b"")
    assert transport.value().endswith(b"A: b\r\n\r\none\r\n.\r\n") and transport.producer is None


def test_a_body_gains_time_by_pieces_and_not_by_what_the_peer_says(owner: Notes):
    owner.stock = [delivery(1, None)]
    session, _ = opened(owner, GREETING, EHLO, b"250 ok\r\n250 ok\r\n354 go\r\n")
    owner.time = 100.0
    session.dataReceived(b"2")
    assert session.deadline == Timeouts().body
    owner.log.pop()[3](b"one\r\n")
    assert session.deadline == 100.0 + Timeouts().body


def test_a_body_without_a_line_end_gets_one_before_the_dot(owner: Notes):
    owner.stock = [delivery(1, b"no end")]
    _, transport = opened(owner, GREETING, EHLO, b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert transport.value().endswith(b"no end\r\n.\r\n")


def test_an_address_that_cannot_be_said_ends_that_delivery_alone(owner: Notes):
    owner.stock = [delivery(1, to="b\r\nQUIT@x.example"), delivery(2)]
    _, transport = opened(owner, GREETING, EHLO)
    assert owner.log[0][:3] == ("finished", 1, "permanent")
    assert b"QUIT" not in transport.value() and transport.value().count(b"MAIL FROM") == 1


def test_quit_lets_what_is_under_way_end_and_takes_no_more(owner: Notes):
    owner.stock = [delivery(1), delivery(2), delivery(3)]
    session, transport = opened(owner, GREETING, EHLO)
    session.quit()
    session.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
    session.dataReceived(b"250 taken\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    session.dataReceived(b"250 taken\r\n")
    assert transport.value().endswith(b"QUIT\r\n") and len(owner.stock) == 1
    session.dataReceived(b"221 bye\r\n")
    assert owner.names() == ["ready", "finished", "finished", "ended"]


@pytest.mark.parametrize("lost", [error.ConnectionLost(), error.ConnectionDone(), error.ConnectionAborted()])
def test_how_a_connection_was_lost_is_told_in_words(owner: Notes, lost: Exception):
    owner.stock = [delivery(1)]
    session, _ = opened(owner, GREETING, EHLO)
    session.connectionLost(Failure(lost))
    words = owner.log[1][3].error
    assert words.startswith(("the peer closed the connection", "the connection was lost: ")) and "\n" not in words


def test_where_a_session_is_can_be_said(owner: Notes):
    session, _ = opened(owner, GREETING)
    assert session.words() == "session 1 with mx 192.168.1.1:54321 waits at ehlo"


@pytest.mark.parametrize("said", [b"250 ok\r\n550 no\r\n503 no\r\n", None], ids=["refused", "lost"])
def test_nothing_is_kept_of_a_message_from_a_file_that_was_not_wanted(owner: Notes, said: bytes | None):
    owner.stock = [delivery(1, body=None)]
    session, _ = opened(owner, GREETING, EHLO)
    assert session._heads == {1: b"A: b\r\n\r\n"}
    if said is None:
        session.connectionLost(DONE)
    else:
        session.dataReceived(said)
    assert session._heads == {} and "finished" in owner.names()


def test_a_next_hop_with_implicit_tls_is_spoken_to_under_tls_from_the_first_byte(owner: Notes):
    site = Site("smart:465", (), 0.0, Policy("verify"), implicit=True)
    hop = Hop("smart.example", "203.0.113.1", 465)
    settings = ClientSettings(ehlo="us", secure=True, starttls="verify")
    owner.client_tls = ClientTLS()  # type: ignore[attr-defined]
    session = PeerSession(owner, "1", Path("s1", "smart:465"), site, hop, settings)
    begun: list[Any] = []
    transport = StringTransport()
    transport.startTLS = begun.append  # type: ignore[attr-defined]
    session.makeConnection(transport)
    assert len(begun) == 1 and transport.value() == b""
    session.handshakeCompleted()
    session.dataReceived(GREETING)
    assert transport.value() == b"EHLO us\r\n"  # no STARTTLS to come: the peer need not offer it
    session.dataReceived(b"250 smart.example\r\n")
    assert owner.names() == ["ready", "idle"]


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"DKIM-Signature: v=1; d=crm.example\r\n\r\n", "cannot be converted without breaking its DKIM signature"),
        (b"Content-Type: multipart/signed; boundary=x\r\n\r\n", "and this message cannot be converted"),
    ],
)
def test_a_signed_message_is_refused_rather_than_converted_for_a_server_without_8bitmime(owner: Notes, head, why):
    made = delivery(1, "привет\r\n".encode())
    made.message = msgspec.structs.replace(made.message, head=head, eightbit=True)
    owner.stock = [made]
    opened(owner, GREETING, EHLO)
    _, _, kind, evidence = owner.log[0]
    assert kind == "permanent" and evidence.error.startswith("5.6.3 ") and evidence.error.endswith(why)
