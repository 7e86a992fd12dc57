"""What the verbs do with suppression lists, for operators and their files.

Handlers of ``verbs.VERBS``.  In: list names, values, rows.  Out: JSON-able rows; "expires" is null for never.
"""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import msgspec

from relayd import notation
from relayd.control.verb import Relay, then
from relayd.errors import InputError
from relayd.suppression import Entry, Kind, Page, Reason, SuppressionList, Tally, entry, to_row


def add_list(relay: Relay, list: str) -> "Future[SuppressionList]":
    kind, owner = notation.list_owner(list)
    if kind == "account" and relay.directory.account(owner) is None:
        near = notation.nearest(owner, (account.name for account in relay.directory.accounts()))
        raise InputError("list", f"there is no account {owner!r}{near}")
    if kind == "connection" and relay.directory.connection(owner) is None:
        near = notation.nearest(owner, (connection.login for connection in relay.directory.connections()))
        raise InputError("list", f"there is no connection {owner!r}{near}")
    return relay.suppressions.add_list(list, now=relay.now())


def lists(relay: Relay, account: str | None) -> "list[SuppressionList]":
    return [row for row in relay.suppressions.lists() if account is None or _owner(relay, row.list) == account]


def remove_list(relay: Relay, list: str) -> "Future[SuppressionList]":
    return relay.suppressions.remove_list(list)


def add(
    relay: Relay,
    list: str,
    value: "list[str]",
    kind: Kind | None,
    reason: Reason,
    evidence: str,
    expires: float | None,
    who: str,
) -> "Future[dict[str, Any]]":
    now = relay.now()
    more: dict[str, Any] = {"kind": kind, "reason": reason, "evidence": evidence, "added": now, "by": who}
    until = now + expires if expires else 0
    entries = [entry(list, text, expires=until, **more) for text in value]
    read_as = [{"kind": one.kind, "value": one.value} for one in entries]
    return then(relay.suppressions.add(entries), lambda tally: {**_told(tally), "entries": read_as})


def remove(relay: Relay, list: str, value: str, kind: Kind | None) -> "Future[dict[str, Any]]":
    return then(relay.suppressions.remove(list, value, kind), _shown)


def search(relay: Relay, address: str, account: str | None) -> "Future[list[dict[str, Any]]]":
    def shape(found: "list[Entry]") -> "list[dict[str, Any]]":
        return [_shown(one) for one in found if account is None or _owner(relay, one.list) == account]

    return then(relay.suppressions.search(address, now=relay.now()), shape)


def page(relay: Relay, list: str, prefix: str, after: str, limit: int) -> "Future[dict[str, Any]]":
    def shape(page: Page) -> dict[str, Any]:
        return {"entries": [*map(_shown, page.entries)], "next": page.next}

    return then(relay.suppressions.page(list, prefix=prefix, after=after, limit=limit), shape)


def add_rows(
    relay: Relay, list: str, rows: "list[Mapping[str, str]]", reason: Reason, who: str
) -> "Future[dict[str, Any]]":
    """``complete``: no row was refused.  "row" counts from 0 among those given."""

    def shape(tally: Tally) -> dict[str, Any]:
        return {"complete": not tally.refused, **_told(tally), "refused": tally.refused, "faults": tally.faults}

    return then(relay.suppressions.add_rows(list, rows, reason=reason, now=relay.now(), by=who), shape)


def export(relay: Relay, list: str, after: str) -> "Future[dict[str, Any]]":
    def shape(page: Page) -> dict[str, Any]:
        return {"rows": [*map(to_row, page.entries)], "next": page.next}

    return then(relay.suppressions.page(list, after=after), shape)


def _owner(relay: Relay, list: str) -> str:
    """The account that a list is of, or its connection; "" for the relay's own."""
    kind, owner = notation.list_owner(list)
    if kind != "connection":
        return owner
    connection = relay.directory.connection(owner)
    return connection.account if connection else ""


def _told(tally: Tally) -> dict[str, Any]:
    return {"added": tally.added, "replaced": tally.replaced, "kept": tally.kept}


def _shown(entry: Entry) -> dict[str, Any]:
    return msgspec.structs.asdict(entry) | {"expires": entry.expires or None}
