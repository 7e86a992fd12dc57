"""Reputation on disk, so that a restart forgives nobody.

In: the subjects that changed, many at a time.  Out: all of them, once, at the start.
"""

import sqlite3
from concurrent.futures import Future

import msgspec

from relayd.database import Worker
from relayd.reputation import Key, Standing

_STANDING = msgspec.json.Decoder(Standing)


class Reputations:
    """For the main thread.  ``stored``: as it was when the directory was opened."""

    def __init__(self, db: sqlite3.Connection, worker: Worker) -> None:
        self._worker = worker
        self.stored = [_STANDING.decode(row[0]) for row in db.execute("SELECT standing FROM reputations")]

    def keep(self, rows: list[Standing], gone: list[Key]) -> "Future[None]":
        """Replaces rows and removes those of (kind, name), as one transaction."""
        kept = msgspec.json.encode([(at.kind, at.name, at) for at in rows]).decode()
        removed = msgspec.json.encode(gone).decode()

        # One statement each, however many rows: many short calls would wait for the main thread each time.
        def write(db: sqlite3.Connection) -> None:
            if gone:
                pairs = "SELECT value->>0, value->>1 FROM json_each(?)"
                db.execute(f"DELETE FROM reputations WHERE (kind, name) IN ({pairs})", (removed,))
            values = "value->>0, value->>1, value->2"
            db.execute(f"INSERT OR REPLACE INTO reputations SELECT {values} FROM json_each(?)", (kept,))

        return self._worker.run(write, lambda written: written)
