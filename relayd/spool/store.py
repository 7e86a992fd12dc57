"""The spool's one writing connection to SQLite: a batch of changes in, one durable transaction out.

Enter: a ``Batch`` of receptions, departures, requeues and odd jobs, each with its records and ledger entries.  Leave:
the same on disk, fsynced (WAL, synchronous=FULL), or an exception and nothing changed.

Called from the writer's thread only.  Beside a busy reactor every return from SQLite may wait for the GIL, so a batch
is a handful of long statements (many rows as one JSON argument, or one many-row VALUES), never a call per row.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from relayd.envelope import UNSTEERED, Delivery, Message, Steering
from relayd.identity import day_of, lower_bound
from relayd.lease import Charge
from relayd.records import Entry
from relayd.spool import leases
from relayd.spool.landing import Landing, span

NEVER = 9e15  # a due time that does not come: nothing waits, or held
_SCRIPTS = ("schema.sql", "landing.sql", "leases.sql", "steering.sql", "actions.sql")
# Scripts that bring a spool of version n (the key) to n + 1.
UPGRADES: dict[int, str] = {
    version: files("relayd.spool").joinpath(file).read_text("utf-8") for version, file in enumerate(_SCRIPTS)
}
SCHEMA_VERSION = len(UPGRADES)
KEY_LIFE = lower_bound(86400)  # a day, in the steps of identities: for so long an idempotency key counts
_WIDEST = 64  # rows in one VALUES statement: wider ones gain nothing, and each width is a prepared statement
CLEARED = _WIDEST  # rows that one piece of clearing takes in


class Reception(msgspec.Struct, frozen=True, gc=False):
    """A message to keep, with its deliveries, the line of its record and what that adds to the ledger.  ``charge`` is
    debited to the payer's lease, and the ledger counts it for him as ``charged``.  With a ``key`` it is kept only if it
    is the first of its account with that key within a day."""

    message: Message
    deliveries: tuple[Delivery, ...]
    line: bytes
    entries: tuple[Entry, ...]
    charge: Charge | None = None
    key: str = ""


class Departure(msgspec.Struct, frozen=True, gc=False):
    """A delivery that leaves the spool: delivered, bounced, expired ...  ``report`` comes in with it; ``refund`` goes
    back to the payer's lease, and the ledger counts it for him as ``refunded``."""

    delivery: Delivery
    line: bytes
    entries: tuple[Entry, ...]
    report: Reception | None = None
    refund: Charge | None = None


class Requeue(msgspec.Struct, frozen=True, gc=False):
    """A delivery that stays, with the due time, attempts, source and last words it now has; its sender may be
    told of the delay by a ``report`` that comes in with it.  Without an attempt there is no ``line`` to record.
    ``queue``: the one it moves to, "" if it stays in its own."""

    delivery: Delivery
    due: float
    attempts: int
    source: str
    last: str
    line: bytes
    entries: tuple[Entry, ...]
    told: bool = False
    report: Reception | None = None
    queue: str = ""


class Batch:
    """What one transaction holds."""

    def __init__(self) -> None:
        self.departures: list[Departure] = []
        self.requeues: list[Requeue] = []
        self.receptions: list[Reception] = []
        self.settles: list[str] = []
        self.jobs: list[Callable[[sqlite3.Connection], Any]] = []


class Applied(msgspec.Struct, frozen=True):
    """What a transaction found out: next due time of each settled queue, the messages that are gone but for their
    body files, what the odd jobs returned, and the receptions that were not kept, each with the message that had come
    with its key before."""

    settled: dict[str, float]
    gone: list[int]
    results: list[Any]
    twins: dict[int, int]


class Meta(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a message that SQL never looks into."""

    account: str
    connection: str
    stream: str
    envelope: Any
    edits: Any
    message_id: str = ""
    client: str = ""
    eightbit: bool = False
    payer: str = ""
    steering: Steering = UNSTEERED


encode_json = msgspec.json.Encoder().encode


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """A connection fit for the spool; usable from any one thread at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512, timeout=30)
    connection.execute("PRAGMA query_only=ON" if readonly else "PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-32000")
    return connection


def create(path: Path) -> sqlite3.Connection:
    """Opens the writing connection, making or checking the schema.  Raises sqlite3.DatabaseError."""
    if sqlite3.sqlite_version_info < (3, 38):
        raise sqlite3.NotSupportedError(f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or later is needed")
    connection = connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.execute("PRAGMA page_size=4096")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
    elif version > SCHEMA_VERSION:
        raise sqlite3.NotSupportedError(
            f"{path} has format {version}, this relayd writes {SCHEMA_VERSION}: run the relayd that made it"
        )
    for step in range(version, SCHEMA_VERSION):
        connection.executescript(f"BEGIN IMMEDIATE; {UPGRADES[step]} PRAGMA user_version={step + 1}; COMMIT")
    connection.execute("PRAGMA wal_autocheckpoint=8000")  # 32 MB: rare enough to be cheap
    connection.execute("PRAGMA journal_size_limit=67108864")
    return connection


class Store:
    """Applies batches.  Without a landing, contents go into their rows at once."""

    def __init__(self, connection: sqlite3.Connection, landing: Landing | None = None) -> None:
        self._connection = connection
        self._landing = landing
        self.landing_fault = ""  # why contents went into their rows the last time, though there is a landing

    def apply(self, batch: Batch) -> Applied:
        """One transaction, durable when this returns.  Raises sqlite3.Error or OSError with nothing changed."""
        places = self._land(batch.receptions)
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            gone = self._depart(batch.departures)
            self._requeue(batch.requeues)
            twins = self._claim([r for r in batch.receptions if r.key])
            if twins:
                gone += [r.message.id for r in batch.receptions if r.message.id in twins and r.message.body is None]
                batch.receptions = [r for r in batch.receptions if r.message.id not in twins]
            self._receive(batch.receptions, places)
            self._count(batch, self._charge(batch))
            settled = self._settle(batch.settles)
            results = [job(self._connection) for job in batch.jobs]
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        return Applied(settled, gone, results, twins)

    def _depart(self, departures: list[Departure]) -> list[int]:
        if not departures:
            return []
        execute = self._connection.execute
        left = execute(
            "DELETE FROM delivery WHERE id IN (SELECT value FROM json_each(?))",
            (encode_json([d.delivery.id for d in departures]).decode(),),
        )
        if left.rowcount != len(departures):  # counting it out twice would spoil the ledger
            raise sqlite3.IntegrityError("a delivery that leaves is not in the spool")
        messages = {d.delivery.message.id: d.delivery.message for d in departures}
        return drop_messages(self._connection, messages, [m.id for m in messages.values() if m.body is None])

    def _requeue(self, requeues: list[Requeue]) -> None:
        if requeues:
            rows = [
                (r.delivery.id, r.due, r.attempts, r.source, r.last, int(r.told), r.queue or r.delivery.queue)
                for r in requeues
            ]
            found = self._connection.execute(
                "UPDATE delivery SET due = j.value->>1, attempts = j.value->>2, source = j.value->>3, "
                "last = j.value->>4, told = j.value->>5, queue = j.value->>6, job = NULL, was = NULL "
                "FROM json_each(?) AS j WHERE delivery.id = j.value->>0",
                (encode_json(rows).decode(),),
            )
            if found.rowcount != len(requeues):
                raise sqlite3.IntegrityError("a delivery that is put back is not in the spool")

    def _claim(self, keyed: list[Reception]) -> dict[int, int]:
        """Takes the keys of these for their messages.  Gives those that come too late, each with who has its key.
        Whoever brings keys also removes old ones, twice as many, so none is kept much longer than it counts."""
        if not keyed:
            return {}
        execute = self._connection.execute
        argument = (encode_json([(r.message.account, r.key, r.message.id) for r in keyed]).decode(),)
        execute(
            "INSERT INTO idempotency SELECT value->>0, value->>1, value->>2 FROM json_each(?) WHERE true "
            f"ON CONFLICT DO UPDATE SET message = excluded.message WHERE excluded.message - message >= {KEY_LIFE}",
            argument,
        )
        found = execute(
            "SELECT json_group_array(json_array(value->>2, i.message)) FROM json_each(?) "
            "JOIN idempotency i ON i.account = value->>0 AND i.key = value->>1 WHERE i.message != value->>2",
            argument,
        ).fetchone()[0]
        execute(
            "DELETE FROM idempotency WHERE (account, key) IN ("
            "SELECT account, key FROM idempotency WHERE message <= ? ORDER BY message LIMIT ?)",
            (keyed[-1].message.id - KEY_LIFE, 2 * len(keyed)),
        )
        return dict(msgspec.json.decode(found))

    def _land(self, receptions: list[Reception]) -> dict[int, int]:
        """Puts contents into the landing, durably; gives the place of each message that has one.  What the landing does
        not take goes into the rows: an outcome must not wait because there is no room for a new file."""
        messages = [r.message for r in receptions]
        contents = [(m.id, m.head, m.body) for m in messages if m.body is not None]
        if not contents or self._landing is None:
            return {}
        try:
            places = self._landing.append(contents, time.monotonic())
        except OSError as error:
            self.landing_fault = str(error)
            return {}
        self.landing_fault = ""
        return {identity: place for (identity, _, _), place in zip(contents, places, strict=True)}

    def clear_landing(self) -> bool:
        """Gives up the landing's files that no row names any more, and brings a piece of what is old into its rows;
        whether there is more of that.  What cannot be read stays where it is and keeps nothing else from being cleared.
        Raises sqlite3.Error, and OSError for such when all else is cleared."""
        landing, unread = self._landing, None
        if landing is None:
            return False
        for number, old in landing.ended(time.monotonic()):
            rows = self._landed(number, CLEARED if old else 1)
            if not rows:
                landing.cleared(number)
            elif old:
                contents = []
                for identity, place in rows:
                    try:
                        contents.append((identity, *landing.read(place, identity)))
                    except OSError as error:
                        unread = error
                if contents:
                    self._take_in(contents)
                    return True
        if unread is not None:
            raise unread
        return False

    def _landed(self, number: int, limit: int) -> list[tuple[int, int]]:
        """(message, place) of rows that name a file of the landing."""
        found = self._connection.execute(
            "SELECT json_group_array(json_array(id, place)) FROM "
            "(SELECT id, place FROM message WHERE place >= ? AND place < ? ORDER BY place LIMIT ?)",
            (*span(number), limit),
        ).fetchone()[0]
        return msgspec.json.decode(found, type=list[tuple[int, int]])

    def _take_in(self, contents: list[tuple[int, bytes, bytes]]) -> None:
        values = ", ".join(["(?, ?, ?)"] * len(contents))
        self._connection.execute(
            f"WITH content (id, head, body) AS (VALUES {values}) UPDATE message "
            "SET head = content.head, body = content.body, place = NULL FROM content WHERE message.id = content.id",
            [value for row in contents for value in row],
        )

    def take_in(self, receptions: list[Reception]) -> None:
        """Keeps messages of our own making, with their records, inside the open transaction."""
        batch = Batch()
        batch.receptions += receptions
        self._receive(receptions, {})
        self._count(batch, [])

    def _receive(self, receptions: list[Reception], places: dict[int, int]) -> None:
        if not receptions:
            return
        messages = [message_row(r.message, len(r.deliveries), places.get(r.message.id)) for r in receptions]
        self._insert("message", "id, recipients, size, meta, head, body, place", messages)
        deliveries = [delivery_row(d) for r in receptions for d in r.deliveries]
        self._insert("delivery", "id, message, queue, due, recipient, begins, ends", deliveries)

    def _insert(self, table: str, columns: str, rows: list[tuple[Any, ...]]) -> None:
        for start in range(0, len(rows), _WIDEST):
            part = rows[start : start + _WIDEST]
            values = [value for row in part for value in row]
            self._connection.execute(insert_statement(table, columns, len(part)), values)

    def _charge(self, batch: Batch) -> list[Entry]:
        """Debits and refunds leases; gives what that adds to the ledger, on the day of the reception.  Refunds come
        first: what one gives back another may need."""
        refunds = [(d.delivery.message, d.refund, "refunded") for d in batch.departures if d.refund]
        charges = [(r.message, r.charge, "charged") for r in batch.receptions if r.charge]
        if refunds:
            leases.refund(self._connection, [refund for _, refund, _ in refunds])
        if charges:
            leases.charge(self._connection, [charge for _, charge, _ in charges])
        return [
            Entry(day_of(message.id), charge.payer, message.stream, term, charge.units)
            for message, charge, term in refunds + charges
        ]

    def _count(self, batch: Batch, paid: list[Entry]) -> None:
        """Queue counters, the day's ledger and the outbox of records, each in one statement."""
        queues: dict[str, list[float]] = defaultdict(lambda: [0, NEVER])
        for reception in batch.receptions:
            for delivery in reception.deliveries:
                row = queues[delivery.queue]
                row[0] += 1
                row[1] = min(row[1], delivery.due)
        for departure in batch.departures:
            queues[departure.delivery.queue][0] -= 1
        for requeue in batch.requeues:
            queues[requeue.delivery.queue][0] -= 1
            row = queues[requeue.queue or requeue.delivery.queue]
            row[0] += 1
            row[1] = min(row[1], requeue.due)
        if queues:
            self._connection.execute(
                "INSERT INTO queue SELECT value->>0, value->>1, value->>2 FROM json_each(?) WHERE true "
                "ON CONFLICT (name) DO UPDATE SET count = count + excluded.count, "
                "next_due = min(next_due, excluded.next_due)",
                (encode_json([(name, *row) for name, row in queues.items()]).decode(),),
            )
        told: list[Departure | Requeue | Reception] = [*batch.departures, *batch.requeues, *batch.receptions]
        self.keep_records(b"".join([t.line for t in told]), chain(paid, (e for t in told for e in t.entries)))

    def keep_records(self, lines: bytes, entries: Iterable[Entry]) -> None:
        """Adds record lines to the outbox and their entries to the ledger, inside the open transaction."""
        sums: dict[tuple[int, str, str, str], int] = defaultdict(int)
        for entry in entries:
            sums[entry.day, entry.account, entry.stream, entry.term] += entry.count
        if not lines and not sums:
            return
        rows = encode_json([(*key, count) for key, count in sums.items()]).decode()
        self._connection.execute("INSERT INTO outbox (lines, entries) VALUES (?, ?)", (lines, rows))
        self._connection.execute(
            "INSERT INTO tally SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?) "
            "WHERE true ON CONFLICT DO UPDATE SET count = count + excluded.count",
            (rows,),
        )

    def _settle(self, names: list[str]) -> dict[str, float]:
        """Writes the true next due time of queues of which nothing is in memory; drops those that are empty."""
        if not names:
            return {}
        execute = self._connection.execute
        argument = (encode_json(names).decode(),)
        execute(
            "UPDATE queue SET next_due = coalesce((SELECT min(due) FROM delivery WHERE queue = queue.name), 9e15) "
            "WHERE name IN (SELECT value FROM json_each(?))",
            argument,
        )
        execute("DELETE FROM queue WHERE count = 0 AND name IN (SELECT value FROM json_each(?))", argument)
        found = execute(
            "SELECT json_group_array(json_array(name, next_due)) FROM queue "
            "WHERE name IN (SELECT value FROM json_each(?))",
            argument,
        ).fetchone()[0]
        due = {name: float(when) for name, when in msgspec.json.decode(found)}
        return {name: due.get(name, NEVER) for name in names}


def drop_messages(connection: sqlite3.Connection, messages: Iterable[int], in_files: list[int]) -> list[int]:
    """Removes messages of which no delivery is queued or can be brought back; gives those among ``in_files``, whose
    bodies are."""
    connection.execute(
        "DELETE FROM message WHERE id IN (SELECT value FROM json_each(?)) AND NOT EXISTS ("
        "SELECT 1 FROM delivery d WHERE d.id > message.id AND d.id <= message.id + message.recipients) AND NOT EXISTS ("
        "SELECT 1 FROM recycled r WHERE r.id > message.id AND r.id <= message.id + message.recipients)",
        (encode_json(list(messages)).decode(),),
    )
    if not in_files:
        return []
    kept = connection.execute(
        "SELECT json_group_array(id) FROM message WHERE id IN (SELECT value FROM json_each(?))",
        (encode_json(in_files).decode(),),
    ).fetchone()[0]
    return sorted(set(in_files) - set(msgspec.json.decode(kept)))


def message_row(message: Message, recipients: int, place: int | None = None) -> tuple[Any, ...]:
    """(id, recipients, size, meta, head, body, place)."""
    meta = Meta(
        message.account,
        message.connection,
        message.stream,
        message.envelope,
        message.edits,
        message.message_id,
        message.client,
        message.eightbit,
        message.payer,
        message.steering,
    )
    content = (b"", b"") if place is not None else (message.head, message.body)
    return (message.id, recipients, message.size, encode_json(meta).decode(), *content, place)


def delivery_row(delivery: Delivery) -> tuple[Any, ...]:
    """(id, message, queue, due, recipient, begins, ends) of a new one."""
    recipient, due = encode_json(delivery.recipient).decode(), delivery.due
    message = delivery.message
    return (delivery.id, message.id, delivery.queue, due, recipient, due, message.steering.expire or None)


@lru_cache(maxsize=4 * _WIDEST)
def insert_statement(table: str, columns: str, rows: int) -> str:
    """``INSERT INTO table (columns) VALUES (?, ...), ...`` of so many rows."""
    one = f"({', '.join('?' * (columns.count(',') + 1))})"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([one] * rows)}"
