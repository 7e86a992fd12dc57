"""A relay and its world: whole hours in seconds.  The clock jumps from one event to the next; the spool finds what is
due without looking at everything; providers stand behind as many hosts and domains as a test wants."""

from bisect import bisect_left, insort
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice, takewhile
from typing import Any

import msgspec
from twisted.internet.task import LoopingCall

from relayd.delivery.routing import Policy
from relayd.envelope import Delivery, Edits, Envelope, Message, Recipient, queue_name
from relayd.pulse import pulse
from relayd.queue.state import Stream
from relayd.shaping.limits import Layer, Limits, Terms, rate
from relayd.shaping.reactions import Active, Reactions
from relayd.shaping.rules import Rule, Rules
from relayd.warmup import Plan, Standing, Warmup
from tests.harness import Delivering, MemorySpool, Reactor
from tests.simulation.providers import Provider

HEAD, BODY = b"Subject: one\r\n\r\n", b"hello\r\n"


class Clockwork(Reactor):
    """Everything happens at the very moment it is to happen, and nothing in between.  ``lull``: while there is no
    connection, pulses may be late by so many seconds: thirty days of seconds are long."""

    def __init__(self, lull: float) -> None:
        super().__init__()
        self.lull = lull
        self.busy: Callable[[], Any] = lambda: True

    def wait(self, seconds: float) -> None:
        end = self.rightNow + seconds
        self.pump()
        while (moment := self._next()) <= end:
            self.rightNow = max(self.rightNow, moment)
            self.advance(0)
            self.pump()
        self.rightNow = end

    def _next(self) -> float:
        first = self.calls[0].getTime() if self.calls else float("inf")
        if not self.lull or self.busy():
            return first
        calls = (call.getTime() for call in self.calls if not isinstance(call.func, LoopingCall))
        return min(first + self.lull, next(calls, float("inf")))


class Shelf(MemorySpool):
    """A spool that keeps its deliveries in order: of their due times in each queue, and of reception.  Nobody's mail is
    steered."""

    def __init__(self, reactor: Reactor) -> None:
        super().__init__(reactor)
        self.queues: dict[str, list[tuple[float, int]]] = {}
        self.rows = Rows(self.queues)

    def settle(self, queue: str, done: Any) -> None:
        self._post(done, self._next_due(queue))

    def _next_due(self, queue: str) -> float:
        entries = self.queues.get(queue)
        return entries[0][0] if entries else float(10**12)

    def due_queues(self, after: tuple[float, str], now: float, limit: int, done: Any) -> None:
        found = [(q[0][0], name) for name, q in self.queues.items() if q and q[0][0] <= now]
        self._post(done, sorted(pair for pair in found if pair > after)[:limit])

    def due_deliveries(self, queue: str, now: float, limit: int, but: list[int], done: Any) -> None:
        skip, found = set(but), []
        for due, id_ in self.queues.get(queue, ()):
            if due > now or len(found) >= limit:
                break
            if id_ not in skip:
                found.append(self.rows[id_])
        self._post(done, found)

    def old_deliveries(self, account: str, stream: str, before: float, limit: int, done: Any) -> None:
        old = takewhile(lambda d: d.message.received < before, self.rows.values())
        mine = (d for d in old if d.message.stream == stream and account in ("*", d.message.account))
        self._post(done, list(islice(mine, limit)))

    def ended_deliveries(self, now: float, limit: int, done: Any) -> None:
        self._post(done, [])


class Rows(dict[int, Delivery]):
    """Deliveries by id, whose order in their queues follows."""

    def __init__(self, queues: dict[str, list[tuple[float, int]]]) -> None:
        super().__init__()
        self.queues = queues

    def __setitem__(self, id_: int, delivery: Delivery) -> None:
        if id_ in self:
            self._take_out(self[id_])
        insort(self.queues.setdefault(delivery.queue, []), (delivery.due, id_))
        super().__setitem__(id_, delivery)

    def __delitem__(self, id_: int) -> None:
        self._take_out(self[id_])
        super().__delitem__(id_)

    def _take_out(self, old: Delivery) -> None:
        order = self.queues[old.queue]
        del order[bisect_left(order, (old.due, old.id))]
        if not order:
            del self.queues[old.queue]

    def update(self, pairs: Any) -> None:  # type: ignore[override]
        for id_, delivery in pairs:
            self[id_] = delivery


def stream_of(accounts: dict[str, Stream]) -> Callable[[str, str], Stream]:
    """``bulk`` of an account is what it says, ``urgent`` the same with priority."""
    usual = Stream()
    urgent = {name: msgspec.structs.replace(own, priority=90) for name, own in {"": usual, **accounts}.items()}

    def find(account: str, stream: str) -> Stream:
        return urgent.get(account, urgent[""]) if stream == "urgent" else accounts.get(account, usual)

    return find


class World(Delivering):
    """A relay with so many sources, whose streams are ``bulk`` and ``urgent``, and no mailbox provider yet.
    ``connections`` and ``pace`` hold for each path, ``layers`` besides; ``terms``: of domains that have their own;
    ``accounts``: the streams of those that have theirs, ``urgent`` apart; ``reactions``: their rules; ``plans``: of
    sources in warm-up."""

    def __init__(
        self,
        *,
        sources: int = 1,
        connections: int = 20,
        pace: str = "",
        layers: tuple[Layer, ...] = (),
        terms: dict[str, Terms] | None = None,
        accounts: dict[str, Stream] | None = None,
        reactions: tuple[Rule, ...] = (),
        plans: dict[str, Plan] | None = None,
        lull: float = 0.0,
        **settings: Any,
    ) -> None:
        self._rules, self._plans = Rules(reactions), plans or {}
        self.held: dict[int, Active] = {}  # what the disk knows of reactions ...
        self.stood: dict[tuple[str, str], Standing] = {}  # ... and of warm-ups
        usual = Policy("may", Terms(Limits(connections, rate(pace) if pace else None), layers=layers))
        policies = {domain: Policy("may", own) for domain, own in (terms or {}).items()}
        reactor = Clockwork(lull)
        super().__init__(
            sources={f"s{n}": f"192.0.2.{n}" for n in range(1, sources + 1)},
            policy_of=lambda domain, hosts: policies.get(domain, usual),
            stream_of=stream_of(accounts or {}),
            reactor=reactor,
            spool=Shelf(reactor),
            **settings,
        )
        reactor.busy = lambda: self.courier.sessions
        self.names.domains.clear()
        self._addresses = 0
        pulse(reactor, self._tick).start(1.0)

    # What the service does.

    def adaptive(self) -> tuple[Reactions, Warmup]:
        self.reactions = Reactions(self._rules, list(self.held.values()))
        self.warmup = Warmup(list(map(msgspec.structs.replace, self.stood.values())), self._keep)
        self.warmup.configure(self._plans)
        return self.reactions, self.warmup

    def begin(self) -> None:
        super().begin()
        self.courier.reacted = self._reacted
        self.warmup.woken = self._warmed

    def _tick(self) -> None:
        self.warmup.tick(self.now)
        self._hold((), self.reactions.tick(self.now))

    def _reacted(self, began: tuple[Active, ...], ended: tuple[Active, ...]) -> None:
        self._hold(began, ended)
        self.scheduler.restraints.reshaped((*began, *ended), self.now)

    def _hold(self, began: tuple[Active, ...], ended: tuple[Active, ...]) -> None:
        for active in ended:
            self.held.pop(active.id, None)
        self.held |= {active.id: active for active in began}

    def _warmed(self, places: list[tuple[str, str]]) -> None:
        self.scheduler.restraints.warmed(places, self.now)
        self.reactor.callLater(0, self.courier.perform)

    def _keep(self, rows: list[Standing], gone: list[tuple[str, str]]) -> "Future[None]":
        future: Future[None] = Future()

        def write() -> None:
            for key in gone:
                self.stood.pop(key, None)
            self.stood.update({(row.source, row.group): msgspec.structs.replace(row) for row in rows})
            future.set_result(None)

        self.reactor.callFromThread(write)
        return future

    # What tests do and ask.

    @property
    def now(self) -> float:
        return self.reactor.rightNow

    def serve(self, provider: Provider, *domains: str, mx: tuple[str, ...] = ()) -> None:
        """Domains of a provider, and the names of its hosts."""
        self.mail_hosts(dict.fromkeys(mx or (f"mx.{domains[0]}",), provider), *domains)

    def mail_hosts(self, hosts: dict[str, Provider], *domains: str) -> None:
        """Domains, and who stands behind each of their hosts."""
        found = []
        for name, provider in hosts.items():
            self._addresses += 1
            address = f"203.0.{self._addresses // 256}.{self._addresses % 256}"
            self.reactor.hosts[address] = provider  # type: ignore[assignment]
            found.append((name, (address,)))
        self.names.domains.update(dict.fromkeys(domains, found))

    def backlog(
        self, count: int, domain: str = "x.example", *, account: str = "crm", stream: str = "bulk"
    ) -> list[int]:
        """So many deliveries to one domain, each to a recipient of its own, received now."""
        now, size = self.now, len(HEAD) + len(BODY)
        first = self.identities.block(now, count)
        envelope = Envelope(f"{account}@crm.example", (Recipient(f"u@{domain}"),))
        message = Message(first, now, account, "login", stream, envelope, Edits(), HEAD, BODY, size)
        queue = queue_name(account, stream, domain)
        made = [
            Delivery(id_, message, Recipient(f"u{id_ - first}@{domain}"), queue, now)
            for id_ in range(first + 1, first + count + 1)
        ]
        self.spool.put(*made)
        self.courier.received(tuple(made))
        return [delivery.id for delivery in made]

    def until(self, fact: Callable[[], Any], within: float) -> float:
        """Lets time pass until something is so; gives how many seconds that took."""
        begun = self.now
        while not fact():
            assert self.now - begun < within, f"not within {within} s"
            self.wait(0.1)
        return self.now - begun

    def restart(self) -> None:
        """The relay is stopped and another one started: it knows what is on disk."""
        stopped: list[None] = []
        self.warmup.stop()
        self.courier.stopService().addCallback(stopped.append)
        self.until(lambda: stopped, 120.0)
        self.begin()
