"""Who shares a path gets the same of it, however much they have: within a tenth, by weight."""

import pytest

from relayd.queue.state import Stream
from relayd.shaping.limits import Layer, Limits, rate
from tests.simulation.providers import Provider
from tests.simulation.world import World

ACCOUNTS = 50
SIZES = {f"a{n}": round(50_000 ** (n / (ACCOUNTS - 1))) for n in range(ACCOUNTS)}  # 1 to 50,000


def fair(sizes: dict[str, int], weights: dict[str, float], total: float) -> dict[str, float]:
    """Max-min shares of so many: nobody has more than it asked for, and the rest have the same for their weight."""
    given: dict[str, float] = {}
    left, open_ = total, dict(sizes)
    while open_:
        level = left / sum(weights[name] for name in open_)
        small = {name: size for name, size in open_.items() if size <= level * weights[name]}
        if not small:
            return given | {name: level * weights[name] for name in open_}
        given |= small
        left -= sum(small.values())
        for name in small:
            del open_[name]
    return given


def assert_fair(counts: dict[str, int], sizes: dict[str, int], weights: dict[str, float], most: float) -> None:
    """Within a tenth; nobody is wronged by the one message that falls to another first."""
    shares = fair(sizes, weights, sum(counts.values()))
    for name, share in shares.items():
        assert abs(counts.get(name, 0) - share) <= max(most, 0.1 * share), (name, counts.get(name, 0), share)


def taken(*providers: Provider) -> dict[str, int]:
    counts: dict[str, int] = {}
    for provider in providers:
        for sender, count in provider.by_sender().items():
            account = sender.partition("@")[0]
            counts[account] = counts.get(account, 0) + count
    return counts


@pytest.mark.parametrize(("pace", "thinks", "seconds"), [("20/s", 0.0, 600), ("", 0.1, 300)])
def test_fifty_accounts_with_1_to_50000_messages_have_the_same_of_a_path(pace, thinks, seconds) -> None:
    world = World(pace=pace)
    x = Provider(world.reactor, thinks=thinks)
    world.serve(x, "x.example")
    for account, size in sorted(SIZES.items(), key=lambda item: -item[1]):  # the largest come first
        world.backlog(size, account=account)
    world.wait(seconds)
    counts = taken(x)
    assert sum(counts.values()) > 10_000
    assert_fair(counts, SIZES, dict.fromkeys(SIZES, 1.0), 2)


def test_an_account_has_of_a_path_what_its_weight_says() -> None:
    weights = {f"a{n}": float(1 + n % 4) for n in range(20)}
    world = World(pace="20/s", accounts={name: Stream(weight=weight) for name, weight in weights.items()})
    x = Provider(world.reactor)
    world.serve(x, "x.example")
    for account in weights:
        world.backlog(5000, account=account)
    world.wait(600)
    assert_fair(taken(x), dict.fromkeys(weights, 5000), weights, 2)


def test_an_account_that_comes_late_has_its_share_from_then_on_and_nothing_of_the_past() -> None:
    world = World(pace="10/s")
    x = Provider(world.reactor)
    world.serve(x, "x.example")
    world.backlog(20_000, account="early")
    world.wait(600)
    before = x.count()
    world.backlog(20_000, account="late")
    world.wait(600)
    since = x.count() - before
    assert taken(x)["late"] == pytest.approx(since / 2, rel=0.1)


def test_an_account_with_many_domains_on_one_set_of_hosts_has_no_more_than_one_with_a_single_domain() -> None:
    world = World(pace="20/s")
    x = Provider(world.reactor)
    domains = [f"d{n}.example" for n in range(30)]
    world.serve(x, *domains)
    for domain in domains:
        world.backlog(500, domain, account="many")
    world.backlog(15_000, domains[0], account="one")
    world.wait(600)
    counts = taken(x)
    assert counts["one"] == pytest.approx(counts["many"], rel=0.1)


def many_sites(weights: dict[str, float], sizes: dict[str, int]) -> dict[str, int]:
    """What accounts have of one source at 20/s in ten minutes, each with mail to sites of its own number and choice."""
    accounts = {name: Stream(weight=weight) for name, weight in weights.items()}
    world = World(layers=(Layer("[egress]", source=Limits(rate=rate("20/s"))),), accounts=accounts)
    x = Provider(world.reactor)
    for n in range(60):
        world.serve(x, f"d{n}.example")
    for number, (account, size) in enumerate(sorted(sizes.items(), key=lambda item: -item[1])):
        spread = min(size, 1 + number * 7 % 23)
        for n in range(spread):
            world.backlog(size // spread + (n < size % spread), f"d{(number + 11 * n) % 60}.example", account=account)
    world.wait(600)
    counts = taken(x)
    assert 0.95 * 12_000 <= sum(counts.values()) <= 12_000
    return counts


def test_fifty_accounts_with_1_to_50000_messages_have_the_same_of_a_source_over_many_sites() -> None:
    weights = dict.fromkeys(SIZES, 1.0)
    assert_fair(many_sites(weights, SIZES), SIZES, weights, 4)


def test_an_account_has_of_a_source_over_many_sites_what_its_weight_says() -> None:
    weights = {f"a{n}": float(1 + n % 4) for n in range(20)}
    sizes = dict.fromkeys(weights, 5000)
    assert_fair(many_sites(weights, sizes), sizes, weights, 4)
