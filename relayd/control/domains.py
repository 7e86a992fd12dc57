"""What the verbs tell of sender domains: their state, what the checks found, their keys, and what to publish in DNS.

In: the directory's rows and the configuration's keys.  Out: JSON-able rows.  No private key is in any of them.
"""

from typing import Any

import msgspec

from relayd import notation
from relayd.control.verb import Relay
from relayd.directory import DomainKey, SenderDomain, domain_name
from relayd.errors import InputError
from relayd.message.dkim import Key
from relayd.verification import Publish, Subject, records

OFF = "not checked: the domain_check of its account is off"
NOT_YET = "not checked yet: show it again in a few seconds, for records that fit what is published already"


def name_of(text: str) -> str:
    """The domain as it is looked up.  Raises InputError."""
    try:
        return domain_name(text)
    except ValueError as error:
        raise InputError("name", str(error)) from None


def key_row(stored: DomainKey) -> dict[str, Any]:
    """A key of the directory."""
    shown = msgspec.structs.asdict(stored)
    del shown["pem"]
    return {**shown, "weak": stored.weak, "where": "directory"}


def listed(relay: Relay, account: str | None) -> list[dict[str, Any]]:
    """Every registered domain, or an account's; then those that only the configuration has keys of."""
    rows = [_line(relay, row) for row in relay.directory.senders.all() if account in (None, row.account)]
    if account is None:
        rules = relay.keyring.rules
        others = {*rules.keys, *rules.faults} - {row["domain"] for row in rows}
        rows += [_unregistered(relay, domain) for domain in sorted(others)]
    return rows


def shown(relay: Relay, name: str) -> dict[str, Any]:
    """All of one domain.  Raises InputError."""
    domain = name_of(name)
    row = relay.directory.senders.get(domain)
    keys = _keys(relay, domain)
    if row is not None:
        return {**_state(relay, row), "keys": keys, **_publish(records(relay.subject(row), row.findings))}
    if not keys:
        known = {*relay.keyring.rules.keys, *(row.domain for row in relay.directory.senders.all())}
        raise InputError("name", f"the domain {domain} is not registered{notation.nearest(domain, known)}")
    configured = Subject(domain, relay.config.node.name, relay.keyring.rules.keys.get(domain, ()))
    made = [record for record in records(configured) if "._domainkey." in record.name]
    return {"domain": domain, "state": "not registered", "keys": keys, **_publish(tuple(made))}


def checked(relay: Relay, row: SenderDomain) -> dict[str, Any]:
    """What a check found: all is well if ``verified``."""
    missing = tuple(record for finding in row.findings for record in finding.publish)
    return {"verified": row.state == "verified", **_state(relay, row), **_publish(missing)}


def removed(row: SenderDomain) -> dict[str, Any]:
    return {"domain": row.domain, "account": row.account, "state": row.state}


def _line(relay: Relay, row: SenderDomain) -> dict[str, Any]:
    keys = [_short(key) for key in _keys(relay, row.domain)]
    told = {"domain": row.domain, "account": row.account, "state": row.state, "checked": row.checked or None}
    return {**told, "keys": keys, "why": _why(relay, row)}


def _unregistered(relay: Relay, domain: str) -> dict[str, Any]:
    keys = [_short(key) for key in _keys(relay, domain)]
    return {"domain": domain, "account": "", "state": "not registered", "checked": None, "keys": keys, "why": ""}


def _state(relay: Relay, row: SenderDomain) -> dict[str, Any]:
    return {
        "domain": row.domain,
        "account": row.account,
        "state": row.state,
        "since": row.since,
        "checked": row.checked or None,
        "due": row.due or relay.now() if _is_checked(relay, row) else None,
        "why": _why(relay, row),
        "findings": [{"check": found.check, "result": found.result, "text": found.text} for found in row.findings],
    }


def _why(relay: Relay, row: SenderDomain) -> str:
    if row.checked:
        return row.why
    return NOT_YET if _is_checked(relay, row) else OFF


def _is_checked(relay: Relay, row: SenderDomain) -> bool:
    """Whether it is checked unasked."""
    account = relay.directory.account(row.account)
    return account is not None and account.domain_check != "off"


def _keys(relay: Relay, domain: str) -> list[dict[str, Any]]:
    """The keys of exactly this domain, wherever they are."""
    rules = relay.keyring.rules
    rows = [key_row(stored) for stored in relay.directory.domain_keys(domain)]
    rows += [_configured(key) for key in rules.keys.get(domain, ())]
    return rows + ([_faulty(domain, rules.faults[domain])] if domain in rules.faults else [])


def _configured(key: Key) -> dict[str, Any]:
    kind = {"domain": key.domain, "account": "", "selector": key.selector, "algorithm": key.algorithm}
    return {**kind, "bits": getattr(key.private, "key_size", 256), "weak": key.weak, "where": "configuration"}


def _faulty(domain: str, fault: str) -> dict[str, Any]:
    return {"domain": domain, "where": "configuration", "fault": fault}


def _short(key: dict[str, Any]) -> str:
    if "fault" in key:
        return str(key["fault"])
    return f"{key['selector']} {key['algorithm']} {key['bits']}" + (" (weak)" if key["weak"] else "")


def _publish(made: tuple[Publish, ...]) -> dict[str, Any]:
    """The records by name, for a web form and for a zone file."""
    rows = [{"type": record.type, "name": record.name, "value": record.value} for record in made]
    return {"publish": rows, "zone": [record.line for record in made]}
