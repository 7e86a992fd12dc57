"""Balances: what accounts may still send and what they have used, as rows of the directory, and the ledger of it.

In: credits, plans, and what a spool's leases say (``relayd.lease``).  Out: units granted to the spool, and counters.
An account without a balance is unlimited.  The movements of an account add up to what its balance has left; what is
granted and not yet charged counts as left, and is granted to nobody else.
"""

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from decimal import Decimal
from typing import Any, Protocol, TypeVar

import msgspec

from relayd.directory import plans
from relayd.directory.plans import Balance, Plan
from relayd.errors import InputError
from relayd.lease import Lease

A = TypeVar("A")
R = TypeVar("R")

_DAY = 86400
_HOUSE = "relayd"  # who moved units, where nobody in particular did
MOST = 10**15 - 1  # units: far from what a column, a float or a JSON number can hold


class Want(msgspec.Struct, frozen=True):
    """What a spool wants of a payer's balance: his lease as it is there, the units that somebody waits for, and those
    that it would like to have in hand."""

    account: str
    lease: Lease
    needed: int
    wanted: int


class Grant(msgspec.Struct, frozen=True):
    """The answer: all that was granted to the lease so far, what is still there behind it, and until when that holds
    (None: until somebody changes the balance)."""

    account: str
    granted: int
    there: int
    until: float | None


class Movement(msgspec.Struct, frozen=True):
    """One line of an account's ledger.  Kinds: plan, period, credit, refund add units; charge, debit, lapse take."""

    time: float
    kind: str
    units: int
    by: str
    note: str


class Change(Protocol):
    """``Directory._change``."""

    def __call__(self, write: Callable[[sqlite3.Connection], A], swap: Callable[[A], R], /) -> "Future[R]": ...


class Balances:
    """For the main thread, like the Directory it belongs to: reads are look-ups, changes give a Future.
    ``changed(account)`` is called when somebody has changed what an account has; spools must ask again then."""

    def __init__(self, db: sqlite3.Connection, change: Change, run: Change) -> None:
        """``run``: a job that changes nobody's rights, and costs nobody what he knows of the directory."""
        self._change = change
        self._run = run
        self.changed: Callable[[str], None] = lambda account: None
        self._plans = {plan.name: plan for plan in map(_plan, db.execute("SELECT * FROM plans"))}
        self._balances = {row.account: row for row in map(_balance, db.execute("SELECT * FROM balances"))}
        self.leases = {account: Lease(*totals) for account, *totals in db.execute("SELECT * FROM leases")}

    def plan(self, name: str) -> Plan | None:
        return self._plans.get(name)

    def plans(self) -> list[Plan]:
        return sorted(self._plans.values(), key=lambda plan: plan.name)

    def balance(self, account: str) -> Balance | None:
        """None: the account is unlimited."""
        return self._balances.get(account)

    def balances(self) -> list[Balance]:
        return sorted(self._balances.values(), key=lambda balance: balance.account)

    def refunds(self, payer: str, term: str, attempts: int) -> bool:
        """``plans.refunds`` by the plan that the payer has now."""
        balance = self._balances.get(payer)
        return balance is not None and plans.refunds(self._plans[balance.plan], term, attempts)

    def add_plan(self, plan: Plan) -> "Future[Plan]":
        plans.checked(plan)

        def write(db: sqlite3.Connection) -> Plan:
            sql = "INSERT INTO plans VALUES (?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
            if not db.execute(sql, _plan_row(plan)).rowcount:
                raise InputError("name", f"there is already a plan {plan.name!r}")
            return plan

        def keep(plan: Plan) -> Plan:
            self._plans[plan.name] = plan
            return plan

        return self._change(write, keep)

    def remove_plan(self, name: str) -> "Future[Plan]":
        """Gives what was removed.  A plan that somebody has stays."""

        def write(db: sqlite3.Connection) -> Plan:
            plan = _plan_named(db, name)
            users = db.execute("SELECT account FROM balances WHERE plan = ? LIMIT 1", (name,)).fetchone()
            if users:
                raise InputError("name", f"{users[0]} has the plan {name}: give it another one first")
            db.execute("DELETE FROM plans WHERE name = ?", (name,))
            return plan

        return self._change(write, lambda plan: self._plans.pop(plan.name))

    def set_plan(
        self, account: str, plan: str, *, now: float, trial: bool = False, by: str, note: str = ""
    ) -> "Future[Balance]":
        """Begins a plan's first period, or its trial, at once."""

        def write(db: sqlite3.Connection) -> Balance:
            if not db.execute("SELECT 1 FROM accounts WHERE name = ?", (account,)).fetchone():
                raise InputError("account", f"there is no account {account!r}")
            chosen = _plan_named(db, plan)
            fresh = plans.tried(account, chosen, now) if trial else plans.begun(account, chosen, now)
            old = _renewed(db, account, now)
            along = old.left if old and plans.prepaid(old) and plans.prepaid(fresh) else 0
            if old:
                _move(db, account, "lapse", along - old.left, now, _HOUSE, f"{old.plan} ended")
            _move(db, account, "plan", fresh.left, now, by, note or (f"{plan}, trial" if trial else plan))
            return _kept(db, msgspec.structs.replace(fresh, units=fresh.units + along))

        return self._change(write, self._told)

    def credit(self, account: str, units: int, *, now: float, by: str, note: str = "") -> "Future[Balance]":
        """Adds units, or takes away."""
        if not 0 < abs(units) <= MOST:
            raise InputError("units", f"say how many, 1 to {MOST}")

        def write(db: sqlite3.Connection) -> Balance:
            old = _renewed(db, account, now)
            if old is None:
                raise InputError("account", f"{account} has no balance: give it a plan with balance set-plan")
            fresh = plans.credited(old, _plan_named(db, old.plan), units, now)
            if abs(fresh.left) > MOST:
                raise InputError("units", f"that would make more than {MOST}")
            if lapsed := old.left + units - fresh.left:
                _move(db, account, "lapse", -lapsed, now, _HOUSE, "the trial was over")
            _move(db, account, "credit" if units > 0 else "debit", units, now, by, note)
            return _kept(db, fresh)

        return self._change(write, self._told)

    def remove(self, account: str, *, now: float, by: str) -> "Future[Balance]":
        """The account is unlimited from now on.  Gives what it had."""

        def write(db: sqlite3.Connection) -> Balance:
            old = _renewed(db, account, now)
            if old is None:
                raise InputError("account", f"{account} has no balance")
            _move(db, account, "lapse", -old.left, now, by, "removed")
            db.execute("DELETE FROM balances WHERE account = ?", (account,))
            return old

        def forget(old: Balance) -> Balance:
            self._balances.pop(account, None)
            self.changed(account)
            return old

        return self._change(write, forget)

    def movements(self, account: str, limit: int) -> "Future[list[Movement]]":
        """The last so many, the latest first."""

        def read(db: sqlite3.Connection) -> list[Movement]:
            sql = "SELECT time, kind, units, by, note FROM movements WHERE account = ? ORDER BY id DESC LIMIT ?"
            return [Movement(*row) for row in db.execute(sql, (account, limit))]

        return self._run(read, lambda rows: rows)

    def audit(self) -> "Future[list[str]]":
        """Sentences that name the balances whose movements do not add up."""

        def read(db: sqlite3.Connection) -> list[str]:
            rows = db.execute(
                "SELECT account, units - used AS left, "
                "(SELECT coalesce(sum(m.units), 0) FROM movements AS m WHERE m.account = b.account) AS moved "
                "FROM balances AS b WHERE left <> moved ORDER BY account"
            )
            return [f"balance {a}: it has {left} units, its ledger adds up to {moved}" for a, left, moved in rows]

        return self._run(read, lambda faults: faults)

    def settle(self, wants: list[Want], now: float) -> "Future[list[Grant]]":
        """Books what the spool's leases say, renews what is over, and grants, all as one transaction."""

        def write(db: sqlite3.Connection) -> list[tuple[Grant, Lease, Balance | None]]:
            return [_settled(db, want, now) for want in wants]

        def keep(rows: list[tuple[Grant, Lease, Balance | None]]) -> list[Grant]:
            for grant, lease, balance in rows:
                self.leases[grant.account] = lease
                if balance:
                    self._balances[grant.account] = balance
            return [grant for grant, _, _ in rows]

        return self._run(write, keep)

    def _told(self, balance: Balance) -> Balance:
        self._balances[balance.account] = balance
        self.changed(balance.account)
        return balance


def _settled(db: sqlite3.Connection, want: Want, now: float) -> tuple[Grant, Lease, Balance | None]:
    account, told = want.account, want.lease
    row = db.execute("SELECT * FROM leases WHERE account = ?", (account,)).fetchone()
    # What is seen for the first time was charged before this directory was made; with less than before, it is a new
    # spool.  Neither is anything to book.
    known = Lease(*row[1:]) if row else told
    charged, refunded = max(0, told.charged - known.charged), max(0, told.refunded - known.refunded)
    found = db.execute("SELECT * FROM balances WHERE account = ?", (account,)).fetchone()
    granted = max(told.granted, known.granted)
    if found is None:
        balance, there = None, 0
    else:
        balance = _booked(db, _balance(found), charged, refunded, now)
        leased = msgspec.structs.replace(told, granted=granted).left
        there = plans.available(balance, _plan_named(db, balance.plan), leased, now)
    # Half of what is there at most, unless somebody waits for more: near its end a balance is not all in one hand.
    given = min(there, max(want.needed, min(want.wanted, (there + 1) // 2)))
    lease = msgspec.structs.replace(told, granted=granted + given)
    db.execute("INSERT OR REPLACE INTO leases VALUES (?,?,?,?,?)", (account, *msgspec.structs.astuple(lease)))
    until = balance.until if balance and not balance.over(now) else None
    return Grant(account, lease.granted, there - given, until), lease, balance


def _booked(db: sqlite3.Connection, balance: Balance, charged: int, refunded: int, now: float) -> Balance:
    """What was used goes to the period that it was used in, before the next one begins."""
    account, day = balance.account, now // _DAY * _DAY
    for kind, units in (("charge", -charged), ("refund", refunded)):
        if units:
            db.execute(
                "INSERT INTO movements (account, time, kind, units, by, note) VALUES (?,?,?,?,?,'') "
                "ON CONFLICT (account, kind, time) WHERE kind IN ('charge', 'refund') "
                "DO UPDATE SET units = units + excluded.units",
                (account, day, kind, units, _HOUSE),
            )
    if charged or refunded:
        balance = _kept(db, msgspec.structs.replace(balance, used=balance.used + charged - refunded))
    return _next(db, balance, now)


def _renewed(db: sqlite3.Connection, account: str, now: float) -> Balance | None:
    found = db.execute("SELECT * FROM balances WHERE account = ?", (account,)).fetchone()
    return _next(db, _balance(found), now) if found else None


def _next(db: sqlite3.Connection, old: Balance, now: float) -> Balance:
    """The balance as it is now."""
    fresh = plans.current(old, _plan_named(db, old.plan), now)
    if fresh is old:
        return old
    _move(db, old.account, "lapse", -old.left, now, _HOUSE, "the period is over")
    _move(db, old.account, "period", fresh.left, now, _HOUSE, fresh.plan)
    return _kept(db, fresh)


def _move(db: sqlite3.Connection, account: str, kind: str, units: int, now: float, by: str, note: str) -> None:
    if units or kind == "plan":
        sql = "INSERT INTO movements (account, time, kind, units, by, note) VALUES (?,?,?,?,?,?)"
        db.execute(sql, (account, now, kind, units, by, note))


def _kept(db: sqlite3.Connection, balance: Balance) -> Balance:
    db.execute("INSERT OR REPLACE INTO balances VALUES (?,?,?,?,?,?,?)", msgspec.structs.astuple(balance))
    return balance


def _balance(row: tuple[Any, ...]) -> Balance:
    account, plan, trial, *rest = row
    return Balance(account, plan, bool(trial), *rest)


def _plan_named(db: sqlite3.Connection, name: str) -> Plan:
    row = db.execute("SELECT * FROM plans WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise InputError("plan", f"there is no plan {name!r}")
    return _plan(row)


def _plan(row: tuple[Any, ...]) -> Plan:
    name, renews, units, overage, steps, trial_units, trial_days, low, refunds, created = row
    prices = msgspec.json.decode(steps, type=tuple[tuple[int, Decimal], ...])
    terms = msgspec.json.decode(refunds, type=tuple[str, ...])
    return Plan(name, renews, units, bool(overage), prices, trial_units, trial_days, low, terms, created)


def _plan_row(plan: Plan) -> tuple[Any, ...]:
    name, renews, units, overage, steps, trial_units, trial_days, low, refunds, created = msgspec.structs.astuple(plan)
    stored = (msgspec.json.encode(steps).decode(), msgspec.json.encode(refunds).decode())
    return (name, renews, units, overage, stored[0], trial_units, trial_days, low, stored[1], created)
