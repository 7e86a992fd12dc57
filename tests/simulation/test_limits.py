"""A provider that counts never sees more than it allows, where relayd's limits are the provider's own; and no less."""

from functools import cache
from random import Random

import pytest

from relayd.shaping.limits import Limits, rate
from tests.simulation.providers import Limiter
from tests.simulation.world import World

PACES = ["100/s", "10/s", "100/min", "50/min", "3/min", "1000/h"]
SOME = 3000  # messages that a long run has


def limiter(world: World, pace: str, connections: int = 20, **more) -> Limiter:
    allowed = rate(pace)
    return Limiter(world.reactor, connections=connections, messages=allowed.count, period=allowed.period, **more)


@cache
def saturated(pace: str, sources: int = 1, connections: int = 20, thinks: float = 0.0) -> tuple[Limiter, float]:
    """A long run with more mail than can go: the provider, and how many messages it allows from one source in it."""
    allowed = rate(pace)
    seconds = max(300.0, min(6 * 3600.0, SOME * allowed.period / allowed.count))
    world = World(sources=sources, pace=pace, connections=connections)
    x = limiter(world, pace, connections, thinks=thinks)
    world.serve(x, "x.example")
    world.backlog(int(1.5 * sources * seconds * allowed.count / allowed.period))
    world.wait(seconds)
    return x, seconds * allowed.count / allowed.period


@pytest.mark.parametrize("pace", PACES)
def test_no_window_of_a_rate_s_period_sees_one_message_more_than_the_rate(pace: str) -> None:
    x, _ = saturated(pace)
    assert x.violations == 0 and x.largest(x.period) <= x.messages


@pytest.mark.parametrize("pace", PACES)
def test_a_large_backlog_goes_at_95_percent_of_the_rate_at_least(pace: str) -> None:
    x, allowed = saturated(pace)
    assert x.count() >= 0.95 * allowed


@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize("pace", ["10/s", "100/min", "3/min"])
def test_a_rate_is_kept_and_used_by_few_connections_too(pace: str, connections: int) -> None:
    x, allowed = saturated(pace, connections=connections)
    assert x.violations == 0 and x.largest(x.period) <= x.messages
    assert x.count() >= 0.95 * allowed


@pytest.mark.parametrize("pace", PACES)
def test_a_slow_rate_does_not_open_connections_that_carry_nothing(pace: str) -> None:
    x, _ = saturated(pace)
    assert len(x.connections) <= x.count() + 20


@pytest.mark.parametrize("pace", ["10/s", "50/min"])
def test_each_source_has_the_rate_of_a_path_and_no_more(pace: str) -> None:
    x, allowed = saturated(pace, sources=3)
    assert x.violations == 0 and x.largest(x.period) <= x.messages
    for source in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        assert 0.95 * allowed <= x.count(source=source) <= allowed + 1


@pytest.mark.parametrize("pace", ["10/s", "100/min"])
def test_a_provider_that_takes_its_time_for_each_command_is_not_sent_more_at_once_afterwards(pace: str) -> None:
    x, allowed = saturated(pace, thinks=0.2)
    assert x.violations == 0 and x.largest(x.period) <= x.messages
    assert x.count() >= 0.95 * allowed


@pytest.mark.parametrize("pace", PACES)
def test_a_rate_holds_whatever_comes_when_and_however_urgent(pace: str) -> None:
    rng, world = Random(7), World(pace=pace)
    x = limiter(world, pace)
    world.serve(x, "x.example")
    each = x.period / x.messages
    sent = 0
    for _ in range(300):
        count = rng.choice([1, 1, 1, 2, 5, 20])
        world.backlog(count, stream=rng.choice(["bulk", "urgent"]))
        sent += count
        world.wait(each * rng.choice([0.0, 0.1, 0.9, 1.0, 3.0, 30.0]))
    world.wait(each * sent)
    assert x.violations == 0 and x.largest(x.period) <= x.messages
    assert x.count() == sent


@pytest.mark.parametrize("connections", [1, 2, 20])
@pytest.mark.parametrize("thinks", [0.0, 0.5])
def test_a_path_never_has_one_connection_more_than_its_limit_and_uses_all_it_has(connections, thinks) -> None:
    world = World(connections=connections)
    x = Limiter(world.reactor, connections=connections, thinks=thinks)
    world.serve(x, "x.example")
    for _ in range(60):
        world.backlog(100)
        world.backlog(20, stream="urgent")
        world.wait(5)
    assert x.violations == 0 and x.most == {"192.0.2.1": connections}


@pytest.mark.parametrize("connections", [1, 2, 20])
def test_sessions_of_a_slow_provider_are_at_work_95_percent_of_the_time(connections: int) -> None:
    """The last one of several is for priority mail.  Four commands a message, one after another."""
    world = World(connections=connections)
    x = Limiter(world.reactor, connections=connections, thinks=0.5)
    world.serve(x, "x.example")
    world.backlog(40_000)
    world.wait(1800)
    assert x.count() >= 0.95 * max(1, connections - 1) * 1800 / (4 * 0.5)


def test_domains_of_one_set_of_mail_hosts_share_its_limits() -> None:
    world = World(pace="100/min", connections=5)
    x = limiter(world, "100/min", connections=5)
    world.serve(x, "one.example", "two.example", "three.example", mx=("mx1.big.example", "mx2.big.example"))
    for domain in ("one.example", "two.example", "three.example"):
        world.backlog(3000, domain)
    world.wait(3600)
    assert x.violations == 0 and x.largest(60.0) <= 100
    assert x.count() >= 0.95 * 6000
    shares = [sum(a.recipient.endswith(f"@{d}.example") for a in x.arrived) for d in ("one", "two", "three")]
    assert max(shares) - min(shares) <= 64  # they are one account's: no turns, but what is read at once


def test_a_domain_s_own_limits_are_not_its_neighbours_on_the_same_hosts() -> None:
    world = World(by_domain={"two.example": Limits(2, rate("50/min"))})
    x = Limiter(world.reactor)
    world.serve(x, "one.example", "two.example")
    world.backlog(5000, "one.example")
    world.backlog(5000, "two.example")
    world.wait(600)
    two = sum(arrival.recipient.endswith("@two.example") for arrival in x.arrived)
    assert x.count() - two == 5000 and 0.95 * 500 <= two <= 500


def test_a_restart_costs_a_rate_one_message_at_most() -> None:
    world = World(pace="50/min")
    x = limiter(world, "50/min")
    world.serve(x, "x.example")
    world.backlog(5000)
    for _ in range(3):
        world.wait(100)
        world.restart()
    world.wait(300)
    assert x.largest(60.0) <= 50 + 1
