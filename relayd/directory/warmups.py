"""Where sources in warm-up stand, on disk.

In: the rows that changed, many at a time.  Out: all of them, once, at the start.
"""

import sqlite3
from concurrent.futures import Future

import msgspec

from relayd.directory.balances import Change
from relayd.warmup import Standing

_COLUMNS = len(Standing.__struct_fields__)
_VALUES = ", ".join(f"value->>{column}" for column in range(_COLUMNS))


class Warmups:
    """For the main thread.  ``stored``: as it was when the directory was opened."""

    def __init__(self, db: sqlite3.Connection, run: Change) -> None:
        """``run``: a job that changes nobody's rights."""
        self._run = run
        self.stored = [_standing(row) for row in db.execute("SELECT * FROM warmups")]

    def keep(self, rows: list[Standing], gone: list[tuple[str, str]]) -> "Future[None]":
        """Replaces rows and removes those of (source, group), as one transaction."""
        kept = msgspec.json.encode([msgspec.structs.astuple(row) for row in rows]).decode()
        removed = msgspec.json.encode(gone).decode()

        # One statement each, however many rows: many short calls would wait for the main thread each time.
        def write(db: sqlite3.Connection) -> None:
            if gone:
                pairs = "SELECT value->>0, value->>1 FROM json_each(?)"
                db.execute(f'DELETE FROM warmups WHERE (source, "group") IN ({pairs})', (removed,))
            db.execute(f"INSERT OR REPLACE INTO warmups SELECT {_VALUES} FROM json_each(?)", (kept,))

        return self._run(write, lambda written: written)


def _standing(row: tuple[object, ...]) -> Standing:
    found = dict(zip(Standing.__struct_fields__, row, strict=True))
    return msgspec.convert({**found, "stopped": bool(found["stopped"])}, Standing)
