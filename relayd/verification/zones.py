"""White label: the names that a customer's zone gives to our mail, what to publish there, and whether it is.

In a zone mail.crm.example, ``bounce.`` is the return path, ``links.`` leads to our links host, and every source says
EHLO by its name there.  The customer publishes the records, or delegates the zone to whoever does it for us.
"""

import re
from collections.abc import Iterable

from relayd.verification.asking import Asking, RdataType, ask, mail_hosts
from relayd.verification.findings import Finding, Publish, Source, Subject
from relayd.verification.policy import allowing


def return_path(subject: Subject) -> str:
    """The domain of the return path: SPF is judged by it, and bounces come back to it."""
    return _bounce(subject.zone) if subject.zone else subject.returns or subject.domain


def returns_to(own: str, zone: str, findings: Iterable[Finding], *, signed: bool) -> str:
    """The domain of our return path for a message: "" where the sender's own stays.

    ``own`` is the relay's ("": it has none, and all stays as it is), ``zone`` the account's ("": none), ``findings`` of
    the From domain's last check, ``signed``: whether a key of the From domain signs.  A zone serves once a check has
    found its records; the relay's own domain is no part of the From domain, so only a signature can meet its DMARC."""
    if own and zone and _published(findings):
        return _bounce(zone)
    return own if signed else ""


def returning(own: str, zones: Iterable[str]) -> set[str]:
    """The domains of all our return paths: the relay's own, and those of zones."""
    return {own, *map(_bounce, filter(None, zones))}


def _bounce(zone: str) -> str:
    return f"bounce.{zone}"


def _published(findings: Iterable[Finding]) -> bool:
    """Whether the check looked at a zone, and found that bounces come to us and every address passes SPF for it."""
    results = [(finding.check, finding.result) for finding in findings]
    path = [result for check, result in results if check in ("spf", "return path")]
    return "white label" in dict(results) and bool(path) and set(path) == {"pass"}


def links_host(zone: str) -> str:
    """The host of links and pictures."""
    return f"links.{zone}"


def ehlo_name(zone: str, source: str) -> str:
    """What a source says in EHLO; its name may have characters that no host has."""
    return f"{re.sub('[^a-z0-9]+', '-', source.lower()).strip('-') or 'mail'}.{zone}"


def zone_records(subject: Subject) -> tuple[Publish, ...]:
    """All that a zone has to hold; nothing without a zone."""
    if not subject.zone:
        return ()
    bounce = return_path(subject)
    return (
        Publish(bounce, "MX", f"10 {subject.node}"),
        Publish(bounce, "TXT", allowing((), spf_terms(subject.sources, subject.spf), "-all")),
        *(_address(subject, source) for source in subject.sources),
        Publish(links_host(subject.zone), "CNAME", subject.links or subject.node),
    )


def spf_terms(sources: Iterable[Source], include: str = "") -> list[str]:
    """What an SPF record must have for these sources to pass: them, or the record that lists them."""
    if include:
        return [f"include:{include}"]
    return [f"ip{6 if ':' in source.address else 4}:{source.address}" for source in sources]


def _address(subject: Subject, source: Source) -> Publish:
    kind: RdataType = "AAAA" if ":" in source.address else "A"
    return Publish(ehlo_name(subject.zone, source.name), kind, source.address)


def check_return_path(subject: Subject) -> Asking[list[Finding]]:
    """Whether bounces can come back; by a return path of ours, whether they come to us."""
    name = return_path(subject)
    hosts = mail_hosts((yield from ask(name, "MX")))
    if subject.zone or subject.returns:
        if subject.node in hosts:
            return [Finding("return path", "pass", f"bounces to {name} come to {subject.node}")]
        found = f"go to {', '.join(hosts[:3])}" if any(hosts) else "cannot be delivered"
        text = f"bounces to {name} {found}: publish an MX record that names {subject.node}"
        return [Finding("return path", "fail", text, (Publish(name, "MX", f"10 {subject.node}"),))]
    if any(hosts) or (not hosts and (yield from _addresses(name))):
        return [Finding("return path", "pass", f"{name} takes the mail that comes back")]
    found = "says with a null MX that it takes no mail" if hosts else "has neither MX nor address"
    text = f"{name} {found}, so bounces cannot come back: publish an MX record that names the server of its mailboxes"
    return [Finding("return path", "fail", text)]  # which server that is, the customer knows


def check_zone(subject: Subject) -> Asking[list[Finding]]:
    """EHLO names and links host of a zone: mail goes without them, but looks less like the customer's."""
    if not subject.zone:
        return []
    missing = []
    for source in subject.sources:
        wanted = _address(subject, source)
        if source.address not in (yield from ask(wanted.name, "AAAA" if wanted.type == "AAAA" else "A")):
            missing.append(wanted)
    links = links_host(subject.zone)
    ours = yield from _addresses(subject.links or subject.node)
    theirs = yield from _addresses(links)
    if not set(theirs) & set(ours):
        missing.append(Publish(links, "CNAME", subject.links or subject.node))
    if not missing:
        return [Finding("white label", "pass", f"the names in {subject.zone} lead here")]
    names = ", ".join(dict.fromkeys(record.name for record in missing[:5]))
    return [Finding("white label", "warn", f"{names}: not there, or leading elsewhere: publish it", tuple(missing))]


def _addresses(name: str) -> Asking[tuple[str, ...]]:
    four = yield from ask(name, "A")
    six = yield from ask(name, "AAAA")
    return four + six
