"""DMARC: which record governs a domain, and whether our signatures and return path align with it (RFC 9989).

Names belong together by the walk up the tree of section 4.10, so no list of public suffixes is needed.
"""

import re

import msgspec

from relayd.reply import printable
from relayd.verification.asking import Asking, ask
from relayd.verification.findings import Finding, Publish, Subject
from relayd.verification.zones import return_path

_MOST_LABELS = 7  # section 4.10: of a long name, the walk goes on with its last seven
_VERSION = re.compile(r"v\s*=\s*DMARC1\s*(;|\Z)")
_POLICIES = ("none", "quarantine", "reject")


class Record(msgspec.Struct, frozen=True):
    """A record and the domain that it was found at."""

    domain: str
    tags: dict[str, str]

    def strict(self, tag: str) -> bool:
        return self.tags.get(tag, "r").lower() == "s"

    def policy(self, domain: str) -> str:
        """What it asks for mail of a domain; "" for what is no policy."""
        asked = self.tags.get("p", "")
        if domain != self.domain:
            asked = self.tags.get("sp", asked)
        return asked.lower() if asked.lower() in _POLICIES else ""


def is_record(text: str) -> bool:
    """Whether a TXT record is one of DMARC at all (section 4.7)."""
    return _VERSION.match(text) is not None


def parse(domain: str, text: str) -> Record:
    """Unknown tags, and what is no tag, are ignored, as receivers do."""
    parts = (part.partition("=") for part in text.split(";"))
    return Record(domain, {name.strip().lower(): value.strip() for name, sign, value in parts if sign})


def walk(domain: str) -> Asking[list[Record]]:
    """The records from the domain up to its top level, the nearest first; of several at a name none counts."""
    found = []
    name = domain
    while name:
        texts = list(filter(is_record, (yield from ask(f"_dmarc.{name}", "TXT"))))
        if len(texts) == 1:
            record = parse(name, texts[0])
            found.append(record)
            if record.tags.get("psd", "u").lower() in ("y", "n"):
                break
        labels = name.split(".")
        name = ".".join(labels[1:] if len(labels) <= _MOST_LABELS else labels[-_MOST_LABELS:])
    return found


def organisation(domain: str, found: list[Record]) -> str:
    """The organisational domain, by the records of the walk from ``domain``."""
    if not found:
        return domain
    top = found[-1]
    if top.tags.get("psd", "u").lower() == "y" and top.domain != domain:
        labels = domain.split(".")
        return ".".join(labels[-top.domain.count(".") - 2 :])
    return top.domain


def check_dmarc(subject: Subject) -> Asking[list[Finding]]:
    """Whether there is a record, it can be read, and mail signed or returned by us aligns with it."""
    domain = subject.domain
    found = yield from walk(domain)
    record = _governing(domain, found)
    if record is None:
        return [(yield from _without(domain))]
    policy = record.policy(domain)
    if not policy:
        fixed = "; ".join(["v=DMARC1", "p=none", *_tags(record, but=("v", "p", "sp"))])
        text = f"the DMARC record of {record.domain} has no policy that can be read (p=none, quarantine or reject)"
        return [Finding("dmarc", "warn", text, (Publish(f"_dmarc.{record.domain}", "TXT", fixed),))]
    aligned = yield from _aligned(subject, record, organisation(domain, found))
    where = f"the DMARC record of {record.domain} (p={policy})"
    if aligned:
        return [Finding("dmarc", "pass", f"{where} is met by {' and '.join(aligned)}")]
    return [_unaligned(subject, record, where, policy)]


def _governing(domain: str, found: list[Record]) -> Record | None:
    """The domain's own record, else its organisation's, else that of the public suffix above (section 4.10.1)."""
    by_name = {record.domain: record for record in found}
    own = by_name.get(domain) or by_name.get(organisation(domain, found))
    return own or (found[-1] if found else None)


def _without(domain: str) -> Asking[Finding]:
    name = f"_dmarc.{domain}"
    made = Publish(name, "TXT", f"v=DMARC1; p=none; rua=mailto:dmarc@{domain}")
    texts = [text for text in (yield from ask(name, "TXT")) if text.lower().startswith("v=dmarc")]
    if len(texts) > 1:
        text = f"{name} has {len(texts)} records where there may be one, so receivers heed none: keep one"
        return Finding("dmarc", "warn", text, (Publish(name, "TXT", printable(texts[0])),))
    if texts:
        text = f"receivers cannot read {name}: a record begins with v=DMARC1, then a semicolon"
        return Finding("dmarc", "warn", text, (made,))
    text = f"{domain} has no DMARC record, which large providers want of senders: publish one, with an address you read"
    return Finding("dmarc", "warn", text, (made,))


def _aligned(subject: Subject, record: Record, organisation_: str) -> Asking[list[str]]:
    """By what the domain's mail will pass."""
    by = []
    for key in subject.keys:
        if (yield from _together(key.domain, subject.domain, organisation_, record.strict("adkim"))):
            by.append(f"DKIM (d={key.domain})")
    path = return_path(subject)
    if (yield from _together(path, subject.domain, organisation_, record.strict("aspf"))):
        by.append(f"SPF (return path {path})")
    return list(dict.fromkeys(by))


def _together(name: str, domain: str, organisation_: str, strict: bool) -> Asking[bool]:
    if strict or name == domain:
        return name == domain
    return organisation(name, (yield from walk(name))) == organisation_


def _unaligned(subject: Subject, record: Record, where: str, policy: str) -> Finding:
    """Mail would not pass.  A key of the domain itself always helps; a record may, too."""
    signer = subject.keys[0].domain if subject.keys else return_path(subject)
    text = f"{where} is met neither by a signature (d={signer}) nor by the return path {return_path(subject)}: "
    text += f"add a DKIM key of {subject.domain} itself (relayctl domain add), or publish this"
    if record.strict("adkim" if subject.keys else "aspf"):
        relaxed = "; ".join(["v=DMARC1", f"p={policy}", *_tags(record, but=("v", "p", "adkim", "aspf"))])
        fix = Publish(f"_dmarc.{record.domain}", "TXT", relaxed)
    else:
        fix = Publish(f"_dmarc.{signer}", "TXT", "v=DMARC1; p=none")
    return Finding("dmarc", "warn" if policy == "none" else "fail", text, (fix,))


def _tags(record: Record, but: tuple[str, ...]) -> list[str]:
    return [printable(f"{name}={value}") for name, value in record.tags.items() if name not in but]
