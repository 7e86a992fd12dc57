"""From configuration values to rooms: what each part of a relay is made with.  Plain functions, no state.

Enter: a ``Config``.  Leave: sources and pools, streams, routes, doors and limits as the rooms want them.
"""

import ipaddress
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from relayd import config, notation
from relayd.blocklists import Blocklists
from relayd.classify import Classifier
from relayd.classify import load as load_classification
from relayd.contentfilter import ContentFilter
from relayd.contentfilter import Settings as FilterSettings
from relayd.control.door import DoorService
from relayd.control.door import Settings as ApiSettings
from relayd.control.verb import Relay as Controlled
from relayd.credentials import HTTPChecker
from relayd.delivery.courier import Settings
from relayd.delivery.outcomes import Settings as OutcomeSettings
from relayd.delivery.routing import Router, StaticRoute
from relayd.delivery.session import Timeouts
from relayd.destinations import Destinations
from relayd.directory import Directory
from relayd.egress.pools import Pools, Source
from relayd.envelope import FALLBACK
from relayd.exports import Settings as ExportSettings
from relayd.feeds import FileSettings, RedisSettings
from relayd.feeds import Settings as FeedSettings
from relayd.guard import Settings as GuardSettings
from relayd.listener import Limits as DoorLimits
from relayd.listener import ListenerService, SMTPServerFactory
from relayd.mailroom import Mailroom
from relayd.message.dkim import Key, load_key
from relayd.quotas import Limits
from relayd.reception import Allowed, Relay, RelayDoor, ReturnsDoor
from relayd.reputation import Reputation
from relayd.resolver import Resolver, ResolverSettings
from relayd.sandbox import Sandbox
from relayd.shaping.limits import rate
from relayd.signing import Rules as SigningRules
from relayd.smtp.events import ServerSettings
from relayd.ssh.keys import read as read_people
from relayd.statistics import Settings as Counting
from relayd.streams import Streams
from relayd.suspicion import Settings as SuspicionSettings
from relayd.tls import ClientTLS, ServerTLS, trust
from relayd.validation import Lists, read_lists, read_traps
from relayd.verification import returning
from relayd.webhooks.post import Settings as WebhookSettings

if TYPE_CHECKING:
    from relayd.ssh.server import Settings as SSHSettings
    from relayd.ssh.server import SSHService

# Addresses that only this machine or its own network sees.
_LOCAL = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "::1",
    "fc00::/7",
    "fe80::/10",
)

_KEPT = 30 * 86400.0  # seconds that records are there


def pools(loaded: config.Config) -> Pools:
    sources = {name: Source(name, source.address, source.ehlo) for name, source in loaded.source.items()}
    overflow = {name: pool.overflow for name, pool in loaded.pool.items() if pool.overflow}
    made = Pools(sources, {name: dict(pool.sources) for name, pool in loaded.pool.items()}, overflow)
    moving = {rule.to for rule in loaded.reaction.values() if rule.to}
    made.refuges = {source for name in moving for source in loaded.pool[name].sources}
    return made


def signing(loaded: config.Config, *, prove: bool = False) -> SigningRules:
    """Keys that can be read, and the words for those that cannot: at run time no key is a reason to stop.
    ``prove`` also checks their arithmetic, 90 ms for an RSA key."""
    keys: dict[str, tuple[Key, ...]] = {}
    faults: dict[str, str] = {}
    for name, table in loaded.dkim.items():
        domain = notation.hostname(name)
        for selector, file in ((table.selector, table.key), (table.second_selector, table.second_key)):
            try:
                if file:
                    private = load_key(Path(file).read_bytes(), known=not prove)
                    keys[domain] = (*keys.get(domain, ()), Key(domain, selector, private))
            except OSError as error:
                faults[domain] = f"{file}: {error.strerror}"
            except ValueError as error:
                faults[domain] = f"{file}: {error}"
    return SigningRules(keys, faults, loaded.node.dkim_domain)


def checker(reactor: Any, loaded: config.Config) -> HTTPChecker | None:
    """Whom to ask about logins, if anybody.  Raises OSError or ValueError for a file that cannot be used."""
    auth = loaded.auth
    if auth is None:
        return None
    token = Path(auth.token_file).read_text("ascii").strip() if auth.token_file else ""
    return HTTPChecker(reactor, auth.url, auth.timeout, trust(auth.authorities), token)


def content_filter(reactor: Any, loaded: config.Config) -> ContentFilter | None:
    """What sees the content of mail, if anything does.  Raises OSError or ValueError for a file that cannot be used."""
    asked = loaded.filter
    if asked is None:
        return None
    given = msgspec.structs.asdict(asked)
    authorities, fates = given.pop("authorities"), given.pop("actions")
    return ContentFilter(reactor, FilterSettings(**given, fates=fates), trust(authorities))


def suspicion_settings(loaded: config.Config) -> SuspicionSettings:
    asked = loaded.suspicion
    return SuspicionSettings(asked.threshold, asked.calm, asked.rest, asked.memory)


def webhook_settings(loaded: config.Config) -> tuple[WebhookSettings, Any]:
    """And whose certificates count.  Raises OSError or ValueError for a file that cannot be used."""
    asked = loaded.webhooks
    return WebhookSettings(asked.allow, asked.timeout, asked.give_up), trust(asked.authorities)


def seen(source: config.Source) -> list[str]:
    """Its addresses as the world sees them; those that it does not see, it is not told."""
    return [address for address in source.public or source.address if not notation.within(address, _LOCAL)]


def configure_blocklists(blocklists: Blocklists, loaded: config.Config) -> None:
    sources = {name: seen(source) for name, source in loaded.source.items()}
    blocklists.configure(loaded.blocklists.zones, loaded.blocklists.drain, sources)


def configure_reputation(reputation: Reputation, loaded: config.Config) -> None:
    """What is too much from now on."""
    reputation.configure(loaded.reputation)
    reputation.traps = read_traps(loaded.reputation.traps)


def validation_lists(loaded: config.Config) -> Lists:
    """Raises InputError for a file that cannot be read."""
    return read_lists(msgspec.structs.asdict(loaded.validation))


def courier_settings(loaded: config.Config, streams: Streams) -> Settings:
    """Raises InputError for rules of classification that cannot be used."""
    egress = loaded.egress
    return Settings(
        classifier=Classifier(load_classification(loaded.feedback.rules)),
        client_tls=ClientTLS(egress.authorities),
        outcomes=OutcomeSettings(
            loaded.node.name, streams.rules, streams.lives, loaded.retry.delay_report, loaded.fallback
        ),
        timeouts=Timeouts(
            banner=egress.banner,
            ehlo=egress.ehlo,
            helo=egress.ehlo,
            starttls=egress.starttls,
            tls=egress.starttls,
            auth=egress.auth,
            idle=egress.idle,
            rset=egress.rset,
            mail=egress.mail,
            rcpt=egress.rcpt,
            data=egress.data,
            body=egress.data,
            dot=egress.dot,
            quit=egress.quit,
        ),
        connect=egress.connect,
        deliveries_per_session=egress.deliveries_per_session,
        drain=loaded.node.drain,
    )


def feeds(loaded: config.Config) -> dict[str, FeedSettings]:
    made: dict[str, FeedSettings] = {}
    for name, feed in loaded.feed.items():
        given = msgspec.structs.asdict(feed)
        del given["type"]
        made[name] = FileSettings(**given) if isinstance(feed, config.FileFeed) else RedisSettings(**given)
    return made


def export_settings(loaded: config.Config) -> ExportSettings:
    return ExportSettings(loaded.exports.keep, loaded.exports.max_size, loaded.node.min_free)


def records_kept(loaded: config.Config) -> float:
    """Seconds: as long as anything can come back, if it comes to us."""
    return max(_KEPT, loaded.feedback.accept) if loaded.feedback.domain else _KEPT


def counting(loaded: config.Config) -> Counting:
    asked = loaded.statistics
    return Counting(frozenset(loaded.provider), asked.minutes, asked.hours, asked.days)


def guard_settings(loaded: config.Config) -> GuardSettings:
    return GuardSettings(**msgspec.structs.asdict(loaded.login))


def resolver_settings(loaded: config.Config) -> ResolverSettings:
    asked = loaded.resolver
    return ResolverSettings(
        nameservers=asked.nameservers,
        timeout=asked.timeout,
        tries=asked.tries,
        cache_size=asked.cache_size,
        failure_ttl=asked.failure_ttl,
        port=loaded.egress.port,
    )


def router(loaded: config.Config, resolver: Resolver, now: Any) -> Router:
    """Raises OSError for a password file that cannot be read."""
    destinations = Destinations(loaded)
    hops = {route.domain: _static(destinations, f"route {route.domain}", route) for route in loaded.route}
    fallbacks = {
        FALLBACK + name: _static(destinations, f"fallback {name}", hop) for name, hop in loaded.fallback.items()
    }
    routes = config.Routes(loaded.route)

    def find(domain: str) -> StaticRoute | None:
        if domain.startswith(FALLBACK):
            return fallbacks.get(domain)
        route = routes.find(domain)
        return hops[route.domain] if route else None

    return Router(resolver, find, loaded.egress.port, destinations.policy, now)


def _static(destinations: Destinations, name: str, hop: config.NextHop) -> StaticRoute:
    host, port = notation.host_port(hop.via)
    password = Path(hop.password_file).read_text("utf-8").strip() if hop.password_file else ""
    return StaticRoute(host, port, destinations.routed(name, hop), hop.login, password)


def door_limits(door: config.Listener) -> DoorLimits:
    return DoorLimits(
        door.max_connections,
        door.max_connections_per_ip,
        door.max_connections_per_login,
        door.idle,
        door.data,
        door.auth_time,
    )


def server_settings(loaded: config.Config, door: config.Listener) -> ServerSettings:
    login = door.service in ("submissions", "submission")
    return ServerSettings(
        hostname=loaded.node.name,
        service="relayd",
        auth=login,
        auth_required=login,
        starttls=loaded.tls is not None and door.service != "submissions",
        max_size=door.max_size,
        max_recipients=door.max_recipients,
        max_messages=door.max_messages,
        max_errors=door.max_errors,
        bare=door.bare,
    )


def listener(
    reactor: Any, loaded: config.Config, door: config.Listener, relay: Relay, mailroom: Mailroom, tls: ServerTLS | None
) -> ListenerService:
    """One listener with its door; not open yet."""
    settings = server_settings(loaded, door)
    policy: RelayDoor | ReturnsDoor
    if door.service == "feedback":
        tokens, ours = relay.directory.tokens, _ours(relay.directory, loaded.feedback.domain)
        policy = ReturnsDoor(relay, settings, lambda: tokens.keys, ours, mailroom.keep)
    else:
        allowed = tuple(Allowed(entry.net, entry.account, entry.stream) for entry in door.allow)
        policy = RelayDoor(relay, settings, allowed)
    factory = SMTPServerFactory(reactor, policy, door_limits(door), tls, secure=door.service == "submissions")
    service = ListenerService(reactor, f"{door.service} {door.listen}", door.listen, factory)
    service.drain = loaded.node.drain
    return service


def api(reactor: Any, loaded: config.Config, relay: Controlled) -> DoorService | None:
    """The control API over the network, if there is one; not open yet.  Raises OpenSSL.SSL.Error or OSError for a
    certificate that cannot be used."""
    asked = loaded.api
    if asked is None:
        return None
    tls = ServerTLS(asked.certificate, asked.key) if asked.certificate else None
    settings = ApiSettings(
        asked.allow,
        asked.max_connections,
        asked.max_connections_per_ip,
        asked.idle,
        Limits((rate(asked.rate),) if asked.rate else ()),
    )
    return DoorService(reactor, asked.listen, relay, settings, tls)


def _ours(directory: Directory, own: str) -> Callable[[], set[str]]:
    """The domains of our return paths, gathered anew when the directory has changed."""

    @lru_cache(maxsize=1)
    def gathered(version: int) -> set[str]:
        return returning(own, (account.zone for account in directory.accounts()))

    return lambda: gathered(directory.version)


def sandbox(reactor: Any, loaded: config.Config) -> ListenerService:
    """The built-in receiver of a quickstart."""
    assert loaded.sandbox is not None
    door = Sandbox(
        reactor, loaded.sandbox.maildir, ServerSettings(hostname="sandbox.example", service="relayd sandbox")
    )
    factory = SMTPServerFactory(reactor, door, DoorLimits(), None, secure=False)
    return ListenerService(reactor, f"sandbox {loaded.sandbox.listen}", loaded.sandbox.listen, factory)


def ssh(reactor: Any, loaded: config.Config, relay: Controlled) -> "SSHService | None":
    """The console over SSH, if there is to be one; not open yet.  Raises OSError or ValueError for a host key that
    cannot be used."""
    asked = loaded.ssh
    if asked is None:
        return None
    from relayd.ssh.server import SSHService  # only now: most relays have no use for it

    spool = Path(loaded.node.spool)
    key = asked.host_key or str(spool / "ssh_host_ed25519_key")
    return SSHService(reactor, asked.listen, key, relay, loaded.node.control, spool / "manhole", ssh_settings(asked))


def ssh_settings(asked: config.Ssh) -> "SSHSettings":
    from relayd.ssh.server import Settings

    return Settings(
        asked.authorized_keys,
        asked.manhole,
        asked.max_connections,
        asked.max_connections_per_ip,
        asked.max_sessions,
        asked.auth_time,
        asked.idle,
    )


def ssh_faults(loaded: config.Config) -> list[str]:
    """What is wrong with the file of those who may come in over SSH: no reason to stop, but one to be told."""
    return read_people(loaded.ssh.authorized_keys)[1] if loaded.ssh else []


def reconfigure(running: ListenerService, wanted: ListenerService) -> None:
    """Gives a listener that stays open the door and limits it would have if it were made now."""
    running.factory.door = wanted.factory.door
    running.factory.limits = wanted.factory.limits


def refuse_restart_only(old: config.Config, new: config.Config) -> None:
    """Raises ValueError for a change that only a restart can bring."""
    pairs: dict[str, tuple[object, object]] = {
        "node.name": (old.node.name, new.node.name),
        "node.spool": (old.node.spool, new.node.spool),
        "node.control": (old.node.control, new.node.control),
        "resolver": (old.resolver, new.resolver),
        "egress.port": (old.egress.port, new.egress.port),
        "sandbox": (old.sandbox, new.sandbox),
        "ssh.host_key": _both(old.ssh, new.ssh, "host_key"),
        "ssh.listen": _both(old.ssh, new.ssh, "listen"),
        "suspicion.enabled": (old.suspicion.enabled, new.suspicion.enabled),
        "suspicion.memory": (old.suspicion.memory, new.suspicion.memory),
        "tls": (old.tls is None, new.tls is None),
    }
    for door in new.listener:
        known = next((d for d in old.listener if d.listen == door.listen), door)
        pairs[f"listener {door.listen}: service"] = (known.service, door.service)
    for key, (before, after) in pairs.items():
        if before != after:
            raise ValueError(f"{key} changed: that needs a restart")


def _both(old: object, new: object, key: str) -> tuple[object, object]:
    """What a table's key was and is, where the table is there both times."""
    return (getattr(old, key), getattr(new, key)) if old and new else (None, None)


def other_sessions(old: config.Config, new: config.Config) -> bool:
    """Whether sessions with the world would be made otherwise now.  What only shapes drops none of them."""
    before, after = old.egress, new.egress
    alike = (before.tls, before.authorities) == (after.tls, after.authorities)
    return not alike or (old.source, old.route, old.fallback) != (new.source, new.route, new.fallback)


def changed(old: config.Config, new: config.Config) -> list[str]:
    """The tables that differ."""
    tables = [name for name in new.__struct_fields__ if name != "origins"]
    return [name for name in tables if getattr(old, name) != getattr(new, name)]


def is_ours(loaded: config.Config, address: str, port: int) -> bool:
    """Whether a listener of this configuration answers on the address and port."""
    ours = {a for source in loaded.source.values() for a in source.address}
    for door in loaded.listener:
        where = notation.endpoint(door.listen)
        if where.port != port:
            continue
        if where.interface == address:
            return True
        if where.interface in ("", "0.0.0.0", "::") and (address in ours or ipaddress.ip_address(address).is_loopback):
            return True
    return False
