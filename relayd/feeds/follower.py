"""A follower: the thread of one feed.  It reads on from its checkpoint, gives the events to its sink, and only when the
sink has them for certain moves the checkpoint on.

In: blocks of events.  Out: what the sink makes of them; the checkpoint, in the small database of the room.  A crash
between the two repeats one block, with the same ids.  A sink that fails is tried again and again with the same block:
nothing is skipped, nothing is gathered in memory, and nobody waits for it but this thread.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from relayd.database import opened
from relayd.feeds.blocks import Blocks, Item
from relayd.feeds.settings import Settings
from relayd.spool.segments import Checkpoint
from relayd.spool.store import connect

AGAIN = 5.0  # seconds until a failed sink is tried again
_IDLE = 1.0  # seconds between looks when nobody wakes it

_SCRIPTS = (
    """
    CREATE TABLE feed (
        name    TEXT PRIMARY KEY,
        segment TEXT NOT NULL,
        offset  INTEGER NOT NULL,    -- all before it is in the sink
        events  INTEGER NOT NULL     -- that went there so far
    );
    """,
)


class Sink(Protocol):
    """Where events go.  ``write`` returns when they are there for certain, or raises; ``rest`` is called while there
    are none; ``fault`` is what is wrong although events get there.  These and ``close`` are called on the feed's
    thread; ``abort``, on any, ends a wait for somebody else."""

    fault: str

    def write(self, items: Sequence[Item]) -> None: ...
    def rest(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Follower(threading.Thread):
    """``hold(checkpoint)``: records before it may be deleted; ``gone()``: it has ended and its checkpoint is forgotten;
    ``told(fault)``: what is wrong, "" when it is so no more.  All are called on this thread.  ``after``: the one whose
    place it takes, which it waits for."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        spool: Path,
        blocks: Blocks,
        sink: Sink,
        hold: Callable[[Checkpoint], object],
        gone: Callable[[], object],
        told: Callable[[str], object],
        wall: Callable[[], float],
        after: "Follower | None" = None,
    ) -> None:
        super().__init__(name=f"feed {name}", daemon=True)
        self.feed = name
        self.settings = settings
        self.events = 0
        self.fault = ""
        self._spool = spool
        self._blocks = blocks
        self._sink = sink
        self._hold = hold
        self._gone = gone
        self._told = told
        self._wall = wall
        self._after = after
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._forgotten = False
        self._at = Checkpoint()
        self._kept: Checkpoint | None = None  # what the database says; None: not asked yet
        self._waiting = 0.0

    @property
    def behind(self) -> float:
        """Seconds since the first event that has not gone out; 0.0 if all have."""
        return max(0.0, self._wall() - self._waiting) if self._waiting else 0.0

    def wake(self) -> None:
        """There are new records.  For any thread."""
        self._wake.set()

    def stop(self, *, forget: bool = False) -> None:
        """Ends the thread after what it has under way, with ``forget`` for good.  For any thread; waits for nothing."""
        self._forgotten = self._forgotten or forget
        self._stopping.set()
        self._wake.set()
        self._sink.abort()

    def run(self) -> None:
        if self._after is not None:
            self._after.join()  # however long: two would write the same
            self._after = None
        while not self._stopping.is_set():
            try:
                self._work()
            except Exception as error:  # whatever it is: a feed must not end in silence
                if not self._stopping.is_set():
                    self._say(_words(error))
                self._stopping.wait(AGAIN)
        self._sink.close()
        if self._forgotten:
            self._forget()

    def _work(self) -> None:
        """Until it is stopped.  Raises whatever is wrong; then it is begun anew."""
        with (
            closing(connect(self._spool / "spool.sqlite", readonly=True)) as records,
            closing(checkpoints(self._spool)) as own,
        ):
            if self._kept is None:
                self._begin(records, own)
            while not self._stopping.is_set():
                if not self._step(records, own):
                    self._sink.rest()
                    self._say(self._sink.fault)
                    self._wake.wait(_IDLE)
                    self._wake.clear()

    def _begin(self, records: sqlite3.Connection, own: sqlite3.Connection) -> None:
        row = own.execute("SELECT segment, offset, events FROM feed WHERE name = ?", (self.feed,)).fetchone()
        if row:
            self._at, self.events = Checkpoint(*row[:2]), row[2]
        elif self.settings.begin == "now":
            last = records.execute("SELECT name, bytes FROM segment ORDER BY name DESC LIMIT 1").fetchone()
            self._at = Checkpoint(*last) if last else Checkpoint()
        self._keep(own)
        self._hold(Checkpoint(self._at.segment))

    def _step(self, records: sqlite3.Connection, own: sqlite3.Connection) -> bool:
        """Takes the next block over; False if there is none."""
        if self._kept != self._at:  # the sink has them, the database could not be written
            self._keep(own)
        block = self._blocks.read(records, self._at)
        if block is None:
            self._waiting = 0.0
            return False
        self._waiting = block.since
        wanted = self._wanted(block.items)
        if wanted:
            self._sink.write(wanted)
        moved = block.to.segment != self._at.segment
        self._at = block.to
        self.events += len(wanted)
        self._keep(own)
        if moved:
            self._hold(Checkpoint(block.to.segment))
        self._say(self._sink.fault)
        return True

    def _wanted(self, items: list[Item]) -> list[Item]:
        events, accounts = self.settings.events, self.settings.accounts
        if not (events or accounts):
            return items
        return [
            item
            for item in items
            if (not events or item.event in events) and (not accounts or item.account in accounts)
        ]

    def _keep(self, own: sqlite3.Connection) -> None:
        with own:
            own.execute(
                "INSERT INTO feed VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET segment = excluded.segment, offset = excluded.offset, events = excluded.events",
                (self.feed, self._at.segment, self._at.offset, self.events),
            )
        self._kept = self._at

    def _forget(self) -> None:
        """Raises nothing: at the next start what is not configured is forgotten anyway."""
        try:
            with closing(checkpoints(self._spool)) as own, own:
                own.execute("DELETE FROM feed WHERE name = ?", (self.feed,))
        except (sqlite3.Error, OSError, RuntimeError) as error:
            self._say(_words(error))
        self._gone()

    def _say(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            self._told(fault)


def checkpoints(spool: Path) -> sqlite3.Connection:
    """Where feeds stand.  What a power cut takes of it is sent again.  Raises sqlite3.Error, OSError, RuntimeError."""
    found = opened(spool / "feeds.sqlite", _SCRIPTS)
    found.execute("PRAGMA synchronous = NORMAL")
    return found


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
