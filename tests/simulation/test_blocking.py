"""Nobody waits for somebody else's trouble; priority mail does not wait for a flood."""

from collections.abc import Callable

import pytest

from relayd.queue.state import Stream
from relayd.shaping.limits import Layer, Limits, rate
from relayd.shaping.rules import parse
from tests.simulation.providers import Blocklister, Dropper, Limiter, Provider, down_until
from tests.simulation.world import World

OTHERS = [f"d{n}.example" for n in range(20)]
TROUBLES: dict[str, Callable[[World], Provider]] = {
    "slow": lambda world: Provider(world.reactor, thinks=20.0),
    "tarpit": lambda world: Provider(world.reactor, at_dot=500.0),
    "silent": lambda world: Provider(world.reactor, silent=True),
    "down": lambda world: Provider(world.reactor, up=down_until(world.now + 10**6)),
    "blocking": lambda world: Blocklister(world.reactor, after=10, seconds=1800, permanent=False),
    "dropping": lambda world: Dropper(world.reactor, at=1),
    "suspended": lambda world: Blocklister(world.reactor, after=10, seconds=10**6),
    "limiting": lambda world: Limiter(world.reactor, connections=1, messages=1, period=60.0),
}


def others(trouble: str) -> dict[str, list[float]]:
    """When mail to each of the other domains arrived, with a provider in trouble beside them, if any."""
    rule = parse("blocked", {"codes": "550", "action": "suspend", "for": "1h", "defer": True})
    world = World(pace="5/s", connections=4, reactions=(rule,))
    well = {}
    for domain in OTHERS:
        well[domain] = Provider(world.reactor)
        world.serve(well[domain], domain)
    if trouble:
        world.serve(TROUBLES[trouble](world), "trouble.example")
        world.backlog(5000, "trouble.example")
    for domain in OTHERS:
        world.backlog(500, domain)
    world.wait(90)
    return {domain: [round(a.when - world.now, 6) for a in x.arrived] for domain, x in well.items()}


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[float]]:
    return others("")


@pytest.mark.parametrize("trouble", TROUBLES)
def test_one_site_in_trouble_costs_the_others_not_a_message_and_not_a_moment(trouble, undisturbed) -> None:
    assert all(undisturbed.values())
    assert others(trouble) == undisturbed


def test_a_hundred_and_fifty_tarpits_leave_a_session_to_who_comes_after_them() -> None:
    """They would have all that there may be together, for minutes."""
    world = World()
    for n in range(150):
        world.serve(Provider(world.reactor, at_dot=500.0), f"t{n}.example")
        world.backlog(200, f"t{n}.example")
    world.wait(10)
    well = Provider(world.reactor)
    world.serve(well, "well.example")
    world.backlog(100, "well.example")
    world.wait(30)
    assert well.count() == 100


def test_a_dead_host_among_several_of_a_site_costs_it_no_mail() -> None:
    world = World(pace="5/s")
    dead, well = Provider(world.reactor, silent=True), Provider(world.reactor)
    world.mail_hosts({"mx1.x.example": dead, "mx2.x.example": well, "mx3.x.example": well}, "x.example")
    world.backlog(2000)
    world.wait(600)
    assert well.count() == 2000 and "TransientFailure" not in world.spool.kinds()


@pytest.mark.parametrize(
    ("pace", "connections", "thinks"), [("", 20, 0.05), ("", 4, 0.02), ("300/s", 20, 0.0), ("250/s", 50, 0.02)]
)
def test_transactional_mail_20_a_second_arrives_in_a_second_behind_a_flood(pace, connections, thinks) -> None:
    world = World(pace=pace, connections=connections)
    x = Provider(world.reactor, thinks=thinks)
    world.serve(x, "x.example")
    world.backlog(50_000, account="flood")
    world.wait(10)
    sent = []
    for _ in range(20 * 60):
        world.backlog(1, account="shop", stream="urgent")
        sent.append(world.now)
        world.wait(0.05)
    world.wait(1)
    arrived = [a.when for a in x.arrived if a.sender.startswith("shop@")]
    assert x.count() - len(arrived) < 50_000  # the flood lasts
    assert len(arrived) == len(sent)
    assert max(there - here for here, there in zip(sent, arrived, strict=True)) < 1.0


def test_transactional_mail_passes_a_flood_at_the_rate_of_a_source_over_many_sites() -> None:
    world = World(layers=(Layer("[egress]", source=Limits(rate=rate("50/s"))),))
    x = Provider(world.reactor)
    for domain in OTHERS:
        world.serve(x, domain)
        world.backlog(5000, domain, account="flood")
    world.wait(10)
    sent = []
    for n in range(120):
        world.backlog(1, OTHERS[n % 20], account="shop", stream="urgent")
        sent.append(world.now)
        world.wait(0.5)
    world.wait(1)
    arrived = [a.when for a in x.arrived if a.sender.startswith("shop@")]
    assert len(arrived) == len(sent)
    assert max(there - here for here, there in zip(sent, arrived, strict=True)) < 1.0
    assert x.count() >= 0.95 * 50 * 70


@pytest.mark.parametrize("limits", [Limits(rate=rate("1/min")), Limits(connections=1)])
def test_an_account_at_its_own_limit_costs_others_on_the_same_paths_nothing(limits: Limits) -> None:
    """Of a path's ten a second the limited account has what it may, the others the rest."""
    world = World(pace="10/s", accounts={"bound": Stream(layers=(Layer("account bound", account=limits),))})
    well = {}
    for domain in OTHERS[:5]:
        well[domain] = Provider(world.reactor)
        world.serve(well[domain], domain)
        world.backlog(5000, domain, account="bound")
        world.backlog(5000, domain, account="free")
    world.wait(300)
    for x in well.values():
        assert x.count() >= 0.95 * 3000
        if limits.rate:
            assert x.count(sender="free@crm.example") >= 0.95 * 3000 - 6
        else:
            assert x.count(sender="free@crm.example") >= 0.95 * 1500
    if limits.rate:
        assert sum(x.count(sender="bound@crm.example") for x in well.values()) <= 5


def test_an_account_with_a_backlog_for_a_thousand_sites_that_are_down_shuts_nobody_out_of_memory() -> None:
    world = World()
    for n in range(1000):
        world.serve(Provider(world.reactor, silent=True), f"t{n}.example")
        world.backlog(100, f"t{n}.example", account="unlucky")
    well = Provider(world.reactor)
    world.serve(well, "well.example")
    world.backlog(1000, "well.example")
    world.wait(60)
    assert well.count() == 1000
