import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.envelope import Steering
from relayd.message.window import parse
from relayd.queue.retry import HINT, JITTER, Schedule, next_try

SCHEDULE = Schedule((300, 600), 3600)


def when(attempts: int, now: float, received: float = 0.0, seed: int = 1) -> float | None:
    return next_try(SCHEDULE, attempts, received, now, random.Random(seed))


@given(st.integers(1, 9), st.floats(0, 2000), st.integers())
def test_waits_follow_the_schedule_within_the_jitter_and_the_last_repeats(n: int, now: float, seed: int) -> None:
    wait = 300 if n == 1 else 600
    due = when(n, now, seed=seed)
    assert due is not None
    assert wait * (1 - JITTER) <= due - now + 1e-6
    assert due - now <= wait * (1 + JITTER) + 1e-6


def test_what_failed_together_does_not_come_back_together() -> None:
    assert len({when(1, 0.0, seed=s) for s in range(50)}) == 50


def test_the_last_attempt_falls_on_the_end_of_its_life() -> None:
    assert when(5, 3500.0) == 3600.0


def test_at_the_end_of_its_life_there_is_no_next_attempt() -> None:
    assert when(5, 3600.0) is None
    assert when(5, 9999.0) is None


@given(st.lists(st.floats(1, 5000), min_size=1, max_size=4), st.floats(1, 90000), st.integers())
def test_every_life_ends(waits: list[float], expire: float, seed: int) -> None:
    rng, schedule = random.Random(seed), Schedule(tuple(waits), expire)
    now: float | None = 0.0
    last, attempts = 0.0, 0
    while now is not None:
        assert last <= now <= expire
        last, attempts = now, attempts + 1
        assert attempts < expire / (min(waits) * (1 - JITTER)) + 3
        now = next_try(schedule, attempts, 0.0, now, rng)
    assert last == expire


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("451 4.7.1 Greylisted, please try again in 600 seconds", 600),
        ("450 try again in 10 minutes", 600),
        ("451 greylisted for 5 minutes", 300),
        ("421 retry in 00:20:00", 1200),
        ("450 wait 1 second", HINT[0]),
        ("450 come back in 99 hours", HINT[1]),
    ],
)
def test_a_time_that_the_server_names_is_kept_within_bounds(said: str, seconds: float) -> None:
    schedule = Schedule((5000,), 1e6)
    for seed in range(20):
        due = next_try(schedule, 1, 0.0, 0.0, random.Random(seed), said)
        assert due is not None
        assert seconds <= due <= seconds * (1 + JITTER)


def test_a_server_that_greylists_without_a_time_is_tried_again_soon_but_not_for_ever() -> None:
    schedule = Schedule((5000,), 1e6, 120)
    waits = [next_try(schedule, n, 0.0, 0.0, random.Random(n), "450 4.2.0 Greylisted") or 0.0 for n in range(1, 9)]
    assert all(120 <= wait <= 120 * (1 + JITTER) for wait in waits[:4])
    assert all(wait >= 5000 * (1 - JITTER) for wait in waits[4:])


@given(st.text(max_size=200))
def test_whatever_a_server_says_the_next_attempt_is_within_the_life(said: str) -> None:
    due = next_try(SCHEDULE, 1, 0.0, 10.0, random.Random(1), said)
    assert due is not None
    assert 10 < due <= 3600


HOUR = 3600.0
THURSDAY = 0.0  # 1970-01-01 00:00 UTC


def steered(steering: Steering, attempts: int, now: float, wait: float = 600, life: float = 86400) -> float | None:
    return next_try(Schedule((wait,), life), attempts, THURSDAY, now, random.Random(1), steering=steering)


def test_a_retry_that_falls_outside_the_window_waits_for_it_to_open() -> None:
    office = Steering(window="09:00-18:00")
    assert steered(office, 1, 18 * HOUR - 1) == 33 * HOUR
    within = steered(office, 1, 10 * HOUR)
    assert within is not None and within < 11 * HOUR


def test_a_delivery_whose_window_opens_no_more_in_its_life_is_over() -> None:
    assert steered(Steering(window="Thu 09:00-18:00"), 1, 18 * HOUR - 1) is None


def test_the_life_of_what_was_to_go_later_begins_then() -> None:
    later = Steering(send_at=50 * HOUR)
    due = steered(later, 1, 50 * HOUR)
    assert due is not None and 50 * HOUR < due < 51 * HOUR
    assert steered(later, 9, 74 * HOUR - 1) == 74 * HOUR
    assert steered(later, 9, 74 * HOUR) is None


def test_a_senders_own_end_comes_first() -> None:
    short = Steering(expire=HOUR)
    assert steered(short, 1, 3500) == HOUR
    assert steered(short, 2, HOUR) is None
    assert steered(Steering(expire=99 * HOUR), 9, 24 * HOUR - 1) == 24 * HOUR


@given(
    st.floats(0, 90 * HOUR),
    st.integers(1, 9),
    st.sampled_from(["Sat 02:00-03:00", "22:00-06:00", "Mon-Fri 09:00-18:00"]),
)
def test_whenever_it_is_tried_again_the_window_is_open_and_it_lives(now: float, attempts: int, window: str) -> None:
    steering = Steering(window=window, send_at=30 * HOUR, expire=80 * HOUR)
    due = steered(steering, attempts, now, life=1000 * HOUR)
    assert due is None or (now < due <= 80 * HOUR and parse(window).is_open(due))
