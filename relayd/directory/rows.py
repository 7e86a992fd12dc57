"""Accounts, submission connections and account streams: the values, and how they lie in their tables.

In: what an operator typed, rows of SQLite.  Out: frozen values that need no second look, and rows.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from relayd import notation
from relayd.address import domain_of, folded, parse_address
from relayd.quotas import Limits, parse_limits, show_limits
from relayd.shaping.limits import Layer, account_layers, show_layers

AccountState = Literal["active", "suspended"]
DomainCheck = Literal["off", "warn", "require"]
ConnectionState = Literal["active", "blocked", "inactive"]
Risk = Literal["low", "normal", "high"]

_ANY = "*"


class Account(msgspec.Struct, frozen=True):
    """A customer, or with a ``parent`` a sub-account: a client of that customer.  ``created`` is unix seconds.

    ``risk``: whether its mail keeps to the pools for that class (a stream's ``risk_pools``).  ``zone``: its own DNS
    zone for return path and links, "" for none.  ``limits`` hold for all it sends, with its sub-accounts;
    ``client_limits`` for each client behind it; ``sessions``: open at once, 0 for no limit; ``weight``: its share where
    accounts want the same destination, its clients' together; ``shaping``: limits of what goes out for it;
    ``notices``: the address that is told of what concerns it, "" for nobody."""

    name: str
    state: AccountState = "active"
    domain_check: DomainCheck = "require"
    created: float = 0.0
    parent: str = ""
    risk: Risk = "normal"
    zone: str = ""
    limits: Limits = Limits()
    client_limits: Limits = Limits()
    sessions: int = 0
    weight: int = 1
    shaping: tuple[Layer, ...] = ()
    notices: str = ""


class SubmissionConnection(msgspec.Struct, frozen=True):
    """A login and what it may do.  ``password`` is a hash or ``hashes.EXTERNAL``; ``version`` rises with every change.

    ``senders``: addresses, "@domain" for all of a domain, or "*" for any; none means that it may send as nobody.
    ``clients``: addresses and CIDRs that may log in; none means any.  ``streams``: the first is what its mail goes by
    unless a message says which; none is the default stream.  ``lists``: names of suppression lists that its mail is
    held against besides its stream's.  ``by``: who set its state, ``reason`` why.  ``passwords``: how many there were
    before this one."""

    login: str
    account: str
    password: str
    senders: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    state: ConnectionState = "active"
    reason: str = ""
    created: float = 0.0
    version: int = 1
    by: str = ""
    lists: tuple[str, ...] = ()
    limits: Limits = Limits()
    sessions: int = 0
    passwords: int = 0

    @property
    def secret(self) -> tuple[float, int]:
        """Which password it is: another one after every change, the same while only its hash is renewed."""
        return self.created, self.passwords

    def may_send_as(self, address: str) -> bool:
        """Whether the address (null sender: "") is one of the connection's.  Case does not matter."""
        if self.senders == (_ANY,):
            return True
        text = folded(address)
        return text in self.senders or text[text.rindex("@") :] in self.senders

    def may_connect_from(self, client: str) -> bool:
        """Whether a client at this IP address may use the login."""
        return not self.clients or notation.within(client, self.clients)


class AccountStream(msgspec.Struct, frozen=True):
    """What an account calls a stream: a template of the configuration, with some keys of [stream.NAME] its own."""

    account: str
    name: str
    template: str
    overrides: dict[str, Any] = {}


class Change(msgspec.Struct, frozen=True):
    """One change that somebody made, or tried to: ``result`` is "done", or why not."""

    time: float
    who: str
    verb: str
    arguments: dict[str, Any]
    result: str


# Rows.  What is in ``settings`` there is left out where it is the default.


def account_row(account: Account) -> tuple[object, ...]:
    settings = {
        **_given(account, ("risk", "zone", "sessions", "notices")),
        **({"weight": account.weight} if account.weight != 1 else {}),
        **_shown_limits(account, ("limits", "client_limits")),
        **({"shaping": show_layers(account.shaping)} if account.shaping else {}),
    }
    return account.name, account.state, account.domain_check, account.created, account.parent, _stored(settings)


def account_of(row: tuple[Any, ...]) -> Account:
    name, state, domain_check, created, parent, settings = row
    more = _settings(settings)
    more["shaping"] = account_layers(name, more.get("shaping", {}))
    return Account(name, state, domain_check, float(created), parent, **more)


def connection_row(row: SubmissionConnection) -> tuple[object, ...]:
    settings = {**_given(row, ("by", "lists", "sessions", "passwords")), **_shown_limits(row, ("limits",))}
    texts = (_stored(row.senders), _stored(row.clients), _stored(row.streams))
    return (
        row.login,
        row.account,
        row.password,
        *texts,
        row.state,
        row.reason,
        row.created,
        row.version,
        _stored(settings),
    )


def connection_of(row: tuple[Any, ...]) -> SubmissionConnection:
    login, account, password, senders, clients, streams, state, reason, created, version, settings = row
    texts = (_texts(senders), _texts(clients), _texts(streams))
    more = _settings(settings)
    more["lists"] = tuple(more.get("lists", ()))
    return SubmissionConnection(login, account, password, *texts, state, reason, float(created), version, **more)


def stream_row(row: AccountStream) -> tuple[object, ...]:
    return row.account, row.name, row.template, _stored(row.overrides)


def stream_of(row: tuple[Any, ...]) -> AccountStream:
    account, name, template, overrides = row
    return AccountStream(account, name, template, msgspec.json.decode(overrides))


def change_row(row: Change) -> tuple[object, ...]:
    return row.time, row.who, row.verb, _stored(row.arguments), row.result


def change_of(row: tuple[Any, ...]) -> Change:
    time, who, verb, arguments, result = row
    return Change(time, who, verb, msgspec.json.decode(arguments), result)


def _given(row: msgspec.Struct, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(row, name)) not in ("", 0, (), "normal")}


def _shown_limits(row: msgspec.Struct, names: Iterable[str]) -> dict[str, Any]:
    return {name: shown for name in names if (shown := show_limits(getattr(row, name)))}


def _settings(stored: str) -> dict[str, Any]:
    settings = msgspec.json.decode(stored, type=dict[str, Any])
    for name in ("limits", "client_limits"):
        if name in settings:
            settings[name] = parse_limits(settings[name])
    return settings


def _texts(stored: str) -> tuple[str, ...]:
    return msgspec.json.decode(stored, type=tuple[str, ...])


def _stored(value: object) -> str:
    return msgspec.json.encode(value).decode()


# What operators type.


def senders(texts: Iterable[str]) -> tuple[str, ...]:
    """Raises ValueError."""
    return tuple(dict.fromkeys(map(_sender, texts)))


def _sender(text: str) -> str:
    """Lower case with an A-label domain: the form that ``may_send_as`` compares."""
    if text == _ANY:
        return text
    if text.startswith("@"):
        return "@" + domain_name(domain_of(parse_address("x" + text)))
    return folded(parse_address(text))


def mailbox(text: str) -> str:
    """An address that mail can be sent to.  Raises ValueError."""
    address = parse_address(text)
    if not domain_of(address):
        raise ValueError(f"{text!r} has no domain: write name@domain.example")
    return address


def networks(texts: Iterable[str]) -> tuple[str, ...]:
    """Raises ValueError."""
    return tuple(map(notation.network, texts))


def names(texts: Iterable[str]) -> tuple[str, ...]:
    """Raises ValueError."""
    return tuple(dict.fromkeys(map(notation.name, texts)))


def domain_name(text: str) -> str:
    """A domain as it is looked up: lower case with A-labels.  Raises ValueError."""
    return notation.hostname(domain_of("x@" + text))
