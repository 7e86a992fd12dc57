"""Reactions: what follows from replies, how long it holds, how it ends, and that it stays bounded."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.shaping import reactions as room
from relayd.shaping.limits import Rate
from relayd.shaping.reactions import FOREVER, NOTHING, Active, Key, Reactions, changes_at, share
from relayd.shaping.rules import Rules, Seen, parse

NOW = 1_700_000_000.0
SUSPEND = {"codes": "421", "action": "suspend", "for": "30m"}
LIMIT = {"codes": "421", "action": "limit", "rate": "10/min", "for": "30m"}


def reply(at: float = 0.0, code: int = 421, **more: object) -> Seen:
    values: dict[str, object] = {
        "provider": "",
        "group": "site",
        "domain": "a.example",
        "source": "t1",
        "account": "crm",
        "mx": "mx.a.example",
        "stage": "rcpt",
        "code": code,
        "enhanced": "4.7.0",
        "text": "slow\ndown",
        "time": NOW + at,
        "delivery": "19a5c0e1d2300002",
    }
    return Seen(**(values | more))  # type: ignore[arg-type]


def made(**tables: dict[str, object]) -> Reactions:
    return Reactions(Rules(parse(name, table) for name, table in tables.items()))


def held(reactions: Reactions, source="t1", group="site", account="crm", at=0.0) -> list[str]:
    return [active.rule for active in reactions.holds(source, group, account, NOW + at)]


def test_a_reply_that_meets_no_rule_leaves_everything_as_it_is():
    reactions = made(x=SUSPEND)
    assert reactions.seen(reply(code=450)) is NOTHING
    assert reactions.holds("t1", "site", "crm", NOW) == () and reactions.all() == []


def test_a_suspension_keeps_its_rule_and_the_very_reply_that_fired_it():
    reactions = made(x=SUSPEND | {"move": False})
    verdict = reactions.seen(reply())
    (active,) = verdict.began
    assert reactions.holds("t1", "site", "crm", NOW + 1799) == (active,) == tuple(reactions.all())
    assert (active.rule, active.action, active.source, active.group, active.account) == (
        "x",
        "suspend",
        "t1",
        "site",
        "",
    )
    assert (active.since, active.until, active.step, active.move) == (NOW, NOW + 1800, 0, False)
    assert reactions.fired == 1
    said = active.reply
    assert (str(said.reply), said.stage, said.time) == ("421 4.7.0 slow / down", "rcpt", NOW)
    assert (said.mx, said.domain, said.delivery) == ("mx.a.example", "a.example", "19a5c0e1d2300002")
    assert active.words(NOW + 600) == (
        "suspended for another 20m by the reaction x: mx.a.example said at rcpt: 421 4.7.0 slow / down"
    )


@pytest.mark.parametrize(
    ("on", "holds"),
    [
        ("path", [("t1", "site", "crm"), ("t1", "site", "other"), ("t1", "site", "")]),
        ("site", [("t1", "site", "crm"), ("t2", "site", "other"), ("t2", "site", "")]),
        ("source", [("t1", "site", "crm"), ("t1", "elsewhere", "other"), ("t1", "elsewhere", "")]),
        ("account", [("t1", "site", "crm"), ("t2", "site", "crm")]),
    ],
)
def test_a_reaction_holds_for_what_it_is_on_and_for_nothing_else(on, holds):
    reactions = made(x=SUSPEND | {"on": on})
    reactions.seen(reply())
    ways = [(s, g, a) for s in ("t1", "t2") for g in ("site", "elsewhere") for a in ("crm", "other", "")]
    assert {way for way in ways if held(reactions, *way)} >= set(holds)
    not_its_own = {
        "path": [("t2", "site", "crm"), ("t1", "elsewhere", "crm")],
        "site": [("t1", "elsewhere", "crm")],
        "source": [("t2", "site", "crm")],
        "account": [("t1", "site", "other"), ("t1", "elsewhere", "crm"), ("t1", "site", "")],
    }[on]
    assert not any(held(reactions, *way) for way in not_its_own)


def test_a_reply_to_a_connection_is_nobodys_so_no_account_is_held_for_it():
    reactions = made(x=SUSPEND | {"on": "account"})
    assert reactions.seen(reply(account="", delivery="", stage="banner")).began == ()
    assert reactions.all() == []


def test_a_threshold_counts_exactly_within_its_time():
    reactions = made(x=SUSPEND | {"after": "3/min"})
    for at in (0.0, 30.0, 60.0, 90.0):  # never three within a minute: the first is out when the third comes
        assert not reactions.seen(reply(at)).began, at
    assert reactions.seen(reply(119.9)).began


@given(st.lists(st.floats(0, 5), max_size=60), st.integers(1, 5))
def test_a_threshold_fires_when_and_only_when_so_many_lie_within_its_time(gaps, count):
    reactions = made(x={"codes": "421", "action": "bounce", "after": f"{count}/s"})
    times: list[float] = []
    at = 0.0
    for gap in gaps:
        at += gap
        times.append(NOW + at)
        within = sum(moment > times[-1] - 1.0 for moment in times)
        assert (reactions.seen(reply(at)).kind == "permanent") == (within >= count)


def test_thresholds_of_different_paths_are_counted_apart():
    reactions = made(x=SUSPEND | {"after": "2/h"})
    assert not reactions.seen(reply()).began and not reactions.seen(reply(source="t2")).began
    assert reactions.seen(reply(1)).began and held(reactions, "t2") == []


def test_while_it_holds_more_of_the_same_only_counts():
    reactions = made(x=SUSPEND)
    (active,) = reactions.seen(reply()).began
    for n in range(5):
        verdict = reactions.seen(reply(n))
        assert verdict.began == verdict.ended == ()
    assert reactions.replies(active.id) == 5 and reactions.all() == [active]


def test_a_path_comes_back_by_an_eighth_a_quarter_and_a_half_of_its_rate():
    reactions = made(x=SUSPEND | {"for": "9m"})
    (active,) = reactions.seen(reply()).began
    steps = [share(active, NOW + 60 * minute) for minute in (0, 8, 9, 11.9, 12, 14.9, 15, 17.9, 18)]
    assert steps == [1, 1, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1 / 2, 1]
    assert held(reactions, at=17.9 * 60) == ["x"] and held(reactions, at=18 * 60) == []
    assert "coming back, at 0.25 of its rate for another 6m" in active.words(NOW + 720)


@given(st.floats(0.0, 1e6), st.floats(1.0, 1e5))
def test_a_suspension_returns_in_four_changes_each_later_than_the_one_before(at: float, duration: float):
    reactions = made(x=SUSPEND | {"for": f"{duration:.0f}s"})
    (active,) = reactions.seen(reply(at=at)).began
    moments = [NOW + at]
    while moments[-1] < active.returns_until:
        moments.append(changes_at(active, moments[-1]))
        assert moments[-1] > moments[-2]
    assert [share(active, moment) for moment in moments] == [1, 1 / 8, 1 / 4, 1 / 2, 1]


def test_a_long_suspension_comes_back_within_half_an_hour():
    (active,) = made(x=SUSPEND | {"for": "6h"}).seen(reply()).began
    assert active.returns_until - active.until == 1800


def test_a_limit_is_over_at_its_end():
    reactions = made(x=LIMIT | {"connections": 2})
    (active,) = reactions.seen(reply()).began
    assert (active.limits.rate, active.limits.connections) == (Rate(10, 60.0), 2)
    assert "limited to 10/m, 2 connections for another 30m" in active.words(NOW)
    assert held(reactions, at=1799) == ["x"] and held(reactions, at=1800) == [] and share(active, NOW + 1800) == 1


def test_a_limit_that_goes_on_to_be_fired_is_halved_each_time_what_was_under_way_is_over():
    reactions = made(x=LIMIT | {"connections": 4})
    reactions.seen(reply())
    assert reactions.seen(reply(at=119)).began == ()
    (active,) = reactions.seen(reply(at=120)).began
    assert (active.limits.rate, active.limits.connections, active.step) == (Rate(300, 3600.0), 2, 1)
    assert reactions.seen(reply(at=200)).began == () and reactions.replies(active.id) == 2
    (active,) = reactions.seen(reply(at=240)).began
    assert (active.limits.rate, active.limits.connections) == (Rate(150, 3600.0), 1)


def test_what_fires_again_soon_holds_twice_as_long_up_to_its_longest_and_is_the_same_reaction():
    reactions = made(x=SUSPEND | {"longest": "100m"})
    at, ids, times = 0.0, set(), []
    for _ in range(4):
        (active,) = reactions.seen(reply(at)).began
        ids.add(active.id)
        times.append((active.until - NOW - at) / 60)
        at = active.until - NOW + 1  # as soon as it is tried again
        assert not reactions.tick(NOW + at)
    assert times == [30, 60, 100, 100] and len(ids) == 1
    assert (active.step, active.since) == (3, NOW)


def test_after_a_quiet_time_as_long_as_its_own_it_is_forgotten():
    reactions = made(x=SUSPEND)
    (active,) = reactions.seen(reply()).began
    assert active.forgotten == NOW + 3600 and reactions.tick(NOW + 3599.9) == ()
    assert reactions.tick(NOW + 3600) == (active,) and reactions.all() == []
    (again,) = reactions.seen(reply(3601)).began
    assert (again.step, again.id) == (0, active.id + 1)


def test_after_its_end_the_threshold_has_to_be_reached_anew():
    reactions = made(x=SUSPEND | {"after": "2/h"})
    reactions.seen(reply())
    assert reactions.seen(reply(1)).began
    assert not reactions.seen(reply(1802)).began and reactions.seen(reply(1803)).began[0].step == 1


def test_a_host_is_left_alone_by_everybody():
    reactions = made(x={"codes": "421", "action": "skip-mx", "for": "5m"})
    (active,) = reactions.seen(reply()).began
    assert reactions.skips("mx.a.example", NOW + 299) == active
    assert reactions.skips("mx.a.example", NOW + 300) is None is reactions.skips("mx2.a.example", NOW)
    assert held(reactions) == []
    assert active.words(NOW).startswith("mx.a.example is left alone for another 5m by the reaction x")


def test_what_becomes_of_the_delivery():
    def verdict(code: int = 421, **table: object) -> tuple[object, ...]:
        found = made(x={"codes": ["421", "550"], **table}).seen(reply(code=code))
        return found.kind, found.wait, found.keep, found.move, found.rule

    assert verdict(action="bounce") == ("permanent", 0, False, None, "x")
    assert verdict(550, action="defer") == ("transient", 0, False, None, "x")
    assert verdict(421, action="defer") == ("", 0, False, None, "")
    assert verdict(action="keep", **{"for": "5m"}) == ("", 300, True, None, "x")
    assert verdict(action="move") == ("", 0, False, "", "x")
    assert verdict(action="move", to="spare") == ("", 0, False, "spare", "x")
    assert verdict(550, action="suspend", **{"for": "5m"}) == ("", 0, False, None, "")
    assert verdict(550, action="suspend", defer=True, **{"for": "5m"}) == ("transient", 0, False, None, "x")


def test_a_refusal_that_is_about_us_is_deferred_before_and_while_its_reaction_holds():
    reactions = made(x={"codes": "550", "action": "suspend", "for": "1h", "after": "2/h", "defer": True})
    verdicts = [reactions.seen(reply(n, code=550)) for n in range(4)]
    assert [verdict.kind for verdict in verdicts] == ["transient"] * 4
    assert [len(verdict.began) for verdict in verdicts] == [0, 1, 0, 0]


def test_a_second_rule_for_the_same_reply_goes_further_when_the_first_is_not_enough():
    reactions = made(less=LIMIT, rest=SUSPEND | {"after": "3/h"})
    assert [active.rule for active in reactions.seen(reply()).began] == ["less"]
    assert reactions.seen(reply(1)).began == ()
    assert [active.rule for active in reactions.seen(reply(2)).began] == ["rest"]
    assert held(reactions) == ["less", "rest"]


def test_a_lifted_reaction_is_gone_with_its_step():
    reactions = made(x=SUSPEND)
    (active,) = reactions.seen(reply()).began
    assert reactions.lift(active.id) == active and reactions.lift(active.id) is None
    assert held(reactions) == [] and reactions.seen(reply(1)).began[0].step == 0


def test_reactions_survive_a_restart_and_go_on_where_they_were():
    before = made(x=SUSPEND)
    (active,) = before.seen(reply()).began
    after = Reactions(before.rules, [active])
    assert after.holds("t1", "site", "crm", NOW + 60) == (active,)
    (again,) = after.seen(reply(1801)).began
    assert (again.id, again.step) == (active.id, 1)
    assert after.seen(reply(0, source="t2")).began[0].id == active.id + 1


def test_a_rule_that_is_gone_or_says_something_else_lets_go_what_it_held():
    reactions = made(x=SUSPEND, y=LIMIT, z=LIMIT)
    x, y, z = reactions.seen(reply()).began
    rules = Rules([parse("y", LIMIT), parse("z", LIMIT | {"rate": "99/min"})])
    assert reactions.reconfigure(rules) == (x, z)
    assert reactions.all() == [y] and held(reactions) == ["y"]
    assert reactions.reconfigure(Rules([parse("y", LIMIT)])) == ()


def test_a_rule_that_changed_while_the_relay_was_down_lets_go_what_it_held():
    x, y, z = made(x=SUSPEND, y=LIMIT, z=SUSPEND).seen(reply()).began
    reactions = Reactions(Rules(), [x, y, z])
    assert reactions.reconfigure(Rules([parse("x", SUSPEND), parse("z", LIMIT)])) == (y, z)
    assert reactions.all() == [x]


def test_a_clock_that_is_set_back_ends_what_would_hold_too_long():
    reactions = made(x=SUSPEND)
    reactions.tick(NOW)
    (active,) = reactions.seen(reply(86400)).began
    assert reactions.tick(NOW + 86401) == () and reactions.tick(NOW + 86390) == ()
    assert reactions.tick(NOW) == (active,) and reactions.all() == []
    assert Reactions(reactions.rules, [active]).tick(NOW) == (active,)


def test_a_clock_that_is_set_back_begins_to_count_anew():
    reactions = made(x=SUSPEND | {"after": "2/h"})
    reactions.seen(reply(7200))
    assert not reactions.seen(reply(0)).began and reactions.seen(reply(1)).began


def test_beyond_so_many_the_oldest_ends_and_it_is_said(monkeypatch):
    monkeypatch.setattr(room, "MOST", 3)
    reactions = made(x=SUSPEND)
    began = [reactions.seen(reply(n, source=f"t{n}")).began[0] for n in range(3)]
    assert reactions.fault == ""
    verdict = reactions.seen(reply(3, source="t3"))
    assert verdict.ended == (began[0],) and len(reactions.all()) == 3
    assert reactions.fault == "3 reactions hold: each new one ends the oldest"
    reactions.tick(NOW + 7200)
    assert reactions.fault == "" and reactions.all() == []


def test_counts_are_bounded_and_the_least_recent_go_first(monkeypatch):
    monkeypatch.setattr(room, "_COUNTED", 100)
    reactions = made(x=SUSPEND | {"after": "10/h"})
    for n in range(90):
        reactions.seen(reply(n, source=f"s{n % 30}"))
    for n in range(9):
        reactions.seen(reply(100 + n, source="often"))
    for n in range(200):
        reactions.seen(reply(200 + n, source=f"u{n}"))
        assert sum(map(len, reactions._counts.values())) == reactions._counted <= 100
    assert not reactions.seen(reply(500, source="often")).began  # forgotten: so many others came since


def test_to_ask_costs_next_to_nothing_while_nothing_holds_and_microseconds_with_thousands():
    reactions = made(x=SUSPEND)

    def least() -> float:  # of several rounds: others use the machine as well
        took = []
        for _ in range(5):
            begun = time.process_time()
            for _ in range(2_000):
                reactions.holds("t1", "site", "crm", NOW)
            took.append((time.process_time() - begun) / 2_000)
        return min(took)

    idle = least()
    for n in range(5000):
        reactions.seen(reply(source=f"s{n}"))
    assert idle < 5e-6 and least() < 50e-6


def test_a_row_on_disk_is_the_reaction_that_was():
    (active,) = made(x=LIMIT).seen(reply()).began
    assert msgspec.json.decode(msgspec.json.encode(active), type=Active) == active


def by_hand(reactions: Reactions, key: Key, until: float = FOREVER, **more: Any) -> Active:
    given = {"reason": "they asked us to", "by": "anna", "now": NOW} | more
    return reactions.impose("suspend", key, until, **given)


@pytest.mark.parametrize(
    ("key", "here", "there"),
    [
        (("", "site", "", "", ""), ("t1", "site", ""), ("t1", "other", "")),
        (("t1", "", "", "", ""), ("t1", "any", ""), ("t2", "any", "")),
        (("", "", "", "", ""), ("t9", "any", ""), None),
        (("", "", "crm", "", ""), ("", "any", "crm"), ("", "any", "other")),
        (("", "site", "crm", "", ""), ("", "site", "crm"), ("", "other", "crm")),
    ],
)
def test_what_is_imposed_by_hand_holds_for_what_it_names(key, here, there):
    reactions = Reactions(Rules())
    active = by_hand(reactions, key)
    assert reactions.holds(*here, NOW + 1) == (active,)
    assert there is None or reactions.holds(*there, NOW + 1) == ()


def test_a_pools_mail_is_suspended_by_hand_wherever_it_goes():
    reactions = Reactions(Rules())
    active = by_hand(reactions, ("", "", "", "", "p"))
    assert reactions.holds("", "site", "crm", NOW, "p") == (active,)
    assert reactions.holds("t1", "site", "", NOW) == reactions.holds("", "site", "crm", NOW, "q") == ()
    assert active.words(NOW) == "suspended until it is lifted by anna: they asked us to" and active.whom == "pool p"


def test_what_is_imposed_by_hand_outlives_other_rules_and_a_clock_that_is_set_back_and_ends_at_full_speed():
    reactions = Reactions(Rules(), [by_hand(Reactions(Rules()), ("", "site", "", "", ""), NOW + 3600)])
    assert reactions.reconfigure(Rules([parse("x", {"codes": "421", "action": "suspend", "for": "1h"})])) == ()
    assert reactions.tick(NOW - 10_000) == ()
    (active,) = reactions.all()
    assert active.words(NOW) == "suspended for another 1h by anna: they asked us to"
    assert share(active, NOW + 3601) == 1.0 and reactions.holds("t1", "site", "", NOW + 3600) == ()
    assert reactions.tick(NOW + 3600) == (active,)


def test_it_takes_the_place_of_one_of_its_kind_and_is_not_pushed_out_by_replies(monkeypatch):
    reactions = Reactions(Rules([parse("x", {"codes": "421", "action": "suspend", "for": "1h"})]))
    first = by_hand(reactions, ("", "site", "", "", ""), NOW + 60)
    again = by_hand(reactions, ("", "site", "", "", ""), NOW + 120, by="boris")
    slow = reactions.impose("limit", ("", "site", "", "", ""), NOW + 9, reason="r", by="anna", now=NOW)
    assert first.id == again.id and set(reactions.imposed(("", "site", "", "", ""))) == {again, slow}
    monkeypatch.setattr(room, "MOST", 3)
    for n in range(5):
        reactions.seen(Seen("", f"g{n}", "d", "t1", "crm", "mx", "dot", 421, "", "no", NOW + n))
    assert {again, slow} < set(reactions.all()) and len(reactions.all()) == 3
    monkeypatch.setattr(room, "BY_HAND", 2)
    with pytest.raises(ValueError, match="2 are imposed by hand: lift some first"):
        by_hand(reactions, ("", "other", "", "", ""))
    reactions.lift(again.id)
    by_hand(reactions, ("", "other", "", "", ""))
