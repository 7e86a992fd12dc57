"""Failed logins: guessers wait longer and longer, owners do not, and memory has an end."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.guard import Failures, Guard, Settings

NOW = 1_800_000_000.0
HOME, OTHER = "198.51.100.1", "203.0.113.9"


def fail(guard: Guard, times: int, ip: str = HOME, login: str = "crm-1", now: float = NOW) -> float:
    """So many failures at once, locks or not; gives the last one's delay."""
    return [guard.failed(ip, login, now) for _ in range(times)][-1]


def locks(guard: Guard, failures: int, ip: str = HOME, login: str = "crm-1") -> list[float]:
    """The wait after each failure of a client that tries again as soon as it may."""
    now, waits = NOW, []
    for _ in range(failures):
        guard.failed(ip, login, now)
        waits.append(guard.refuse(ip, login, now))
        now += waits[-1]
    return waits


# Locks.


def test_a_handful_of_failures_is_free_and_each_one_more_doubles_the_lock_up_to_the_longest():
    assert locks(Guard(), 14) == [0.0] * 5 + [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]


def test_failures_of_one_s_own_are_told_from_those_of_others():
    guard = Guard()
    fail(guard, 30, HOME, "crm-1")
    assert guard.refuse(HOME, "ssh", NOW) > 0 and guard.locked(HOME, "ssh", NOW) == 0
    fail(guard, 6, HOME, "ssh")
    assert guard.locked(HOME, "ssh", NOW) == 30 and guard.locked(OTHER, "ssh", NOW) == 0
    assert guard.locked(HOME, "ssh", NOW + 30) == 0


def test_a_lock_ends_at_its_time():
    guard = Guard()
    fail(guard, 6)
    assert guard.refuse(HOME, "crm-1", NOW + 29.9) == pytest.approx(0.1)
    assert guard.refuse(HOME, "crm-1", NOW + 30) == 0


def test_logins_are_counted_by_what_became_of_them():
    guard = Guard()
    fail(guard, 6)
    guard.refuse(HOME, "crm-1", NOW + 1)
    guard.refuse(OTHER, "crm-1", NOW + 1)
    guard.succeeded(OTHER, "crm-1", NOW + 1)
    assert guard.totals == {"succeeded": 1, "failed": 6, "locked": 1} and guard.remembered == 3


def test_a_lock_is_of_that_login_from_that_address():
    guard = Guard()
    fail(guard, 6)
    assert guard.refuse(HOME, "crm-2", NOW) == guard.refuse(OTHER, "crm-1", NOW) == 0


def test_an_address_that_tries_many_logins_is_locked_for_all_of_them():
    guard = Guard()
    for n in range(21):
        assert guard.refuse(HOME, f"login{n}", NOW) == 0
        guard.failed(HOME, f"login{n}", NOW)
    assert guard.refuse(HOME, "never-tried", NOW) == pytest.approx(30) and guard.refuse(OTHER, "login1", NOW) == 0


def test_a_login_that_many_addresses_try_is_locked_for_all_of_them():
    guard = Guard()
    for n in range(101):
        assert guard.refuse(f"10.0.0.{n}", "crm-1", NOW) == 0
        guard.failed(f"10.0.0.{n}", "crm-1", NOW)
    assert guard.refuse(OTHER, "crm-1", NOW) == pytest.approx(30) and guard.refuse(OTHER, "crm-2", NOW) == 0


def test_many_tries_at_once_lock_no_longer_than_one_too_many():
    """A client with a stale password and fifty sessions is not locked for hours."""
    guard = Guard()
    fail(guard, 50)
    assert guard.refuse(HOME, "crm-1", NOW) == pytest.approx(30)


def test_a_window_of_quiet_forgets_what_is_free_and_a_lock_is_no_quiet():
    guard = Guard(Settings(window=600.0, lock=600.0))
    fail(guard, 6)
    fail(guard, 1, now=NOW + 600)
    assert guard.refuse(HOME, "crm-1", NOW + 600) == pytest.approx(1200)
    assert guard.failures(NOW + 1800, 1)[0].failures == 7
    assert guard.failures(NOW + 1800 + 599, 1)[0].failures == 2
    fail(guard, 3, now=NOW + 1800 + 600)
    assert guard.refuse(HOME, "crm-1", NOW + 1800 + 600) == 0
    fail(guard, 1, now=NOW + 1800 + 600)
    assert guard.refuse(HOME, "crm-1", NOW + 1800 + 600) > 0


def test_failures_as_seldom_as_are_free_never_lock():
    guard = Guard()
    for n in range(1000):
        guard.failed(HOME, "crm-1", NOW + n * 3600 / 5)
        assert guard.refuse(HOME, "crm-1", NOW + n * 3600 / 5) == 0


@pytest.mark.parametrize("other", ["2001:db8:1:2:ffff::1", "2001:DB8:1:2::1%eth0"])
def test_an_ipv6_address_counts_as_its_64(other):
    guard = Guard()
    fail(guard, 6, "2001:db8:1:2::1")
    assert guard.refuse(other, "crm-1", NOW) > 0
    assert guard.refuse("2001:db8:1:3::1", "crm-1", NOW) == 0


# Owners.


def test_who_succeeds_begins_anew():
    guard = Guard()
    fail(guard, 5)
    guard.succeeded(HOME, "crm-1", NOW)
    fail(guard, 5)
    assert guard.refuse(HOME, "crm-1", NOW) == 0


def test_an_owner_is_locked_neither_by_guessers_elsewhere_nor_by_neighbours():
    guard = Guard()
    guard.succeeded(HOME, "crm-1", NOW)
    for n in range(110):
        guard.failed(f"10.0.0.{n}", "crm-1", NOW + 1)
    for n in range(30):
        guard.failed(HOME, f"neighbour{n}", NOW + 1)
    assert guard.refuse(HOME, "crm-1", NOW + 2) == 0
    assert guard.refuse(OTHER, "crm-1", NOW + 2) > 0 and guard.refuse(HOME, "crm-2", NOW + 2) > 0


def test_where_an_owner_succeeded_guesses_at_that_login_are_few_all_the_same():
    guard = Guard()
    guard.succeeded(HOME, "crm-1", NOW)
    fail(guard, 6, now=NOW + 1)
    assert guard.refuse(HOME, "crm-1", NOW + 1) == pytest.approx(30)


def test_a_success_of_long_ago_counts_no_more():
    guard = Guard(Settings(remember=1000.0))
    guard.succeeded(HOME, "crm-1", NOW)
    for later, locked in ((999, False), (1001, True)):
        for n in range(101):
            guard.failed(f"10.0.0.{n}", "crm-1", NOW + later)
        assert bool(guard.refuse(HOME, "crm-1", NOW + later)) == locked


def test_one_known_password_clears_neither_the_address_nor_what_others_did_to_the_login():
    guard = Guard()
    for n in range(20):
        guard.failed(HOME, f"login{n}", NOW)
    guard.succeeded(HOME, "mine", NOW)
    guard.failed(HOME, "login20", NOW)
    assert guard.refuse(HOME, "login21", NOW) > 0


# Delays.


def test_each_failure_is_answered_later_than_the_one_before_up_to_the_longest():
    guard = Guard()
    assert [guard.failed(HOME, f"login{n}", NOW) for n in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert guard.failed(OTHER, "somebody", NOW) == 0.5


def test_guesses_at_one_login_from_anywhere_are_slowed_together():
    guard = Guard()
    assert [guard.failed(f"10.0.0.{n}", "crm-1", NOW) for n in range(3)] == [0.5, 1.0, 2.0]


# Time.


def test_a_clock_that_is_set_back_locks_nobody_longer_than_his_lock():
    guard = Guard()
    fail(guard, 1)
    assert guard.refuse(HOME, "crm-1", NOW - 7200) == 0
    fail(guard, 5)
    assert guard.refuse(HOME, "crm-1", NOW - 7200) == 30


_TRIES = st.tuples(st.floats(-100.0, 5000.0), st.sampled_from([HOME, OTHER]), st.sampled_from("ab"), st.booleans())


@given(st.lists(_TRIES, max_size=200), st.builds(Settings, st.integers(1, 3), st.integers(1, 5), st.integers(1, 8)))
def test_whatever_happens_waits_and_delays_stay_within_their_bounds(tries, settings):
    guard, now = Guard(settings, keys=4), NOW
    for step, ip, login, right in tries:
        now += step
        assert 0 <= guard.refuse(ip, login, now) <= settings.longest_lock
        if right:
            guard.succeeded(ip, login, now)
        else:
            assert settings.delay <= guard.failed(ip, login, now) <= settings.longest_delay
        assert all(row.until is None or row.until > now for row in guard.failures(now, 9))


def test_thousands_of_failures_in_a_row_are_counted():
    """No power of two grows beyond what a number holds."""
    guard = Guard(Settings(longest_lock=0.001))
    now = NOW
    for _ in range(5000):
        now += 0.002
        guard.failed(HOME, "crm-1", now)
    assert guard.refuse(HOME, "crm-1", now) == 0.001


# What operators see and do.


def test_the_worst_come_first_with_the_end_of_their_lock():
    guard = Guard()
    fail(guard, 6)
    fail(guard, 2, OTHER, "crm-2")
    assert guard.failures(NOW + 10, 3) == [
        Failures(HOME, "crm-1", 6, NOW + 30),
        Failures(HOME, "", 6, None),
        Failures("", "crm-1", 6, None),
    ]
    assert len(guard.failures(NOW + 10, 50)) == 6 and guard.failures(NOW + 99999, 50) == []


@pytest.mark.parametrize(("who", "keys"), [(HOME, 3), ("crm-1", 3), (OTHER, 2), ("nobody", 0), ("", 0)])
def test_forgiving_an_address_or_a_login_frees_it_and_its_pairs(who: str, keys: int):
    guard = Guard()
    fail(guard, 6)
    fail(guard, 6, HOME, "crm-2")
    fail(guard, 6, OTHER, "crm-1")
    assert guard.forgive(who) == keys
    assert bool(guard.refuse(HOME, "crm-1", NOW)) == (keys < 3)


def test_any_address_of_a_64_forgives_it():
    guard = Guard()
    fail(guard, 6, "2001:db8:1:2::1")
    assert guard.forgive("2001:db8:1:2::ffff") == 2
    fail(guard, 6, "2001:db8:1:2::1")
    assert guard.forgive(guard.failures(NOW, 1)[0].ip) == 2


# Memory.


def test_passing_strangers_push_out_no_lock():
    guard = Guard(keys=1000)
    for n in range(50):
        fail(guard, 6, f"10.0.0.{n}", f"crm-{n}")
    for n in range(5000):
        guard.failed(f"10.1.{n >> 8}.{n & 255}", f"stranger{n}", NOW + 20)
    assert all(guard.refuse(f"10.0.0.{n}", f"crm-{n}", NOW + 20) for n in range(50))
    assert len(guard.failures(NOW + 20, 5000)) == 1000


def test_who_goes_on_failing_is_not_forgotten_for_those_who_come_and_go():
    guard = Guard(keys=10)
    for n in range(21):
        guard.failed(HOME, f"guess{n}", NOW)
    assert guard.refuse(HOME, "anybody", NOW) > 0


def test_even_if_all_keys_are_locks_there_are_no_more_than_there_may_be():
    guard = Guard(keys=10)
    for n in range(100):
        fail(guard, 6, f"10.0.0.{n}", f"crm-{n}")
    assert len(guard.failures(NOW, 1000)) == 10


def test_successes_are_remembered_for_no_more_than_so_many():
    guard = Guard(msgspec.structs.replace(Settings(), failures_per_ip=1), keys=10)
    for n in [*range(10), 0, 10]:
        guard.succeeded(HOME, f"crm-{n}", NOW)
    fail(guard, 2, HOME, "guess")
    assert guard.refuse(HOME, "crm-0", NOW) == 0  # the oldest, but renewed
    assert guard.refuse(HOME, "crm-1", NOW) > 0 and guard.refuse(HOME, "crm-2", NOW) == 0
