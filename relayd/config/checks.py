"""What tables must not say together, and what they name on this machine: files that can be read, packages that are
installed, addresses that are free.

In: all tables, each right by itself, with what one leaves to another filled in.  Out: a fault, by table and key, for
each thing that is not so.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from relayd import classify, notation
from relayd.config import values
from relayd.config.tables import TLS, Api, Auth, Config, FileFeed, Listener, Metrics, Provider, RedisFeed
from relayd.errors import InputError
from relayd.shaping.rules import Rule
from relayd.validation import read_lists, read_traps

_LONGEST_BESIDE_SSH = 107 - 21  # what ``ssh.child`` adds to the path

Report = Callable[[str, str, str], None]


def check(config: Config, fault: Report) -> None:
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
    check_shaping(config.provider, config.reaction, fault)
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


def _check_feeds(feeds: Mapping[str, FileFeed | RedisFeed], fault: Report) -> None:
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


def check_shaping(providers: Mapping[str, Provider], reactions: Mapping[str, Rule], fault: Report) -> None:
    owners: dict[str, str] = {}
    for name, provider in providers.items():
        for pattern in provider.match:
            if owners.setdefault(pattern, name) != name:
                fault(f"provider.{name}", "match", f"{pattern} is in [provider.{owners[pattern]}] already")
    for name, rule in reactions.items():
        if rule.provider:
            _known(rule.provider, providers, "provider", partial(fault, f"reaction.{name}", "provider"))


def _check_listeners(config: Config, fault: Report) -> None:
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


def _check_auth(auth: Auth, fault: Report) -> None:
    try:
        token = Path(auth.token_file).read_bytes().strip() if auth.token_file else b"none"
    except OSError as error:
        return fault("auth", "token_file", f"{auth.token_file}: {error.strerror}")
    if not token or not all(0x20 < byte < 0x7F for byte in token):
        return fault("auth", "token_file", f"{auth.token_file} holds no token: one word in ASCII")
    _check_authorities("auth", auth.authorities, fault)


def _check_authorities(table: str, file: str, fault: Report) -> None:
    try:
        if file:
            x509.load_pem_x509_certificates(Path(file).read_bytes())
    except OSError as error:
        fault(table, "authorities", f"{file}: {error.strerror}")
    except ValueError:
        fault(table, "authorities", f"{file} holds no PEM certificate")


def _check_metrics(metrics: Metrics, fault: Report) -> None:
    where = notation.endpoint(metrics.listen)
    ours = where.kind == "unix" or values.loopback(where.interface)
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
    elif not values.loopback(where.interface):
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
