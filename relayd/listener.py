"""Listeners: SMTP sessions with clients on real transports.

Enter: connections.  Each runs one ``smtp.server`` machine; its questions go to the listener's *door*, which decides and
takes the content.  Leave: replies.  Here are the limits of sessions and their time-outs; what may be sent, and where a
message goes, is the door's affair (``reception`` for mail to relay, ``sandbox`` for the built-in receiver).
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

import msgspec
from twisted.application.service import Service
from twisted.internet import protocol
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from relayd import catalogue
from relayd.envelope import Envelope, Recipient
from relayd.pulse import pulse
from relayd.reply import Reply
from relayd.smtp import events
from relayd.smtp.server import ServerSession, ServerSettings
from relayd.tls import ServerTLS, agreed
from relayd.transport import send, set_no_delay

BACKLOG = 64 << 10  # bytes that a client may send ahead of our answer before we stop reading
_SWEEP = 1.0
_PARTING = 30.0  # seconds for the last word to be taken
_NUMBERS = count(1)  # of sessions, by which operators name them


class Receiver(Protocol):
    """Takes one message's content.  ``end`` calls ``answer`` once, now or later."""

    def write(self, chunk: bytes) -> None: ...
    def end(self, size: int, answer: Callable[[Reply], None]) -> None: ...
    def abort(self) -> None: ...


class Door(Protocol):
    """Decides for one listener.  None accepts; a Reply refuses."""

    settings: ServerSettings

    def connected(self, session: "Session") -> Reply | None: ...
    def disconnected(self, session: "Session") -> None: ...
    def barred(self, session: "Session") -> Reply | None: ...  # the last word for one that may be no more
    def authenticate(
        self, session: "Session", proposal: events.AuthProposed, answer: Callable[[Reply | None], None]
    ) -> None: ...
    def mail(self, session: "Session", proposal: events.MailProposed) -> Reply | None: ...
    def recipient(self, session: "Session", recipient: Recipient, answer: Callable[[Reply | None], None]) -> None: ...
    def begin(self, session: "Session", envelope: Envelope) -> Receiver | Reply: ...


class Limits(msgspec.Struct, frozen=True):
    """Of one listener.  Times in seconds."""

    connections: int = 1000
    connections_per_ip: int = 100
    connections_per_login: int = 100
    idle: float = 300.0
    data: float = 1800.0
    auth_time: float = 60.0


class Comings:
    """Connections since the start: all, and those that were one too many for a limit."""

    def __init__(self) -> None:
        self.opened = 0
        self.refused = 0


class Session(protocol.Protocol):
    """One client's connection."""

    transport: Any
    noisy = False

    def __init__(self, factory: "SMTPServerFactory") -> None:
        self.factory = factory
        self.door = factory.door
        self.machine = ServerSession(factory.door.settings, secure=factory.secure)
        self.peer = ""
        self.helo = ""
        self.extended = False
        self.login = ""
        self.state: Any = None
        self.receiver: Receiver | None = None
        self.deadline = 0.0
        self.last_word = catalogue.IDLE
        self.id = f"i{next(_NUMBERS):x}"
        self.since = factory.now()
        self.bytes = 0  # received
        self._parting: Reply | None = None  # what it ends with once it has its answer
        self._running = False
        self._paused = 0
        self._counted = False
        self._ahead = False  # paused because the client sends ahead of an answer
        self._leaving = False  # the last word is on its way

    @property
    def secure(self) -> bool:
        return self.machine.secure

    @property
    def number(self) -> int:
        """Messages accepted in this session."""
        return self.machine.messages

    @property
    def tls(self) -> str:
        """What TLS agreed on, "" in clear."""
        return agreed(self.transport) if self.secure else ""

    def connectionMade(self) -> None:
        self.peer = getattr(self.transport.getPeer(), "host", "") or "127.0.0.1"
        if self.peer.startswith("::ffff:"):
            self.peer = self.peer[7:]
        set_no_delay(self.transport)
        if self.factory.watch is not None:
            self.factory.watch(self)
        refusal = self.factory.admit(self) or self.door.connected(self)
        if refusal is not None:
            self.machine.close(refusal)
        else:
            self.machine.greet()
        limits = self.factory.limits
        self.last_word = catalogue.NO_LOGIN if self.door.settings.auth_required else catalogue.IDLE
        self.deadline = self.factory.now() + (limits.auth_time if self.door.settings.auth_required else limits.idle)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        self.bytes += len(data)
        self.machine.receive_data(data)
        self._run()

    def connectionLost(self, reason: Any = None) -> None:
        self.machine.close()
        self._abandon()
        self.factory.forget(self)
        self.door.disconnected(self)

    def drop(self) -> None:
        """Cuts the connection without a word."""
        self.transport.abortConnection()

    def pause(self) -> None:
        """Reads no more from the client until ``resume``, once for each ``pause``."""
        self._paused += 1
        if self._paused == 1:
            self.transport.pauseProducing()

    def resume(self) -> None:
        self._paused -= 1
        if not self._paused:
            self.transport.resumeProducing()

    def time_out(self) -> None:
        """The deadline has passed."""
        if self.machine.closed:
            self.transport.abortConnection()  # the last reply could not even be sent
        else:
            self.shut(self.last_word)

    def shut(self, reply: Reply) -> None:
        """Ends the session with a last word."""
        self._abandon()
        self.machine.close(reply)
        self._flush()

    def cut(self, reply: Reply) -> None:
        """Ends the session at once, with this last word; of a message that is being made durable it hears first."""
        if self.machine.closed:
            return
        if self.machine.stage == "answer" and getattr(self.receiver, "promised", False):
            self._parting = reply
        else:
            self.shut(reply)

    @property
    def busy(self) -> bool:
        """At a message, or at a question of ours: not to be ended now."""
        return not self.machine.closed and (self.receiver is not None or self.machine.stage == "answer")

    def part(self) -> None:
        """The listener closes: so does the session, unless it is busy."""
        if not self.busy and not self.machine.closed:
            self.shut(catalogue.UNAVAILABLE)

    def _run(self) -> None:
        """Takes the machine's events until it wants more from somewhere, then sends what it has to say."""
        if self._running:
            return
        self._running = True
        try:
            while (event := self.machine.next_event()) is not None:
                _HANDLERS[type(event)](self, event)
        finally:
            self._running = False
        if self._flush() and not self.busy and self.machine.stage != "data":
            # Only what was answered counts: bytes that drip in gain no time.
            self._expect(self.factory.limits.idle, catalogue.IDLE)
        if self.factory.closing:
            self.part()
        elif self._parting is not None:
            self.cut(self._parting)
        if self.machine.backlog > BACKLOG and self.machine.stage == "answer" and not self._ahead:
            self._ahead = True
            self.pause()

    def _expect(self, seconds: float, last_word: Reply) -> None:
        if self._leaving:
            return
        if self.door.settings.auth_required and not self.login:
            return  # the time to log in runs from the start
        self.deadline = self.factory.now() + seconds
        self.last_word = last_word

    def _flush(self) -> bool:
        """Sends what there is to say; False if that was nothing."""
        data = self.machine.data_to_send()
        if data:
            send(self.transport, data)
        if self.machine.closed and not self._leaving:
            self._leaving = True
            self.deadline = self.factory.now() + _PARTING
            self.transport.loseConnection()
        return bool(data)

    def _answered(self, answer: Callable[[], None]) -> None:
        """An answer that came: now (inside ``_run``, which goes on) or later (``_run`` must be taken up again)."""
        if self.machine.closed:
            return
        answer()
        if self._ahead:
            self._ahead = False
            self.resume()
        self._run()

    def _abandon(self) -> None:
        if self.receiver is not None:
            receiver, self.receiver = self.receiver, None
            receiver.abort()

    # One handler for each event of the machine.

    def _on_hello(self, event: events.Hello) -> None:
        self.helo, self.extended = event.name, event.extended

    def _on_start_tls(self, event: events.StartTLS) -> None:
        self._flush()
        assert self.factory.tls is not None
        self.transport.startTLS(self.factory.tls)
        self.machine.tls_started()

    def _on_auth(self, event: events.AuthProposed) -> None:
        def answer(refusal: Reply | None) -> None:
            if self.machine.closed:
                return
            refusal = refusal or self.factory.admit_login(self, event.login)
            if refusal is None:
                self.login = event.login
            self._answered(lambda: self._decide(refusal))

        self.door.authenticate(self, event, answer)

    def _on_mail(self, event: events.MailProposed) -> None:
        self._decide(self.door.mail(self, event))

    def _on_recipient(self, event: events.RecipientProposed) -> None:
        self.door.recipient(self, event.recipient, self._recipient_decided)

    def _recipient_decided(self, refusal: Reply | None) -> None:
        self._answered(lambda: self._decide(refusal))

    def _on_message(self, event: events.MessageStarted) -> None:
        begun = self.door.begin(self, event.envelope)
        if isinstance(begun, Reply):
            self.machine.refuse(begun)
        else:
            self.receiver = begun
            self._expect(self.factory.limits.data, catalogue.SLOW)
            self.machine.accept()

    def _on_chunk(self, event: events.BodyChunk) -> None:
        if self.receiver is not None:
            self.receiver.write(event.data)

    def _on_ended(self, event: events.MessageEnded) -> None:
        receiver = self.receiver
        assert receiver is not None

        def answer(reply: Reply) -> None:
            if self.receiver is receiver:
                self.receiver = None
            self._answered(lambda: self._decide_message(reply))

        receiver.end(event.size, answer)

    def _on_aborted(self, event: object) -> None:
        self._abandon()

    def _on_quit(self, event: events.Quit) -> None:
        pass  # the machine has closed itself and said goodbye

    def _decide(self, refusal: Reply | None) -> None:
        if refusal is None:
            self.machine.accept()
        else:
            self.machine.refuse(refusal)

    def _decide_message(self, reply: Reply) -> None:
        if reply.positive:
            self.machine.accept(reply)
        else:
            self.machine.refuse(reply)


_HANDLERS: dict[type, Callable[[Session, Any], None]] = {
    events.Hello: Session._on_hello,
    events.StartTLS: Session._on_start_tls,
    events.AuthProposed: Session._on_auth,
    events.MailProposed: Session._on_mail,
    events.RecipientProposed: Session._on_recipient,
    events.MessageStarted: Session._on_message,
    events.BodyChunk: Session._on_chunk,
    events.MessageEnded: Session._on_ended,
    events.MessageAborted: Session._on_aborted,
    events.TransactionReset: Session._on_aborted,
    events.Quit: Session._on_quit,
}


class SMTPServerFactory(protocol.ServerFactory):
    """Makes the sessions of one listener and counts them.  ``secure``: TLS from the first byte."""

    noisy = False

    def __init__(self, reactor: Any, door: Door, limits: Limits, tls: ServerTLS | None, *, secure: bool) -> None:
        self.door = door
        self.limits = limits
        self.tls = tls
        self.secure = secure
        self.now = reactor.seconds
        self.closing = False
        self.watch: Callable[[Session], None] | None = None  # called with each new one, while somebody watches
        self.sessions: dict[Session, None] = {}
        self.by_ip: dict[str, int] = defaultdict(int)
        self.by_login: dict[str, int] = defaultdict(int)
        self.comings = Comings()

    def buildProtocol(self, address: Any) -> Session:
        return Session(self)

    def admit(self, session: Session) -> Reply | None:
        """Counts a new connection; the refusal if it is one too many."""
        self.sessions[session] = None
        self.by_ip[session.peer] += 1
        session._counted = True
        self.comings.opened += 1
        refusal = None
        if len(self.sessions) > self.limits.connections:
            refusal = catalogue.TOO_MANY_CONNECTIONS
        elif self.by_ip[session.peer] > self.limits.connections_per_ip:
            refusal = catalogue.TOO_MANY_FROM_HERE(session.peer)
        self.comings.refused += refusal is not None
        return refusal

    def admit_login(self, session: Session, login: str) -> Reply | None:
        if self.by_login[login] >= self.limits.connections_per_login:
            return catalogue.TOO_MANY_SESSIONS("login")
        self.by_login[login] += 1
        return None

    def forget(self, session: Session) -> None:
        if session._counted:
            session._counted = False
            self.sessions.pop(session, None)
            _less(self.by_ip, session.peer)
            if session.login:
                _less(self.by_login, session.login)

    def sweep(self) -> None:
        """Ends the sessions whose time is over."""
        now = self.now()
        for session in [s for s in self.sessions if s.deadline < now and s.machine.stage != "answer"]:
            session.time_out()


def _less(counts: dict[str, int], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]


class ListenerService(Service):
    """Listens while it runs.  Its stop closes the port and the idle sessions at once and waits up to ``drain`` seconds
    for those that are at a message; sessions that are left still have their time-outs."""

    log = Logger()
    drain = 30.0

    def __init__(self, reactor: Any, name: str, endpoint: str, factory: SMTPServerFactory) -> None:
        self.setName(name)
        self.reactor = reactor
        self.endpoint = endpoint
        self.factory = factory
        self.port: Any = None
        self._stopped: Deferred[None] | None = None
        self._until = 0.0
        self._sweeper = pulse(reactor, self._sweep)

    async def listen(self) -> None:
        """Opens the port.  Raises CannotListenError."""
        factory: Any = self.factory
        if factory.secure:
            assert self.factory.tls is not None
            factory = TLSMemoryBIOFactory(self.factory.tls, False, self.factory, self.reactor)
            factory.noisy = False
        self.port = await serverFromString(self.reactor, self.endpoint).listen(factory)
        self._sweeper.start(_SWEEP, now=False)

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        self.factory.closing = True
        for session in list(self.factory.sessions):
            session.part()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        if self.port is not None:
            port, self.port = self.port, None
            await maybeDeferred(port.stopListening)
        self._until = self.reactor.seconds() + self.drain
        stopped = self._stopped = Deferred()
        self._see_off()
        await stopped

    def _sweep(self) -> None:
        self.factory.sweep()
        if self.factory.closing:
            self._see_off()

    def _see_off(self) -> None:
        """The stop is over when nobody is at a message any more; the sweeping is when nobody is there."""
        sessions = self.factory.sessions
        over = self.reactor.seconds() >= self._until or not any(session.busy for session in sessions)
        if self._stopped is not None and over:
            stopped, self._stopped = self._stopped, None
            stopped.callback(None)
        if not sessions and self._sweeper.running:
            self._sweeper.stop()
