"""Sender domains: which account may send as which domain, and whether the DNS bears it out.

In: registrations, and what checks found.  Out: the state of an (account, domain), a dict look-up for each label.
A domain has one account, the first that registered it; accounts below that one (``lineage``) may use it too.  A domain
without a registration of its own is covered by the nearest one above it.
"""

import heapq
import random
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Literal, Protocol, TypeVar

import msgspec

from relayd.errors import InputError
from relayd.verification import Finding, proved

A = TypeVar("A")
R = TypeVar("R")
State = Literal["unverified", "verified", "failing"]
Lineage = Callable[[str], Sequence[str]]

GRACE = 86400.0  # seconds that a verified domain may fail its checks before it is called failing
AGAIN = 3600.0  # between checks while it does, and while the DNS does not answer
DAILY = 86400.0  # between checks of a verified domain
SOON, LATE = 300.0, 6 * 3600.0  # the shortest and longest wait between checks of others: a quarter of their age
_JITTER = 0.1


class Change(Protocol):
    """``write`` as one transaction on the directory's thread, then ``swap`` of its result on the main thread."""

    def __call__(self, write: Callable[[sqlite3.Connection], A], swap: Callable[[A], R]) -> "Future[R]": ...


class SenderDomain(msgspec.Struct, frozen=True):
    """A registration.  Times are unix seconds: ``since`` of the state, ``checked`` of the last check (0: none yet),
    ``due`` of the next, ``doubt`` of the first failed check since the domain last passed (0: none)."""

    domain: str
    account: str
    state: State = "unverified"
    since: float = 0.0
    checked: float = 0.0
    due: float = 0.0
    doubt: float = 0.0
    findings: tuple[Finding, ...] = ()
    created: float = 0.0

    @property
    def why(self) -> str:
        """The first thing that is wrong with it, "" if nothing is."""
        by_result = {finding.result: finding.text for finding in reversed(self.findings)}
        return by_result.get("fail") or by_result.get("unknown") or ""


def judged(row: SenderDomain, findings: tuple[Finding, ...], now: float, rng: random.Random) -> SenderDomain:
    """The row after a check.  What passes is verified at once.  What was verified and fails is checked hourly, and is
    failing after a day without a check that passed.  What the DNS does not answer changes no state."""
    proof, state, doubt = proved(findings), row.state, row.doubt
    if proof:
        state, doubt = "verified", 0.0
    elif proof is False and state == "verified":
        doubt = doubt or now
        if now - doubt >= GRACE:
            state, doubt = "failing", 0.0
    since = row.since if state == row.state else now
    well = DAILY if proof else AGAIN
    wait = well if state == "verified" else min(max((now - since) / 4, SOON), LATE)
    due = now + wait * rng.uniform(1 - _JITTER, 1 + _JITTER)
    return msgspec.structs.replace(row, state=state, since=since, checked=now, due=due, doubt=doubt, findings=findings)


class Senders:
    """All registrations.  Everything is for the main thread; ``lineage(account)`` is the account and those above it."""

    def __init__(self, change: Change, rows: Iterable[SenderDomain], lineage: Lineage) -> None:
        self._change = change
        self._lineage = lineage
        self._rows = {row.domain: row for row in rows}

    def state(self, account: str, domain: str) -> State | None:
        """What is known of an account's mail from a domain (lower case, A-labels); None: it is not registered."""
        row = self.covering(account, domain)
        return row.state if row else None

    def covering(self, account: str, domain: str) -> SenderDomain | None:
        """The registration that an account's mail from a domain falls under."""
        lineage = self._lineage(account)
        name = domain
        while name:
            row = self._rows.get(name)
            if row is not None and row.account in lineage:
                return row
            name = name.partition(".")[2]
        return None

    def get(self, domain: str) -> SenderDomain | None:
        """The registration of exactly this domain, whoever's it is."""
        return self._rows.get(domain)

    def all(self) -> list[SenderDomain]:
        """By domain."""
        return [self._rows[domain] for domain in sorted(self._rows)]

    def due(self, now: float, wanted: Callable[[SenderDomain], bool], limit: int) -> list[SenderDomain]:
        """Some of those whose time has come, the longest overdue first."""
        rows = (row for row in self._rows.values() if row.due <= now and wanted(row))
        return heapq.nsmallest(limit, rows, key=lambda row: row.due)

    def settle(self, row: SenderDomain) -> "Future[SenderDomain | None]":
        """Keeps what a check found; None if the registration is gone meanwhile, or another took its place."""

        def write(db: sqlite3.Connection) -> SenderDomain | None:
            sql = (
                "UPDATE senders SET state = ?, since = ?, checked = ?, due = ?, doubt = ?, findings = ? "
                "WHERE domain = ? AND account = ? AND created = ?"
            )
            told = row.state, row.since, row.checked, row.due, row.doubt, _stored(row.findings)
            return row if db.execute(sql, (*told, row.domain, row.account, row.created)).rowcount else None

        return self._change(write, lambda kept: self.keep(kept) if kept else None)

    def keep(self, row: SenderDomain) -> SenderDomain:
        self._rows[row.domain] = row
        return row

    def forget(self, domain: str) -> None:
        self._rows.pop(domain, None)


def claim(db: sqlite3.Connection, domain: str, account: str, lineage: Sequence[str], now: float) -> SenderDomain:
    """The registration that an account's domain has or gets, to be checked at once.  Raises InputError."""
    if "." not in domain:
        raise InputError("name", f"{domain!r} is a top-level domain: nobody sends from one")
    if not db.execute("SELECT 1 FROM accounts WHERE name = ?", (account,)).fetchone():
        raise InputError("account", f"there is no account {account!r}")
    row = SenderDomain(domain, account, since=now, created=now)
    db.execute("INSERT INTO senders VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", _values(row))
    (found,) = _rows(db.execute("UPDATE senders SET due = 0 WHERE domain = ? RETURNING *", (domain,)))
    if found.account not in lineage:
        taken = f"{domain} is registered by the account {found.account}; it has to be removed there first"
        raise InputError("name", taken)
    return found


def hasten(db: sqlite3.Connection, domain: str) -> SenderDomain | None:
    """Has a domain, if it is registered, checked soon: its keys are other ones now."""
    rows = _rows(db.execute("UPDATE senders SET due = 0 WHERE domain = ? RETURNING *", (domain,)))
    return rows[0] if rows else None


def delete(db: sqlite3.Connection, domain: str) -> SenderDomain:
    """Takes out a registration with all keys of the domain.  Gives what it was.  Raises InputError."""
    rows = _rows(db.execute("DELETE FROM senders WHERE domain = ? RETURNING *", (domain,)))
    if not rows:
        raise InputError("name", f"the domain {domain} is not registered")
    db.execute("DELETE FROM domains WHERE domain = ?", (domain,))
    return rows[0]


def stored(db: sqlite3.Connection) -> list[SenderDomain]:
    return _rows(db.execute("SELECT * FROM senders"))


def _rows(rows: Iterable[tuple[Any, ...]]) -> list[SenderDomain]:
    return [_row(row) for row in rows]


def _row(row: tuple[Any, ...]) -> SenderDomain:
    domain, account, state, since, checked, due, doubt, findings, created = row
    # RETURNING shows numbers before their columns make them REAL.
    times = float(since), float(checked), float(due), float(doubt)
    found = msgspec.json.decode(findings, type=tuple[Finding, ...])
    return SenderDomain(domain, account, state, *times, found, float(created))


def _values(row: SenderDomain) -> tuple[object, ...]:
    *first, findings, created = msgspec.structs.astuple(row)
    return (*first, _stored(findings), created)


def _stored(findings: tuple[Finding, ...]) -> str:
    return msgspec.json.encode(findings).decode()
