"""Plans: periods, prices and refunds as functions of values and time."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from relayd.directory import plans
from relayd.directory.plans import BOUNDLESS, Balance, Plan
from relayd.errors import InputError

MONTHLY = Plan("monthly", "monthly", 1000)
PREPAID = Plan("prepaid", trial_units=50, trial_days=7)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-01-31T12:00")


@pytest.mark.parametrize(
    ("renews", "now", "since", "until"),
    [
        ("daily", "2026-01-31T23:59:59", "2026-01-31", "2026-02-01"),
        ("daily", "2026-02-01T00:00:00", "2026-02-01", "2026-02-02"),
        ("monthly", "2026-01-31T23:59:59", "2026-01-01", "2026-02-01"),
        ("monthly", "2026-02-01T00:00:00", "2026-02-01", "2026-03-01"),
        ("monthly", "2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
        ("monthly", "2026-12-31T12:00:00", "2026-12-01", "2027-01-01"),
    ],
)
def test_periods_are_days_and_months_of_utc(renews, now, since, until):
    assert plans.period(renews, at(now)) == (at(since), at(until))


@given(st.floats(0, 4e9), st.sampled_from(["daily", "monthly"]))
def test_every_moment_is_in_its_period_and_the_next_begins_where_it_ends(now, renews):
    since, until = plans.period(renews, now)
    assert since <= now < until
    assert plans.period(renews, until)[0] == until


def test_a_new_plan_has_all_its_units_until_the_calendars_period_ends():
    assert plans.begun("crm", MONTHLY, NOON) == Balance("crm", "monthly", False, NOON, at("2026-02-01"), 1000)
    assert plans.begun("crm", PREPAID, NOON) == Balance("crm", "prepaid", False, NOON, None, 0)


def test_units_renew_when_the_period_is_over_and_not_before():
    begun = structs.replace(plans.begun("crm", MONTHLY, NOON), used=1000)
    assert plans.current(begun, MONTHLY, at("2026-02-01") - 1) is begun
    renewed = Balance("crm", "monthly", False, at("2026-02-01"), at("2026-03-01"), 1000, 0)
    assert plans.current(begun, MONTHLY, at("2026-02-01")) == renewed


def test_a_pause_of_many_periods_renews_once_into_the_present_one():
    begun = plans.begun("crm", MONTHLY, NOON)
    assert plans.current(begun, MONTHLY, at("2026-07-15")).since == at("2026-07-01")


def test_what_is_leased_cannot_be_leased_again():
    balance = Balance("crm", "monthly", False, 0, None, 1000, 300)
    assert [plans.available(balance, MONTHLY, leased, NOON) for leased in (0, 100, 700, 900)] == [700, 600, 0, 0]


def test_overage_stops_nobody_but_a_trial_is_a_hard_limit():
    plan = structs.replace(MONTHLY, overage=True, trial_units=50)
    used_up = Balance("crm", "monthly", False, 0, None, 1000, 1000)
    assert plans.available(used_up, plan, 0, NOON) == BOUNDLESS
    assert plans.available(structs.replace(plans.tried("crm", plan, 0), used=50), plan, 0, NOON) == 0


def test_a_trial_ends_by_date_or_by_units_and_renews_nothing():
    trial = plans.tried("crm", PREPAID, NOON)
    assert (trial.units, trial.until) == (50, NOON + 7 * 86400)
    late = trial.until
    assert plans.current(trial, PREPAID, late) is trial
    assert [plans.available(trial, PREPAID, 0, now) for now in (late - 1, late)] == [50, 0]
    assert plans.available(structs.replace(trial, used=50), PREPAID, 0, NOON) == 0


def test_a_trial_without_days_ends_by_units_only():
    trial = plans.tried("crm", Plan("p", trial_units=5), NOON)
    assert plans.available(trial, PREPAID, 0, NOON * 2) == 5


def test_a_plan_without_a_trial_cannot_be_tried():
    with pytest.raises(InputError, match="the plan monthly has no trial"):
        plans.tried("crm", MONTHLY, NOON)


def test_a_credit_adds_to_the_period_and_may_be_taken_back():
    balance = plans.begun("crm", MONTHLY, NOON)
    more = plans.credited(balance, MONTHLY, 500, NOON)
    assert (more.units, more.until) == (1500, balance.until)
    assert plans.credited(more, MONTHLY, -500, NOON) == balance


def test_who_buys_prepaid_units_in_a_trial_has_ended_it():
    trial = structs.replace(plans.tried("crm", PREPAID, NOON), used=20)
    assert plans.credited(trial, PREPAID, 100, NOON) == Balance("crm", "prepaid", False, NOON, None, 150, 20)
    after = plans.credited(trial, PREPAID, 100, trial.until)  # its own units are gone by then
    assert (after.trial, after.left) == (False, 100)
    assert plans.credited(trial, PREPAID, -10, NOON).trial


def test_an_ended_trial_of_a_renewing_plan_takes_no_credit():
    plan = structs.replace(MONTHLY, trial_units=5, trial_days=1)
    with pytest.raises(InputError, match="balance set-plan"):
        plans.credited(plans.tried("crm", plan, NOON), plan, 5, NOON + 86400)


# Prices


def costs(steps: list[tuple[int, str]], used: int) -> Decimal:
    plan = Plan("p", steps=tuple((start, Decimal(price)) for start, price in steps))
    return plans.cost(plan, Balance("crm", "p", False, 0, None, 0, used))


@pytest.mark.parametrize(
    ("steps", "used", "cost"),
    [
        ([], 10, "0"),
        ([(0, "0.10")], 10, "1.00"),
        ([(0, "0.10"), (1000, "0.08")], 1000, "100"),
        ([(0, "0.10"), (1000, "0.08")], 1001, "100.08"),
        ([(10000, "0.02")], 9000, "0"),  # included
        ([(0, "0.000001")], 3, "0.000003"),
        ([(0, "1")], -5, "0"),  # more was refunded than used
    ],
)
def test_each_unit_has_the_price_of_its_step(steps, used, cost):
    assert costs(steps, used) == Decimal(cost)


STEPS = st.dictionaries(st.integers(0, 300), st.decimals(0, 9, places=4), max_size=5)


@given(STEPS, st.integers(-10, 400))
def test_the_cost_is_the_sum_of_every_units_price(found, used):
    steps = sorted(found.items())

    def price(unit: int) -> Decimal:
        return next((price for start, price in reversed(steps) if start <= unit), Decimal(0))

    assert costs(steps, used) == sum(map(price, range(used)), Decimal(0))  # type: ignore[arg-type]


def test_a_trial_costs_nothing():
    plan = structs.replace(PREPAID, steps=((0, Decimal(1)),))
    assert plans.cost(plan, structs.replace(plans.tried("crm", plan, NOON), used=20)) == 0


def test_steps_are_read_in_any_order():
    assert plans.steps(["1000:0.08", "0:0.10"]) == ((0, Decimal("0.10")), (1000, Decimal("0.08")))


@pytest.mark.parametrize("text", ["", "1000", "0:-1", "0:0.0000001", "-5:1", "0:1e3", "0:NaN", "٣:1", "0 : 1"])
def test_what_is_no_step_is_refused_with_an_example(text):
    with pytest.raises(InputError, match=r'write UNITS:PRICE, as "0:0.10"') as raised:
        plans.steps([text])
    assert raised.value.field == "step"


def test_two_prices_for_one_step_are_refused():
    with pytest.raises(InputError, match="two prices after 10 units"):
        plans.steps(["10:1", "10:2"])


# Refunds


@pytest.mark.parametrize(
    ("term", "attempts", "back"),
    [
        ("suppressed", 0, True),
        ("dropped", 0, True),
        ("cancelled", 0, True),
        ("suppressed", 1, False),
        ("cancelled", 3, False),
        ("expired", 0, False),
        ("bounced", 0, False),
        ("delivered", 0, False),
    ],
)
def test_by_default_what_never_left_by_our_or_the_senders_will_gives_its_unit_back(term, attempts, back):
    assert plans.refunds(Plan("p"), term, attempts) is back


def test_a_plan_says_what_gives_units_back():
    plan = Plan("p", refunds=("expired",))
    assert plans.refunds(plan, "expired", 0) and not plans.refunds(plan, "expired", 1)
    assert not plans.refunds(plan, "suppressed", 0)


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (Plan("p", "monthly"), "units"),
        (Plan("p", trial_days=3), "trial_units"),
        (Plan("p", refunds=("delivered",)), "refund"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_by_name(plan, field):
    with pytest.raises(InputError) as raised:
        plans.checked(plan)
    assert raised.value.field == field
