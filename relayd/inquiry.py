"""What operators ask of a running relay, answered from its rooms: queues, sources, one message's story, the audit.

In: the rooms that know, and the question.  Out: JSON-able values, or coroutines of them where the disk or the DNS has
to be asked.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from twisted.internet.defer import Deferred

from relayd.blocklists import BY, Blocklists
from relayd.config import Config
from relayd.control.story import story
from relayd.delivery import Courier
from relayd.directory import Balances, Drains
from relayd.egress.pools import Pools
from relayd.envelope import Delivery
from relayd.errors import InputError
from relayd.identity import received_at, show
from relayd.lease import odd
from relayd.local import replayed
from relayd.queue.scheduler import Scheduler
from relayd.records import Record, decode
from relayd.resolver import ResolveError, Resolver
from relayd.spool import Audit, Spool


async def queues(spool: Spool, scheduler: Scheduler, now: float, limit: int) -> list[dict[str, Any]]:
    """The longest queues, and why each waits."""
    rows = []
    for name, count, due in await asked(spool.queue_summary, limit):
        account, stream, domain = name.split("/", 2)
        why = f"waits for its time, in {due - now:.0f} s" if due > now else scheduler.why(name, now)
        rows.append({"account": account, "stream": stream, "domain": domain, "count": count, "due": due, "why": why})
    return rows


def sources(pools: Pools, scheduler: Scheduler, drains: Drains, blocklists: Blocklists) -> list[dict[str, Any]]:
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
            **_state(name, pools, drains),
            "listed": [listing.words() for listing in blocklists.of(name)],
            "sessions": sessions.get(name, 0),
        }
        for name, source in pools.sources.items()
    ]


def _state(name: str, pools: Pools, drains: Drains) -> dict[str, str]:
    if name in pools.out_of_use:
        return {"state": "out of use", "why": pools.out_of_use[name], "by": ""}
    drain = drains.get(name)
    if drain is not None:
        return {"state": "drained", "why": drain.reason, "by": drain.by}
    if name in pools.drained:
        return {"state": "drained", "why": pools.drained[name], "by": BY}
    return {"state": "in use", "why": "", "by": ""}


async def inspect(spool: Spool, courier: Courier, now: float, id: int) -> dict[str, Any]:
    """Everything known of a message, by its own id or a delivery's.  Raises InputError."""
    queued = await asked(spool.deliveries_of, id)
    message = show(queued[0].message.id) if queued else ""
    since = received_at(id) - 5
    needle = message or show(id)
    records = await _records_of(spool, needle, since)
    if not records and not queued:
        raise InputError("id", f"no message or delivery {show(id)} is in the spool or in the records that are kept")
    if not message:
        message = records[0].message
        if message != needle:
            records = await _records_of(spool, message, since)
    return story(message, records, queued, lambda delivery: _why(courier, delivery, now))


async def _records_of(spool: Spool, id: str, since: float) -> list[Record]:
    """The records that name a message or delivery, oldest first."""
    lines = await asked(spool.find_records, id.encode(), since)
    found = [record for record in map(decode, lines) if id in (record.message, record.delivery)]
    return sorted(found, key=lambda record: record.time)


def _why(courier: Courier, delivery: Delivery, now: float) -> str:
    """What holds a queued delivery back."""
    session = courier.carrying(delivery.id)
    if session:
        return f"it is being delivered: {session}"
    wait = delivery.due - now
    if wait > 0 and not delivery.attempts:
        return f"it waits {wait:.0f} s for the time at which its sender wants it sent"
    if wait > 0:
        return f"it waits {wait:.0f} s for its next try after {delivery.attempts} attempts"
    return courier.scheduler.why(delivery.queue, now)


def replay(spool: Spool, loaded: Config, rules: list[str], since: float) -> "Deferred[dict[str, Any]]":
    """What these texts of rules, or without any those in force, would have done to what is recorded."""

    def read(blocks: Iterable[bytes]) -> dict[str, Any]:
        found = (decode(line) for block in blocks for line in block.splitlines())
        later = (record for record in found if record.time >= since)
        return replayed(rules, later, loaded.provider, loaded.reaction)

    return asked(spool.read_through, since, read)


async def audit(spool: Spool, balances: Balances) -> dict[str, Any]:
    """Whether every delivery and every unit is accounted for, or which are not."""
    before = dict(balances.leases)
    found: Audit = await asked(spool.audit)
    faults = found.faults + odd(before, found.leases, balances.leases)
    faults += await _done(balances.audit())
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


def asked(question: Callable[..., None], *args: Any) -> "Deferred[Any]":
    """A question that is answered by a call, as a Deferred of its answer."""
    answer: Deferred[Any] = Deferred()

    def done(result: Any) -> None:
        if isinstance(result, Exception):
            answer.errback(result)
        else:
            answer.callback(result)

    question(*args, done)
    return answer


def _done(future: "Future[Any]") -> "Deferred[Any]":
    """A change of the directory, which ends on the main thread, as a Deferred."""
    return asked(lambda done: future.add_done_callback(lambda future: done(future.exception() or future.result())))
