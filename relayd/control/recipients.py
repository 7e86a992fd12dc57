"""What would become of recipients: the verb ``recipient check``, for trying out rules, lists and addresses.

In: addresses and a stream's rules.  Out: JSON-able rows.  Nobody but the DNS is asked.
"""

from typing import Any

from relayd.address import AddressError, domain_of, parse_address
from relayd.control.verb import Relay
from relayd.errors import InputError
from relayd.reply import printable
from relayd.validation import Finding, Rules, check, domain_finding

MOST = 100  # addresses at once: they come in the line of a request, and each may cost a look-up


async def checked(relay: Relay, addresses: list[str], rules: Rules) -> list[dict[str, Any]]:
    """A row for each address.  Raises InputError."""
    if len(addresses) > MOST:
        raise InputError("address", f"{len(addresses)} addresses are too many: at most {MOST} at once")
    found = {address: check(rules, relay.lists, address) for address in addresses}
    domains = {a: _domain(a) for a, finding in found.items() if not finding and rules.domain != "accept"}
    faults = await relay.domain_faults(set(domains.values()) - {""})
    for address, domain in domains.items():
        found[address] = domain_finding(rules, domain, faults.get(domain, ""))
    return [_row(address, found[address], faults.get(domains.get(address, ""), "")) for address in addresses]


def _domain(address: str) -> str:
    """ "" where there is none, of addresses that rules let pass though they are none."""
    try:
        return domain_of(parse_address(address))
    except AddressError:
        return ""


def _row(address: str, finding: Finding | None, fault: str) -> dict[str, Any]:
    row = {"address": printable(address), "verdict": "accept", "check": "", "reason": ""}
    if finding:
        return row | {"verdict": finding.verdict, "check": finding.check, "reason": finding.text}
    return row | {"reason": f"the look-up of its domain ended with {fault}, which refuses nobody" if fault else ""}
