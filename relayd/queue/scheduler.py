"""The scheduler: which delivery may go now, and on which path.

Enter: receptions, what DNS says of a domain, what became of sessions and attempts.  Leave: decisions for the shell to
perform (``Route``, ``Work``, ``Retire``, and those of its parts), deliveries for sessions to carry (``take``).

It has two parts, each with its own half of the questions: ``loading``, which queues are in memory and what of them is
read; ``restraints``, what holds back, why, and until when.  In between, mail that is due and in memory finds its path:
site by DNS, source by pool; it waits there for its turn, and a session takes it.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from relayd.envelope import Delivery
from relayd.queue.decisions import Decision, PutOff, Retire, Route, Work
from relayd.queue.loading import RECHECK, Loading
from relayd.queue.memory import PULL
from relayd.queue.restraints import Restraints
from relayd.queue.state import Path, Queue, Site, Stream
from relayd.shaping.limits import Terms
from relayd.shaping.reactions import Reactions
from relayd.shaping.rules import Rules
from relayd.warmup import Warmup

CAP = 60.0  # seconds for which a site that refused one more session is believed

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
    """See the module.  ``sessions`` is what all paths may have together."""

    def __init__(
        self,
        streams: StreamOf,
        pools: Pools,
        sessions: int,
        reactions: Reactions | None = None,
        warmup: Warmup | None = None,
    ) -> None:
        self.streams = streams
        self.pools = pools
        self.sessions_limit = sessions
        self.sessions = 0
        self.stopping = False
        self.queues: dict[str, Queue] = {}
        self.sites: dict[str, Site] = {}
        self.groups: dict[str, dict[str, Site]] = {}  # sites by their group
        self.loading = Loading(self)
        self.memory = self.loading.memory
        self.restraints = Restraints(self, reactions or Reactions(Rules()), warmup)
        self._decisions: list[Decision] = []
        self._hungry: dict[Path, None] = {}  # paths that wait for one of all sessions to end

    def decisions(self) -> list[Decision]:
        """Takes what has been decided since the last call, in order."""
        decided, self._decisions = self._decisions, []
        return decided

    def decide(self, decision: Decision) -> None:
        self._decisions.append(decision)

    # What holds from now on.

    def reconfigure(self, streams: StreamOf, pools: Pools, sessions: int, now: float) -> None:
        """What holds from now on.  Deliveries that are ready find their sources anew, queues their sites."""
        self.streams = streams
        self.pools = pools
        self.sessions_limit = sessions
        for queue in self.queues.values():
            queue.site_until = 0.0
            if queue.held:  # by what may not be any more
                queue.held, queue.rest_until = False, 0.0
        self.restraints.metered = False
        sites = list(self.sites.values())
        for site in sites:
            site.doubtful = True
            for path in site.paths.values():
                self.restraints.equip(path, site, now)
        for path in [path for site in sites for path in site.paths.values()]:
            self.reassign(path, now)
        self.source_back(now)

    def source_back(self, now: float) -> None:
        """A source can be used again: who waits for one looks at once."""
        for queue in list(self.queues.values()):
            if queue.waiting:
                self.reroute(queue, now)
            else:
                self.loading.pull(queue, now)

    def source_gone(self, source: str, now: float) -> None:
        """A source is not to be used any more: what is ready for it finds another, what is under way ends as it may."""
        for site in list(self.sites.values()):
            if source in site.paths:
                self.reassign(site.paths[source], now)

    # What the spool says.

    def received(self, deliveries: Iterable[Delivery], now: float) -> None:
        """New deliveries that are on disk: straight to their paths, if they are due and nothing older waits before
        them.  What is to go later is found like a retry, by its queue's next due time."""
        loading = self.loading
        for delivery in deliveries:
            if delivery.due > now:
                continue
            if delivery.queue not in self.queues and loading.full:
                loading.walk_again(now)
                continue
            queue = loading.queue(delivery.queue)
            if queue.pulling:
                queue.again = True
            elif delivery.id in queue.loaded:
                continue  # a pull that ended before this was told has brought it
            elif queue.more or not loading.may_load(queue, now):
                queue.more = True
                loading.pull(queue, now)
            else:
                self.load(queue, delivery, now)

    def done(self, delivery: Delivery, now: float) -> None:
        """The delivery has an outcome and leaves memory; call it when that is durable, or its row may be read again."""
        self.restraints.ended(delivery, now)
        queue = self.queues.get(delivery.queue)
        if queue is None or delivery.id not in queue.loaded:
            return
        if queue.pulling:
            queue.gone.add(delivery.id)
        self.memory.remove(queue, delivery)
        if queue.loaded and now >= queue.look:
            queue.more = True
        if queue.more and len(queue.loaded) <= PULL // 2:
            self.loading.pull(queue, now)
        if queue.site is not None and queue.site.share.waiting and not self.memory.crowds(queue):
            self.loading.feed(queue.site.share.waiting, now)
        if self.memory.waiting:
            self.loading.feed_starved(now)
        if not queue.loaded:
            self.loading.linger(queue, now)

    # What DNS says.

    def routed(
        self, name: str, site: str, until: float, now: float, terms: Terms = _TERMS, hosts: tuple[str, ...] = ()
    ) -> None:
        """The site of a queue's domain, good until then, what holds towards it, and its hosts' names."""
        queue = self.queues.get(name)
        if queue is None or not queue.routing:
            return
        self.restraints.works(name, now)
        if queue.site is None or queue.site.name != site:
            self.leave_site(queue, now)
            queue.site = self.sites.get(site) or self._new_site(site, terms)
            queue.site.queues[name] = None
            queue.site.share.add(len(queue.loaded), queue.bytes)
        queue.site.hosts = hosts
        queue.site.doubtful = False
        if queue.site.terms != terms:
            self._leave_group(queue.site)
            queue.site.terms = terms
            self.groups.setdefault(queue.site.group, {})[site] = queue.site
            paths = list(queue.site.paths.values())
            for path in paths:
                self.restraints.equip(path, queue.site, now)
            for path in paths:
                self.work(path, now)
            for other in queue.site.queues:
                self.loading.pull(self.queues[other], now)
        queue.site_until = until
        queue.routing = False
        queue.failures = 0
        self.restraints.heed_account(queue, now)
        waiting, queue.waiting = queue.waiting, []
        for delivery in waiting:
            if queue.rest_until > now:  # its account may not send there
                self.loading.evict(queue, delivery)
            else:
                self._make_ready(queue, delivery, now)
        self.loading.pull(queue, now)

    def _new_site(self, name: str, terms: Terms) -> Site:
        site = self.sites[name] = Site(name, terms)
        self.groups.setdefault(site.group, {})[name] = site
        return site

    def unroutable(self, name: str, reason: str, now: float, *, transient: bool) -> list[Delivery]:
        """The domain has no site.  Gives the deliveries that waited for it; if the fault is transient the queue rests,
        and what is on disk is left alone meanwhile."""
        queue = self.queues.get(name)
        if queue is None or not queue.routing:
            return []
        queue.routing = False
        self.leave_site(queue, now)
        if transient:
            queue.failures += 1
            queue.reason = reason
            queue.rest_until = now + self.restraints.rest_after(name, queue.failures, now)
            self.restraints.at(queue.rest_until, "queue", name)
        waiting, queue.waiting = queue.waiting, []
        return waiting

    def leave_site(self, queue: Queue, now: float) -> None:
        """The queue goes there no more."""
        if queue.site is not None:
            del queue.site.queues[queue.name]
            queue.site.share.add(-len(queue.loaded), -queue.bytes)
            queue.strayed = queue.strayed or bool(queue.loaded)
            site, queue.site = queue.site.name, None
            self.forget_idle(site, now)

    def forget_idle(self, name: str, now: float) -> None:
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
                self.restraints.at(full_at, "site", name)
                continue
            self.restraints.limiter.let_go(path, now)
            del site.paths[path.source]
            self.reassign(path, now)  # of domains that have gone to another site
        if not site.paths:
            del self.sites[name]
            self.restraints.forget(name)
            self._leave_group(site)

    def _leave_group(self, site: Site) -> None:
        group = self.groups[site.group]
        del group[site.name]
        if not group:
            del self.groups[site.group]

    # What sessions say.

    def take(
        self, path: Path, now: float, may_go: MayGo = _any_time, *, beside: int = 0, busy: bool = False
    ) -> Delivery | None:
        """The next delivery for a session of this path.  One that ``may_go`` keeps back costs the path nothing, and has
        been seen to.  ``beside``: how many other sessions of the path work; the last one there may be is for priority
        mail.  ``busy``: the session has something under way, and what it takes waits for that: priority mail does not,
        while the path has, or may have, another session."""
        restraints = self.restraints
        if self.stopping or path.rest_until > now or (path.meter.window and restraints.closed(path, now)):
            return None
        if restraints.metered and any(meter.excessive for meter in path.meters):
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
            if pace and not passes and not restraints.in_pace(path, now):
                return None
            if restraints.metered and not restraints.may_start(path, now, urgent=passes or kept, busy=busy):
                if busy or path.paced_until > now:
                    return None
                continue
            delivery = ready.pop(urgent=passes or kept)
            if delivery is None:
                return None
            if may_go(delivery, now):
                if pace:
                    (pace.passed if passes else pace.spend)(now)
                if restraints.metered:
                    restraints.start(path, delivery, now)
                return delivery
        return None

    def give_back(self, path: Path, delivery: Delivery, now: float) -> None:
        """A delivery that was taken and not tried."""
        self.restraints.given_back(path, delivery, now)
        queue = self.queues[delivery.queue]
        site = self.sites.get(path.site)
        let_go = site is None or site.paths.get(path.source) is not path
        held = queue.held and queue.rest_until > now
        if let_go or held or self.pools.choose(self.pool_of(queue), path.source, set(), peek=True) != path.source:
            self._place(queue, delivery, now)  # the path was let go of meanwhile, or its source drained
            return
        self.push(path, queue, delivery, first=True)
        self.work(path, now)

    def another_source(self, delivery: Delivery, source: str, pool: str) -> str:
        """A source for the next try of a delivery that shall not go by this one: of the pool named, or of its own; ""
        if there is no other."""
        queue = self.queues.get(delivery.queue)
        pool = pool or (self.pool_of(queue) if queue else "")
        return self.pools.choose(pool, "", {source}) or ""

    def session_ready(self, path: Path, now: float) -> None:
        """A session that was being opened can carry deliveries."""
        path.opening -= 1
        if path.failures:  # a rest for another reason stays
            path.failures = 0
            path.rest_until = 0.0
            path.reason = ""
        self.restraints.works(path.site, now)
        self.work(path, now)

    def look(self, path: Path, now: float) -> None:
        """A session of the path is busy now, or idle no more: what is still ready may want another."""
        for meter in path.meters[1:] if not path.idle else ():
            meter.idle.pop(path, None)
        self.work(path, now)

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
            self.restraints.feed_hungry(meter, now)
        self.work(path, now)
        while self._hungry and self.sessions < self.sessions_limit:
            hungry = next(iter(self._hungry))
            del self._hungry[hungry]
            self.work(hungry, now)
        self.forget_idle(path.site, now)

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
            self.restraints.rest(path, now + self.restraints.rest_after(path.site, failures, now), reason, failures)
        return path.ready.clear()

    def sessions_allowed(self, path: Path, *, in_line: bool = False) -> int:
        """How many a path may have; ``in_line``: for mail that is not priority mail, which has the last one of several
        for itself."""
        if path.failures:
            return 1
        limit = min(path.window, path.meter.limits.connections)
        return limit - 1 if in_line and limit > 1 else limit

    def work(self, path: Path, now: float) -> None:
        """Has a session take what is ready on the path, if it may go now: one that is idle, or one more."""
        ready = len(path.ready)
        if not ready or path.rest_until > now or self.stopping:
            return
        urgent, pace = path.ready.urgent, path.meter.pace
        if pace and not (urgent and pace.wait_to_pass(now) <= 0) and not self.restraints.in_pace(path, now):
            return
        if self.restraints.metered and not self.restraints.anything_may_start(path, now):
            return
        ready = len(path.ready)
        allowed = self.sessions_allowed(path, in_line=not urgent)
        if path.at_work >= allowed:
            return
        wanted = min(ready, max(1, pace.left(now))) if pace else ready
        opened = path.opening < wanted and not path.idle and self.open(path, now, in_line=not urgent)
        if path.idle and not opened:
            self._decisions.append(Work(path, False))

    def open(self, path: Path, now: float, *, in_line: bool) -> bool:
        """Has one more session opened, if the path may have it."""
        if path.sessions >= self.sessions_allowed(path, in_line=in_line):
            return False
        if self.sessions >= self.sessions_limit:
            self._hungry[path] = None
            return False
        if not self.restraints.may_open(path, now, in_line=in_line):
            return False
        path.sessions += 1
        path.opening += 1
        self.sessions += 1
        for meter in path.meters:
            meter.opened(now)
        self._decisions.append(Work(path, True))
        return True

    # The clock.

    def tick(self, now: float) -> None:
        """Call about once a second: what it is time for, queues to let go of, the walk's next step."""
        self.restraints.wake(now)
        self.loading.tick(now)

    # Where mail goes.

    def stream_of(self, queue: Queue) -> Stream:
        return self.streams(queue.account, queue.stream)

    def pool_of(self, queue: Queue) -> str:
        if queue.pool and self.pools.known(queue.pool):
            return queue.pool
        return self.stream_of(queue).pool_for(queue.domain, queue.site.hosts if queue.site else ())

    def paths_of(self, queue: Queue, now: float) -> list[Path]:
        """The paths of the queue's site that its pool can use, resting or not; its overflow's if all its own rest."""
        if queue.site is None:
            return []
        pool, resting = self.pool_of(queue), queue.site.resting(now)
        paths = queue.site.paths.items()
        return [path for s, path in paths if self.pools.choose(pool, s, resting - {s}, peek=True) == s]

    def reassign(self, path: Path, now: float) -> None:
        """The path's source cannot be used: its deliveries find themselves another."""
        for delivery in path.ready.clear():
            self._place(self.queues[delivery.queue], delivery, now)

    def load(self, queue: Queue, delivery: Delivery, now: float) -> None:
        """A delivery that is due comes into memory."""
        self.memory.add(queue, delivery)
        self._place(queue, delivery, now)

    def _place(self, queue: Queue, delivery: Delivery, now: float) -> None:
        """Puts a delivery that is in memory on a path, or has it wait for the site to be known."""
        if queue.site is None or queue.site_until <= now:
            queue.waiting.append(delivery)
            self.reroute(queue, now)
        else:
            self._make_ready(queue, delivery, now)

    def reroute(self, queue: Queue, now: float) -> None:
        """Has the site of the queue's domain found."""
        if not queue.routing and queue.rest_until <= now:
            queue.routing = True
            self._decisions.append(Route(queue.name, queue.domain))

    def _make_ready(self, queue: Queue, delivery: Delivery, now: float) -> None:
        site = queue.site
        assert site is not None
        if queue.held and queue.rest_until > now:
            self.loading.evict(queue, delivery)
            return
        if self.memory.overflows(queue) and not self.loading.urgent(queue):
            self.loading.evict(queue, delivery)
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
            self.restraints.equip(path, site, now)
            if path.rest_until > now:  # from the start: perhaps not all others do
                self._make_ready(queue, delivery, now)
                return
        self.push(path, queue, delivery)
        self.work(path, now)

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
            if not self.restraints.wait_to_warm(source, site, delivery, now):
                return source
        if self.pools.choose(pool, last, set(), peek=True) is None:
            self._wait_for_source(queue, delivery, now)
            return None
        self.loading.evict(queue, delivery)
        if warm and self.restraints.warmup:
            mine = self.pools.sources_of(pool)
            paths = [path for path in site.paths.values() if path.source in mine]
            until = min(max(path.capped_until, path.rest_until) for path in paths)
            why = [self.restraints.warmup.words(source, site.group, now) for source in warm]
            why += [f"source {path.source} {path.reason}" for path in paths if path.rest_until > now]
            self.restraints.hold(queue, until, "; ".join(why))
        return None

    def _wait_for_source(self, queue: Queue, delivery: Delivery, now: float) -> None:
        if not queue.waiting:
            self.restraints.at(now + RECHECK, "queue", queue.name)
        queue.waiting.append(delivery)

    def push(self, path: Path, queue: Queue, delivery: Delivery, *, first: bool = False) -> None:
        """It is ready for the path's sessions, when its turn comes."""
        stream = self.stream_of(queue)
        if stream.layers:
            self.restraints.metered = True
        owner = stream.account or queue.account
        path.ready.push(owner, stream.weight, queue.lane, stream.priority, delivery, first=first)
