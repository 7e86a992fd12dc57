"""Why a queue does not move: the constraint that binds now, in words, and when it lifts.

Enter: the scheduler and a queue's name.  Leave: one ``Reason``.  What is asked is what the scheduler itself goes by.
"""

import msgspec

from relayd.queue.ready import PRIORITY
from relayd.queue.scheduler import Scheduler
from relayd.queue.state import Path, Queue
from relayd.shaping.reactions import FOREVER


class Reason(msgspec.Struct, frozen=True):
    """``constraint``: its kind, "" if nothing binds; ``until``: unix seconds, 0 where it is not for a time: something
    else has to end."""

    constraint: str
    words: str
    until: float = 0.0


def reason(scheduler: Scheduler, name: str, now: float) -> Reason:
    """What keeps the due deliveries of a queue."""
    queue = scheduler.queues.get(name)
    if queue is None:
        return Reason("", "nothing: it will be taken up at its due time")
    if queue.held and queue.rest_until > now:
        return Reason("hold", queue.reason, queue.rest_until if queue.rest_until < FOREVER else 0.0)
    if queue.rest_until > now:
        left = f"next try in {queue.rest_until - now:.0f} s"
        return Reason("dns", f"its domain cannot be looked up, {left}: {queue.reason}", queue.rest_until)
    if queue.routing:
        return Reason("dns", "the look-up of its domain is under way")
    if queue.waiting:
        return Reason("source", scheduler.pools.explain(scheduler.pool_of(queue)))
    paths = scheduler.paths_of(queue, now)
    if scheduler.restraints.blocked(queue, now) and paths:
        path = min(paths, key=lambda path: path.rest_until)
        return _rests(scheduler, queue, path, now)
    if queue.starved:
        return Reason("memory", _starved(scheduler, queue))
    found = next(filter(None, (_binding(scheduler, queue, path, now) for path in paths)), None)
    if found is not None:
        return found
    going = (scheduler.pools.overflow_of(scheduler.pool_of(queue), p.source) for p in paths if p.rest_until <= now)
    over = next(filter(None, going), "")
    return Reason("", f"nothing: it is on its way{_overflow(over, scheduler, queue)}")


def why(scheduler: Scheduler, name: str, now: float) -> str:
    """The same in words."""
    return reason(scheduler, name, now).words


def _rests(scheduler: Scheduler, queue: Queue, path: Path, now: float) -> Reason:
    who = _by(scheduler, queue, path)
    left = path.rest_until - now
    if path.failures:
        return Reason("rest", f"{who} rests, next try in {left:.0f} s: {path.reason}", path.rest_until)
    if path.rest_until >= FOREVER:
        return Reason("pause", f"{who} waits: {path.reason}")
    return Reason("pause", f"{who} waits, {left:.0f} s more: {path.reason}", path.rest_until)


def _starved(scheduler: Scheduler, queue: Queue) -> str:
    if queue.site is None or not scheduler.memory.crowds(queue):
        return "memory for ready deliveries is full, or too many are being read: it is in line"
    return f"{queue.site.share.loaded} deliveries to {queue.site.name} are ready, as many as may be: it is in line"


def _binding(scheduler: Scheduler, queue: Queue, path: Path, now: float) -> Reason | None:
    """The limit that holds the queue back on a path, None if none does."""
    if path.paced_until > now:
        rate = f"the rate {path.meter.limits.rate} of {_by(scheduler, queue, path)}"
        return Reason("rate", f"{rate}: the next in {path.paced_until - now:.1f} s", path.paced_until)
    stream = scheduler.stream_of(queue)
    for meter in path.starts[queue.lane][1] if queue.lane in path.starts else ():
        if words := meter.refusal(now):
            wait = meter.wait(now, urgent=stream.priority >= PRIORITY)
            ends = f": the next in {wait:.1f} s" if 0 < wait < float("inf") else ""
            return Reason("limit", words + ends, now + wait if ends else 0.0)
        if meter.line:
            return Reason("limit", f"others wait for {meter.name} too: it is in line")
    in_line = stream.priority < PRIORITY
    allowed = scheduler.sessions_allowed(path, in_line=in_line)
    who = _by(scheduler, queue, path)
    if path.at_work >= allowed:
        kept = "; one more is kept for priority mail" if allowed < scheduler.sessions_allowed(path) else ""
        few = _slow_start(path, allowed)
        return Reason("connections", f"all {allowed} sessions of {who} are busy{kept}{few}")
    if path.sessions >= allowed and len(path.ready) > path.opening:
        few = _slow_start(path, allowed)
        return Reason("connections", f"all {path.sessions} sessions of {who} are busy or being opened{few}")
    if path.ready and not path.idle:
        for meter in path.meters:
            if meter.wait_to_open(now, in_line=in_line) > 0 and (words := meter.refusal(now)):
                return Reason("connections", words)
    return None


def _slow_start(path: Path, allowed: int) -> str:
    """Words to add where not the configuration but the window sets the number."""
    limit = path.meter.limits.connections
    return f" (of {limit}: one more with each delivery it takes)" if allowed < limit - 1 and path.window < limit else ""


def _by(scheduler: Scheduler, queue: Queue, path: Path) -> str:
    over = scheduler.pools.overflow_of(scheduler.pool_of(queue), path.source)
    return f"{path.site} by source {path.source}{_overflow(over, scheduler, queue)}"


def _overflow(over: str, scheduler: Scheduler, queue: Queue) -> str:
    """Words to add if a path is not by a source of the queue's own pool."""
    return f", of {over!r}, the overflow of pool {scheduler.pool_of(queue)!r}" if over else ""
