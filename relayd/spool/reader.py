"""What the queue reads from the spool: which queues are due, the next deliveries of one, and where a delivery stands.

Plain functions on a reading connection, called from the reader's thread.  Like the writer's, each is one long statement
whose whole answer is one row, because each row fetched is another wait for the GIL.
"""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from relayd.envelope import Delivery, Edits, Envelope, Message, Recipient
from relayd.identity import lower_bound, received_at
from relayd.spool.landing import Moved
from relayd.spool.store import Meta

_TRIES = 3  # of one question
Landed = Callable[[int, int], tuple[bytes, bytes]]  # Landing.read


class _StoredMeta(Meta, frozen=True):
    envelope: Envelope
    edits: Edits


_meta = msgspec.json.Decoder(_StoredMeta)
_recipient = msgspec.json.Decoder(Recipient)

_PULL = """
SELECT json_group_array(json_array(id, queue, due, attempts, recipient, last, source, told, message, size, meta,
                                   place, length(head), length(body))),
       CAST(group_concat(CAST(head AS TEXT) || CAST(coalesce(body, '') AS TEXT), '') AS BLOB)
FROM (SELECT d.id, d.queue, d.due, d.attempts, d.recipient, d.last, d.source, d.told, d.message, m.size, m.meta,
             m.head, m.body, m.place
      FROM delivery d JOIN message m ON m.id = d.message
      WHERE {where} ORDER BY {order} LIMIT :limit)
"""
# Each order is that of an index: no more rows are read than are wanted.
_PULL_DUE = _PULL.format(
    where="d.queue = :queue AND d.due <= :now AND d.id NOT IN (SELECT value FROM json_each(:but))", order="d.due, d.id"
)
_PULL_IDS = _PULL.format(where="d.id IN (SELECT value FROM json_each(:ids))", order="d.id")
# The plus keeps SQLite from walking a queue: what is old is at the front of the rows, in the order of their ids.
_PULL_OLD = _PULL.format(
    where="d.id < :before AND d.begins < :moment AND +d.queue GLOB :stream AND +d.held IS NULL", order="d.id"
)
_PULL_ENDED = _PULL.format(where="d.ends <= :now AND d.held IS NULL", order="d.ends")


def due_deliveries(
    connection: sqlite3.Connection, landed: Landed, queue: str, now: float, limit: int, but: list[int]
) -> list[Delivery]:
    """Up to ``limit`` deliveries of a queue that are due at ``now``, the earliest first, leaving out ``but``."""
    asked = {"queue": queue, "now": now, "limit": limit, "but": msgspec.json.encode(but).decode()}
    return _deliveries(connection, landed, _PULL_DUE, asked)


def old_deliveries(
    connection: sqlite3.Connection, landed: Landed, queues: str, before: float, limit: int
) -> list[Delivery]:
    """Up to ``limit`` deliveries of queues (a GLOB pattern) whose life began before that moment."""
    names = {"before": lower_bound(before), "moment": before, "limit": limit, "stream": queues}
    return _deliveries(connection, landed, _PULL_OLD, names)


def ended_deliveries(connection: sqlite3.Connection, landed: Landed, now: float, limit: int) -> list[Delivery]:
    """Up to ``limit`` deliveries whose senders wanted them given up by ``now``, the earliest first."""
    return _deliveries(connection, landed, _PULL_ENDED, {"now": now, "limit": limit})


def deliveries_by_id(connection: sqlite3.Connection, landed: Landed, ids: list[int]) -> list[Delivery]:
    """The deliveries of these ids that are in the spool."""
    asked = {"ids": msgspec.json.encode(ids).decode(), "limit": max(1, len(ids))}
    return _deliveries(connection, landed, _PULL_IDS, asked)


def _deliveries(connection: sqlite3.Connection, landed: Landed, question: str, asked: dict[str, Any]) -> list[Delivery]:
    for _ in range(_TRIES):
        with suppress(Moved):  # into its row, after we read where it lay
            return _read(connection.execute(question, asked).fetchone(), landed)
    return _read(connection.execute(question, asked).fetchone(), landed, lost=True)


def _read(row: tuple[str, bytes | None], landed: Landed, lost: bool = False) -> list[Delivery]:
    """``lost``: what is in no file of the landing is nowhere.  Such a message has no content, and is tried as one whose
    body file is gone: it fails alone, and for a time, and says why."""
    content = memoryview(row[1] or b"")
    at = 0
    messages: dict[int, Message] = {}
    found = []
    rows = msgspec.json.decode(row[0])
    for id_, queue, due, attempts, recipient, last, source, told, message_id, size, meta, place, head, body in rows:
        if message_id not in messages:
            if place is None:
                end = at + head + (body or 0)
                parts = bytes(content[at : at + head]), None if body is None else bytes(content[at + head : end])
            else:
                parts = _landed(place, message_id, landed, lost)
            messages[message_id] = stored_message(message_id, size, meta, *parts)
        at += head + (body or 0)
        to = _recipient.decode(recipient)
        message = messages[message_id]
        found.append(Delivery(id_, message, to, queue, due, attempts, source, last, bool(told)))
    return found


def _landed(place: int, identity: int, landed: Landed, lost: bool) -> tuple[bytes, bytes | None]:
    try:
        return landed(place, identity)
    except OSError as error:
        if isinstance(error, Moved) and not lost:
            raise
        return b"", None


def stored_message(identity: int, size: int, meta: str, head: bytes, body: bytes | None) -> Message:
    """The message of one row of the spool."""
    known = _meta.decode(meta)
    return Message(
        identity,
        received_at(identity),
        known.account,
        known.connection,
        known.stream,
        known.envelope,
        known.edits,
        head,
        body,
        size,
        known.message_id,
        known.client,
        known.eightbit,
        known.payer,
        known.steering,
    )


def deliveries_of(connection: sqlite3.Connection, landed: Landed, identity: int) -> list[Delivery]:
    """The deliveries still queued of the message with this id, or of the message that the delivery with it is of."""
    row = connection.execute(
        "SELECT id, recipients FROM message WHERE id <= ? ORDER BY id DESC LIMIT 1", (identity,)
    ).fetchone()
    if row is None or identity > row[0] + row[1]:
        return []
    return deliveries_by_id(connection, landed, list(range(row[0] + 1, row[0] + row[1] + 1)))


def due_queues(
    connection: sqlite3.Connection, after: tuple[float, str], now: float, limit: int
) -> list[tuple[float, str]]:
    """(next due, name) of queues due by ``now`` and behind ``after``, in that order: how the backlog is walked.

    A time comes back to the last bit (JSON would keep 15 digits): the walk goes on exactly behind it."""
    row = connection.execute(
        "SELECT json_group_array(json_array(json(printf('%!.17g', next_due)), name)) FROM ("
        "SELECT next_due, name FROM queue WHERE (next_due, name) > (?, ?) AND next_due <= ? "
        "ORDER BY next_due, name LIMIT ?)",
        (*after, now, limit),
    ).fetchone()
    return [(float(due), name) for due, name in msgspec.json.decode(row[0])]


def queue_summary(connection: sqlite3.Connection, limit: int, account: str) -> list[tuple[str, int, float]]:
    """(name, count, next due) of the longest queues, or an account's, from their counters and the index of what is
    due."""
    # All names that begin with "ACCOUNT/": "0" comes after "/".
    return connection.execute(
        "SELECT name, count, coalesce((SELECT min(due) FROM delivery WHERE queue = name), next_due) FROM queue "
        "WHERE count > 0 AND (?2 = '' OR name > ?2 || '/' AND name < ?2 || '0') ORDER BY count DESC, name LIMIT ?1",
        (limit, account),
    ).fetchall()


def queues_of(connection: sqlite3.Connection, domain: str, limit: int) -> list[tuple[str, int, float]]:
    """The same of the queues of one domain."""
    return connection.execute(
        "SELECT name, count, coalesce((SELECT min(due) FROM delivery WHERE queue = name), next_due) "
        "FROM queue WHERE count > 0 AND (substr(name, -length(?1) - 1) = '/' || ?1 OR "
        "(instr(name, '/pool:') AND substr(name, -length(?1) - 1) = ':' || ?1)) ORDER BY count DESC, name LIMIT ?2",
        (domain, limit),
    ).fetchall()


def queue_counts(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """(name, count) of every queue that is not empty, the longest first."""
    return connection.execute("SELECT name, count FROM queue WHERE count > 0 ORDER BY count DESC, name").fetchall()


def queued_of(connection: sqlite3.Connection, name: str) -> int:
    """Deliveries in the spool that a submission connection brought."""
    question = "SELECT count(*) FROM message JOIN delivery ON delivery.id > message.id AND delivery.id <= message.id + "
    question += "message.recipients WHERE message.meta ->> 'connection' = ?"
    return int(connection.execute(question, (name,)).fetchone()[0])


def queued_total(connection: sqlite3.Connection) -> int:
    """Deliveries in the spool, from the queues' counters."""
    return int(connection.execute("SELECT coalesce(sum(count), 0) FROM queue").fetchone()[0])


def depth(connection: sqlite3.Connection) -> tuple[int, float]:
    """Deliveries in the spool, and when the oldest of them came in (unix seconds, 0.0 if there is none)."""
    (oldest,) = connection.execute("SELECT min(id) FROM delivery").fetchone()
    return queued_total(connection), received_at(oldest) if oldest else 0.0


def last_identity(connection: sqlite3.Connection) -> int:
    """The highest identity in the spool; new ones must be above it even if the clock stepped back."""
    row: tuple[Any, Any] = connection.execute(
        "SELECT (SELECT max(id) FROM message), max(coalesce((SELECT max(id) FROM delivery), 0), "
        "coalesce((SELECT max(id) FROM recycled), 0))"
    ).fetchone()
    return max(row[0] or 0, row[1] or 0)


def message_ids(connection: sqlite3.Connection) -> set[int]:
    """Messages whose body lies in a file."""
    row = connection.execute("SELECT json_group_array(id) FROM message WHERE body IS NULL").fetchone()
    return set(msgspec.json.decode(row[0]))
