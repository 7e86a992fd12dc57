"""Leases in the spool: units that receptions are charged to, in the transaction that keeps them.

Plain functions on a connection: the first three run inside the writer's transaction, the last on a reading one.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable

import msgspec

from relayd.lease import Charge, Lease

ALL = 1 << 60  # more units than any lease has


def charge(connection: sqlite3.Connection, charges: Iterable[Charge]) -> None:
    """Debits leases.  Raises sqlite3.IntegrityError if one has less left than that, or is not there."""
    rows = _summed(charges)
    found = connection.execute(
        "UPDATE lease SET charged = charged + j.value->>1 FROM json_each(?) AS j WHERE account = j.value->>0",
        (_json(rows),),
    )
    if found.rowcount != len(rows):
        raise sqlite3.IntegrityError("a payer has no lease")


def refund(connection: sqlite3.Connection, refunds: Iterable[Charge]) -> None:
    """Gives units back to leases.  Never fails for what it is told: no delivery is kept because of it."""
    connection.execute(
        "INSERT INTO lease (account, refunded) SELECT value->>0, value->>1 FROM json_each(?) WHERE true "
        "ON CONFLICT DO UPDATE SET refunded = refunded + excluded.refunded",
        (_json(_summed(refunds)),),
    )


def settle(rows: list[tuple[str, int, int]]) -> Callable[[sqlite3.Connection], dict[str, Lease]]:
    """A job for the writer.  Of each (account, granted, back): the lease is raised to what the directory granted, gives
    back up to so many units of what it has left, and is told."""

    def job(connection: sqlite3.Connection) -> dict[str, Lease]:
        if not rows:
            return {}
        argument = (_json(rows),)
        connection.execute(
            "INSERT INTO lease (account, granted) SELECT value->>0, value->>1 FROM json_each(?) WHERE value->>1 > 0 "
            "ON CONFLICT DO UPDATE SET granted = max(granted, excluded.granted)",
            argument,
        )
        connection.execute(
            "UPDATE lease SET returned = returned + min(j.value->>2, granted + refunded - charged - returned) "
            "FROM json_each(?) AS j WHERE account = j.value->>0 AND j.value->>2 > 0",
            argument,
        )
        found = _leases(connection, "WHERE account IN (SELECT value->>0 FROM json_each(?))", argument)
        return {account: found.get(account, Lease()) for account, _, _ in rows}

    return job


def lease_today(connection: sqlite3.Connection, account: str, day: int) -> tuple[Lease, int]:
    """An account's lease, and the units it paid for mail of that day (days since 1970), less those refunded."""
    spent = "SELECT sum(iif(term = 'charged', count, -count)) FROM tally WHERE day = ? AND account = ? AND term IN "
    row = connection.execute(
        "SELECT granted, charged, refunded, returned, coalesce((" + spent + "('charged', 'refunded')), 0) "
        "FROM lease WHERE account = ?",
        (day, account, account),
    ).fetchone()
    return (Lease(*row[:4]), row[4]) if row else (Lease(), 0)


def all_leases(connection: sqlite3.Connection) -> dict[str, Lease]:
    return _leases(connection, "", ())


def _leases(connection: sqlite3.Connection, where: str, values: tuple[str, ...]) -> dict[str, Lease]:
    found = connection.execute(
        f"SELECT json_group_array(json_array(account, granted, charged, refunded, returned)) FROM lease {where}", values
    ).fetchone()[0]
    return {account: Lease(*totals) for account, *totals in msgspec.json.decode(found)}


def _summed(charges: Iterable[Charge]) -> list[tuple[str, int]]:
    sums: dict[str, int] = defaultdict(int)
    for one in charges:
        sums[one.payer] += one.units
    return list(sums.items())


def _json(rows: object) -> str:
    return msgspec.json.encode(rows).decode()
