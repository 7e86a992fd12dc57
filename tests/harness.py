"""A relay without sockets or real time: a reactor whose clock is moved by hand and whose calls from threads are pumped,
connections in memory, mail servers that follow a script, and a spool in memory whose disk can be held back."""

from bisect import insort_left, insort_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from random import Random
from threading import Thread
from time import monotonic
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from relayd.delivery import Courier
from relayd.delivery.courier import Settings
from relayd.delivery.outcomes import Life, Rules
from relayd.delivery.outcomes import Settings as OutcomeSettings
from relayd.delivery.routing import Policy, PolicyOf, Router
from relayd.delivery.session import Timeouts
from relayd.egress.pools import Pools, Source
from relayd.envelope import UNSTEERED, Delivery, Edits, Envelope, Message, Recipient, queue_name
from relayd.identity import Identities
from relayd.message.steering import starts
from relayd.queue.retry import Schedule
from relayd.queue.scheduler import Scheduler, StreamOf
from relayd.queue.state import Stream
from relayd.records import Entry, Record, decode
from relayd.resolver import MailHost, MailHosts
from relayd.shaping.limits import Limits, Rate, Terms
from relayd.spool import NEVER
from relayd.tls import ClientTLS

START = 1_800_000_000.0
BUFFER = 64 << 10
HANG, CLOSE = "(says nothing)", "(closes the connection)"


class InOrder(DelayedCall):
    """One of ``calls``, which finds its new place itself: as a stable sort would have it."""

    calls: "list[InOrder]"

    def reset(self, secondsFromNow: float) -> None:
        before = self.getTime()
        super().reset(secondsFromNow)
        self._moved(before)

    def delay(self, secondsLater: float) -> None:
        before = self.getTime()
        super().delay(secondsLater)
        self._moved(before)

    def _moved(self, before: float) -> None:
        now = self.getTime()
        if now != before:
            self.calls.remove(self)
            (insort_left if now > before else insort_right)(self.calls, self, key=DelayedCall.getTime)


class Reactor(MemoryReactorClock):
    """Time moves by ``wait``; whatever threads, spools and connections post runs in ``pump``.  ``calls`` are always in
    order, so that days of many calls need no sorting at each, as Twisted's own clock does it."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = START
        self.posted: SimpleQueue[Any] = SimpleQueue()
        self.hosts: dict[str, Host] = {}
        self.dialled: list[tuple[str, str]] = []  # (address, source address)
        self.missing: set[str] = set()  # source addresses that are not on this machine

    def callFromThread(self, call: Callable[..., Any], *args: Any, **named: Any) -> None:
        self.posted.put((call, args, named))

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **named: Any) -> DelayedCall:  # type: ignore[override]
        made = InOrder(self.rightNow + delay, callable, args, named, self.calls.remove, lambda _: None, self.seconds)
        made.calls = self.calls
        insort_right(self.calls, made, key=DelayedCall.getTime)
        return made

    def advance(self, amount: float) -> None:
        self.rightNow += amount
        while self.calls and self.calls[0].getTime() <= self.rightNow:
            call = self.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)

    def getThreadPool(self) -> Any:
        def run(done: Callable[[bool, Any], None], call: Callable[..., Any], *args: Any, **named: Any) -> None:
            def work() -> None:
                try:
                    result, good = call(*args, **named), True
                except Exception:
                    result, good = Failure(), False
                done(good, result)

            Thread(target=work, daemon=True).start()

        return SimpleNamespace(callInThreadWithCallback=run)

    def pump(self) -> None:
        """Runs what is posted, and what that posts; a relay that never comes to rest runs in a circle."""
        left = 200_000
        while not self.posted.empty():
            self._one(0.0)
            left -= 1
            assert left, "the relay runs in a circle"

    def _one(self, patience: float) -> None:
        call, args, named = self.posted.get(timeout=patience or None, block=bool(patience))
        call(*args, **named)

    def until(self, fact: Callable[[], Any], patience: float = 20.0) -> None:
        """Pumps, waiting for threads, until something is so."""
        end = monotonic() + patience
        while not fact():
            try:
                self._one(max(0.001, end - monotonic()))
            except Empty:
                raise AssertionError("it did not come to be") from None

    def wait(self, seconds: float) -> None:
        """Lets time pass, from one thing that is due to the next."""
        self.pump()
        end = self.rightNow + seconds
        while self.rightNow < end:
            due = self.calls[0].getTime() if self.calls else end
            self.advance(min(max(due, self.rightNow), end) - self.rightNow)
            self.pump()

    def connectTCP(  # type: ignore[override]
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> None:
        bind = bindAddress[0] if bindAddress else ""
        self.dialled.append((host, bind))
        there = self.hosts[host]

        def fail(fault: Exception) -> None:
            factory.clientConnectionFailed(None, Failure(fault))

        def connect() -> None:
            if bind in self.missing:
                fail(error.ConnectBindError(99, "Cannot assign requested address"))
            elif there.open is None:
                self.callLater(timeout, fail, error.TimeoutError())
            elif len(there.sessions) >= there.open:
                fail(error.ConnectionRefusedError())
            else:
                ours, theirs = pair(self, bind or "10.0.0.1", host, port)
                server = there.meet()
                ours.protocol = factory.buildProtocol(None)
                theirs.protocol = server
                server.makeConnection(theirs)
                ours.protocol.makeConnection(ours)

        self.callFromThread(connect)


class Wire:
    """One end of a connection.  ``taking``: whether the other end takes what is written here."""

    def __init__(self, reactor: Reactor, here: tuple[str, int], there: tuple[str, int]) -> None:
        self.reactor, self.here, self.there = reactor, here, there
        self.other: Wire
        self.protocol: Any = None
        self.pending = bytearray()
        self.disconnecting = self.lost = self.aborted = False
        self.taking = self.reading = True
        self.producer: Any = None
        self._streaming = self._moving = False

    def getPeer(self) -> Any:
        return SimpleNamespace(host=self.there[0], port=self.there[1])

    def getHost(self) -> Any:
        return SimpleNamespace(host=self.here[0], port=self.here[1])

    def write(self, data: bytes) -> None:
        if self.lost:
            return
        self.pending += data
        if self.producer is not None and self._streaming and len(self.pending) > BUFFER:
            self.producer.pauseProducing()
        self._move()

    def writeSequence(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def _move(self) -> None:
        if not self._moving:
            self._moving = True
            self.reactor.callFromThread(self._moved)

    def _moved(self) -> None:
        self._moving = False
        if self.lost or not self.taking or not self.other.reading:
            return
        data = bytes(self.pending)
        self.pending.clear()
        if data:
            self.other.protocol.dataReceived(data)
        if self.pending or self.lost:
            return
        if self.producer is not None:
            self.producer.resumeProducing()
        elif self.disconnecting:
            self._end(Failure(error.ConnectionDone()))

    def take(self) -> None:
        """The other end takes what has been written, now and from now on."""
        self.taking = True
        self._move()

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True
        self.other._move()

    def stopProducing(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer, self._streaming = producer, streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        if self.disconnecting:
            self._move()

    def loseConnection(self) -> None:
        if not self.lost and not self.disconnecting:
            self.disconnecting = True
            self._move()

    def abortConnection(self) -> None:
        self.aborted = True
        self._end(Failure(error.ConnectionAborted()))

    def startTLS(self, context: Any) -> None:
        self.secured = context
        if IHandshakeListener.providedBy(self.protocol):
            self.reactor.callFromThread(self._handshake)

    def _handshake(self) -> None:
        answer = self.other.protocol.host.handshake
        if self.lost or answer == HANG:
            return
        if answer == CLOSE:
            self._end(Failure(SSL.Error([("SSL routines", "", "wrong version number")])))
        else:
            self.protocol.handshakeCompleted()

    def _end(self, reason: Failure) -> None:
        if self.lost:
            return
        for end in (self, self.other):
            end.lost = True
            producer, end.producer = end.producer, None
            if producer is not None:
                producer.stopProducing()
            self.reactor.callFromThread(end.protocol.connectionLost, reason)


def pair(reactor: Reactor, here: str, there: str, port: int) -> tuple[Wire, Wire]:
    one, other = Wire(reactor, (here, 40000), (there, port)), Wire(reactor, (there, port), (here, 40000))
    one.other, other.other = other, one
    return one, other


@dataclass
class Host:
    """A mail server.  ``open``: how many connections it has room for, None if it swallows them without a word;
    ``says``: verb to reply, where it is not the usual one; a callable gets the server and the line."""

    says: dict[str, Any] = field(default_factory=dict)
    offers: tuple[str, ...] = ("PIPELINING", "8BITMIME", "SIZE 100000000")
    open: int | None = 1000
    handshake: str = ""
    sessions: list["Server"] = field(default_factory=list)
    seen: list["Server"] = field(default_factory=list)
    got: list[tuple[str, str, bytes]] = field(default_factory=list)  # (sender, recipient, content)

    def meet(self) -> "Server":
        """Its end of one more connection."""
        return Server(self)


_USUAL = {
    "BANNER": "220 mx.example ESMTP",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    "DOT": "250 2.0.0 taken",
    "RSET": "250 ok",
    "STARTTLS": "220 go on",
    "HELO": "250 mx.example",
    "QUIT": "221 bye",
}


class Server(Protocol):
    """One session of a scripted mail server."""

    transport: Any

    def __init__(self, host: Host) -> None:
        self.host = host
        self.heard: list[str] = []
        self.reads: list[bytes] = []
        self.sender = self.recipient = ""
        self._buffer = b""
        self._content = False
        self._stuck: tuple[str, str] | None = None  # the command that is not answered, for the time being

    def connectionMade(self) -> None:
        self.host.sessions.append(self)
        self.host.seen.append(self)
        self._say("BANNER", "")

    def connectionLost(self, reason: Any = None) -> None:
        self.host.sessions.remove(self)

    def dataReceived(self, data: bytes) -> None:
        self.reads.append(data)
        self._buffer += data
        self._read()

    def _read(self) -> None:
        ending = b"\r\n.\r\n" if self._content else b"\r\n"
        while ending in self._buffer and not self.transport.disconnecting and self._stuck is None:
            part, self._buffer = self._buffer.split(ending, 1)
            if self._content:
                self._content = False
                self.host.got.append((self.sender, self.recipient, part + b"\r\n"))
                self._say("DOT", "")
            else:
                self._obey(part.decode())
            ending = b"\r\n.\r\n" if self._content else b"\r\n"

    def _obey(self, line: str) -> None:
        self.heard.append(line)
        verb = line.split()[0].upper()
        if verb == "MAIL":
            self.sender, self.recipient = _address(line), ""
        self._say(verb, line)

    def _say(self, verb: str, line: str) -> None:
        if verb == "EHLO":
            usual = "\r\n".join(f"250-{word}" for word in ("mx.example", *self.host.offers)) + "\r\n250 HELP"
        elif verb == "DATA" and not self.recipient:
            usual = "503 5.5.1 no recipients"
        else:
            usual = _USUAL.get(verb, "500 what?")
        answer = self.host.says.get(verb, usual)
        said: str = answer(self, line) if callable(answer) else answer
        if said == CLOSE:
            self.transport.loseConnection()
            return
        if said == HANG:
            self._stuck = (verb, line)
            return
        self.transport.write(said.encode() + b"\r\n")
        if verb == "RCPT" and said[0] == "2":
            self.recipient = _address(line)
        elif verb == "DATA" and said.startswith("354"):
            self._content = True
        elif verb == "QUIT":
            self.transport.loseConnection()

    def wake(self) -> None:
        """Answers what it was silent on, by the script as it is now, and goes on."""
        assert self._stuck is not None
        stuck, self._stuck = self._stuck, None
        self._say(*stuck)
        self._read()

    def speak(self, text: str) -> None:
        self.transport.write(text.encode() + b"\r\n")


def _address(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]


class MemorySpool:
    """The part of the spool that the courier uses.  ``disk`` False: nothing becomes durable until ``flush``."""

    def __init__(self, reactor: Reactor) -> None:
        self._post = reactor.callFromThread
        self.rows: dict[int, Delivery] = {}
        self.records: list[Record] = []
        self.entries: list[Entry] = []  # of reports
        self.refunds: list[Any] = []
        self.disk = True
        self.waiting: deque[Callable[[], None]] = deque()
        self.bodies = MemoryBodies(reactor)
        self.fault: Exception | None = None

    def put(self, *deliveries: Delivery) -> None:
        self.rows.update((d.id, d) for d in deliveries)

    def kinds(self) -> list[str]:
        return [record.kind for record in self.records]

    def flush(self) -> None:
        self.disk = True
        while self.waiting:
            self._post(self.waiting.popleft())

    def _change(self, change: Callable[[], None]) -> None:
        if self.disk:
            self._post(change)
        else:
            self.waiting.append(change)

    def depart(self, departure: Any, done: Any = None) -> None:
        def change() -> None:
            del self.rows[departure.delivery.id]  # KeyError: it left twice
            self.records.append(decode(departure.line))
            self.refunds += [departure.refund] if departure.refund else []
            self._come_in(departure.report)
            done(None)

        self._change(change)

    def requeue(self, requeue: Any, done: Any = None) -> None:
        def change() -> None:
            old = self.rows[requeue.delivery.id]
            row = (requeue.due, requeue.attempts, requeue.source, requeue.last, requeue.told)
            self.rows[old.id] = Delivery(old.id, old.message, old.recipient, requeue.queue or old.queue, *row)
            if requeue.line:
                self.records.append(decode(requeue.line))
            self._come_in(requeue.report)
            done(None)

        self._change(change)

    def _come_in(self, report: Any) -> None:
        if report:
            self.put(*report.deliveries)
            self.records.append(decode(report.line))
            self.entries += report.entries

    def settle(self, queue: str, done: Any) -> None:
        due = min((d.due for d in self.rows.values() if d.queue == queue), default=NEVER)
        self._change(lambda: done(due))

    def due_queues(self, after: tuple[float, str], now: float, limit: int, done: Any) -> None:
        due: dict[str, float] = {}
        for d in self.rows.values():
            due[d.queue] = min(due.get(d.queue, NEVER), d.due)
        found = sorted((when, name) for name, when in due.items() if when <= now and (when, name) > after)
        self._post(done, self.fault or found[:limit])

    def due_deliveries(self, queue: str, now: float, limit: int, but: list[int], done: Any) -> None:
        found = [d for d in self.rows.values() if d.queue == queue and d.due <= now and d.id not in but]
        self._post(done, self.fault or sorted(found, key=lambda d: (d.due, d.id))[:limit])

    def old_deliveries(self, account: str, stream: str, before: float, limit: int, done: Any) -> None:
        found = [
            d
            for d in self.rows.values()
            if starts(d.message.steering, d.message.received) < before
            and d.message.stream == stream
            and account in ("*", d.message.account)
        ]
        self._post(done, self.fault or found[:limit])

    def ended_deliveries(self, now: float, limit: int, done: Any) -> None:
        found = [d for d in self.rows.values() if 0 < d.message.steering.expire <= now]
        self._post(done, self.fault or found[:limit])


class MemoryBodies:
    """Body files: message id to content, or to the error that reading it meets.  ``held`` keeps reads back."""

    def __init__(self, reactor: Reactor) -> None:
        self._post = reactor.callFromThread
        self.files: dict[int, bytes | OSError] = {}
        self.held: list[Callable[[], None]] | None = None
        self.reads = 0

    def read(self, message: int, offset: int, done: Callable[[bytes | OSError], Any]) -> None:
        self.reads += 1
        content = self.files[message]
        piece = content if isinstance(content, OSError) else content[offset : offset + BUFFER]
        if self.held is None:
            self._post(done, piece)
        else:
            self.held.append(lambda: done(piece))


class Names:
    """A resolver that knows ``domains``: domain to [(host, addresses)], or a ResolveError."""

    def __init__(self) -> None:
        self.domains: dict[str, Any] = {}
        self.asked: list[str] = []

    def cached_hosts(self, domain: str) -> MailHosts | None:
        return None

    async def hosts(self, domain: str) -> MailHosts:
        self.asked.append(domain)
        found = self.domains[domain]
        if isinstance(found, Exception):
            raise found
        hosts = tuple(MailHost(name, 10, addresses) for name, addresses in found)
        return MailHosts(domain, hosts, 3600.0, "+".join(host.name for host in hosts))

    async def addresses(self, host: str) -> tuple[str, ...]:
        return tuple(address for _, addresses in self.domains[host] for address in addresses)


def outcome_settings(rules: dict[str, Rules], **settings: Any) -> OutcomeSettings:
    """Those of a relay whose streams have these rules for every account."""
    return OutcomeSettings(
        "mx1.relay.example",
        lambda account, stream: rules[stream],
        lambda: [Life("*", stream, of.schedule.expire) for stream, of in rules.items()],
        **settings,
    )


class Delivering:
    """A courier with all it needs, towards scripted hosts.  By default one source and the domain ``x.example``, whose
    one mail server is ``self.mx``."""

    def __init__(
        self,
        *,
        sources: dict[str, str] | None = None,
        weights: dict[str, int] | None = None,
        limit: int = 20,
        rate: Rate | None = None,
        tls: Any = "may",
        policy_of: PolicyOf | None = None,
        stream_of: StreamOf | None = None,
        reactor: Reactor | None = None,
        spool: Any = None,
        **settings: Any,
    ) -> None:
        self.reactor = reactor or Reactor()
        self.spool = spool or MemorySpool(self.reactor)
        self.identities = Identities()
        self.names = Names()
        sources = sources or {"s1": "192.0.2.1"}
        self.sources = {name: Source(name, (address,), f"{name}.relay.example") for name, address in sources.items()}
        self.weights = weights or dict.fromkeys(sources, 1)
        streams = {"bulk": Stream(), "urgent": Stream(priority=90)}
        self.streams = stream_of or (lambda account, name: streams[name])
        policy = Policy(tls, Terms(Limits(limit, rate)))
        self.policy_of = policy_of or (lambda domain, hosts: policy)
        rules = settings.pop("rules", dict.fromkeys(streams, Rules(Schedule((300.0, 600.0), 86400.0), "none")))
        settings.setdefault("outcomes", outcome_settings(rules))
        settings.setdefault("timeouts", Timeouts())
        settings.setdefault("client_tls", ClientTLS())
        self.settings = Settings(**settings)
        self.begin()
        self.mx = self.host("x.example", "203.0.113.1")
        self.reactor.pump()

    def begin(self) -> None:
        """Starts the courier, which knows nothing but what is in the spool."""
        self.pools = Pools(self.sources, {"default": self.weights})
        self.scheduler = Scheduler(self.streams, self.pools, 2000, *self.adaptive())
        self.router = Router(self.names, lambda domain: None, 25, self.policy_of, self.reactor.seconds)  # type: ignore[arg-type]
        self.courier = Courier(
            self.reactor,
            self.spool,  # type: ignore[arg-type]
            self.scheduler,
            self.pools,
            self.router,
            self.identities,
            self.settings,
            Random(1),
            self.reactor.seconds,
        )
        self.courier.startService()

    def adaptive(self) -> tuple[Any, ...]:
        """What the scheduler goes by besides: reactions, warm-up."""
        return ()

    def host(self, domain: str, address: str, **script: Any) -> Host:
        """One more mail server of a domain, behind those it has."""
        made = self.reactor.hosts[address] = Host(**script)
        self.names.domains.setdefault(domain, []).append((f"mx{address[-1]}.{domain}", (address,)))
        return made

    def delivery(self, to: str = "b@x.example", content: bytes = b"hello\r\n", **more: Any) -> Delivery:
        """A new delivery, on disk."""
        stream = more.pop("stream", "bulk")
        head = b"Subject: one\r\n\r\n"
        body: bytes | None = content
        in_file = more.pop("in_file", False)
        now = more.pop("received", self.reactor.seconds())
        steering = more.pop("steering", UNSTEERED)
        id_ = self.identities.block(now, 1)
        if in_file:
            self.spool.bodies.files[id_], body = content, None
        envelope = Envelope("a@crm.example", (Recipient(to),), **more)
        size = len(head) + len(content)
        message = Message(id_, now, "crm", "login", stream, envelope, Edits(), head, body, size, steering=steering)
        queue = queue_name("crm", stream, to.rpartition("@")[2])
        made = Delivery(id_ + 1, message, Recipient(to), queue, starts(steering, now))
        self.spool.put(made)
        return made

    def send(self, count: int = 1, to: str = "b@x.example", **more: Any) -> list[Delivery]:
        """So many deliveries received and told to the courier; then all that follows without time passing."""
        made = [self.delivery(to, **more) for _ in range(count)]
        self.courier.received(tuple(made))
        self.reactor.pump()
        return made

    def wait(self, seconds: float) -> None:
        self.reactor.wait(seconds)

    @property
    def evidence(self) -> Any:
        """Of the last record."""
        return self.spool.records[-1].evidence
