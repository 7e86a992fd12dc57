"""A webhook's next events, read from the history and made into what is posted.

In: whose events, behind which place.  Out: a body with its headers, and the place behind it.  Runs on a thread.
"""

from pathlib import Path

import msgspec

from relayd import events
from relayd.history import Hit, Query, follow, lines
from relayd.webhooks.signature import message_id, sign

BYTES = 1 << 20  # of a body, from which on no event is added


class Wanted(msgspec.Struct, frozen=True):
    """``lane`` (i, n) as ``history.follow`` has it; ``until``: the last place, of a replay or of a batch that was tried
    before and goes out as it was."""

    query: Query
    after: Hit
    until: Hit | None
    lane: tuple[int, int]
    limit: int
    keys: tuple[bytes, ...]
    timestamp: int


class Batch(msgspec.Struct, frozen=True):
    """``count`` events, the last of them at ``to``; without any, nothing lies before ``to``.  ``more``: perhaps, behind
    it; ``oldest``: when the first happened."""

    to: Hit
    count: int = 0
    more: bool = False
    oldest: float = 0.0
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def read(records: Path, node: str, wanted: Wanted) -> Batch:
    """Raises OSError, sqlite3.Error, msgspec.DecodeError."""
    found = follow(records, wanted.query, wanted.after, wanted.limit, until=wanted.until, lane=wanted.lane)
    ids, parts, size, last = list[str](), list[bytes](), 0, found.to
    for hit, event in lines(records, found.hits, wanted.query, node):
        part = events.encode(event)
        ids.append(event.id)
        parts.append(part)
        size += len(part)
        if size >= BYTES and hit != found.hits[-1]:
            last = hit
            break
    if not parts:
        return Batch(found.to, more=found.more)
    body, headers = message(ids, parts, wanted.keys, wanted.timestamp)
    return Batch(last, len(parts), found.more or last != found.to, found.oldest, body, headers)


def message(
    ids: list[str], parts: list[bytes], keys: tuple[bytes, ...], timestamp: int
) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    """The body and the headers of encoded events."""
    body = b'{"v":%d,"events":[%b]}' % (events.VERSION, b",".join(parts))
    id = message_id(ids)
    signature = sign(keys, id, timestamp, body)
    return body, (("webhook-id", id), ("webhook-timestamp", str(timestamp)), ("webhook-signature", signature))
