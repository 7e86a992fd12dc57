"""Quotas: all of what is wanted or nothing of it, with the true seconds; and what is written is what is meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.quotas import Limits, Quotas, Refusal, Usage, Want, parse_limits, show_limits, wants
from relayd.shaping.limits import Rate, rate

NOW = 1_800_000_000.0

CRM = ("account crm", parse_limits({"messages": "10/s", "recipients": ["100/min", "1000/h burst 50"]}))
LOGIN = ("connection crm-1", parse_limits({"recipients": "20/min"}))
FREE = ("stream crm/bulk", Limits())

# Limits as they are written.


def test_limits_are_read_from_one_rate_or_several():
    assert CRM[1] == Limits((Rate(10, 1.0),), (Rate(100, 60.0), Rate(1000, 3600.0, 50)))
    assert parse_limits({}) == parse_limits({"messages": []}) == Limits()
    assert parse_limits({"messages": ["5/m", "5/min"]}) == Limits((Rate(5, 60.0),))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None are no limits: write {"),
        ([], "are no limits"),
        ({"message": "1/s"}, "'message' is no limit: write messages or recipients .*did you mean"),
        ({"messages": "1000"}, "messages: '1000' is not a rate: write"),
        ({"recipients": ["1/s", 5]}, "recipients: 5 is not a rate"),
        ({"recipients": {"h": 5}}, "recipients: .* is not a rate"),
        ({"recipients": None}, "recipients: None is not a rate"),
        ({"recipients": ["1/s"] * 9}, "recipients: 9 rates are too many, 8 are enough"),
    ],
)
def test_what_are_no_limits_is_refused_by_name(value, words):
    with pytest.raises(ValueError, match=words):
        parse_limits(value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.from_regex(r"[0-9]{1,10}/[smhd]( burst [0-9]+)?"),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["messages", "recipients"]) | st.text(), inner),
)


@given(_JSON)
def test_whatever_is_read_as_limits_is_shown_as_it_can_be_read_again(value):
    try:
        limits = parse_limits(value)
    except ValueError as fault:
        assert str(fault)
    else:
        assert parse_limits(show_limits(limits)) == limits


def test_limits_are_shown_as_they_are_written_and_none_as_nothing():
    assert show_limits(CRM[1]) == {"messages": ["10/s"], "recipients": ["100/m", "1000/h burst 50"]}
    assert show_limits(Limits()) == {}


# What one start wants.


def test_a_start_wants_something_only_where_something_is_limited():
    assert [(want.scope, want.count) for want in wants([LOGIN, CRM, FREE], messages=1, recipients=7)] == [
        ("recipients of connection crm-1", 7),
        ("messages of account crm", 1),
        ("recipients of account crm", 7),
    ]
    assert wants([LOGIN, FREE], messages=1) == ()


# Taking.


def recipients(count: int) -> tuple[Want, ...]:
    return wants([LOGIN, CRM], recipients=count)


def test_up_to_the_count_goes_at_once_and_then_evenly():
    quotas, want = Quotas(), wants([LOGIN], recipients=1)
    assert [quotas.take(want, NOW) for _ in range(20)] == [None] * 20
    refusal = quotas.take(want, NOW)
    assert refusal == Refusal("recipients of connection crm-1", rate("20/min"), pytest.approx(3.0))
    assert str(refusal) == "20/m recipients of connection crm-1: the next in 3.0 s"
    assert quotas.take(want, NOW + refusal.wait) is None


def test_of_several_limits_the_one_that_holds_longest_is_named():
    quotas = Quotas()
    assert quotas.take(wants([CRM], recipients=50), NOW) is None
    refusal = quotas.take(recipients(20), NOW)
    assert refusal is not None and (refusal.scope, str(refusal.rate)) == (
        "recipients of account crm",
        "1000/h burst 50",
    )
    assert refusal.wait == pytest.approx(20 * 3.6)


@pytest.mark.parametrize(("wait", "seconds"), [(0.001, 1), (1.0, 1), (1.001, 2), (59.2, 60)])
def test_the_seconds_of_a_reply_are_whole_and_never_too_few(wait: float, seconds: int):
    assert Refusal("x", rate("1/s"), wait).seconds == seconds


def test_what_one_limit_refuses_costs_no_other():
    quotas = Quotas()
    quotas.take(wants([LOGIN], recipients=20), NOW)
    before = quotas.usage(recipients(1), NOW)
    assert quotas.take(recipients(1), NOW) is not None
    assert quotas.usage(recipients(1), NOW) == before


_SCOPES = st.sampled_from([LOGIN, CRM, ("stream crm/bulk", parse_limits({"recipients": ["7/s", "90/min", "400/h"]}))])
_ASKED = st.tuples(
    st.floats(0.0, 60.0), st.lists(_SCOPES, min_size=1, max_size=3, unique_by=lambda of: of[0]), st.integers(1, 120)
)


@given(st.lists(_ASKED, max_size=60))
def test_all_or_nothing_and_never_above_any_rate(asked):
    quotas, now = Quotas(), NOW
    gone: dict[tuple[str, Rate], list[tuple[float, int]]] = {}
    for step, scopes, count in asked:
        now += step
        want = wants(scopes, recipients=count)
        before = quotas.usage(want, now)
        refusal = quotas.take(want, now)
        if refusal is None:
            for one in want:
                for limit in one.rates:
                    gone.setdefault((one.scope, limit), []).append((now, count))
            continue
        assert quotas.usage(want, now) == before
    for (_, limit), taken in gone.items():
        each = limit.period / limit.count
        deepest = max(limit.burst or limit.count, *(count for _, count in taken))
        for i, (start, _) in enumerate(taken):
            for j in range(i, len(taken)):
                total = sum(count for _, count in taken[i : j + 1])
                assert total * each <= deepest * each + taken[j][0] - start + 1e-4


@given(st.lists(_ASKED, min_size=1, max_size=30))
def test_who_waits_for_all_limits_is_taken_and_not_a_microsecond_earlier(asked):
    quotas, now = Quotas(), NOW
    for step, scopes, count in asked:
        now += step
        want = wants(scopes, recipients=count)
        refusal = quotas.take(want, now)
        if refusal is not None:
            assert refusal.wait < 2e-6 or quotas.take(want, now + refusal.wait - 1e-6) is not None
            now += refusal.wait
            assert quotas.take(want, now) is None


def test_what_is_given_back_can_be_taken_again():
    quotas = Quotas()
    assert quotas.take(recipients(20), NOW) is None
    quotas.give_back(recipients(5), NOW, NOW)
    assert quotas.take(recipients(6), NOW) is not None
    assert quotas.take(recipients(5), NOW) is None


def test_giving_back_what_nobody_took_makes_nothing():
    quotas = Quotas()
    quotas.give_back(recipients(500), NOW, NOW)
    assert len(quotas) == 0
    assert quotas.take(recipients(20), NOW) is None and quotas.take(recipients(1), NOW) is not None


def test_a_changed_rate_begins_full_and_one_that_stays_goes_on():
    quotas = Quotas()
    quotas.take([Want("x", (rate("10/d"), rate("5/h")), 5)], NOW)
    changed = (rate("10/d"), rate("9/h"))
    assert [row.left for row in quotas.usage([Want("x", changed)], NOW)] == [5, 9]
    assert quotas.take([Want("x", changed, 6)], NOW).rate == rate("10/d")
    assert quotas.take([Want("x", (), 6)], NOW) is None


def test_what_was_taken_under_an_old_rate_is_not_given_back_under_a_new_one():
    quotas = Quotas()
    old, new = [Want("x", (rate("10/d"),), 10)], [Want("x", (rate("20/d"),), 20)]
    assert quotas.take(old, NOW) is None and quotas.take(new, NOW) is None
    quotas.give_back(old, NOW, NOW)
    assert [row.left for row in quotas.usage(new, NOW)] == [0]


def test_usage_tells_how_much_is_left_and_when_all_of_it_will_be():
    quotas, want = Quotas(), wants([CRM], recipients=1)
    quotas.take(wants([CRM], recipients=30), NOW)
    assert quotas.usage(want, NOW) == [
        Usage("recipients of account crm", "100/m", 70, 100, pytest.approx(18.0)),
        Usage("recipients of account crm", "1000/h burst 50", 20, 50, pytest.approx(108.0)),
    ]
    assert [row.left for row in quotas.usage(want, NOW + 108)] == [100, 50]


# Memory.


def test_full_buckets_are_forgotten_and_those_in_use_are_not():
    quotas = Quotas()
    slow = wants([("account slow", parse_limits({"messages": "1/d"}))], messages=1)
    assert quotas.take(slow, NOW) is None
    limits = parse_limits({"messages": "10/s"})
    for n in range(1000):
        quotas.take(wants([(f"account {n}", limits)], messages=1), NOW + n)
        assert len(quotas) < 5
    assert quotas.take(slow, NOW + 1000) is not None


def test_there_are_never_more_scopes_than_there_may_be():
    quotas, limits = Quotas(scopes=10), parse_limits({"messages": "1/d"})
    for n in range(100):
        quotas.take(wants([(f"account {n}", limits)], messages=1), NOW)
        assert len(quotas) <= 10
