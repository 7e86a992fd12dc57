"""The writer: one thread that makes changes durable, as many at once as have arrived (group commit).

Enter, from the main thread: changes, each with a ``done`` to be called.  Leave, through ``post`` (which runs a call on
the main thread): ``done(None)`` once the change is on disk, ``done(error)`` for a reception that could not be kept,
``done(identity)`` for one that was not because its key had come before, with that message.

Outcomes go first in each batch, and receptions get at most as many places as outcomes while outcomes wait, so a flood
of submissions never starves delivery.  An outcome is never given up: while the disk refuses, it stays first in line.
"""

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from relayd.histogram import Histogram
from relayd.spool.store import CLEARED, Applied, Batch, Departure, Reception, Requeue, Store

Done = Callable[[Any], None]
Post = Callable[..., Any]
Change = Reception | Departure | Requeue
Item = tuple[Any, Done | None]

BATCH = 512  # changes in one transaction: bounds what a crash can repeat, and how long a commit takes
BATCH_BYTES = 8 << 20
_FAIR_SHARE = 32  # receptions that may always go along with waiting outcomes
# Seconds between the starts of two commits.  Under load more changes share one, which saves a tenth of the CPU; the
# first change after a pause does not wait.
GATHER = 0.002
# Commits under load for one piece of clearing, or more pieces if more came in: a file of the landing stays until it is
# cleared, so a flood must not come in faster than it is.
_CLEAR_EVERY = 4
_CLEAR_AGAIN = 0.25  # seconds between looks for something to clear
_RETRY = 1.0  # seconds between tries while the disk refuses
_COMMITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

# Faults of one change, not of the disk: the batch is taken apart to find it.
_OWN_FAULTS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)


def _of_disk(error: Exception) -> bool:
    own = isinstance(error, _OWN_FAULTS) or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return isinstance(error, sqlite3.Error | OSError) and not own


class Settle(str):
    """The name of a queue whose true next due time is wanted; ``done`` gets the time."""


class Writer(threading.Thread):
    """Owns the store from its start to its stop.  ``fault(error | None)`` is posted when writing begins to fail, and
    again with None when it works again; ``unlink(messages)`` is called here for body files no longer needed.
    ``broken``: what it broke down of, for good, "" while it has not; ``commits``: how long they took."""

    def __init__(
        self, store: Store, post: Post, fault: Callable[[str | None], None], unlink: Callable[[list[int]], None]
    ) -> None:
        super().__init__(name="spool-writer", daemon=True)
        self._store = store
        self._post = post
        self._fault = fault
        self._unlink = unlink
        self._inbox: SimpleQueue[Item | None] = SimpleQueue()
        self._outcomes: deque[Item] = deque()
        self._receptions: deque[tuple[Reception, Done | None]] = deque()
        self._stopping = False
        self._failing = False
        self._error: Exception | None = None
        self._began = 0.0
        self._clear_at = 0.0
        self._cleared = 0  # changes that had come when the landing was cleared last
        self._noted: dict[str, str] = {}  # faults that are told already
        self.batches = 0
        self.changes = 0
        self.commits = Histogram(_COMMITS)
        self.broken = ""
        self.beat = time.monotonic()

    def submit(self, change: "Change | Settle | Callable[[sqlite3.Connection], Any]", done: Done | None) -> None:
        """Queues one change.  Any thread."""
        self._inbox.put((change, done))

    def stop(self) -> None:
        """Commits all that was submitted before, then ends the thread.  Join it afterwards."""
        self._inbox.put(None)

    @property
    def waiting(self) -> int:
        """Changes that are not on disk yet, about."""
        return self._inbox.qsize() + len(self._outcomes) + len(self._receptions)

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.broken = f"the spool's writer has broken down, restart relayd: {error!r}"
            self._post(self._fault, self.broken)
            raise

    def _run(self) -> None:
        while True:
            self.beat = time.monotonic()
            self._collect()
            early = self._began + GATHER - time.monotonic()
            if early > 0 and not self._stopping:
                time.sleep(early)
                self._collect()
            self._began = time.monotonic()
            if self._outcomes or self._receptions:
                refused = self._commit(self._next_batch())
                if refused:
                    self._hold(refused)
            elif self._stopping:
                return
            elif self._clear_at <= self._began:
                self._clear()
            came = min(self.changes - self._cleared, BATCH)
            if came >= CLEARED or self.batches % _CLEAR_EVERY == 0:
                self._cleared = self.changes
                for _ in range(0, max(came, 1), CLEARED):
                    if self._clear_at <= self._began:
                        self._clear()

    def _clear(self) -> None:
        """One piece of what the landing holds for too long."""
        try:
            more = self._store.clear_landing()
            fault = ""
        except Exception as error:  # a chore: nobody's mail waits for it
            more, fault = False, f"old mail cannot be brought into the database: {error}"
        if not more:
            self._note("clearing", fault)
        self._clear_at = 0.0 if more else time.monotonic() + _CLEAR_AGAIN

    def _note(self, chore: str, fault: str) -> None:
        """A fault with which the spool can still be written is told once, and taken back at once."""
        if fault and not self._failing and fault != self._noted.get(chore):
            self._post(self._fault, fault)
            self._post(self._fault, None)
            self._noted[chore] = fault
        elif not fault:
            self._noted.pop(chore, None)

    def _collect(self) -> None:
        """Takes everything that has arrived; waits for something if there is nothing to do."""
        idle = not (self._outcomes or self._receptions or self._stopping)
        wait = idle and self._clear_at > 0
        while True:
            try:
                item = self._inbox.get(wait, 1.0 if wait else None)
            except Empty:
                return
            wait = False
            if item is None:
                self._stopping = True
            elif isinstance(item[0], Reception):
                self._receptions.append(item)
            else:
                self._outcomes.append(item)

    def _next_batch(self) -> list[Item]:
        chosen = [self._outcomes.popleft() for _ in range(min(BATCH, len(self._outcomes)))]
        room = max(len(chosen), _FAIR_SHARE) if chosen else BATCH
        size = 0
        while self._receptions and room and size < BATCH_BYTES:
            item = self._receptions.popleft()
            chosen.append(item)
            size += len(item[0].message.body or b"")
            room -= 1
        return chosen

    def _commit(self, items: list[Item]) -> list[Item]:
        """Makes durable what it can, and tells.  Gives what the disk refused, in order."""
        began = time.monotonic()
        try:
            applied = self._store.apply(_batch([change for change, _ in items]))
        except Exception as error:
            if _of_disk(error):
                self._error = error
                return items
            if len(items) == 1:
                self._refuse(*items[0], error)
                return []
            half = len(items) // 2
            refused = self._commit(items[:half])
            return refused + items[half:] if refused else self._commit(items[half:])
        self.commits.add(time.monotonic() - began)
        self.batches += 1
        self.changes += len(items)
        if self._failing:
            self._failing = False
            self._post(self._fault, None)
        fault = self._store.landing_fault
        self._note("landing", f"new mail goes into the database, the landing refuses it: {fault}" if fault else "")
        self._post(_tell, items, applied)
        if applied.gone:
            self._unlink(applied.gone)
        return []

    def _refuse(self, change: Any, done: Done | None, error: Exception) -> None:
        """One change is bad, the spool is not: that is told, and taken back at once."""
        if not self._failing:
            self._post(self._fault, f"a {type(change).__name__} was refused by the spool: {error}")
            self._post(self._fault, None)
        if done:
            self._post(done, error)

    def _hold(self, items: list[Item]) -> None:
        """The disk refuses: receptions are told so, everything else waits for the next try.  There is always a next
        try, or nobody would learn that the disk works again."""
        if not self._failing:
            self._failing = True
            self._post(self._fault, f"the spool cannot be written: {self._error}")
        for change, done in reversed(items):
            if not isinstance(change, Reception):
                self._outcomes.appendleft((change, done))
            elif done:
                self._post(done, self._error)
        if self._stopping:
            self._outcomes.clear()  # a stop with a dead disk: what is on disk is tried again at the next start
        else:
            self._outcomes = self._outcomes or deque([(_probe, None)])
            time.sleep(_RETRY)


def _probe(connection: sqlite3.Connection) -> None:
    """Wants room and writes, and leaves nothing."""
    connection.execute("INSERT INTO outbox (lines, entries) VALUES (zeroblob(65536), '[]')")
    connection.execute("DELETE FROM outbox WHERE seq = last_insert_rowid()")


def _batch(changes: list[Any]) -> Batch:
    batch = Batch()
    for change in changes:
        match change:
            case Reception():
                batch.receptions.append(change)
            case Departure():
                batch.departures.append(change)
                batch.receptions += [change.report] if change.report else []
            case Requeue():
                batch.requeues.append(change)
                batch.receptions += [change.report] if change.report else []
            case Settle():
                batch.settles.append(str(change))  # the JSON encoder knows no subclasses
            case _:
                batch.jobs.append(change)
    return batch


def _tell(items: list[Item], applied: Applied) -> None:
    """Main thread: every ``done`` of a batch that is on disk.  One that fails keeps no other from being told."""
    results = iter(applied.results)
    faults: list[Exception] = []
    for change, done in items:
        if isinstance(change, Settle):
            value: Any = applied.settled[change]
        elif isinstance(change, Reception):
            value = applied.twins.get(change.message.id)
        elif isinstance(change, Departure | Requeue):
            value = None
        else:
            value = next(results)
        if done:
            try:
                done(value)
            except Exception as fault:
                faults.append(fault)
    if faults:
        raise ExceptionGroup("after a commit", faults)
