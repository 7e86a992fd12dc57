"""The keys of the tokens that come back to us: made at the first start, replaced when an operator says so.

In: rotations, kept across restarts.  Out: the keys as ``returnpath`` takes them.  No verb shows a secret.  A key that
was replaced verifies until the last mail that it served is too old; the rotation after that deletes it.
"""

import secrets
import sqlite3
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import msgspec

from relayd.directory.senders import Change
from relayd.errors import InputError
from relayd.returnpath import KEY_IDS, Key, Keys

_SECRET = 32  # octets


class Tokens:
    """See the module.  Everything is for the main thread."""

    def __init__(self, db: sqlite3.Connection, change: Change, now: float) -> None:
        """There is a key when this returns."""
        self._change = change
        with db:
            if not db.execute("SELECT count(*) FROM tokens").fetchone()[0]:
                _insert(db, now)
        self.keys = _read(db)

    def configure(self, accept: float) -> None:
        """For how many seconds after a message's reception its tokens count."""
        self.keys = msgspec.structs.replace(self.keys, accept=accept)

    def rotate(self, now: float) -> "Future[Keys]":
        """A new key for new mail.  Gives all there are then."""
        accept = self.keys.accept

        def write(db: sqlite3.Connection) -> Keys:
            # A key's mail ends when the next key is made.
            replaced = "SELECT max(made) FROM tokens WHERE made < ?"
            db.execute(f"DELETE FROM tokens WHERE made < ({replaced})", (now - accept,))
            _insert(db, now)
            return _read(db)

        def keep(keys: Keys) -> Keys:
            self.keys = msgspec.structs.replace(keys, accept=self.keys.accept)
            return self.keys

        return self._change(write, keep)


def _insert(db: sqlite3.Connection, now: float) -> None:
    """The newest, even if the clock stepped back; its id says nothing of how many there were."""
    taken = {row[0] for row in db.execute("SELECT id FROM tokens")}
    last = db.execute("SELECT max(made) FROM tokens").fetchone()[0]
    number = secrets.choice([number for number in range(KEY_IDS) if number not in taken])
    made = now if last is None else max(now, last + 1)
    db.execute("INSERT INTO tokens VALUES (?, ?, ?)", (number, secrets.token_bytes(_SECRET), made))


def _read(db: sqlite3.Connection) -> Keys:
    rows = [Key(*row) for row in db.execute("SELECT id, secret, made FROM tokens ORDER BY made")]
    return Keys({row.id: row for row in rows}, rows[-1])


def stored(path: str) -> Keys:
    """The keys of a directory, for reading alone: of one in use, too.  Raises InputError."""
    try:
        with closing(sqlite3.connect(Path(path).absolute().as_uri() + "?mode=ro", uri=True)) as db:
            return _read(db)
    except (sqlite3.Error, IndexError) as error:
        raise InputError("keys", f"{path} is not a directory of relayd's that can be read: {error}") from None
