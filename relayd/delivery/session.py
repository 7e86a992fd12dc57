"""One SMTP session with a peer on a real transport: the shell around the ``smtp.client`` machine.

Enter: a connected transport, deliveries from the courier.  Leave: one result for each delivery, with its evidence.
Every stage has its time-out; a stage's clock does not start anew when the peer drips bytes.  Large bodies are read from
their files as the peer takes them.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from twisted.internet import protocol
from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from zope.interface import implementer

from relayd.delivery.routing import Hop, Site
from relayd.envelope import Delivery, Marks
from relayd.message.downgrade import downgrade
from relayd.message.protected import dkim_signed
from relayd.message.render import header, render
from relayd.outcome import Evidence, Kind, Outcome, Stage, judged
from relayd.queue.state import Path
from relayd.reply import printable
from relayd.signing import NoKey, Signer
from relayd.smtp.client import (
    BodyWanted,
    ClientSession,
    ClientSettings,
    Finished,
    Ready,
    Returned,
    SessionEnded,
    StartTLS,
)
from relayd.smtp.transaction import Transaction
from relayd.tls import ClientTLS, Meeting, agreed, failure
from relayd.transport import send, set_no_delay

CONVERTIBLE = 10 << 20  # bytes of 8-bit content that are converted; more is refused


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds for each stage (RFC 5321 section 4.5.3.2)."""

    banner: float = 60
    ehlo: float = 60
    helo: float = 60
    starttls: float = 30
    tls: float = 30
    auth: float = 60
    idle: float = 5
    rset: float = 20
    mail: float = 300
    rcpt: float = 300
    data: float = 300
    body: float = 300
    dot: float = 600
    quit: float = 5
    ended: float = 5


class Owner(Protocol):
    """What a session needs of the courier."""

    timeouts: Timeouts
    deliveries_per_session: int
    bodies: Any
    client_tls: ClientTLS
    signer: Signer

    def now(self) -> float: ...
    def marks(self, delivery: Delivery) -> Marks: ...
    def take(self, session: "PeerSession") -> Delivery | None: ...
    def ready(self, session: "PeerSession") -> None: ...
    def finished(
        self, session: "PeerSession", delivery: Delivery, outcome: Outcome, *, dsn_passed_on: bool = False
    ) -> None: ...
    def returned(self, path: Path, delivery: Delivery) -> None: ...
    def idle(self, session: "PeerSession", idle: bool) -> None: ...
    def ended(self, session: "PeerSession", evidence: Evidence) -> None: ...


@implementer(IHandshakeListener, IPushProducer)
class PeerSession(protocol.Protocol):
    """See the module."""

    transport: Any
    noisy = False

    def __init__(self, owner: Owner, name: str, path: Path, site: Site, hop: Hop, settings: ClientSettings) -> None:
        self.owner = owner
        self.name = name
        self.path = path
        self.site = site
        self.hop = hop
        self.machine = ClientSession(settings)
        self.since = owner.now()
        self.ready = False
        self.lost = False  # the connection is
        self.tls = ""
        self.carried = 0
        self.deadline = 0.0
        self._waiting = ("", 0)
        self._done = 0  # transactions that have come to their end
        self._under_way: deque[tuple[Delivery, float]] = deque()
        self._heads: dict[int, bytes] = {}  # by delivery, of those whose body is in a file
        self._offset = 0
        self._streaming: Delivery | None = None
        self._reading: Delivery | None = None  # the one of which a piece is being read
        self._converting: Delivery | None = None  # the one of which the body is being read, to be made 7-bit
        self._full = False  # the transport wants no more for now
        self._meeting: Meeting | None = None
        self._idle = False
        self._told = False  # the owner knows that we are ready
        self._over = False
        self._running = False
        self._peer = self._local = ""

    # The transport.

    def connectionMade(self) -> None:
        set_no_delay(self.transport)
        self._peer = _endpoint(self.transport.getPeer())
        self._local = _endpoint(self.transport.getHost())
        if self.site.implicit:
            self._start_tls()
        self._watch()

    def dataReceived(self, data: bytes) -> None:
        self.machine.log.append(self.owner.now())
        self.machine.receive_data(data)
        self._run()

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = True
        self.machine.abort(_lost(reason))
        self._run()

    def handshakeCompleted(self) -> None:
        self.tls = agreed(self.transport)
        self.machine.log.append(f"(TLS from here on: {self.tls})")
        self.machine.tls_started()
        self._run()

    # The courier.

    def work(self) -> None:
        """There is something to carry."""
        self._run()

    @property
    def busy(self) -> bool:
        """Whether something is under way here."""
        return bool(self._under_way)

    @property
    def at_work(self) -> bool:
        """Whether the owner counts it among those that work: it was told that we are ready, and not that we idle."""
        return self._told and not self._idle

    def carries(self, identity: int) -> bool:
        """Whether this delivery is under way here."""
        return any(delivery.id == identity for delivery, _ in self._under_way)

    def under_way(self) -> list[Delivery]:
        """What it carries now, the first to be answered first."""
        return [delivery for delivery, _ in self._under_way]

    def words(self) -> str:
        """Where the session is, for an operator."""
        return (
            f"session {self.name} with {self.hop.mx} {self._peer or self.hop.address} waits at {self.machine.waiting}"
        )

    def quit(self) -> None:
        self.machine.quit()
        self._run()

    def time_out(self) -> None:
        """The stage's time is over."""
        waiting = self.machine.waiting
        if waiting == "idle":
            self.quit()
            return
        if not self._over:
            self.machine.abort(f"no answer within {getattr(self.owner.timeouts, waiting):.0f} s")
            self._run()
        self.transport.abortConnection()

    # The machine.

    def _run(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            self._handle_events()
            self._feed_all()
            # Only now, or another session would be opened for what this one has just taken.
            if self.ready and not self._told and not self._over:
                self._told = True
                self.owner.ready(self)
                self._feed_all()
            data = self.machine.data_to_send()
            if data and self._streaming:
                self.transport.write(data)  # Twisted's buffer, when it is empty, asks for the next piece
            elif data:
                send(self.transport, data)
        finally:
            self._running = False
        self._rest()
        self._watch()
        if self._over:
            self.transport.loseConnection()

    def _handle_events(self) -> None:
        while (event := self.machine.next_event()) is not None:
            _HANDLERS[type(event)](self, event)

    def _watch(self) -> None:
        """A new stage has a new deadline, and so has the same stage of the next transaction."""
        waiting = (self.machine.waiting, self._done)
        if waiting != self._waiting:
            self._waiting = waiting
            self._allow()

    def _allow(self) -> None:
        self.deadline = self.owner.now() + getattr(self.owner.timeouts, self.machine.waiting)

    def _rest(self) -> None:
        idle = self.machine.idle and not self._over
        if idle != self._idle:
            self._idle = idle
            self.owner.idle(self, idle)

    def _feed_all(self) -> None:
        while not self._over and self._feed():
            pass

    def _feed(self) -> bool:
        """Gives the machine one more delivery, if it can take one and there is one."""
        if not self.machine.can_take_next or self._converting:
            return False
        if self.carried >= (self.path.meter.limits.deliveries_per_session or self.owner.deliveries_per_session):
            self.machine.quit()
            return False
        delivery = self.owner.take(self)
        if delivery is None:
            return False
        self.carried += 1
        self._carry(delivery)
        return True

    def _carry(self, delivery: Delivery) -> None:
        """Gives the machine a delivery in the form that this peer takes, or tells why it takes none."""
        message = delivery.message
        body = message.body
        if message.eightbit and not self.machine.capabilities.eightbit:
            if body is None:
                self._converting = delivery
                self.owner.bodies.load(message.id, CONVERTIBLE, lambda got: self._loaded(delivery, got))
                return
            self._convert(delivery, body)
            return
        marks = self.owner.marks(delivery)
        head = render(message, delivery, marks)
        if message.edits.unsigned:
            try:
                head = self.owner.signer.late(message, marks.unsubscribe) + head
            except NoKey as fault:
                self._refuse(delivery, str(fault), "transient", "queue")
                return
        content = None if body is None else head + body
        size = len(head) + _body_size(delivery) if content is None else len(content)
        if content is None:
            self._heads[delivery.id] = head
        self._send(delivery, marks.sender, content, size, message.eightbit)

    def _loaded(self, delivery: Delivery, got: bytes | OSError) -> None:
        """A body that lies in a file is in memory, to be converted."""
        self._converting = None
        if not self.machine.can_take_next:
            self.owner.returned(self.path, delivery)
            return
        if isinstance(got, OSError):
            self._refuse(delivery, f"the message's body cannot be read: {got.strerror}", "transient")
        elif len(got) < min(_body_size(delivery), CONVERTIBLE):
            self._refuse(delivery, "the message's body is shorter than it was", "transient")
        else:
            self._convert(delivery, got)
        self._run()

    def _convert(self, delivery: Delivery, body: bytes) -> None:
        """8-bit content for a peer that takes none (RFC 6152 section 3), signed in its new form."""
        message, marks = delivery.message, self.owner.marks(delivery)
        head = header(message.head, message.edits, marks.unsubscribe)
        seven = None if len(body) > CONVERTIBLE else downgrade(head, body)
        if seven is None:
            fault = "5.6.3 the server takes no 8-bit content, and this message cannot be converted"
            self._refuse(
                delivery, fault + (" without breaking its DKIM signature" if dkim_signed(message.head) else "")
            )
            return
        try:
            content = marks.trace + self.owner.signer.anew(message, *seven) + seven[0] + seven[1]
        except NoKey as fault:
            self._refuse(delivery, str(fault), "transient", "queue")
        else:
            self._send(delivery, marks.sender, content, len(content), False)

    def _send(self, delivery: Delivery, sender: str, content: bytes | None, size: int, eightbit: bool) -> None:
        offers, envelope = self.machine.capabilities, delivery.message.envelope
        if 0 < offers.size < size:
            self._refuse(delivery, f"5.3.4 the message has {size} bytes, the server takes at most {offers.size}")
            return
        if envelope.smtputf8 and not offers.smtputf8:
            self._refuse(delivery, "5.6.7 the message needs SMTPUTF8, which the server does not offer")
            return
        transaction = Transaction(
            sender,
            delivery.recipient,
            size,
            eightbit,
            envelope.smtputf8,
            envelope.ret,
            envelope.envid,
            content,
        )
        try:
            self.machine.send(transaction)
        except ValueError as error:
            self._refuse(delivery, str(error))
        else:
            self._under_way.append((delivery, self.owner.now()))

    def _refuse(self, delivery: Delivery, error: str, kind: Kind = "permanent", stage: Stage = "mail") -> None:
        """We ourselves find that this peer cannot be given this message."""
        self._heads.pop(delivery.id, None)
        evidence = self._evidence(Evidence(stage=stage, error=error), self.owner.now())
        self.owner.finished(self, delivery, Outcome(kind, evidence))

    # One handler for each event of the machine.

    def _on_ready(self, event: Ready) -> None:
        self.ready = True

    def _on_start_tls(self, event: StartTLS) -> None:
        data = self.machine.data_to_send()
        if data:
            send(self.transport, data)
        self._start_tls()

    def _start_tls(self) -> None:
        verify = self.site.policy.tls == "verify"
        self._meeting = self.owner.client_tls.towards(self.hop.mx, self.hop.address, verify=verify)
        self.transport.startTLS(self._meeting)

    def _on_body_wanted(self, event: BodyWanted) -> None:
        delivery = self._under_way[0][0]
        self._streaming = delivery
        self._offset = 0
        self._full = False
        self.machine.body(self._heads.pop(delivery.id))
        self.transport.registerProducer(self, True)
        self._read()

    def _on_finished(self, event: Finished) -> None:
        delivery, begun = self._under_way.popleft()
        self._heads.pop(delivery.id, None)
        self._stop_streaming()
        self._done += 1
        closed = event.reply is None or event.reply.code == 421
        if closed and event.stage == "mail" and not event.unknown and self._done > 1:
            # A kept session that the peer had closed meanwhile, or closes now because it has carried enough: the
            # attempt was none, the next session makes it.
            self.owner.returned(self.path, delivery)
            return
        evidence = self._evidence(Evidence(stage=event.stage, reply=event.reply, error=event.error), begun)
        if event.unknown:
            outcome = Outcome("unknown", evidence)
        elif event.reply is None:
            outcome = Outcome("transient", evidence)
        else:
            outcome = judged(event.reply, evidence)
        self.owner.finished(self, delivery, outcome, dsn_passed_on=self.machine.capabilities.dsn)

    def _on_returned(self, event: Returned) -> None:
        delivery, _ = self._under_way.popleft()
        self._heads.pop(delivery.id, None)
        self.owner.returned(self.path, delivery)

    def _on_ended(self, event: SessionEnded) -> None:
        self._over = True
        self._stop_streaming()
        if self._meeting and self.ready:
            self._meeting.over(self.transport)
        evidence = Evidence(stage=event.stage, reply=event.reply, error=event.error)
        self.owner.ended(self, self._evidence(evidence, self.owner.now()))

    def _evidence(self, seen: Evidence, begun: float) -> Evidence:
        return Evidence(
            seen.stage,
            seen.reply,
            seen.error,
            self.path.source,
            self.hop.mx,
            self._peer,
            self._local,
            self.tls,
            round(self.owner.now() - begun, 3),
            self.name,
            self.carried - len(self._under_way),
            "",
            self.site.group,
        )

    # A body from its file, at the pace at which the peer takes it.

    def pauseProducing(self) -> None:
        self._full = True

    def resumeProducing(self) -> None:
        self._full = False
        self._read()

    def stopProducing(self) -> None:
        self._streaming = None

    def _read(self) -> None:
        """Asks for the next piece: one at a time, however often the transport wants more."""
        delivery = self._streaming
        if delivery is not None and self._reading is not delivery and not self._full:
            self._reading = delivery
            self.owner.bodies.read(delivery.message.id, self._offset, lambda piece: self._piece(delivery, piece))

    def _piece(self, delivery: Delivery, piece: bytes | OSError) -> None:
        if delivery is not self._streaming:
            return
        self._reading = None
        if isinstance(piece, OSError):
            self.machine.abort(f"the message's body cannot be read: {piece.strerror}")
        elif piece:
            self._offset += len(piece)
            self.machine.body(piece)
            self._allow()  # each piece that the peer takes is progress
        elif self._offset < _body_size(delivery):
            missing = _body_size(delivery) - self._offset
            self.machine.abort(f"the message's body is {missing} bytes shorter than it was")
        else:
            self._stop_streaming()
            self.machine.end_body()
        self._run()
        self._read()
        if self._over:
            self.transport.abortConnection()

    def _stop_streaming(self) -> None:
        if self._streaming is not None:
            self._streaming = None
            self.transport.unregisterProducer()


_HANDLERS: dict[type, Callable[[PeerSession, Any], None]] = {
    Ready: PeerSession._on_ready,
    StartTLS: PeerSession._on_start_tls,
    BodyWanted: PeerSession._on_body_wanted,
    Finished: PeerSession._on_finished,
    Returned: PeerSession._on_returned,
    SessionEnded: PeerSession._on_ended,
}


def _endpoint(address: Any) -> str:
    host = getattr(address, "host", "")
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{getattr(address, 'port', 0)}"


def _body_size(delivery: Delivery) -> int:
    """Bytes of the body as it came in."""
    return delivery.message.size - len(delivery.message.head)


def _lost(reason: Any) -> str:
    error = getattr(reason, "value", None)
    text = failure(error) or printable(str(error or "the connection was lost"))
    if "cleanly" in text:
        return "the peer closed the connection"
    return text if text.startswith(("TLS", "the certificate")) else f"the connection was lost: {text}".rstrip(".")
