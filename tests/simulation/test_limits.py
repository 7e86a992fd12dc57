"""A provider that counts never sees more than it allows, where relayd's limits are the provider's own; and no less."""

from functools import cache
from random import Random

import pytest

from relayd.queue.reasons import why
from relayd.queue.state import Stream
from relayd.shaping.limits import Layer, Limits, Terms, rate
from tests.simulation.providers import Limiter, Provider, densest
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
    world = World(terms={"two.example": Terms(Limits(2, rate("50/min")), ("site two",))})
    x = Limiter(world.reactor)
    world.serve(x, "one.example", "two.example")
    world.backlog(5000, "one.example")
    world.backlog(5000, "two.example")
    world.wait(600)
    two = sum(arrival.recipient.endswith("@two.example") for arrival in x.arrived)
    assert x.count() - two == 5000 and 0.95 * 500 <= two <= 500


@pytest.mark.parametrize("pace", ["10/s", "50/min", "1000/h"])
def test_a_restart_costs_a_rate_no_more_than_may_go_at_once(pace: str) -> None:
    """What went before it is not known after it."""
    world = World(pace=pace)
    x = limiter(world, pace)
    world.serve(x, "x.example")
    world.backlog(5000)
    for _ in range(3):
        world.wait(1.3 * x.period)
        world.restart()
    world.wait(2 * x.period)
    assert x.largest(x.period) <= x.messages + 1 + 0.025 * x.messages


# Limits of more than a path.  One provider stands behind all sites there: its books say what left a source in all.


def sites(world: World, x: Limiter, count: int = 30) -> list[str]:
    domains = [f"d{n}.example" for n in range(count)]
    for domain in domains:
        world.serve(x, domain)
    return domains


@pytest.mark.parametrize("pace", ["10/s", "100/min", "1000/h"])
def test_a_source_s_rate_holds_over_all_sites_together_and_is_used(pace: str) -> None:
    world = World(sources=2, layers=(Layer("[egress]", source=Limits(rate=rate(pace))),))
    x = limiter(world, pace, 10**6)
    seconds = max(600.0, 3 * x.period)
    for domain in sites(world, x):
        world.backlog(int(2 * seconds * x.messages / x.period / 15), domain)
    world.wait(seconds)
    assert x.violations == 0 and x.largest(x.period) <= x.messages
    for source in ("192.0.2.1", "192.0.2.2"):
        assert x.count(source=source) >= 0.95 * seconds * x.messages / x.period


def test_sites_of_one_provider_share_its_limits_of_a_source() -> None:
    layer = Layer("[provider.big]", source=Limits(connections=5, rate=rate("100/min")))
    names = [f"d{n}.example" for n in range(10)]
    world = World(terms=dict.fromkeys(names, Terms(Limits(20), ("provider big",), "big", (layer,))))
    x = limiter(world, "100/min", connections=5)
    for domain in sites(world, x, 10):
        world.backlog(1000, domain)
    world.wait(3600)
    assert x.violations == 0 and x.largest(60.0) <= 100 and x.most["192.0.2.1"] <= 5
    assert x.count() >= 0.95 * 6000


@pytest.mark.parametrize("connections", [2, 20])
def test_a_source_never_has_one_connection_more_than_its_limit_over_all_sites(connections: int) -> None:
    world = World(layers=(Layer("[egress]", source=Limits(connections=connections)),))
    x = Limiter(world.reactor, connections=connections, thinks=0.2)
    domains = sites(world, x)
    for _ in range(20):
        for domain in domains:
            world.backlog(10, domain)
            world.backlog(1, domain, stream="urgent")
        world.wait(10)
    assert x.violations == 0 and x.most["192.0.2.1"] == connections
    world.wait(2 * 3600)
    assert x.count() == 20 * len(domains) * 11  # nobody is forgotten


def test_a_pool_s_rate_holds_for_its_sources_together() -> None:
    world = World(sources=3, layers=(Layer("[pool.default]", pool=Limits(rate=rate("100/min"))),))
    x = Limiter(world.reactor)
    for domain in sites(world, x, 5):
        world.backlog(2000, domain)
    world.wait(1800)
    assert densest([when for when, _ in x.attempts], 60.0) <= 100
    assert x.count() >= 0.95 * 3000


@pytest.mark.parametrize("of_all", [False, True])
def test_an_account_s_rate_holds_for_its_mail_to_everywhere_and_for_nobody_else_s(of_all: bool) -> None:
    slow = Limits(rate=rate("100/min"))
    if of_all:
        world = World(layers=(Layer("[egress]", account=slow),))
    else:
        world = World(accounts={"slow": Stream(layers=(Layer("account slow", account=slow),))})
    x = Limiter(world.reactor)
    for domain in sites(world, x, 5):
        world.backlog(1000, domain, account="slow")
        world.backlog(1000, domain, account="other")
    world.wait(1800)
    begun = [a.when for a in x.arrived if a.sender.startswith("slow@")]
    assert densest(begun, 60.0) <= 100 and len(begun) >= 0.95 * 3000
    assert x.count(sender="other@crm.example") >= (0.95 * 3000 if of_all else 5000)


def test_a_rate_of_new_connections_is_never_exceeded_by_one() -> None:
    world = World(terms={"x.example": Terms(Limits(20, connection_rate=rate("10/min")))})
    x = Provider(world.reactor, thinks=0.2)
    world.serve(x, "x.example")
    world.backlog(5000)
    world.wait(1800)
    assert densest(x.connections, 60.0) <= 10
    assert x.count() == 5000


def test_the_tightest_of_several_limits_holds() -> None:
    layers = (
        Layer("[egress]", source=Limits(rate=rate("100/min"))),
        Layer("[provider.x]", source=Limits(rate=rate("50/min"))),
    )
    world = World(pace="10/s", layers=layers)
    x = limiter(world, "50/min")
    world.serve(x, "x.example")
    world.backlog(5000)
    world.wait(1800)
    assert x.violations == 0 and x.count() >= 0.95 * 1500
    assert "50/m" in why(world.scheduler, "crm/bulk/x.example", world.now)


@pytest.mark.parametrize("pace", ["10/s", "1000/h"])
def test_sites_that_wait_for_a_source_s_rate_are_not_called_on_in_vain(pace: str) -> None:
    world = World(layers=(Layer("[egress]", source=Limits(rate=rate(pace))),))
    x = limiter(world, pace, 10**6)
    domains = sites(world, x)
    for domain in domains:
        world.backlog(200, domain)
    world.wait(max(300.0, x.period))
    assert len(x.connections) <= x.count() + 5 * len(domains)


def test_sites_that_are_slow_to_take_a_connection_keep_no_source_from_its_rate() -> None:
    world = World(layers=(Layer("[egress]", source=Limits(rate=rate("10/s"))),))
    slow, quick = Provider(world.reactor, round_trip=3.0), Provider(world.reactor)
    for n in range(60):
        world.serve(slow, f"slow{n}.example")
        world.backlog(50, f"slow{n}.example")
    for n in range(20):
        world.serve(quick, f"quick{n}.example")
        world.backlog(50, f"quick{n}.example")
    world.wait(60)
    assert slow.count() + quick.count() >= 500
