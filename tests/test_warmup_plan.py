"""The plan of a warm-up: caps as they are written."""

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.warmup import Plan
from relayd.warmup.plan import DAYS, MOST, parse_caps, parse_caps_for, share


def test_caps_are_a_table_or_a_curve():
    assert parse_caps([50, 100, 100, 200]) == (50, 100, 100, 200)
    assert parse_caps({"first": 50, "growth": 1.5, "days": 5}) == (50, 75, 112, 169, 253)


def test_the_plan_written_nowhere_takes_thirty_days_to_a_hundred_thousand():
    assert len(Plan().caps) == 30 and Plan().caps[0] == 50 and 100_000 < Plan().caps[-1] < 101_000


def test_a_group_has_its_own_caps_or_the_plans_and_none_after_its_last_day():
    plan = Plan(caps=(50, 100), caps_for={"gmail": (20, 40, 80)})
    assert [plan.cap("gmail", day) for day in (1, 3, 4)] == [20, 80, inf]
    assert [plan.cap("yahoo", day) for day in (1, 2, 3, 99)] == [50, 100, inf, inf]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], r"are no caps: write \[50, 100, 200\] or \{ first"),
        (50, "are no caps"),
        ([50, 0], "0 is not a whole number, 1 to"),
        ([50, True], "True is not a whole number"),
        ([50, 10**10], "is not a whole number"),
        ([50, 100, 99], "day 3 has 99, less than the day before: caps must rise"),
        ([1] * 367, "has 367 days, 366 are enough"),
        ({"first": 50, "growth": 1.5}, "days is missing: write"),
        ({"first": 50, "growht": 1.5, "days": 5}, "unknown key 'growht' .did you mean \"growth\""),
        ({"first": 50, "growth": 1, "days": 5}, "growth: 1 is not a number above 1"),
        ({"first": 50, "growth": float("nan"), "days": 5}, "growth: nan is not"),
        ({"first": 50, "growth": "2", "days": 5}, "growth: '2' is not"),
        ({"first": 0, "growth": 2, "days": 5}, "first and days: 0 is not"),
        ({"first": 5, "growth": 2, "days": 1000}, "first and days: 1000 is not"),
    ],
)
def test_what_are_no_caps_is_refused_with_a_sentence(value, words):
    with pytest.raises(ValueError, match=words):
        parse_caps(value)


def test_caps_of_a_group_that_are_none_name_the_group():
    with pytest.raises(ValueError, match="gmail: day 2 has 1"):
        parse_caps_for({"gmail": [2, 1]})
    with pytest.raises(ValueError, match=r"is not \{ PROVIDER"):
        parse_caps_for([2, 1])


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.1", True, None, float("nan"), float("inf")])
def test_a_share_is_a_number_from_nothing_to_all(value):
    assert [share(good) for good in (0, 0.02, 1)] == [0.0, 0.02, 1.0]
    with pytest.raises(ValueError, match="is not a share, 0 to 1"):
        share(value)


@given(st.integers(1, MOST), st.floats(1, 10, exclude_min=True), st.integers(1, DAYS))
def test_a_curve_never_falls_and_ends_somewhere(first, growth, days):
    found = parse_caps({"first": first, "growth": growth, "days": days})
    assert len(found) == days and found[0] == first and found[-1] <= MOST
    assert all(one <= other for one, other in pairwise(found))


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["first", "growth", "days"]) | st.text(), inner),
)


@given(_ANY)
def test_whatever_is_written_is_read_or_refused_with_a_sentence(value):
    for parse in (parse_caps, parse_caps_for, share):
        try:
            parse(value)
        except ValueError as fault:
            assert str(fault)
