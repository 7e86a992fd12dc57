"""The purse between a real directory and a real spool: quick, bounded, and exact whatever is cut off where."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import purse as room
from relayd.directory.plans import Plan
from relayd.lease import Lease, odd
from tests.purse_kit import Till
from tests.spool_kit import NOW

ROOT = Path(__file__).parent.parent
DECEMBER = 1_764_547_200.0
MONTHLY = Plan("monthly", "monthly", 1000)


@pytest.fixture
def till(tmp_path: Path) -> Iterator[Till]:
    made = Till(tmp_path)
    yield made
    proved(made)
    made.close()


def proved(till: Till) -> None:
    """No store tells what another does not, and no ledger fails to add up."""
    till.rest()
    assert till.faults_found() == []
    spool = till.main.answer(till.spool.audit).leases
    assert odd(till.balances.leases, spool, till.balances.leases) == []


def holding(till: Till) -> list[tuple[Any, Any]]:
    """The spool's answers to the purse from now on, as (whom to tell, what): they are the test's to give."""
    held: list[tuple[Any, Any]] = []
    ask = till.spool.settle_leases
    till.spool.settle_leases = lambda rows, done: ask(rows, lambda leases: held.append((done, leases)))  # type: ignore
    return held


def give(till: Till, held: list[tuple[Any, Any]]) -> None:
    """The next of those answers."""
    till.main.until(lambda: held)
    done, leases = held.pop(0)
    done(leases)


# Reserving


def test_the_first_of_a_payer_asks_the_directory_and_the_next_do_not(till):
    till.give(1000)
    assert till.purse.reserve("crm", 1, till.now) is None
    assert till.accept(3)
    calls = till.calls
    assert [till.purse.reserve("crm", 1, till.now) for _ in range(5)] == [True] * 5
    assert till.calls == calls and till.lease() == Lease(100, 3)


def test_a_unit_is_reserved_in_microseconds(till):
    till.give(1_000_000_000)
    till.asked(100_000)
    till.purse.release("crm", 100_000)
    took = []
    for _ in range(5):  # the least of them: others use the machine as well
        begin = time.process_time()
        for _ in range(2_000):
            till.purse.reserve("crm", 1, till.now)
        took.append(time.process_time() - begin)
    assert min(took) < 2_000 * 20e-6  # 0.3 us where it was measured


def test_every_unit_of_a_balance_can_be_spent_and_not_one_more(till):
    till.give(500)
    while till.accept(7):
        pass
    assert (till.received(), till.accept(3) != (), till.accept(1)) == (497, True, ())
    assert till.purse.reserve("crm", 1, till.now) is False
    assert (till.lease().left, till.book().left) == (0, 0)


def test_who_asks_for_more_than_is_left_is_refused_and_others_are_not(till):
    till.give(10)
    got: list[tuple[int, Any]] = []
    for units in (4, 9, 6):
        till.purse.want("crm", units, till.now, lambda answer, units=units: got.append((units, answer)))
    till.main.until(lambda: len(got) == 3)
    assert got == [(4, True), (9, False), (6, True)]


def test_used_up_is_remembered_and_asked_again_after_a_while(till):
    till.give(1)
    (delivery,) = till.accept(1)
    assert till.asked(1) is False
    calls = till.calls
    assert till.purse.reserve("crm", 1, till.now + 9) is False and till.calls == calls
    till.cancel(delivery)  # its unit is in the spool, and nobody was told
    till.now += room.AGAIN
    assert till.accept(1)


def test_a_credit_takes_effect_at_once(till):
    till.give(1)
    till.accept(1)
    assert till.asked(1) is False
    till.give(5)
    assert till.purse.reserve("crm", 1, till.now) is None
    assert till.accept(5) and not till.accept(1)


def test_a_credit_that_comes_while_the_directory_answers_is_not_overlooked(till):
    till.give(1)
    till.accept(1)
    held = holding(till)
    got: list[Any] = []
    till.purse.want("crm", 1, till.now, got.append)
    give(till, held)
    till.main.until(lambda: held)  # by now the directory has said no
    till.give(5)
    while not got:
        give(till, held)
    assert got == [True]
    till.purse.release("crm", 1)


def test_a_balance_taken_away_leaves_nobody_with_units(till):
    till.give(1000)
    till.accept(1)
    till.done(till.balances.remove("crm", now=till.now, by="test"))
    assert till.asked(1) is False
    assert till.lease().left == 0


def test_released_units_can_be_reserved_again(till):
    till.give(5)
    assert till.asked(5) and till.asked(1) is False
    till.purse.release("crm", 2)
    assert till.asked(2) and till.asked(1) is False


def test_units_reserved_for_a_message_that_the_spool_refuses_are_not_lost(till):
    till.give(5)
    made = till.reception(2)
    assert till._kept(made) is not None  # nothing was reserved: the spool itself refuses
    assert till.asked(2)
    assert till._kept(made) is None
    till.purse.spent("crm", 2)
    assert till.accept(3) and till.received() == 5


def test_payers_do_not_share(till):
    till.give(3)
    till.give(4, "other")
    assert till.accept(3) and not till.accept(1)
    assert till.accept(4, "other")


def test_booking_takes_no_units(till):
    till.give(1000)
    for _ in range(2):
        till.book()
    assert till.lease() == Lease() and till.balances.leases == {"crm": Lease()}


def test_booking_tells_what_was_charged_while_another_round_was_under_way(till):
    till.give(1000)
    till.accept(1)
    held, got = holding(till), []
    till.purse.want("crm", 1, till.now, lambda answer: till.purse.release("crm", 1))
    till.main.until(lambda: held)  # the spool has been asked
    till.accept(5)
    till.purse.want("crm", 0, till.now, got.append)
    while not got:
        give(till, held)
    assert till.balance().used == 6


# Ahead of use


def test_more_is_fetched_before_a_lease_is_used_up(till):
    till.give(100_000)
    till.accept(1)
    for _ in range(100):
        till.now += 0.1
        assert till.purse.reserve("crm", 20, till.now) is True
        assert till._kept(till.reception(20)) is None
        till.purse.spent("crm", 20)
        till.rest()
    assert till.lease().charged == 2001


def test_a_lease_is_as_large_as_the_traffic(till):
    till.give(1_000_000)
    till.accept(1)
    for _ in range(5):
        till.now += 1
        till.accept(100)
        till.rest()
    left = till.purse._pockets["crm"].left
    assert 0.5 * room.AHEAD * 100 <= left <= 1.6 * room.AHEAD * 100


def test_a_lease_that_nobody_uses_returns_and_is_forgotten(till):
    till.give(1000)
    till.accept(1)
    till.purse.tick(till.now + 200)
    till.rest()
    assert till.lease().left == 99
    for seconds in (400, 440):
        till.purse.tick(till.now + seconds)
        till.rest()
    assert till.lease() == Lease(100, 1, 0, 99) and not till.purse._pockets
    assert till.balance().left == 999


def test_nobody_is_refused_because_a_lease_is_just_returning(till):
    till.give(10)
    till.asked(10)
    till.purse.release("crm", 10)  # all of the balance is in the lease
    till.now += room.IDLE - 1
    till.book()
    till.now += 2
    till.purse.tick(till.now)
    assert till.purse._round and till.purse.reserve("crm", 1, till.now) is None
    assert till.accept(10)


def test_a_promise_is_kept_however_long_it_takes(till):
    till.give(1000)
    assert till.asked(3)
    till.now += 4000
    till.purse.tick(till.now)
    till.rest()
    assert till.lease().left == 3
    till.purse.tick(till.now + 40)
    assert till._kept(till.reception(3)) is None
    till.purse.spent("crm", 3)
    assert till.book().left == 997


def test_many_payers_share_a_round(till, monkeypatch):
    monkeypatch.setattr(room, "TOGETHER", 5)
    names = [f"a{n}" for n in range(9)]
    futures = [till.directory.ensure_account(name, now=NOW) for name in names]
    till.give(0, plan=MONTHLY)
    futures += [till.balances.set_plan(name, "monthly", now=NOW, by="test") for name in names]  # type: ignore[misc]
    till.main.until(lambda: all(future.done() for future in futures))
    got: list[Any] = []
    calls = till.calls
    for name in names:
        till.purse.want(name, 1, till.now, got.append)
    till.main.until(lambda: len(got) == 9)
    assert got == [True] * 9
    assert till.calls - calls == 9  # the first one's round, one of five, and the rest


def test_one_who_cannot_take_his_answer_keeps_no_other_from_it(till):
    till.give(10)
    got: list[Any] = []
    till.purse.want("crm", 0, till.now, lambda answer: None)  # the others wait together for the round behind this one
    till.purse.want("crm", 1, till.now, lambda answer: 1 / 0)
    till.purse.want("crm", 1, till.now, got.append)
    with pytest.raises(ExceptionGroup):
        till.main.until(lambda: False)
    assert got == [True] and till.accept(8)


# Periods


def test_a_new_period_begins_with_its_own_units(till):
    till.give(0, plan=MONTHLY)
    while till.accept(50):
        pass
    assert till.received() == 1000
    till.now = DECEMBER - 1
    assert till.asked(1) is False
    till.now = DECEMBER
    assert till.accept(50)
    assert (till.book().left, till.balance().used) == (950, 50)
    assert sum(row.units for row in till.done(till.balances.movements("crm", 99)) if row.kind == "charge") == -1050


def test_a_lease_of_the_last_period_is_not_spent_in_the_next(till):
    till.give(0, plan=Plan("tight", "monthly", 10))
    assert till.accept(1)
    till.now = DECEMBER
    assert till.accept(10) and not till.accept(1)


def test_a_trials_lease_ends_with_it(till):
    till.done(till.balances.add_plan(Plan("try", trial_units=50, trial_days=1)))
    till.done(till.balances.set_plan("crm", "try", now=till.now, trial=True, by="test"))
    assert till.accept(1)
    till.now += 86400
    calls = till.calls
    assert [till.asked(1) for _ in range(4)] == [False] * 4
    assert till.calls - calls == 3  # asked once
    assert till.lease().left == 0


# When a store cannot be asked


def test_a_directory_that_cannot_be_written_is_told_and_asked_again(till, tmp_path):
    till.give(10)
    other = sqlite3.connect(tmp_path / "directory.sqlite")
    other.execute("CREATE TRIGGER full BEFORE INSERT ON leases BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    assert till.asked(1) is None
    assert till.faults == ["balances cannot be asked for: disk full"]
    assert till.asked(1) is None and len(till.faults) == 1
    other.execute("DROP TRIGGER full")
    other.close()
    assert till.asked(1) is True and till.faults[1:] == [None]
    till.purse.release("crm", 1)


def test_a_spool_that_refuses_keeps_what_was_to_return(till):
    till.give(1000)
    till.accept(1)
    ask = till.spool.settle_leases
    till.spool.settle_leases = lambda rows, done: till.main.post(done, sqlite3.IntegrityError("no"))
    till.now += 400
    till.purse.tick(till.now)
    till.rest()
    assert till.faults == ["balances cannot be asked for: no"] and till.lease().left == 99
    till.spool.settle_leases = ask
    assert till.asked(999) is True and till.faults[1:] == [None]
    till.purse.release("crm", 999)


def test_nobody_waits_for_ever(till):
    till.give(10)
    till.pull = (till.calls + 1, False)
    got: list[Any] = []
    for seconds in (0, 5):
        till.purse.want("crm", 1, till.now + seconds, got.append)
    till.purse.tick(till.now + room.PATIENCE - 1)
    assert got == []
    till.purse.tick(till.now + room.PATIENCE)
    assert got == [None]
    till.purse.tick(till.now + room.PATIENCE + 5)
    assert got == [None, None]
    till.crash()


# The end of a run, wherever it comes


def test_a_stop_returns_everything(tmp_path):
    till = Till(tmp_path)
    till.give(1000)
    till.accept(30)
    assert till.asked(5)  # of a session that is cut off
    till.purse.release("crm", 5)
    till.stop()
    till.open()
    assert till.lease() == Lease(100, 30, 0, 70)
    assert till.balance().left == 970
    proved(till)
    till.close()


def test_a_stopping_purse_promises_nothing(till):
    till.give(1000)
    till.accept(1)
    got: list[Any] = []
    till.purse.want("other", 1, till.now, got.append)  # it waits while the stop comes
    till.main.answer(lambda done: till.purse.stop(till.now, lambda: done(True)))
    assert got == [None] and till.lease().left == 0
    assert not till.purse.reserve("crm", 1, till.now)
    till.purse.want("crm", 1, till.now, got.append)
    assert got == [None, None]


def topping_up(till: Till) -> None:
    while not till.out and till.accept(30):
        pass


def returning(till: Till) -> None:
    till.accept(30)
    till.purse.stop(till.now, lambda: None)


def idling(till: Till) -> None:
    till.accept(30)
    till.purse.tick(till.now + 400)


def renewing(till: Till) -> None:
    till.accept(30)
    till.now = DECEMBER
    till.accept(30)


def refunding(till: Till) -> None:
    till.cancel(till.accept(30)[0])
    till.purse.want("crm", 0, till.now, lambda answer: None)


def starting(till: Till) -> None:
    """A crash, and another one while the leases of the first return."""
    till.accept(30)
    till.close()
    pull = till.pull
    till.open()
    till.calls, till.pull = 0, pull and (pull[0] - 3, pull[1])
    till.main.drain()


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize(
    ("run", "step"),
    [(topping_up, step) for step in range(1, 10)]
    + [(run, step) for run in (returning, idling, renewing, refunding, starting) for step in (4, 5, 6)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_crash_at_any_step_between_the_stores_loses_no_unit_and_makes_none(tmp_path, run, step, behind):
    till = Till(tmp_path)
    till.give(0, plan=Plan("plan", "monthly", 400))
    till.rest()
    till.calls, till.pull = 0, (step, behind)
    run(till)
    till.rest()
    till.crash()
    spool = till.lease()
    assert spool.left == 0 and spool == till.balances.leases.get("crm", Lease())
    assert till.received() == spool.charged
    rest = [
        row.units for row in till.done(till.balances.movements("crm", 99)) if row.kind in ("plan", "period", "lapse")
    ]
    assert till.balance().left == sum(rest) - spool.charged + spool.refunded
    proved(till)
    for units in (50, 7, 1):
        while till.accept(units):
            pass
    assert till.book().used == 400
    till.close()


@pytest.mark.parametrize("seed", range(6))
def test_any_history_with_crashes_ends_with_every_unit_accounted_for(tmp_path, seed):
    rng = random.Random(seed)
    till = Till(tmp_path)
    till.give(300)
    till.give(100, "other")
    given = {"crm": 300, "other": 100}
    for _ in range(80):
        account = rng.choice(["crm", "other"])
        match rng.randrange(9):
            case 0:
                given[account] += 50
                till.give(50, account)
            case 1:
                till.now += rng.choice([1, 40, 400])
                till.purse.tick(till.now)
            case 2:
                till.pull = (till.calls + rng.randrange(1, 4), rng.random() < 0.5)
                till.accept(rng.randrange(1, 9), account)
                till.crash()
            case 3:
                (till.stop, till.close)[rng.randrange(2)]()
                till.open()
            case 4 if deliveries := till.accept(2, account):
                till.cancel(deliveries[0], account)
            case _:
                till.accept(rng.randrange(1, 9), account)
    till.rest()
    for account in given:
        balance, lease = till.book(account), till.lease(account)
        assert balance.left == given[account] - lease.charged + lease.refunded >= 0
        assert till.received(account) == lease.charged
    till.crash()
    assert [till.lease(account).left for account in given] == [0, 0]
    proved(till)
    till.close()


LOAD = """
import random, sys
from pathlib import Path
from relayd import purse
from tests.purse_kit import Till
purse.AHEAD, purse.LEAST = 0.02, 30  # many leases in little time
rng = random.Random(int(sys.argv[2]))
till = Till(Path(sys.argv[1]))
till.give(0)
under_way = 0
short = False  # until more is credited

def credited(future):
    global short
    short = False

def begin():
    global under_way
    under_way += 1
    units = rng.randrange(1, 6)
    answer = till.purse.reserve("crm", units, till.now)
    if answer is None:
        till.purse.want("crm", units, till.now, lambda answer: go_on(units, answer))
    else:
        go_on(units, answer)

def go_on(units, answer):
    global under_way, short
    if not answer:
        under_way -= 1
        if answer is False:
            short = True
            till.balances.credit("crm", 200, now=till.now, by="test").add_done_callback(credited)
    elif rng.random() < 0.1:
        till.purse.release("crm", units)
        under_way -= 1
    else:
        reception = till.reception(units)
        till.spool.receive(reception, lambda error: kept(reception, units, error))

def kept(reception, units, error):
    global under_way
    assert error is None
    under_way -= 1
    till.purse.spent("crm", units)
    print(units, flush=True)
    if rng.random() < 0.1:
        line, entries = till.mail.told("Cancellation", reception.deliveries[0])
        till.spool.depart(Departure(reception.deliveries[0], line, entries, None, Charge("crm", 1)))

from relayd.lease import Charge
from relayd.spool import Departure
till.mail.now = till.now = float(sys.argv[3])
while True:
    till.now += 0.001
    till.mail.now = till.now
    while under_way < 40 and not short:
        begin()
    call, args = till.main._calls.get(timeout=20)
    call(*args)
"""


@pytest.mark.parametrize("after", [1, 40, 900])
def test_a_kill_under_load_charges_exactly_what_was_received(tmp_path, after):
    """Three times over on the same stores: each start finds what the last kill left."""
    acknowledged = 0
    for run in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", LOAD, str(tmp_path), str(run), str(NOW + run * 1000)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        told = [next(process.stdout) for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.read().splitlines()[:-1]  # the last line may be cut
        process.wait()
        process.stdout.close()
        acknowledged += sum(map(int, told))
    till = Till(tmp_path)
    till.rest()
    spool = till.lease()
    assert spool.left == 0 and spool == till.balances.leases["crm"]
    assert till.received() == spool.charged >= acknowledged
    credit = sum(row.units for row in till.done(till.balances.movements("crm", 10**6)) if row.kind == "credit")
    assert credit == spool.charged - spool.refunded + till.balance().left
    assert spool.granted + spool.refunded == spool.charged + spool.returned
    proved(till)
    till.close()
