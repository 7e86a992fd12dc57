"""The hosts that take a domain's mail: MX look-up for delivery (RFC 5321 section 5.1, RFC 7505).

In: a recipient's domain, as A-labels.  Out: ``MailHosts`` in the order to try them, or a ``ResolveError``.  The cache
keeps them without order; each call shuffles equal preferences anew.  A host whose addresses cannot be looked up now is
left out, and then the result holds only briefly.  That no host has an address is permanent (``NoRoute``) if the DNS
says so, and transient if it says nothing.
"""

import hashlib
import ipaddress
import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, zip_longest
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from relayd.resolver.cache import Cache, Shared
from relayd.resolver.faults import LookupFailed, MailLoop, NoMail, NoRoute, NoSuchDomain, ResolveError
from relayd.resolver.stub import ResolverSettings, Stub, is_name, normal
from relayd.resolver.wire import Answer, text

MAX_HOSTS = 16
MAX_ADDRESSES = 16  # of one host
_MAX_SITE = 120
_HASH = 16


class MailHost(msgspec.Struct, frozen=True):
    """One host; ``addresses`` of both families take turns, IPv4 first."""

    name: str
    preference: int
    addresses: tuple[str, ...]


class MailHosts(msgspec.Struct, frozen=True):
    """The hosts of ``domain``, best first, for ``ttl`` seconds from now.  The same MX hosts mean the same ``site``.

    ``secure`` is the AD bit of the MX answer (of the addresses, where there is no MX): worth as much as the way to the
    nameserver.
    """

    domain: str
    hosts: tuple[MailHost, ...]
    ttl: float
    site: str
    secure: bool = False


class _Found(msgspec.Struct, frozen=True):
    """What the cache keeps of a domain; ``ties`` are the (start, end) of hosts with equal preference."""

    hosts: tuple[MailHost, ...]
    ties: tuple[tuple[int, int], ...]
    site: str
    secure: bool


class _Addresses(msgspec.Struct, frozen=True):
    """What is known of a name's addresses; ``fault`` if a family's look-up failed."""

    addresses: tuple[str, ...]
    ttl: float
    secure: bool
    fault: LookupFailed | None
    exists: bool


def _never(address: str, port: int) -> bool:
    return False


class Resolver:
    """Looks up mail hosts, addresses and anything else.

    ``rng`` (default: the system's entropy) gives query ids and shuffles; ``is_ours(address, port)`` says whether this
    relay itself listens there; ``clock`` (default: the reactor) times everything.  ValueError for a bad nameserver.
    """

    def __init__(
        self,
        reactor: Any,
        settings: ResolverSettings,
        rng: random.Random | None = None,
        is_ours: Callable[[str, int], bool] = _never,
        clock: Any = None,
    ) -> None:
        self._stub = Stub(reactor, settings, rng, clock)
        self._settings = settings
        self._rng = rng or random.SystemRandom()
        self._is_ours = is_ours
        self._seconds: Callable[[], float] = (clock or reactor).seconds
        self._cache: Cache[_Found | ResolveError] = Cache(settings.cache_size)
        self._shared: Shared[_Found | ResolveError] = Shared()

    @property
    def totals(self) -> tuple[int, int, int]:
        """Questions that went out since the start, those of them that failed, and answers in the cache."""
        return self._stub.looked_up, self._stub.failed, self._stub.cached

    def cached_hosts(self, domain: str) -> MailHosts | None:
        """The hosts if they are known now; None also where an error is known (``hosts`` then raises it at once)."""
        key = domain.lower().removesuffix(".")
        cached = self._cache.get(key, self._seconds())
        return self._shown(key, *cached) if cached and isinstance(cached[0], _Found) else None  # type: ignore[arg-type]

    async def hosts(self, domain: str) -> MailHosts:
        """The hosts to try, in order; from the cache without waiting.

        Raises NoSuchDomain, NoMail, NoRoute, MailLoop (permanent) or LookupFailed (transient).
        """
        key = normal(domain)
        cached = self._cache.get(key, self._seconds())
        if cached is None:
            found = await self._shared.join(key, partial(self._look_up, key))
            cached = self._cache.get(key, self._seconds()) or (found, 0.0)
        if isinstance(cached[0], ResolveError):
            raise cached[0].again()
        return self._shown(key, cached[0], cached[1])

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a name, both families.  Raises NoSuchDomain, NoRoute if it has none, or LookupFailed."""
        found = await self._addresses(normal(name))
        if found.addresses:
            return found.addresses
        if found.fault:
            raise found.fault
        raise NoRoute(f"{name} has no address") if found.exists else NoSuchDomain(f"{name} does not exist")

    async def query(self, name: str, rdtype: str, *, fresh: bool = False) -> Answer:
        """Any record type; an answer without records is no error.  ``fresh`` ones come from the nameserver, not from
        our cache.  Raises LookupFailed, NoSuchDomain for no name."""
        return await self._stub.query(name, rdtype, fresh=fresh)

    def close(self) -> None:
        """End every look-up; those who wait get LookupFailed."""
        self._stub.close()

    def _shown(self, domain: str, found: _Found, left: float) -> MailHosts:
        hosts = found.hosts
        if found.ties:
            mixed = list(hosts)
            for start, end in found.ties:
                _shuffle(mixed, start, end, self._rng)
            hosts = tuple(mixed)
        return MailHosts(domain, hosts, left, found.site, found.secure)

    async def _look_up(self, domain: str) -> _Found | ResolveError:
        found: _Found | ResolveError
        try:
            mx = await self._stub.query(domain, "MX")
        except LookupFailed as error:
            found, ttl = error, self._settings.failure_ttl
        else:
            try:
                found, ttl = await self._judged(domain, mx)
            except LookupFailed as error:
                found, ttl = error, self._settings.failure_ttl
            except ResolveError as error:
                found, ttl = error, min(mx.ttl, self._settings.max_negative_ttl)
        self._cache.put(domain, found, self._seconds() + ttl)
        return found

    async def _judged(self, domain: str, mx: Answer) -> tuple[_Found, float]:
        """The usable hosts that an MX answer names, and for how long."""
        if not mx.exists:
            raise NoSuchDomain(f"{domain} does not exist (NXDOMAIN from {mx.server})")
        named = sorted({(int(r.preference), text(r.exchange)) for r in mx.records})  # type: ignore[attr-defined]
        if named and all(name == "" for _, name in named):
            raise NoMail(f"{domain} accepts no mail (null MX from {mx.server})")
        # A null MX beside others means nothing (RFC 7505 section 3); no MX at all means the domain itself.
        wanted = [pair for pair in named if is_name(pair[1])] if named else [(0, mx.canonical)]
        known = await self._all_addresses([name for _, name in wanted[:MAX_HOSTS]])
        reached = [MailHost(name, preference, known[name].addresses) for preference, name in wanted if name in known]
        reached = [host for host in reached if host.addresses]
        fault = next((known[name].fault for _, name in wanted if name in known and known[name].fault), None)
        if not reached:
            if fault:
                raise fault
            what = f"none of its MX hosts ({_list(named)}) has" if named else "it has neither MX nor"
            raise NoRoute(f"no host takes mail for {domain}: {what} an address (asked {mx.server})")
        hosts = self._before_us(domain, reached)
        ttls = [mx.ttl, *(known[host.name].ttl for host in reached)] + [self._settings.failure_ttl] * bool(fault)
        secure = mx.authenticated and (bool(named) or known[hosts[0].name].secure)
        return _Found(hosts, _ties(hosts), site_name([name for _, name in wanted]), secure), min(ttls)

    def _before_us(self, domain: str, hosts: list[MailHost]) -> tuple[MailHost, ...]:
        """The hosts that are preferred to this relay, if it is one of them (RFC 5321 section 5.1)."""
        port = self._settings.port
        ours = [host for host in hosts if any(self._is_ours(address, port) for address in host.addresses)]
        if not ours:
            return tuple(hosts)
        limit = min(host.preference for host in ours)
        left = tuple(host for host in hosts if host.preference < limit)
        if not left:
            raise MailLoop(f"mail for {domain} loops back: its best host, {ours[0].name}, is this relay")
        return left

    async def _all_addresses(self, names: list[str]) -> dict[str, _Addresses]:
        """Every host's addresses, all asked at once."""
        tasks = {name: Deferred.fromCoroutine(self._addresses(name)) for name in names}
        return {name: await task for name, task in tasks.items()}

    async def _addresses(self, name: str) -> _Addresses:
        tasks = [Deferred.fromCoroutine(self._tried(name, rdtype)) for rdtype in ("A", "AAAA")]
        results = [await task for task in tasks]
        answers = [result for result in results if isinstance(result, Answer)]
        found = [answer for answer in answers if answer.records]
        fault = next((result for result in results if isinstance(result, LookupFailed)), None)
        families = [[a for a in (r.address for r in answer.records) if _usable(a)] for answer in found]  # type: ignore[attr-defined]
        turns = [address for pair in zip_longest(*families) for address in pair if address]
        ttls = [answer.ttl for answer in found] or [answer.ttl for answer in answers]
        return _Addresses(
            addresses=tuple(turns[:MAX_ADDRESSES]),
            ttl=min([*ttls, self._settings.failure_ttl] if fault else ttls),
            secure=bool(found) and all(answer.authenticated for answer in found),
            fault=fault,
            exists=any(answer.exists for answer in answers),
        )

    async def _tried(self, name: str, rdtype: str) -> Answer | ResolveError:
        try:
            return await self._stub.query(name, rdtype)
        except LookupFailed as error:
            return error
        except NoSuchDomain:  # a CNAME at the domain may lead to what can be no host
            return Answer(name, rdtype, (), self._settings.max_negative_ttl, "", name, exists=False)


def site_name(names: Sequence[str]) -> str:
    """One short name for a set of hosts: "mx.a.example", "(mx1|mx2).a.example", or "(alt1|alt2)?.mx.a.example" with the
    bare name among them.  At most 120 characters; a longer one is cut and ends in a hash of the whole."""
    hosts = sorted(set(names))
    if len(hosts) == 1:
        return _bounded(hosts[0])
    split = [host.split(".")[::-1] for host in hosts]
    shortest = min(map(len, split))
    depth = next((i for i, labels in enumerate(zip(*split, strict=False)) if len(set(labels)) > 1), shortest)
    tail = ".".join(split[0][:depth][::-1])
    heads = [".".join(labels[depth:][::-1]) for labels in split]
    optional = "?" if "" in heads else ""
    return _bounded(f"({'|'.join(filter(None, heads))}){optional}{'.' if tail else ''}{tail}")


def _bounded(name: str) -> str:
    if len(name) <= _MAX_SITE:
        return name
    return name[: _MAX_SITE - _HASH - 1] + "~" + hashlib.sha256(name.encode()).hexdigest()[:_HASH]


def _list(named: list[tuple[int, str]]) -> str:
    names = ", ".join(name for _, name in named[:4])
    return f"{names} and {len(named) - 4} more" if len(named) > 4 else names


def _usable(address: str) -> bool:
    """An address that a host elsewhere can have: the unspecified one and mapped ones lead back to this machine."""
    ip = ipaddress.ip_address(address)
    return not (ip.is_unspecified or ip.is_multicast or (ip.version == 6 and ip.ipv4_mapped))


def _ties(hosts: Sequence[MailHost]) -> tuple[tuple[int, int], ...]:
    ties, start = [], 0
    for _, group in groupby(hosts, key=lambda host: host.preference):
        end = start + len(list(group))
        if end - start > 1:
            ties.append((start, end))
        start = end
    return tuple(ties)


def _shuffle(hosts: list[MailHost], start: int, end: int, rng: random.Random) -> None:
    """Fisher-Yates in place from a single draw: a system call for each swap would cost more than all else in a cached
    look-up.  16! is below 2**45, so the bias of 64 bits cannot be measured.
    """
    draw = rng.getrandbits(64)
    for last in range(end - 1, start, -1):
        draw, pick = divmod(draw, last - start + 1)
        other = start + pick
        hosts[last], hosts[other] = hosts[other], hosts[last]
