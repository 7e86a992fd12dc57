"""What the verbs tell of plans and balances."""

from collections.abc import Coroutine, Iterator
from decimal import Decimal
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.directory.balances import Want
from relayd.errors import InputError
from relayd.lease import Lease
from tests.fake_relay import NOW, FakeRelay, opened

DAY = 86400
DECEMBER = 1_701_388_800.0  # NOW is in November 2023


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    for account in ("crm", "other"):
        made.directory.add_account(account, now=1.0).result(10)
    yield made
    made.directory.close()


def say(relay: FakeRelay, path: str, **given: object) -> Any:
    value = run(BY_PATH["/v1/" + path], relay, given, "anna")  # type: ignore[arg-type]
    if isinstance(value, Coroutine):
        with pytest.raises(StopIteration) as ended:
            value.send(None)
        value = ended.value.value
    return value.result(30) if hasattr(value, "result") else value


def plan(relay: FakeRelay, name: str = "business", **more: object) -> Any:
    given = {"renews": "monthly", "units": 1000, "low": 100, "step": ["0:0.10", "1000:0.02"]}
    return say(relay, "plan/add", name=name, **{**given, **more})


def test_a_plan_is_made_as_it_is_said(relay):
    made = plan(relay, overage=True, trial_units=5, trial_days=3, refund=["expired", "expired"])
    assert (made.renews, made.units, made.overage, made.low) == ("monthly", 1000, True, 100)
    assert (made.trial_units, made.trial_days, made.refunds) == (5, 3, ("expired",))
    assert made.steps == ((0, Decimal("0.10")), (1000, Decimal("0.02"))) and made.created == NOW
    assert say(relay, "plan/list") == [made]


def test_refunds_are_the_usual_ones_unless_said_otherwise(relay):
    assert plan(relay).refunds == ("suppressed", "dropped", "cancelled")
    assert plan(relay, "none", refund=["nothing"]).refunds == ()


def test_a_plan_shows_who_has_it_and_is_removed_when_nobody_has(relay):
    plan(relay)
    say(relay, "balance/set-plan", account="crm", plan="business")
    assert say(relay, "plan/show", name="business")["accounts"] == ["crm"]
    with pytest.raises(InputError, match="crm has the plan business"):
        say(relay, "plan/remove", name="business")
    say(relay, "balance/remove", account="crm")
    assert say(relay, "plan/remove", name="business").name == "business"
    assert say(relay, "plan/list") == []


def test_counters_are_as_the_spool_has_them_now(relay):
    """100 units are booked, the spool has charged 950 more since, and refunded 10."""
    plan(relay)
    say(relay, "balance/set-plan", account="crm", plan="business")
    relay.directory.balances.settle([Want("crm", Lease(), 0, 500)], NOW).result(10)
    relay.directory.balances.settle([Want("crm", Lease(1000, 100), 0, 0)], NOW).result(10)
    relay.leases["crm"] = Lease(1000, 1050, 10, 0), 77
    say(relay, "balance/credit", account="crm", units=300)
    assert say(relay, "balance/show", account="crm") == {
        "account": "crm",
        "plan": "business",
        "trial": False,
        "since": NOW,
        "until": DECEMBER,
        "units": 1300,
        "used": 1040,
        "left": 260,
        "low": False,
        "cost": Decimal("100.80"),
        "leased": -40,
        "used_today": 77,
    }


def test_a_period_that_is_over_shows_the_next_before_anybody_sends(relay, monkeypatch):
    plan(relay)
    say(relay, "balance/set-plan", account="crm", plan="business")
    say(relay, "balance/debit", account="crm", units=1000)
    assert say(relay, "balance/list", low=True)[0]["left"] == 0
    monkeypatch.setattr(relay, "now", lambda: DECEMBER)
    row = say(relay, "balance/show", account="crm")
    assert (row["since"], row["left"], row["used"], row["low"]) == (DECEMBER, 1000, 0, False)
    assert say(relay, "balance/list", low=True) == []


def test_a_trial_shows_its_end_and_nothing_left_behind_it(relay, monkeypatch):
    plan(relay, trial_units=50, trial_days=7, overage=True)
    say(relay, "balance/set-plan", account="crm", plan="business", trial=True)
    row = say(relay, "balance/show", account="crm")
    assert (row["trial"], row["until"], row["left"], row["cost"]) == (True, NOW + 7 * DAY, 50, 0)
    monkeypatch.setattr(relay, "now", lambda: NOW + 7 * DAY)
    assert say(relay, "balance/show", account="crm")["left"] == 0


def test_with_overage_any_number_is_left(relay):
    plan(relay, overage=True)
    say(relay, "balance/set-plan", account="crm", plan="business")
    row = say(relay, "balance/show", account="crm")
    assert (row["left"], row["low"]) == (None, False)


def test_what_was_used_is_booked_before_a_plan_ends(relay):
    plan(relay)
    say(relay, "balance/set-plan", account="crm", plan="business")
    say(relay, "balance/remove", account="crm")
    assert relay.booked == ["crm", "crm"]


def test_the_ledger_says_what_came_and_went_and_why(relay):
    plan(relay)
    say(relay, "balance/set-plan", account="crm", plan="business", note="contract 4")
    say(relay, "balance/credit", account="crm", units=300, note="invoice 17")
    say(relay, "balance/debit", account="crm", units=100)
    rows = [(row.kind, row.units, row.by, row.note) for row in say(relay, "balance/ledger", account="crm", limit=2)]
    assert rows == [("debit", -100, "anna", ""), ("credit", 300, "anna", "invoice 17")]
    assert say(relay, "balance/ledger", account="crm")[-1].note == "contract 4"


@pytest.mark.parametrize(
    ("path", "given", "field", "words"),
    [
        ("balance/show", {"account": "crn"}, "account", 'no account .crn. .did you mean "crm"'),
        ("balance/credit", {"account": "other", "units": 5}, "account", "other has no balance"),
        ("balance/credit", {"account": "crm", "units": 0}, "units", "say how many"),
        ("balance/credit", {"account": "crm", "units": "-5"}, "units", "not a whole number"),
        ("balance/remove", {"account": "other"}, "account", "other has no balance"),
        ("balance/set-plan", {"account": "crn", "plan": "business"}, "account", "there is no account"),
        ("balance/set-plan", {"account": "crm", "plan": "busines"}, "plan", 'did you mean "business"'),
        ("plan/show", {"name": "busines"}, "name", 'did you mean "business"'),
        ("plan/remove", {"name": "busines"}, "name", 'did you mean "business"'),
        ("plan/add", {"name": "p", "step": ["x"]}, "step", "write UNITS:PRICE"),
        ("plan/add", {"name": "p", "refund": ["delivered"]}, "refund", "none of suppressed"),
        ("plan/add", {"name": "p", "renews": "weekly"}, "renews", "none of never"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(relay, path, given, field, words):
    plan(relay)
    say(relay, "balance/set-plan", account="crm", plan="business")
    with pytest.raises(InputError, match=words) as raised:
        value = run(BY_PATH["/v1/" + path], relay, given, "anna")  # type: ignore[arg-type]
        value = value if not isinstance(value, Coroutine) else _ended(value)
        value.result(10)
    assert raised.value.field == field


def _ended(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


def test_changes_are_for_admins_and_the_rest_for_all():
    for verb in BY_PATH.values():
        if verb.name.split()[0] in ("plan", "balance"):
            assert verb.role == ("admin" if verb.effect == "change" else "view"), verb.name
