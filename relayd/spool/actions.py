"""What operators do to deliveries that are queued: jobs, each a row, whose every step is one transaction.

In: what a job is to do, and of each step the deliveries that nobody else has in his hands meanwhile.  Out: functions
for the writer that change those which still are what they were when they were read, with their records and ledger
entries, and put down in the job's row how far it is: killed in between, a job goes on where it was.

Each changed delivery keeps what it was (``was``) and by which job, until it is tried: so the job can be undone.  A
cancelled one lies in ``recycled``, its message stays, and its unit goes back to its payer when it is dropped there.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from relayd.envelope import Message
from relayd.identity import day_of, show
from relayd.lease import Charge
from relayd.outcome import Evidence
from relayd.records import Entry, encode, of_message
from relayd.spool import leases
from relayd.spool.selection import Cursor, Filter, Found, message_of
from relayd.spool.store import NEVER, Meta, Reception, Store, drop_messages

Action = Literal["retry", "hold", "release", "move", "cancel", "undo"]
KEPT = 1000  # jobs that are remembered
OPEN = 100  # jobs that may wait or run at once


class Job(msgspec.Struct, frozen=True):
    """A row: see actions.sql."""

    id: int
    action: Action
    who: str
    reason: str
    filter: Filter
    target: str
    notify: bool
    undoes: int | None
    most: int
    created: float
    about: int
    seen: int
    done: int
    due: int
    busy: int
    at: Cursor
    state: Literal["running", "done", "stopped", "failed"]
    fault: str
    ended: float
    until: float
    noted: bool


class Draft(msgspec.Struct, frozen=True):
    """A job to be begun."""

    action: Action
    who: str
    reason: str
    filter: Filter = Filter()
    target: str = ""
    notify: bool = False
    undoes: int | None = None


class Step(msgspec.Struct, frozen=True):
    """What a step adds to its job: rows looked at, of which so many were due already or under way, and where it goes
    on."""

    seen: int
    due: int
    busy: int
    at: Cursor


Change = Callable[[sqlite3.Connection], Any]
_encode = msgspec.json.encode
_FIELDS = ", ".join(Job.__struct_fields__)
_WAS = "json_array(due, held, delivery.queue, source)"
_RECYCLED = "message, queue, due, attempts, recipient, last, source, told, begins, ends, held"


def _job(row: tuple[Any, ...]) -> Job:
    fields = dict(zip(Job.__struct_fields__, row, strict=True))
    fields["filter"] = msgspec.json.decode(fields["filter"], type=Filter)
    fields["at"] = msgspec.json.decode(fields["at"], type=Cursor) if fields["at"] else Cursor()
    return msgspec.convert(fields, Job, strict=False)


def job(connection: sqlite3.Connection, identity: int) -> Job | None:
    row = connection.execute(f"SELECT {_FIELDS} FROM job WHERE id = ?", (identity,)).fetchone()
    return _job(row) if row else None


def jobs(connection: sqlite3.Connection, limit: int) -> list[Job]:
    """The latest first."""
    return [_job(row) for row in connection.execute(f"SELECT {_FIELDS} FROM job ORDER BY id DESC LIMIT ?", (limit,))]


def unfinished(connection: sqlite3.Connection) -> list[Job]:
    """Those that run, and those whose end nobody has been told of."""
    where = "state = 'running' OR noted = 0"
    return [_job(row) for row in connection.execute(f"SELECT {_FIELDS} FROM job WHERE {where} ORDER BY id")]


def holders(connection: sqlite3.Connection, deliveries: Sequence[int]) -> dict[int, tuple[int, str, str]]:
    """(job, who, reason) of each of these that is held."""
    found = connection.execute(
        "SELECT d.id, d.held, j.who, j.reason FROM delivery d LEFT JOIN job j ON j.id = d.held "
        "WHERE d.held IS NOT NULL AND d.id IN (SELECT value FROM json_each(?))",
        (_encode(list(deliveries)).decode(),),
    )
    return {identity: (held, who or "somebody", reason or "") for identity, held, who, reason in found}


# The writer's functions.


def begin(draft: Draft, about: int, now: float) -> Change:
    """Gives the job.  What is received from now on is not its business."""

    def change(connection: sqlite3.Connection) -> Job:
        most = connection.execute("SELECT coalesce(max(id), 0) FROM delivery").fetchone()[0]
        connection.execute(
            "INSERT INTO job (action, who, reason, filter, target, notify, undoes, most, created, about) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                draft.action,
                draft.who,
                draft.reason,
                _encode(draft.filter).decode(),
                draft.target,
                draft.notify,
                draft.undoes,
                most,
                now,
                about,
            ),
        )
        connection.execute(
            "DELETE FROM job WHERE id <= last_insert_rowid() - ? AND state <> 'running' AND noted = 1 "
            "AND until < ? AND id NOT IN (SELECT held FROM delivery WHERE held IS NOT NULL) "
            "AND id NOT IN (SELECT cancelled FROM recycled)",
            (KEPT, now),
        )
        made = job(connection, connection.execute("SELECT max(id) FROM job").fetchone()[0])
        assert made
        return made

    return change


def end(identity: int, state: str, now: float, keep: float, fault: str = "") -> Change:
    """Gives the job, or None if it has ended before.  It can be undone for so many seconds."""

    def change(connection: sqlite3.Connection) -> Job | None:
        ended = connection.execute(
            "UPDATE job SET state = ?, fault = ?, ended = ?, until = ? WHERE id = ? AND state = 'running'",
            (state, fault, now, now + keep, identity),
        ).rowcount
        return job(connection, identity) if ended else None

    return change


def noted(identity: int) -> Change:
    """Its end is in the trail of changes."""
    return lambda connection: connection.execute("UPDATE job SET noted = 1 WHERE id = ?", (identity,)) and None


def skip(running: Job, step: Step) -> Change:
    """Nothing was to be changed."""
    return _stepped(running, step, lambda connection: 0)


def hold(running: Job, rows: Sequence[Found], step: Step) -> Change:
    def change(connection: sqlite3.Connection) -> int:
        return _update(connection, running, _still(connection, rows), f"held = {running.id:d}, due = {NEVER!r}")

    return _stepped(running, step, change)


def retry(running: Job, rows: Sequence[Found], step: Step, now: float) -> Change:
    def change(connection: sqlite3.Connection) -> int:
        ids = _still(connection, rows)
        done = _update(connection, running, ids, f"due = {now!r}")
        _wake(connection, ids)
        return done

    return _stepped(running, step, change)


def release(running: Job, rows: Sequence[Found], step: Step, now: float) -> Change:
    """It is due at once, but not before its sender wants it sent.  Its life on disk begins anew: held for longer than
    it was to live, it is tried once more before it expires."""
    due = f"max(begins, {now!r})"

    def change(connection: sqlite3.Connection) -> int:
        ids = _still(connection, rows)
        done = _update(connection, running, ids, f"held = NULL, due = {due}, begins = {due}")
        _wake(connection, ids)
        return done

    return _stepped(running, step, change)


def move(running: Job, rows: Sequence[Found], queues: Sequence[tuple[int, str]], step: Step) -> Change:
    """``queues``: of each id, where it goes.  The source that it has gone by means nothing any more."""

    def change(connection: sqlite3.Connection) -> int:
        ids = _still(connection, rows)
        _leave(connection, ids)
        done = connection.execute(
            f"UPDATE delivery SET was = {_WAS}, job = ?, queue = j.value->>1, source = '' FROM json_each(?) AS j "
            "WHERE delivery.id = j.value->>0 AND delivery.id IN (SELECT value FROM json_each(?))",
            (running.id, _json(queues), ids),
        ).rowcount
        _enter(connection, ids)
        return done

    return _stepped(running, step, change)


def cancel(
    running: Job, rows: Sequence[Found], reports: Sequence[tuple[int, Reception]], step: Step, now: float
) -> Change:
    """``reports`` to senders of these deliveries come in with it."""
    lines = {row.id: _told("Cancellation", row, running, now) for row in rows}

    def change(connection: sqlite3.Connection) -> int:
        ids = _still(connection, rows)
        _leave(connection, ids)
        connection.execute(
            f"INSERT INTO recycled (id, cancelled, {_RECYCLED}) SELECT id, {running.id:d}, {_RECYCLED} FROM delivery "
            "WHERE id IN (SELECT value FROM json_each(?))",
            (ids,),
        )
        connection.execute("DELETE FROM delivery WHERE id IN (SELECT value FROM json_each(?))", (ids,))
        gone = msgspec.json.decode(ids, type=set[int])
        _record(connection, [lines[identity] for identity in sorted(gone)], 1)
        if kept := [report for identity, report in reports if identity in gone]:
            Store(connection).take_in(kept)
        return len(gone)

    return _stepped(running, step, change)


def restore(running: Job, rows: Sequence[Found], step: Step, now: float) -> Change:
    """Undoes a cancel: they are queued as they were, under their ids."""
    lines = {row.id: _told("Restoration", row, running, now) for row in rows}

    def change(connection: sqlite3.Connection) -> int:
        ids = _json(row.id for row in rows)
        found = connection.execute(
            "SELECT json_group_array(id) FROM recycled WHERE id IN (SELECT value FROM json_each(?))", (ids,)
        ).fetchone()[0]
        connection.execute(
            f"INSERT INTO delivery (id, {_RECYCLED}) SELECT id, {_RECYCLED} FROM recycled "
            "WHERE id IN (SELECT value FROM json_each(?))",
            (found,),
        )
        connection.execute("DELETE FROM recycled WHERE id IN (SELECT value FROM json_each(?))", (found,))
        _enter(connection, found)
        back = msgspec.json.decode(found, type=list[int])
        _record(connection, [lines[identity] for identity in back], -1)
        return len(back)

    return _stepped(running, step, change)


def put_back(running: Job, rows: Sequence[Found], step: Step) -> Change:
    """Undoes what is not a cancel: those that nothing has changed since are what they were."""

    def change(connection: sqlite3.Connection) -> int:
        ids = connection.execute(
            "SELECT json_group_array(id) FROM delivery WHERE job = ? AND id IN (SELECT value FROM json_each(?))",
            (running.undoes, _json(row.id for row in rows)),
        ).fetchone()[0]
        _leave(connection, ids)
        done = connection.execute(
            "UPDATE delivery SET due = was->>0, held = was->>1, queue = was->>2, source = was->>3, job = NULL, "
            "was = NULL WHERE id IN (SELECT value FROM json_each(?))",
            (ids,),
        ).rowcount
        _enter(connection, ids)
        return done

    return _stepped(running, step, change)


# What was cancelled for good.


class Dropped(msgspec.Struct, frozen=True, array_like=True):
    """A cancelled delivery that can be brought back no more."""

    id: int
    message: int
    attempts: int
    in_file: bool
    meta: str


def expired(connection: sqlite3.Connection, now: float, limit: int) -> list[tuple[Dropped, Meta]]:
    """Up to so many, each with the meta of its message."""
    row = connection.execute(
        "SELECT json_group_array(json_array(r.id, r.message, r.attempts, json(iif(m.body IS NULL, 'true', 'false')), "
        "m.meta)) FROM (SELECT id, message, attempts FROM recycled WHERE cancelled IN (SELECT id FROM job WHERE "
        "action = 'cancel' AND state <> 'running' AND until < ?1 AND id NOT IN "
        "(SELECT undoes FROM job WHERE state = 'running' AND undoes IS NOT NULL)) LIMIT ?2) r "
        "JOIN message m ON m.id = r.message",
        (now, limit),
    ).fetchone()
    dropped = msgspec.json.decode(row[0], type=list[Dropped])
    return [(one, msgspec.json.decode(one.meta, type=Meta)) for one in dropped]


def drop(dropped: Sequence[Dropped], refunds: Sequence[tuple[int, str, Charge]]) -> Change:
    """Gives the messages whose body files are needed no more.  ``refunds``: (delivery, stream, units)."""

    def change(connection: sqlite3.Connection) -> list[int]:
        left = connection.execute(
            "DELETE FROM recycled WHERE id IN (SELECT value FROM json_each(?)) AND cancelled IN "
            "(SELECT id FROM job WHERE state <> 'running' AND id NOT IN "
            "(SELECT undoes FROM job WHERE state = 'running' AND undoes IS NOT NULL)) RETURNING id",
            (_json(one.id for one in dropped),),
        ).fetchall()
        gone = {identity for (identity,) in left}
        paid = [(identity, stream, charge) for identity, stream, charge in refunds if identity in gone]
        if paid:
            leases.refund(connection, [charge for _, _, charge in paid])
            entries = [Entry(day_of(i), charge.payer, stream, "refunded", charge.units) for i, stream, charge in paid]
            Store(connection).keep_records(b"", entries)
        messages = {one.message for one in dropped if one.id in gone}
        return drop_messages(connection, messages, sorted({one.message for one in dropped if one.in_file} & messages))

    return change


# Inside.


def _json(values: Iterable[Any]) -> str:
    return _encode(list(values)).decode()


def _stepped(running: Job, step: Step, change: Callable[[sqlite3.Connection], int]) -> Change:
    """The change with the job's progress.  A job that was ended meanwhile changes nothing: -1."""

    def stepped(connection: sqlite3.Connection) -> int:
        state = connection.execute("SELECT state FROM job WHERE id = ?", (running.id,)).fetchone()
        if state is None or state[0] != "running":
            return -1
        done = change(connection)
        connection.execute(
            "UPDATE job SET seen = seen + ?, done = done + ?, due = due + ?, busy = busy + ?, at = ? WHERE id = ?",
            (step.seen, done, step.due, step.busy, _encode(step.at).decode(), running.id),
        )
        return done

    return stepped


def _still(connection: sqlite3.Connection, rows: Sequence[Found]) -> str:
    """The ids, as JSON, of those that are what they were when they were read: an attempt may have ended since."""
    asked = _json((row.id, row.attempts, row.queue, row.held) for row in rows)
    found: str = connection.execute(
        "SELECT json_group_array(d.id) FROM json_each(?) AS j CROSS JOIN delivery d ON d.id = j.value->>0 "
        "WHERE d.attempts = j.value->>1 AND d.queue = j.value->>2 AND d.held IS j.value->>3",
        (asked,),
    ).fetchone()[0]
    return found


def _update(connection: sqlite3.Connection, running: Job, ids: str, what: str) -> int:
    return connection.execute(
        f"UPDATE delivery SET was = {_WAS}, job = ?, {what} WHERE id IN (SELECT value FROM json_each(?))",
        (running.id, ids),
    ).rowcount


def _wake(connection: sqlite3.Connection, ids: str) -> None:
    """Their queues are due no later than they are."""
    connection.execute(
        "UPDATE queue SET next_due = min(next_due, d.due) FROM (SELECT queue, min(due) AS due FROM delivery "
        "WHERE id IN (SELECT value FROM json_each(?)) GROUP BY 1) AS d WHERE queue.name = d.queue",
        (ids,),
    )


def _leave(connection: sqlite3.Connection, ids: str) -> None:
    """Their queues count them no more."""
    connection.execute(
        "UPDATE queue SET count = count - d.n FROM (SELECT queue, count(*) AS n FROM delivery "
        "WHERE id IN (SELECT value FROM json_each(?)) GROUP BY 1) AS d WHERE queue.name = d.queue",
        (ids,),
    )


def _enter(connection: sqlite3.Connection, ids: str) -> None:
    """Their queues count them."""
    connection.execute(
        "INSERT INTO queue SELECT queue, count(*), min(due) FROM delivery WHERE id IN (SELECT value FROM json_each(?)) "
        "GROUP BY 1 ON CONFLICT (name) DO UPDATE SET count = count + excluded.count, "
        "next_due = min(next_due, excluded.next_due)",
        (ids,),
    )


def _told(kind: Literal["Cancellation", "Restoration"], row: Found, running: Job, now: float) -> tuple[bytes, Message]:
    message = message_of(row)
    words = f"{'cancelled' if kind == 'Cancellation' else 'restored'} by {running.who}: {running.reason}"
    record = of_message(
        kind,
        message,
        now,
        delivery=show(row.id),
        recipient=row.recipient,
        received=message.received,
        attempts=row.attempts,
        evidence=Evidence(stage="queue", error=words) if kind == "Cancellation" else None,
        note=f"job {running.id}" if kind == "Cancellation" else f"{words} (job {running.id})",
    )
    return encode(record), message


def _record(connection: sqlite3.Connection, told: Sequence[tuple[bytes, Message]], sign: int) -> None:
    """A restored delivery takes its cancellation out of the ledger: it is counted where it ends."""
    sums = Counter((day_of(message.id), message.account, message.stream) for _, message in told)
    entries = [Entry(*key, "cancelled", sign * many) for key, many in sums.items()]
    if told:
        Store(connection).keep_records(b"".join(line for line, _ in told), entries)
