"""The verbs of the tokens with which the control API is asked over the network.

In: names, roles, accounts.  Out: JSON-able rows; a token's text is in the answer that made it and nowhere else.
"""

from concurrent.futures import Future
from typing import Any

from relayd.control.accounts import known
from relayd.control.verb import ROLES, Arg, Relay, Role, Verb, then
from relayd.directory import ApiToken
from relayd.errors import InputError


def _add(
    relay: Relay,
    name: str,
    account: str | None,
    role: Role | None,
    expires: float | None,
    network: list[str],
    note: str,
    who: str,
) -> "Future[dict[str, Any]]":
    if (account is None) == (role is None):
        raise InputError("role", "say who is to have it: --account NAME for a customer, or --role for an operator")
    if account is not None:
        known(relay, account)
    now = relay.now()
    made = relay.directory.api_tokens.add(
        name,
        role or "customer",
        now=now,
        by=who,
        account=account or "",
        networks=network,
        expires=now + expires if expires else 0.0,
        note=note,
    )
    return then(made, lambda new: {"token": new.text, **_row(relay, new.token)})


def _list(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    return [_row(relay, row) for row in relay.directory.api_tokens.all() if account in (None, row.account)]


def _revoke(relay: Relay, name: str) -> "Future[dict[str, Any]]":
    return then(relay.directory.api_tokens.revoke(name), lambda row: _row(relay, row))


def _row(relay: Relay, token: ApiToken) -> dict[str, Any]:
    """``id`` stands in the token's text: by it one that was found somewhere is known."""
    return {
        "name": token.name,
        "role": token.role,
        "account": token.account,
        "state": "expired" if token.over(relay.now()) else "in use",
        "expires": token.expires or None,
        "networks": list(token.networks),
        "last_used": token.used or None,
        "used_from": token.used_from,
        "created": token.created,
        "by": token.by,
        "id": token.id,
        "note": token.note,
    }


_NAME = Arg("name", "the token's name", "name", positional=True, required=True)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="apitoken add",
        help="make a token for the control API over the network; it is shown this once",
        handler=_add,
        args=(
            _NAME,
            Arg("account", "for a customer: the account that it may ask about", "name"),
            Arg("role", "or for an operator: what he may do", choices=ROLES),
            Arg("expires", "after which time it is void; without it, never", "duration"),
            Arg("network", "an IP address or CIDR it may be used from; without any, all", repeated=True),
            Arg("note", "what it is for", default=""),
        ),
        role="admin",
        effect="change",
        signed=True,
        example="apitoken add --account crm --expires 365d crm-dashboard",
    ),
    Verb(
        name="apitoken list",
        help="the tokens for the control API: whose each is, until when, and when it was last used",
        handler=_list,
        args=(Arg("account", "only this customer's", "name"),),
        example="apitoken list",
    ),
    Verb(
        name="apitoken revoke",
        help="make a token void, from its next request on",
        handler=_revoke,
        args=(_NAME,),
        role="operate",
        effect="change",
        example="apitoken revoke crm-dashboard",
    ),
)
