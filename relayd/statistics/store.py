"""The counters on disk.

In: facts, with where the records end that they are of.  Out: sums by the minute, the hour and the day, of senders and
of the paths that their mail took.  Sums and that place are one transaction, so each event is counted once.  They are
gathered in memory for a moment first: many events are one row then.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from relayd.database import opened
from relayd.history import Fact
from relayd.history.facts import NUMBER
from relayd.spool.segments import Checkpoint
from relayd.spool.store import insert_statement

MINUTE, HOUR, DAY = 60, 3600, 86400
SPANS = (MINUTE, HOUR, DAY)
OTHER = "(other)"
# Upper bounds, in seconds, of what the time from reception to delivery is sorted into; the last takes what is longer.
BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 604800.0)
KINDS = ("account", "connection", "stream", "provider", "site", "source", "class")
MOST = {"connection": 20_000, "site": 2000}  # different ones of a day that are named; all others are OTHER

# Name, provider ("": none with a name), source, class; seconds from reception to delivery, of a delivery.
Observer = Callable[[str, str, str, str, float | None], None]

_HOLD = 2.0  # seconds that sums are gathered ...
_GATHERED = 20_000  # ... or so many of them
_CLEAN = 60.0  # seconds between looks for what is too old
_PIECE = 5000  # rows that are deleted at a time
_PAGES = 1000  # of the file, that are given back at a time
_CACHED = 50_000  # names
_VARIABLES = 30_000  # of one statement

_Key = tuple[int, str, str, str, str, str, str, str]  # minute, account, connection, stream, site, source, name, class

_SENDERS = "span, account, start, connection, stream, provider, event, class"
_PATHS = "span, start, site, source, event, class"
_WAITS = "span, account, start, stream, provider, bound"
ACCOUNTS = "SELECT id FROM name WHERE kind = 0 UNION ALL SELECT 0"  # they lead in the key: so its index is used
# What is summed up in memory, then with one statement for each table and span.
_EVENTS = "moment, account, connection, stream, provider, site, source, event, class, count"
_DELIVERIES = "moment, account, stream, provider, bound, count, seconds"


class _Table(msgspec.Struct, frozen=True):
    name: str
    key: str
    sums: tuple[str, ...]
    made_of: str
    spans: tuple[int, ...] = SPANS
    where: str = ""

    def script(self) -> str:
        columns = ", ".join(f"{column} NOT NULL" for column in (*self.key.split(", "), *self.sums))
        return f"CREATE TABLE {self.name} ({columns}, PRIMARY KEY ({self.key})) WITHOUT ROWID;"

    def add(self) -> str:
        """Takes span, span, oldest start."""
        values = self.key.replace("span", "?1").replace("start", "moment - moment % ?1 AS start")
        groups = ", ".join(self.key.split(", ")[1:])
        return (
            f"INSERT INTO {self.name} SELECT {values}, {', '.join(f'sum({name})' for name in self.sums)} "
            f"FROM {self.made_of} WHERE start >= ?2 {self.where} GROUP BY {groups} "
            f"ON CONFLICT DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in self.sums)}"
        )

    def delete(self) -> str:
        """Takes span, oldest start, how many rows."""
        first = f"AND account IN ({ACCOUNTS})" if "account" in self.key else ""
        old = f"SELECT {self.key} FROM {self.name} WHERE span = ? {first} AND start < ? LIMIT ?"
        return f"DELETE FROM {self.name} WHERE ({self.key}) IN ({old})"


_TABLES = (
    _Table("senders", _SENDERS, ("count",), "event"),
    _Table("paths", _PATHS, ("count",), "event", where="AND (site OR source)"),
    _Table("waits", _WAITS, ("count", "seconds"), "delivery", (HOUR, DAY)),
)
_SCRIPTS = (
    f"""
    CREATE TABLE read (segment TEXT NOT NULL, offset INTEGER NOT NULL);
    INSERT INTO read VALUES ('', 0);
    CREATE TABLE name (
        id   INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,     -- of KINDS
        name TEXT NOT NULL,
        day  INTEGER NOT NULL,     -- the last one that it was counted on
        UNIQUE (kind, name)
    );
    {" ".join(table.script() for table in _TABLES)}
    """,
)


class Settings(msgspec.Struct, frozen=True):
    """``providers``: the sites that are providers with a name; then how many seconds each kind of sum is kept."""

    providers: frozenset[str] = frozenset()
    minutes: float = 2.0 * DAY
    hours: float = 90.0 * DAY
    days: float = 3 * 365.0 * DAY

    def keeps(self) -> dict[int, float]:
        return {MINUTE: self.minutes, HOUR: self.hours, DAY: self.days}


class Statistics:
    """For one thread.  ``at``: everything before has been counted; ``kept``: and everything before this is on disk.
    ``settings`` is asked at each look.  Raises sqlite3.Error, OSError."""

    def __init__(
        self,
        path: Path,
        settings: Callable[[], Settings],
        wall: Callable[[], float],
        observe: Observer | None = None,
    ) -> None:
        self._settings = settings
        self._wall = wall
        self._observe = observe
        try:
            self._db: sqlite3.Connection = opened(path, _SCRIPTS)
        except sqlite3.DatabaseError as error:
            advice = "move it away, and what is kept of records is counted anew"
            raise type(error)(f"{path}: {error}; {advice}") from error
        self._db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is counted again
        self._db.execute("PRAGMA wal_autocheckpoint = 4000")
        self._db.execute("PRAGMA temp_store = MEMORY")
        for name, columns in (("event", _EVENTS), ("delivery", _DELIVERIES)):
            self._db.execute(f"CREATE TEMP TABLE {name} ({columns})")
        self.at = self.kept = Checkpoint(*self._db.execute("SELECT segment, offset FROM read").fetchone())
        self._counts: dict[_Key, int] = {}
        self._waits: dict[tuple[int, str, str, str, int], list[float]] = {}
        self._since = self._cleaned = wall()
        self._ids: dict[str, dict[str, tuple[int, int]]] = {}  # by kind and name: id, and the day that its row has
        self._named: dict[tuple[str, int], set[str]] = {}
        self._today = 0

    def add(self, found: Sequence[Fact], to: Checkpoint) -> None:
        if self.at == self.kept:
            self._since = self._wall()
        counts, waits, observe = self._counts, self._waits, self._observe
        providers = self._settings().providers
        for _, event, time, account, connection, stream, _, _, _, received, cls, site, source, late in found:
            key = (int(time) // 60, account, connection, stream, site, source, event, cls)
            counts[key] = counts.get(key, 0) + 1
            seconds = None
            if event == "delivered" and received and not late:
                seconds = max(0.0, time - received)
                bound = bisect_left(BOUNDS, seconds, hi=len(BOUNDS) - 1)
                wait = waits.setdefault((int(time) // HOUR, account, stream, site, bound), [0, 0.0])
                wait[0] += 1
                wait[1] += seconds
            if observe is not None:
                observe(event, site if site in providers else "", source, cls, seconds)
        self.at = to
        if len(counts) >= _GATHERED:
            self._store()

    def tend(self) -> None:
        """What is due: sums go to disk, what is too old goes."""
        now = self._wall()
        if self.at != self.kept and not 0 <= now - self._since < _HOLD:
            self._store()
        if not 0 <= now - self._cleaned < _CLEAN and self._clean():
            self._cleaned = now
            if now // DAY != self._today:
                self._forget_names(now)

    def close(self) -> None:
        """Raises what ``tend`` does; it is closed all the same."""
        try:
            if self.at != self.kept:
                self._store()
        finally:
            self._db.close()

    def _store(self) -> None:
        try:
            with self._db:
                self._write()
        except BaseException:
            self._ids.clear()  # some of them are not on disk
            raise
        self._counts, self._waits, self.kept = {}, {}, self.at

    def _write(self) -> None:
        oldest = self._oldest()
        self._fill("event", _EVENTS, self._event_rows())
        self._fill("delivery", _DELIVERIES, self._delivery_rows())
        for table in _TABLES:
            for span in table.spans:
                self._db.execute(table.add(), (span, oldest[span]))
        self._db.execute("UPDATE read SET segment = ?, offset = ?", (self.at.segment, self.at.offset))
        self._db.execute("DELETE FROM event")
        self._db.execute("DELETE FROM delivery")

    def _event_rows(self) -> list[tuple[int, ...]]:
        name = self._name
        return [
            (
                minute * MINUTE, name("account", account, day), name("connection", connection, day),
                name("stream", stream, day), name("provider", self._provider(site), day), name("site", site, day),
                name("source", source, day), NUMBER[event], name("class", cls, day), count,  # type: ignore[index]
            )
            for (minute, account, connection, stream, site, source, event, cls), count in self._counts.items()
            for day in (minute * MINUTE // DAY,)
        ]  # fmt: skip

    def _delivery_rows(self) -> list[tuple[float, ...]]:
        name = self._name
        return [
            (
                hour * HOUR, name("account", account, day), name("stream", stream, day),
                name("provider", self._provider(site), day), bound, *sums,
            )
            for (hour, account, stream, site, bound), sums in self._waits.items()
            for day in (hour * HOUR // DAY,)
        ]  # fmt: skip

    def _fill(self, table: str, columns: str, rows: Sequence[tuple[float, ...]]) -> None:
        """In few long calls: beside a busy main thread each one waits for the interpreter."""
        most = _VARIABLES // (columns.count(",") + 1)
        for first in range(0, len(rows), most):
            part = rows[first : first + most]
            self._db.execute(insert_statement(table, columns, len(part)), [value for row in part for value in row])

    def _provider(self, site: str) -> str:
        return site if site in self._settings().providers else OTHER if site else ""

    def _oldest(self) -> dict[int, float]:
        """The oldest start that is kept of each span."""
        now = self._wall()
        return {span: now - keep - span for span, keep in self._settings().keeps().items()}

    # Names.

    def _name(self, kind: str, name: str, day: int) -> int:
        """The number that stands for a name, 0 for none."""
        if not name:
            return 0
        ids = self._ids.setdefault(kind, {})
        known = ids.get(name)
        if kind in MOST and (known is None or known[1] != day):
            name = self._within(kind, name, day)
            known = ids.get(name)
        if known is not None and known[1] >= day:
            return known[0]
        ((id, day),) = self._db.execute(
            "INSERT INTO name (kind, name, day) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET day = max(day, excluded.day) RETURNING id, day",
            (KINDS.index(kind), name, day),
        ).fetchall()
        if len(ids) >= _CACHED:
            ids.clear()
        ids[name] = (id, day)
        return int(id)

    def _within(self, kind: str, name: str, day: int) -> str:
        """The name, or OTHER if there were too many different ones that day."""
        named = self._named.get((kind, day))
        if named is None:
            while len(self._named) >= 3 * len(MOST):
                del self._named[next(iter(self._named))]
            named = self._named[kind, day] = set(self._named_on(kind, day))
        if name in named or len(named) < MOST[kind]:
            named.add(name)
            return name
        return OTHER

    def _named_on(self, kind: str, day: int) -> Iterable[str]:
        table = "paths" if kind == "site" else "senders"
        rows = self._db.execute(
            f"SELECT name FROM name WHERE id IN (SELECT {kind} FROM {table} WHERE span = ? AND start = ?)",
            (DAY, day * DAY),
        )
        return [name for (name,) in rows if name != OTHER]

    # What is too old.

    def _clean(self) -> bool:
        """Deletes some of what is too old; True when that is all."""
        done, oldest = True, self._oldest()
        with self._db:
            for table in _TABLES:
                for span in table.spans:
                    deleted = self._db.execute(table.delete(), (span, oldest[span], _PIECE))
                    done = done and deleted.rowcount < _PIECE
        self._db.executescript(f"PRAGMA incremental_vacuum({_PAGES})")  # execute would give back a single page
        return done

    def _forget_names(self, now: float) -> None:
        """Once a day, after the sums that have them: they are found by their accounts' names."""
        self._today = int(now // DAY)
        oldest = min(self._oldest().values()) // DAY
        with self._db:
            self._db.execute("DELETE FROM name WHERE day < ?", (oldest - 1,))
        self._ids.clear()
