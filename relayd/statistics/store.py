"""The counters on disk.

In: facts, with where the records end that they are of.  Out: figures.  Counts and that place are one transaction, so
each event is counted once.
"""

import sqlite3
from pathlib import Path

from relayd.database import opened
from relayd.history import Fact
from relayd.spool.segments import Checkpoint

_SCRIPTS = (
    """
    CREATE TABLE read (segment TEXT NOT NULL, offset INTEGER NOT NULL);
    INSERT INTO read VALUES ('', 0);
    """,
)


class Statistics:
    """For one thread.  ``at``: everything before has been counted.  Raises sqlite3.Error, OSError."""

    def __init__(self, path: Path) -> None:
        self._db: sqlite3.Connection = opened(path, _SCRIPTS)
        self._db.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is counted again
        self.at = Checkpoint(*self._db.execute("SELECT segment, offset FROM read").fetchone())

    def add(self, found: list[Fact], to: Checkpoint) -> None:
        with self._db:
            self._db.execute("UPDATE read SET segment = ?, offset = ?", (to.segment, to.offset))
        self.at = to

    def close(self) -> None:
        self._db.close()
