"""SPF: what a receiver makes of a client that sends for a domain (check_host of RFC 7208).

In: the domain, the client.  Out, through the DNS: a ``Verdict``.  ``ptr`` counts against the limits and matches nobody
(section 5.5 would have it gone, and large receivers do not look it up): add the address rather than rely on it.
"""

import ipaddress
from typing import Literal

import msgspec

from relayd.verification.asking import Asking, RdataType, Unanswered, ask, mail_hosts
from relayd.verification.policy import Address, Names, Qualifier, SPFError, Term, expand, parse, policies

Result = Literal["pass", "fail", "softfail", "neutral", "none", "permerror", "temperror"]
RESULTS: dict[Qualifier, Result] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}

# RFC 7208 section 4.6.4: terms that ask, hosts of one mx, and questions that may find nothing.
LOOK_UPS, MX_HOSTS, VOIDS = 10, 10, 2


class Client(msgspec.Struct, frozen=True):
    """Who sends: its address, its EHLO name."""

    address: str
    ehlo: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """``why``: the term that decided and whose it is, or what is wrong with the record."""

    result: Result
    why: str


def evaluate(domain: str, client: Client) -> Asking[Verdict]:
    """The verdict on mail from postmaster@domain.  Raises nothing."""
    check = _Check(ipaddress.ip_address(client.address), client.ehlo, f"postmaster@{domain}")
    try:
        return (yield from check.host(domain))
    except Unanswered as fault:
        return Verdict("temperror", str(fault))
    except SPFError as fault:
        return Verdict("permerror", str(fault))


class _Check:
    """One check_host with all its includes and redirects: they share the limits."""

    def __init__(self, address: Address, ehlo: str, sender: str) -> None:
        self._address = address
        self._ehlo = ehlo
        self._sender = sender
        self._look_ups = 0
        self._voids = 0

    def host(self, domain: str) -> Asking[Verdict]:
        texts = policies((yield from ask(domain, "TXT")))
        if not texts:
            return Verdict("none", f"{domain} has no SPF record")
        if len(texts) > 1:
            raise SPFError(f"{domain} has {len(texts)} SPF records where there may be one")
        try:
            policy = parse(texts[0])
        except SPFError as fault:
            raise SPFError(f"the SPF record of {domain} is void: {fault}") from None
        for term in policy.terms:
            if (yield from self._matches(term, domain)):
                return Verdict(RESULTS[term.qualifier], f"{term.text} of {domain}")
        if not policy.redirect:
            return Verdict("neutral", f"no term of {domain} is about it")
        target = self._target(policy.redirect, domain)
        self._count()
        found = yield from self.host(target)
        if found.result == "none":
            raise SPFError(f"redirect={target} of {domain} leads to no SPF record")
        return found

    def _matches(self, term: Term, domain: str) -> Asking[bool]:
        if term.kind == "all":
            return True
        if term.network is not None:
            return self._address in term.network
        self._count()
        target = self._target(term.spec, domain) if term.spec else domain
        match term.kind:
            case "include":
                return (yield from self._included(target, domain))
            case "exists":
                return bool((yield from self._look(target, "A")))
            case "a":
                return (yield from self._has(target, term))
            case "mx":
                return (yield from self._exchanges(target, term))
        return False

    def _included(self, target: str, domain: str) -> Asking[bool]:
        found = yield from self.host(target)
        if found.result == "none":
            raise SPFError(f"include:{target} of {domain} leads to no SPF record")
        return found.result == "pass"

    def _exchanges(self, target: str, term: Term) -> Asking[bool]:
        hosts = mail_hosts((yield from self._look(target, "MX")))
        if len(hosts) > MX_HOSTS:
            raise SPFError(f"mx of {target} leads to more than {MX_HOSTS} hosts")
        for host in filter(None, hosts):
            if (yield from self._has(host, term)):
                return True
        return False

    def _has(self, target: str, term: Term) -> Asking[bool]:
        """Whether the client's address is near enough to one of the target's."""
        four = self._address.version == 4
        prefix = term.prefixes[0 if four else 1]
        values = yield from self._look(target, "A" if four else "AAAA")
        return any(self._address in ipaddress.ip_network((value, prefix), strict=False) for value in values)

    def _look(self, name: str, rdtype: RdataType) -> Asking[tuple[str, ...]]:
        values = yield from ask(name, rdtype)
        if not values:
            self._voids += 1
            if self._voids > VOIDS:
                raise SPFError(f"more than {VOIDS} of its look-ups find nothing; {name} {rdtype} is the last")
        return values

    def _count(self) -> None:
        self._look_ups += 1
        if self._look_ups > LOOK_UPS:
            raise SPFError(f"it takes more than {LOOK_UPS} look-ups")

    def _target(self, spec: str, domain: str) -> str:
        return expand(spec, Names(self._address, self._ehlo, self._sender, domain))
