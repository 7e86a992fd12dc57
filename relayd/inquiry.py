"""What operators ask of a running relay, answered from its rooms: queues, sources, one message's story, the audit.

In: the rooms that know, and the question.  Out: JSON-able values, or coroutines of them where the disk or the DNS has
to be asked.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relayd.blocklists import BY, Blocklists
from relayd.config import Config
from relayd.control.story import story
from relayd.delivery import Courier
from relayd.delivery.routing import Router
from relayd.destinations import Destinations
from relayd.directory import Balances, Directory, Drain
from relayd.egress.pools import Pools
from relayd.envelope import Delivery, queue_parts
from relayd.errors import InputError
from relayd.events import Event
from relayd.history import Found, Hit, Query, event_at, find, trace
from relayd.identity import read, show
from relayd.lease import odd
from relayd.local import replayed
from relayd.notation import hostname, patterns, show_duration
from relayd.queue.reasons import Reason, reason
from relayd.queue.scheduler import Scheduler
from relayd.queue.state import Queue
from relayd.records import decode
from relayd.resolver import ResolveError, Resolver
from relayd.shaping.limits import SCOPES, show_limits
from relayd.spool import NEVER, Audit, Spool
from relayd.spool.actions import holders
from relayd.spool.selection import BUCKETS, ages
from relayd.statistics import Figures, Settings, figures
from relayd.waiting import asked, ended

T = TypeVar("T")


async def queues(spool: Spool, scheduler: Scheduler, now: float, limit: int, account: str = "") -> list[dict[str, Any]]:
    """The longest queues, of all or of an account, and why each waits."""
    rows = []
    for name, count, due in await asked(spool.queue_summary, limit, account):
        owner, stream, domain, pool = queue_parts(name)
        found = _waits(due, now) or reason(scheduler, name, now)
        row = {"account": owner, "stream": stream, "domain": domain, "pool": pool, "count": count}
        told = {"constraint": found.constraint or "none", "why": found.words}
        rows.append({**row, "due": due if due < NEVER else None, **told})
    return rows


def _waits(due: float, now: float) -> Reason | None:
    """Why nothing of a queue is due."""
    if due >= NEVER:
        return Reason("hold", "all of it is held: relayctl queue release lets it go")
    return Reason("retry", f"it waits for its time, in {due - now:.0f} s", due) if due > now else None


class Summaries:
    """What waits, counted by what is asked for, from the spool's counters.  An answer counts for a while, ten times as
    long as it took to make: however many look on, a tenth of the time is spent on it at most."""

    def __init__(self, reactor: Any, spool: Spool, courier: Courier, wall: Callable[[], float]) -> None:
        self._reactor, self._spool, self._courier, self._wall = reactor, spool, courier, wall
        self._known: dict[str, tuple[float, list[dict[str, Any]]]] = {}

    async def ask(self, by: str, limit: int) -> list[dict[str, Any]]:
        until, rows = self._known.get(by, (0.0, []))
        began = self._reactor.seconds()
        if began >= until:
            rows = await self._count(by)
            self._known[by] = (self._reactor.seconds() + max(1.0, 10 * (self._reactor.seconds() - began)), rows)
        return rows[: limit + 1]

    async def _count(self, by: str) -> list[dict[str, Any]]:
        found = await asked(self._spool.read, ages, self._wall())
        sums: dict[str, list[int]] = {}
        all_ = [0] * (len(BUCKETS) + 2)
        for n, (name, held, counts) in enumerate(found):
            if n % 500 == 499:  # mail goes on meanwhile
                await deferLater(self._reactor, 0, lambda: None)
            row = sums.setdefault(self._key(by, name), [0] * len(all_))
            for i, count in enumerate((held, *counts)):
                row[i] += count
                all_[i] += count
        if by == "age":
            return [_summed("age", "all", all_)]
        largest = sorted(sums.items(), key=lambda item: (-sum(item[1][1:]), item[0]))
        return [_summed(by, "all", all_), *(_summed(by, key, row) for key, row in largest)]

    def _key(self, by: str, name: str) -> str:
        account, stream, domain, _ = queue_parts(name)
        if by in ("account", "stream", "domain", "age"):
            return {"account": account, "stream": stream, "domain": domain, "age": ""}[by]
        scheduler = self._courier.scheduler
        queue = scheduler.queues.get(name) or Queue(name)
        if by == "pool":
            return scheduler.pool_of(queue)
        if queue.site is not None:
            return queue.site.group
        site = self._courier.router.known(domain)
        return site.group if site else f"not looked up: {domain}"


def _summed(by: str, key: str, row: list[int]) -> dict[str, Any]:
    held, *counts = row
    columns = [f"{seconds // 60}m" for seconds in BUCKETS] + ["older"]
    return {by: key, "deliveries": sum(counts), "held": held, **dict(zip(columns, counts, strict=True))}


def sources(pools: Pools, scheduler: Scheduler, directory: Directory, blocklists: Blocklists) -> list[dict[str, Any]]:
    """Every source, whether it is in use or why not, where it is listed, and the sessions that go out by it."""
    sessions: dict[str, int] = {}
    for site in scheduler.sites.values():
        for path in site.paths.values():
            sessions[path.source] = sessions.get(path.source, 0) + path.sessions
    return [
        {
            "name": name,
            "address": list(source.addresses),
            "ehlo": source.ehlo,
            "pools": [pool for pool, weights in pools.pools.items() if name in weights],
            **_state(name, pools, directory),
            "listed": [listing.words() for listing in blocklists.of(name)],
            "sessions": sessions.get(name, 0),
        }
        for name, source in pools.sources.items()
    ]


def _state(name: str, pools: Pools, directory: Directory) -> dict[str, str]:
    if name in pools.out_of_use:
        return {"state": "out of use", "why": pools.out_of_use[name], "by": ""}
    row = directory.blocks.sources.get(name) or directory.drains.get(name)
    if row is not None:
        state = "drained" if isinstance(row, Drain) else "blocked"
        return {"state": state, "why": row.reason, "by": row.by}
    if name in pools.drained:
        return {"state": "drained", "why": pools.drained[name], "by": BY}
    return {"state": "in use", "why": "", "by": ""}


async def inspect(spool: Spool, courier: Courier, now: float, id: int) -> dict[str, Any]:
    """Everything known of a message, by its own id or a delivery's.  Raises InputError."""
    queued = await asked(spool.deliveries_of, id)
    records = await asked(spool.look, partial(trace, identity=queued[0].message.id if queued else id))
    if not records and not queued:
        raise InputError("id", f"no message or delivery {show(id)} is in the spool or in the records that are kept")
    message = show(queued[0].message.id) if queued else records[0].message
    held = await _held(spool, queued)
    told = story(message, records, queued, lambda delivery: (held(delivery) or _reason(courier, delivery, now)).words)
    for row in told["deliveries"]:
        if transcripts := courier.transcripts.of(read(row["id"]), row["recipient"]):
            row["transcripts"] = transcripts
    return told


async def _held(spool: Spool, queued: list[Delivery]) -> Callable[[Delivery], Reason | None]:
    """Who holds which of these, and why."""
    ids = [delivery.id for delivery in queued if delivery.due >= NEVER]
    by = await asked(spool.read, holders, ids) if ids else {}

    def reason_of(delivery: Delivery) -> Reason | None:
        if delivery.id not in by:
            return None
        job, who, why = by[delivery.id]
        return Reason("hold", f"it is held by {who}: {why} (job {job}); relayctl queue release lets it go")

    return reason_of


def _reason(courier: Courier, delivery: Delivery, now: float) -> Reason:
    """What holds a queued delivery back."""
    session = courier.carrying(delivery.id)
    if session:
        return Reason("", f"it is being delivered: {session}")
    wait = delivery.due - now
    if wait > 0 and not delivery.attempts:
        return Reason("schedule", f"it waits {wait:.0f} s for the time at which its sender wants it sent", delivery.due)
    if wait > 0:
        return Reason(
            "retry", f"it waits {wait:.0f} s for its next try after {delivery.attempts} attempts", delivery.due
        )
    return reason(courier.scheduler, delivery.queue, now)


class Archive:
    """What was: events and figures, each question on one of a few threads.  More questions than a few at a time are
    refused with InputError; one that finds little looks through so much and says where to go on."""

    MOST = 20  # questions that wait
    PATIENCE = 10.0  # seconds

    def __init__(self, spool: Path, node: str, settings: Callable[[], Settings], now: Callable[[], float]) -> None:
        self._records = spool / "records"
        self._counted = spool / "statistics.sqlite"
        self._node = node
        self._settings = settings
        self._now = now
        self._threads = ThreadPoolExecutor(2, "archive")
        self._waiting: set[Future[Any]] = set()

    def figures(self, asked: Figures) -> "Future[dict[str, Any]]":
        return self._ask(figures, self._counted, asked, self._settings(), self._now())

    def find(self, query: Query, limit: int, before: Hit | None) -> "Future[Found]":
        patience = self.PATIENCE
        return self._ask(lambda: find(self._records, query, self._node, limit=limit, before=before, patience=patience))

    def event(self, place: Hit, query: Query) -> "Future[Event | None]":
        return self._ask(event_at, self._records, place, query, self._node)

    def _ask(self, question: Callable[..., T], *args: Any) -> "Future[T]":
        self._waiting = {future for future in self._waiting if not future.done()}
        if len(self._waiting) >= self.MOST:
            raise InputError("", "too many questions about what was are asked at once: ask again in a moment")
        future = self._threads.submit(question, *args)
        self._waiting.add(future)
        return future

    def stop(self) -> None:
        """Ends with what is under way."""
        self._threads.shutdown(cancel_futures=True)


def replay(spool: Spool, loaded: Config, rules: list[str], since: float) -> "Deferred[dict[str, Any]]":
    """What these texts of rules, or without any those in force, would have done to what is recorded."""

    def read(blocks: Iterable[bytes]) -> dict[str, Any]:
        found = (decode(line) for block in blocks for line in block.splitlines())
        later = (record for record in found if record.time >= since)
        return replayed(rules, later, loaded.provider, loaded.reaction)

    return asked(spool.read_through, since, read)


QUEUES = 100  # of one domain that are told of


async def why(spool: Spool, courier: Courier, now: float, what: str) -> list[dict[str, Any]]:
    """What holds back a message or delivery (its id), or the mail to a domain: the constraint that binds, and when it
    lifts.  Raises InputError."""
    try:
        id = read(what)
    except ValueError:
        return await _why_of_domain(spool, courier, now, what)
    rows = []
    queued = await asked(spool.deliveries_of, id)
    held = await _held(spool, queued)
    for delivery in queued:
        found = held(delivery) or _reason(courier, delivery, now)
        queue, recipient = delivery.queue, delivery.recipient.address
        rows.append({"delivery": show(delivery.id), "recipient": recipient, "queue": queue, **_told(found, now)})
    if not rows:
        raise InputError("what", f"no delivery of {what} is queued: relayctl inspect {what} tells what became of it")
    return rows


async def _why_of_domain(spool: Spool, courier: Courier, now: float, what: str) -> list[dict[str, Any]]:
    try:
        domain = hostname(what)
    except ValueError:
        raise InputError("what", f"{what!r} is neither the id of a message or delivery nor a domain") from None
    rows = []
    for name, count, due in await asked(spool.queues_of, domain, QUEUES):
        found = _waits(due, now) or reason(courier.scheduler, name, now)
        rows.append({"queue": name, "count": count, **_told(found, now)})
    if not rows:
        raise InputError("what", f"no mail to {domain} is queued")
    return rows


def _told(found: Reason, now: float) -> dict[str, Any]:
    lifts = f"in {show_duration(max(1.0, found.until - now))}" if found.until > now else ""
    return {"constraint": found.constraint or "none", "until": found.until, "lifts": lifts, "why": found.words}


async def explain(
    router: Router, destinations: Destinations, scheduler: Scheduler, queue: Queue, now: float
) -> dict[str, Any]:
    """What holds for mail of a queue's account and stream to its domain: who takes it, by which sources it may leave,
    every limit with the place it was written down, and what reactions and warm-up say now.  Raises InputError."""
    try:
        site = router.known(queue.domain) or await router.site(queue.domain)
    except ResolveError as fault:
        raise InputError("domain", f"{queue.domain} cannot be looked up: {fault.reply}") from None
    hosts = tuple(dict.fromkeys(hop.mx for hop in sorted(site.hops, key=lambda hop: (hop.preference, hop.mx))))
    stream, terms = scheduler.stream_of(queue), site.policy.terms
    pool = stream.pool_for(queue.domain, hosts)
    group = terms.group or site.name
    own = [
        {"scope": scope, "limit": limit, "value": value, "table": layer.name, "where": "relayctl account shape"}
        for layer in stream.layers
        if not layer.at or layer.at in (group, *patterns(hosts[0] if hosts else ""))
        for scope in SCOPES
        for limit, value in show_limits(getattr(layer, scope)).items()
    ]
    sources = sorted(scheduler.pools.sources_of(pool))
    warmup = scheduler.restraints.warmup
    return {
        "domain": queue.domain,
        "hosts": list(hosts),
        "site": site.name,
        "provider": terms.group,
        "pool": pool,
        "priority": stream.priority,
        "sources": sources,
        "limits": destinations.explain(queue.domain, hosts) + own,
        "reactions": [
            f"{reaction.whom}: {reaction.words(now)}"
            for source in sources
            for reaction in scheduler.restraints.reactions.holds(source, group, queue.account, now)
        ],
        "warmup": list(filter(None, (warmup.words(source, group, now) if warmup else "" for source in sources))),
    }


async def audit(spool: Spool, balances: Balances) -> dict[str, Any]:
    """Whether every delivery and every unit is accounted for, or which are not."""
    before = dict(balances.leases)
    found: Audit = await asked(spool.audit)
    faults = found.faults + odd(before, found.leases, balances.leases)
    faults += await ended(balances.audit())
    days = [
        {"day": line.day, "account": line.account, "stream": line.stream, **line.terms, "queued": line.queued}
        for line in found.lines
    ]
    return {"clean": not faults, "days": days, "odd": faults}


async def domain_faults(resolver: Resolver, routed: Callable[[str], bool], domains: Iterable[str]) -> dict[str, str]:
    """Why domains take no mail: the names of the resolver's faults, "" for none.  All are looked up at once, those with
    a static route never."""
    asking = {name: Deferred.fromCoroutine(_domain_fault(resolver, name)) for name in domains if not routed(name)}
    return {name: await asking[name] if name in asking else "" for name in domains}


async def _domain_fault(resolver: Resolver, domain: str) -> str:
    try:
        await resolver.hosts(domain)
    except ResolveError as error:
        return type(error).__name__
    return ""
