"""Records leave the hot database: the mover copies them from the outbox to append-only files, and feeds tail those.

Enter: outbox rows (the record lines of one commit each).  Leave: ``records/<first second>.jsonl``, fsynced, and the row
``segment`` that says how many of its bytes count.  That row and the deletion from the outbox are one transaction of the
writer; bytes behind it are of a copy that a crash interrupted, and are cut off and copied again: each record is in the
segments once.  A segment is sealed with its ledger totals when it is large or old, and only then may be deleted.

A feed reads whole lines from its own checkpoint (segment, offset) and never beyond what counts.
"""

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from relayd.identity import received_at, show
from relayd.records import Record, decode
from relayd.spool.files import sync_directory

SEGMENT_BYTES = 64 << 20
SEGMENT_SECONDS = 86400
_AT_ONCE = 4 << 20  # bytes of records moved in one go
_EARLY, _LATE = 5.0, 60.0  # seconds that records may be older than those before them; that one may wait for its commit
_LOOK = 64 << 10  # bytes that are read at a time in looking for one
_FOLLOW = 2 << 20  # bytes behind a Reception in which its Delivery is looked for
_RECEPTION, _DELIVERY = b'{"kind":"Reception"', b'{"kind":"Delivery"'
_TIME = re.compile(rb'"time":([0-9.e+]+)')

Submit = Callable[[Any, Callable[[Any], Any] | None], None]


class Checkpoint(msgspec.Struct, frozen=True):
    """Where a feed stands: everything before ``offset`` of ``segment``, and all earlier segments, has been read."""

    segment: str = ""
    offset: int = 0


class Mover(threading.Thread):
    """Moves records about once a second.  ``connection`` is its own reading one; ``submit`` the writer's.

    ``fault(error | None)`` is called on this thread when moving begins to fail and when it works again."""

    def __init__(
        self,
        directory: Path,
        connection: sqlite3.Connection,
        submit: Submit,
        fault: Callable[[str | None], Any],
        keep: float = 30 * 86400,
        interval: float = 1.0,
    ) -> None:
        super().__init__(name="spool-mover", daemon=True)
        self._directory = directory
        self._connection = connection
        self._submit = submit
        self._fault = fault
        self._keep = keep
        self._interval = interval
        self.moved: Callable[[], object] = lambda: None  # called on this thread when there are new records to read
        self._wake = threading.Event()
        self._stopping = False
        self._name = ""
        self._bytes = 0
        self.beat = time.monotonic()
        directory.mkdir(mode=0o700, exist_ok=True)

    def stop(self) -> None:
        """Moves what is there and ends the thread; the writer must still run.  Join it afterwards."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        failing = False
        while True:
            self.beat = time.monotonic()
            try:
                self.move()
                if failing:
                    failing = False
                    self._fault(None)
            except Exception as error:  # whatever it is: without its mover the outbox would grow in silence
                failing = True
                self._fault(f"records cannot be moved: {error}")
                self._name = ""
            if self._stopping:
                return
            self._wake.wait(self._interval)

    def move(self) -> int:
        """Moves all records that are in the outbox; gives how many bytes.  Raises OSError, sqlite3.Error."""
        if not self._name:
            self._open()
        moved = 0
        while rows := self._outbox():
            lines = b"".join(lines for _, lines in rows)
            path = self._directory / self._name
            with open(path, "ab", buffering=0) as file:
                if file.tell() != self._bytes:
                    file.truncate(self._bytes)
                view = memoryview(lines)
                while view:
                    view = view[file.write(view) :]
                os.fdatasync(file.fileno())
            if not self._bytes:
                sync_directory(self._directory)
            self._bytes += len(lines)
            self._settle(rows[-1][0])
            self.moved()
            moved += len(lines)
        if self._bytes >= SEGMENT_BYTES or (self._bytes and time.time() - int(self._name[:10]) >= SEGMENT_SECONDS):
            self._seal()
        return moved

    def _outbox(self) -> list[tuple[int, bytes]]:
        rows = []
        size = 0
        for seq, lines in self._connection.execute("SELECT seq, lines FROM outbox ORDER BY seq LIMIT 1000"):
            rows.append((seq, lines))
            size += len(lines)
            if size >= _AT_ONCE:
                break
        return rows

    def _open(self) -> None:
        """Takes up the unsealed segment, cut to what counts, or begins one."""
        for (old,) in self._connection.execute("SELECT name FROM segment WHERE sealed > 0 AND bytes = 0"):
            self._unlink(old)  # a crash may have come between
        row = self._connection.execute("SELECT name, bytes FROM segment WHERE sealed = 0 ORDER BY name").fetchone()
        if row is None:
            row = (_new_name(self._connection), 0)
        name, size = row
        path = self._directory / name
        if size and (not path.exists() or path.stat().st_size < size):
            raise OSError(f"{path} is shorter than the {size} bytes of records that were moved there")
        if path.exists():
            os.truncate(path, size)
        self._name, self._bytes = name, size

    def _settle(self, seq: int) -> None:
        name, size = self._name, self._bytes

        def job(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO segment (name, bytes) VALUES (?, ?) ON CONFLICT DO UPDATE SET bytes = excluded.bytes",
                (name, size),
            )
            connection.execute(
                "INSERT INTO segment_total SELECT ?, value->>0, value->>1, value->>2, value->>3, sum(value->>4) "
                "FROM outbox, json_each(entries) WHERE seq <= ? GROUP BY 2, 3, 4, 5 "
                "ON CONFLICT DO UPDATE SET count = count + excluded.count",
                (name, seq),
            )
            connection.execute("DELETE FROM outbox WHERE seq <= ?", (seq,))

        self._do(job)

    def _seal(self) -> None:
        name, sealed, keep = self._name, time.time(), self._keep

        def job(connection: sqlite3.Connection) -> list[str]:
            connection.execute("UPDATE segment SET sealed = ? WHERE name = ?", (sealed, name))
            return deletable(connection, sealed - keep)

        for old in self._do(job):
            self._unlink(old)
        self._name = ""

    def _unlink(self, name: str) -> None:
        """A segment, and what others have made of it beside it (``history``)."""
        for path in self._directory.glob(f"{name.removesuffix('.jsonl')}.*"):
            path.unlink(missing_ok=True)

    def _do(self, job: Callable[[sqlite3.Connection], Any]) -> Any:
        """Has the writer run ``job`` and waits for it: off the main thread, so waiting is no harm."""
        finished: Future[Any] = Future()
        self._submit(job, finished.set_result)
        while not finished.done():  # however long: to go on while the job may yet be done would move records twice
            self.beat = time.monotonic()
            wait([finished], 5)
            if self._stopping and not finished.done():
                raise OSError("the spool does not answer; the rest is moved at the next start")
        result = finished.result()
        if isinstance(result, Exception):
            raise result
        return result


def deletable(connection: sqlite3.Connection, before: float) -> list[str]:
    """Segments sealed before that moment which every feed has read; marks them as having no bytes."""
    names = [
        name
        for (name,) in connection.execute(
            "SELECT name FROM segment WHERE sealed > 0 AND sealed < ? AND bytes > 0 "
            "AND name < coalesce((SELECT min(segment) FROM checkpoint), '~')",
            (before,),
        )
    ]
    connection.executemany("UPDATE segment SET bytes = 0 WHERE name = ?", [(name,) for name in names])
    return names


def _new_name(connection: sqlite3.Connection) -> str:
    """Names sort by age, whatever the clock does."""
    last = connection.execute("SELECT max(name) FROM segment").fetchone()[0]
    second = max(int(time.time()), int(last[:10]) + 1 if last else 0)
    return f"{second:010d}.jsonl"


def read_records(
    connection: sqlite3.Connection, directory: Path, since: Checkpoint, limit: int = 1 << 20
) -> tuple[list[bytes], Checkpoint]:
    """Whole record lines behind a checkpoint, about ``limit`` bytes of them, and the checkpoint behind those.

    An empty list means that there is no more for now.  Raises OSError when a segment is gone."""
    segments = connection.execute(
        "SELECT name, bytes FROM segment WHERE name >= ? AND bytes > 0 ORDER BY name", (since.segment,)
    ).fetchall()
    for name, size in segments:
        offset = since.offset if name == since.segment else 0
        if offset < size:
            with open(directory / name, "rb") as file:
                file.seek(offset)
                data = file.read(min(limit, size - offset))
                if not data.endswith(b"\n"):
                    data += file.readline()
            if not data:
                raise OSError(f"{directory / name} ends before byte {offset}, of {size} that were moved there")
            return data.splitlines(keepends=True), Checkpoint(name, offset + len(data))
    return [], since


class Span(NamedTuple):
    """Whole lines of a segment: from this byte to before that."""

    segment: str
    start: int
    end: int


def spans(connection: sqlite3.Connection, directory: Path, since: float = 0.0, until: float = 0.0) -> list[Span]:
    """Where all records of a time are (0.0: no bound), oldest first, and few others.  Raises OSError, sqlite3.Error."""
    rows = connection.execute("SELECT name, bytes FROM segment WHERE bytes > 0 ORDER BY name").fetchall()
    found: list[Span] = []
    for name, size in rows:
        with open(directory / name, "rb") as file:
            first = _time(file.readline())
            if since and first is not None and first < since - _EARLY:
                found.clear()  # what is in those before is older still
            if until and first is not None and first > until + _LATE:
                break
            start = _place(file, size, since - _EARLY) if since else 0
            end = size
            if until:
                file.seek(min(size, _place(file, size, until + _LATE) + 2 * _LOOK))
                file.readline()
                end = min(size, file.tell())
            found.append(Span(name, start, end))
    return [span for span in found if span.start < span.end]


def read_span(directory: Path, span: Span, at: int, limit: int = 1 << 20) -> bytes:
    """Whole lines of a span from the byte ``at`` on, about ``limit`` bytes.  Raises OSError."""
    with open(directory / span.segment, "rb") as file:
        file.seek(at)
        data = file.read(min(limit, span.end - at))
        if not data.endswith(b"\n"):
            data += file.readline()
    if not data:
        raise OSError(f"{directory / span.segment} ends before byte {at}, of {span.end} that were moved there")
    return data


def reception(connection: sqlite3.Connection, directory: Path, identity: int) -> Record | None:
    """The Reception of the message that a delivery is of; with the evidence of its Delivery, if that came soon."""
    # A message and its deliveries are of one millisecond: but for its last bits, the id begins alike.
    needle, own = b'"message":"' + show(identity)[:10].encode(), b'"delivery":"' + show(identity).encode()
    found, left = None, _FOLLOW
    for block in _around(connection, directory, received_at(identity)):
        found = found or _received(_with(needle, block), identity)
        if found is not None:
            went = next((line for line in _with(own, block) if line.startswith(_DELIVERY)), None)
            if went is not None:
                return msgspec.structs.replace(found, evidence=decode(went).evidence)
            left -= len(block)
            if left < 0:
                break
    return found


def _around(connection: sqlite3.Connection, directory: Path, moment: float) -> Iterator[bytes]:
    """The lines where records of a moment stand, in order.  They are looked for by halves: records lie in the order of
    their commits."""
    segments, outbox = _view(connection)
    first = max((i for i, (name, _) in enumerate(segments) if int(name[:10]) <= moment), default=0)
    for name, size in segments[first : first + 2]:
        with open(directory / name, "rb") as file:
            file.seek(_place(file, size, moment - _EARLY))
            while (left := size - file.tell()) > 0:
                block = file.read(min(left, _LOOK))
                block += file.readline() if left > _LOOK else b""
                if (time := _time(block)) is None or time > moment + _LATE:
                    break
                yield block
    yield from (lines for (lines,) in outbox)


def _received(lines: list[bytes], identity: int) -> Record | None:
    for line in lines:
        if line.startswith(_RECEPTION):
            record = decode(line)
            if 0 < identity - int(record.message, 16) <= len(record.recipients):
                return record
    return None


def _place(file: BinaryIO, size: int, moment: float) -> int:
    """Where a line begins before which none is of that moment or later."""
    low, high = 0, size
    while high - low > _LOOK:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        at = file.tell()
        time = _time(file.readline())
        if at < high and time is not None and time < moment:
            low = at
        else:
            high = middle
    return low


def _time(lines: bytes) -> float | None:
    """Of the first line."""
    found = _TIME.search(lines)
    return float(found[1]) if found else None


def blocks(
    connection: sqlite3.Connection, directory: Path, since: float, begin: Callable[[str], int] = lambda segment: 0
) -> Iterator[bytes]:
    """All record lines that may be of ``since`` or later, oldest first, many at a time; of each segment from the byte
    on that ``begin`` says, which is asked when its turn comes."""
    segments, outbox = _view(connection)
    later = [i for i, (name, _) in enumerate(segments) if int(name[:10]) > since]
    first = max(0, later[0] - 1) if later else len(segments) - 1
    for name, size in segments[max(0, first) :]:
        start = begin(name)
        with open(directory / name, "rb") as file:
            file.seek(start)
            while (left := size - file.tell()) > 0:  # what lies behind is in the outbox still
                block = file.read(min(left, _AT_ONCE))
                if left > _AT_ONCE:
                    block += file.readline(left - _AT_ONCE)
                if not block:
                    break
                yield block
    for (lines,) in outbox:
        yield lines


def _view(connection: sqlite3.Connection) -> tuple[list[tuple[str, int]], list[tuple[bytes]]]:
    """(segments, outbox), one view of both: what is moved meanwhile is neither missed nor found twice."""
    connection.execute("BEGIN")
    try:
        segments = connection.execute("SELECT name, bytes FROM segment WHERE bytes > 0 ORDER BY name").fetchall()
        return segments, connection.execute("SELECT lines FROM outbox ORDER BY seq").fetchall()
    finally:
        connection.execute("COMMIT")


def _with(text: bytes, block: bytes) -> list[bytes]:
    return [line for line in block.splitlines(keepends=True) if text in line]


def checkpoint_of(connection: sqlite3.Connection, feed: str) -> Checkpoint:
    """Where the feed stands; the very beginning for a new one."""
    row = connection.execute("SELECT segment, offset FROM checkpoint WHERE feed = ?", (feed,)).fetchone()
    return Checkpoint(*row) if row else Checkpoint()


def retain(prefix: str, feeds: Collection[str]) -> Callable[[sqlite3.Connection], None]:
    """The writer's job that forgets the feeds whose names begin like this, but for these."""

    def job(connection: sqlite3.Connection) -> None:
        known = connection.execute("SELECT feed FROM checkpoint WHERE substr(feed, 1, ?) = ?", (len(prefix), prefix))
        gone = [row for row in known.fetchall() if row[0] not in feeds]
        connection.executemany("DELETE FROM checkpoint WHERE feed = ?", gone)

    return job


def advance(feed: str, to: Checkpoint) -> Callable[[sqlite3.Connection], None]:
    """The writer's job that records a feed's progress."""

    def job(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO checkpoint VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET segment = excluded.segment, "
            "offset = excluded.offset",
            (feed, to.segment, to.offset),
        )

    return job
