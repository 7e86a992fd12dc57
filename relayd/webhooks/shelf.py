"""Where webhooks stand, on disk: one small SQLite file beside the spool, a row of JSON for each.

In: standings, as often as they change.  Out: those of before, once, at the start.  What a power cut takes of them is
sent again, with the same ids.
"""

import sqlite3
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path

import msgspec

from relayd.database import Post, Worker, opened
from relayd.webhooks.standing import Standing

_SCRIPTS = ("CREATE TABLE standing (name TEXT PRIMARY KEY, standing TEXT NOT NULL) STRICT, WITHOUT ROWID;",)


class Shelf:
    """For the main thread.  ``before``: what was there; ``fault``: why that is nothing, "" if it is what it should be.
    Raises OSError."""

    def __init__(self, path: Path, post: Post) -> None:
        self.fault = ""
        try:
            db = opened(path, _SCRIPTS)
            self.before = _read(db)
        except sqlite3.OperationalError as error:  # the disk's fault, not the file's
            raise OSError(f"{path}: {error}") from None
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            aside = path.with_suffix(".broken")
            path.replace(aside)
            for end in ("-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
            self.fault = f"{path} cannot be read ({error}) and is {aside.name} now: webhooks begin anew"
            db, self.before = opened(path, _SCRIPTS), {}
        db.execute("PRAGMA synchronous = NORMAL")
        self._worker = Worker(db, post, "webhooks-shelf")

    def keep(self, rows: Iterable[tuple[str, Standing]], gone: Iterable[str]) -> "Future[None]":
        """Done when it is written."""
        kept = [(name, msgspec.json.encode(standing).decode()) for name, standing in rows]
        forgotten = [(name,) for name in gone]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM standing WHERE name = ?", forgotten)
            db.executemany("INSERT OR REPLACE INTO standing VALUES (?, ?)", kept)

        return self._worker.run(write, lambda done: done)

    def close(self) -> None:
        self._worker.close()


def _read(db: sqlite3.Connection) -> dict[str, Standing]:
    rows = db.execute("SELECT name, standing FROM standing")
    return {name: msgspec.json.decode(text, type=Standing) for name, text in rows}
