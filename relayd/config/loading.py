"""Loading: from files to one configuration, or to the first fault of every table with its file and key.

In: ``shaping.d/*.toml`` beside the named file, then that file, then ``conf.d/*.toml`` beside it, each in lexical order
(tables merge key by key, later ones override; arrays of tables append).  Each table is converted on its own, what one
leaves to another is filled in, then they are checked together.  Out: a ``Config`` that needs no second look: durations
are seconds, sizes bytes, paths absolute, names known, keys readable.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from relayd import notation
from relayd.config.checks import check, check_shaping
from relayd.config.tables import (
    TLS,
    Allow,
    Api,
    Auth,
    Blocklists,
    Config,
    Dkim,
    Egress,
    Exports,
    Feed,
    Feedback,
    FileFeed,
    Filter,
    Listener,
    Login,
    Metrics,
    NextHop,
    Node,
    Pool,
    Provider,
    QueueTable,
    RedisFeed,
    Reputation,
    Resolver,
    Retry,
    Route,
    Sandbox,
    Site,
    Source,
    Ssh,
    Statistics,
    Stream,
    Suspicion,
    Validation,
    Webhooks,
)
from relayd.errors import InputError
from relayd.shaping import rules
from relayd.shaping.rules import Rule
from relayd.tables import ConfigError, Fault, Reader, parsed
from relayd.warmup import Plan

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
        check(config, reader.fault)
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
    check_shaping(known, reactions, reader.fault)
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
