"""Thirty days of warm-up in seconds, seen from the provider's side."""

from collections import Counter

import pytest

from relayd.delivery.outcomes import Rules
from relayd.queue.reasons import reason
from relayd.queue.retry import Schedule
from relayd.shaping.rules import parse
from relayd.warmup import DAY, Plan
from relayd.warmup.plan import parse_caps
from tests.simulation.providers import Blocklister, Provider
from tests.simulation.world import World

COLD = "192.0.2.2"
CURVE = parse_caps({"first": 20, "growth": 1.15, "days": 30})
PATIENT = {"bulk": Rules(Schedule(expire=5 * 86400.0), "none"), "urgent": Rules(Schedule(), "none")}
HOUR = 3600


def warming(sources: int = 2, longest_wait: float = 4.0 * HOUR) -> World:
    """The second source, or the only one, is new; it would have four fifths of the mail."""
    plan = Plan(caps=CURVE, longest_wait=longest_wait)
    weights = {"s1": 1, "s2": 4} if sources == 2 else {"s1": 1}
    world = World(sources=sources, plans={f"s{sources}": plan}, weights=weights, rules=PATIENT, lull=30.0)
    world.wait(DAY - world.now % DAY)  # begins at midnight, UTC
    return world


def days(x: Provider, source: str) -> Counter[int]:
    """How many messages a source began on each day, by the provider's books."""
    return Counter(int(when // DAY) for when, by in x.attempts if by == source)


def test_a_new_source_has_its_cap_each_day_for_thirty_days_and_all_mail_goes_on_its_day() -> None:
    world = warming()
    x = Provider(world.reactor)
    world.serve(x, "x.example")
    first = int(world.now // DAY)
    for day, cap in enumerate(CURVE, 1):
        for _ in range(8):
            world.backlog(int(1.3 * cap) // 8 + 10)
            world.wait(2 * HOUR)
        world.wait(DAY - world.now % DAY)
        assert not world.spool.rows
        assert days(x, COLD)[first + day - 1] <= cap
        assert days(x, COLD)[first + day - 1] >= 0.95 * cap
    world.backlog(4000)
    world.wait(HOUR)
    assert days(x, COLD)[first + 30] == 3200  # it is warm: its share, and no cap


def test_a_restart_in_the_day_does_not_bring_a_new_source_above_its_cap() -> None:
    world = warming()
    x = Provider(world.reactor)
    world.serve(x, "x.example")
    today = int(world.now // DAY)
    for _ in range(6):
        world.backlog(10)
        world.wait(HOUR)
        world.restart()
    assert days(x, COLD)[today] <= CURVE[0]
    world.wait(DAY)
    assert x.count() == 60


def test_mail_that_has_only_a_new_source_goes_over_its_cap_rather_than_wait_longer_than_the_bound() -> None:
    world = warming(1, longest_wait=2.0 * HOUR)
    x = Provider(world.reactor)
    world.serve(x, "x.example")
    world.backlog(200)
    sent = world.now
    world.wait(HOUR)
    assert x.count() == CURVE[0]
    world.wait(1.2 * HOUR)
    assert x.count() == 200
    assert max(a.when for a in x.arrived) - sent <= 2 * HOUR + 120


@pytest.mark.parametrize("permanent", [False, True])
def test_a_provider_that_blocks_the_new_source_takes_it_a_day_back_or_holds_it(permanent: bool) -> None:
    world = warming()
    x = Blocklister(world.reactor, after=10**9, seconds=DAY, permanent=permanent, only=COLD)
    world.serve(x, "x.example")
    for day in range(1, 11):
        x.after = 30 if day == 6 else 10**9
        for _ in range(8):
            world.backlog(20)
            world.wait(2 * HOUR)
        world.wait(DAY - world.now % DAY + 60)
    by_day = [days(x, COLD)[int(world.now // DAY) - 10 + n] for n in range(10)]
    assert all(count <= cap for count, cap in zip(by_day, CURVE, strict=False))
    (standing,) = world.warmup.standings("s2", world.now)
    assert standing.day <= 10  # without trouble it would be the eleventh
    assert by_day[6] <= CURVE[5]  # the day after is no step up


def test_mail_that_a_cap_and_a_suspension_hold_back_says_both_and_goes_with_the_first_to_end() -> None:
    rule = parse("blocked", {"codes": "550", "text": "blocked", "action": "suspend", "for": "5m", "defer": True})
    world = World(sources=2, plans={"s2": Plan(caps=(5, 10))}, rules=PATIENT, reactions=(rule,), lull=30.0)
    world.wait(DAY - world.now % DAY)
    x = Blocklister(world.reactor, after=20, seconds=60.0, permanent=True, only="192.0.2.1")
    world.serve(x, "x.example")
    world.backlog(200)
    world.wait(120)
    x.after = 10**9
    told = reason(world.scheduler, "crm/bulk/x.example", world.now)
    (suspended,) = world.held.values()
    assert (told.constraint, told.until) == ("pause", suspended.until)
    assert "warm-up day 1 of 2 of source s2" in told.words and "source s1 suspended" in told.words
    world.wait(HOUR)
    assert x.count() == 200 and days(x, COLD).total() == 5
