"""Blocks of events, made once for all feeds that come by the same place.

In: where a feed stands.  Out: the events of the records behind it, encoded.  For any thread.
"""

import sqlite3
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from relayd.events import encode, events, place
from relayd.records import decode
from relayd.spool.segments import Checkpoint, read_records

_BYTES = 256 << 10  # of records at a time
_KEPT = 3  # blocks


class Item(NamedTuple):
    """An event as feeds need it: ``data`` is one JSON object, no newline."""

    id: str
    event: str
    account: str
    data: bytes


class Block(NamedTuple):
    """``since``: the time of its first record; ``to``: where the next block begins."""

    items: list[Item]
    since: float
    to: Checkpoint


class Blocks:
    """The last few, for those who come after."""

    def __init__(self, records: Path, node: str) -> None:
        self._records = records
        self._node = node
        self._lock = threading.Lock()
        self._made: OrderedDict[Checkpoint, Block] = OrderedDict()

    def read(self, connection: sqlite3.Connection, at: Checkpoint) -> Block | None:
        """What lies behind this place; None if there is nothing yet.  Raises OSError, sqlite3.Error."""
        with self._lock:  # who waits here would do the same work otherwise
            block = self._made.get(at)
            if block is None:
                block = self._make(connection, at)
                if block is not None:
                    self._made[at] = block
                    if len(self._made) > _KEPT:
                        self._made.popitem(last=False)
            return block

    def _make(self, connection: sqlite3.Connection, at: Checkpoint) -> Block | None:
        lines, to = read_records(connection, self._records, at, _BYTES)
        if not lines:
            return None
        offset = at.offset if to.segment == at.segment else 0
        since = 0.0
        items = []
        for line in lines:
            record = decode(line)
            since = since or record.time
            for event in events(record, place(to.segment, offset), self._node):
                items.append(Item(event.id, event.event, event.account, encode(event)))
            offset += len(line)
        return Block(items, since, to)
