"""The scripted providers see what they are to see: a relay that knows no limits breaks them, and is counted."""

from collections import Counter

import pytest

from relayd.delivery.outcomes import Rules
from relayd.queue.retry import Schedule
from tests.simulation.providers import Blocklister, Dropper, Limiter, Provider, densest, flapping
from tests.simulation.world import World

ONCE = {"bulk": Rules(Schedule((10**6,)), "none"), "urgent": Rules(Schedule(), "none")}


def test_the_densest_window_is_found_and_one_exactly_a_period_later_is_not_in_it() -> None:
    assert densest([0.0, 1.0, 2.0, 60.0, 61.0], 60.0) == 3
    assert densest([0.0, 1.0, 59.9, 60.0], 60.0) == 3
    assert densest([], 60.0) == 0


def test_a_limiter_takes_what_it_allows_and_counts_the_rest_as_violations() -> None:
    world = World(rules=ONCE)
    x = Limiter(world.reactor, connections=3, messages=50, period=60.0)
    world.serve(x, "x.example")
    world.backlog(200)
    world.wait(50)
    assert x.count() == 50 and x.largest(60.0) > 50 and x.most["192.0.2.1"] > 3
    assert x.violations == sum(x.refusals.values()) > 150


def test_a_provider_answers_after_a_round_trip_and_thinks_of_each_command() -> None:
    world = World()
    x = Provider(world.reactor, round_trip=0.1, thinks=1.0, at_dot=5.0)
    world.serve(x, "x.example")
    begun = world.now
    world.backlog(1)
    # Banner; EHLO; MAIL, RCPT, DATA; the content.
    assert world.until(lambda: x.arrived, 60) == pytest.approx(0.1 + 1.1 + 3.1 + 6.0, abs=0.1)
    assert x.arrived[0].when - begun == pytest.approx(10.3)
    world.until(lambda: not world.spool.rows, 1)
    assert world.spool.records[-1].time - begun == pytest.approx(10.4)


def test_a_blocklister_refuses_only_the_source_that_sent_too_much_and_forgives() -> None:
    world = World(sources=2, connections=1, weights={"s1": 3, "s2": 1}, rules=ONCE)
    x = Blocklister(world.reactor, after=100, seconds=600)
    world.serve(x, "x.example")
    world.backlog(240)
    world.wait(60)
    assert Counter(a.source for a in x.arrived) == {"192.0.2.1": 100, "192.0.2.2": 60}
    assert x.refusals == {"550 5.7.1 Client host [192.0.2.1] blocked using bl.example": 80}
    world.wait(600)
    world.backlog(4)
    world.wait(10)
    assert x.count(source="192.0.2.1") == 103


def test_a_flapping_provider_drops_what_it_has_and_refuses_what_comes() -> None:
    world = World(connections=2, pace="", rules=ONCE)
    x = Provider(world.reactor, thinks=1.0, up=flapping(60, 60, world.now))
    world.serve(x, "x.example")
    world.backlog(100)
    world.wait(125)
    assert x.turned_away and not x.count(world.now - 65, world.now - 5)


def test_a_dropper_drops_each_connection_at_its_nth_message() -> None:
    world = World(connections=1, rules=ONCE)
    x = Dropper(world.reactor, at=3, after_content=True)
    world.serve(x, "x.example")
    world.backlog(9)
    world.wait(10)
    assert x.count() == 6 and world.spool.kinds().count("Unknown") == 3
