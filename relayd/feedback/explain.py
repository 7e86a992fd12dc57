"""What a report means for each recipient, and the whole of it as ``relayctl feedback explain`` prints it."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from relayd.feedback.reader import read
from relayd.feedback.report import Clue, Kind, Recipient, Report
from relayd.reply import Reply


class Verdict(Protocol):
    """What a classifier says of a reply: what it means, what follows, and the rule that told."""

    @property
    def cls(self) -> str: ...
    @property
    def decision(self) -> Any: ...
    @property
    def rule(self) -> str: ...


# A reply as far as it is known, the MX host that gave it, the stage at which it came; "" for what nobody knows.
Classify = Callable[[Reply, str, str], Verdict]
Verify = Callable[[tuple[Clue, ...]], str]  # the state of the token in them, in a word

# Whoever this is said of cannot be reached there, today or later.
_NEVER = ("recipient_unknown", "domain_unknown", "domain_no_mail")
# What a class is as a status where the report gives none (RFC 3463).
_DETAIL = {
    "recipient_unknown": "1.1", "domain_unknown": "1.2", "domain_no_mail": "1.10", "mailbox_full": "2.2",
    "mailbox_disabled": "2.1", "message_too_big": "3.4", "network": "4.1", "expired": "4.7", "content_spam": "7.1",
    "content_virus": "7.1", "policy": "7.1", "sender_rejected": "7.1", "relay_denied": "7.1", "ip_blocked": "7.1",
    "ip_ptr": "7.25", "auth_failure": "7.26",
}  # fmt: skip

# The four kinds that scoring knows; the report's own word stands beside.
_KINDS: dict[Kind, str] = {"complaint": "arf", "unsubscribe": "arf", "challenge": "not-bounce", "other": "not-bounce"}


class Judged(msgspec.Struct, frozen=True):
    """A recipient with what its report means: ``hard`` says that it failed for good and for whom it was sent to."""

    recipient: Recipient
    status: str
    hard: bool
    verdict: Verdict


def judged(report: Report, classify: Classify) -> list[Judged]:
    """The recipients of a bounce or a delay, judged; of any other report there is nothing to judge."""
    if report.kind not in ("bounce", "delay"):
        return []
    return [_judged(one, classify) for one in report.recipients if one.action in ("failed", "delayed")]


def _judged(one: Recipient, classify: Classify) -> Judged:
    severity = one.status[:1] or ("4" if one.action == "delayed" else "5")
    reply = Reply(one.code, one.status or f"{severity}.0.0", one.diagnostic)
    # Where nobody names the server, the recipient's domain does as well.
    verdict = classify(reply, one.remote_mta or one.final.rpartition("@")[2], _stage(one))
    status = one.status or _implied(one, verdict.cls, severity)
    hard = one.action == "failed" and status.startswith("5") and verdict.cls in _NEVER
    return Judged(one, status, hard, verdict)


def _stage(one: Recipient) -> str:
    """At which command a server refused.  Where neither the report nor a status of addresses or commands (X.1.Y, X.5.Y)
    tells, nothing vouches that it was RCPT: it is taken for the later one, at which filters speak."""
    return one.stage or ("" if one.status[1:3] in (".1", ".5") else "dot")


def _implied(one: Recipient, cls: str, severity: str) -> str:
    """A status for a report that gives none."""
    first = str(one.code)[0] if one.code else severity
    return f"{first}.{_DETAIL.get(cls, '0.0')}"


def explain(content: bytes, classify: Classify, verify: Verify, envelope_recipient: str = "") -> dict[str, Any]:
    """A message that came back, explained: what it is, whom it names, what follows, whether a token vouches for it."""
    report = read(content, envelope_recipient)
    answer: dict[str, Any] = {"kind": _KINDS.get(report.kind, report.kind), "report": report.kind}
    answer["recipients"] = [_told(one) for one in judged(report, classify)] or _others(report)
    if report.complaint:
        answer["complaint"] = msgspec.to_builtins(report.complaint)
    answer |= {"token": verify(report.clues), "subject": report.subject, "reporter": report.reporter, "cut": report.cut}
    return answer


def _told(one: Judged) -> dict[str, Any]:
    recipient, verdict = one.recipient, one.verdict
    return {
        "recipient": _name(recipient),
        "original": recipient.original,
        "action": recipient.action,
        "status": one.status,
        "code": recipient.code,
        "hard": one.hard,
        "class": verdict.cls,
        "category": verdict.cls,
        "decision": msgspec.to_builtins(verdict.decision),
        "rule": verdict.rule,
        "diagnostic": recipient.diagnostic,
        "remote_mta": recipient.remote_mta,
    }


def _name(one: Recipient) -> str:
    """The address that failed: ours, unless it was forwarded to another domain."""
    (_, _, final), (_, _, ours) = (text.lower().rpartition("@") for text in (one.final, one.original))
    inner = "." not in final or final.endswith((".local", ".localdomain", ".internal", ".lan"))
    return one.original if ours and (inner or final == ours or final.endswith("." + ours)) else one.final


def _others(report: Report) -> list[dict[str, Any]]:
    """Recipients of what is no failure: a success, or a complaint, whose recipients may be redacted."""
    if report.complaint:
        return [{"recipient": one, "hard": False, "category": "complaint"} for one in report.complaint.recipients]
    category = "unsubscribed" if report.kind == "unsubscribe" else "delivered"
    return [
        {"recipient": _name(one), "status": one.status, "hard": False, "category": category}
        for one in report.recipients
    ]
