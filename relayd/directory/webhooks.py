"""Webhooks: where an account's events are posted to, which of them, signed with what; paused by whom, and why.

In: webhooks made, changed and removed, kept across restarts.  Out: the rows, a dict look-up.  ``changed`` is called
with the name on the main thread after each change.  How far each has come is not kept here (``webhooks.shelf``).
"""

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal

import msgspec

from relayd import notation
from relayd.database import Worker
from relayd.errors import InputError

State = Literal["active", "paused", "parked"]
LONGEST_BATCH = 1000  # events
MOST_LANES = 8


class Webhook(msgspec.Struct, frozen=True):
    """``connection`` "": all of the account, and of those below it.  ``begins``: (segment, position) in the history
    behind which its events are.  ``secret`` signs, ``previous`` too until ``previous_until``.  ``reason``, ``by`` and
    ``since``: of its state; ``parked`` is what relayd itself makes of one that was dead for too long."""

    name: str
    account: str
    url: str
    secret: bytes
    made: float
    begins: tuple[str, int] = ("", 0)
    connection: str = ""
    events: tuple[str, ...] = ()
    batch: int = 300
    concurrency: int = 1
    state: State = "active"
    reason: str = ""
    by: str = ""
    since: float = 0.0
    previous: bytes = b""
    previous_until: float = 0.0

    def secrets(self, now: float) -> tuple[bytes, ...]:
        """Those that sign now, the current one first."""
        return (self.secret, self.previous) if self.previous and now < self.previous_until else (self.secret,)


class StoredWebhooks:
    """See the module.  Everything is for the main thread."""

    def __init__(self, db: sqlite3.Connection, worker: Worker) -> None:
        self.changed: Callable[[str], None] = lambda name: None
        self._worker = worker
        rows = (msgspec.json.decode(text, type=Webhook) for (text,) in db.execute("SELECT webhook FROM webhooks"))
        self._rows = {row.name: row for row in rows}

    def get(self, name: str) -> Webhook | None:
        return self._rows.get(name)

    def all(self) -> list[Webhook]:
        return sorted(self._rows.values(), key=lambda row: row.name)

    def known(self, name: str) -> Webhook:
        """Raises InputError."""
        row = self._rows.get(name)
        if row is None:
            raise InputError("name", f"there is no webhook {name!r}{notation.nearest(name, self._rows)}")
        return row

    def add(self, row: Webhook) -> "Future[Webhook]":
        def write(db: sqlite3.Connection) -> Webhook:
            if not db.execute("SELECT 1 FROM accounts WHERE name = ?", (row.account,)).fetchone():
                raise InputError("account", f"there is no account {row.account!r}")
            values = (row.name, row.account, _stored(row))
            if not db.execute("INSERT INTO webhooks VALUES (?, ?, ?) ON CONFLICT DO NOTHING", values).rowcount:
                raise InputError("name", f"there is already a webhook {row.name!r}")
            return row

        return self._worker.run(write, self._keep)

    def change(self, name: str, **fields: Any) -> "Future[Webhook]":
        """Any of its fields but its name, account and when it was made."""

        def write(db: sqlite3.Connection) -> Webhook:
            found = db.execute("SELECT webhook FROM webhooks WHERE name = ?", (name,)).fetchone()
            if found is None:
                raise InputError("name", f"there is no webhook {name!r}")
            row = msgspec.structs.replace(msgspec.json.decode(found[0], type=Webhook), **fields)
            db.execute("UPDATE webhooks SET webhook = ? WHERE name = ?", (_stored(row), name))
            return row

        return self._worker.run(write, self._keep)

    def remove(self, name: str) -> "Future[Webhook]":
        """Gives what was removed."""

        def write(db: sqlite3.Connection) -> Webhook:
            rows = db.execute("DELETE FROM webhooks WHERE name = ? RETURNING webhook", (name,)).fetchall()
            if not rows:
                raise InputError("name", f"there is no webhook {name!r}")
            return msgspec.json.decode(rows[0][0], type=Webhook)

        def forget(row: Webhook) -> Webhook:
            self._rows.pop(name, None)
            self.changed(name)
            return row

        return self._worker.run(write, forget)

    def _keep(self, row: Webhook) -> Webhook:
        self._rows[row.name] = row
        self.changed(row.name)
        return row


def _stored(row: Webhook) -> str:
    return msgspec.json.encode(row).decode()
