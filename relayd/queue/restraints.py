"""Restraints: what holds back mail that is due, why, and until when.

In: failures of sites and domains, reactions that begin and end, limits, warm-up, accounts that may not send.  Out: for
the scheduler, whether a delivery may start, whether a session may be opened, whether a queue is read at all; on paths
and queues, until when they rest and the reason in words (``reasons`` tells it).  Whatever waits for a time or for
others is called again here: ``wake`` does it when ``wakes_at`` has come.
"""

from collections.abc import Callable, Collection, Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Literal

from relayd.envelope import Delivery
from relayd.message.steering import starts
from relayd.queue.decisions import Retire
from relayd.queue.limiter import Limiter
from relayd.queue.meter import NEVER, Meter
from relayd.queue.ready import PRIORITY
from relayd.queue.state import Path, Queue, Site, Stream
from relayd.shaping.reactions import Active, Reactions, changes_at
from relayd.warmup import Warmup

if TYPE_CHECKING:
    from relayd.queue.scheduler import Scheduler

OUTAGE = 120.0  # seconds without any success anywhere, while so many fail, after which the fault is taken to be ours
SEVERAL = 3
LONG = 600.0  # seconds after which what warm-up holds back is looked at again
MOMENT = 2.0  # seconds that a delivery waits in memory for warm-up to know
REST = (60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)  # seconds a path rests after so many failures in a row


class Restraints:
    """See the module.  ``held``: why nothing goes out of a queue at all, "" if it does; ``lineage``: an account and
    those above it, whose suspensions by hand bear on it too; ``rests``: seconds, after so many failures in a row.
    ``metered``: whether any start has more limits than its path's rate: while none has, none is asked for."""

    def __init__(self, scheduler: "Scheduler", reactions: Reactions, warmup: Warmup | None) -> None:
        self._scheduler = scheduler
        self._loading = scheduler.loading
        self._queues = scheduler.queues
        self._sites = scheduler.sites
        self._groups = scheduler.groups
        self.reactions = reactions
        self.warmup = warmup
        self.limiter = Limiter(reactions)
        self.held: Callable[[Queue], str] = lambda queue: ""
        self.lineage: Callable[[str], tuple[str, ...]] = lambda account: (account,)
        self.rests: tuple[float, ...] = REST
        self.metered = False
        self.resting: list[tuple[float, str, str]] = []  # what is looked at again, and when
        self._waking: dict[str, Meter[Path]] = {}  # meters by name, of those that have a time there
        self._warm: dict[int, float] = {}  # when deliveries under way by a source in warm-up started
        self._woken = 0.0  # when ``wake`` was last called
        self._failing: set[str] = set()  # sites without a session and queues without a site, at their last try
        self._last_success = 0.0  # when any session became ready or any domain was found

    # Starts and sessions.

    def may_start(self, path: Path, now: float, *, urgent: bool, busy: bool = False) -> bool:
        """Whether the next delivery may start by the limits besides its path's rate.  If not, its lane waits in line
        for the one that holds it longest, and others go on."""
        head = path.ready.head(urgent=urgent)
        if head is None:
            return True
        owner, lane = head
        delivery = lane.waiting[0]
        stream, meters = self._limits_of(path, delivery, now)
        site = self._sites[path.site]
        wait = self.wait_to_warm(path.source, site, delivery, now)
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

    def anything_may_start(self, path: Path, now: float) -> bool:
        """Whether anything that is ready may; what may not waits in line, and no session is opened for it."""
        while path.ready and path.paced_until <= now:
            if self.may_start(path, now, urgent=False):
                return True
        return False

    def start(self, path: Path, delivery: Delivery, now: float) -> None:
        """It starts: all that counts it knows."""
        if self.warmup is not None and self.warmup.plan_of(path.source):
            self.warmup.spend(path.source, self._sites[path.site].group, now)
            self._warm[delivery.id] = now
        stream, meters = self._limits_of(path, delivery, now)
        if meters:
            urgent = stream.priority >= PRIORITY
            self.limiter.start(delivery, meters, now, delivery.message.size, urgent=urgent)
            lane = self._queues[delivery.queue].lane
            for meter in meters:
                meter.line.started((path, lane))
                if meter.line:
                    self._wake(meter, now + meter.wait(now, urgent=False))

    def ended(self, delivery: Delivery, now: float) -> None:
        """It is under way no more: what counted it has room for another."""
        self._warm.pop(delivery.id, None)
        for meter in self.limiter.ended(delivery):
            if meter.line:
                self._call(meter, now)

    def given_back(self, path: Path, delivery: Delivery, now: float) -> None:
        """It was not tried."""
        spent = self._warm.get(delivery.id)
        if spent is not None and self.warmup is not None and path.site in self._sites:
            self.warmup.give_back(path.source, self._sites[path.site].group, spent)
        self.ended(delivery, now)

    def _limits_of(self, path: Path, delivery: Delivery, now: float) -> tuple[Stream, tuple[Meter[Path], ...]]:
        queue = self._queues[delivery.queue]
        stream = self._scheduler.stream_of(queue)
        site = self._sites[path.site]
        return stream, self.limiter.starts(path, site, queue.lane, stream, self._scheduler.pool_of(queue), now)

    def in_pace(self, path: Path, now: float) -> bool:
        """Whether the path's rate lets the next in line go now; if not, the path is looked at again when it does."""
        pace = path.meter.pace
        assert pace
        wait = pace.wait_in_line(now)
        if wait > 0 and path.ready.urgent:
            wait = min(wait, pace.wait_to_pass(now))
        if wait > 0 and (path.paced_until <= now or now + wait < path.paced_until):
            path.paced_until = now + wait
            heappush(self.resting, (path.paced_until, "pace", path.site))
        return wait <= 0

    def closed(self, path: Path, now: float) -> bool:
        """Whether it is outside the path's hours; then it rests."""
        opens = path.meter.window.next_open(now) if path.meter.window else now
        if opens > now:
            self.rest(path, opens, f"it is outside the hours {path.meter.limits.hours}")
        return opens > now

    def may_open(self, path: Path, now: float, *, in_line: bool) -> bool:
        """Whether all the path's meters allow one more session; if not it is looked at again when they may."""
        for meter in path.meters:
            wait = meter.wait_to_open(now, in_line=in_line)
            if wait > 0:
                meter.hungry[in_line][path] = None
                self._wake(meter, now + wait)
                if wait == NEVER and (idle := next(iter(meter.idle), None)):
                    self._scheduler.decide(Retire(idle))
                return False
        return True

    def feed_hungry(self, meter: Meter[Path], now: float) -> None:
        """Those who want a session of the meter's have theirs in turn, as far as it allows."""
        for in_line, hungry in enumerate(meter.hungry):
            while hungry:
                wait = meter.wait_to_open(now, in_line=bool(in_line))
                if wait > 0:
                    self._wake(meter, now + wait)
                    break
                path = next(iter(hungry))
                del hungry[path]
                self._scheduler.work(path, now)

    # Warm-up.

    def wait_to_warm(self, source: str, site: Site, delivery: Delivery, now: float) -> float:
        """Seconds until warm-up lets the delivery go by the source, or has it looked at again."""
        if self.warmup is None:
            return 0.0
        message = delivery.message
        return max(0.0, self.warmup.may(source, site.group, starts(message.steering, message.received), now) - now)

    def _cap(self, path: Path, site: Site, wait: float, now: float) -> None:
        """Warm-up lets the path have no more for now: what is ready looks for another, or waits a moment there."""
        until = now + min(wait, LONG)
        if wait <= MOMENT:
            path.paced_until = until
            heappush(self.resting, (until, "pace", path.site))
            return
        path.capped_until = until
        heappush(self.resting, (until, "site", path.site))
        self._scheduler.reassign(path, now)

    def warmed(self, places: Iterable[tuple[str, str]], now: float) -> None:
        """Warm-up lets these sources send more to these groups."""
        for source, group in places:
            for site in list(self._groups.get(group, {}).values()):
                if path := site.paths.get(source):
                    path.capped_until = path.paced_until = 0.0
                    self._scheduler.work(path, now)

    # Rests.

    def rest(self, path: Path, until: float, reason: str, failures: int = 0) -> None:
        """The path is not used until then; ``failures``: so many in a row are the reason.  Without any, no session that
        gets through ends it."""
        path.rest_until, path.reason, path.failures = until, reason, failures
        heappush(self.resting, (until, "site", path.site))

    def works(self, name: str, now: float) -> None:
        """A session to the site is ready, or the queue's domain was found."""
        self._failing.discard(name)
        self._last_success = now

    def forget(self, name: str) -> None:
        """The site, or queue, is not in memory any more."""
        self._failing.discard(name)

    def rest_after(self, name: str, failures: int, now: float) -> float:
        """Seconds of rest for a site or a queue's domain.  Where nothing at all has worked lately the fault is likely
        our own network's or resolver's, and when that is mended mail shall flow again soon."""
        self._failing.add(name)
        outage = len(self._failing) >= SEVERAL and now - self._last_success > OUTAGE
        return self.rests[0 if outage else min(failures, len(self.rests)) - 1]

    def blocked(self, queue: Queue, now: float) -> bool:
        """Whether the queue's site is known and every path of its pool rests."""
        if queue.site is None or queue.site.doubtful or not queue.site.failing:
            return False
        resting = queue.site.resting(now)
        pool = self._scheduler.pool_of(queue)
        return bool(resting) and self._scheduler.pools.choose(pool, "", resting, peek=True) is None

    def urge(self, name: str, now: float) -> None:
        """Somebody wants what is due of a queue tried now: it is looked at, and no failure of before keeps it."""
        queue = self._loading.queue(name)
        queue.more = True
        for path in self._scheduler.paths_of(queue, now):
            if path.failures and path.rest_until > now:
                path.rest_until = 0.0
                self._scheduler.work(path, now)
        self.wake_queue(name, now, over=not queue.held)

    # Reactions and limits, as they change.

    def equip(self, path: Path, site: Site, now: float) -> None:
        """Gives a path its limits, made or changed; who waits for old ones looks at the new."""
        held = self.reactions.holds(path.source, site.group, "", now)
        self.limiter.equip(path, site, self._scheduler.pools.having(path.source), held, now)
        warms = self.warmup is not None and self.warmup.plan_of(path.source) is not None
        self.metered = self.metered or self.limiter.used or warms
        path.paced_until = 0.0
        path.ready.call_all()
        path.review_at = min((changes_at(reaction, now) for reaction in held), default=NEVER)
        if path.review_at < NEVER:
            heappush(self.resting, (path.review_at, "site", site.name))
        suspended = [reaction for reaction in held if reaction.action == "suspend" and now < reaction.until]
        path.stays = any(not reaction.move for reaction in suspended)
        if suspended:
            longest = max(suspended, key=lambda reaction: reaction.until)
            self.rest(path, longest.until, longest.words(now))
        elif not path.failures:
            path.rest_until = 0.0
        if not suspended:
            self.closed(path, now)

    def reshaped(self, changed: Iterable[Active], now: float) -> None:
        """Reactions began, or ended before their time: the paths and queues that they bear on look again."""
        for reaction in changed:
            if reaction.mx:
                continue  # who opens a session asks
            sites = list((self._groups.get(reaction.group, {}) if reaction.group else self._sites).values())
            if reaction.account or reaction.pool:
                for site in sites:
                    own = [q for name in site.queues if self._concerns(reaction, q := self._queues[name])]
                    for queue in own:
                        self.heed_account(queue, now)
                    for lane in dict.fromkeys(queue.lane for queue in own):
                        self._relimit(lane, site, now)
                continue
            borne = [(p, site) for site in sites for p in site.paths.values() if reaction.source in ("", p.source)]
            for path, site in borne:  # all of them before any goes on: what they share has to know of each
                self.equip(path, site, now)
            for path, _ in borne:
                if path.rest_until > now:
                    self._scheduler.reassign(path, now)
                self._scheduler.work(path, now)
            for site in sites:
                for queue in [self._queues[name] for name in site.queues]:
                    if queue.held:
                        self.heed_account(queue, now)
                    self._loading.pull(queue, now)

    def _concerns(self, reaction: Active, queue: Queue) -> bool:
        if reaction.pool:
            return self._scheduler.pool_of(queue) == reaction.pool
        accounts = self.lineage(queue.account) if reaction.by else (queue.account,)
        return reaction.account in accounts

    def _relimit(self, lane: str, site: Site, now: float) -> None:
        """Other limits hold for a lane: what waits for the old ones looks at the new."""
        for path in list(site.paths.values()):
            self.limiter.renew(path, lane, now)
            path.ready.call(lane)
            self._scheduler.work(path, now)

    def relimited(self, now: float) -> None:
        """Accounts have other limits of their own: who waits for those of before looks at them."""
        self.metered = True
        for site in list(self._sites.values()):
            for path in list(site.paths.values()):
                path.ready.call_all()
                self._scheduler.work(path, now)

    def reshape(self, source: str, group: str, now: float) -> None:
        """Another share of their limits is left to a source's paths to a group of sites."""
        for site in list(self._groups.get(group, {}).values()):
            if path := site.paths.get(source):
                self.equip(path, site, now)

    # Whose mail is held.

    def restrain(self, accounts: Collection[str], now: float) -> None:
        """Other accounts are held now, or slowed: the queues of these look again."""
        self.look_again(lambda queue: queue.account in accounts, now)

    def look_again(self, which: Callable[[Queue], bool], now: float) -> None:
        """Queues of which it is other ones that are held now, or slowed."""
        for queue in list(self._queues.values()):
            if queue.site is not None and which(queue):
                self.heed_account(queue, now)
                self._relimit(queue.lane, queue.site, now)

    def heed_account(self, queue: Queue, now: float) -> None:
        """Whether the queue's account may send, at all and to its site, is looked at anew."""
        assert queue.site
        why = self.held(queue)
        own = self._bearing_on(queue, queue.site, now)
        suspended = [reaction for reaction in own if reaction.action == "suspend"]
        self.metered = self.metered or bool(own)
        if why or suspended:
            self._take_out(queue, queue.site, now)
        if why:
            self.hold(queue, NEVER, why)
        elif suspended:
            longest = max(suspended, key=lambda reaction: reaction.until)
            self.hold(queue, longest.until, f"{longest.whom} is {longest.words(now)}")
        elif queue.held:
            self.wake_queue(queue.name, now, over=True)

    def _take_out(self, queue: Queue, site: Site, now: float) -> None:
        """What is ready of a queue that is stopped goes back to the disk; of its lane, what is not stopped stays."""
        owner = self._scheduler.stream_of(queue).account or queue.account
        stopped = {queue.name: True}
        for path in site.paths.values():
            for delivery in path.ready.drop(owner, queue.lane):
                other = self._queues[delivery.queue]
                if other.name not in stopped:
                    own = self._bearing_on(other, site, now)
                    stopped[other.name] = bool(self.held(other)) or any(r.action == "suspend" for r in own)
                if stopped[other.name]:
                    self._loading.evict(other, delivery)
                else:
                    self._scheduler.push(path, other, delivery)

    def _bearing_on(self, queue: Queue, site: Site, now: float) -> list[Active]:
        """The reactions that hold for whose mail it is: its account's, by hand also of those above it, its pool's."""
        held = self.reactions.holds("", site.group, queue.account, now, self._scheduler.pool_of(queue))
        if self.reactions.handmade:
            for above in self.lineage(queue.account)[1:]:
                held += tuple(r for r in self.reactions.holds("", site.group, above, now) if r.account and r.by)
        return [reaction for reaction in held if (reaction.account or reaction.pool) and now < reaction.until]

    def hold(self, queue: Queue, until: float, reason: str) -> None:
        """The queue is not read until then."""
        queue.rest_until, queue.reason, queue.held = until, reason, True
        if until < NEVER:
            heappush(self.resting, (until, "queue", queue.name))

    # Until when.

    def at(self, when: float, kind: Literal["queue", "site"], name: str) -> None:
        """Has it looked at again then."""
        heappush(self.resting, (when, kind, name))

    @property
    def wakes_at(self) -> float:
        """When ``wake`` has something to do."""
        return self.resting[0][0] if self.resting else NEVER

    def wake(self, now: float) -> None:
        """Call when it is time: rests that are over, limits that let the next one go."""
        if now < self._woken:
            self._set_back(now)
        self._woken = now
        while self.resting and self.resting[0][0] <= now:
            when, kind, name = heappop(self.resting)
            if kind == "queue":
                self.wake_queue(name, now)
            elif kind == "site":
                self._wake_site(name, now)
            elif kind == "pace":
                for path in list(self._sites[name].paths.values()) if name in self._sites else ():
                    self._scheduler.work(path, now)
            elif (meter := self._waking.get(name)) and meter.wakes_at <= when:
                self._call(meter, now)

    def _wake(self, meter: Meter[Path], when: float) -> None:
        """Those in line for the meter are called then."""
        if when < meter.wakes_at:
            meter.wakes_at = when
            self._waking[meter.name] = meter
            heappush(self.resting, (when, "meter", meter.name))

    def _call(self, meter: Meter[Path], now: float) -> None:
        """Those whose turn it is at a meter may start, or open a session."""
        meter.wakes_at = NEVER
        self._waking.pop(meter.name, None)
        self.feed_hungry(meter, now)
        starting, soon = meter.call(now)
        for path, lane in starting:
            path.ready.call(lane)
            if path.rest_until > now:
                meter.line.started((path, lane))  # or its turn would be kept
            self._scheduler.work(path, now)
        for path, _ in soon:
            if not path.opening and path.rest_until <= now:
                self._scheduler.open(path, now, in_line=not path.ready.urgent)
        if meter.line:
            self._wake(meter, meter.calls_at(now))

    def wake_queue(self, name: str, now: float, *, over: bool = False) -> None:
        """The queue waited for DNS, for a source or for its time: looked at again; ``over``: its rest is."""
        queue = self._queues.get(name)
        if queue is None:
            return
        if over or queue.rest_until <= now:
            queue.rest_until = 0.0  # over for good, even if the clock steps back
            queue.held = False
        if queue.waiting:
            self._scheduler.reroute(queue, now)
        else:
            self._loading.pull(queue, now)
            self._loading.linger(queue, now)

    def _wake_site(self, name: str, now: float) -> None:
        site = self._sites.get(name)
        if site is None:
            return
        paths = list(site.paths.values())
        for path in paths:
            if path.rest_until <= now:
                path.rest_until = 0.0  # over for good, even if the clock steps back
            if path.capped_until <= now:
                path.capped_until = 0.0
            if path.review_at <= now:
                self.equip(path, site, now)
        for path in paths:
            self._scheduler.work(path, now)
        for queue_name in site.queues:
            self._loading.pull(self._queues[queue_name], now)
        if not site.queues:  # nobody goes there any more: how it failed is not worth remembering
            for path in site.paths.values():
                path.failures = 0
            self._scheduler.forget_idle(name, now)

    def _set_back(self, now: float) -> None:
        """The clock was set back, and rates with it: who waits for one does not wait for the time to come again, and no
        look at the disk does."""
        self._loading.set_back(now)
        for site in list(self._sites.values()):
            for path in list(site.paths.values()):
                path.paced_until = 0.0
                self._scheduler.work(path, now)
        for meter in list(self._waking.values()):
            self._call(meter, now)
