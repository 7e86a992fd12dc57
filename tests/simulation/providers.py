"""Mailbox providers, each a personality.  They judge by what reaches them, on the virtual clock, and keep exact books
that owe nothing to the relay's own: what came when from which source, and how much of it was more than they allow.

A provider is the mail servers of one operator; however many hosts and domains lead to it, its books are one.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.protocol import Protocol

FINE = ""  # the answer to what is not objected to
DROP = "(drops the connection)"
TICK = 1e-3  # seconds: what a provider's clock can tell apart
ROUND_TRIP = 0.05  # seconds


class Arrival(msgspec.Struct, frozen=True):
    """A message that was taken."""

    when: float
    source: str
    sender: str
    recipient: str


def always(now: float) -> bool:
    return True


def flapping(up: float, down: float, since: float) -> Callable[[float], bool]:
    """Well for so many seconds, then gone for so many, over and over."""
    return lambda now: (now - since) % (up + down) < up


def down_until(moment: float) -> Callable[[float], bool]:
    return lambda now: now >= moment


class Provider:
    """One that takes everything.  ``round_trip``: seconds until a reply is there; ``thinks``: seconds for each command,
    one after another; ``at_dot``: seconds for each message besides; ``up``: whether it is there at all; ``silent``: it
    swallows connections without a word."""

    handshake = ""

    def __init__(
        self,
        reactor: Any,
        *,
        round_trip: float = ROUND_TRIP,
        thinks: float = 0.0,
        at_dot: float = 0.0,
        up: Callable[[float], bool] = always,
        silent: bool = False,
    ) -> None:
        self.reactor = reactor
        self.round_trip = round_trip
        self.thinks = thinks
        self.at_dot = at_dot
        self.up = up
        self.silent = silent
        self.sessions: list[Session] = []  # open ones
        self.by_source: Counter[str] = Counter()  # of which
        self.most: Counter[str] = Counter()  # at once, by source, those it would not have included
        self.connections: list[float] = []  # when one was made
        self.turned_away: list[float] = []  # when one was refused by a machine that is down
        self.attempts: list[tuple[float, str]] = []  # MAIL commands: when, from which source
        self.arrived: list[Arrival] = []
        self.refusals: Counter[str] = Counter()  # by reply

    def now(self) -> float:
        now: float = self.reactor.seconds()
        return now

    # For the reactor.

    @property
    def open(self) -> int | None:
        if self.silent:
            return None
        if self.up(self.now()):
            return len(self.sessions) + 1
        self.turned_away.append(self.now())
        return 0

    def meet(self) -> "Session":
        return Session(self)

    # What a personality may say.  ``FINE``, ``DROP`` or a reply; 421 ends the session.

    def greets(self, session: "Session") -> str:
        return FINE

    def at_mail(self, session: "Session") -> str:
        return FINE

    def at_rcpt(self, session: "Session") -> str:
        return FINE

    def at_end(self, session: "Session") -> str:
        return FINE

    # What tests ask.

    def count(self, since: float = 0.0, until: float = float("inf"), *, source: str = "", sender: str = "") -> int:
        """Messages taken."""
        return sum(
            since <= a.when < until and source in ("", a.source) and sender in ("", a.sender) for a in self.arrived
        )

    def by_sender(self) -> Counter[str]:
        return Counter(arrival.sender for arrival in self.arrived)

    def largest(self, period: float) -> int:
        """The most messages that were begun in any such time, from one source."""
        return max((densest(times, period) for times in self._begun().values()), default=0)

    def _begun(self) -> dict[str, list[float]]:
        times: dict[str, list[float]] = defaultdict(list)
        for when, source in self.attempts:
            times[source].append(when)
        return times


def densest(times: list[float], period: float) -> int:
    """The largest number in any window of this length, of moments in order."""
    most, window = 0, deque[float]()
    for when in times:
        window.append(when)
        while window[0] <= when - period + TICK:
            window.popleft()
        most = max(most, len(window))
    return most


class Session(Protocol):
    """A provider's end of one connection.  Commands are judged one after another as they are read."""

    transport: Any

    def __init__(self, host: Provider) -> None:
        self.host = host
        self.source = self.sender = self.recipient = ""
        self.begun = 0  # messages
        self._buffer = b""
        self._content = self._busy = self._over = False
        self._said: list[str] = []

    def connectionMade(self) -> None:
        host = self.host
        self.source = self.transport.getPeer().host
        host.sessions.append(self)
        host.connections.append(host.now())
        host.by_source[self.source] += 1
        host.most[self.source] = max(host.most[self.source], host.by_source[self.source])
        refusal = host.greets(self)
        self._answer(refusal or "220 mx.example ESMTP")
        if refusal:
            self._over = True
        self._send()

    def connectionLost(self, reason: Any = None) -> None:
        self._over = True
        self._leave()

    def _leave(self) -> None:
        """A provider's count goes down when it lets go, which the other side sees later."""
        if self in self.host.sessions:
            self.host.sessions.remove(self)
            self.host.by_source[self.source] -= 1

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        self._read()

    def _read(self) -> None:
        while not self._busy and not self._over:
            ending = b"\r\n.\r\n" if self._content else b"\r\n"
            part, found, rest = self._buffer.partition(ending)
            if not found:
                break
            self._buffer = rest
            wait = self.host.thinks + (self.host.at_dot if self._content else 0.0)
            if wait:
                self._busy = True
                self._send()
                self.host.reactor.callLater(wait, self._thought, part)
            else:
                self._judge(part)
        self._send()

    def _thought(self, part: bytes) -> None:
        self._busy = False
        if not self._over:
            self._judge(part)
            self._read()

    def _judge(self, part: bytes) -> None:
        if not self.host.up(self.host.now()):
            self._over = True
            self.transport.loseConnection()
        elif self._content:
            self._content = False
            self._end()
        else:
            self._obey(part.decode())

    def _obey(self, line: str) -> None:
        verb = line[:4].upper()
        if verb == "EHLO":
            self._answer("250-mx.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 100000000")
        elif verb == "MAIL":
            self._mail(_address(line))
        elif verb == "RCPT":
            self._rcpt(_address(line))
        elif verb == "DATA":
            self._content = bool(self.recipient)
            self._answer("354 go on" if self.recipient else "503 5.5.1 no recipients")
        elif verb == "QUIT":
            self._answer("221 bye")
            self._over = True
        else:
            self._answer("250 ok" if verb == "RSET" else "500 5.5.1 what?")

    def _mail(self, sender: str) -> None:
        self.sender, self.recipient = sender, ""
        self.begun += 1
        self.host.attempts.append((self.host.now(), self.source))
        refusal = self.host.at_mail(self)
        self.sender = "" if refusal else sender
        self._answer(refusal or "250 2.1.0 ok")

    def _rcpt(self, recipient: str) -> None:
        if not self.sender:
            self._answer("503 5.5.1 MAIL first")
            return
        self.recipient = recipient
        refusal = self.host.at_rcpt(self)
        self.recipient = "" if refusal else recipient
        self._answer(refusal or "250 2.1.5 ok")

    def _end(self) -> None:
        refusal = self.host.at_end(self)
        if not refusal:
            self.host.arrived.append(Arrival(self.host.now(), self.source, self.sender, self.recipient))
        self._answer(refusal or "250 2.0.0 taken")

    def _answer(self, reply: str) -> None:
        if reply == DROP:
            self._over = True
            return
        if reply[0] in "45" and not reply.startswith("503"):
            self.host.refusals[reply] += 1
        self._said.append(reply + "\r\n")
        self._over = self._over or reply.startswith("421")

    def _send(self) -> None:
        """The replies so far are on their way, and behind them, when it is over, the end of the connection."""
        if self._said or self._over:
            said, self._said = "".join(self._said).encode(), []
            self.host.reactor.callLater(self.host.round_trip, self._arrive, said, self._over)
        if self._over:
            self._leave()

    def _arrive(self, said: bytes, last: bool) -> None:
        self.transport.write(said)
        if last:
            self.transport.loseConnection()


def _address(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]


class Limiter(Provider):
    """At most so many connections at once, and so many messages in any time of ``period`` seconds, from one source.
    What is more it refuses, and counts in ``violations``."""

    def __init__(self, reactor: Any, *, connections: int = 10**9, messages: int = 10**9, period: float = 60.0, **more):
        super().__init__(reactor, **more)
        self.allowed = connections
        self.messages = messages
        self.period = period
        self.violations = 0
        self._lately: dict[str, deque[float]] = defaultdict(deque)

    def greets(self, session: Session) -> str:
        if self.by_source[session.source] <= self.allowed:
            return FINE
        self.violations += 1
        return f"421 4.7.0 too many connections from {session.source}, try again later"

    def at_mail(self, session: Session) -> str:
        now, lately = self.now(), self._lately[session.source]
        while lately and lately[0] <= now - self.period + TICK:
            lately.popleft()
        if len(lately) >= self.messages:
            self.violations += 1
            return f"450 4.7.1 too many messages from {session.source}, slow down"
        lately.append(now)
        return FINE


class Greylister(Provider):
    """Takes a message only when the same source has tried the same sender and recipient so many seconds before."""

    def __init__(self, reactor: Any, *, wait: float = 300.0, **more: Any) -> None:
        super().__init__(reactor, **more)
        self.wait = wait
        self.first: dict[tuple[str, str, str], float] = {}
        self.passed: list[float] = []  # seconds between first try and arrival

    def at_rcpt(self, session: Session) -> str:
        triple = (session.source, session.sender, session.recipient)
        waited = self.now() - self.first.setdefault(triple, self.now())
        if waited < self.wait:
            return f"451 4.7.1 greylisted, try again in {self.wait:.0f} seconds"
        self.passed.append(waited)
        return FINE


class Blocklister(Provider):
    """Has enough of a source after so many messages, and for so many seconds; ``only``: of this one alone.
    ``at_connect``: it says so at once."""

    def __init__(
        self,
        reactor: Any,
        *,
        after: int,
        seconds: float,
        permanent: bool = True,
        at_connect: bool = False,
        only: str = "",
        **more: Any,
    ) -> None:
        super().__init__(reactor, **more)
        self.after = after
        self.seconds = seconds
        self.code = "550" if permanent else "450"
        self.at_connect = at_connect
        self.only = only
        self.blocked: dict[str, float] = {}  # source to when it ends
        self._taken: Counter[str] = Counter()

    def _blocks(self, source: str) -> bool:
        return self.blocked.get(source, 0.0) > self.now()

    def greets(self, session: Session) -> str:
        if self.at_connect and self._blocks(session.source):
            return f"421 4.7.1 Client host [{session.source}] blocked using bl.example"
        return FINE

    def at_mail(self, session: Session) -> str:
        source = session.source
        if self._blocks(source):
            return f"{self.code} {self.code[0]}.7.1 Client host [{source}] blocked using bl.example"
        self._taken[source] += self.only in ("", source)
        if self._taken[source] >= self.after:
            self._taken[source] = 0
            self.blocked[source] = self.now() + self.seconds
        return FINE


class Picky(Provider):
    """Wants nothing of some senders."""

    def __init__(self, reactor: Any, *unwanted: str, **more: Any) -> None:
        super().__init__(reactor, **more)
        self.unwanted = unwanted

    def at_mail(self, session: Session) -> str:
        return f"554 5.7.1 {session.sender} sends spam" if session.sender in self.unwanted else FINE


class Dropper(Provider):
    """Drops each connection at its n-th message: at MAIL, or when it has read the message and says nothing."""

    def __init__(self, reactor: Any, *, at: int, after_content: bool = False, **more: Any) -> None:
        super().__init__(reactor, **more)
        self.at = at
        self.after_content = after_content

    def at_mail(self, session: Session) -> str:
        return DROP if session.begun >= self.at and not self.after_content else FINE

    def at_end(self, session: Session) -> str:
        return DROP if session.begun >= self.at and self.after_content else FINE
