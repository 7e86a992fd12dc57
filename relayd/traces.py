"""Traces: what is said in live sessions that an operator wants to hear, for a time.

In: filters; sessions, new ones and those that are open, while a trace is on.  Out: lines, numbered in the order in
which they were said, without secrets and contents.  What a filter asks for may show only in the middle of a session, so
each is listened to until it is known; of one that does not fit nothing is kept.  Everything is bounded: sessions
listened to, lines of each, bytes of a trace, traces that are kept.  While none is on, nobody listens.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import msgspec

from relayd.address import domain_of
from relayd.delivery import Courier
from relayd.delivery.session import PeerSession
from relayd.errors import InputError
from relayd.listener import ListenerService, Session
from relayd.sessions import Filter, Sessions
from relayd.smtp.server import ServerSession
from relayd.smtp.transaction import Transaction
from relayd.smtp.watched import Brief, Item, WatchedSession, described, recipient_of, shown

RUNNING = 10  # traces at a time
KEPT = 20  # traces, with those that are over
EARS = 2000  # sessions that are listened to at a time
EARLY = 200  # lines of a session that is not known to fit yet
OF_SESSION = 32 << 10  # bytes of a session's lines
OF_TRACE = 2 << 20
PAGE = 500  # lines of one answer


class Line(NamedTuple):
    n: int
    time: float
    session: str
    who: str
    text: str


class Ear:
    """Listens to one session: the log of its machine.  ``recipients``: those that were named in it."""

    def __init__(self, way: Literal["in", "out"], session: Any, name: str, traces: "Traces", brief: Brief) -> None:
        self.way = way
        self.session = session
        self.name = name
        self.recipients: set[str] = set()
        self.lines: deque[tuple[float, str, str]] = deque(maxlen=EARLY)  # while it is not known who wants them
        self.over = False
        self._traces = traces
        self.brief = brief

    def append(self, item: Item) -> None:
        self.brief.append(item)
        if isinstance(item, float):
            return
        if len(self.recipients) < EARLY:
            self.recipients.update(address.lower() for address in recipient_of(item))
        for who, text in shown(item):
            self._traces.said(self, who, text)

    def content(self, transaction: Transaction) -> None:
        self.brief.content(transaction)
        head = b"" if transaction.content is None else transaction.content[: 64 << 10]
        self._traces.said(self, "C", f"({described(head, transaction.size)})")

    def facts(self) -> dict[str, Any]:
        """Whose session it is."""
        session = self.session
        if self.way == "in":
            return {"id": self.name, "way": "in", "peer": session.peer, "login": session.login}
        where = {"peer": session.hop.address, "at": session.hop.mx, "site": session.site.group}
        return {"id": self.name, "way": "out", **where, "source": session.path.source}

    def __iter__(self) -> Any:
        return iter(self.brief)


class Trace:
    """One trace.  ``ears``: the sessions it has taken up, by name, with the bytes of their lines."""

    def __init__(
        self, id: int, wanted: Filter, recipient: str, until: float, most: int, by: str, reason: str, since: float
    ) -> None:
        self.id = id
        self.wanted = wanted
        self.recipient = recipient
        self.until = until
        self.most = most
        self.by = by
        self.reason = reason
        self.since = since
        self.ended = 0.0
        self.why = ""
        self.ears: dict[str, int] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.lines: list[Line] = []
        self.size = 0

    @property
    def on(self) -> bool:
        return not self.ended

    def row(self) -> dict[str, Any]:
        given = {name: value for name, value in msgspec.structs.asdict(self.wanted).items() if value}
        given |= {"recipient": self.recipient} if self.recipient else {}
        return {
            "id": self.id,
            "state": "on" if self.on else f"over: {self.why}",
            "filter": ", ".join(f"{name} {value}" for name, value in given.items()) or "all sessions",
            "sessions": len(self.ears),
            "most": self.most,
            "lines": len(self.lines),
            "since": self.since,
            "until": self.until,
            "by": self.by,
            "reason": self.reason,
        }


class Traces:
    """See the module.  ``wall``: unix seconds."""

    def __init__(
        self,
        sessions: Sessions,
        listeners: Callable[[], Iterable[ListenerService]],
        courier: Courier,
        wall: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._listeners = listeners
        self._courier = courier
        self._wall = wall
        self._traces: dict[int, Trace] = {}
        self._ears: dict[Any, Ear] = {}
        self._last = 0

    # What operators ask.

    def start(self, wanted: Filter, recipient: str, seconds: float, most: int, by: str, reason: str) -> dict[str, Any]:
        """Raises InputError."""
        if len(self._on()) >= RUNNING:
            raise InputError("", f"{RUNNING} traces are on: relayctl trace stop ends one")
        if not most:
            raise InputError("limit", "is no session at all")
        self._last += 1
        now = self._wall()
        trace = Trace(self._last, wanted, recipient.lower(), now + seconds, most, by, reason, now)
        self._traces[trace.id] = trace
        over = [old for old in self._traces.values() if not old.on]
        for old in over[: max(0, len(self._traces) - KEPT)]:
            del self._traces[old.id]
        self.attach()
        return trace.row()

    def stop(self, id: int) -> dict[str, Any]:
        trace = self.get(id)
        self._end(trace, "it was stopped")
        self._let_go()
        return trace.row()

    def get(self, id: int) -> Trace:
        """Raises InputError."""
        found = self._traces.get(id)
        if found is None:
            raise InputError("id", f"there is no trace {id}: relayctl trace list shows those there are")
        return found

    def listed(self) -> list[dict[str, Any]]:
        """The latest first."""
        return [trace.row() for trace in reversed(self._traces.values())]

    def show(self, id: int) -> dict[str, Any]:
        """Session by session."""
        trace = self.get(id)
        by_session: dict[str, list[str]] = {name: [] for name in trace.ears}
        start: dict[str, float] = {}
        for line in trace.lines:
            after = line.time - start.setdefault(line.session, line.time)
            by_session[line.session].append(f"{after:8.3f} {f'{line.who}: ' if line.who else ''}{line.text}")
        rows = [{**trace.facts[name], "lines": lines} for name, lines in by_session.items()]
        return {**trace.row(), "heard": rows}

    def tail(self, id: int, after: int) -> dict[str, Any]:
        """Lines behind that number; ``over``: there will be no more."""
        trace = self.get(id)
        found = trace.lines[after : after + PAGE]  # the number of a line is its place and one
        rows = [line._asdict() for line in found]
        last = found[-1].n if found else min(after, len(trace.lines))
        return {"lines": rows, "next": last, "over": not trace.on and last >= len(trace.lines)}

    # The clock.

    def tick(self) -> None:
        """Call about once a second."""
        if not self._ears and not self._on():
            return
        now = self._wall()
        for trace in self._on():
            if now >= trace.until:
                self._end(trace, "its time is up")
        for session, ear in list(self._ears.items()):
            for trace in self._on():
                if ear.name in trace.ears:
                    trace.facts[ear.name] = ear.facts()  # by now perhaps it has logged in
            gone = session.machine.closed if ear.way == "in" else session.lost or session not in self._courier.sessions
            if gone:
                self.said(ear, "", "(the session has ended)")
                ear.over = True
                del self._ears[session]
        for trace in self._on():
            if len(trace.ears) >= trace.most and not any(ear.name in trace.ears for ear in self._ears.values()):
                self._end(trace, f"{trace.most} sessions were heard to their end")
        self._let_go()

    def attach(self) -> None:
        """Listens wherever a trace that is on may want it: call it again when there are other listeners."""
        ways = {trace.wanted.way for trace in self._on()}
        inward, outward = bool(ways & {"", "in"}), bool(ways & {"", "out"})
        for listener in self._listeners():
            listener.factory.watch = self._hear if inward else None
        self._courier.watch = self._hear_peer if outward else None
        for _, session in self._sessions.of_clients() if inward else ():
            self._hear(session)
        for peer in list(self._courier.sessions) if outward else ():
            self._hear_peer(peer)

    # Listening.

    def _hear(self, session: Session) -> None:
        if session in self._ears or session.machine.closed or len(self._ears) >= EARS:
            return

        def may(wanted: Filter) -> bool:
            return not (wanted.site or wanted.source) and self._sessions.fits(session, Filter(peer=wanted.peer))

        if not self._open("in", may):
            return
        ear = self._ears[session] = Ear("in", session, session.id, self, Brief(maxlen=1))
        machine: Any = session.machine
        machine.__class__ = WatchedSession
        machine.watch(ear)

    def _hear_peer(self, session: PeerSession) -> None:
        if session in self._ears or session.lost or len(self._ears) >= EARS:
            return

        def may(wanted: Filter) -> bool:
            known = Filter(peer=wanted.peer, site=wanted.site, source=wanted.source)
            return not wanted.login and self._sessions.fits_peer(session, known)

        if self._open("out", may):
            brief = session.machine.log
            ear = self._ears[session] = Ear("out", session, f"o{session.name}", self, brief)
            session.machine.log = ear

    def _open(self, way: str, may: Callable[[Filter], bool]) -> bool:
        """Whether a trace has room for a session of which not everything is known yet."""
        room = (t.wanted for t in self._on() if t.wanted.way in ("", way) and len(t.ears) < t.most)
        return any(map(may, room))

    def said(self, ear: Ear, who: str, text: str) -> None:
        """A line of a session."""
        if ear.over:
            return
        now = self._wall()
        wanting = 0
        for trace in self._on():
            if ear.name in trace.ears:
                self._note(trace, ear.name, now, who, text)
            elif len(trace.ears) < trace.most and self._fits(trace, ear):
                trace.ears[ear.name] = 0
                trace.facts[ear.name] = ear.facts()
                for then, by, earlier in ear.lines:
                    self._note(trace, ear.name, then, by, earlier)
                self._note(trace, ear.name, now, who, text)
            elif len(trace.ears) < trace.most:
                wanting += 1
        if wanting:
            ear.lines.append((now, who, text))

    def _fits(self, trace: Trace, ear: Ear) -> bool:
        wanted = trace.wanted
        if trace.recipient and trace.recipient not in ear.recipients:
            return False
        if wanted.domain and wanted.domain not in {domain_of(address) for address in ear.recipients if "@" in address}:
            return False
        plain = msgspec.structs.replace(wanted, domain="")
        if ear.way == "in":
            return wanted.way != "out" and self._sessions.fits(ear.session, plain)
        return wanted.way != "in" and self._sessions.fits_peer(ear.session, plain)

    def _note(self, trace: Trace, session: str, time: float, who: str, text: str) -> None:
        size = len(text) + 20
        if trace.ears[session] > OF_SESSION:
            return
        if trace.ears[session] + size > OF_SESSION:
            who, text = "", "(more was said: that is all that is kept of a session)"
        trace.ears[session] += size
        trace.size += size
        trace.lines.append(Line(len(trace.lines) + 1, time, session, who, text))
        if trace.size >= OF_TRACE:
            self._end(trace, f"it has {OF_TRACE >> 20} MB of lines")

    def _end(self, trace: Trace, why: str) -> None:
        if trace.on:
            trace.ended, trace.why = self._wall(), why

    def _on(self) -> list[Trace]:
        return [trace for trace in self._traces.values() if trace.on]

    def _let_go(self) -> None:
        """Sessions that no trace wants any more are as they were."""
        if self._on():
            return
        for session, ear in self._ears.items():
            ear.over = True
            if ear.way == "in":
                session.machine.__class__ = ServerSession
            else:
                session.machine.log = ear.brief
        self._ears.clear()
        self.attach()
