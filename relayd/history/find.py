"""Finding events: which segments may have them, which rows of their indexes, and the lines that those stand for.

In: a query.  Out: events, the newest first, page by page; or their places, the oldest first, for those who follow.  For
any thread: each call opens what it reads.  An index that is not made yet is as if nothing were there.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from relayd.address import domain_of
from relayd.events import Event, Name, events, place
from relayd.history.facts import MANY, NUMBER
from relayd.history.index import index_path, mark
from relayd.records import decode

PAGE = 1000
_LINE = 4096  # bytes that are read for a line at first


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


def lines(records: Path, hits: Sequence[Hit], query: Query, node: str) -> Iterator[tuple[Hit, Event]]:
    """The events that are there, as far as they are what was asked for."""
    for name in dict.fromkeys(hit.segment for hit in hits):
        with open(records / name, "rb", buffering=0) as file:
            for hit in (hit for hit in hits if hit.segment == name):
                file.seek(hit.offset)
                line = file.read(_LINE)
                while (end := line.find(b"\n")) < 0 and (more := file.read(len(line))):
                    line += more
                made = list(events(decode(line[: end if end >= 0 else None]), place(name, hit.offset), node))
                if hit.nth < len(made) and matches(query, made[hit.nth]):
                    yield hit, made[hit.nth]


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


def _terms(db: sqlite3.Connection, query: Query) -> tuple[str, list[int]] | None:
    """Conditions and their values; None if a name that is asked for never came there."""
    text, values = "", list[int]()

    def one_of(column: str, among: Sequence[int]) -> None:
        nonlocal text
        text += f" AND {column} IN ({', '.join('?' * len(among))})" if len(among) > 1 else f" AND {column} = ?"
        values.extend(among)

    # What finds few rows is looked for by its index; a plus sign keeps SQLite from taking another.
    few = query.deliveries or query.recipient or query.track_id
    plus = "+" if few else ""
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
