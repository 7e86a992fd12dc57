"""What providers do to a relay, and how it comes back: greylisting, outages, flapping, limits that it did not know."""

from collections import Counter

import pytest

from relayd.delivery.outcomes import Rules
from relayd.queue.retry import Schedule
from tests.simulation.providers import Dropper, Greylister, Limiter, Provider, down_until, flapping
from tests.simulation.world import World

LONGEST_REST = 1800.0  # seconds
PATIENT = {"bulk": Rules(Schedule(expire=5 * 86400.0), "none"), "urgent": Rules(Schedule(), "none")}


@pytest.mark.parametrize("restart", [False, True])
def test_greylisted_mail_comes_back_by_the_same_source(restart: bool) -> None:
    world = World(sources=4, rules=PATIENT)
    x = Greylister(world.reactor, wait=600)
    world.serve(x, "x.example")
    world.backlog(400)
    world.wait(60)
    assert len(x.first) == 400 and len({source for source, _, _ in x.first}) == 4
    if restart:
        world.restart()
    world.wait(1200)
    assert x.count() == 400 and len(x.first) == 400  # by no other source
    assert max(x.passed) <= 1.2 * 600
    assert Counter(world.spool.kinds()) == {"TransientFailure": 400, "Delivery": 400}


def test_greylisted_mail_stays_with_its_source_while_new_mail_goes_by_all() -> None:
    world = World(sources=3, rules=PATIENT)
    x = Greylister(world.reactor, wait=300)
    world.serve(x, "x.example")
    for _ in range(60):
        world.backlog(10)
        world.wait(60)
    world.wait(900)
    assert x.count() == 600
    assert max(Counter((sender, recipient, a) for a, sender, recipient in x.first).values()) == 1


@pytest.mark.parametrize("hours", [1 / 6, 1, 6])
def test_after_an_outage_mail_flows_at_full_rate_as_soon_as_the_longest_rest_is_over(hours: float) -> None:
    world = World(pace="10/s", rules=PATIENT)
    well_again = world.now + hours * 3600
    x = Provider(world.reactor, up=down_until(well_again))
    world.serve(x, "x.example")
    world.backlog(60_000)
    world.wait(hours * 3600)
    assert x.count() == 0
    world.wait(LONGEST_REST + 60)
    begun = x.arrived[0].when
    assert begun - well_again <= LONGEST_REST + 1
    assert x.count(begun + 60) >= 0.95 * 10 * (world.now - begun - 60)
    world.wait(600)
    assert x.count(begun + 60) >= 0.95 * 10 * (world.now - begun - 60)


def test_an_outage_of_an_hour_costs_few_attempts_and_no_mail() -> None:
    world = World(pace="10/s", rules=PATIENT)
    x = Provider(world.reactor, up=down_until(world.now + 3600))
    world.serve(x, "x.example")
    ids = world.backlog(10_000)
    world.wait(3 * 3600)
    assert x.count() == len(ids) and not world.spool.rows
    assert len(x.turned_away) <= 2 * 20 + 2 * 8  # the first ones, and two for each of its rests
    assert world.spool.kinds().count("TransientFailure") <= 200


def test_new_mail_during_an_outage_is_not_tried_one_by_one() -> None:
    world = World(rules=PATIENT)
    x = Provider(world.reactor, up=down_until(world.now + 3600))
    world.serve(x, "x.example")
    for _ in range(3600):
        world.backlog(1)
        world.wait(1)
    assert len(x.turned_away) <= 40


def test_a_flapping_provider_costs_a_bounded_number_of_attempts_and_gets_all_its_mail() -> None:
    world = World(pace="10/s", rules=PATIENT)
    x = Provider(world.reactor, up=flapping(60, 60, world.now))
    world.serve(x, "x.example")
    world.backlog(40_000)
    world.wait(3600)
    assert len(x.turned_away) <= 10 * 30  # each time half as many as it dropped, at most
    failed = world.spool.kinds().count("TransientFailure") + world.spool.kinds().count("Unknown")
    assert failed <= (20 + 64) * 30  # each time what was under way in its sessions, and what was in memory
    assert x.count() >= 0.4 * 10 * 3600  # it is up for half of the time
    world.wait(6 * 3600)
    assert not world.spool.rows


@pytest.mark.parametrize("after_content", [False, True])
def test_a_provider_that_drops_each_connection_at_its_fifth_message_gets_all_mail(after_content: bool) -> None:
    world = World(pace="10/s", rules=PATIENT)
    x = Dropper(world.reactor, at=5, after_content=after_content)
    world.serve(x, "x.example")
    world.backlog(2000)
    world.wait(6 * 3600)
    assert x.count() == 2000 and not world.spool.rows  # what was dropped was not taken: nobody has it twice


def test_a_limit_of_connections_that_is_not_configured_is_found_and_kept_to() -> None:
    world = World(connections=20, rules=PATIENT)
    x = Limiter(world.reactor, connections=5, thinks=0.5)
    world.serve(x, "x.example")
    world.backlog(20_000)
    world.wait(3600)
    assert x.count() >= 0.9 * 4 * 3600 / (4 * 0.5)
    assert x.violations <= 60 * 16  # each minute it may be seen whether there is room for more
    assert "Bounce" not in world.spool.kinds()


def test_a_provider_that_widens_its_limit_has_full_use_of_it_in_five_minutes() -> None:
    world = World(connections=20, rules=PATIENT)
    x = Limiter(world.reactor, connections=3, thinks=0.5)
    world.serve(x, "x.example")
    world.backlog(60_000)
    world.wait(1800)
    x.allowed = 20
    assert world.until(lambda: x.by_source["192.0.2.1"] >= 19, 300) <= 300
    since = world.now
    world.wait(600)
    assert x.count(since) >= 0.95 * 19 * 600 / (4 * 0.5)
