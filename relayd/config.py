"""The configuration: TOML in, frozen values out, or every table's first fault with its file and key.

``load`` reads ``shaping.d/*.toml`` beside the named file, then that file, then ``conf.d/*.toml`` beside it, each in
lexical order (tables merge key by key, later ones override; arrays of tables append), converts each table on its own,
fills in what one leaves to another, then checks them together.
What comes out needs no second look: durations are seconds, sizes bytes, paths absolute, names known, keys readable.
The structs below are the reference of the keys; etc/relayd.toml shows each with its default.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from relayd import classify, notation
from relayd.errors import InputError
from relayd.events import NAMES
from relayd.events import Name as EventName
from relayd.quotas import Limits, parse_limits
from relayd.reputation import Rules as ReputationRules
from relayd.returnpath import ACCEPT
from relayd.shaping import limits, rules
from relayd.shaping.rules import Rule
from relayd.submission import FATES, Fate
from relayd.suppression import Policy, parse_policy
from relayd.tables import ConfigError, Fault, File, Reader, parsed
from relayd.validation import OFF, Rules, parse_rules, read_lists, read_traps
from relayd.warmup import Plan

__all__ = ["Config", "ConfigError", "Fault", "Routes", "control_path", "load", "load_rules"]

_LONGEST_BESIDE_SSH = 107 - 21  # what ``ssh.child`` adds to the path
_SHORTEST_ACCEPT = 35 * 86400.0

TLSPolicy = Literal["off", "may", "encrypt", "verify"]


class Allow(msgspec.Struct, frozen=True):
    """One named client network of a ``relay`` listener; ``load`` fills account and stream from the listener's."""

    net: str
    account: str = ""
    stream: str = ""


_ALLOW = {"net": notation.network, "account": notation.name, "stream": notation.name}


def _allow(value: object) -> Allow:
    if not isinstance(value, dict):
        return Allow(notation.network(value))
    if unknown := [key for key in value if key not in _ALLOW]:
        raise ValueError(f"unknown key {unknown[0]!r}{notation.nearest(unknown[0], _ALLOW)}")
    if "net" not in value:
        raise ValueError(f"{value!r} names no net")
    return Allow(**{key: parse(value[key]) for key, parse in _ALLOW.items() if key in value})


def _addresses(value: object) -> tuple[str, ...]:
    found = tuple(notation.address(item) for item in (value if isinstance(value, list) else [value]) if item != "")
    if len({":" in item for item in found}) < len(found):
        raise ValueError("a source has one address per family")
    return found


def _nameserver(value: object) -> str:
    host, port = notation.host_port(value, 53)
    host = notation.address(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _endpoint_text(value: object) -> str:
    notation.endpoint(value)
    return str(value)


def _next_hop(value: object) -> str:
    notation.host_port(value)
    return str(value)


def _weights(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise ValueError("names no source: write { name = weight }")
    return {name: notation.whole(1)(weight) for name, weight in value.items()}


def _risk_pools(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not {*value} <= {"low", "normal", "high"}:
        raise ValueError('is not { high = "POOL" }: the classes are low, normal and high')
    return {risk: notation.name(pool) for risk, pool in value.items()}


def _pool_for(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError('is not { "*.DOMAIN" = "POOL" }')
    if "*" in value:
        raise ValueError('"*" is every domain: write pool = "POOL"')
    return {notation.domain_pattern(pattern): notation.name(pool) for pattern, pool in value.items()}


def _durations(value: object) -> tuple[float, ...]:
    found = notation.list_of(notation.duration)(value)
    if not found:
        raise ValueError("names no wait")
    return found


def _hosts(value: object) -> tuple[str, ...]:
    found = notation.list_of(notation.domain_pattern)(value)
    if not found or "*" in found:
        raise ValueError('names no mail hosts: write ["*.google.com"]')
    return found


def _rate(value: object) -> str:
    if value != "":
        limits.rate(value)
    return str(value)


def _volume(value: object) -> str:
    if value != "":
        limits.volume(value)
    return str(value)


def _hours(value: object) -> str:
    limits.parse_limits({"hours": value})
    return str(value)


def _shared(value: object) -> limits.Limits:
    """Limits of a source, a pool or an account: sessions are ended by paths."""
    return limits.parse_limits(value, tuple(key for key in limits.LIMITS if key != "deliveries_per_session"))


def _account(value: object) -> limits.Limits:
    """Limits of an account: a session carries everybody's mail."""
    return limits.parse_limits(value, limits.OWN)


def _accept(value: object) -> float:
    seconds = notation.duration(value)
    if seconds < _SHORTEST_ACCEPT:
        raise ValueError(f'{value!r} is too short: mail may wait 30 days before it goes; write "35d" or more')
    return seconds


def _login_url(value: object) -> str:
    instead = "what proves relayd to the other system goes into token_file"
    return _url(value, "https://crm.example/login", "passwords", instead)


def _filter_url(value: object) -> str:
    return _url(value, "http://127.0.0.1:11333/checkv2", "mail", "the filter is asked without one")


def _redis_url(value: object) -> str:
    text = value if isinstance(value, str) and re.fullmatch("[!-~]+", value) else ""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not re.fullmatch("/?[0-9]*", parts.path) or parts.query:
        raise ValueError('is not the URL of a Redis: write "redis://127.0.0.1:6379/0"')
    if parts.password is not None:
        raise ValueError("must hold no password: it goes into password_file")
    if parts.scheme == "redis" and not _loopback(parts.hostname or ""):
        raise ValueError(
            f"would send events to {parts.hostname} in clear: write rediss://, redis:// is for this machine"
        )
    return text


def _event(value: object) -> EventName:
    if value not in NAMES:
        raise ValueError(f"there is no event {value!r}{notation.nearest(str(value), NAMES)}")
    return value


def _actions(value: object) -> dict[str, Fate]:
    fates = list(dict.fromkeys(FATES.values()))
    if not isinstance(value, dict) or not all(fate in fates for fate in value.values()):
        raise ValueError(f'is not {{ reject = "refuse" }}: what becomes of a message is one of {", ".join(fates)}')
    for action in (action for action in value if action not in FATES):
        raise ValueError(f"{action!r} is no action of the filter{notation.nearest(str(action), FATES)}")
    return {**FATES, **value}


def _url(value: object, example: str, what: str, instead: str) -> str:
    """Where ``what`` is sent to: in clear to this machine only.  ``instead``: of a login in it.  Raises ValueError."""
    text = value if isinstance(value, str) and re.fullmatch("[!-~]+", value) else ""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole:  # not repeated: there may be a password in it
        raise ValueError(f'is not a URL: write "{example}"')
    if "@" in parts.netloc:
        raise ValueError(f"must hold no login: {instead}")
    host = parts.hostname or ""
    if parts.scheme == "http" and not _loopback(host):
        raise ValueError(f"would send {what} to {host} in clear: write https://, http:// is for this machine only")
    return text


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _some_bytes(value: object) -> int:
    found = notation.size(value)
    if not found:
        raise ValueError(f"{value!r} is no size at all")
    return found


Duration = Annotated[float, notation.duration]
Durations = Annotated[tuple[float, ...], _durations]
Size = Annotated[int, notation.size]
Positive = Annotated[int, notation.whole(1)]
Port = Annotated[int, notation.whole(1, 65535)]
FilePath = Annotated[str, File]
Host = Annotated[str, notation.hostname]
Name = Annotated[str, notation.name]
EndpointText = Annotated[str, _endpoint_text]
RateText = Annotated[str, _rate]
Shared = Annotated[limits.Limits, _shared]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """This relay.  ``control_group``: who may use the control socket besides root and relayd's own user; ``min_free``:
    with fewer free bytes on the spool's disk no mail is accepted; ``drain``: how long a stop waits for what is in
    flight; ``default_stream``: of connections that name none, "" is the first in the file; ``dkim_domain``: the relay's
    own domain, whose keys sign everything a second time ("": none); ``spf``: the name of an SPF record that lists our
    addresses, which senders include ("": they list them)."""

    name: Host
    spool: FilePath
    control: FilePath
    control_group: str = ""
    min_free: Size = 512 * 2**20
    drain: Duration = 30.0
    default_stream: str = ""
    dkim_domain: Host = ""
    spf: Host = ""


class TLS(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files: the certificate with its chain, and its private key."""

    certificate: FilePath
    key: FilePath


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """The control API over the network (``control.door``).  ``certificate`` and ``key``: PEM files, "" for those of
    [tls]; ``allow``: who may connect, none means all; ``idle``: until a request is there whole; ``rate``: of the
    requests of each token, "" for no limit."""

    listen: EndpointText
    certificate: FilePath = ""
    key: FilePath = ""
    allow: Annotated[tuple[str, ...], notation.list_of(notation.network)] = ()
    max_connections: Positive = 200
    max_connections_per_ip: Positive = 20
    idle: Duration = 60.0
    rate: RateText = "50/s burst 200"


class Auth(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asked about logins that another system decides (``credentials.HTTPChecker``).  ``cache``: how long a right
    password is believed; ``authorities``: a PEM file of whom to trust for https, "" for the system's."""

    url: Annotated[str, _login_url]
    timeout: Duration = 5.0
    cache: Duration = 300.0
    token_file: FilePath = ""
    authorities: FilePath = ""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A content filter that speaks rspamd's HTTP protocol (``contentfilter``).  ``actions``: what becomes of a message,
    by the filter's words for it; those that are not named keep their meaning."""

    url: Annotated[str, _filter_url]
    timeout: Duration = 5.0
    concurrency: Positive = 20
    max_size: Size = 2**20
    on_error: Literal["open", "closed"] = "open"
    settings_id: str = ""
    authorities: FilePath = ""
    actions: Annotated[dict[str, Fate], _actions] = msgspec.field(default_factory=lambda: FATES)


class Suspicion(msgspec.Struct, frozen=True, kw_only=True):
    """Senders that look bad by what they submit (``suspicion``)."""

    enabled: bool = True
    threshold: Annotated[int, notation.whole(1, 100)] = 60
    calm: Annotated[int, notation.whole(1, 100)] = 30
    rest: Duration = 6 * 3600.0
    memory: Size = 32 * 2**20


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A door.  ``idle``: a client's silence; ``data``: one message's content in all; ``auth_time``: until logged in."""

    service: Literal["submissions", "submission", "relay", "feedback"]
    listen: EndpointText
    allow: Annotated[tuple[Allow, ...], notation.list_of(_allow)] = ()
    account: str = ""
    stream: str = ""
    bare: Literal["reject", "normalise"] = "reject"
    max_connections: Positive = 1000
    max_connections_per_ip: Positive = 100
    max_connections_per_login: Positive = 100
    max_size: Size = 50 * 2**20
    max_recipients: Positive = 1000
    max_messages: Positive = 10000
    max_errors: Positive = 20
    idle: Duration = 300.0
    data: Duration = 1800.0
    auth_time: Duration = 60.0


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """Failed logins.  ``failures``: free in a ``window``, of one login from one IP address, of an address, of a login
    from anywhere; one more locks for ``lock``, each after that twice as long.  ``delay``: how long the answer to the
    first failure is held back, twice as long each time.  ``remember``: how long the failures of others do not lock a
    login where it succeeded."""

    failures: Positive = 5
    failures_per_ip: Positive = 20
    failures_per_login: Positive = 100
    window: Duration = 3600.0
    lock: Duration = 30.0
    longest_lock: Duration = 3600.0
    delay: Duration = 0.5
    longest_delay: Duration = 10.0
    remember: Duration = 30 * 86400.0


class Ssh(msgspec.Struct, frozen=True, kw_only=True):
    """The console over SSH (``ssh.server``).  ``host_key``: made if there is none, "" is in the spool; ``manhole``: for
    nobody, for admins on this machine, for admins; ``auth_time``: to prove a key; ``idle``: with nothing typed."""

    listen: EndpointText
    host_key: FilePath = ""
    authorized_keys: FilePath = "/etc/relayd/ssh/authorized_keys"
    manhole: Literal["off", "local", "on"] = "off"
    max_connections: Positive = 20
    max_connections_per_ip: Positive = 5
    max_sessions: Positive = 8
    auth_time: Duration = 20.0
    idle: Duration = 3600.0


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An egress IP: one address per family at most, none is the system's choice; ``public``: what the world sees of it
    where that is another one; ``ehlo`` "" is the node's name; ``warmup``: the plan of a new one, "" is warm."""

    address: Annotated[tuple[str, ...], _addresses] = ()
    public: Annotated[tuple[str, ...], _addresses] = ()
    ehlo: str = ""
    warmup: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Sources by weight.  ``overflow``: the pool whose sources are used while none of these can be."""

    sources: Annotated[dict[str, int], _weights]
    overflow: str = ""


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A traffic kind.  ``schedule`` and ``expire`` are those of [retry] unless given; ``reports``: whether a sender is
    told of mail that failed or is late ("none" for bulk: the records tell); ``unsigned``: what becomes of mail whose
    From domain has no DKIM key that can be used; ``validation``: what becomes of recipients whose addresses are faulty,
    "off", "bulk", or a table of what differs from bulk.  ``risk`` and ``risk_pools``: the class of the mail, and the
    pools of classes that have their own; ``pool_for``: the pools of mail to a domain, or "*.suffix" for those below
    one, or to mail hosts so called; ``lists``: the suppression lists that stop it, by name, the relay's, the
    account's and the connection's alike (none: one called like the stream, and "all"); ``feeds``: the one that takes up
    who complains about it or unsubscribes ("": the first of ``lists`` but for "all"); ``suppress``: what else puts
    addresses on lists; ``unsubscribe``: whether its mail says where to ("header"); ``limits``: the most messages and
    recipients in a time, of each account; ``fallback``: the next hop of what failed ``fallback_after`` times;
    ``filter``: whether the content filter sees it, if there is one."""

    pool: str = "default"
    risk: Literal["low", "normal", "high"] = "normal"
    risk_pools: Annotated[dict[str, str], _risk_pools] = {}
    pool_for: Annotated[dict[str, str], _pool_for] = {}
    lists: Annotated[tuple[str, ...], notation.list_of(notation.name)] = ()
    feeds: Annotated[str, notation.name] = ""
    suppress: Annotated[Policy, parse_policy] = Policy()
    unsubscribe: Literal["header", "none"] = "none"
    limits: Annotated[Limits, parse_limits] = Limits()
    priority: Annotated[int, notation.whole(0, 100)] = 50
    schedule: Durations = ()
    expire: Duration = 0.0
    fallback: str = ""
    fallback_after: Positive = 5
    filter: bool = True
    reports: Literal["sender", "none"] = "sender"
    unsigned: Literal["send", "defer"] = "send"
    validation: Annotated[Rules, parse_rules] = OFF


class Limited(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of each path, source towards site: open sessions, how many are opened in a time, deliveries and bytes in a
    time, how many deliveries one session carries, the hours of the week; 0 and "" leave what is more general.
    ``source``, ``pool``, ``account``: limits of all that goes there by one source, by one pool, for one account."""

    connections: Annotated[int, notation.whole(0)] = 0
    connection_rate: RateText = ""
    rate: RateText = ""
    bytes: Annotated[str, _volume] = ""
    deliveries_per_session: Annotated[int, notation.whole(0)] = 0
    hours: Annotated[str, _hours] = ""
    source: Shared = limits.NONE
    pool: Shared = limits.NONE
    account: Annotated[limits.Limits, _account] = limits.NONE

    def of_path(self) -> limits.Limits:
        return limits.parse_limits({key: value for key in limits.LIMITS if (value := getattr(self, key))})


class Site(Limited, frozen=True, kw_only=True):
    """What holds for a recipient domain, or for all domains whose preferred MX host lies in it."""

    tls: TLSPolicy | None = None


class Provider(Site, frozen=True, kw_only=True):
    """Sites that are run as one: those whose most preferred MX host is, or is below, one of ``match``."""

    match: Annotated[tuple[str, ...], _hosts]


class NextHop(msgspec.Struct, frozen=True, kw_only=True):
    """A static next hop, with the limits agreed with it."""

    via: Annotated[str, _next_hop]
    tls: TLSPolicy = "may"
    login: str = ""
    password_file: FilePath = ""
    connections: Annotated[int, notation.whole(0)] = 0
    rate: RateText = ""


class Route(NextHop, frozen=True, kw_only=True):
    """The next hop for a domain, "*.suffix" or "*"."""

    domain: Annotated[str, notation.domain_pattern]


class Dkim(msgspec.Struct, frozen=True, kw_only=True):
    """A signing domain's selector and PEM key, for the mail of all accounts; a second one if it has both kinds."""

    selector: Host
    key: FilePath
    second_selector: Host = ""
    second_key: FilePath = ""


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back.  ``domain``: of return paths of our own, where an account has no zone for them; "" for none: all
    bounces go to the senders.  ``accept``: how long after a message's reception they still count, and records are kept.
    ``rules``: files of an operator's own rules of classification (``classify.load``)."""

    domain: Host = ""
    accept: Annotated[float, _accept] = ACCEPT
    rules: Annotated[tuple[str, ...], File] = ()


class Blocklists(msgspec.Struct, frozen=True, kw_only=True):
    """DNS blocklists that are asked for the sources' addresses, none unless named.  ``drain``: a source that one of
    them lists takes no new deliveries until it is listed no more."""

    zones: Annotated[tuple[str, ...], notation.list_of(notation.hostname)] = ()
    drain: bool = False


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """How long sums of events by the minute, the hour and the day are kept."""

    minutes: Duration = 2 * 86400.0
    hours: Duration = 90 * 86400.0
    days: Duration = 3 * 365 * 86400.0


class Resolver(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to ask ("address:port" each; none is the system's choice), and for how long at each try;
    ``failure_ttl``: how long a failure is believed."""

    nameservers: Annotated[tuple[str, ...], notation.list_of(_nameserver)] = ()
    timeout: Duration = 3.0
    tries: Positive = 3
    cache_size: Positive = 50000
    failure_ttl: Duration = 10.0


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """Files to be used instead of the lists that relayd brings, "" for these.  ``neighbours``: real domains that look
    like misspellings of ``providers``."""

    typos: FilePath = ""
    providers: FilePath = ""
    neighbours: FilePath = ""
    roles: FilePath = ""
    disposable: FilePath = ""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Waits between attempts (the last repeats, all jittered), a delivery's life, the wait when greylisted, and the
    time after which the sender is told of a delay."""

    schedule: Durations = (300.0, 600.0, 1200.0, 2400.0, 3600.0, 7200.0, 14400.0)
    expire: Duration = 3 * 86400.0
    greylist: Duration = 300.0
    delay_report: Duration = 4 * 3600.0


class QueueTable(msgspec.Struct, frozen=True, kw_only=True):
    """``recycle``: how long what operators do to the queue can be undone; so long cancelled mail is kept."""

    recycle: Duration = 86400.0


class Egress(Limited, frozen=True, kw_only=True):
    """Sessions to the world, and the limits that hold where no provider or site has its own.  ``authorities``: a PEM
    file of whom "verify" trusts, "" for the system's; ``sessions`` in all; ``rest``: how long a site that cannot be
    reached is left alone, by failures in a row; then patience by stage."""

    port: Port = 25
    tls: TLSPolicy = "may"
    authorities: FilePath = ""
    connections: Positive = 20
    sessions: Positive = 2000
    deliveries_per_session: Positive = 100
    rest: Durations = (60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0)
    idle: Duration = 5.0
    connect: Duration = 30.0
    banner: Duration = 60.0
    ehlo: Duration = 60.0
    starttls: Duration = 30.0
    auth: Duration = 60.0
    mail: Duration = 300.0
    rcpt: Duration = 300.0
    data: Duration = 300.0
    dot: Duration = 600.0
    rset: Duration = 20.0
    quit: Duration = 5.0


class Reputation(ReputationRules, frozen=True, kw_only=True):
    """When who sends what nobody wants is held back.  ``traps``: a file of addresses that never asked for any mail."""

    traps: FilePath = ""


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """Where Prometheus asks.  ``allow``: the networks that may; none: this machine, to which ``listen`` is bound."""

    listen: EndpointText
    allow: Annotated[tuple[str, ...], notation.list_of(notation.network)] = ()


class Webhooks(msgspec.Struct, frozen=True, kw_only=True):
    """Events posted to customers' servers.  ``allow``: networks besides the public Internet; ``authorities``: a PEM
    file of whom to trust, "" for the system's; ``timeout``: for an answer; ``give_up``: after so long of failures a
    webhook is parked."""

    allow: Annotated[tuple[str, ...], notation.list_of(notation.network)] = ()
    authorities: FilePath = ""
    timeout: Duration = 10.0
    give_up: Duration = 3 * 86400.0


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """Where events go as they come.  ``events`` and ``accounts``: only these, none is all; ``begin``: with which events
    a new feed begins, those from now on or all that are recorded still."""

    type: Literal["file", "redis"]
    events: Annotated[tuple[EventName, ...], notation.list_of(_event)] = ()
    accounts: Annotated[tuple[str, ...], notation.list_of(notation.name)] = ()
    begin: Literal["now", "beginning"] = "now"


class FileFeed(Feed, frozen=True, kw_only=True):
    """A file of JSON lines.  It is put aside when it has so many bytes (``rotate``) or its period (``every``) is over,
    whichever comes first; ``keep`` such files stay."""

    path: FilePath
    rotate: Annotated[int, _some_bytes] = 100 * 2**20
    every: Duration = 86400.0
    compress: Literal["", "zstd"] = ""
    keep: Positive = 30


class RedisFeed(Feed, frozen=True, kw_only=True):
    """A Redis stream.  ``maxlen``: about how many entries it keeps; ``timeout``: of each answer; ``authorities``: a PEM
    file of whom to trust for rediss, "" for the system's."""

    url: Annotated[str, _redis_url]
    password_file: FilePath = ""
    authorities: FilePath = ""
    stream: str = "relayd:events"
    maxlen: Positive = 1_000_000
    timeout: Duration = 10.0


class Exports(msgspec.Struct, frozen=True, kw_only=True):
    """Files of events that somebody asked for: how long they are kept, and how many bytes of them in all."""

    keep: Duration = 7 * 86400.0
    max_size: Annotated[int, _some_bytes] = 2 * 2**30


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """The built-in receiver: where it listens and the Maildir it fills."""

    listen: EndpointText
    maildir: FilePath


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole.  There is always a source, a pool and a stream, each called "default" if the file names none.
    ``origins``: FILE:LINE of what shapes, by key."""

    node: Node
    tls: TLS | None = None
    api: Api | None = None
    auth: Auth | None = None
    filter: Filter | None = None
    suspicion: Suspicion = Suspicion()
    listener: tuple[Listener, ...] = ()
    login: Login = Login()
    ssh: Ssh | None = None
    source: dict[str, Source]
    warmup: dict[str, Plan] = {}
    pool: dict[str, Pool]
    stream: dict[str, Stream]
    provider: dict[str, Provider] = {}
    site: dict[str, Site] = {}
    reaction: dict[str, Rule] = {}
    route: tuple[Route, ...] = ()
    fallback: dict[str, NextHop] = {}
    dkim: dict[str, Dkim] = {}
    feedback: Feedback = Feedback()
    blocklists: Blocklists = Blocklists()
    statistics: Statistics = Statistics()
    resolver: Resolver = Resolver()
    validation: Validation = Validation()
    retry: Retry = Retry()
    queue: QueueTable = QueueTable()
    egress: Egress = Egress()
    reputation: Reputation = Reputation()
    metrics: Metrics | None = None
    webhooks: Webhooks = Webhooks()
    feed: dict[str, FileFeed | RedisFeed] = {}
    exports: Exports = Exports()
    sandbox: Sandbox | None = None
    origins: dict[str, str] = {}

    def origin(self, key: str) -> str:
        """FILE:LINE where a key of [egress], [provider] or [site] was given, "default" if nobody gave it."""
        return self.origins.get(key, "default")

    def stream_named(self, name: str) -> str:
        """The name, or the default stream's if it is "" or no stream has it (any more)."""
        return name if name in self.stream else self.node.default_stream

    def accounts(self) -> set[str]:
        """Accounts that listeners name: they are created at start if the directory does not know them."""
        return {entry.account for listener in self.listener for entry in listener.allow}

    def warming(self) -> dict[str, Plan]:
        """The plans of the sources that have one."""
        return {name: self.warmup[source.warmup] for name, source in self.source.items() if source.warmup}


class Routes:
    """Finds the static next hop of a domain: the exact name, else the longest suffix, else "*"."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_domain = {route.domain: route for route in reversed(tuple(routes))}

    def find(self, domain: str) -> Route | None:
        if not self._by_domain:
            return None
        return next(filter(None, map(self._by_domain.get, (*notation.patterns(domain), "*"))), None)


_SINGLE: dict[str, type[msgspec.Struct]] = {
    "node": Node, "tls": TLS, "api": Api, "auth": Auth, "filter": Filter, "suspicion": Suspicion, "login": Login,
    "ssh": Ssh, "feedback": Feedback, "blocklists": Blocklists, "statistics": Statistics,
    "resolver": Resolver, "validation": Validation,
    "retry": Retry, "queue": QueueTable, "egress": Egress, "reputation": Reputation,
    "webhooks": Webhooks, "exports": Exports, "metrics": Metrics, "sandbox": Sandbox,
}  # fmt: skip
_NAMED: dict[str, type[msgspec.Struct]] = {
    "source": Source, "warmup": Plan, "pool": Pool, "stream": Stream, "provider": Provider, "site": Site,
    "fallback": NextHop, "dkim": Dkim,
}  # fmt: skip
_FEEDS: dict[str, type[Feed]] = {"file": FileFeed, "redis": RedisFeed}
_ARRAYS: dict[str, type[msgspec.Struct]] = {"listener": Listener, "route": Route}


def load(path: str | Path) -> Config:
    """The configuration of a file and what lies beside it.  Raises ConfigError with the first fault of every table."""
    reader = Reader(Path(path)).read()
    config = _assembled(reader)
    if config is not None:
        _check(config, reader.fault)
    if config is None or reader.faults:
        raise ConfigError(list(reader.faults.values()))
    return msgspec.structs.replace(config, origins=reader.origins("egress", "provider", "site"))


def control_path(path: str | Path) -> str:
    """Only ``node.control``: for a client that may not read keys and has no business with the rest."""
    reader = Reader(Path(path)).read()
    node = reader.raw.get("node")
    control = node.get("control") if isinstance(node, dict) else None
    if not isinstance(control, str):
        raise ConfigError([Fault(str(path), "node.control", "is missing")])
    return os.path.join(reader.base, control)


def load_rules(
    files: Iterable[tuple[str, str]], providers: Mapping[str, Provider]
) -> tuple[dict[str, Provider], dict[str, Rule]]:
    """Of files of shaping (name, text): their providers, and those given, and their reactions.  Raises ConfigError."""
    reader = Reader(Path("."))
    for name, text in files:
        reader.add_shaping(name, parsed(name, text))
    found = {n: _entry(reader, Provider, raw, "provider", n) for n, raw in reader.named("provider").items()}
    reactions = _reactions(reader)
    known = {**providers, **{name: provider for name, provider in found.items() if isinstance(provider, Provider)}}
    _check_shaping(known, reactions, reader.fault)
    if reader.faults:
        raise ConfigError(list(reader.faults.values()))
    return known, reactions


def _assembled(reader: Reader) -> Config | None:
    """All tables together, with what one leaves to another filled in; None if any is faulty."""
    known = [*_SINGLE, *_NAMED, *_ARRAYS, "feed", "reaction"]
    for key in (key for key in reader.raw if key not in known):
        reader.fault(key, "", f"unknown table{notation.nearest(key, known)}")
    reader.raw.setdefault("node", {})
    parts: dict[str, Any] = {n: reader.table(kind, reader.raw[n], n) for n, kind in _SINGLE.items() if n in reader.raw}
    for name, kind in _NAMED.items():
        parts[name] = {n: _entry(reader, kind, raw, name, n) for n, raw in reader.named(name).items()}
    for name, kind in _ARRAYS.items():
        parts[name] = tuple(reader.table(kind, raw, f"{name}[{i}]") for i, raw in enumerate(reader.array(name)))
    parts["feed"] = {n: _feed(reader, raw, n) for n, raw in reader.named("feed").items()}
    parts["reaction"] = _reactions(reader)
    return None if reader.faults else _filled(Config(**parts))


def _reactions(reader: Reader) -> dict[str, Rule]:
    """The rules that can be read, and a fault for each other."""
    found = {}
    for name, raw in reader.named("reaction").items():
        try:
            found[name] = rules.parse(notation.name(name), raw)
        except InputError as error:
            reader.fault(f"reaction.{name}", error.field, error.text)
        except ValueError as error:
            reader.fault(f"reaction.{name}", "", str(error))
    return found


def _feed(reader: Reader, raw: dict[str, Any], name: str) -> msgspec.Struct | None:
    """By its type; without one that is known, that is the fault and no other key is looked at."""
    kind = _FEEDS.get(str(raw.get("type")))
    return _entry(reader, kind or Feed, raw if kind else {k: v for k, v in raw.items() if k == "type"}, "feed", name)


def _entry(reader: Reader, kind: type[msgspec.Struct], raw: object, table: str, name: str) -> msgspec.Struct | None:
    try:
        notation.name(name)
    except ValueError as error:
        reader.fault(f"{table}.{name}", "", str(error))
    return reader.table(kind, raw, f"{table}.{name}")


def _filled(config: Config) -> Config:
    """What one table leaves to another: default source, pool and stream; EHLO names; retries; who relay clients are."""
    replace = msgspec.structs.replace
    sources = config.source or {"default": Source()}
    sources = {n: s if s.ehlo else replace(s, ehlo=config.node.name) for n, s in sources.items()}
    pools = config.pool or {"default": Pool(sources=dict.fromkeys(sources, 1))}
    only = next(iter(pools)) if len(pools) == 1 else "default"
    streams = config.stream or {"default": Stream(pool=only)}
    streams = {name: _with_retries(stream, config.retry) for name, stream in streams.items()}
    node = replace(config.node, default_stream=config.node.default_stream or next(iter(streams)))
    listeners = tuple(map(_with_clients, config.listener))
    api = config.api
    if api and config.tls and not (api.certificate or api.key):
        api = replace(api, certificate=config.tls.certificate, key=config.tls.key)
    return replace(config, node=node, api=api, source=sources, pool=pools, stream=streams, listener=listeners)


def _with_retries(stream: Stream, retry: Retry) -> Stream:
    schedule, expire = stream.schedule or retry.schedule, stream.expire or retry.expire
    return msgspec.structs.replace(stream, schedule=schedule, expire=expire)


def _with_clients(door: Listener) -> Listener:
    allow = (Allow(entry.net, entry.account or door.account, entry.stream or door.stream) for entry in door.allow)
    return msgspec.structs.replace(door, allow=tuple(allow))


_Report = Callable[[str, str, str], None]


def _check(config: Config, fault: _Report) -> None:
    """Tables against each other and against the machine."""
    try:
        notation.socket_path(config.node.control)
    except ValueError as error:
        fault("node", "control", str(error))
    _known(config.node.default_stream, config.stream, "stream", lambda text: fault("node", "default_stream", text))
    for name, source in config.source.items():
        try:
            notation.hostname(source.ehlo)
        except ValueError as error:
            fault(f"source.{name}", "ehlo", str(error))
        if source.warmup:
            _known(source.warmup, config.warmup, "warmup", partial(fault, f"source.{name}", "warmup"))
    for name, pool in config.pool.items():
        for source_name in pool.sources:
            _known(source_name, config.source, "source", lambda text, n=name: fault(f"pool.{n}", "sources", text))  # type: ignore[misc]
        if pool.overflow:
            _check_overflow(config, name, partial(fault, f"pool.{name}", "overflow"))
    for name, stream in config.stream.items():
        _known(stream.pool, config.pool, "pool", lambda text, n=name: fault(f"stream.{n}", "pool", text))  # type: ignore[misc]
        for key in ("risk_pools", "pool_for"):
            for other in getattr(stream, key).values():
                _known(other, config.pool, "pool", lambda text, n=name, k=key: fault(f"stream.{n}", k, text))  # type: ignore[misc]
        if stream.unsubscribe == "header" and not config.feedback.domain:
            fault(f"stream.{name}", "unsubscribe", "needs [feedback] domain, where those who unsubscribe write to")
        if stream.feeds == "all":
            fault(
                f"stream.{name}", "feeds", f"all stops every stream, not only this one: write {name!r}, or another list"
            )
        if stream.fallback:
            _known(stream.fallback, config.fallback, "fallback", partial(fault, f"stream.{name}", "fallback"))
    for name in config.dkim:
        try:
            notation.hostname(name)
        except ValueError as error:
            fault(f"dkim.{name}", "", str(error))
    kept = config.statistics
    if not kept.minutes <= kept.hours <= kept.days:
        fault("statistics", "hours", "are kept at least as long as minutes, and at most as long as days")
    _check_shaping(config.provider, config.reaction, fault)
    for name, rule in config.reaction.items():
        if rule.to:
            _known(rule.to, config.pool, "pool", partial(fault, f"reaction.{name}", "to"))
    _check_listeners(config, fault)
    try:
        classify.load(config.feedback.rules)
    except InputError as error:
        fault("feedback", "rules", str(error))
    try:
        read_lists(msgspec.structs.asdict(config.validation))
    except InputError as error:
        fault("validation", error.field, error.text)
    try:
        read_traps(config.reputation.traps)
    except InputError as error:
        fault("reputation", error.field, error.text)
    if config.metrics:
        _check_metrics(config.metrics, fault)
    if config.tls:
        _check_tls(config.tls, partial(fault, "tls"))
    if config.api:
        _check_api(config.api, config.tls, partial(fault, "api"))
    if config.auth:
        _check_auth(config.auth, fault)
    if config.filter:
        _check_authorities("filter", config.filter.authorities, fault)
    _check_authorities("webhooks", config.webhooks.authorities, fault)
    _check_feeds(config.feed, fault)
    if config.ssh and len(config.node.control.encode()) > _LONGEST_BESIDE_SSH:
        text = f"is longer than {_LONGEST_BESIDE_SSH} bytes: with [ssh] there are sockets beside it, with longer names"
        fault("node", "control", text)
    if config.suspicion.calm > config.suspicion.threshold:
        fault("suspicion", "calm", f"is above the threshold, {config.suspicion.threshold}: a finding would never end")


def _check_feeds(feeds: Mapping[str, FileFeed | RedisFeed], fault: _Report) -> None:
    taken: dict[str, str] = {}
    for name, feed in feeds.items():
        report = partial(fault, f"feed.{name}")
        if isinstance(feed, FileFeed):
            other = taken.setdefault(os.path.realpath(feed.path), name)
            if other != name:
                report("path", f"{feed.path} is written by [feed.{other}] already")
            if feed.compress and not find_spec("zstandard"):
                report("compress", "needs a package that is not installed: pip install 'relayd[zstd]'")
        else:
            if not find_spec("txredisapi"):
                report("type", "redis needs a package that is not installed: pip install 'relayd[redis]'")
            try:
                if feed.password_file:
                    Path(feed.password_file).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                report("password_file", f"{feed.password_file} cannot be read: {error}")
            _check_authorities(f"feed.{name}", feed.authorities, fault)


def _known(name: str, among: Iterable[str], what: str, report: Callable[[str], None]) -> None:
    if name not in among:
        report(f"there is no {what} {name!r}{notation.nearest(name, among)}")


def _check_overflow(config: Config, name: str, report: Callable[[str], None]) -> None:
    """One step and no more: so there are no circles either."""
    overflow = config.pool[name].overflow
    _known(overflow, config.pool, "pool", report)
    if overflow == name:
        report("is the pool itself: name another")
    elif overflow in config.pool and config.pool[overflow].overflow:
        report(f"{overflow} has an overflow itself: name a pool that has none")


def _check_shaping(providers: Mapping[str, Provider], reactions: Mapping[str, Rule], fault: _Report) -> None:
    owners: dict[str, str] = {}
    for name, provider in providers.items():
        for pattern in provider.match:
            if owners.setdefault(pattern, name) != name:
                fault(f"provider.{name}", "match", f"{pattern} is in [provider.{owners[pattern]}] already")
    for name, rule in reactions.items():
        if rule.provider:
            _known(rule.provider, providers, "provider", partial(fault, f"reaction.{name}", "provider"))


def _check_listeners(config: Config, fault: _Report) -> None:
    taken: list[tuple[str, notation.Endpoint]] = []
    doors = [(f"listener[{i}]", door.listen) for i, door in enumerate(config.listener)]
    doors += [(name, table.listen) for name in ("api", "metrics", "ssh", "sandbox") if (table := getattr(config, name))]
    for table, listen in doors:
        where = notation.endpoint(listen)
        for other in (name for name, known in taken if _overlap(where, known)):
            fault(table, "listen", f"{listen} is taken by {other}")
        taken.append((table, where))
    for i, door in enumerate(config.listener):
        _check_service(config, door, lambda key, text, i=i: fault(f"listener[{i}]", key, text))  # type: ignore[misc]


def _overlap(one: notation.Endpoint, other: notation.Endpoint) -> bool:
    if one.kind != other.kind or one.path != other.path or one.port != other.port:
        return False
    anywhere = {"", "0.0.0.0", "::"}
    # Port 0 is a port of the system's choice, never the same twice.
    same = one.interface == other.interface or not anywhere.isdisjoint((one.interface, other.interface))
    return bool(one.path) or (one.port != 0 and same)


def _check_service(config: Config, door: Listener, report: Callable[[str, str], None]) -> None:
    if door.service == "relay":
        _check_relay(config, door, report)
        return
    if door.service == "feedback":
        if not config.feedback.domain:
            report("service", "feedback needs [feedback] domain: the domain of our return paths, whose MX leads here")
    elif not config.tls:
        report("service", f"{door.service} needs a [tls] table with certificate and key")
    for key in (key for key in ("allow", "account", "stream") if getattr(door, key)):
        report(key, "belongs to a relay listener only")


def _check_relay(config: Config, door: Listener, report: Callable[[str, str], None]) -> None:
    if not door.allow:
        report("allow", "names no client: a relay listener is open to named client IPs only")
    for entry in door.allow:
        for key in ("account", "stream"):
            if not getattr(entry, key):
                report(key, f"is missing, and the entry {entry.net} of allow has none of its own")
        _known(entry.stream, config.stream, "stream", lambda text: report("stream", text))
        try:
            notation.name(entry.account)
        except ValueError as error:
            report("account", str(error))


def _check_auth(auth: Auth, fault: _Report) -> None:
    try:
        token = Path(auth.token_file).read_bytes().strip() if auth.token_file else b"none"
    except OSError as error:
        return fault("auth", "token_file", f"{auth.token_file}: {error.strerror}")
    if not token or not all(0x20 < byte < 0x7F for byte in token):
        return fault("auth", "token_file", f"{auth.token_file} holds no token: one word in ASCII")
    _check_authorities("auth", auth.authorities, fault)


def _check_authorities(table: str, file: str, fault: _Report) -> None:
    try:
        if file:
            x509.load_pem_x509_certificates(Path(file).read_bytes())
    except OSError as error:
        fault(table, "authorities", f"{file}: {error.strerror}")
    except ValueError:
        fault(table, "authorities", f"{file} holds no PEM certificate")


def _check_metrics(metrics: Metrics, fault: _Report) -> None:
    where = notation.endpoint(metrics.listen)
    ours = where.kind == "unix" or _loopback(where.interface)
    if not ours and not metrics.allow:
        fault("metrics", "allow", f'is missing: {metrics.listen} is open to others, name who may ask: ["10.0.0.0/8"]')


def _check_api(api: Api, tls: TLS | None, fault: Callable[[str, str], None]) -> None:
    where = notation.endpoint(api.listen)
    if where.kind == "unix":
        fault("listen", "is a UNIX socket: write tcp:8443; [node] control is the socket for this machine")
    elif api.certificate and api.key:
        files = TLS(certificate=api.certificate, key=api.key)
        if files != tls:
            _check_tls(files, fault)
    elif api.certificate or api.key:
        fault("key" if api.certificate else "certificate", "is missing: certificate and key go together")
    elif not _loopback(where.interface):
        clear = "without it and [tls] tokens would come in clear: that is for this machine only"
        fault("certificate", f"is missing, and {clear}, tcp:8443:interface=127.0.0.1")


def _check_tls(tls: TLS, fault: Callable[[str, str], None]) -> None:
    try:
        certificate = x509.load_pem_x509_certificates(Path(tls.certificate).read_bytes())[0]
    except OSError as error:
        return fault("certificate", f"{tls.certificate}: {error.strerror}")
    except ValueError:
        return fault("certificate", f"{tls.certificate} holds no PEM certificate")
    try:
        key = load_pem_private_key(Path(tls.key).read_bytes(), None)
    except OSError as error:
        return fault("key", f"{tls.key}: {error.strerror}")
    except (ValueError, TypeError):
        return fault("key", f"{tls.key} holds no PEM private key without a passphrase")
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        fault("key", f"{tls.key} is not the key of {tls.certificate}")
