"""Verbs narrowed to a customer: what he asks must be his own, or of an account below his.

In: a verb, the arguments, who asks.  Out: the handler's answer, less what is for operators.  A verb without a scope is
for no customer.  What is another's and what is not there are refused in the same words (``NotFound``).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from relayd import notation
from relayd.control.verb import Caller, Relay, Scope, Verb, arguments, called
from relayd.directory import domain_name
from relayd.errors import InputError
from relayd.reputation import read

MOST = 1000  # of anything that has a limit


class NotFound(InputError):
    """There is no such thing, or it is not the caller's to know of."""


def perform(verb: Verb, relay: Relay, given: Mapping[str, object], caller: Caller) -> Any:
    """The handler's answer, for a customer only what is his.  Raises InputError."""
    if caller.role != "customer":
        return called(verb, relay, arguments(verb, given), caller.name)
    scope = verb.scope
    assert scope is not None, f"{verb.name} is not for customers"
    found = arguments(verb, _filled(scope, relay, given, caller.account))
    if scope.arg:
        _check(scope, relay, found[scope.arg], caller.account)
    if isinstance(limit := found.get("limit"), int):
        found["limit"] = min(limit, MOST)
    return called(verb, relay, found, caller.name)


def shown(verb: Verb, value: Any, caller: Caller) -> Any:
    """An answer as the caller may see it."""
    if caller.role != "customer" or verb.scope is None or not verb.scope.hides:
        return value
    return _without(verb.scope.hides, msgspec.to_builtins(value))


def _without(hidden: tuple[str, ...], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(hidden, item) for key, item in value.items() if key not in hidden}
    return [_without(hidden, item) for item in value] if isinstance(value, list) else value


def _filled(scope: Scope, relay: Relay, given: Mapping[str, object], account: str) -> Mapping[str, object]:
    """Who does not say whose, means himself."""
    if not scope.arg or given.get(scope.arg) is not None:
        return given
    if scope.of == "account":
        return {**given, scope.arg: account}
    if scope.of == "subject":
        return {**given, scope.arg: f"account:{account}"}
    balance = relay.directory.balances.balance(account) if scope.of == "plan" else None
    return {**given, scope.arg: balance.plan} if balance else given


def _check(scope: Scope, relay: Relay, value: object, account: str) -> None:
    """Raises NotFound unless all that is asked for is the account's, or of one below it."""
    values = value if isinstance(value, list) else [value]
    if not values or None in values:
        raise InputError(scope.arg, "is missing")
    for one in values:
        owners = _OWNERS[scope.of](relay, str(one))
        if not any(owner and account in relay.directory.lineage(owner) for owner in owners):
            raise NotFound(scope.arg, f"there is no {scope.of} {one!r} that your token may ask about")


# The accounts whose a thing is, by its name.


def _of_account(relay: Relay, name: str) -> Iterable[str]:
    return (name,)


def _of_connection(relay: Relay, login: str) -> Iterable[str]:
    connection = relay.directory.connection(login)
    return (connection.account,) if connection else ()


def _of_domain(relay: Relay, name: str) -> Iterable[str]:
    try:
        row = relay.directory.senders.get(domain_name(name))
    except ValueError:
        return ()
    return (row.account,) if row else ()


def _of_list(relay: Relay, name: str) -> Iterable[str]:
    kind, owner = notation.list_owner(name)
    return _of_connection(relay, owner) if kind == "connection" else (owner,)


def _of_subject(relay: Relay, subject: str) -> Iterable[str]:
    try:
        kind, name = read(subject)
    except ValueError:
        return ()
    if kind == "connection":
        return _of_connection(relay, name)
    # A domain's and a source's standing is made by everybody who sends by it.
    return (name.partition("/")[0],) if kind in ("account", "client") else ()


def _of_plan(relay: Relay, name: str) -> Iterable[str]:
    return (balance.account for balance in relay.directory.balances.balances() if balance.plan == name)


_OWNERS: dict[str, Callable[[Relay, str], Iterable[str]]] = {
    "account": _of_account,
    "connection": _of_connection,
    "domain": _of_domain,
    "list": _of_list,
    "subject": _of_subject,
    "plan": _of_plan,
}
