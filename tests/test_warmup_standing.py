"""A day's verdict: on, held, back, or nothing; and what is told of it."""

import pytest

from relayd.warmup import Plan, Standing, state, upcoming
from relayd.warmup.standing import PAUSE, turn
from tests.warmup_kit import TODAY

PLAN = Plan(caps=(50, 100, 200, 400))


def standing(**fields: object) -> Standing:
    return Standing("t9", "gmail", **{"day": 2, "date": TODAY, "sent": TODAY, **fields})  # type: ignore[arg-type]


def turned(one: Standing, days: int = 1, plan: Plan = PLAN) -> Standing:
    turn(one, plan, one.date + days)
    return one


@pytest.mark.parametrize(
    ("fields", "day", "note"),
    [
        ({"used": 50, "delivered": 50}, 3, ""),
        ({"used": 49, "delivered": 49}, 2, ""),
        ({"used": 45, "over": 5, "delivered": 49}, 3, ""),
        ({"used": 100, "delivered": 90, "deferred": 10}, 3, ""),
        ({"used": 100, "delivered": 89, "deferred": 11}, 2, "held on Oct 04: 11 of 100 were deferred, more than 10 %"),
        ({"used": 100, "delivered": 98, "blocked": 2}, 3, ""),
        ({"used": 100, "delivered": 97, "blocked": 3}, 1, "went back on Oct 04: 3 of 100 were blocked, more than 2 %"),
        (
            {"used": 100, "delivered": 100, "complaint": 2},
            1,
            "went back on Oct 04: 2 of 100 were complained about, more than 0.1 %",
        ),
        ({"used": 100, "delivered": 40, "other": 60}, 3, ""),
        ({"used": 100, "delivered": 80, "deferred": 17, "blocked": 3}, 1, "went back on Oct 04: 3 of 100 were blocked"),
        ({"used": 20, "delivered": 10, "blocked": 10}, 1, "went back on Oct 04: 10 of 20 were blocked"),
        ({"used": 0, "note": "held on Oct 01: x"}, 2, "held on Oct 01: x"),
    ],
)
def test_a_day_is_judged_by_its_outcomes_and_counts_if_half_of_its_cap_went(fields, day, note):
    after = turned(standing(**fields))
    assert after.day == day and after.note.startswith(note) and bool(after.note) == bool(note)
    assert (after.date, after.used, after.over) == (TODAY + 1, 0, 0)


def test_a_single_bad_outcome_proves_nothing():
    assert turned(standing(used=50, delivered=49, blocked=1)).day == 3
    assert turned(standing(used=50, delivered=50, complaint=1)).day == 3


def test_the_plan_never_goes_back_beyond_its_first_day():
    assert turned(standing(day=1, used=50, delivered=25, blocked=25)).day == 1


def test_too_few_attempts_judge_nothing_but_are_judged_with_the_next_ones():
    one = turned(standing(used=10, delivered=9, blocked=10 - 9), plan=PLAN)
    assert (one.day, one.attempts) == (2, 10)
    one.used, one.delivered, one.blocked = 9, 17, 2
    assert (turned(one).day, one.attempts) == (2, 19)
    one.delivered += 1
    assert (turned(one).day, one.attempts) == (1, 0)


def test_a_full_day_with_too_few_attempts_to_judge_moves_on():
    plan = Plan(caps=(5, 10, 20))
    assert turned(standing(day=1, used=5, delivered=1, blocked=4), plan=plan).day == 2


def test_a_day_that_was_stopped_goes_back_whatever_came_after():
    one = turned(standing(used=60, delivered=300, blocked=2, stopped=True, note="2 of 21 were blocked"))
    assert (one.day, one.stopped, one.attempts) == (1, False, 0)
    assert one.note == "went back on Oct 04: 2 of 21 were blocked"


@pytest.mark.parametrize(("idle", "day"), [(PAUSE, 4), (PAUSE + 1, 3), (PAUSE + 7, 3), (PAUSE + 8, 2), (400, 1)])
def test_a_pause_of_over_two_weeks_takes_a_day_back_for_each_week_begun(idle, day):
    assert turned(standing(day=4), idle + 1).day == day


def test_a_pause_takes_as_much_however_often_it_is_looked_at():
    one = standing(day=4)
    for _ in range(PAUSE + 8 + 1):
        turned(one)
    assert (one.day, one.note) == (2, "went back on Oct 27: nothing was sent for over 14 days")


def test_who_is_warm_is_judged_no_more_but_a_pause_takes_him_back_into_the_plan():
    warm = turned(standing(day=5, used=10_000, delivered=1, blocked=99))
    assert (warm.day, warm.note, state(warm, PLAN)) == (5, "", "warm")
    assert turned(warm, PAUSE + 2).day == 4


def test_the_last_day_leads_to_warm():
    one = standing(day=4, used=200)
    assert upcoming(one, PLAN) == "warm"
    assert (state(turned(one), PLAN), upcoming(one, PLAN)) == ("warm", "")


@pytest.mark.parametrize(
    ("fields", "now", "then"),
    [
        ({"used": 50}, "advancing", "day 3"),
        ({"used": 20}, "advancing", "day 2 again, day 3 if 30 more go today"),
        ({"used": 20, "delivered": 10, "deferred": 10}, "will be held: 10 of 20 were deferred", "day 2 again"),
        ({"used": 80, "delivered": 70, "blocked": 10}, "will go back: 10 of 80 were blocked", "day 1, back"),
        ({"stopped": True, "note": "9 of 20 were blocked"}, "stopped until Oct 05 00:00 UTC: 9 of 20", "day 1, back"),
        ({"note": "held on Oct 01: x", "used": 50}, "held on Oct 01: x", "day 3"),
    ],
)
def test_how_it_goes_and_what_comes_next_is_told(fields, now, then):
    one = standing(**fields)
    before = str(one)
    assert state(one, PLAN).startswith(now)
    assert upcoming(one, PLAN) == then
    assert str(one) == before
