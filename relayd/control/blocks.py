"""The verbs of blocks, and of the drain of the whole relay.

In: the directory's blocks, suspensions of sites (``shaping``), what the running relay says of whom a block would hit.
Out: JSON-able rows.
"""

from typing import Any

import msgspec

from relayd import notation
from relayd.control import shaping
from relayd.control.accounts import known
from relayd.control.verb import REASON, Arg, Relay, Verb, then
from relayd.directory import Block
from relayd.directory.blocks import WHOLE, value_of
from relayd.errors import InputError

_KINDS = ("ip", "account", "connection", "source", "site", "domain")


def shown(row: Block) -> dict[str, Any]:
    return {**msgspec.structs.asdict(row), "until": row.until or None}


async def _add(relay: Relay, kind: str, value: str, reason: str, who: str, **given: Any) -> dict[str, Any] | Any:
    if kind == "site":
        return await shaping.suspend(relay, shaping.Whom(at=value), reason, who, given["for"])
    name = _value(relay, kind, value)
    now, seconds = relay.now(), given["for"]
    row = Block(kind, name, reason, who, now, now + seconds if seconds else 0.0)  # type: ignore[arg-type]
    return then(relay.directory.blocks.add(row), shown)


async def _would_add(relay: Relay, kind: str, value: str, **given: Any) -> dict[str, Any]:
    if kind == "site":
        return await shaping.would_stop(relay, shaping.Whom(at=value))
    name = _value(relay, kind, value)
    return {"kind": kind, "value": name, **await relay.hit(**{kind: name})}


async def _remove(relay: Relay, kind: str, value: str) -> dict[str, Any] | Any:
    if kind == "site":
        return await shaping.resume(relay, shaping.Whom(at=value))
    return then(relay.directory.blocks.remove(kind, _parsed(kind, value)), shown)


async def _would_remove(relay: Relay, kind: str, value: str) -> dict[str, Any]:
    if kind == "site":
        return await shaping.would_resume(relay, shaping.Whom(at=value))
    name = _parsed(kind, value)
    found = relay.directory.blocks.get(kind, name)
    if found is None:
        raise InputError("value", f"{kind} {name} is not blocked: relayctl block list shows what is")
    return {**shown(found), **await relay.hit(**{kind: name})}


def _list(relay: Relay, kind: str | None) -> list[dict[str, Any]]:
    """Suspensions of sites by hand are shown among the others: they are the blocks of sites."""
    rows = [shown(row) for row in relay.directory.blocks.all() if kind in (None, row.kind)]
    for active in relay.reactions.all() if kind in (None, "site") else ():
        if active.by and active.action == "suspend" and active.group and active.key == ("", active.group, "", "", ""):
            until = shaping.end(active.until)
            block = {"kind": "site", "value": active.group, "reason": active.reason, "by": active.by}
            rows.append({**block, "since": active.since, "until": until})
    return sorted(rows, key=lambda row: -row["since"])


def _check(relay: Relay, value: str) -> dict[str, Any]:
    """All that bears on a value, whatever kind it is of; an address also on the networks around it."""
    blocks, directory = relay.directory.blocks, relay.directory
    found = [blocks.networks.find(value)]
    connection = directory.connection(value)
    found += [blocks.connections.get(value), blocks.sources.get(value)]
    found += [blocks.of_account(directory.lineage(value))]
    found += [blocks.of_account(directory.lineage(connection.account))] if connection else []
    found += [blocks.of_domain(value.lower().rpartition("@")[2])]
    rows = [shown(row) for row in dict.fromkeys(filter(None, found))]
    rows += [row for row in _list(relay, "site") if row["value"] == value]
    return {"value": value, "blocked": bool(rows), "blocks": rows}


def _value(relay: Relay, kind: str, value: str) -> str:
    """A value that can be blocked: there is such an account, connection or source."""
    name = _parsed(kind, value)
    if kind == "account":
        known(relay, name, "value")
    elif kind == "source" and name not in relay.config.source:
        raise InputError("value", f"there is no source {name!r}{notation.nearest(name, relay.config.source)}")
    elif kind == "connection" and relay.directory.connection(name) is None and not name.startswith("relay:"):
        near = notation.nearest(name, (row.login for row in relay.directory.connections()))
        raise InputError("value", f"there is no connection {name!r}{near}")
    return name


def _parsed(kind: str, value: str) -> str:
    try:
        return value_of(kind, value)
    except ValueError as error:
        raise InputError("value", str(error)) from None


def _drain(relay: Relay, reason: str, who: str, **given: Any) -> Any:
    now, seconds = relay.now(), given["for"]
    row = Block("relay", WHOLE, reason, who, now, now + seconds if seconds else 0.0)
    return then(relay.directory.blocks.add(row), shown)


def _would_drain(relay: Relay, **given: Any) -> Any:
    return relay.hit(relay=WHOLE)


def _undrain(relay: Relay) -> Any:
    if relay.directory.blocks.draining is None:
        raise InputError("", "relayd is not draining")
    return then(relay.directory.blocks.remove("relay", WHOLE), shown)


_KIND = Arg("kind", "the kind of what is stopped", positional=True, required=True, choices=_KINDS)
_VALUE = Arg(
    "value",
    "a client's address or CIDR, the name of an account, login, source or provider, a domain or *.domain of recipients",
    positional=True,
    required=True,
)
_FOR = Arg("for", "how long, such as 2h; without it, until it is taken back", "duration")

VERBS: tuple[Verb, ...] = (
    Verb(
        name="block add",
        help="stop somebody at once: nothing is taken in, live sessions are cut, what is queued waits",
        handler=_add,
        would=_would_add,
        args=(_KIND, _VALUE, REASON, _FOR),
        role="operate",
        effect="change",
        signed=True,
        example='block add ip 198.51.100.0/24 --reason "guesses passwords" --for 2h',
    ),
    Verb(
        name="block remove",
        help="take a block back: what waited goes on",
        handler=_remove,
        would=_would_remove,
        args=(_KIND, _VALUE),
        role="operate",
        effect="change",
        example="block remove ip 198.51.100.0/24",
    ),
    Verb(
        name="block list",
        help="what is blocked, by whom, why and until when; the latest first",
        handler=_list,
        args=(Arg("kind", "only these", choices=(*_KINDS, "relay")),),
        example="block list --kind ip",
    ),
    Verb(
        name="block check",
        help="which blocks bear on an address, login, account, source, site, domain or recipient",
        handler=_check,
        args=(Arg("value", "what to look for", positional=True, required=True),),
        example="block check 198.51.100.7",
    ),
    Verb(
        name="drain on",
        help="take no new mail (421) and deliver what there is; what comes back to us is still taken",
        handler=_drain,
        would=_would_drain,
        args=(REASON, _FOR),
        role="operate",
        effect="change",
        signed=True,
        example='drain on --reason "the machine is replaced"',
    ),
    Verb(
        name="drain off",
        help="take new mail again",
        handler=_undrain,
        role="operate",
        effect="change",
        example="drain off",
    ),
)
