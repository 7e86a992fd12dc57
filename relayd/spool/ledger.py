"""The audit: proves that every delivery ever received is accounted for, or names the odd ones.

Three tellings of the same history are held against each other, all in one snapshot of the database: the ledger
(``tally``), the rows still in the spool, and the records (totals of the segments plus what is in the outbox).  What the
ledger says was charged to payers is held against their leases.
Only where they disagree are the record files read, to name the deliveries.  And the contents of what is queued must be
where its rows say: in the landing, or in a file of their own.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from relayd.envelope import queue_parts
from relayd.identity import DAY, day_of, read, show
from relayd.lease import Lease
from relayd.records import IN_TERMS, OUT_TERMS, TERM_OF, decode
from relayd.spool.leases import all_leases

Key = tuple[int, str, str]  # day, account, stream
_NAMED = 20  # odd deliveries named per account, stream and day


class Line(msgspec.Struct, frozen=True):
    """The ledger of one account and stream for the mail received on one day."""

    day: str
    account: str
    stream: str
    terms: dict[str, int]
    queued: int


class Audit(msgspec.Struct, frozen=True):
    """``faults`` are sentences, each naming what is odd; empty when all is accounted for.  ``leases`` by payer."""

    clean: bool
    lines: list[Line]
    faults: list[str]
    leases: dict[str, Lease] = {}


def audit(connection: sqlite3.Connection, segments: Path) -> Audit:
    """Audits the spool through a reading connection that nothing else uses meanwhile."""
    connection.execute("BEGIN")
    try:
        tally = _tally(connection)
        queued, misplaced = _queued(connection)
        recorded = _recorded(connection)
        short = _short_segments(connection, segments)
        leases = all_leases(connection)
        faults = misplaced + short + _unpaid(tally, leases)
        lines = []
        odd: dict[Key, None] = dict.fromkeys(sorted({*tally, *queued}) if short else ())
        for key in sorted({*tally, *queued}):
            terms = tally.get(key, {})
            lines.append(Line(_date(key[0]), key[1], key[2], terms, queued.get(key, 0)))
            received = sum(terms.get(t, 0) for t in IN_TERMS)
            gone = sum(terms.get(t, 0) for t in OUT_TERMS)
            if received != gone + queued.get(key, 0):
                faults.append(f"{_name(key)}: {received} came in, but {gone} left and {queued.get(key, 0)} are queued")
                odd[key] = None
        for key in sorted({*tally, *recorded}):
            told, kept = recorded.get(key, {}), tally.get(key, {})
            for term in sorted({*told, *kept}):
                if told.get(term, 0) != kept.get(term, 0):
                    faults.append(
                        f"{_name(key)}: the ledger counts {kept.get(term, 0)} {term}, the records {told.get(term, 0)}"
                    )
                    odd[key] = None
        if odd:
            faults += _odd_ones(connection, segments, set(odd))
        return Audit(not faults, lines, faults, leases)
    finally:
        connection.execute("ROLLBACK")


def _tally(connection: sqlite3.Connection) -> dict[Key, dict[str, int]]:
    return _by_key(connection.execute("SELECT day, account, stream, term, count FROM tally"))


def _recorded(connection: sqlite3.Connection) -> dict[Key, dict[str, int]]:
    """What the records say: sealed and open segments by their totals, the outbox by its entries."""
    return _by_key(
        connection.execute(
            "SELECT day, account, stream, term, sum(count) FROM ("
            "SELECT day, account, stream, term, count FROM segment_total UNION ALL "
            "SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM outbox, json_each(entries)"
            ") GROUP BY 1, 2, 3, 4"
        )
    )


def lost_contents(connection: sqlite3.Connection, landing: Path, bodies: Path) -> list[str]:
    """Files whose messages' rows say that they are there, and that are not, or are short.

    Not in a snapshot: a file goes only once no row names it, so what is missing is asked for again."""
    lost = set(_lost(connection, landing, bodies))
    if lost:
        lost &= set(_lost(connection, landing, bodies))
    return [f"{file} is lost or short, and with it message {show(identity)}" for file, identity in sorted(lost)]


def _lost(connection: sqlite3.Connection, landing: Path, bodies: Path) -> Iterator[tuple[str, int]]:
    """(file, the first message of which it has the content)."""
    for number, identity in connection.execute(
        "SELECT place >> 32, min(id) FROM message WHERE place IS NOT NULL GROUP BY 1"
    ):
        if not (landing / str(number)).exists():
            yield f"{landing.name}/{number}", identity
    for identity, size in connection.execute(
        "SELECT id, size - length(head) FROM message WHERE body IS NULL AND place IS NULL"
    ):
        path = bodies / show(identity)
        if _size(path) != size:
            yield f"{bodies.name}/{path.name}", identity


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _by_key(rows: Iterator[tuple[int, str, str, str, int]]) -> dict[Key, dict[str, int]]:
    found: dict[Key, dict[str, int]] = defaultdict(dict)
    for day, account, stream, term, count in rows:
        found[day, account, stream][term] = count
    return found


def _queued(connection: sqlite3.Connection) -> tuple[dict[Key, int], list[str]]:
    """Deliveries in the spool by ledger key, counted from their rows; and where the queues' own counters differ."""
    found: dict[Key, int] = defaultdict(int)
    queues: dict[str, int] = defaultdict(int)
    rows = connection.execute(
        "SELECT queue, (id >> 20) / ? AS day, count(*) FROM delivery GROUP BY 1, 2", (DAY * 1000,)
    )
    for name, day, count in rows:
        account, stream, *_ = queue_parts(name)
        found[day, account, stream] += count
        queues[name] += count
    counters = dict(connection.execute("SELECT name, count FROM queue"))
    faults = [
        f"queue {name}: its counter says {counters.get(name, 0)}, but {queues.get(name, 0)} deliveries are there"
        for name in sorted({*queues, *counters})
        if counters.get(name, 0) != queues.get(name, 0)
    ]
    orphans = connection.execute(
        "SELECT id FROM delivery WHERE message NOT IN (SELECT id FROM message) LIMIT ?", (_NAMED,)
    ).fetchall()
    faults += [f"delivery {show(identity)} has lost its message" for (identity,) in orphans]
    return found, faults + _aged_wrong(connection) + _recycled_wrong(connection)


def _aged_wrong(connection: sqlite3.Connection) -> list[str]:
    """Queues of which it is not known rightly how old their deliveries are, or how many are held."""
    differ = (
        "SELECT queue FROM (SELECT queue, slot, count, held, 1 AS n FROM aged UNION ALL "
        "SELECT queue, (id >> 20) / 120000, count(*), count(held), -1 FROM delivery GROUP BY 1, 2) "
        "GROUP BY queue, slot HAVING sum(n * count) <> 0 OR sum(n * held) <> 0 LIMIT ?"
    )
    found = dict.fromkeys(name for (name,) in connection.execute(differ, (_NAMED,)))
    return [f"queue {name}: its counts by age are not those of its deliveries" for name in found]


def _recycled_wrong(connection: sqlite3.Connection) -> list[str]:
    """Cancelled deliveries that could not be brought back."""
    lost = connection.execute(
        "SELECT id FROM recycled WHERE message NOT IN (SELECT id FROM message) LIMIT ?", (_NAMED,)
    ).fetchall()
    twice = connection.execute(
        "SELECT id FROM recycled WHERE id IN (SELECT id FROM delivery) LIMIT ?", (_NAMED,)
    ).fetchall()
    faults = [f"cancelled delivery {show(identity)} has lost its message" for (identity,) in lost]
    return faults + [f"delivery {show(identity)} is queued and cancelled at once" for (identity,) in twice]


def _unpaid(tally: dict[Key, dict[str, int]], leases: dict[str, Lease]) -> list[str]:
    """Payers who were charged or refunded other units than the ledger counts."""
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for (_, account, _), terms in tally.items():
        for term in ("charged", "refunded"):
            sums[account, term] += terms.get(term, 0)
    faults = []
    for account in sorted({*leases, *(account for account, _ in sums)}):
        lease = leases.get(account, Lease())
        for term, units in (("charged", lease.charged), ("refunded", lease.refunded)):
            if units != sums[account, term]:
                faults.append(f"payer {account}: the ledger counts {sums[account, term]} {term}, the lease {units}")
    return faults


def _short_segments(connection: sqlite3.Connection, segments: Path) -> list[str]:
    """Files of records that are gone, or shorter than what was moved there."""
    faults = []
    for name, size in connection.execute("SELECT name, bytes FROM segment WHERE bytes > 0 ORDER BY name").fetchall():
        path = segments / name
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            faults.append(f"records {name}: {size - found} of {size} bytes are missing")
    return faults


def _odd_ones(connection: sqlite3.Connection, segments: Path, keys: set[Key]) -> list[str]:
    """Reads the record files and names deliveries of ``keys`` that came in and are nowhere, or left more than once."""
    known: dict[Key, set[int]] = defaultdict(set)
    left: dict[Key, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    here: dict[Key, set[int]] = defaultdict(set)
    for line in _all_lines(connection, segments):
        try:
            record = decode(line)
        except msgspec.DecodeError:
            continue  # a spoilt line names nobody
        if not record.message:
            continue
        message = read(record.message)
        key = (day_of(message), record.account, record.stream)
        if key not in keys:
            continue
        if record.kind == "Reception":
            known[key].update(range(message + 1, message + 1 + len(record.recipients)))
        elif TERM_OF.get(record.kind) in OUT_TERMS:  # what came back later counts nothing
            left[key][read(record.delivery)] += 1
        elif record.kind == "Restoration":
            left[key][read(record.delivery)] -= 1
    for identity, queue in connection.execute("SELECT id, queue FROM delivery"):
        account, stream, *_ = queue_parts(queue)
        here[day_of(identity), account, stream].add(identity)
    faults = []
    for key in sorted(keys):
        came, queued = known[key], here[key]
        gone = {identity: times for identity, times in left[key].items() if times}
        names = [f"{show(i)} is nowhere" for i in sorted(came - queued - set(gone))]
        names += [f"{show(i)} left {n} times" for i, n in sorted(gone.items()) if n > 1]
        names += [f"{show(i)} left and is still queued" for i in sorted(queued & set(gone))]
        names += [f"{show(i)} is queued but was never received" for i in sorted(queued - came)]
        names += [f"{show(i)} left but was never received" for i in sorted(set(gone) - came)]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            faults.append(f"{_name(key)}: {'; '.join(names[:_NAMED])}{more}")
    return faults


def _all_lines(connection: sqlite3.Connection, segments: Path) -> Iterator[bytes]:
    for name, size in connection.execute("SELECT name, bytes FROM segment WHERE bytes > 0 ORDER BY name").fetchall():
        with suppress(FileNotFoundError), open(segments / name, "rb") as file:
            while file.tell() < size and (line := file.readline()):
                yield line
    for (lines,) in connection.execute("SELECT lines FROM outbox ORDER BY seq"):
        yield from lines.splitlines(keepends=True)


def _date(day: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()


def _name(key: Key) -> str:
    return f"{_date(key[0])} {key[1]}/{key[2]}"
