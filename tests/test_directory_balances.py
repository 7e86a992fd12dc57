"""Balances in the directory: a ledger that adds up whatever happens, and units that are granted once."""

import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.directory import Directory
from relayd.directory.balances import MOST, Balances, Grant, Want
from relayd.directory.plans import Plan
from relayd.directory.store import UPGRADES
from relayd.errors import InputError
from relayd.lease import Lease

NOW = 1_764_000_000.0  # 2025-11-24
DECEMBER = 1_764_547_200.0
PLANS = (
    Plan("prepaid", trial_units=50, trial_days=7),
    Plan("pack", units=500),
    Plan("monthly", "monthly", 1000, trial_units=10),
    Plan("open", "monthly", 1000, overage=True, steps=((0, Decimal(0)), (1000, Decimal("0.02")))),
)


def now(call: Callable[[], None]) -> None:
    call()


class Book:
    """A directory with plans, and a spool's lease for each account that only says what is true of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = Directory(path, now, ["crm", "other"], NOW)
        self.changed: list[str] = []
        if not self.all.plans():
            for plan in PLANS:
                self.all.add_plan(plan).result(10)
        self.all.changed = self.changed.append
        self.leases: dict[str, Lease] = {}

    @property
    def all(self) -> Balances:
        return self.directory.balances

    def plan(self, plan: str, account: str = "crm", at: float = NOW, **more: Any) -> None:
        self.all.set_plan(account, plan, now=at, by="alice", **more).result(10)

    def credit(self, units: int, account: str = "crm", at: float = NOW, **more: Any) -> None:
        self.all.credit(account, units, now=at, by="alice", **more).result(10)

    def settle(self, needed: int = 0, wanted: int = 0, account: str = "crm", at: float = NOW) -> Grant:
        told = self.leases.get(account, Lease())
        (grant,) = self.all.settle([Want(account, told, needed, wanted)], at).result(10)
        self.leases[account] = Lease(grant.granted, told.charged, told.refunded, told.returned)
        return grant

    def spool(self, charged: int = 0, refunded: int = 0, returned: int = 0, account: str = "crm") -> None:
        """What happened to the lease meanwhile."""
        g, c, r, b = (getattr(self.leases[account], name) for name in Lease.__struct_fields__)
        self.leases[account] = Lease(g, c + charged, r + refunded, b + returned)

    def ledger(self, account: str = "crm") -> list[tuple[str, int]]:
        """The oldest first."""
        return [(row.kind, row.units) for row in reversed(self.all.movements(account, 100).result(10))]

    def left(self, account: str = "crm") -> int:
        balance = self.all.balance(account)
        assert balance
        return balance.left

    def close(self) -> None:
        self.directory.close()


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(tmp_path / "directory.sqlite")
    yield made
    assert made.all.audit().result(10) == []
    made.close()


def test_an_account_without_a_balance_is_unlimited_until_it_gets_a_plan(book):
    assert book.all.balance("crm") is None
    book.plan("prepaid")
    assert (book.left(), book.all.balance("other")) == (0, None)
    assert book.all.remove("crm", now=NOW, by="alice").result(10).plan == "prepaid"
    assert book.all.balance("crm") is None
    assert book.changed == ["crm", "crm"]


def test_a_credit_tells_by_whom_when_and_why(book):
    book.plan("prepaid")
    book.credit(1000, note="invoice 17")
    book.credit(-200)
    assert book.left() == 800
    rows = book.all.movements("crm", 2).result(10)
    assert [(r.time, r.kind, r.units, r.by, r.note) for r in rows] == [
        (NOW, "debit", -200, "alice", ""),
        (NOW, "credit", 1000, "alice", "invoice 17"),
    ]


def test_units_granted_are_granted_to_nobody_else_and_used_when_they_are_charged(book):
    book.plan("prepaid")
    book.credit(300)
    assert book.settle(wanted=100) == Grant("crm", 100, 200, None)
    assert (book.left(), book.settle(needed=250).there) == (300, 0)
    book.spool(charged=120)
    assert (book.settle().there, book.left()) == (0, 180)
    book.spool(returned=180)
    assert (book.settle().there, book.left()) == (180, 180)
    assert book.ledger() == [("plan", 0), ("credit", 300), ("charge", -120)]


def test_telling_a_lease_again_changes_nothing(book):
    book.plan("prepaid")
    book.credit(300)
    book.settle(wanted=100)
    book.spool(charged=70, refunded=5, returned=9)
    told = [(book.settle(), book.ledger(), book.left()) for _ in range(3)]
    assert told == [told[0]] * 3 and told[0][0].there == 300 - 70 + 5 - 26


def test_near_its_end_a_balance_is_granted_by_halves_unless_somebody_waits(book):
    book.plan("prepaid")
    book.credit(100)
    assert [book.settle(wanted=1000).there for _ in range(4)] == [50, 25, 12, 6]
    assert book.settle(needed=4, wanted=1000).there == 2
    assert book.settle(needed=4).there == 0  # less than that is better than nothing
    assert book.leases["crm"].granted == 100


def test_what_is_charged_and_refunded_is_one_line_a_day(book):
    book.plan("prepaid")
    book.credit(1000)
    book.settle(wanted=1000)
    for at in (NOW, NOW + 60, NOW + 86400):
        book.spool(charged=10, refunded=1)
        book.settle(at=at)
    assert book.ledger()[2:] == [("charge", -20), ("refund", 2), ("charge", -10), ("refund", 1)]


def test_a_period_is_booked_to_its_end_and_then_renews(book):
    book.plan("monthly")
    assert book.settle(wanted=400) == Grant("crm", 400, 600, DECEMBER)
    book.spool(charged=150, returned=250)
    assert book.settle(wanted=100, at=DECEMBER) == Grant("crm", 500, 900, DECEMBER + 31 * 86400)
    assert book.ledger() == [("plan", 1000), ("charge", -150), ("lapse", -850), ("period", 1000)]
    assert (book.left(), book.all.balance("crm").used) == (1000, 0)


def test_units_promised_in_the_last_period_count_in_the_one_they_are_charged_in(book):
    book.plan("monthly")
    book.settle(needed=3)
    assert book.settle(at=DECEMBER).there == 997
    book.spool(charged=3)
    book.settle(at=DECEMBER)
    assert (book.left(), book.all.balance("crm").used) == (997, 3)


def test_overage_is_granted_and_counted(book):
    book.plan("open")
    grant = book.settle(needed=5000)
    book.spool(charged=5000)
    book.settle()
    assert grant.granted == 5000 and (book.left(), book.all.balance("crm").used) == (-4000, 5000)


def test_an_ended_trial_grants_nothing_until_the_account_gets_a_plan(book):
    book.plan("prepaid", trial=True)
    over = NOW + 7 * 86400
    assert book.settle(needed=5) == Grant("crm", 5, 45, over)
    assert book.settle(needed=5, at=over) == Grant("crm", 5, 0, None)
    book.plan("pack", at=over)
    assert book.settle(needed=5, at=over).there == 490
    assert book.ledger() == [("plan", 50), ("lapse", -50), ("plan", 500)]


def test_prepaid_units_go_along_to_a_prepaid_plan_and_lapse_with_any_other(book):
    book.plan("prepaid")
    book.credit(70)
    book.plan("pack")
    assert book.left() == 570
    book.plan("monthly")
    assert book.left() == 1000
    book.plan("prepaid")
    assert book.left() == 0
    assert book.ledger() == [
        ("plan", 0), ("credit", 70), ("plan", 500), ("lapse", -570), ("plan", 1000), ("lapse", -1000), ("plan", 0)
    ]  # fmt: skip


def test_buying_in_an_ended_trial_does_not_bring_its_units_back(book):
    book.plan("prepaid", trial=True)
    book.credit(100, at=NOW + 30 * 86400)
    assert (book.left(), book.all.balance("crm").trial) == (100, False)
    assert book.ledger() == [("plan", 50), ("lapse", -50), ("credit", 100)]


def test_what_an_account_sent_while_it_was_unlimited_is_nobodys_to_pay(book):
    book.plan("prepaid")
    book.credit(100)
    book.settle(wanted=100)
    book.all.remove("crm", now=NOW, by="alice").result(10)
    book.spool(charged=10)
    assert book.settle(needed=5).there == 0
    book.plan("pack")
    book.settle()
    assert book.left() == 500


def test_a_lease_that_no_row_tells_of_is_taken_as_it_is(book):
    """The directory was made anew beside a spool that is older."""
    book.plan("pack")
    book.leases["crm"] = Lease(9000, 8000, 10, 1010)
    assert book.settle(needed=10).granted == 9010
    book.spool(charged=10)
    book.settle()
    assert book.left() == 490


def test_a_directory_older_than_its_spool_learns_what_was_granted_and_charged(book):
    """It came from a backup."""
    book.plan("prepaid")
    book.credit(1000)
    book.settle(wanted=100)
    book.leases["crm"] = Lease(500, 300, 0, 50)
    assert book.settle(needed=10) == Grant("crm", 510, 540, None)
    assert book.left() == 700


def test_a_lease_that_is_behind_is_of_a_new_spool(book):
    book.plan("prepaid")
    book.credit(1000)
    book.settle(wanted=400)
    book.spool(charged=300, returned=50)
    book.settle()
    book.leases["crm"] = Lease(400, 0, 0, 400)  # what the purse makes of it at the start
    assert (book.settle().there, book.left()) == (700, 700)
    book.settle(needed=10)
    book.spool(charged=10)
    assert (book.settle().there, book.left()) == (690, 690)


def test_refunds_are_as_the_payers_plan_says_now(book):
    assert not book.all.refunds("crm", "suppressed", 0)
    book.plan("pack")
    assert book.all.refunds("crm", "suppressed", 0) and not book.all.refunds("crm", "suppressed", 1)


def test_everything_is_there_after_a_restart(book):
    book.plan("open")
    book.settle(wanted=100)
    before = (book.all.plans(), book.all.balances(), book.all.leases, book.ledger())
    assert before[0] == sorted(PLANS, key=lambda plan: plan.name) and before[1] and before[2]
    book.close()
    again = Book(book.path)
    assert (again.all.plans(), again.all.balances(), again.all.leases, again.ledger()) == before
    book.directory = again.directory


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        (lambda b: b.set_plan("crn", "pack", now=NOW, by=""), "account", "there is no account 'crn'"),
        (lambda b: b.set_plan("crm", "none", now=NOW, by=""), "plan", "there is no plan 'none'"),
        (lambda b: b.set_plan("crm", "pack", now=NOW, by="", trial=True), "trial", "has no trial"),
        (lambda b: b.credit("crm", 5, now=NOW, by=""), "account", "crm has no balance: give it a plan"),
        (lambda b: b.credit("other", 0, now=NOW, by=""), "units", "say how many"),
        (lambda b: b.credit("other", MOST, now=NOW, by=""), "units", "that would make more than"),
        (lambda b: b.remove("crm", now=NOW, by=""), "account", "crm has no balance"),
        (lambda b: b.add_plan(Plan("pack")), "name", "there is already a plan 'pack'"),
        (lambda b: b.add_plan(Plan("new", "daily")), "units", "offers at least 1 unit"),
        (lambda b: b.remove_plan("pack"), "name", "other has the plan pack"),
        (lambda b: b.remove_plan("none"), "plan", "there is no plan 'none'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_and_changes_nothing(book, change, field, words):
    book.plan("pack", "other")
    before = book.all.plans(), book.all.balances(), book.ledger("other")
    with pytest.raises(InputError, match=words) as raised:
        change(book.all).result(10)
    assert raised.value.field == field
    assert (book.all.plans(), book.all.balances(), book.ledger("other")) == before


def test_a_plan_that_nobody_has_goes(book):
    assert book.all.remove_plan("open").result(10).name == "open"
    assert book.all.plan("open") is None


def test_a_ledger_that_was_altered_is_named(book, tmp_path):
    book.plan("pack")
    other = sqlite3.connect(tmp_path / "directory.sqlite")
    for sign in (1, -1):
        with other:
            other.execute("UPDATE balances SET used = used + ?", (sign,))
        found = book.all.audit().result(10)
        assert found == (["balance crm: it has 499 units, its ledger adds up to 500"] if sign == 1 else [])
    other.close()


def test_a_directory_of_the_version_before_gets_the_tables(tmp_path):
    path = tmp_path / "old.sqlite"
    db = sqlite3.connect(path)
    db.executescript(f"{UPGRADES[0]}; {UPGRADES[1]}; PRAGMA user_version = 2")
    db.execute("INSERT INTO accounts VALUES ('crm', 'active', 'off', 1)")
    db.commit()
    db.close()
    book = Book(path)
    book.plan("pack")
    assert book.left() == 500
    book.close()


STEP = st.tuples(
    st.sampled_from(["charge", "refund", "return", "grant", "credit", "debit", "plan", "trial", "remove", "month"]),
    st.integers(1, 600),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_after_any_history_the_ledger_adds_up_and_no_unit_is_there_twice(tmp_path_factory, history):
    book = Book(tmp_path_factory.mktemp("book") / "d.sqlite")
    at = NOW
    book.settle()
    for kind, n in history:
        lease = book.leases["crm"]
        try:
            match kind:
                case "charge":
                    book.spool(charged=min(n, lease.left))
                case "refund":
                    book.spool(refunded=min(n, lease.charged - lease.refunded))
                case "return":
                    book.spool(returned=min(n, lease.left))
                case "grant":
                    book.settle(needed=n // 7, wanted=n, at=at)
                case "credit" | "debit":
                    book.credit(n if kind == "credit" else -n, at=at)
                case "plan" | "trial":
                    book.plan(PLANS[n % len(PLANS)].name, at=at, trial=kind == "trial")
                case "remove":
                    book.all.remove("crm", now=at, by="").result(10)
                case "month":
                    at += 31 * 86400
        except InputError:
            pass  # it was refused, and nothing has changed
    grant = book.settle(at=at)
    balance = book.all.balance("crm")
    if balance and not (balance.plan == "open" or balance.trial):
        assert grant.there == max(0, balance.left - book.leases["crm"].left)
    assert book.all.audit().result(10) == []
    book.close()
