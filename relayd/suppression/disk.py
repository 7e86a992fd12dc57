"""What the database is told and asked, as plain functions of a connection; each runs within one transaction.

Beside a busy main thread every return from SQLite may wait for the GIL: so many rows go in as one JSON argument and
come out as one JSON text, never a call for each.
"""

import sqlite3
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from relayd.errors import InputError
from relayd.suppression.entries import Entry, Kind, Reason
from relayd.suppression.filter import BUCKETS, LOW, mark
from relayd.suppression.patterns import Patterns

MAX_PATTERNS = 1000  # in a list


class Key(msgspec.Struct, frozen=True, array_like=True):
    """What tells an entry from others: its list's id, its value, its kind.  ``mark`` is None for patterns."""

    list: int
    value: str
    kind: Kind
    mark: int | None


class Row(msgspec.Struct, frozen=True, array_like=True):
    """An entry as it lies in the table."""

    list: int
    value: str
    kind: Kind
    mark: int | None
    reason: Reason
    evidence: str
    added: int
    expires: int
    by: str

    def entry(self, name: str) -> Entry:
        return Entry(name, self.kind, self.value, self.reason, self.evidence, self.added, self.expires, self.by)


class Probe(msgspec.Struct, frozen=True):
    """A question: which entries of these lists stop a folded address now?  ``values`` are its ``covering``,
    ``sieved`` those of the lists that have patterns."""

    lists: tuple[int, ...]
    sieved: tuple[int, ...]
    address: str
    values: Sequence[tuple[Kind, str]]
    now: float


class Written(msgspec.Struct, frozen=True):
    """What became of entries: the keys of new ones, how many took another's place, how many gave way to one that
    lasts longer, and the patterns that found their list full."""

    added: list[Key]
    replaced: int
    kept: int
    surplus: list[Entry]


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()


# Lists


def lists(db: sqlite3.Connection) -> list[tuple[int, str, int, int]]:
    """(id, name, created, entries) of each."""
    return db.execute("SELECT id, name, created, entries FROM lists WHERE name IS NOT NULL").fetchall()


def add_list(db: sqlite3.Connection, name: str, now: int) -> tuple[int, str, int, int]:
    """The list of this name, made if there is none."""
    db.execute("INSERT INTO lists (name, created) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, now))
    row: tuple[int, str, int, int] = db.execute(
        "SELECT id, name, created, entries FROM lists WHERE name = ?", (name,)
    ).fetchone()
    return row


def remove_list(db: sqlite3.Connection, name: str) -> int:
    """Takes the name off a list, and with it all that it stops; gives its id.  ``sweep`` takes its entries."""
    id = _ids(db, {name})[name]
    db.execute("UPDATE lists SET name = NULL WHERE id = ?", (id,))
    return id


def remove_lists_of(db: sqlite3.Connection, owner: str) -> list[int]:
    """The same for all lists of "account:ACCOUNT" or "connection:LOGIN"."""
    prefix = owner + "/"
    rows = db.execute("SELECT id FROM lists WHERE substr(name, 1, ?) = ?", (len(prefix), prefix)).fetchall()
    db.executemany("UPDATE lists SET name = NULL WHERE id = ?", rows)
    return [id for (id,) in rows]


def _ids(db: sqlite3.Connection, names: Iterable[str]) -> dict[str, int]:
    """Raises InputError if there is no such list."""
    found: dict[str, int] = {}
    for name in names:
        row = db.execute("SELECT id FROM lists WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise InputError("list", f"there is no list {name!r}")
        found[name] = row[0]
    return found


# Entries


def put(db: sqlite3.Connection, entries: Sequence[Entry]) -> Written:
    """Adds entries.  Of two with the same list, kind and value the one that lasts longer stays, of equals the later.

    So a permanent one is never shortened into a temporary one; who means that, removes it first.
    """
    ids = _ids(db, {entry.list for entry in entries})
    keys = [_key(ids[entry.list], entry.kind, entry.value) for entry in entries]
    lasting = _lasting(db, keys)
    room = {id: MAX_PATTERNS - _patterns(db, id) for id in {key.list for key in keys if key.kind == "pattern"}}
    rows: dict[Key, Row] = {}
    added, surplus, kept = [], [], 0
    for key, entry in zip(keys, entries, strict=True):
        if key in lasting and entry.lasting < lasting[key]:
            kept += 1
            continue
        if key not in lasting:
            if key.kind == "pattern" and not room[key.list]:
                surplus.append(entry)
                continue
            if key.kind == "pattern":
                room[key.list] -= 1
            added.append(key)
        lasting[key] = entry.lasting
        rows[key] = Row(
            key.list, key.value, key.kind, key.mark,
            entry.reason, entry.evidence, entry.added, entry.expires, entry.by,
        )  # fmt: skip
    columns = ", ".join(f"value ->> {n}" for n in range(9))
    db.execute(f"INSERT OR REPLACE INTO entries SELECT {columns} FROM json_each(?)", (_json(list(rows.values())),))
    _count(db, added, 1)
    return Written(added, len(entries) - len(added) - kept - len(surplus), kept, surplus)


def remove(db: sqlite3.Connection, name: str, kind: Kind, value: str) -> tuple[Key, Entry]:
    """Takes an entry out; gives what it was.  Raises InputError."""
    key = _key(_ids(db, {name})[name], kind, value)
    gone = "DELETE FROM entries WHERE list = ? AND value = ? AND kind = ? RETURNING *"
    rows = db.execute(gone, (key.list, value, kind)).fetchall()
    if not rows:
        raise InputError("value", f"{value} is not on the list {name} as {kind}")
    _count(db, [key], -1)
    return key, Row(*rows[0]).entry(name)


def forgive(db: sqlite3.Connection, name: str, address: str) -> list[Key]:
    """Takes out that a mailbox is full, if that is why the address is on the list; gives the keys."""
    row = db.execute("SELECT id FROM lists WHERE name = ?", (name,)).fetchone()
    gone = "DELETE FROM entries WHERE list = ? AND value = ? AND kind = 'address' AND reason = 'full' RETURNING mark"
    marks = db.execute(gone, (row[0], address)).fetchall() if row else []
    keys = [Key(row[0], address, "address", mark) for (mark,) in marks]
    _count(db, keys, -1)
    return keys


def sweep(db: sqlite3.Connection, now: float, most: int) -> list[Key]:
    """Deletes up to ``most`` entries that are over or whose list is removed; gives their keys."""
    over = _taken(db, "expires > 0 AND expires <= ?", "expires, list, value, kind", now, most)
    removed = db.execute("SELECT id FROM lists WHERE name IS NULL LIMIT 1").fetchone()
    if removed is None:
        return over
    orphans = _taken(db, "list = ?", "value, kind", removed[0], most - len(over))
    if not orphans and len(over) < most:
        db.execute("DELETE FROM lists WHERE id = ?", removed)
    return over + orphans


def _key(id: int, kind: Kind, value: str) -> Key:
    return Key(id, value, kind, None if kind == "pattern" else mark(id, value))


def _taken(db: sqlite3.Connection, where: str, order: str, value: float, most: int) -> list[Key]:
    """Deletes the first so many of these entries, in the order of an index; gives their keys."""
    first = f"SELECT list, value, kind, mark FROM entries WHERE {where} ORDER BY {order} LIMIT ?"
    sql = f"SELECT json_group_array(json_array(list, value, kind, mark)) FROM ({first})"
    keys = msgspec.json.decode(db.execute(sql, (value, most)).fetchone()[0], type=list[Key])
    if keys:
        sql = f"SELECT {order} FROM entries WHERE {where} ORDER BY {order} LIMIT 1 OFFSET ?"
        last = db.execute(sql, (value, len(keys) - 1)).fetchone()
        # A range: SQLite would look for a set of keys all over the list.
        db.execute(f"DELETE FROM entries WHERE {where} AND ({order}) <= ({'?, ' * (len(last) - 1)}?)", (value, *last))
        _count(db, keys, -1)
    return keys


def _count(db: sqlite3.Connection, keys: Iterable[Key], sign: int) -> None:
    for id, number in Counter(key.list for key in keys).items():
        db.execute("UPDATE lists SET entries = entries + ? WHERE id = ?", (sign * number, id))


_AT = "e.list = key.value ->> 0 AND e.value = key.value ->> 1 AND e.kind = key.value ->> 2"


def _lasting(db: sqlite3.Connection, keys: Sequence[Key]) -> dict[Key, tuple[bool, int]]:
    """``Entry.lasting`` of those that are there."""
    each = f"SELECT key.key AS n, e.expires FROM json_each(?) AS key CROSS JOIN entries AS e ON {_AT}"
    (text,) = db.execute(f"SELECT json_group_array(json_array(n, expires)) FROM ({each})", (_json(keys),)).fetchone()
    found = msgspec.json.decode(text, type=list[tuple[int, int]])
    return {keys[n]: (expires == 0, expires) for n, expires in found}


def _patterns(db: sqlite3.Connection, id: int) -> int:
    sql = "SELECT count(*) FROM entries WHERE kind = 'pattern' AND list = ?"
    return int(db.execute(sql, (id,)).fetchone()[0])


# Reading


_ALL = "json_array(e.list, e.value, e.kind, e.mark, e.reason, e.evidence, e.added, e.expires, e.author)"


def find(db: sqlite3.Connection, probes: Sequence[Probe]) -> list[list[Row]]:
    """For each question the entries that stop the address: its lists in order, its values in order, then patterns."""
    keys = [
        (id, value, kind, probe.now, n)
        for n, probe in enumerate(probes)
        for id in probe.lists
        for kind, value in probe.values
    ]
    globs = [(id, probe.address, probe.now, n) for n, probe in enumerate(probes) for id in probe.sieved]
    exact = f"""SELECT json_group_array(json_array(key.value ->> 4, {_ALL}))
        FROM json_each(?) AS key CROSS JOIN entries AS e ON {_AT}
        WHERE e.expires = 0 OR e.expires > key.value ->> 3"""
    globbed = f"""SELECT json_group_array(json_array(key.value ->> 3, {_ALL}))
        FROM json_each(?) AS key CROSS JOIN entries AS e INDEXED BY patterns
            ON e.kind = 'pattern' AND e.list = key.value ->> 0
        WHERE key.value ->> 1 GLOB e.value AND (e.expires = 0 OR e.expires > key.value ->> 2)"""
    found: list[list[Row]] = [[] for _ in probes]
    for sql, asked in ((exact, keys), (globbed, globs)):
        (text,) = db.execute(sql, (_json(asked),)).fetchone() if asked else ("[]",)
        for n, row in msgspec.json.decode(text, type=list[tuple[int, Row]]):
            found[n].append(row)
    return found


def page(db: sqlite3.Connection, id: int, prefix: str, after: tuple[str, str], limit: int) -> list[Row]:
    """Up to ``limit`` entries of a list whose value begins with the prefix, after (value, kind), in that order."""
    each = """SELECT * FROM entries WHERE list = ? AND (value, kind) > (?, ?) AND value < ?
        ORDER BY value, kind LIMIT ?"""
    bounds = (id, *max(after, (prefix, "")), prefix + "\U0010ffff", limit)
    (text,) = db.execute(f"SELECT json_group_array({_ALL}) FROM ({each}) AS e", bounds).fetchone()
    return msgspec.json.decode(text, type=list[Row])


def marks(db: sqlite3.Connection) -> "list[array[int]]":
    """The filter's buckets.  SQLite sorts them for seconds before it gives the first; ``db.interrupt`` ends that."""
    buckets = [array("I") for _ in range(BUCKETS)]
    sql = f"SELECT mark >> 32, json_group_array(mark & {LOW}) FROM entries WHERE mark IS NOT NULL GROUP BY 1"
    for bucket, text in db.execute(sql):
        buckets[bucket] = array("I", sorted(msgspec.json.decode(text, type=list[int])))
    return buckets


def patterns(db: sqlite3.Connection) -> dict[int, Patterns]:
    """By list id."""
    sql = "SELECT json_group_array(json_array(list, value)) FROM entries WHERE kind = 'pattern'"
    found: defaultdict[int, Patterns] = defaultdict(Patterns)
    for id, glob in msgspec.json.decode(db.execute(sql).fetchone()[0], type=list[tuple[int, str]]):
        found[id].add(glob)
    return found
