"""Loading: which queues are in memory, and what of them is read from the disk.

In: queues and deliveries as the spool finds them, what leaves memory, what an operator takes out of reach.  Out: what
is to be read next (``Poll``, ``Pull``, ``Settle``), deliveries for the scheduler to place (``Scheduler.load``).

Only *eligible* queues are in memory, and of each at most a handful of deliveries; the rest stays on disk and is pulled
as it goes.  A queue that is held back is not read at all, and waiting rewrites no row.  What is not in memory is found
again by walking the queues' next due times in order, from a cursor.
"""

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING

from relayd.envelope import Delivery
from relayd.queue.decisions import Poll, Pull, Settle
from relayd.queue.memory import RESERVE, TWICE, Memory
from relayd.queue.ready import PRIORITY
from relayd.queue.state import Path, Queue, Waiting

if TYPE_CHECKING:
    from relayd.queue.scheduler import Scheduler

QUEUES = 200_000  # queues in memory
PAGE = 500  # queues in one step of the walk
LINGER = 5.0  # seconds a queue stays in memory after its last delivery
RESCAN = 600.0  # seconds after which the walk starts over, so that nothing missed stays missed
LOOK = 60.0  # seconds after which a queue that never empties is looked at for retries that fell due
RECHECK = 10.0  # seconds after which what could not be read or placed is looked at again


class Loading:
    """See the module."""

    def __init__(self, scheduler: "Scheduler") -> None:
        self._scheduler = scheduler
        self._queues = scheduler.queues
        self.memory = Memory()
        self._lingering: deque[tuple[float, str]] = deque()
        self._cursor = (-1.0, "")
        self._polling = False
        self._rescan = RESCAN

    @property
    def full(self) -> bool:
        """Whether as many queues are in memory as may be."""
        return len(self._queues) >= QUEUES

    # The walk.

    def queue(self, name: str) -> Queue:
        """By its name; from now on it is in memory."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(name)
        return queue

    def polled(self, found: list[tuple[float, str]], limit: int, now: float) -> None:
        """Queues due, in the order of the walk."""
        self._polling = False
        for due, name in found:
            self._cursor = (due, name)
            queue = self.queue(name)
            queue.more = True
            self.pull(queue, now)
        if len(found) >= limit:
            self._poll(now)

    def _poll(self, now: float) -> None:
        if not self._polling and not self._scheduler.stopping and not self.full:
            self._polling = True
            self._scheduler.decide(Poll(self._cursor, PAGE))

    def walk_again(self, now: float) -> None:
        """Queues may be due that the walk has passed: it starts over soon."""
        self._rescan = min(self._rescan, now + RECHECK)

    def tick(self, now: float) -> None:
        """Queues to let go of, the walk's next step."""
        while self._lingering and self._lingering[0][0] <= now:
            _, name = self._lingering.popleft()
            queue = self._queues.get(name)
            if queue is not None:
                queue.lingering = False
                if not (queue.loaded or queue.pulling or queue.more):
                    self._scheduler.decide(Settle(name))
        self.feed_starved(now)
        if not self._polling and (now < self._cursor[0] or now >= self._rescan):
            self._cursor = (-1.0, "")
            self._rescan = now + RESCAN
        self._poll(now)

    def set_back(self, now: float) -> None:
        """The clock was: no look at the disk waits for the time to come again."""
        self._rescan = min(self._rescan, now + RESCAN)
        self._lingering = deque((now + LINGER, name) for _, name in self._lingering)
        for queue in self._queues.values():
            queue.look = min(queue.look, now + LOOK)

    # What is read.

    def pull(self, queue: Queue, now: float) -> None:
        """Has more of the queue read, if there may be more, nothing holds it back and there is room."""
        if not queue.more or queue.pulling or self._scheduler.stopping:
            return
        if queue.rest_until > now or self._scheduler.restraints.blocked(queue, now):
            return
        limit = self._room(queue)
        if limit <= 0 or self.memory.busy:
            if len(queue.loaded) < RESERVE:
                self.memory.wait(queue)
            return
        queue.pulling = True
        self.memory.pulls += 1
        self.memory.coming += limit
        self._scheduler.decide(Pull(queue.name, limit, list(queue.loaded)))

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
                self._scheduler.load(queue, delivery, now)
        self.pull(queue, now)
        self.linger(queue, now)
        self.feed_starved(now)

    def pull_failed(self, name: str, limit: int, now: float) -> None:
        """The spool could not be read: asked again in a while."""
        queue = self._pull_ended(name, limit)
        if queue is not None:
            queue.gone.clear()
            queue.more = True
            self._scheduler.restraints.at(now + RECHECK, "queue", name)

    def _pull_ended(self, name: str, limit: int) -> Queue | None:
        queue = self._queues.get(name)
        if queue is None or not queue.pulling:
            return None
        queue.pulling = False
        self.memory.pulls -= 1
        self.memory.coming -= limit
        return queue

    def may_load(self, queue: Queue, now: float) -> bool:
        """Whether mail of the queue that was just received may stay in memory."""
        return (
            not (self._scheduler.stopping or queue.rest_until > now or self._scheduler.restraints.blocked(queue, now))
            and self._room(queue, new=True) > 0
        )

    def _room(self, queue: Queue, *, new: bool = False) -> int:
        return self.memory.room(queue, urgent=self.urgent(queue), new=new)

    def urgent(self, queue: Queue) -> bool:
        """Whether it is priority mail."""
        return self._scheduler.stream_of(queue).priority >= PRIORITY

    def evict(self, queue: Queue, delivery: Delivery) -> None:
        """Leaves a delivery to the disk, where it is: it comes again when its queue is read again."""
        self.memory.remove(queue, delivery)
        queue.more = True
        queue.again = queue.again or queue.pulling  # which may have read past it

    # Who is in line.

    def feed_starved(self, now: float) -> None:
        """Those in line for memory have their turns, each account that waits once at most."""
        line = self.memory.waiting
        for _ in range(len(line)):
            if self.memory.busy or self.memory.full(TWICE + 1):
                break
            self.feed(line, now)

    def feed(self, line: Waiting, now: float) -> None:
        """The next in line has its turn."""
        queue = line.next()
        if queue.name in self._queues:
            self.pull(queue, now)

    # What somebody takes out of reach.

    def hold(self, delivery: Delivery) -> bool:
        """Takes a delivery that is on disk out of everybody's reach until ``done``; False if somebody has it."""
        queue = self.queue(delivery.queue)
        if delivery.id in queue.loaded:
            return False
        self.memory.add(queue, delivery)
        return True

    def under_way(self, name: str, ids: Collection[int]) -> set[int]:
        """Which of these somebody has who cannot be asked for them: a session, or the disk that is to keep them."""
        queue = self._queues.get(name)
        loaded = queue.loaded.intersection(ids) if queue else set()
        if queue is None or not loaded:
            return set()
        owner = self._scheduler.stream_of(queue).account or queue.account
        for path in self._paths(queue):
            loaded.difference_update(d.id for d in path.ready.of_lane(owner, queue.lane))
        return loaded.difference(d.id for d in queue.waiting)

    def seize(self, name: str, ids: Collection[int]) -> list[int]:
        """Takes deliveries of a queue that are on disk out of everybody's reach until ``let_go``, those that are ready
        but not under way included; gives those it got."""
        queue = self.queue(name)
        wanted = queue.loaded.intersection(ids)
        if wanted:
            ready = [d for d in queue.waiting if d.id in wanted]
            if ready:
                queue.waiting = [d for d in queue.waiting if d.id not in wanted]
            owner = self._scheduler.stream_of(queue).account or queue.account
            for path in self._paths(queue):
                ready += path.ready.take_out(owner, queue.lane, wanted)
            for delivery in ready:
                self.evict(queue, delivery)
        got = [identity for identity in ids if identity not in queue.loaded]
        self.memory.keep(queue, got)
        return got

    def _paths(self, queue: Queue) -> list[Path]:
        """Where deliveries of a queue may be ready: they stay where they are when it goes elsewhere."""
        queue.strayed = queue.strayed and bool(queue.loaded)
        sites = list(self._scheduler.sites.values()) if queue.strayed else [queue.site] if queue.site else []
        return [path for site in sites for path in site.paths.values()]

    def let_go(self, name: str, ids: Collection[int], now: float, *, look: bool) -> None:
        """What was seized can be had again, as it is on disk now; ``look``: some of the queue may be due there."""
        queue = self.queue(name)
        self.memory.let_go(queue, ids)
        if queue.pulling:
            queue.gone.update(ids)
        queue.more = queue.more or look
        self.pull(queue, now)
        if queue.site is not None and queue.site.share.waiting and not self.memory.crowds(queue):
            self.feed(queue.site.share.waiting, now)
        self.feed_starved(now)
        self.linger(queue, now)

    # What leaves memory.

    def linger(self, queue: Queue, now: float) -> None:
        """The queue stays a while, if nothing of it is left."""
        if not (queue.loaded or queue.pulling or queue.more or queue.lingering):
            queue.lingering = True
            self._lingering.append((now + LINGER, queue.name))

    def settled(self, name: str, due: float, now: float) -> None:
        """The true next due time of a queue of which nothing was in memory."""
        queue = self._queues.get(name)
        if queue is None or queue.loaded or queue.pulling:
            return
        if due <= now:
            queue.more = True
            self.pull(queue, now)
        elif not queue.more:
            del self._queues[name]
            self._scheduler.restraints.forget(name)
            if queue.site is not None:
                self._scheduler.leave_site(queue, now)
