"""Reactions at work: what the shipped rules make of providers that push back, and how mail comes back to them."""

import tomllib
from pathlib import Path

import pytest

from relayd.delivery.outcomes import Rules
from relayd.queue.reasons import why
from relayd.queue.retry import Schedule
from relayd.shaping.rules import parse
from tests.simulation.providers import Blocklister, Greylister, Limiter, Picky, Provider
from tests.simulation.world import World

PACK = Path(__file__).parents[2] / "etc" / "relayd" / "shaping.d" / "general.toml"
SHIPPED = tuple(parse(name, table) for name, table in tomllib.loads(PACK.read_text("utf-8"))["reaction"].items())
PATIENT = {"bulk": Rules(Schedule(expire=5 * 86400.0), "none"), "urgent": Rules(Schedule(), "none")}
HOUR = 3600.0
UNDER_WAY = 2 * 20  # of twenty sessions, when a reaction begins


def world(**more) -> World:
    return World(rules=PATIENT, reactions=SHIPPED, **more)


@pytest.mark.parametrize("permanent", [False, True])
def test_a_blocked_source_costs_what_was_under_way_and_no_mail(permanent: bool) -> None:
    relay = world(sources=2, pace="10/s")
    x = Blocklister(relay.reactor, after=1000, seconds=10 * HOUR, permanent=permanent, only="192.0.2.1")
    relay.serve(x, "x.example")
    relay.backlog(10_000)
    relay.wait(HOUR)
    assert x.count() == 10_000 and x.count(source="192.0.2.1") == 1000
    assert sum(x.refusals.values()) <= UNDER_WAY
    assert "Bounce" not in relay.spool.kinds()


def test_a_site_where_every_source_is_blocked_is_left_alone_until_the_suspension_is_over_also_by_a_restart() -> None:
    relay = world(sources=2, pace="10/s")
    x = Blocklister(relay.reactor, after=500, seconds=2 * HOUR)
    relay.serve(x, "x.example")
    relay.backlog(3000)
    relay.wait(HOUR)
    refused, connections = sum(x.refusals.values()), len(x.connections)
    assert x.count() == 1000 and refused <= 2 * UNDER_WAY
    relay.restart()
    relay.wait(4.5 * HOUR)
    assert len(x.connections) == connections and sum(x.refusals.values()) == refused
    assert "suspended" in why(relay.scheduler, "crm/bulk/x.example", relay.now)
    assert "Bounce" not in relay.spool.kinds()


def test_a_suspended_path_comes_back_by_steps_to_its_full_rate() -> None:
    rule = parse("blocked", {"codes": "450", "text": "blocked using", "action": "suspend", "for": "1h"})
    relay = World(rules=PATIENT, pace="8/s", reactions=(rule,))
    x = Blocklister(relay.reactor, after=100, seconds=HOUR, permanent=False)
    relay.serve(x, "x.example")
    relay.backlog(40_000)
    relay.until(lambda: relay.held, 60)
    x.after = 10**9
    (suspended,) = relay.held.values()
    relay.wait(2 * HOUR)
    assert x.count(since=suspended.since + 1, until=suspended.until) == 0
    for step, share in enumerate([1 / 8, 1 / 4, 1 / 2, 1.0]):
        begun = suspended.until + step * 600
        assert 0.95 * share * 4800 <= x.count(begun, begun + 600) <= share * 4800 + 10


def test_a_rate_that_nobody_configured_is_found_by_being_told_and_costs_few_refusals() -> None:
    relay = world(pace="10/s")
    x = Limiter(relay.reactor, messages=40, period=60.0)
    relay.serve(x, "x.example")
    relay.backlog(40_000)
    relay.wait(12 * HOUR)
    assert x.violations <= 200
    assert x.count() >= 0.95 * 20 * 60 * 12
    assert "Bounce" not in relay.spool.kinds()


def test_a_limit_of_connections_is_heeded_as_soon_as_it_is_told() -> None:
    relay = world()
    x = Limiter(relay.reactor, connections=4, thinks=0.5)
    relay.serve(x, "x.example")
    relay.backlog(20_000)
    relay.wait(6 * HOUR)
    assert x.violations <= 20 + 4 * 6 * 3  # when it is found, and each time it is tried whether there is more
    assert x.count() >= 0.5 * 6 * HOUR / (4 * 0.5)


def test_greylisted_mail_keeps_its_source_with_the_shipped_rules() -> None:
    relay = world(sources=4)
    x = Greylister(relay.reactor, wait=300)
    relay.serve(x, "x.example")
    relay.backlog(400)
    relay.wait(1200)
    assert x.count() == len(x.first) == 400


def test_an_account_that_a_provider_does_not_want_is_suspended_there_and_costs_others_nothing() -> None:
    rule = {"codes": "554", "text": "sends spam", "after": "5/h", "action": "suspend", "on": "account", "for": "2h"}

    def run(bad: bool) -> tuple[list[float], Picky]:
        relay = World(rules=PATIENT, pace="20/s", reactions=(parse("unwanted", {**rule, "defer": True}),))
        x = Picky(relay.reactor, "bad@crm.example")
        well = Provider(relay.reactor)
        relay.serve(x, "x.example")
        relay.serve(well, "y.example")
        if bad:
            relay.backlog(5000, account="bad")
            relay.backlog(100, "y.example", account="bad")
        relay.wait(60)
        relay.backlog(500, account="good")
        relay.wait(HOUR)
        assert well.count() == (100 if bad else 0)  # only there
        return [round(a.when - relay.now, 3) for a in x.arrived], x

    alone, _ = run(False)
    beside, x = run(True)
    assert beside == alone and len(alone) == 500
    assert sum(x.refusals.values()) <= 5 + UNDER_WAY


def test_the_shipped_rules_leave_a_provider_that_is_content_alone() -> None:
    relay = world(pace="10/s")
    x = Provider(relay.reactor)
    relay.serve(x, "x.example")
    relay.backlog(3000)
    relay.wait(310)
    assert x.count() >= 0.95 * 3000 and not relay.held
