"""Reactions on disk, so that what a provider made us do survives a restart.

In: reactions that began, went on or ended; they are few, and nothing is written for the replies that they only count.
Out: once, at the start, those of before.
"""

import sqlite3
from collections.abc import Iterable
from concurrent.futures import Future

import msgspec

from relayd.database import Worker
from relayd.shaping.reactions import Active


class StoredReactions:
    """``before``: what was there when the directory was opened, the oldest first."""

    def __init__(self, db: sqlite3.Connection, worker: Worker) -> None:
        self._worker = worker
        stored = db.execute("SELECT active FROM reactions ORDER BY id")
        self.before = [msgspec.json.decode(row[0], type=Active) for row in stored]

    def keep(self, began: Iterable[Active], ended: Iterable[Active]) -> "Future[None]":
        """Writes those that began or went on, forgets those that ended; done when it is on disk."""
        rows = [(active.id, msgspec.json.encode(active).decode()) for active in began]
        gone = [(active.id,) for active in ended]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM reactions WHERE id = ?", gone)
            db.executemany("INSERT OR REPLACE INTO reactions VALUES (?, ?)", rows)

        return self._worker.run(write, lambda done: done)
