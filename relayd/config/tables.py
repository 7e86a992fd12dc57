"""The tables of the configuration: every key with its type and default; these structs are the reference of the keys.

In: keys as ``values`` reads them.  Out: frozen structs; etc/relayd.toml shows each with its default.  What one table
leaves to another is filled in by ``loading``, what they must not say together is for ``checks``.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from relayd import notation
from relayd.config import values
from relayd.config.values import (
    Duration,
    Durations,
    EndpointText,
    FilePath,
    Host,
    Port,
    Positive,
    RateText,
    Shared,
    Size,
)
from relayd.events import Name as EventName
from relayd.quotas import Limits, parse_limits
from relayd.reputation import Rules as ReputationRules
from relayd.returnpath import ACCEPT
from relayd.shaping import limits
from relayd.shaping.rules import Rule
from relayd.submission import FATES, Fate
from relayd.suppression import Policy, parse_policy
from relayd.tables import File
from relayd.validation import OFF, Rules, parse_rules
from relayd.warmup import Plan

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

    url: Annotated[str, values.login_url]
    timeout: Duration = 5.0
    cache: Duration = 300.0
    token_file: FilePath = ""
    authorities: FilePath = ""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """A content filter that speaks rspamd's HTTP protocol (``contentfilter``).  ``actions``: what becomes of a message,
    by the filter's words for it; those that are not named keep their meaning."""

    url: Annotated[str, values.filter_url]
    timeout: Duration = 5.0
    concurrency: Positive = 20
    max_size: Size = 2**20
    on_error: Literal["open", "closed"] = "open"
    settings_id: str = ""
    authorities: FilePath = ""
    actions: Annotated[dict[str, Fate], values.actions] = msgspec.field(default_factory=lambda: FATES)


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

    address: Annotated[tuple[str, ...], values.addresses] = ()
    public: Annotated[tuple[str, ...], values.addresses] = ()
    ehlo: str = ""
    warmup: str = ""


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Sources by weight.  ``overflow``: the pool whose sources are used while none of these can be."""

    sources: Annotated[dict[str, int], values.weights]
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
    risk_pools: Annotated[dict[str, str], values.risk_pools] = {}
    pool_for: Annotated[dict[str, str], values.pool_for] = {}
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
    bytes: Annotated[str, values.volume] = ""
    deliveries_per_session: Annotated[int, notation.whole(0)] = 0
    hours: Annotated[str, values.hours] = ""
    source: Shared = limits.NONE
    pool: Shared = limits.NONE
    account: Annotated[limits.Limits, values.account] = limits.NONE

    def of_path(self) -> limits.Limits:
        return limits.parse_limits({key: value for key in limits.LIMITS if (value := getattr(self, key))})


class Site(Limited, frozen=True, kw_only=True):
    """What holds for a recipient domain, or for all domains whose preferred MX host lies in it."""

    tls: TLSPolicy | None = None


class Provider(Site, frozen=True, kw_only=True):
    """Sites that are run as one: those whose most preferred MX host is, or is below, one of ``match``."""

    match: Annotated[tuple[str, ...], values.hosts]


class NextHop(msgspec.Struct, frozen=True, kw_only=True):
    """A static next hop, with the limits agreed with it."""

    via: Annotated[str, values.next_hop]
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
    accept: Annotated[float, values.accept] = ACCEPT
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

    nameservers: Annotated[tuple[str, ...], notation.list_of(values.nameserver)] = ()
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
    events: Annotated[tuple[EventName, ...], notation.list_of(values.event)] = ()
    accounts: Annotated[tuple[str, ...], notation.list_of(notation.name)] = ()
    begin: Literal["now", "beginning"] = "now"


class FileFeed(Feed, frozen=True, kw_only=True):
    """A file of JSON lines.  It is put aside when it has so many bytes (``rotate``) or its period (``every``) is over,
    whichever comes first; ``keep`` such files stay."""

    path: FilePath
    rotate: Annotated[int, values.some_bytes] = 100 * 2**20
    every: Duration = 86400.0
    compress: Literal["", "zstd"] = ""
    keep: Positive = 30


class RedisFeed(Feed, frozen=True, kw_only=True):
    """A Redis stream.  ``maxlen``: about how many entries it keeps; ``timeout``: of each answer; ``authorities``: a PEM
    file of whom to trust for rediss, "" for the system's."""

    url: Annotated[str, values.redis_url]
    password_file: FilePath = ""
    authorities: FilePath = ""
    stream: str = "relayd:events"
    maxlen: Positive = 1_000_000
    timeout: Duration = 10.0


class Exports(msgspec.Struct, frozen=True, kw_only=True):
    """Files of events that somebody asked for: how long they are kept, and how many bytes of them in all."""

    keep: Duration = 7 * 86400.0
    max_size: Annotated[int, values.some_bytes] = 2 * 2**30


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
