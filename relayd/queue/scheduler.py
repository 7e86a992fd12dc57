"""The scheduler: which delivery may go now, on which path, and what every other one waits for.

Enter: receptions, what the spool says is due, what DNS says of a domain, what became of sessions and attempts.
Leave: decisions for the shell to perform (``Poll``, ``Pull``, ``Settle``, ``Route``, ``Work``), deliveries for sessions
to carry (``take``), and the reason why a queue does not move (``why``).

Only *eligible* queues are in memory, and of each at most a handful of deliveries; the rest stays on disk and is pulled
as it goes.  A queue that may not go (its path rests, its domain cannot be looked up) is not read at all, and waiting
rewrites no row.  What is not in memory is found again by walking the queues' next due times in order, from a cursor.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from heapq import heappop, heappush
from typing import Protocol

from relayd.envelope import Delivery
from relayd.message.steering import starts
from relayd.queue.decisions import Decision, Poll, Pull, PutOff, Retire, Route, Settle, Work
from relayd.queue.limiter import Limiter
from relayd.queue.memory import PULL, RESERVE, TWICE, Memory
from relayd.queue.meter import NEVER, Meter
from relayd.queue.ready import PRIORITY
from relayd.queue.state import Path, Queue, Site, Stream, Waiting
from relayd.shaping.limits import Terms
from relayd.shaping.reactions import Active, Reactions, changes_at
from relayd.shaping.rules import Rules
from relayd.warmup import Warmup

QUEUES = 200_000  # queues in memory
PAGE = 500  # queues in one step of the walk
LINGER = 5.0  # seconds a queue stays in memory after its last delivery
RESCAN = 600.0  # seconds after which the walk starts over, so that nothing missed stays missed
LOOK = 60.0  # seconds after which a queue that never empties is looked at for retries that fell due
RECHECK = 10.0  # seconds after which a queue without a source looks for one again
OUTAGE = 120.0  # seconds without any success anywhere, while so many fail, after which the fault is taken to be ours
SEVERAL = 3
LONG = 600.0  # seconds after which what warm-up holds back is looked at again
MOMENT = 2.0  # seconds that a delivery waits in memory for warm-up to know
CAP = 60.0  # seconds for which a site that refused one more session is believed
REST = (60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)  # seconds a path rests after so many failures in a row


_TERMS = Terms()
StreamOf = Callable[[str, str], Stream]  # of an account, by name
MayGo = Callable[[Delivery, float], bool]


def _any_time(delivery: Delivery, now: float) -> bool:
    return True


class Pools(Protocol):
    """``choose``: (pool, source of the last attempt, sources that must not be used now) -> source, or None; ``peek``:
    only ask.  ``explain``: why there is none.  ``overflow_of``: the other pool that a source was chosen from, or "".
    ``sources_of``: those a delivery of the pool may have gone by.  ``having``: the pools that have a source.
    ``known``: whether there is such a pool."""

    def choose(self, pool: str, last: str, avoid: set[str], *, peek: bool = False) -> str | None: ...
    def explain(self, pool: str) -> str: ...
    def overflow_of(self, pool: str, source: str) -> str: ...
    def sources_of(self, pool: str) -> Collection[str]: ...
    def having(self, source: str) -> list[str]: ...
    def known(self, pool: str) -> bool: ...


class Scheduler:
    """See the module.  ``sessions`` is what all paths may have together; ``held``: why nothing goes out of a queue at
    all, "" if it does; ``lineage``: an account and those above it, whose suspensions by hand bear on it too."""

    def __init__(
        self,
        streams: StreamOf,
        pools: Pools,
        sessions: int,
        reactions: Reactions | None = None,
        warmup: Warmup | None = None,
    ) -> None:
        self.streams = streams
        self.reactions = reactions or Reactions(Rules())
        self.warmup = warmup
        self.pools = pools
        self.sessions_limit = sessions
        self.rest: tuple[float, ...] = REST
        self.sessions = 0
        self.stopping = False
        self.queues: dict[str, Queue] = {}
        self.sites: dict[str, Site] = {}
        self._groups: dict[str, dict[str, Site]] = {}  # sites by their group
        self.memory = Memory()
        self._decisions: list[Decision] = []
        self._hungry: dict[Path, None] = {}  # paths that wait for one of all sessions to end
        self._lingering: deque[tuple[float, str]] = deque()
        self._resting: list[tuple[float, str, str]] = []
        self.limiter = Limiter(self.reactions)
        self.held: Callable[[Queue], str] = lambda queue: ""
        self.lineage: Callable[[str], tuple[str, ...]] = lambda account: (account,)
        self._waking: dict[str, Meter[Path]] = {}  # meters by name, of those that have a time in ``_resting``
        self._warm: dict[int, float] = {}  # when deliveries under way by a source in warm-up started
        self._metered = False  # whether any start has more limits than its path's rate
        self._woken = 0.0  # when ``wake`` was last called
        self._cursor = (-1.0, "")
        self._polling = False
        self._rescan = RESCAN
        self._failing: set[str] = set()  # sites without a session and queues without a site, at their last try
        self._last_success = 0.0  # when any session became ready or any domain was found

    def reconfigure(self, streams: StreamOf, pools: Pools, sessions: int, now: float) -> None:
        """What holds from now on.  Deliveries that are ready find their sources anew, queues their sites."""
        self.streams = streams
        self.pools = pools
        self.sessions_limit = sessions
        for queue in self.queues.values():
            queue.site_until = 0.0
            if queue.held:  # by what may not be any more
                queue.held, queue.rest_until = False, 0.0
        self._metered = False
        sites = list(self.sites.values())
        for site in sites:
            site.doubtful = True
            for path in site.paths.values():
                self._equip(path, site, now)
        for path in [path for site in sites for path in site.paths.values()]:
            self.reassign(path, now)
        self.source_back(now)

    def source_back(self, now: float) -> None:
        """A source can be used again: who waits for one looks at once."""
        for queue in list(self.queues.values()):
            if queue.waiting:
                self._reroute(queue, now)
            else:
                self._pull(queue, now)

    def source_gone(self, source: str, now: float) -> None:
        """A source is not to be used any more: what is ready for it finds another, what is under way ends as it may."""
        for site in list(self.sites.values()):
            if source in site.paths:
                self.reassign(site.paths[source], now)

    def relimited(self, now: float) -> None:
        """Accounts have other limits of their own: who waits for those of before looks at them."""
        self._metered = True
        for site in list(self.sites.values()):
            for path in list(site.paths.values()):
                path.ready.call_all()
                self._work(path, now)

    def decisions(self) -> list[Decision]:
        """Takes what has been decided since the last call, in order."""
        decided, self._decisions = self._decisions, []
        return decided

    # What the spool says.

    def received(self, deliveries: Iterable[Delivery], now: float) -> None:
        """New deliveries that are on disk: straight to their paths, if they are due and nothing older waits before
        them.  What is to go later is found like a retry, by its queue's next due time."""
        for delivery in deliveries:
            if delivery.due > now:
                continue
            if delivery.queue not in self.queues and len(self.queues) >= QUEUES:
                self._rescan = min(self._rescan, now + RECHECK)
                continue
            queue = self._queue(delivery.queue)
            if queue.pulling:
                queue.again = True
            elif delivery.id in queue.loaded:
                continue  # a pull that ended before this was told has brought it
            elif queue.more or not self._may_load(queue, now):
                queue.more = True
                self._pull(queue, now)
            else:
                self._load(queue, delivery, now)

    def polled(self, found: list[tuple[float, str]], limit: int, now: float) -> None:
        """Queues due, in the order of the walk."""
        self._polling = False
        for due, name in found:
            self._cursor = (due, name)
            queue = self._queue(name)
            queue.more = True
            self._pull(queue, now)
        if len(found) >= limit:
            self._poll(now)

    def pulled(self, name: str, deliveries: list[Delivery], limit: int, now: float) -> None:
        """Due deliveries of a queue."""
        queue = self._pull_ended(name, limit)
        if queue is None:
            return
        gone, queue.gone = queue.gone, set()
        queue.more = len(deliveries) >= limit or queue.again
        queue.again = False
        queue.look = now + LOOK
        for delivery in deliveries:
            if delivery.id in gone:
                queue.more = True  # put back meanwhile, perhaps: the spool knows
            elif delivery.id not in queue.loaded:
                self._load(queue, delivery, now)
        self._pull(queue, now)
        self._linger(queue, now)
        self._feed_starved(now)

    def pull_failed(self, name: str, limit: int, now: float) -> None:
        """The spool could not be read: asked again in a while."""
        queue = self._pull_ended(name, limit)
        if queue is not None:
            queue.gone.clear()
            queue.more = True
            heappush(self._resting, (now + RECHECK, "queue", name))

    def hold(self, delivery: Delivery) -> bool:
        """Takes a delivery that is on disk out of everybody's reach until ``done``; False if somebody has it."""
        queue = self._queue(delivery.queue)
        if delivery.id in queue.loaded:
            return False
        self.memory.add(queue, delivery)
        return True

    def under_way(self, name: str, ids: Collection[int]) -> set[int]:
        """Which of these somebody has who cannot be asked for them: a session, or the disk that is to keep them."""
        queue = self.queues.get(name)
        loaded = queue.loaded.intersection(ids) if queue else set()
        if queue is None or not loaded:
            return set()
        owner = self.stream_of(queue).account or queue.account
        for path in queue.site.paths.values() if queue.site else ():
            loaded.difference_update(d.id for d in path.ready.of_lane(owner, queue.lane))
        return loaded.difference(d.id for d in queue.waiting)

    def seize(self, name: str, ids: Collection[int]) -> list[int]:
        """Takes deliveries of a queue that are on disk out of everybody's reach until ``let_go``, those that are ready
        but not under way included; gives those it got."""
        queue = self._queue(name)
        wanted = queue.loaded.intersection(ids)
        if wanted:
            ready = [d for d in queue.waiting if d.id in wanted]
            if ready:
                queue.waiting = [d for d in queue.waiting if d.id not in wanted]
            owner = self.stream_of(queue).account or queue.account
            for path in queue.site.paths.values() if queue.site else ():
                ready += path.ready.take_out(owner, queue.lane, wanted)
            for delivery in ready:
                self._evict(queue, delivery)
        got = [identity for identity in ids if identity not in queue.loaded]
        self.memory.keep(queue, got)
        return got

    def let_go(self, name: str, ids: Collection[int], now: float, *, look: bool) -> None:
        """What was seized can be had again, as it is on disk now; ``look``: some of the queue may be due there."""
        queue = self._queue(name)
        self.memory.let_go(queue, ids)
        if queue.pulling:
            queue.gone.update(ids)
        queue.more = queue.more or look
        self._pull(queue, now)
        if queue.site is not None and queue.site.share.waiting and not self.memory.crowds(queue):
            self._feed(queue.site.share.waiting, now)
        self._feed_starved(now)
        self._linger(queue, now)

    def walk_again(self, now: float) -> None:
        """Queues may be due that the walk has passed: it starts over soon."""
        self._rescan = min(self._rescan, now + RECHECK)

    def urge(self, name: str, now: float) -> None:
        """Somebody wants what is due of a queue tried now: it is looked at, and no failure of before keeps it."""
        queue = self._queue(name)
        queue.more = True
        for path in self.paths_of(queue, now):
            if path.failures and path.rest_until > now:
                path.rest_until = 0.0
                self._work(path, now)
        self._wake_queue(name, now, over=not queue.held)

    def settled(self, name: str, due: float, now: float) -> None:
        """The true next due time of a queue of which nothing was in memory."""
        queue = self.queues.get(name)
        if queue is None or queue.loaded or queue.pulling:
            return
        if due <= now:
            queue.more = True
            self._pull(queue, now)
        elif not queue.more:
            del self.queues[name]
            self._failing.discard(name)
            if queue.site is not None:
                self._leave_site(queue, now)

    # What DNS says.

    def routed(
        self, name: str, site: str, until: float, now: float, terms: Terms = _TERMS, hosts: tuple[str, ...] = ()
    ) -> None:
        """The site of a queue's domain, good until then, what holds towards it, and its hosts' names."""
        queue = self.queues.get(name)
        if queue is None or not queue.routing:
            return
        self._works(name, now)
        if queue.site is None or queue.site.name != site:
            self._leave_site(queue, now)
            queue.site = self.sites.get(site) or self._new_site(site, terms)
            queue.site.queues[name] = None
            queue.site.share.add(len(queue.loaded), queue.bytes)
        queue.site.hosts = hosts
        queue.site.doubtful = False
        if queue.site.terms != terms:
            self._leave_group(queue.site)
            queue.site.terms = terms
            self._groups.setdefault(queue.site.group, {})[site] = queue.site
            paths = list(queue.site.paths.values())
            for path in paths:
                self._equip(path, queue.site, now)
            for path in paths:
                self._work(path, now)
            for other in queue.site.queues:
                self._pull(self.queues[other], now)
        queue.site_until = until
        queue.routing = False
        queue.failures = 0
        self._heed_account(queue, now)
        waiting, queue.waiting = queue.waiting, []
        for delivery in waiting:
            if queue.rest_until > now:  # its account may not send there
                self._evict(queue, delivery)
            else:
                self._make_ready(queue, delivery, now)
        self._pull(queue, now)

    def _new_site(self, name: str, terms: Terms) -> Site:
        site = self.sites[name] = Site(name, terms)
        self._groups.setdefault(site.group, {})[name] = site
        return site

    def unroutable(self, name: str, reason: str, now: float, *, transient: bool) -> list[Delivery]:
        """The domain has no site.  Gives the deliveries that waited for it; if the fault is transient the queue rests,
        and what is on disk is left alone meanwhile."""
        queue = self.queues.get(name)
        if queue is None or not queue.routing:
            return []
        queue.routing = False
        self._leave_site(queue, now)
        if transient:
            queue.failures += 1
            queue.reason = reason
            queue.rest_until = now + self._rest_after(name, queue.failures, now)
            heappush(self._resting, (queue.rest_until, "queue", name))
        waiting, queue.waiting = queue.waiting, []
        return waiting

    # What sessions say.

    def take(
        self, path: Path, now: float, may_go: MayGo = _any_time, *, beside: int = 0, busy: bool = False
    ) -> Delivery | None:
        """The next delivery for a session of this path.  One that ``may_go`` keeps back costs the path nothing, and has
        been seen to.  ``beside``: how many other sessions of the path work; the last one there may be is for priority
        mail.  ``busy``: the session has something under way, and what it takes waits for that: priority mail does not,
        while the path has, or may have, another session."""
        if self.stopping or path.rest_until > now or (path.meter.window and self._closed(path, now)):
            return None
        if self._metered and any(meter.excessive for meter in path.meters):
            return None
        ready = path.ready
        if busy and ready.urgent and (path.idle or path.opening or path.sessions < self.sessions_allowed(path)):
            return None
        kept = beside >= self.sessions_allowed(path, in_line=True)
        pace = path.meter.pace
        if busy and pace:
            return None  # it would arrive when those before it are through, and not at its time
        while ready:
            passes = pace is not None and ready.urgent and pace.wait_to_pass(now) <= 0
            if pace and not passes and not self._in_pace(path, now):
                return None
            if self._metered and not self._may_start(path, now, urgent=passes or kept, busy=busy):
                if busy or path.paced_until > now:
                    return None
                continue
            delivery = ready.pop(urgent=passes or kept)
            if delivery is None:
                return None
            if may_go(delivery, now):
                if pace:
                    (pace.passed if passes else pace.spend)(now)
                if self._metered:
                    self._start(path, delivery, now)
                return delivery
        return None

    def _closed(self, path: Path, now: float) -> bool:
        """Whether it is outside the path's hours; then it rests."""
        opens = path.meter.window.next_open(now) if path.meter.window else now
        if opens > now:
            self._rest(path, opens, f"it is outside the hours {path.meter.limits.hours}")
        return opens > now

    def _rest(self, path: Path, until: float, reason: str, failures: int = 0) -> None:
        """The path is not used until then; ``failures``: so many in a row are the reason.  Without any, no session that
        gets through ends it."""
        path.rest_until, path.reason, path.failures = until, reason, failures
        heappush(self._resting, (until, "site", path.site))

    def _may_start(self, path: Path, now: float, *, urgent: bool, busy: bool = False) -> bool:
        """Whether the next delivery may start by the limits besides its path's rate.  If not, its lane waits in line
        for the one that holds it longest, and others go on."""
        head = path.ready.head(urgent=urgent)
        if head is None:
            return True
        owner, lane = head
        delivery = lane.waiting[0]
        stream, meters = self._limits_of(path, delivery, now)
        site = self.sites[path.site]
        wait = self._wait_to_warm(path.source, site, delivery, now)
        if wait > 0:
            self._cap(path, site, wait, now)
            return False
        if busy and any(meter.pace for meter in meters):
            return False
        first = stream.priority >= PRIORITY
        place = (path, lane.name)
        refusal = self.limiter.refused(meters, now, place, urgent=first, called=lane.called)
        if refusal is None:
            return True
        path.ready.park(owner, lane, stream.priority)
        for meter in meters if lane.called else ():
            meter.line.started(place)
        refusal.meter.line.join(owner.name, stream.weight, place, urgent=first)
        self._wake(refusal.meter, refusal.meter.calls_at(now))
        return False

    def _anything_may_start(self, path: Path, now: float) -> bool:
        """Whether anything that is ready may; what may not waits in line, and no session is opened for it."""
        while path.ready and path.paced_until <= now:
            if self._may_start(path, now, urgent=False):
                return True
        return False

    def _cap(self, path: Path, site: Site, wait: float, now: float) -> None:
        """Warm-up lets the path have no more for now: what is ready looks for another, or waits a moment there."""
        until = now + min(wait, LONG)
        if wait <= MOMENT:
            path.paced_until = until
            heappush(self._resting, (until, "pace", path.site))
            return
        path.capped_until = until
        heappush(self._resting, (until, "site", path.site))
        self.reassign(path, now)

    def another_source(self, delivery: Delivery, source: str, pool: str) -> str:
        """A source for the next try of a delivery that shall not go by this one: of the pool named, or of its own; ""
        if there is no other."""
        queue = self.queues.get(delivery.queue)
        pool = pool or (self.pool_of(queue) if queue else "")
        return self.pools.choose(pool, "", {source}) or ""

    def warmed(self, places: Iterable[tuple[str, str]], now: float) -> None:
        """Warm-up lets these sources send more to these groups."""
        for source, group in places:
            for site in list(self._groups.get(group, {}).values()):
                if path := site.paths.get(source):
                    path.capped_until = path.paced_until = 0.0
                    self._work(path, now)

    def _start(self, path: Path, delivery: Delivery, now: float) -> None:
        if self.warmup is not None and self.warmup.plan_of(path.source):
            self.warmup.spend(path.source, self.sites[path.site].group, now)
            self._warm[delivery.id] = now
        stream, meters = self._limits_of(path, delivery, now)
        if meters:
            urgent = stream.priority >= PRIORITY
            self.limiter.start(delivery, meters, now, delivery.message.size, urgent=urgent)
            lane = self.queues[delivery.queue].lane
            for meter in meters:
                meter.line.started((path, lane))
                if meter.line:
                    self._wake(meter, now + meter.wait(now, urgent=False))

    def _limits_of(self, path: Path, delivery: Delivery, now: float) -> tuple[Stream, tuple[Meter[Path], ...]]:
        queue = self.queues[delivery.queue]
        stream = self.stream_of(queue)
        site = self.sites[path.site]
        return stream, self.limiter.starts(path, site, queue.lane, stream, self.pool_of(queue), now)

    def _wake(self, meter: Meter[Path], when: float) -> None:
        """Those in line for the meter are called then."""
        if when < meter.wakes_at:
            meter.wakes_at = when
            self._waking[meter.name] = meter
            heappush(self._resting, (when, "meter", meter.name))

    def _call(self, meter: Meter[Path], now: float) -> None:
        """Those whose turn it is at a meter may start, or open a session."""
        meter.wakes_at = NEVER
        self._waking.pop(meter.name, None)
        self._feed_hungry(meter, now)
        starting, soon = meter.call(now)
        for path, lane in starting:
            path.ready.call(lane)
            if path.rest_until > now:
                meter.line.started((path, lane))  # or its turn would be kept
            self._work(path, now)
        for path, _ in soon:
            if not path.opening and path.rest_until <= now:
                self._open(path, now, in_line=not path.ready.urgent)
        if meter.line:
            self._wake(meter, meter.calls_at(now))

    def _in_pace(self, path: Path, now: float) -> bool:
        """Whether the path's rate lets the next in line go now; if not, the path is looked at again when it does."""
        pace = path.meter.pace
        assert pace
        wait = pace.wait_in_line(now)
        if wait > 0 and path.ready.urgent:
            wait = min(wait, pace.wait_to_pass(now))
        if wait > 0 and (path.paced_until <= now or now + wait < path.paced_until):
            path.paced_until = now + wait
            heappush(self._resting, (path.paced_until, "pace", path.site))
        return wait <= 0

    def _ended(self, delivery: Delivery, now: float) -> None:
        """It is under way no more: what counted it has room for another."""
        self._warm.pop(delivery.id, None)
        for meter in self.limiter.ended(delivery):
            if meter.line:
                self._call(meter, now)

    def give_back(self, path: Path, delivery: Delivery, now: float) -> None:
        """A delivery that was taken and not tried."""
        spent = self._warm.get(delivery.id)
        if spent is not None and self.warmup is not None and path.site in self.sites:
            self.warmup.give_back(path.source, self.sites[path.site].group, spent)
        self._ended(delivery, now)
        queue = self.queues[delivery.queue]
        site = self.sites.get(path.site)
        let_go = site is None or site.paths.get(path.source) is not path
        held = queue.held and queue.rest_until > now
        if let_go or held or self.pools.choose(self.pool_of(queue), path.source, set(), peek=True) != path.source:
            self._place(queue, delivery, now)  # the path was let go of meanwhile, or its source drained
            return
        self._push(path, queue, delivery, first=True)
        self._work(path, now)

    def reassign(self, path: Path, now: float) -> None:
        """The path's source cannot be used: its deliveries find themselves another."""
        for delivery in path.ready.clear():
            self._place(self.queues[delivery.queue], delivery, now)

    def session_ready(self, path: Path, now: float) -> None:
        """A session that was being opened can carry deliveries."""
        path.opening -= 1
        if path.failures:  # a rest for another reason stays
            path.failures = 0
            path.rest_until = 0.0
            path.reason = ""
        self._works(path.site, now)
        self._work(path, now)

    def look(self, path: Path, now: float) -> None:
        """A session of the path is busy now, or idle no more: what is still ready may want another."""
        for meter in path.meters[1:] if not path.idle else ():
            meter.idle.pop(path, None)
        self._work(path, now)

    def idle(self, path: Path, now: float) -> None:
        """A session of the path has nothing to do: it ends if others want one and may not have it."""
        if self._hungry or any(meter.crowded or meter.excessive for meter in path.meters):
            self._decisions.append(Retire(path))
        for meter in path.meters[1:]:
            meter.idle[path] = None

    def session_closed(self, path: Path, now: float, *, opening: bool) -> None:
        """A session is gone; ``opening``: before it was ready."""
        path.sessions -= 1
        path.opening -= opening
        self.sessions -= 1
        for meter in path.meters:
            meter.used -= 1
            self._feed_hungry(meter, now)
        self._work(path, now)
        while self._hungry and self.sessions < self.sessions_limit:
            hungry = next(iter(self._hungry))
            del self._hungry[hungry]
            self._work(hungry, now)
        self._forget_idle(path.site, now)

    def path_failed(self, path: Path, reason: str, now: float) -> list[Delivery]:
        """No session could be opened: the path rests.  Gives the deliveries that were ready for it; what is on disk
        waits there until the path is tried again.  While the path has other sessions, working or still being opened,
        the site only wants no more of them.  Call it before ``session_closed``."""
        others = path.sessions - 1
        if others > 0:
            path.pushed_back(others, now + CAP)
            return []
        if path.rest_until <= now:
            failures = path.failures + 1
            path.window = 1
            self._rest(path, now + self._rest_after(path.site, failures, now), reason, failures)
        return path.ready.clear()

    def _works(self, name: str, now: float) -> None:
        self._failing.discard(name)
        self._last_success = now

    def _rest_after(self, name: str, failures: int, now: float) -> float:
        """Seconds of rest for a site or a queue's domain.  Where nothing at all has worked lately the fault is likely
        our own network's or resolver's, and when that is mended mail shall flow again soon."""
        self._failing.add(name)
        outage = len(self._failing) >= SEVERAL and now - self._last_success > OUTAGE
        return self.rest[0 if outage else min(failures, len(self.rest)) - 1]

    def done(self, delivery: Delivery, now: float) -> None:
        """The delivery has an outcome and leaves memory; call it when that is durable, or its row may be read again."""
        self._ended(delivery, now)
        queue = self.queues.get(delivery.queue)
        if queue is None or delivery.id not in queue.loaded:
            return
        if queue.pulling:
            queue.gone.add(delivery.id)
        self.memory.remove(queue, delivery)
        if queue.loaded and now >= queue.look:
            queue.more = True
        if queue.more and len(queue.loaded) <= PULL // 2:
            self._pull(queue, now)
        if queue.site is not None and queue.site.share.waiting and not self.memory.crowds(queue):
            self._feed(queue.site.share.waiting, now)
        if self.memory.waiting:
            self._feed_starved(now)
        if not queue.loaded:
            self._linger(queue, now)

    @property
    def wakes_at(self) -> float:
        """When ``wake`` has something to do."""
        return self._resting[0][0] if self._resting else NEVER

    def wake(self, now: float) -> None:
        """Call when it is time: rests that are over, limits that let the next one go."""
        if now < self._woken:
            self._set_back(now)
        self._woken = now
        while self._resting and self._resting[0][0] <= now:
            when, kind, name = heappop(self._resting)
            if kind == "queue":
                self._wake_queue(name, now)
            elif kind == "site":
                self._wake_site(name, now)
            elif kind == "pace":
                for path in list(self.sites[name].paths.values()) if name in self.sites else ():
                    self._work(path, now)
            elif (meter := self._waking.get(name)) and meter.wakes_at <= when:
                self._call(meter, now)

    def _set_back(self, now: float) -> None:
        """The clock was set back, and rates with it: who waits for one does not wait for the time to come again, and no
        look at the disk does."""
        self._rescan = min(self._rescan, now + RESCAN)
        self._lingering = deque((now + LINGER, name) for _, name in self._lingering)
        for queue in self.queues.values():
            queue.look = min(queue.look, now + LOOK)
        for site in list(self.sites.values()):
            for path in list(site.paths.values()):
                path.paced_until = 0.0
                self._work(path, now)
        for meter in list(self._waking.values()):
            self._call(meter, now)

    def tick(self, now: float) -> None:
        """Call about once a second: what it is time for, queues to let go of, the walk's next step."""
        self.wake(now)
        while self._lingering and self._lingering[0][0] <= now:
            _, name = self._lingering.popleft()
            queue = self.queues.get(name)
            if queue is not None:
                queue.lingering = False
                if not (queue.loaded or queue.pulling or queue.more):
                    self._decisions.append(Settle(name))
        self._feed_starved(now)
        if not self._polling and (now < self._cursor[0] or now >= self._rescan):
            self._cursor = (-1.0, "")
            self._rescan = now + RESCAN
        self._poll(now)

    # Inside.

    def _queue(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name)
        return queue

    def stream_of(self, queue: Queue) -> Stream:
        return self.streams(queue.account, queue.stream)

    def pool_of(self, queue: Queue) -> str:
        if queue.pool and self.pools.known(queue.pool):
            return queue.pool
        return self.stream_of(queue).pool_for(queue.domain, queue.site.hosts if queue.site else ())

    def _push(self, path: Path, queue: Queue, delivery: Delivery, *, first: bool = False) -> None:
        stream = self.stream_of(queue)
        if stream.layers:
            self._metered = True
        owner = stream.account or queue.account
        path.ready.push(owner, stream.weight, queue.lane, stream.priority, delivery, first=first)

    def paths_of(self, queue: Queue, now: float) -> list[Path]:
        """The paths of the queue's site that its pool can use, resting or not; its overflow's if all its own rest."""
        if queue.site is None:
            return []
        pool, resting = self.pool_of(queue), queue.site.resting(now)
        paths = queue.site.paths.items()
        return [path for s, path in paths if self.pools.choose(pool, s, resting - {s}, peek=True) == s]

    def _room(self, queue: Queue, *, new: bool = False) -> int:
        return self.memory.room(queue, urgent=self._urgent(queue), new=new)

    def _urgent(self, queue: Queue) -> bool:
        return self.stream_of(queue).priority >= PRIORITY

    def _may_load(self, queue: Queue, now: float) -> bool:
        return (
            not (self.stopping or queue.rest_until > now or self.blocked(queue, now))
            and self._room(queue, new=True) > 0
        )

    def blocked(self, queue: Queue, now: float) -> bool:
        """Whether the queue's site is known and every path of its pool rests."""
        if queue.site is None or queue.site.doubtful or not queue.site.failing:
            return False
        resting = queue.site.resting(now)
        return bool(resting) and self.pools.choose(self.pool_of(queue), "", resting, peek=True) is None

    def _load(self, queue: Queue, delivery: Delivery, now: float) -> None:
        self.memory.add(queue, delivery)
        self._place(queue, delivery, now)

    def _place(self, queue: Queue, delivery: Delivery, now: float) -> None:
        """Puts a delivery that is in memory on a path, or has it wait for the site to be known."""
        if queue.site is None or queue.site_until <= now:
            queue.waiting.append(delivery)
            self._reroute(queue, now)
        else:
            self._make_ready(queue, delivery, now)

    def _reroute(self, queue: Queue, now: float) -> None:
        if not queue.routing and queue.rest_until <= now:
            queue.routing = True
            self._decisions.append(Route(queue.name, queue.domain))

    def _make_ready(self, queue: Queue, delivery: Delivery, now: float) -> None:
        site = queue.site
        assert site is not None
        if queue.held and queue.rest_until > now:
            self._evict(queue, delivery)
            return
        if self.memory.overflows(queue) and not self._urgent(queue):
            self._evict(queue, delivery)
            self.memory.wait(queue)
            return
        if site.failing:
            source = self._choose(queue, site, delivery, now)
            if source is None:
                return
        else:
            source = self.pools.choose(self.pool_of(queue), delivery.source, set())
        if source is None:
            self._wait_for_source(queue, delivery, now)
            return
        path = site.paths.get(source)
        if path is None:
            path = site.paths[source] = Path(source, site.name, site.terms)
            self._equip(path, site, now)
            if path.rest_until > now:  # from the start: perhaps not all others do
                self._make_ready(queue, delivery, now)
                return
        self._push(path, queue, delivery)
        self._work(path, now)

    def _choose(self, queue: Queue, site: Site, delivery: Delivery, now: float) -> str | None:
        """The source for a delivery to a site of which not every path may be used; None if it waits, and has been seen
        to."""
        pool, last = self.pool_of(queue), delivery.source
        path = site.paths.get(last)
        if path is not None and path.stays and path.rest_until > now and last in self.pools.sources_of(pool):
            self._decisions.append(PutOff(delivery, path.rest_until))
            return None
        resting, capped = site.resting(now), site.capped(now)
        source = self.pools.choose(pool, last, resting | capped)
        if source is not None:
            return source
        warm = [source for source in capped - resting if self.pools.choose(pool, source, resting, peek=True) == source]
        for source in warm:
            if not self._wait_to_warm(source, site, delivery, now):
                return source
        if self.pools.choose(pool, last, set(), peek=True) is None:
            self._wait_for_source(queue, delivery, now)
            return None
        self._evict(queue, delivery)
        if warm and self.warmup:
            mine = self.pools.sources_of(pool)
            paths = [path for path in site.paths.values() if path.source in mine]
            until = min(max(path.capped_until, path.rest_until) for path in paths)
            why = [self.warmup.words(source, site.group, now) for source in warm]
            why += [f"source {path.source} {path.reason}" for path in paths if path.rest_until > now]
            self._hold(queue, until, "; ".join(why))
        return None

    def _wait_to_warm(self, source: str, site: Site, delivery: Delivery, now: float) -> float:
        """Seconds until warm-up lets the delivery go by the source, or has it looked at again."""
        if self.warmup is None:
            return 0.0
        message = delivery.message
        return max(0.0, self.warmup.may(source, site.group, starts(message.steering, message.received), now) - now)

    def _wait_for_source(self, queue: Queue, delivery: Delivery, now: float) -> None:
        if not queue.waiting:
            heappush(self._resting, (now + RECHECK, "queue", queue.name))
        queue.waiting.append(delivery)

    def _wake_queue(self, name: str, now: float, *, over: bool = False) -> None:
        """The queue waited for DNS, for a source or for its time: looked at again; ``over``: its rest is."""
        queue = self.queues.get(name)
        if queue is None:
            return
        if over or queue.rest_until <= now:
            queue.rest_until = 0.0  # over for good, even if the clock steps back
            queue.held = False
        if queue.waiting:
            self._reroute(queue, now)
        else:
            self._pull(queue, now)
            self._linger(queue, now)

    def _wake_site(self, name: str, now: float) -> None:
        site = self.sites.get(name)
        if site is None:
            return
        paths = list(site.paths.values())
        for path in paths:
            if path.rest_until <= now:
                path.rest_until = 0.0  # over for good, even if the clock steps back
            if path.capped_until <= now:
                path.capped_until = 0.0
            if path.review_at <= now:
                self._equip(path, site, now)
        for path in paths:
            self._work(path, now)
        for queue_name in site.queues:
            self._pull(self.queues[queue_name], now)
        if not site.queues:  # nobody goes there any more: how it failed is not worth remembering
            for path in site.paths.values():
                path.failures = 0
            self._forget_idle(name, now)

    def _equip(self, path: Path, site: Site, now: float) -> None:
        """Gives a path its limits, made or changed; who waits for old ones looks at the new."""
        held = self.reactions.holds(path.source, site.group, "", now)
        self.limiter.equip(path, site, self.pools.having(path.source), held, now)
        warms = self.warmup is not None and self.warmup.plan_of(path.source) is not None
        self._metered = self._metered or self.limiter.used or warms
        path.paced_until = 0.0
        path.ready.call_all()
        path.review_at = min((changes_at(reaction, now) for reaction in held), default=NEVER)
        if path.review_at < NEVER:
            heappush(self._resting, (path.review_at, "site", site.name))
        suspended = [reaction for reaction in held if reaction.action == "suspend" and now < reaction.until]
        path.stays = any(not reaction.move for reaction in suspended)
        if suspended:
            longest = max(suspended, key=lambda reaction: reaction.until)
            self._rest(path, longest.until, longest.words(now))
        elif not path.failures:
            path.rest_until = 0.0
        if not suspended:
            self._closed(path, now)

    def reshaped(self, changed: Iterable[Active], now: float) -> None:
        """Reactions began, or ended before their time: the paths and queues that they bear on look again."""
        for reaction in changed:
            if reaction.mx:
                continue  # who opens a session asks
            sites = list(self._groups.get(reaction.group, {}).values() if reaction.group else self.sites.values())
            if reaction.account or reaction.pool:
                for site in sites:
                    own = [q for name in site.queues if self._concerns(reaction, q := self.queues[name])]
                    for queue in own:
                        self._heed_account(queue, now)
                    for lane in dict.fromkeys(queue.lane for queue in own):
                        self._relimit(lane, site, now)
                continue
            borne = [(p, site) for site in sites for p in site.paths.values() if reaction.source in ("", p.source)]
            for path, site in borne:  # all of them before any goes on: what they share has to know of each
                self._equip(path, site, now)
            for path, _ in borne:
                if path.rest_until > now:
                    self.reassign(path, now)
                self._work(path, now)
            for site in sites:
                for queue in [self.queues[name] for name in site.queues]:
                    if queue.held:
                        self._heed_account(queue, now)
                    self._pull(queue, now)

    def _concerns(self, reaction: Active, queue: Queue) -> bool:
        if reaction.pool:
            return self.pool_of(queue) == reaction.pool
        accounts = self.lineage(queue.account) if reaction.by else (queue.account,)
        return reaction.account in accounts

    def _relimit(self, lane: str, site: Site, now: float) -> None:
        """Other limits hold for a lane: what waits for the old ones looks at the new."""
        for path in list(site.paths.values()):
            self.limiter.renew(path, lane, now)
            path.ready.call(lane)
            self._work(path, now)

    def restrain(self, accounts: Collection[str], now: float) -> None:
        """Other accounts are held now, or slowed: the queues of these look again."""
        self.look_again(lambda queue: queue.account in accounts, now)

    def look_again(self, which: Callable[[Queue], bool], now: float) -> None:
        """Queues of which it is other ones that are held now, or slowed."""
        for queue in list(self.queues.values()):
            if queue.site is not None and which(queue):
                self._heed_account(queue, now)
                self._relimit(queue.lane, queue.site, now)

    def reshape(self, source: str, group: str, now: float) -> None:
        """Another share of their limits is left to a source's paths to a group of sites."""
        for site in list(self._groups.get(group, {}).values()):
            if path := site.paths.get(source):
                self._equip(path, site, now)

    def _heed_account(self, queue: Queue, now: float) -> None:
        """Whether the queue's account may send, at all and to its site, is looked at anew."""
        assert queue.site
        why = self.held(queue)
        own = self._bearing_on(queue, queue.site, now)
        suspended = [reaction for reaction in own if reaction.action == "suspend"]
        self._metered = self._metered or bool(own)
        if why or suspended:
            self._take_out(queue, queue.site, now)
        if why:
            self._hold(queue, NEVER, why)
        elif suspended:
            longest = max(suspended, key=lambda reaction: reaction.until)
            self._hold(queue, longest.until, f"{longest.whom} is {longest.words(now)}")
        elif queue.held:
            self._wake_queue(queue.name, now, over=True)

    def _take_out(self, queue: Queue, site: Site, now: float) -> None:
        """What is ready of a queue that is stopped goes back to the disk; of its lane, what is not stopped stays."""
        owner = self.stream_of(queue).account or queue.account
        stopped = {queue.name: True}
        for path in site.paths.values():
            for delivery in path.ready.drop(owner, queue.lane):
                other = self.queues[delivery.queue]
                if other.name not in stopped:
                    own = self._bearing_on(other, site, now)
                    stopped[other.name] = bool(self.held(other)) or any(r.action == "suspend" for r in own)
                if stopped[other.name]:
                    self._evict(other, delivery)
                else:
                    self._push(path, other, delivery)

    def _bearing_on(self, queue: Queue, site: Site, now: float) -> list[Active]:
        """The reactions that hold for whose mail it is: its account's, by hand also of those above it, its pool's."""
        held = self.reactions.holds("", site.group, queue.account, now, self.pool_of(queue))
        if self.reactions.handmade:
            for above in self.lineage(queue.account)[1:]:
                held += tuple(r for r in self.reactions.holds("", site.group, above, now) if r.account and r.by)
        return [reaction for reaction in held if (reaction.account or reaction.pool) and now < reaction.until]

    def _hold(self, queue: Queue, until: float, reason: str) -> None:
        """The queue is not read until then."""
        queue.rest_until, queue.reason, queue.held = until, reason, True
        if until < NEVER:
            heappush(self._resting, (until, "queue", queue.name))

    def _evict(self, queue: Queue, delivery: Delivery) -> None:
        """Leaves a delivery to the disk, where it is: it comes again when its queue is read again."""
        self.memory.remove(queue, delivery)
        queue.more = True
        queue.again = queue.again or queue.pulling  # which may have read past it

    def sessions_allowed(self, path: Path, *, in_line: bool = False) -> int:
        """How many a path may have; ``in_line``: for mail that is not priority mail, which has the last one of several
        for itself."""
        if path.failures:
            return 1
        limit = min(path.window, path.meter.limits.connections)
        return limit - 1 if in_line and limit > 1 else limit

    def _work(self, path: Path, now: float) -> None:
        ready = len(path.ready)
        if not ready or path.rest_until > now or self.stopping:
            return
        urgent, pace = path.ready.urgent, path.meter.pace
        if pace and not (urgent and pace.wait_to_pass(now) <= 0) and not self._in_pace(path, now):
            return
        if self._metered and not self._anything_may_start(path, now):
            return
        ready = len(path.ready)
        allowed = self.sessions_allowed(path, in_line=not urgent)
        if path.at_work >= allowed:
            return
        wanted = min(ready, max(1, pace.left(now))) if pace else ready
        opened = path.opening < wanted and not path.idle and self._open(path, now, in_line=not urgent)
        if path.idle and not opened:
            self._decisions.append(Work(path, False))

    def _open(self, path: Path, now: float, *, in_line: bool) -> bool:
        """Has one more session opened, if the path may have it."""
        if path.sessions >= self.sessions_allowed(path, in_line=in_line):
            return False
        if self.sessions >= self.sessions_limit:
            self._hungry[path] = None
            return False
        if not self._may_open(path, now, in_line=in_line):
            return False
        path.sessions += 1
        path.opening += 1
        self.sessions += 1
        for meter in path.meters:
            meter.opened(now)
        self._decisions.append(Work(path, True))
        return True

    def _may_open(self, path: Path, now: float, *, in_line: bool) -> bool:
        """Whether all the path's meters allow one more session; if not it is looked at again when they may."""
        for meter in path.meters:
            wait = meter.wait_to_open(now, in_line=in_line)
            if wait > 0:
                meter.hungry[in_line][path] = None
                self._wake(meter, now + wait)
                if wait == NEVER and (idle := next(iter(meter.idle), None)):
                    self._decisions.append(Retire(idle))
                return False
        return True

    def _feed_hungry(self, meter: Meter[Path], now: float) -> None:
        """Those who want a session of the meter's have theirs in turn, as far as it allows."""
        for in_line, hungry in enumerate(meter.hungry):
            while hungry:
                wait = meter.wait_to_open(now, in_line=bool(in_line))
                if wait > 0:
                    self._wake(meter, now + wait)
                    break
                path = next(iter(hungry))
                del hungry[path]
                self._work(path, now)

    def _pull(self, queue: Queue, now: float) -> None:
        if not queue.more or queue.pulling or self.stopping:
            return
        if queue.rest_until > now or self.blocked(queue, now):
            return
        limit = self._room(queue)
        if limit <= 0 or self.memory.busy:
            if len(queue.loaded) < RESERVE:
                self.memory.wait(queue)
            return
        queue.pulling = True
        self.memory.pulls += 1
        self.memory.coming += limit
        self._decisions.append(Pull(queue.name, limit, list(queue.loaded)))

    def _pull_ended(self, name: str, limit: int) -> Queue | None:
        queue = self.queues.get(name)
        if queue is None or not queue.pulling:
            return None
        queue.pulling = False
        self.memory.pulls -= 1
        self.memory.coming -= limit
        return queue

    def _feed_starved(self, now: float) -> None:
        """Those in line for memory have their turns, each account that waits once at most."""
        line = self.memory.waiting
        for _ in range(len(line)):
            if self.memory.busy or self.memory.full(TWICE + 1):
                break
            self._feed(line, now)

    def _feed(self, line: Waiting, now: float) -> None:
        queue = line.next()
        if queue.name in self.queues:
            self._pull(queue, now)

    def _linger(self, queue: Queue, now: float) -> None:
        if not (queue.loaded or queue.pulling or queue.more or queue.lingering):
            queue.lingering = True
            self._lingering.append((now + LINGER, queue.name))

    def _poll(self, now: float) -> None:
        if not self._polling and not self.stopping and len(self.queues) < QUEUES:
            self._polling = True
            self._decisions.append(Poll(self._cursor, PAGE))

    def _leave_site(self, queue: Queue, now: float) -> None:
        if queue.site is not None:
            del queue.site.queues[queue.name]
            queue.site.share.add(-len(queue.loaded), -queue.bytes)
            site, queue.site = queue.site.name, None
            self._forget_idle(site, now)

    def _forget_idle(self, name: str, now: float) -> None:
        """Drops the paths of a site that hold nothing worth keeping, and the site with the last of both.  How much of
        its rate a path has used is worth keeping until it is all there again."""
        site = self.sites.get(name)
        if site is None or site.queues:
            return
        for path in list(site.paths.values()):
            if path.sessions or (path.failures and path.rest_until > now):
                continue
            full_at = path.meter.fills_at(now)
            if full_at > now:
                heappush(self._resting, (full_at, "site", name))
                continue
            self.limiter.let_go(path, now)
            del site.paths[path.source]
            self.reassign(path, now)  # of domains that have gone to another site
        if not site.paths:
            del self.sites[name]
            self._failing.discard(name)
            self._leave_group(site)

    def _leave_group(self, site: Site) -> None:
        group = self._groups[site.group]
        del group[site.name]
        if not group:
            del self._groups[site.group]
