"""The stub resolver (RFC 1034 section 5.3.1): one question, asked of the configured nameservers until one answers.

In: a name and a record type.  Out: an ``Answer``, from the cache while it holds, or ``LookupFailed``.  All who ask the
same at once share one query; queries under way and waiting are both bounded.  A silent server rests for a while.
"""

import ipaddress
import random
import re
import secrets
from functools import partial
from typing import Any

import dns.flags
import dns.rcode
import dns.resolver
import msgspec
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, TimeoutError
from twisted.logger import Logger

from relayd.resolver.cache import Cache, Shared
from relayd.resolver.faults import LookupFailed, NoSuchDomain, ResolveError
from relayd.resolver.wire import Answer, Unanswered, meaning, over_tcp, over_udp, question

_MAX_HOPS = 8  # answers that only lead on to another name; within one answer dnspython allows 16
_SILENCES = 2  # time-outs in a row before a server rests: one lost datagram proves nothing
_SAID = {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}
_KNOWS_NO_EDNS = {dns.rcode.FORMERR, dns.rcode.NOTIMP, dns.rcode.BADVERS}  # RFC 6891 section 7
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}\Z")  # a number at the end means an IP address


class ResolverSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nameservers: "host:port", "[v6]:port" or a bare address; none means those of ``resolv_conf``.  Times: seconds."""

    nameservers: tuple[str, ...] = ()
    resolv_conf: str = "/etc/resolv.conf"
    timeout: float = 3.0  # for each try at one server
    tries: int = 2  # rounds over the servers
    rest: float = 30.0  # how long a silent server is asked only if all are silent
    max_inflight: int = 256  # queries, so sockets
    max_waiting: int = 20_000  # others, in order
    patience: float = 60.0  # how long one of them waits
    cache_size: int = 50_000  # answers, and again as many domains
    min_ttl: float = 1.0
    max_ttl: float = 86_400.0
    min_negative_ttl: float = 5.0
    max_negative_ttl: float = 3_600.0
    failure_ttl: float = 10.0  # how long a failure is repeated without asking again
    port: int = 25  # where mail is delivered to: this relay listening there is a loop


class Nameserver:
    """One server and how it has behaved."""

    def __init__(self, address: str) -> None:
        self.address = endpoint(address)
        host, port = self.address
        self.name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.silences = 0
        self.rests_until = 0.0


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of a nameserver.  Raises ValueError with a sentence for the operator."""
    bare = address.count(":") > 1 and not address.startswith("[")
    match = None if bare else re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:\[\]]+)(?::(\d{1,5}))?", address)
    host, port = (address, "53") if match is None else (match[1] or match[3], match[2] or match[4] or "53")
    try:
        if not 0 < int(port) < 65536:
            raise ValueError
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError:
        raise ValueError(
            f"{address!r} is not a nameserver: write 192.0.2.1:53, [2001:db8::1]:53 or the bare IP"
        ) from None


def system_nameservers(resolv_conf: str) -> list[str]:
    """The addresses in resolv.conf; this host's own, as the C library does, if it names none."""
    reader = dns.resolver.Resolver(configure=False)
    try:
        reader.read_resolv_conf(resolv_conf)
    except (OSError, dns.resolver.NoResolverConfiguration):
        return ["127.0.0.1"]
    return [str(server) for server in reader.nameservers] or ["127.0.0.1"]


def is_name(name: str) -> bool:
    """Whether a host may be called so: A-labels in lower case, no final dot; underscores are tolerated."""
    return _NAME.match(name) is not None


def normal(name: str) -> str:
    """The name in lower case without the final dot.  Raises NoSuchDomain if it cannot be a domain name."""
    plain = name.lower().removesuffix(".")
    if not is_name(plain):
        raise NoSuchDomain(f"{name[:80]!r} is not a domain name")
    return plain


class Stub:
    """``rng`` gives the query ids and must not be predictable; ``clock`` (default: the reactor) times everything."""

    log = Logger(namespace="relayd.resolver")

    def __init__(
        self, reactor: Any, settings: ResolverSettings, rng: random.Random | None = None, clock: Any = None
    ) -> None:
        self._reactor = reactor
        self._clock = clock or reactor
        self._settings = settings
        self._rng = rng or secrets.SystemRandom()
        names = settings.nameservers or system_nameservers(settings.resolv_conf)
        self._servers = [Nameserver(name) for name in names]
        self._cache: Cache[Answer | ResolveError] = Cache(settings.cache_size)
        self._shared: Shared[Answer | ResolveError] = Shared()
        self._slots = DeferredSemaphore(settings.max_inflight)
        self._closed = False
        self.looked_up = 0  # questions that the cache did not answer
        self.failed = 0

    async def query(self, name: str, rdtype: str, *, fresh: bool = False) -> Answer:
        """The answer, which may be that there is none; a ``fresh`` one is asked for whatever the cache holds.
        Raises LookupFailed, NoSuchDomain for what is no name."""
        key = normal(name), rdtype.upper()
        cached = None if fresh else self._cache.get(key, self._clock.seconds())
        if cached is not None:
            found, left = cached
            if isinstance(found, Answer):
                return msgspec.structs.replace(found, ttl=left)
        else:
            found = await self._shared.join(key, partial(self._look_up, *key))
        if isinstance(found, ResolveError):
            raise found.again()
        return found

    @property
    def cached(self) -> int:
        """Answers in the cache."""
        return len(self._cache)

    def close(self) -> None:
        """End every query; those who wait get LookupFailed."""
        self._closed = True
        self._shared.cancel()

    async def _look_up(self, name: str, rdtype: str) -> Answer | ResolveError:
        found: Answer | ResolveError
        self.looked_up += 1
        try:
            found = await self._chase(name, rdtype)
            ttl = found.ttl
        except LookupFailed as error:
            found, ttl = error, self._settings.failure_ttl
        except CancelledError:
            return LookupFailed(f"DNS look-up of {rdtype} for {name} was ended: the resolver is closing")
        except Exception:
            self.log.failure("DNS look-up of {rdtype} for {name} failed by our own fault", rdtype=rdtype, name=name)
            found, ttl = LookupFailed(f"DNS look-up of {rdtype} for {name} failed by our own fault, see the log"), 1.0
        self.failed += not isinstance(found, Answer)
        now = self._clock.seconds()
        # A fresh question that fails takes nothing from what is known.
        if isinstance(found, Answer) or self._cache.get((name, rdtype), now) is None:
            self._cache.put((name, rdtype), found, now + ttl)
        return found

    async def _chase(self, name: str, rdtype: str) -> Answer:
        """Ask, and ask on while answers only lead to other names."""
        target, ttl, authenticated = name, self._settings.max_ttl, True
        for _ in range(_MAX_HOPS):
            answer = await self._in_turn(target, rdtype)
            ttl = min(ttl, answer.ttl)
            authenticated = authenticated and answer.authenticated
            if not answer.unfinished:
                return msgspec.structs.replace(
                    answer, name=name, ttl=self._within(ttl, bool(answer.records)), authenticated=authenticated
                )
            target = answer.canonical
        raise LookupFailed(f"DNS look-up of {rdtype} for {name} led through too many CNAMEs ({answer.server})")

    def _within(self, ttl: float, positive: bool) -> float:
        least, most = (
            (self._settings.min_ttl, self._settings.max_ttl)
            if positive
            else (self._settings.min_negative_ttl, self._settings.max_negative_ttl)
        )
        return max(least, min(most, ttl))

    async def _in_turn(self, name: str, rdtype: str) -> Answer:
        """Wait for a free slot, in order, and ask."""
        settings = self._settings
        if self._closed:
            raise LookupFailed(f"DNS look-up of {rdtype} for {name} was not begun: the resolver is closed")
        if len(self._slots.waiting) >= settings.max_waiting:
            raise LookupFailed(f"DNS look-up of {rdtype} for {name} was not begun: {settings.max_waiting} others wait")
        slot: Deferred[Any] = self._slots.acquire()
        if not slot.called:
            slot.addTimeout(settings.patience, self._clock)
        try:
            await slot
        except TimeoutError:
            raise LookupFailed(f"DNS look-up of {rdtype} for {name} waited too long behind other queries") from None
        try:
            return await self._ask(name, rdtype)
        finally:
            if self._slots.waiting:
                # In a turn of its own: thousands of look-ups that fail at once (no socket, no network) would nest.
                self._reactor.callLater(0, self._slots.release)
            else:
                self._slots.release()

    async def _ask(self, name: str, rdtype: str) -> Answer:
        """The first usable answer of any server.  Silent servers are asked again, those that answered badly are not."""
        faults: dict[str, str] = {}
        now = self._clock.seconds()
        servers = [server for server in self._servers if server.rests_until <= now]
        rounds = self._settings.tries if servers else 1  # all silent lately: one look whether any is back
        servers = servers or list(self._servers)
        for _ in range(rounds):
            for server in list(servers):
                try:
                    reply = await self._exchange(server, name, rdtype)
                    if reply.rcode() in _SAID:
                        return meaning(reply, name, rdtype, server.name)
                    faults[server.name] = f"answered {dns.rcode.to_text(reply.rcode())}"
                    servers.remove(server)
                except Unanswered as error:
                    faults[server.name] = str(error)
        told = "; ".join(f"{server} {fault}" for server, fault in faults.items())
        raise LookupFailed(f"DNS look-up of {rdtype} for {name} failed: {told}")

    async def _exchange(self, server: Nameserver, name: str, rdtype: str) -> Any:
        """One server's reply: without EDNS if it knows none, over TCP if the datagram was too small for it."""
        for edns in (True, False):
            query = question(name, rdtype, self._rng.getrandbits(16), edns)
            asked = self._reactor, self._clock, server.address, query, self._settings.timeout
            try:
                reply = await over_udp(*asked)
            except Unanswered as error:
                self._silent(server, error)
                raise
            server.silences, server.rests_until = 0, 0.0
            if reply.flags & dns.flags.TC:
                reply = await over_tcp(*asked)
            if reply.rcode() not in _KNOWS_NO_EDNS:
                break
        return reply

    def _silent(self, server: Nameserver, error: Unanswered) -> None:
        server.silences += 1
        if server.silences < _SILENCES:
            return
        now = self._clock.seconds()
        if server.rests_until <= now:
            facts = {"name": server.name, "error": str(error), "rest": self._settings.rest}
            self.log.warn("nameserver {name} {error}; rests for {rest:g} s", **facts)
        server.rests_until = now + self._settings.rest
