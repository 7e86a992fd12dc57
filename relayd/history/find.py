"""Finding events: which segments may have them, which rows of their indexes, and the lines that those stand for.

In: a query.  Out: events, the newest first, page by page.  For any thread: each call opens what it reads.  An index
that is not made yet is as if nothing were there, and so is a segment that is deleted meanwhile.
"""

import os
import re
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import msgspec

from relayd.address import domain_of
from relayd.events import Event, Name, events, place
from relayd.history.facts import MANY, NUMBER
from relayd.history.index import index_path, mark
from relayd.identity import in_same_millisecond, received_at, show
from relayd.records import Record, decode
from relayd.spool.segments import blocks

PAGE = 1000
_CURSOR = re.compile(r"(\d{10})-([0-9a-f]{1,15})", re.ASCII)
_PLACE = re.compile(r"(\d{10})-([0-9a-f]{1,11})(?:-(\d{1,4}))?", re.ASCII)
_LINE = 4096  # bytes that are read for a line at first
_EARLY = 5.0  # seconds that a message's first record may be older than its id
_MILLISECOND = 11  # digits of an id that tell it
_GAP = 32 << 10  # bytes between lines that are read rather than read around, ...
_AT_ONCE = 1 << 20  # ... and in one go


class Query(msgspec.Struct, frozen=True):
    """``accounts``: any of them, () for all; ``id``: of a message or of a delivery; ``since`` up to before ``until``
    in unix seconds, 0.0: no bound."""

    accounts: tuple[str, ...] = ()
    connection: str = ""
    stream: str = ""
    recipient: str = ""
    domain: str = ""
    track_id: str = ""
    events: tuple[Name, ...] = ()
    id: int = 0
    deliveries: tuple[int, ...] = ()
    since: float = 0.0
    until: float = 0.0


class Hit(msgspec.Struct, frozen=True, order=True):
    """Where an event is; as a text it is a cursor for those who page."""

    segment: str
    position: int

    @property
    def offset(self) -> int:
        return self.position >> MANY

    @property
    def nth(self) -> int:
        return self.position & (1 << MANY) - 1

    def __str__(self) -> str:
        return f"{self.segment[:10]}-{self.position:x}"

    @classmethod
    def read(cls, text: str) -> "Hit":
        """Raises ValueError with a sentence for the user."""
        parts = _CURSOR.fullmatch(text)
        if parts is None:
            raise ValueError(f'{text!r} is not the "next" of an answer')
        return cls(f"{parts[1]}.jsonl", int(parts[2], 16))

    @classmethod
    def of(cls, id: str) -> "Hit":
        """Of the event with this id.  Raises ValueError with a sentence for the user."""
        parts = _PLACE.fullmatch(id)
        if parts is None:
            raise ValueError(f"{id!r} is not the id of an event")
        return cls(f"{parts[1]}.jsonl", int(parts[2], 16) << MANY | int(parts[3] or 0))


class Found(msgspec.Struct, frozen=True):
    """``next``: behind which the next page begins, None for the last."""

    events: list[Event]
    next: Hit | None


def find(
    records: Path,
    query: Query,
    node: str,
    *,
    limit: int = PAGE,
    before: Hit | None = None,
    patience: float = 3600.0,
) -> Found:
    """Events, the newest first; fewer than ``limit``, though there may be more, when so many seconds are over.  Raises
    OSError, sqlite3.Error."""
    found: list[Event] = []
    last: Hit | None = None
    end = time.monotonic() + patience
    for segment in reversed(segments_of(records, query)):
        if before is not None and Hit(segment.name, 0) >= before:
            continue
        if last is not None and time.monotonic() > end:
            return Found(found, last)
        below = before.position if before is not None and segment.name == before.segment else 1 << 62
        while len(found) < limit:
            # Some may turn out to be others with the same mark.
            wanted = limit - len(found)
            hits = _hits(segment, query, "position < ?", below, "DESC", wanted)
            found += [event for _, event in lines(records, hits, query, node)]
            if hits:
                last, below = hits[-1], hits[-1].position
            if len(hits) < wanted:
                break
        if len(found) >= limit:
            return Found(found, last)
        last = Hit(segment.name, 0)
    return Found(found, None)


def event_at(records: Path, place: Hit, query: Query, node: str) -> Event | None:
    """The event that stands there, if one does and it is what is asked for.  Raises OSError, sqlite3.Error."""
    hits = _hits(records / place.segment, query, "position = ?", place.position, "ASC", 1)
    return next((event for _, event in lines(records, hits, query, node)), None)


def trace(db: sqlite3.Connection, records: Path, identity: int) -> list[Record]:
    """All records of a message, by its own id or that of one of its deliveries, the oldest first.  They are looked for
    by the indexes, and line by line where there is none yet.  ``db``: of the spool.  Raises OSError, sqlite3.Error."""
    low, high = in_same_millisecond(identity)
    found: list[bytes] = []

    def begin(segment: str) -> int:
        offsets, read = _indexed(records / segment, low, high)
        if offsets:
            with open(records / segment, "rb", buffering=0) as file:
                found.extend(_line(file, offset) for offset in offsets)
        return read

    needle = f'"message":"{show(low)[:_MILLISECOND]}'.encode()
    for block in blocks(db, records, received_at(identity) - _EARLY, begin):
        if needle in block:
            found += [line for line in block.splitlines() if needle in line]
    told, name = list(map(decode, found)), show(identity)
    message = next((record.message for record in told if name in (record.message, record.delivery)), "")
    return sorted((record for record in told if message and record.message == message), key=lambda record: record.time)


def _indexed(segment: Path, low: int, high: int) -> tuple[list[int], int]:
    """Where records of deliveries from ``low`` to ``high`` stand, as far as the index goes, and how far that is."""
    try:
        with closing(sqlite3.connect(f"{index_path(segment).absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")
            ((read,),) = db.execute("SELECT read FROM state").fetchall()
            rows = db.execute("SELECT position FROM event WHERE delivery BETWEEN ? AND ?", (low, high))
            return sorted({position >> MANY for (position,) in rows}), read
    except (sqlite3.Error, ValueError):
        return [], 0  # there is none that could be used


def lines(records: Path, hits: Sequence[Hit], query: Query, node: str) -> Iterator[tuple[Hit, Event]]:
    """The events that are there, as far as they are what was asked for."""
    for name, of_segment in groupby(hits, key=lambda hit: hit.segment):
        try:
            file = open(records / name, "rb", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            continue
        with file:
            for run in _runs(list(of_segment)):
                start = min(hit.offset for hit in run)
                block = os.pread(file.fileno(), max(hit.offset for hit in run) - start + _LINE, start)
                at, made = -1, list[Event]()
                for hit in run:
                    if hit.offset != at:
                        at = hit.offset
                        while (end := block.find(b"\n", at - start)) < 0 and (
                            more := os.pread(file.fileno(), max(_LINE, len(block)), start + len(block))
                        ):
                            block += more
                        line = block[at - start : end if end >= 0 else None]
                        made = list(events(decode(line), place(name, at), node))
                    if hit.nth < len(made) and matches(query, made[hit.nth]):
                        yield hit, made[hit.nth]


def _runs(hits: list[Hit]) -> Iterator[list[Hit]]:
    """Those whose lines lie near one another, whichever way they go."""
    run = hits[:1]
    for hit in hits[1:]:
        if abs(hit.offset - run[-1].offset) > _GAP or abs(hit.offset - run[0].offset) > _AT_ONCE:
            yield run
            run = []
        run.append(hit)
    yield run


def _line(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    line = file.read(_LINE)
    while (end := line.find(b"\n")) < 0 and (more := file.read(len(line))):
        line += more
    return line[: end if end >= 0 else None]


def matches(query: Query, event: Event) -> bool:
    """Whether it is really meant, for what a mark or a moment stands for alone."""
    return (
        query.recipient.lower() in ("", event.recipient.lower())
        and query.track_id.lower() in ("", event.track_id.lower())
        and _domain(query) in ("", domain_of(event.recipient).lower())
        and (not query.id or show(query.id) in (event.message, event.delivery))
    )


def _domain(query: Query) -> str:
    return domain_of(f"@{query.domain}").lower() if query.domain else ""


def segments_of(records: Path, query: Query) -> list[Path]:
    """Those of the time, by name: that is when they were begun."""
    paths = sorted(path for path in records.glob("*.jsonl") if index_path(path).exists())
    starts = [int(path.name[:10]) for path in paths]
    if query.until:
        # What waited to be moved is older than its segment: it stands in the first of those behind.
        last = bisect_right(starts, query.until + _SLACK)
        while last < len(paths) and _first(paths[last]) <= query.until + _SLACK:
            last += 1
        paths, starts = paths[:last], starts[:last]
    ends = [*starts[1:], 1 << 62]  # of the last: whenever
    return [path for path, end in zip(paths, ends, strict=False) if end + _SLACK >= query.since]


def _first(segment: Path) -> float:
    """When its first record is of; long after everything if there is none."""
    try:
        with open(segment, "rb", buffering=0) as file:
            return decode(_line(file, 0)).time
    except (FileNotFoundError, msgspec.DecodeError):
        return 1e12


_SLACK = 120  # seconds that records may lie beside their segment's time


def _hits(segment: Path, query: Query, where: str, position: int, order: str, limit: int) -> list[Hit]:
    path = index_path(segment)
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return []  # it went meanwhile
    with closing(db):
        try:
            terms = terms_of(db, query)
            if terms is None:
                return []
            text, values = terms
            rows = db.execute(
                f"SELECT position FROM event WHERE {where} {text} ORDER BY position {order} LIMIT ?",
                (position, *values, limit),
            ).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []  # it is just being made
            raise
    return [Hit(segment.name, position) for (position,) in rows]


def terms_of(db: sqlite3.Connection, query: Query, plus: str = "") -> tuple[str, list[int]] | None:
    """Conditions and their values; None if a name that is asked for never came there."""
    text, values = "", list[int]()

    def one_of(column: str, among: Sequence[int]) -> None:
        nonlocal text
        text += f" AND {column} IN ({', '.join('?' * len(among))})" if len(among) > 1 else f" AND {column} = ?"
        values.extend(among)

    # What finds few rows is looked for by its index; a plus sign keeps SQLite from taking another.
    few = query.id or query.deliveries or query.recipient or query.track_id
    plus = "+" if few else plus
    for column, names in (
        ("account", query.accounts),
        ("connection", (query.connection,) if query.connection else ()),
        ("stream", (query.stream,) if query.stream else ()),
    ):
        if names:
            marks = ", ".join("?" * len(names))
            ids = [id for (id,) in db.execute(f"SELECT id FROM name WHERE name IN ({marks})", names)]
            if not ids:
                return None
            one_of(plus + column, ids)
    if query.id:
        text += " AND delivery BETWEEN ? AND ?"
        values += in_same_millisecond(query.id)
    if query.deliveries:
        one_of("delivery", query.deliveries)
    if query.recipient:
        one_of("recipient", [mark(query.recipient)])
    if query.track_id:
        one_of("track", [mark(query.track_id)])
        text += " AND track <> 0"  # as its index says
    if query.domain:
        one_of("+domain", [mark(_domain(query))])
    if query.events:
        one_of("event", [NUMBER[name] for name in query.events])
    if query.since:
        text += " AND time >= ?"
        values.append(int(query.since * 1000))
    if query.until:
        text += " AND time < ?"
        values.append(int(query.until * 1000))
    return text, values
