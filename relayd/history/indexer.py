"""The indexer: a thread that reads every record once, for the history and for the counters.

In: segments, as the spool's mover fills them.  Out: an index beside each segment, figures in the counters, and whose
events came.  It begins where the counters stand, which keep that in the same transaction as their figures: so each
event is counted once, whatever is killed when.  It may lag; the mail does not wait for it.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from relayd.history.facts import Fact, facts
from relayd.history.index import Index, index_path
from relayd.spool.segments import Checkpoint, read_records
from relayd.spool.store import connect

_BLOCK = 64 << 10  # bytes of records at a time
_RESTS = 10  # times as long as a piece of work waited for the interpreter: mail that wants it goes first ...
_REST = 1.0  # ... but no more seconds at a time than these ...
_LATE = 60.0  # ... and the less, the nearer it is to so many seconds behind
_AGAIN = 5.0  # seconds until the next try after a failure
_IDLE = 1.0  # seconds between looks when nobody wakes it


class Counters(Protocol):
    """What the facts are counted in.  ``at``: everything before has been; ``kept``: and everything before this is on
    disk.  ``tend`` does what is due."""

    at: Checkpoint
    kept: Checkpoint

    def add(self, found: list[Fact], to: Checkpoint) -> None: ...
    def tend(self) -> None: ...
    def close(self) -> None: ...


class Indexer(threading.Thread):
    """``counters`` is called on this thread alone.  ``hold(checkpoint)``: what lies before may be deleted;
    ``came(whose)``: of these (account, connection) something came; ``fault(text)``: why it cannot go on, "" when it can
    again.  All three are called on this thread.  ``behind``: seconds, of the last record that was read."""

    def __init__(
        self,
        spool: Path,
        counters: Callable[[], Counters],
        hold: Callable[[Checkpoint], None],
        came: Callable[[set[tuple[str, str]]], None],
        fault: Callable[[str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name="indexer", daemon=True)
        self._database = spool / "spool.sqlite"
        self._records = spool / "records"
        self._open_counters = counters
        self._hold = hold
        self._came = came
        self._fault = fault
        self._wall = wall
        self._wake = threading.Event()
        self._stopping = False
        self._ending = threading.Event()
        self._index: Index | None = None
        self._unfinished: list[str] = []  # segments of before that have no whole index
        self._read_until = 0.0
        self._held = ""  # the segment before which all may be deleted
        self.beat = time.monotonic()

    @property
    def behind(self) -> float:
        """Seconds: 0.0 while everything that was moved is in."""
        return max(0.0, self._wall() - self._read_until) if self._read_until else 0.0

    def wake(self) -> None:
        """There are new records.  For any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread after what it has under way; join it afterwards."""
        self._stopping = True
        self._ending.set()
        self._wake.set()

    def run(self) -> None:
        failing = ""
        while not self._stopping:
            try:
                self._work()
            except Exception as error:  # whatever it is: history must not end in silence
                said = f"history and statistics stand still: {error}"
                if said != failing:
                    self._fault(said)
                failing = said
                self._wake.wait(_AGAIN)
                self._wake.clear()
            else:
                return

    def _work(self) -> None:
        """Until it is stopped.  Raises whatever is wrong; then it is begun anew."""
        with closing(connect(self._database, readonly=True)) as db, closing(self._open_counters()) as counters:
            self._db = db
            try:
                self._unfinished = self._missing(counters.at)
                self._catch_up(counters.at)
                self._fault("")
                while not self._stopping:
                    self.beat, before = time.monotonic(), _waited()
                    more = self._step(counters)
                    counters.tend()
                    self._let_go(counters.kept.segment)
                    if more or self._mend():
                        self._ending.wait(rest(_waited() - before, self.behind))
                    else:
                        self._wake.wait(_IDLE)
                        self._wake.clear()
            finally:
                if self._index is not None:
                    self._index.close()
                    self._index = None

    def _step(self, counters: Counters) -> bool:
        """Takes in the next records; False if there are none."""
        at = counters.at
        lines, to = read_records(self._db, self._records, at, _BLOCK)
        if not lines:
            self._read_until = 0.0
            return False
        start = at.offset if to.segment == at.segment else 0
        index = self._turn_to(to.segment)
        found = list(facts(lines, start))
        if index.read < to.offset:  # else it is ahead of the counters, which a kill threw back
            index.add(found, to.offset)
        counters.add(found, to)
        if at.segment not in ("", to.segment) and not _is_sealed(index_path(self._records / at.segment)):
            self._unfinished.append(at.segment)  # it was lost, and nothing more came there that showed it
        self._read_until = found[-1].time if found else self._wall()
        self._came({(fact.account, fact.connection) for fact in found})
        return True

    def _let_go(self, segment: str) -> None:
        """What lies before this segment may be deleted."""
        if segment > self._held:
            self._hold(Checkpoint(segment))
            self._held = segment

    def _catch_up(self, at: Checkpoint) -> None:
        """Makes what is missing of the index of the segment that was read last: it may have been lost."""
        row = self._db.execute("SELECT bytes FROM segment WHERE name = ? AND bytes > 0", (at.segment,)).fetchone()
        if row is not None:
            self._fill(self._turn_to(at.segment), at.segment, at.offset)

    def _turn_to(self, segment: str) -> Index:
        """The index of this segment; that of the one before is complete."""
        path = index_path(self._records / segment)
        index = self._index
        if index is not None and index.path != path:
            self._index = None
            index.seal()
            index = None
        if index is None:
            index = self._index = Index(path, _boot())
        return index

    def _fill(self, index: Index, segment: str, until: int) -> bool:
        """Takes in what an index has not of its segment, some of it; True when that is all."""
        while index.read < until and not self._stopping:
            lines, to = read_records(self._db, self._records, Checkpoint(segment, index.read), _BLOCK)
            if not lines or to.segment != segment:
                return True
            index.add(list(facts(lines, index.read)), to.offset)
            self.beat = time.monotonic()
        return bool(index.read >= until)

    def _missing(self, at: Checkpoint) -> list[str]:
        """Segments before this place whose index is not there or not whole, the newest last."""
        names = self._db.execute(
            "SELECT name FROM segment WHERE name < ? AND bytes > 0 ORDER BY name", (at.segment,)
        ).fetchall()
        return [name for (name,) in names if not _is_sealed(index_path(self._records / name))]

    def _mend(self) -> bool:
        """Makes one index that is missing; False if none is."""
        if not self._unfinished:
            return False
        name = self._unfinished.pop()
        row = self._db.execute("SELECT bytes FROM segment WHERE name = ? AND bytes > 0", (name,)).fetchone()
        if row is not None:
            index = Index(index_path(self._records / name), _boot())
            try:
                if self._fill(index, name, row[0]):
                    index.seal()
            finally:
                index.close()
        return True


def _is_sealed(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            return bool(db.execute("SELECT sealed FROM state").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return False


def _boot() -> str:
    """Which boot of the machine this is."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def rest(waited: float, behind: float) -> float:
    """Seconds to do nothing after a piece of work that was kept waiting for so many."""
    return max(0.0, min(_REST, _RESTS * waited * (1 - behind / _LATE)))


def _waited() -> float:
    """Seconds in which this thread has not computed; only differences mean something."""
    return time.monotonic() - time.thread_time()
