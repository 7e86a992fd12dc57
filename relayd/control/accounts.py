"""Verbs of accounts and of what each calls a stream."""

import tomllib
from concurrent.futures import Future
from typing import Any, Literal

import msgspec

from relayd import notation
from relayd.control.answers import limits_given, shown
from relayd.control.verb import NOTED, Arg, Relay, Scope, Verb, then
from relayd.directory import Account, AccountStream
from relayd.errors import InputError
from relayd.shaping.limits import account_layers, show_layers

_KEPT = object()


def known(relay: Relay, name: str, field: str = "account") -> Account:
    """Raises InputError."""
    account = relay.directory.account(name)
    if account is None:
        near = notation.nearest(name, (row.name for row in relay.directory.accounts()))
        raise InputError(field, f"there is no account {name!r}{near}")
    return account


def meant(relay: Relay, name: str | None, below: bool) -> tuple[str, ...]:
    """The names of an account, and on request of all below it; () for none, which is all.  Raises InputError."""
    if name is None:
        return ()
    known(relay, name)
    return tuple(
        row.name
        for row in relay.directory.accounts()
        if row.name == name or (below and name in relay.directory.lineage(row.name))
    )


def _settings(
    parent: str | None,
    domain_check: str | None,
    risk: str | None,
    zone: str | None,
    notices: str | None,
    sessions: int | None,
    weight: int | None,
) -> dict[str, Any]:
    """What was given of them; "none" takes a parent, zone or address away."""
    given: dict[str, Any] = {"parent": parent, "domain_check": domain_check, "risk": risk, "zone": zone}
    given |= {"notices": notices, "sessions": sessions, "weight": weight}
    return {key: "" if value == "none" else value for key, value in given.items() if value is not None}


def _add(relay: Relay, name: str, **given: Any) -> "Future[dict[str, Any]]":
    settings = _settings(**given)
    return then(relay.directory.add_account(name, now=relay.now(), **settings), shown)


def _set(
    relay: Relay,
    name: str,
    messages: list[str],
    recipients: list[str],
    client_messages: list[str],
    client_recipients: list[str],
    **given: Any,
) -> "Future[dict[str, Any]]":
    account = known(relay, name, "name")
    changes = {
        **_settings(**given),
        **limits_given("limits", account.limits, messages, recipients),
        **limits_given("client_limits", account.client_limits, client_messages, client_recipients, "client_"),
    }
    if not changes:
        raise InputError("", "nothing to set: name what shall change, such as --risk high")
    return then(relay.directory.change_account(name, **changes), shown)


def _list(relay: Relay, parent: str | None) -> list[dict[str, Any]]:
    return [shown(row) for row in relay.directory.accounts() if parent in (None, row.parent)]


def _show(relay: Relay, name: str) -> dict[str, Any]:
    account = known(relay, name, "name")
    directory = relay.directory
    return {
        **shown(account),
        "accounts": [row.name for row in directory.accounts() if row.parent == name],
        "streams": [_stream_row(relay, row) for row in directory.streams(name)],
        "connections": [row.login for row in directory.connections() if row.account == name],
    }


def _state(state: Literal["active", "suspended"]) -> Any:
    def handler(relay: Relay, name: str) -> "Future[dict[str, Any]]":
        return then(relay.directory.change_account(name, state=state), shown)

    return handler


async def _would_turn(relay: Relay, name: str) -> dict[str, Any]:
    """Whom it stops or lets in; what is queued goes out all the same."""
    known(relay, name, "name")
    return submitting(await relay.hit(account=name))


def submitting(hit: dict[str, Any]) -> dict[str, Any]:
    """Of whom a stop would hit, those who submit."""
    names = ("sessions", "connections")
    return {**{name: hit[name] for name in names}, "sample": {name: hit["sample"][name] for name in names}}


def _shape(relay: Relay, name: str, at: str | None, set: list[str]) -> "Future[dict[str, Any]]":
    account = known(relay, name, "name")
    where = _destination(relay, at)
    layers = show_layers(account.shaping)
    scopes = layers.setdefault(where, {})
    for text in set:
        key, value = _pair(text)
        scope, _, limit = key.rpartition(".")
        limits = scopes.setdefault(scope or "account", {})
        if value is _KEPT:
            limits.pop(limit, None)
        else:
            limits[limit] = value
    kept = {place: {scope: found for scope, found in scopes.items() if found} for place, scopes in layers.items()}
    try:
        shaping = account_layers(name, {place: scopes for place, scopes in kept.items() if scopes})
    except ValueError as fault:
        raise InputError("set", str(fault)) from None
    return then(relay.directory.change_account(name, shaping=shaping), shown)


def _destination(relay: Relay, at: str | None) -> str:
    """A provider's name, or a pattern of mail hosts; "" for everywhere."""
    if not at or at in relay.config.provider:
        return at or ""
    try:
        return notation.domain_pattern(at) if "." in at else notation.hostname("")
    except ValueError:
        near = notation.nearest(at, relay.config.provider)
        raise InputError(
            "at", f"there is no provider {at!r}{near}; mail hosts: mx.example.com or *.example.com"
        ) from None


# Streams.


def stream_names(relay: Relay, account: str) -> list[str]:
    """What an account may call a stream."""
    own = {row.name for owner in relay.directory.lineage(account) for row in relay.directory.streams(owner)}
    return sorted({*own, *relay.config.stream})


def known_streams(relay: Relay, account: str, names: list[str], field: str = "stream") -> list[str]:
    """Raises InputError."""
    there = stream_names(relay, account)
    for name in (name for name in names if name not in there):
        raise InputError(field, f"there is no stream {name!r}{notation.nearest(name, there)}")
    return names


def _stream_row(relay: Relay, row: AccountStream) -> dict[str, Any]:
    fault = relay.stream_fault(row)
    return {**msgspec.structs.asdict(row), **({"fault": fault} if fault else {})}


def _stream_set(relay: Relay, account: str, name: str, template: str | None, set: list[str]) -> Any:
    known(relay, account)
    own = next((row for row in relay.directory.streams(account) if row.name == name), None)
    template = template or (own.template if own else name)
    if template not in relay.config.stream:
        near = notation.nearest(template, relay.config.stream)
        raise InputError("template", f"there is no stream {template!r} in the configuration{near}")
    overrides = dict(own.overrides) if own else {}
    for text in set:
        key, value = _pair(text)
        if value is _KEPT:
            overrides.pop(key, None)
        else:
            overrides[key] = value
    if fault := relay.stream_fault(AccountStream(account, name, template, overrides)):
        raise InputError("set", fault)
    return then(relay.directory.set_stream(account, name, template, overrides), lambda row: _stream_row(relay, row))


def _pair(text: str) -> tuple[str, Any]:
    """KEY=VALUE with the value as in TOML, or a bare word; an empty value means the template's."""
    key, equals, value = map(str.strip, text.partition("="))
    if not equals:
        raise InputError("set", f"{text!r} is not KEY=VALUE, such as priority=20")
    if not value:
        return key, _KEPT
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _stream_list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    configured = [] if account else list(relay.config.stream)
    rows = [{"account": "", "name": name, "template": name, "overrides": {}} for name in configured]
    return rows + [_stream_row(relay, row) for row in relay.directory.streams(account)]


def _stream_show(relay: Relay, account: str, name: str) -> dict[str, Any]:
    known(relay, account)
    known_streams(relay, account, [name], "name")
    return {"account": account, "name": name, **relay.stream_of(account, name)}


def _stream_remove(relay: Relay, account: str, name: str) -> Any:
    return then(relay.directory.remove_stream(account, name), msgspec.structs.asdict)


_NAME = Arg("name", "the account's name", "name", positional=True, required=True)
_STREAM = Arg("name", "the stream's name", "name", positional=True, required=True)
_ACCOUNT = Arg("account", "whose stream it is", "name", required=True)
_SETTINGS = (
    Arg("parent", 'the account whose client this one is; "none" for nobody\'s', "name"),
    Arg("domain_check", "what an unproven sender domain means; at first require", choices=("off", "warn", "require")),
    Arg("risk", "the class of its mail, which may have pools of its own", choices=("low", "normal", "high")),
    Arg("zone", 'a DNS zone of its own for return path and links; "none" for none'),
    Arg("notices", 'the address that is told when one of its clients is under suspicion; "none" for nobody'),
    Arg("sessions", "open at once; 0: no limit", "int"),
    Arg("weight", "its share beside other accounts that want the same destination; at first 1", "int"),
)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="account add",
        help="make an account, a customer, or with --parent a client of one",
        handler=_add,
        args=(_NAME, *_SETTINGS),
        role="admin",
        effect="change",
        example="account add crm",
    ),
    Verb(
        name="account set",
        help="change what an account may do; what is not named stays",
        handler=_set,
        args=(
            _NAME,
            *_SETTINGS,
            Arg("messages", 'the most messages in a time, "100/min"; "none" for no limit', repeated=True),
            Arg("recipients", 'the most recipients in a time, "50000/d"; "none" for no limit', repeated=True),
            Arg("client_messages", "the same for each client behind the account", repeated=True),
            Arg("client_recipients", "the same for each client behind the account", repeated=True),
        ),
        role="admin",
        effect="change",
        example="account set --recipients 1000/h --recipients 10000/d crm",
    ),
    Verb(
        name="account shape",
        help="limit what goes out for an account, in all or towards a provider",
        handler=_shape,
        args=(
            _NAME,
            Arg("at", "a provider, or mail hosts such as *.example.com; without it, everywhere"),
            Arg(
                "set",
                "[SCOPE.]LIMIT=VALUE: connections (deliveries under way), rate, bytes or hours, of the account's mail "
                "in all, or by each path, source or pool; an empty value takes it away",
                repeated=True,
                required=True,
            ),
        ),
        role="operate",
        effect="change",
        example="account shape --at gmail --set rate=1000/h --set path.connections=2 crm",
    ),
    Verb(
        name="account list",
        help="all accounts, or an account's own",
        handler=_list,
        args=(Arg("parent", "only those below this account", "name"),),
        example="account list",
        scope=Scope("parent"),
    ),
    Verb(
        name="account show",
        help="an account: its settings, and the names of what it has",
        handler=_show,
        args=(_NAME,),
        example="account show crm",
        scope=Scope("name"),
    ),
    Verb(
        name="account suspend",
        help="take no more mail from an account; what is queued goes out",
        handler=_state("suspended"),
        would=_would_turn,
        args=(_NAME, NOTED),
        role="operate",
        effect="change",
        example='account suspend --reason "the invoice is not paid" crm',
    ),
    Verb(
        name="account resume",
        help="take mail from a suspended account again",
        handler=_state("active"),
        would=_would_turn,
        args=(_NAME,),
        role="operate",
        effect="change",
        example="account resume crm",
    ),
    Verb(
        name="stream set",
        help="give an account a stream of its own: a configured one, with some keys different",
        handler=_stream_set,
        args=(
            _STREAM,
            _ACCOUNT,
            Arg("template", "the configured stream it is made from; without one, that of its name", "name"),
            Arg("set", "KEY=VALUE as under [stream.NAME]; KEY= takes the template's again", repeated=True),
        ),
        role="admin",
        effect="change",
        example="stream set --account crm --template marketing --set priority=10 --set validation=bulk news",
    ),
    Verb(
        name="stream list",
        help="the configured streams and those that accounts have made of them",
        handler=_stream_list,
        args=(Arg("account", "only this account's own", "name"),),
        example="stream list --account crm",
        scope=Scope("account"),
    ),
    Verb(
        name="stream show",
        help="what holds for a stream of an account, all things considered",
        handler=_stream_show,
        args=(_STREAM, _ACCOUNT),
        example="stream show --account crm transactional",
        scope=Scope("account"),
    ),
    Verb(
        name="stream remove",
        help="take an account's own stream away; the configured one of that name holds again",
        handler=_stream_remove,
        args=(_STREAM, _ACCOUNT),
        role="admin",
        effect="change",
        example="stream remove --account crm news",
    ),
)
