"""What is said against addresses, until it is enough for an entry: plain functions of a connection, each within one
transaction, of many lessons at once (see ``disk``).

In: lessons.  Out: entries where there were strikes enough, and which lessons had been learnt before.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from relayd.identity import lower_bound
from relayd.suppression import disk
from relayd.suppression.entries import Entry

STRUCK = 200_000  # addresses with strikes that memory knows, the newest: a success of theirs is heeded


class Finding(msgspec.Struct, frozen=True):
    """Something said against an address: the entry to be, which takes ``need`` of them within so many seconds of the
    first.  ``late``: not in the session, so that no delivery takes it back: servers that take mail and return it later
    take the next one, too."""

    entry: Entry
    need: int = 1
    within: float = 0.0
    late: bool = False


class Lesson(msgspec.Struct, frozen=True):
    """What follows from one thing heard.  ``once`` is (the delivery, what kind of thing): of one that was heard before
    nothing follows."""

    finding: Finding | None = None
    once: tuple[int, str] | None = None


class Learnt(msgspec.Struct, frozen=True):
    """Of each lesson, whether it was new; the (id, name, created, entries) of lists that have got entries, and what was
    written into them."""

    fresh: list[bool]
    lists: list[tuple[int, str, int, int]]
    written: disk.Written


_Key = tuple[str, str, str, bool]


def learn(db: sqlite3.Connection, lessons: Sequence[Lesson], now: int) -> Learnt:
    """Counts what is new, and makes entries of what is enough, on lists that are made where there are none."""
    fresh = _fresh(db, lessons)
    findings = [lesson.finding for lesson, new in zip(lessons, fresh, strict=True) if new and lesson.finding]
    entries = _enough(db, findings, now)
    lists = [disk.add_list(db, name, now) for name in dict.fromkeys(entry.list for entry in entries)]
    return Learnt(fresh, lists, disk.put(db, entries))


def _fresh(db: sqlite3.Connection, lessons: Sequence[Lesson]) -> list[bool]:
    keys = list(dict.fromkeys(lesson.once for lesson in lessons if lesson.once))
    if not keys:
        return [True] * len(lessons)
    asked = msgspec.json.encode(keys).decode()
    each = "SELECT key.key AS n FROM json_each(?) AS key CROSS JOIN heard AS h ON h.delivery = key.value ->> 0"
    sql = f"SELECT json_group_array(n) FROM ({each} AND h.kind = key.value ->> 1)"
    seen = {keys[n] for n in msgspec.json.decode(db.execute(sql, (asked,)).fetchone()[0], type=list[int])}
    db.execute("INSERT OR IGNORE INTO heard SELECT value ->> 0, value ->> 1 FROM json_each(?)", (asked,))
    fresh = []
    for lesson in lessons:
        fresh.append(lesson.once not in seen)
        if lesson.once:
            seen.add(lesson.once)
    return fresh


def _enough(db: sqlite3.Connection, findings: Sequence[Finding], now: int) -> list[Entry]:
    """The entries of those that are enough; the others are counted."""
    keys = list(dict.fromkeys(_key(finding) for finding in findings if finding.need > 1))
    counts = _counts(db, keys, now) if keys else {}
    entries, touched = [], dict.fromkeys(keys, True)
    for finding in findings:
        key = _key(finding)
        count, until = counts.get(key, (0, int(finding.entry.added + finding.within)))
        counts[key] = count + 1, until
        if count + 1 >= finding.need:
            del counts[key]
            entries.append(finding.entry)
    if touched:
        gone = [key for key in touched if key not in counts]
        kept = [(*key, *counts[key]) for key in touched if key in counts]
        columns = ", ".join(f"value ->> {n}" for n in range(6))
        db.execute(f"INSERT OR REPLACE INTO strikes SELECT {columns} FROM json_each(?)", (_json(kept),))
        db.execute(
            "DELETE FROM strikes WHERE (list, value, reason, late) IN "
            "(SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?))",
            (_json(gone),),
        )
    return entries


def _counts(db: sqlite3.Connection, keys: Sequence[_Key], now: int) -> dict[_Key, tuple[int, int]]:
    each = (
        "SELECT key.key AS n, s.count, s.until FROM json_each(?) AS key CROSS JOIN strikes AS s "
        "ON s.list = key.value ->> 0 AND s.value = key.value ->> 1 AND s.reason = key.value ->> 2 "
        "AND s.late = key.value ->> 3 WHERE s.until > ?"
    )
    sql = f"SELECT json_group_array(json_array(n, count, until)) FROM ({each})"
    found = msgspec.json.decode(db.execute(sql, (_json(keys), now)).fetchone()[0], type=list[tuple[int, int, int]])
    return {keys[n]: (count, until) for n, count, until in found}


def redeem(db: sqlite3.Connection, name: str, value: str) -> tuple[list[disk.Key], bool]:
    """A success: takes back what would pass by itself, of an address and a list: its strikes of sessions, and that its
    mailbox is full.  Gives the keys of entries that went, and whether anything is left against the address."""
    db.execute("DELETE FROM strikes WHERE list = ? AND value = ? AND NOT late", (name, value))
    keys = disk.forgive(db, name, value)
    left = db.execute("SELECT 1 FROM strikes WHERE value = ? AND NOT late LIMIT 1", (value,)).fetchone()
    return keys, left is not None


def struck(db: sqlite3.Connection) -> set[str]:
    """The addresses against which something was said, of too many the newest."""
    each = "SELECT value FROM strikes WHERE NOT late GROUP BY value ORDER BY max(until) DESC LIMIT ?"
    (text,) = db.execute(f"SELECT json_group_array(value) FROM ({each})", (STRUCK,)).fetchone()
    return set(msgspec.json.decode(text, type=list[str]))


def sweep(db: sqlite3.Connection, now: float, remembered: float) -> None:
    """Forgets strikes that are over, and what came back of deliveries received so many seconds ago."""
    db.execute("DELETE FROM strikes WHERE until <= ?", (now,))
    db.execute("DELETE FROM heard WHERE delivery < ?", (lower_bound(now - remembered),))


def _key(finding: Finding) -> _Key:
    return finding.entry.list, finding.entry.value, finding.entry.reason, finding.late


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()
