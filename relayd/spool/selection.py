"""Which deliveries an operator means, and how they are walked without ever holding them all.

In: a ``Filter``.  Out: names of queues, and of each the deliveries that are meant, a page at a time.  What a queue's
name tells narrows the walk to queues; the rest is asked of the rows, so many at a time, whether they are meant or not:
no page takes long.  Plain functions on a reading connection, each page one long statement.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from relayd.address import domain_of
from relayd.envelope import FALLBACK, POOL, Message
from relayd.spool.reader import stored_message
from relayd.spool.store import NEVER

State = Literal["", "waiting", "held"]
NAMES = 500  # queues in one page of names
BUCKETS = (300, 600, 1200, 2400, 4800, 9600, 19200, 38400, 76800)  # ages in seconds, as Postfix's qshape has them
SLOT = 120  # seconds of reception that are counted together (actions.sql)


class Filter(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is said narrows; nothing said means all.  ``domain`` is what the queue goes to, "fallback:NAME" among them;
    ``recipient`` and ``sender`` are an address, or "*@" and a domain; ``older`` and ``younger`` are unix seconds of the
    reception; ``attempts``: at least so many; ``reply``: what the last attempt's words hold; ``ids`` are of messages or
    deliveries.  ``site`` is for the caller to judge by a queue's name."""

    account: str = ""
    connection: str = ""
    stream: str = ""
    domain: str = ""
    site: str = ""
    recipient: str = ""
    sender: str = ""
    client: str = ""
    track_id: str = ""
    tag: str = ""
    older: float = 0.0
    younger: float = 0.0
    attempts: int = 0
    reply: str = ""
    state: State = ""
    ids: tuple[int, ...] = ()


class Found(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A delivery that is meant, as it was when it was read.  ``held``: by which job; ``meta``: "" unless asked for."""

    id: int
    queue: str
    due: float
    attempts: int
    recipient: str
    held: int | None
    message: int
    last: str
    size: int = 0
    meta: str = ""


class Cursor(msgspec.Struct, frozen=True):
    """How far a walk is: through the queue ``name``, or within it behind (due, id); of ids, how many of them."""

    name: str = ""
    due: float = -1.0
    id: int = -1
    whole: bool = True


class Page(msgspec.Struct, frozen=True):
    """``seen``: rows that were looked at; ``next``: where to go on in the same queue, None if it is through."""

    found: list[Found]
    seen: int
    next: Cursor | None


_found = msgspec.json.Decoder(list[Found])
_BARE = ("d.id", "d.queue", "d.due", "d.attempts", "d.recipient->>'address'", "d.held", "d.message", "d.last")
_FULL = (*_BARE, "m.size", "m.meta")


def names(connection: sqlite3.Connection, wanted: Filter, after: str, limit: int = NAMES) -> list[tuple[str, int]]:
    """(name, count) of the next queues that may have some of these, by name."""
    where, values = ["count > 0", "name > :after"], {"after": after, "limit": limit}
    if wanted.account:
        where.append("name >= :account || '/' AND name < :account || '0'")
        values["account"] = wanted.account
    if wanted.stream:
        where.append("substr(name, instr(name, '/') + 1, length(:stream) + 1) = :stream || '/'")
        values["stream"] = wanted.stream
    if wanted.domain:
        where.append(_goes_to("name", ":domain"))
        values["domain"] = wanted.domain
    if domain := domain_of(wanted.recipient):
        where.append(f"({_goes_to('name', ':to')} OR instr(name, '/{FALLBACK}'))")
        values["to"] = domain
    row = connection.execute(
        f"SELECT json_group_array(json_array(name, count)) FROM (SELECT name, count FROM queue "
        f"WHERE {' AND '.join(where)} ORDER BY name LIMIT :limit)",
        values,
    ).fetchone()
    return [(name, count) for name, count in msgspec.json.decode(row[0])]


def _goes_to(queue: str, domain: str) -> str:
    """The condition that a queue, by its name, is one of a domain."""
    end = f"substr({queue}, -length({domain}) - 1)"
    return f"({end} = '/' || {domain} OR (instr({queue}, '/{POOL}') AND {end} = ':' || {domain}))"


def of_queues(
    connection: sqlite3.Connection, wanted: Filter, queues: Sequence[str], most: int, *, full: bool = False
) -> Page:
    """All deliveries of these queues that are meant, up to the id ``most``."""
    values = {"names": msgspec.json.encode(list(queues)).decode(), "most": most}
    place = "d.queue IN (SELECT value FROM json_each(:names))"
    found = _rows(connection, wanted, place, values, full=full)
    return Page(found, len(found), None)


def within(
    connection: sqlite3.Connection, wanted: Filter, at: Cursor, most: int, limit: int, *, full: bool = False
) -> Page:
    """The next deliveries of one queue by due time and id, so many looked at.  Rows with the same due time, such as all
    that is held, are walked by their ids."""
    values: dict[str, Any] = {"queue": at.name, "due": at.due, "id": at.id, "most": most, "limit": limit}
    held = " AND due >= 9e15" if wanted.state == "held" else " AND due < 9e15" if wanted.state == "waiting" else ""
    for more in ("due = :due AND id > :id", "due > :due"):
        scanned = f"SELECT id FROM delivery WHERE queue = :queue AND {more}{held} ORDER BY due, id LIMIT :limit"
        seen = connection.execute(
            f"SELECT count(*) OVER (), d.due, d.id FROM ({scanned}) s CROSS JOIN delivery d ON d.id = s.id "
            "ORDER BY d.due DESC, d.id DESC LIMIT 1",
            values,
        ).fetchone()
        if seen is None:
            continue
        found = _rows(connection, wanted, f"d.id IN ({scanned})", values, full=full)
        return Page(found, seen[0], Cursor(at.name, seen[1], seen[2], whole=False))
    return Page([], 0, None)


def by_ids(
    connection: sqlite3.Connection, wanted: Filter, ids: Sequence[int], most: int, *, full: bool = False
) -> Page:
    """Those of these ids, which are of messages or deliveries."""
    meant: list[int] = []
    for identity in ids:
        row = connection.execute("SELECT recipients FROM message WHERE id = ?", (identity,)).fetchone()
        meant += range(identity + 1, identity + 1 + row[0]) if row else (identity,)
    values = {"ids": msgspec.json.encode(meant).decode(), "most": most}
    found = _rows(connection, wanted, "d.id IN (SELECT value FROM json_each(:ids))", values, full=full)
    return Page(found, len(meant), None)


def changed_by(connection: sqlite3.Connection, job: int, after: int, limit: int) -> Page:
    """The next deliveries that a job changed, and nothing since."""
    where = f"d.job = {job:d} AND d.id > {after:d}"
    return _in_order(connection, _BARE, f"FROM delivery d WHERE {where} ORDER BY d.id LIMIT {limit:d}")


def cancelled_by(connection: sqlite3.Connection, job: int, after: int, limit: int) -> Page:
    """The next deliveries that a job cancelled and that can be brought back."""
    where = f"d.cancelled = {job:d} AND d.id > {after:d}"
    rest = f"FROM recycled d JOIN message m ON m.id = d.message WHERE {where} ORDER BY d.id LIMIT {limit:d}"
    return _in_order(connection, _FULL, rest)


def _in_order(connection: sqlite3.Connection, columns: tuple[str, ...], rest: str) -> Page:
    found = _listed(connection, columns, rest, {})
    return Page(found, len(found), Cursor(id=found[-1].id) if found else None)


def _rows(
    connection: sqlite3.Connection, wanted: Filter, place: str, values: dict[str, Any], *, full: bool
) -> list[Found]:
    where, values = [place, "+d.id <= :most"], dict(values)

    def term(condition: str, name: str, value: object) -> None:
        if value:
            where.append(condition)
            values[name] = value

    if wanted.state:
        where.append(f"d.held IS {'NOT ' if wanted.state == 'held' else ''}NULL")
    term("+d.id < :older", "older", wanted.older and int(wanted.older * 1000) << 20)
    term("+d.id >= :younger", "younger", wanted.younger and int(wanted.younger * 1000) << 20)
    term("d.attempts >= :attempts", "attempts", wanted.attempts)
    term("instr(lower(d.last), lower(:reply))", "reply", wanted.reply)
    for name, column in (("recipient", "d.recipient->>'address'"), ("sender", "m.meta->>'$.envelope.sender'")):
        address = getattr(wanted, name)
        asked = f"substr({column}, -length(:{name}))" if address.startswith("*@") else column
        term(f"lower({asked}) = lower(:{name})", name, address.removeprefix("*"))
    term("m.meta->>'connection' = :connection", "connection", wanted.connection)
    term("m.meta->>'client' = :client", "client", wanted.client)
    term("m.meta->>'$.steering.track_id' = :track", "track", wanted.track_id)
    term("EXISTS (SELECT 1 FROM json_each(m.meta, '$.steering.tags') WHERE value = :tag)", "tag", wanted.tag)
    if wanted.ids:  # what the queue's name tells was not asked yet
        term("m.meta->>'account' = :account", "account", wanted.account)
        term("m.meta->>'stream' = :stream", "stream", wanted.stream)
        term(_goes_to("d.queue", ":domain"), "domain", wanted.domain)
    joined = "CROSS JOIN message m ON m.id = d.message" if full or any("m.meta" in one for one in where) else ""
    rest = f"FROM delivery d {joined} WHERE {' AND '.join(where)}"
    return _listed(connection, _FULL if full else _BARE, rest, values)


def _listed(connection: sqlite3.Connection, columns: tuple[str, ...], rest: str, values: dict[str, Any]) -> list[Found]:
    numbered = [f"c{n}" for n in range(len(columns))]
    inner = ", ".join(f"{column} AS {c}" for column, c in zip(columns, numbered, strict=True))
    row = connection.execute(
        f"SELECT json_group_array(json_array({', '.join(numbered)})) FROM (SELECT {inner} {rest})", values
    ).fetchone()
    return _found.decode(row[0])


def message_of(found: Found) -> Message:
    """The message of what was read with its meta, without its content."""
    return stored_message(found.message, found.size, found.meta, b"", None)


def total(connection: sqlite3.Connection, wanted: Filter) -> int:
    """How many deliveries a walk looks at, by the counters."""
    if wanted.ids:
        return len(wanted.ids)
    count, after = 0, ""
    while page := names(connection, wanted, after, 10_000):
        count += sum(n for _, n in page)
        after = page[-1][0]
    return count


def ages(connection: sqlite3.Connection, now: float) -> list[tuple[str, int, list[int]]]:
    """(queue, how many are held, how many by age: up to each of BUCKETS, and older) of every queue, from counters."""
    middle = f"({now!r} - (slot + 0.5) * {SLOT})"
    bounds = [0, *BUCKETS]
    columns = [
        f"sum(iif({middle} >= {low} AND {middle} < {high}, count, 0))"
        for low, high in zip(bounds, [*BUCKETS, NEVER], strict=True)
    ]
    columns[0] = f"sum(iif({middle} < {BUCKETS[0]}, count, 0))"
    row = connection.execute(
        "SELECT json_group_array(json_array(queue, held, json(counts))) FROM (SELECT queue, sum(held) AS held, "
        f"json_array({', '.join(columns)}) AS counts FROM aged GROUP BY queue)"
    ).fetchone()
    return [(queue, held, counts) for queue, held, counts in msgspec.json.decode(row[0])]
