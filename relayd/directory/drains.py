"""Drained sources: which an operator took out of the pools, why, and when.

In: drains and resumptions, kept across restarts and reloads.  Out: the rows, a dict look-up.  ``changed`` is called on
the main thread after each change.  A source that the configuration does not know (any more) stays drained.
"""

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future

import msgspec

from relayd.directory.senders import Change
from relayd.errors import InputError


class Drain(msgspec.Struct, frozen=True):
    """``since``: unix seconds."""

    source: str
    reason: str
    by: str
    since: float


class Drains:
    """See the module.  Everything is for the main thread."""

    def __init__(self, db: sqlite3.Connection, change: Change) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._change = change
        stored = db.execute("SELECT source, reason, by, since FROM drains ORDER BY source")
        self._rows = {row[0]: Drain(*row) for row in stored}

    def get(self, source: str) -> Drain | None:
        return self._rows.get(source)

    def all(self) -> list[Drain]:
        return list(self._rows.values())

    def drain(self, source: str, *, reason: str, by: str, now: float) -> "Future[Drain]":
        """Of a source that is drained already, who and why are replaced."""
        row = Drain(source, reason, by, now)

        def write(db: sqlite3.Connection) -> Drain:
            db.execute("INSERT OR REPLACE INTO drains VALUES (?, ?, ?, ?)", msgspec.structs.astuple(row))
            return row

        def keep(row: Drain) -> Drain:
            self._rows[source] = row
            self.changed()
            return row

        return self._change(write, keep)

    def resume(self, source: str) -> "Future[Drain]":
        """Gives what is over."""

        def write(db: sqlite3.Connection) -> Drain:
            rows = db.execute("DELETE FROM drains WHERE source = ? RETURNING *", (source,)).fetchall()
            if not rows:
                raise InputError("name", f"the source {source!r} is not drained")
            return Drain(*rows[0])

        def forget(row: Drain) -> Drain:
            self._rows.pop(source, None)
            self.changed()
            return row

        return self._change(write, forget)
