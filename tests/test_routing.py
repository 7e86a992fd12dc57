"""Routing: from domains to sites."""

import pytest
from twisted.internet.defer import Deferred

from relayd.delivery.routing import Hop, Policy, Router, Site, StaticRoute, words
from relayd.resolver import LookupFailed
from relayd.shaping.limits import Limits, Rate, Terms
from tests.harness import Names


def router(routes: dict[str, StaticRoute] | None = None) -> tuple[Router, Names]:
    names = Names()
    addresses = ("203.0.113.1", "2001:db8::1")
    names.domains["x.example"] = [("mx1.x.example", addresses), ("mx2.x.example", ("203.0.113.2",))]
    return Router(names, (routes or {}).get, 25, lambda domain, hosts: Policy(), lambda: 1000.0), names  # type: ignore[arg-type]


def asked(router: Router, domain: str) -> Site:
    found: list[Site] = []
    Deferred.fromCoroutine(router.site(domain)).addCallback(found.append)
    return found[0]


def test_a_domain_goes_to_its_hosts_in_order_with_every_address():
    made, _ = router()
    site = asked(made, "x.example")
    assert [(hop.mx, hop.address, hop.port) for hop in site.hops] == [
        ("mx1.x.example", "203.0.113.1", 25),
        ("mx1.x.example", "2001:db8::1", 25),
        ("mx2.x.example", "203.0.113.2", 25),
    ]
    assert site.until == 4600.0 and site.policy.tls == "may" and site.login == ""


def test_domains_with_the_same_hosts_are_one_site():
    made, names = router()
    names.domains["y.example"] = names.domains["x.example"]
    assert asked(made, "x.example").name == asked(made, "y.example").name


def test_a_static_route_to_an_address_is_known_at_once_and_asks_nobody():
    made, names = router({"x.example": StaticRoute("127.0.0.1", 2600, Policy("encrypt"), "login", "secret")})
    site = made.known("x.example")
    assert site is not None and site.hops == (Hop("127.0.0.1", "127.0.0.1", 2600),)
    assert (site.policy.tls, site.login, site.password) == ("encrypt", "login", "secret")
    assert made.known("y.example") is None and names.asked == []


@pytest.mark.parametrize("host", ["::1", "2001:db8::1"])
def test_a_static_route_may_name_an_ipv6_address(host):
    made, _ = router({"x.example": StaticRoute(host, 25)})
    site = made.known("x.example")
    assert site is not None and site.hops[0].address == host


def test_localhost_is_both_its_addresses_and_asks_nobody():
    made, names = router({"x.example": StaticRoute("localhost", 2600)})
    assert made.known("x.example") is None
    assert [hop.address for hop in asked(made, "x.example").hops] == ["127.0.0.1", "::1"]
    assert names.asked == []


def test_a_static_route_to_a_name_looks_up_that_name_and_no_mx():
    made, names = router({"y.example": StaticRoute("smart.example", 587)})
    names.domains["smart.example"] = [("smart.example", ("198.51.100.1",))]
    assert asked(made, "y.example").hops == (Hop("smart.example", "198.51.100.1", 587),)
    assert names.asked == []


def test_a_fault_of_the_dns_goes_through():
    made, names = router()
    names.domains["x.example"] = LookupFailed("no answer")
    faults: list[type] = []
    Deferred.fromCoroutine(made.site("x.example")).addErrback(lambda failure: faults.append(failure.type))
    assert faults == [LookupFailed]


def test_words_of_a_fault_are_never_empty():
    assert words(ValueError("it broke.")) == "it broke"
    assert words(KeyError()) == "KeyError"


def test_domains_with_the_same_hosts_and_other_policies_are_other_sites():
    """A session that one may have in clear must not carry what the other wants encrypted."""
    policies = {
        "bank.example": Policy("verify"),
        "slow.example": Policy("may", Terms(Limits(1, Rate(5, 1.0)), ("site slow.example",))),
    }
    names = Names()
    for domain in ("shop.example", "bank.example", "slow.example"):
        names.domains[domain] = [("mx.big.example", ("203.0.113.1",))]
    made = Router(names, {}.get, 25, lambda domain, hosts: policies.get(domain, Policy()), lambda: 1000.0)  # type: ignore[arg-type]
    shop, bank, slow = (asked(made, domain) for domain in ("shop.example", "bank.example", "slow.example"))
    assert bank.name == f"{shop.name} (tls verify)" and slow.name == f"{shop.name} (site slow.example)"


def test_routes_to_the_same_host_with_other_policies_or_logins_are_other_sites():
    routes = {
        "a.example": StaticRoute("127.0.0.1", 2600),
        "b.example": StaticRoute("127.0.0.1", 2600, Policy("encrypt")),
        "c.example": StaticRoute("127.0.0.1", 2600, Policy("encrypt"), "crm-1", "secret"),
        "d.example": StaticRoute("127.0.0.1", 2600, Policy("encrypt"), "crm-2", "secret"),
    }
    made, _ = router(routes)
    sites = [made.known(domain) for domain in routes]
    assert [site.name for site in sites if site] == [
        "127.0.0.1:2600",
        "127.0.0.1:2600 (tls encrypt)",
        "127.0.0.1:2600 (tls encrypt, login crm-1)",
        "127.0.0.1:2600 (tls encrypt, login crm-2)",
    ]


def test_a_next_hop_on_the_submissions_port_speaks_tls_from_the_first_byte():
    made, _ = router({"x.example": StaticRoute("127.0.0.1", 465), "y.example": StaticRoute("127.0.0.1", 587)})
    assert made.known("x.example").implicit and not made.known("y.example").implicit
