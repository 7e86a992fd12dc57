"""What the verbs tell of signing domains: their keys by where they come from, and what to publish in DNS.

In: the directory's rows and the configuration's keys.  Out: JSON-able rows.  No private key is in any of them.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from relayd import notation
from relayd.directory import Directory, DomainKey, domain_name
from relayd.errors import InputError
from relayd.message.dkim import Key, dns_record, zone_line
from relayd.signing import Keyring, Rules


def row(stored: DomainKey) -> dict[str, Any]:
    """A key of the directory."""
    shown = msgspec.structs.asdict(stored)
    del shown["pem"]
    return {**shown, "weak": stored.weak, "where": "directory"}


def added(stored: DomainKey) -> dict[str, Any]:
    """A key just added, with its DNS record."""
    return {**row(stored), **_publish([stored.key()])}


def listed(directory: Directory, rules: Rules, account: str | None) -> list[dict[str, Any]]:
    """All keys, or those that are an account's only; the configuration's serve every account."""
    rows = [row(stored) for stored in directory.all_domain_keys() if account in (None, stored.account)]
    if account is None:
        rows += [_configured(key) for domain in sorted(rules.keys) for key in rules.keys[domain]]
        rows += [_faulty(domain, fault) for domain, fault in sorted(rules.faults.items())]
    return rows


def shown(directory: Directory, keyring: Keyring, name: str) -> dict[str, Any]:
    """One domain's keys and records.  Raises InputError."""
    rules = keyring.rules
    try:
        domain = domain_name(name)
    except ValueError as error:
        raise InputError("name", str(error)) from None
    stored = directory.domain_keys(domain)
    rows = [row(one) for one in stored] + [_configured(key) for key in rules.keys.get(domain, ())]
    rows += [_faulty(domain, rules.faults[domain])] if domain in rules.faults else []
    if not rows:
        known = {*rules.keys, *rules.faults, *(one.domain for one in directory.all_domain_keys())}
        raise InputError("name", f"there is no key of the domain {domain}{notation.nearest(domain, known)}")
    loaded = [key for one in stored if not isinstance(key := keyring.load(one), str)]
    return {"domain": domain, "keys": rows, **_publish([*loaded, *rules.keys.get(domain, ())])}


def _configured(key: Key) -> dict[str, Any]:
    kind = {"domain": key.domain, "account": "", "selector": key.selector, "algorithm": key.algorithm}
    return {**kind, "bits": getattr(key.private, "key_size", 256), "weak": key.weak, "where": "configuration"}


def _faulty(domain: str, fault: str) -> dict[str, Any]:
    return {"domain": domain, "where": "configuration", "fault": fault}


def _publish(keys: Iterable[Key]) -> dict[str, Any]:
    """The TXT records by name, for a web form and for a zone file."""
    keys = list(keys)
    return {"publish": dict(map(dns_record, keys)), "zone": {key.selector: zone_line(key) for key in keys}}
