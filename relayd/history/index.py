"""The index of one segment of records: a row of small numbers for each event, beside the segment's file.

In: facts, in their order.  Out: positions, by ``find``.  It is made again from its segment whenever it is missing, so
nothing of it need be on disk before its seal.  While it grows it has no index but that of the positions: rows are
appended, and who looks reads them all, some hundred thousand; the others are made at the seal, each by one sort.
"""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from zlib import crc32

from relayd.address import domain_of
from relayd.history.facts import NUMBER, Fact

_SCRIPT = """
CREATE TABLE event (
    position   INTEGER PRIMARY KEY,   -- facts.Fact
    time       INTEGER NOT NULL,      -- unix milliseconds
    event      INTEGER NOT NULL,      -- facts.NUMBER
    account    INTEGER NOT NULL,      -- name.id
    connection INTEGER NOT NULL,      -- name.id
    stream     INTEGER NOT NULL,      -- name.id
    domain     INTEGER NOT NULL,      -- of the recipient: mark()
    recipient  INTEGER NOT NULL,      -- mark()
    track      INTEGER NOT NULL,      -- mark() of the track id, 0: none
    delivery   INTEGER NOT NULL       -- 0: none
);
CREATE TABLE name (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE state (read INTEGER NOT NULL, sealed INTEGER NOT NULL, boot TEXT NOT NULL);
"""
_SEAL = """
CREATE INDEX IF NOT EXISTS of_sender ON event (account, connection, event, domain);
CREATE INDEX IF NOT EXISTS of_recipient ON event (recipient);
CREATE INDEX IF NOT EXISTS of_track ON event (track) WHERE track <> 0;
CREATE INDEX IF NOT EXISTS of_delivery ON event (delivery);
"""
_COLUMNS = 10
_AT_ONCE = 3000  # rows of one statement: each is one call, and the lock of the interpreter is let go once
_MOST = f"INSERT OR IGNORE INTO event VALUES {', '.join(['(' + ', '.join('?' * _COLUMNS) + ')'] * _AT_ONCE)}"


def index_path(segment: Path) -> Path:
    """Where the index of a segment's file lies."""
    return segment.with_suffix(".index")


def mark(text: str) -> int:
    """What stands for a text: others may have the same, so what is found is looked at again."""
    return crc32(text.lower().encode()) if text else 0


class Index:
    """The index of the segment that is being written; for one thread.  ``read``: the bytes of the segment that are in
    it.  Raises sqlite3.Error, OSError."""

    def __init__(self, path: Path, boot: str) -> None:
        """``boot`` names the boot of the machine: what was not sealed before a power cut may be broken."""
        self.path = path
        try:
            self._open(boot)
        except sqlite3.DatabaseError:
            remove(path)
            self._open(boot)

    def _open(self, boot: str) -> None:
        if not self.path.exists():
            _make(self.path, boot)
        db = self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous = OFF")
            self.read, sealed, made = db.execute("SELECT * FROM state").fetchone()
            self.sealed = bool(sealed)
            if not self.sealed and made != boot:
                raise sqlite3.DatabaseError("it may be broken")
            self._names = {name: id for id, name in db.execute("SELECT id, name FROM name")}
        except BaseException:
            db.close()
            raise

    def add(self, found: Sequence[Fact], read: int) -> None:
        """The facts up to the byte ``read`` of the segment, all or none; those that are in it already are let be."""
        db = self._db
        db.execute("BEGIN")
        try:
            rows = [self._row(fact) for fact in found]
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                statement = _MOST if len(part) == _AT_ONCE else _MOST[: len(_MOST) - (_AT_ONCE - len(part)) * _WIDTH]
                db.execute(statement, [value for row in part for value in row])
            db.execute("UPDATE state SET read = ?", (read,))
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            self._names = {name: id for id, name in db.execute("SELECT id, name FROM name")}
            raise
        self.read = read

    def _row(self, fact: Fact) -> tuple[int, ...]:
        names = self._names
        return (
            fact.position,
            int(fact.time * 1000),
            NUMBER[fact.event],
            names.get(fact.account) or self._name(fact.account),
            names.get(fact.connection) or self._name(fact.connection),
            names.get(fact.stream) or self._name(fact.stream),
            mark(domain_of(fact.recipient)),
            mark(fact.recipient),
            mark(fact.track_id),
            fact.delivery,
        )

    def _name(self, name: str) -> int:
        id = self._names[name] = len(self._names) + 1
        self._db.execute("INSERT INTO name VALUES (?, ?)", (id, name))
        return id

    def seal(self) -> None:
        """Nothing more will come: makes it quick to look in, and durable."""
        db = self._db
        if not self.sealed:
            db.executescript(f"BEGIN; {_SEAL} COMMIT;")
            db.execute("PRAGMA wal_checkpoint").fetchall()
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
            db.execute("PRAGMA synchronous = FULL")
            db.execute("UPDATE state SET sealed = 1")  # only now: what says so is believed after a power cut
            with suppress(sqlite3.OperationalError):  # somebody reads it just now: it stays as good as it is
                db.execute("PRAGMA journal_mode = DELETE")  # it is opened quicker without a log
            self.sealed = True
        self.close()

    def close(self) -> None:
        self._db.close()


_WIDTH = len(", (" + ", ".join("?" * _COLUMNS) + ")")


def _make(path: Path, boot: str) -> None:
    """Makes an empty one.  It gets its name when it is whole: who looks may come at any time."""
    new = path.with_name(path.name + ".new")
    remove(new)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT, 0o600))
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN; {_SCRIPT}")
        db.execute("INSERT INTO state VALUES (0, 0, ?)", (boot,))
        db.execute("COMMIT")
    new.rename(path)


def remove(path: Path) -> None:
    """An index that is of no use, with what SQLite has beside it."""
    for end in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + end).unlink(missing_ok=True)
