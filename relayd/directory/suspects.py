"""Senders under suspicion on disk, and dismissals, so that a restart neither forgets nor tells anew.

In: findings that began, went on or are over, and what an operator dismissed.  Out: once, at the start, those of before.
"""

import sqlite3
from collections.abc import Iterable
from concurrent.futures import Future

import msgspec

from relayd.database import Worker
from relayd.suspicion import Dismissal, Finding


class StoredSuspects:
    """``findings`` and ``dismissals``: what was there when the directory was opened."""

    def __init__(self, db: sqlite3.Connection, worker: Worker) -> None:
        self._worker = worker
        found, dismissed = (db.execute(f"SELECT * FROM {table}") for table in ("suspects", "dismissals"))
        self.findings = [msgspec.json.decode(row[-1], type=Finding) for row in found]
        self.dismissals = [msgspec.json.decode(row[-1], type=Dismissal) for row in dismissed]

    def keep(self, kept: Iterable[Finding], over: Iterable[Finding]) -> "Future[None]":
        """Done when it is on disk."""
        rows = [(*_key(finding), _stored(finding)) for finding in kept]
        gone = list(map(_key, over))

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM suspects WHERE account = ? AND kind = ? AND name = ?", gone)
            db.executemany("INSERT OR REPLACE INTO suspects VALUES (?, ?, ?, ?)", rows)

        return self._worker.run(write, lambda done: done)

    def dismiss(self, row: Dismissal) -> "Future[Dismissal]":
        """Done when it is on disk; those that ended before it began are forgotten."""

        def write(db: sqlite3.Connection) -> Dismissal:
            db.execute("DELETE FROM dismissals WHERE dismissal ->> 'until' < ?", (row.since,))
            db.execute("INSERT OR REPLACE INTO dismissals VALUES (?, ?, ?)", (row.account, row.client, _stored(row)))
            return row

        return self._worker.run(write, lambda done: done)


def _key(finding: Finding) -> tuple[str, str, str]:
    return finding.key.account, finding.key.kind, finding.key.name


def _stored(row: msgspec.Struct) -> str:
    return msgspec.json.encode(row).decode()
