"""Finding events: which segments may have them, which rows of their indexes, and the lines that those stand for.

In: a query.  Out: events, the newest first, page by page; or their places, the oldest first, for those who follow.  For
any thread: each call opens what it reads, and makes few calls: beside a busy main thread each may cost a switch.  An
index that is not made yet is as if nothing were there.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

import msgspec

from relayd.address import domain_of
from relayd.events import Event, Name, events, place
from relayd.history.facts import MANY, NUMBER
from relayd.history.index import index_path, mark
from relayd.records import decode

PAGE = 1000
_LINE = 4096  # bytes that are read for a line at first
_GAP = 32 << 10  # bytes between lines that are read rather than read around, ...
_AT_ONCE = 1 << 20  # ... and in one go


class Query(msgspec.Struct, frozen=True):
    """``accounts``: any of them, () for all; ``since`` up to before ``until`` in unix seconds, 0.0: no bound."""

    accounts: tuple[str, ...] = ()
    connection: str = ""
    stream: str = ""
    recipient: str = ""
    domain: str = ""
    track_id: str = ""
    events: tuple[Name, ...] = ()
    deliveries: tuple[int, ...] = ()
    since: float = 0.0
    until: float = 0.0


class Hit(msgspec.Struct, frozen=True, order=True):
    """Where an event is."""

    segment: str
    position: int

    @property
    def offset(self) -> int:
        return self.position >> MANY

    @property
    def nth(self) -> int:
        return self.position & (1 << MANY) - 1


class Found(msgspec.Struct, frozen=True):
    """``next``: behind which the next page begins, None for the last."""

    events: list[Event]
    next: Hit | None


def find(records: Path, query: Query, node: str, *, limit: int = PAGE, before: Hit | None = None) -> Found:
    """Events, the newest first.  Raises OSError, sqlite3.Error."""
    found: list[Event] = []
    last: Hit | None = None
    for segment in reversed(_segments(records, query)):
        if before is not None and segment.name > before.segment:
            continue
        below = before.position if before is not None and segment.name == before.segment else 1 << 62
        while len(found) < limit:
            # Some may turn out to be others with the same mark.
            hits = _hits(segment, query, "position < ?", below, "DESC", limit - len(found))
            found += [event for _, event in lines(records, hits, query, node)]
            if hits:
                last, below = hits[-1], hits[-1].position
            if len(hits) < limit:
                break
        if len(found) >= limit:
            return Found(found, last)
    return Found(found, None)


def places(records: Path, query: Query, after: Hit, limit: int) -> list[Hit]:
    """Where the events behind this one are, the oldest first; an empty segment's name: from the beginning."""
    found: list[Hit] = []
    for segment in _segments(records, query):
        if segment.name < after.segment:
            continue
        above = after.position if segment.name == after.segment else -1
        found += _hits(segment, query, "position > ?", above, "ASC", limit - len(found))
        if len(found) >= limit:
            break
    return found


class Followed(msgspec.Struct, frozen=True):
    """What lies behind a place: ``hits``, and ``to``, before which nothing else is.  ``more``: perhaps, behind that;
    ``oldest``: the time of the first hits, 0.0 without any."""

    hits: list[Hit]
    to: Hit
    more: bool = False
    oldest: float = 0.0


def follow(
    records: Path, query: Query, after: Hit, limit: int, *, until: Hit | None = None, lane: tuple[int, int] = (0, 1)
) -> Followed:
    """For those who go on from place to place and must miss nothing: never beyond what is indexed without a gap.

    ``until``: the last place that is looked at; ``lane`` (i, n): only deliveries that leave i when divided by n.  All
    rows behind the place are looked at in their order, once: ``to`` is behind them, found or not.
    """
    found: list[Hit] = []
    to, oldest = after, 0.0
    for name in sorted(name for name in os.listdir(records) if name.endswith(".jsonl") and name >= after.segment):
        if until is not None and name > until.segment:
            break
        above = after.position if name == after.segment else -1
        seen = _behind(records / name, query, above, limit - len(found), until, lane)
        if seen is None:
            return Followed(found, to, oldest=oldest)
        positions, first, top, sealed = seen
        found += (Hit(name, position) for position in positions)
        oldest = oldest or first
        if len(found) >= limit:
            return Followed(found, found[-1], True, oldest)
        to = max(to, Hit(name, top))
        if not sealed:
            return Followed(found, to, oldest=oldest)
    return Followed(found, max(to, until) if until is not None else to, oldest=oldest)


def _behind(
    segment: Path, query: Query, above: int, limit: int, until: Hit | None, lane: tuple[int, int]
) -> tuple[list[int], float, int, bool] | None:
    """(positions, the first's time, the last position that is indexed or wanted, whether the segment is indexed to its
    end); None if it is not indexed yet."""
    try:
        db = sqlite3.connect(f"{index_path(segment).absolute().as_uri()}?mode=ro", uri=True)
        with closing(db):
            read, sealed = db.execute("SELECT read, sealed FROM state").fetchone()
            top = (read << MANY) - 1
            if until is not None and until.segment == segment.name and until.position <= top:
                top, sealed = until.position, True
            terms = _terms(db, query, "+")  # a list of all that is whose would have to be sorted each time
            if terms is None:
                return [], 0.0, top, bool(sealed)
            text, values = terms
            if lane[1] > 1:
                text += " AND delivery % ? = ?"
                values += (lane[1], lane[0])
            rows = f"SELECT position, time FROM event WHERE position > ? AND position <= ? {text} ORDER BY 1 LIMIT ?"
            positions, first = db.execute(
                f"SELECT json_group_array(position), min(time) FROM ({rows})", (above, top, *values, limit)
            ).fetchone()
            return sorted(json.loads(positions)), (first or 0) / 1000, top, bool(sealed)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "unable to open" in str(error):
            return None  # it is just being made, or went meanwhile
        raise


def begin(records: Path, moment: float) -> Hit:
    """The place before the first event of a moment or later, as far as is indexed.  Raises OSError, sqlite3.Error."""
    place = Hit("", 0)
    for segment in _segments(records, Query(since=moment)):
        db = sqlite3.connect(f"{index_path(segment).absolute().as_uri()}?mode=ro", uri=True)
        with closing(db):
            query = "SELECT position FROM event WHERE time >= ? ORDER BY position LIMIT 1"
            row = db.execute(query, (int(moment * 1000),)).fetchone()
            if row is not None:
                return Hit(segment.name, row[0] - 1)
            place = Hit(segment.name, (db.execute("SELECT read FROM state").fetchone()[0] << MANY) - 1)
    return place


def lines(records: Path, hits: Sequence[Hit], query: Query, node: str) -> Iterator[tuple[Hit, Event]]:
    """The events that are there, as far as they are what was asked for."""
    for name, of_segment in groupby(hits, key=lambda hit: hit.segment):
        with open(records / name, "rb", buffering=0) as file:
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


def matches(query: Query, event: Event) -> bool:
    """Whether it is really meant, for what a mark stands for alone."""
    return (
        query.recipient.lower() in ("", event.recipient.lower())
        and query.track_id.lower() in ("", event.track_id.lower())
        and query.domain.lower() in ("", domain_of(event.recipient).lower())
    )


def _segments(records: Path, query: Query) -> list[Path]:
    """Those of the time, by name: a segment's first records may be a little older than its name."""
    names = sorted(path for path in records.glob("*.jsonl") if index_path(path).exists())
    starts = [int(path.name[:10]) for path in names] + [1 << 62]
    return [
        path
        for n, path in enumerate(names)
        if (not query.until or starts[n] - _SLACK <= query.until) and starts[n + 1] + _SLACK >= query.since
    ]


_SLACK = 120  # seconds that records may lie beside their segment's time


def _hits(segment: Path, query: Query, where: str, position: int, order: str, limit: int) -> list[Hit]:
    path = index_path(segment)
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return []  # it went meanwhile
    with closing(db):
        try:
            terms = _terms(db, query)
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


def _terms(db: sqlite3.Connection, query: Query, plus: str = "") -> tuple[str, list[int]] | None:
    """Conditions and their values; None if a name that is asked for never came there."""
    text, values = "", list[int]()

    def one_of(column: str, among: Sequence[int]) -> None:
        nonlocal text
        text += f" AND {column} IN ({', '.join('?' * len(among))})" if len(among) > 1 else f" AND {column} = ?"
        values.extend(among)

    # What finds few rows is looked for by its index; a plus sign keeps SQLite from taking another.
    few = query.deliveries or query.recipient or query.track_id
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
    if query.deliveries:
        one_of("delivery", query.deliveries)
    if query.recipient:
        one_of("recipient", [mark(query.recipient)])
    if query.track_id:
        one_of("track", [mark(query.track_id)])
        text += " AND track <> 0"  # as its index says
    if query.domain:
        one_of("+domain", [mark(query.domain)])
    if query.events:
        one_of("+event", [NUMBER[name] for name in query.events])
    if query.since:
        text += " AND time >= ?"
        values.append(int(query.since * 1000))
    if query.until:
        text += " AND time < ?"
        values.append(int(query.until * 1000))
    return text, values
