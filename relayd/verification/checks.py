"""The checks of a sender domain, and what they prove together.

A domain is proved when DKIM, SPF and the return path are in order: at least one of the keys that sign is published, or
there is none here; every address passes SPF, or none is known; and one of the two was really seen.  DMARC fails only
where its policy would have our mail refused; a missing record warns.
"""

from collections.abc import Callable, Iterable, Sequence

from relayd.message.dkim import Key, dns_record, mismatch
from relayd.reply import printable
from relayd.verification.asking import Asking, Unanswered, ask
from relayd.verification.dmarc import check_dmarc
from relayd.verification.findings import Check, Finding, Publish, Source, Subject
from relayd.verification.policy import allowing, policies
from relayd.verification.spf import Client, Verdict, evaluate
from relayd.verification.zones import check_return_path, check_zone, return_path, spf_terms, zone_records

_NAMED = 5  # addresses named in a sentence


def check(subject: Subject) -> Asking[tuple[Finding, ...]]:
    """Every check, each for itself: where the DNS does not answer, its result is unknown."""
    found: list[Finding] = []
    for name, step in _STEPS:
        try:
            found += yield from step(subject)
        except Unanswered as fault:
            found.append(Finding(name, "unknown", printable(str(fault))))
    return tuple(found)


def proved(findings: Iterable[Finding]) -> bool | None:
    """Whether the findings prove the domain; None if they say nothing definite."""
    results = {finding.result for finding in findings}
    if "fail" in results:
        return False
    if "unknown" in results:
        return None
    return any(finding.result == "pass" and finding.check in ("dkim", "spf") for finding in findings)


def records(subject: Subject, findings: Sequence[Finding] = ()) -> tuple[Publish, ...]:
    """Everything to publish for a domain.  Where a check looked at what is there already, what it wants instead."""
    seen = {finding.check for finding in findings if finding.result != "unknown"}
    made = [*map(_key_record, subject.keys), *zone_records(subject)]
    if "spf" not in seen and subject.sources and return_path(subject) == subject.domain:
        terms = spf_terms(subject.sources, subject.spf)
        made.append(Publish(subject.domain, "TXT", allowing((), terms, "~all")))
    if "dmarc" not in seen:
        made.append(Publish(f"_dmarc.{subject.domain}", "TXT", f"v=DMARC1; p=none; rua=mailto:dmarc@{subject.domain}"))
    made += [record for finding in findings for record in finding.publish]
    return tuple({(record.name, record.type): record for record in made}.values())


def _key_record(key: Key) -> Publish:
    name, text = dns_record(key)
    return Publish(name, "TXT", text)


def check_dkim(subject: Subject) -> Asking[list[Finding]]:
    """Whether the keys that sign are published.  Receivers want one that is; another may be on its way in or out."""
    if not subject.keys:
        text = "no DKIM key here signs its mail, which goes with the signature that it comes with, if any"
        return [Finding("dkim", "warn", text)]
    good: list[Finding] = []
    bad: list[tuple[str, Publish]] = []
    for key in subject.keys:
        record = _key_record(key)
        texts = yield from ask(record.name, "TXT")
        fault = next(filter(None, (mismatch(key, text) for text in texts)), "") if texts else "there is no record"
        if fault:
            bad.append((f"{record.name}: {fault}: publish this one", record))
        else:
            good.append(Finding("dkim", "pass", f"{record.name} is published and fits"))
    return good + [Finding("dkim", "warn" if good else "fail", text, (record,)) for text, record in bad]


def check_spf(subject: Subject) -> Asking[list[Finding]]:
    """Whether every address passes for the domain of the return path."""
    domain = return_path(subject)
    if not subject.sources:
        text = "no public address that its mail is sent from is known, so SPF cannot be judged: "
        text += "give each [source] its address, or public where addresses are translated"
        return [Finding("spf", "warn" if subject.keys else "fail", text)]
    missing: list[Source] = []
    verdicts: list[Verdict] = []
    for source in subject.sources:
        verdict = yield from _verdict(domain, source)
        if verdict.result != "pass":
            missing.append(source)
            verdicts.append(verdict)
    if not missing:
        text = f"every address passes for {domain}: {_listed(subject.sources)}"
        if f".{domain}".endswith(f".{subject.domain}"):
            return [Finding("spf", "pass", text)]
        if subject.keys:
            return [Finding("return path", "pass", text)]
        text += f"; that proves nothing of {subject.domain} itself: add a DKIM key (relayctl domain add)"
        return [Finding("spf", "warn", text)]
    where, terms = domain, spf_terms(missing, subject.spf)
    if subject.spf and (yield from _verdict(subject.spf, missing[0])).result != "pass":
        where, terms = subject.spf, spf_terms(missing)  # the relay's own record is at fault
    texts = policies((yield from ask(where, "TXT")))
    advice = f"add {' '.join(terms[:_NAMED])} to it" if texts else "publish one"
    if len(texts) > 1:
        advice = "make one of them"
    text = f"mail from {_listed(missing)} gets {verdicts[0].result} for {domain} ({verdicts[0].why}); SPF of {where}: "
    record = allowing(texts, terms, "~all" if where == subject.domain else "-all")
    return [Finding("spf", "fail", printable(text + advice), (Publish(where, "TXT", printable(record, 4096)),))]


def _verdict(domain: str, source: Source) -> Asking[Verdict]:
    verdict = yield from evaluate(domain, Client(source.address, source.ehlo))
    if verdict.result == "temperror":
        raise Unanswered(verdict.why)
    return verdict


def _listed(sources: Iterable[Source]) -> str:
    names = [source.address for source in sources]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


_STEPS: tuple[tuple[Check, Callable[[Subject], Asking[list[Finding]]]], ...] = (
    ("dkim", check_dkim),
    ("spf", check_spf),
    ("dmarc", check_dmarc),
    ("return path", check_return_path),
    ("white label", check_zone),
)
