"""Routing: a domain to the site that takes its mail, and a site to the hosts and addresses to try, in order.

Enter: static routes, the resolver's answers.  Leave: ``Site`` values.  With a static route nothing is looked up for the
domain.  RFC 5321 section 5.1.
"""

from collections.abc import Callable
from typing import Literal

import msgspec
from twisted.python.failure import Failure

from relayd.envelope import FALLBACK
from relayd.resolver import LookupFailed, MailHosts, Resolver
from relayd.shaping.limits import Terms
from relayd.tls import is_address

SUBMISSIONS = 465  # a next hop on this port speaks TLS from the first byte

# off: never; may: if it can be had, else in clear; encrypt: only with TLS; verify: only with a valid certificate of the
# MX host's name.  What a domain itself demands (MTA-STS, DANE) will be levels of their own.
Level = Literal["off", "may", "encrypt", "verify"]


class Policy(msgspec.Struct, frozen=True):
    """What holds towards a site."""

    tls: Level = "may"
    terms: Terms = Terms()


class Hop(msgspec.Struct, frozen=True):
    """One address to try, and the name of the host it belongs to."""

    mx: str
    address: str
    port: int
    preference: int = 0


class Site(msgspec.Struct, frozen=True):
    """Where mail of a domain goes: ``hops`` by preference, good until ``until`` (reactor seconds)."""

    name: str
    hops: tuple[Hop, ...]
    until: float
    policy: Policy = Policy()
    login: str = ""
    password: str = ""
    implicit: bool = False  # TLS from the first byte (RFC 8314)

    @property
    def group(self) -> str:
        """Its provider, or itself where it is nobody's we know by name."""
        return self.policy.terms.group or self.name


class StaticRoute(msgspec.Struct, frozen=True):
    """A configured next hop."""

    host: str
    port: int
    policy: Policy = Policy()
    login: str = ""
    password: str = ""


# The policy for (domain, its MX hosts, the most preferred first, equals by name: the same whenever it is asked).
PolicyOf = Callable[[str, tuple[str, ...]], Policy]


class NoFallback(LookupFailed):
    """The configuration names the fallback no more: its mail has to go elsewhere, all of it and now."""


class Router:
    """Finds sites.  ``find`` gives the static route of a domain, if it has one, or of a fallback."""

    def __init__(
        self,
        resolver: Resolver,
        find: Callable[[str], StaticRoute | None],
        port: int,
        policy_of: PolicyOf,
        now: Callable[[], float],
    ) -> None:
        self._resolver = resolver
        self._find = find
        self._port = port
        self._policy_of = policy_of
        self._general = policy_of("", ())
        self._now = now

    def known(self, domain: str) -> Site | None:
        """The site, if it can be said without asking anybody: the hot path."""
        route = self._find(domain)
        if route is not None:
            return self._static(route, (route.host,)) if is_address(route.host) else None
        hosts = self._resolver.cached_hosts(domain)
        return self._by_mx(domain, hosts) if hosts is not None else None

    async def site(self, domain: str) -> Site:
        """The site.  Raises resolver.ResolveError, NoFallback among them."""
        route = self._find(domain)
        if route is None and domain.startswith(FALLBACK):
            raise NoFallback(f"[fallback.{domain.removeprefix(FALLBACK)}] is not in the configuration any more")
        if route is None:
            return self._by_mx(domain, await self._resolver.hosts(domain))
        if route.host == "localhost":
            return self._static(route, ("127.0.0.1", "::1"))
        return self._static(route, await self._resolver.addresses(route.host))

    def _static(self, route: StaticRoute, addresses: tuple[str, ...]) -> Site:
        hops = tuple(Hop(route.host, address, route.port) for address in addresses)
        name = self._called(f"{route.host}:{route.port}", route.policy, route.login)
        implicit = route.port == SUBMISSIONS
        return Site(name, hops, self._now() + 60, route.policy, route.login, route.password, implicit)

    def _by_mx(self, domain: str, found: MailHosts) -> Site:
        hops = tuple(
            Hop(host.name, address, self._port, host.preference) for host in found.hosts for address in host.addresses
        )
        hosts = sorted((host.preference, host.name) for host in found.hosts)
        policy = self._policy_of(domain, tuple(name for _, name in hosts))
        return Site(self._called(found.site, policy), hops, self._now() + found.ttl, policy)

    def _called(self, hosts: str, policy: Policy, login: str = "") -> str:
        """The site's name.  Domains with the same hosts are one site only if the same holds for them: sessions are the
        site's, and one made in clear must not carry what another domain wants encrypted."""
        differs = list(policy.terms.names)
        differs += [f"tls {policy.tls}"] if policy.tls != self._general.tls else []
        differs += [f"login {login}"] if login else []
        return f"{hosts} ({', '.join(differs)})" if differs else hosts


def words(failure: Failure | Exception) -> str:
    """What went wrong, for an operator, without the class names of a traceback."""
    error = failure.value if isinstance(failure, Failure) else failure
    text = str(error) or type(error).__name__
    return text.rstrip(".")
