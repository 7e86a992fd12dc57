"""Events: what users are told of records, in one vocabulary, whichever feed it goes by.

In: a record and where it stands in the segments.  Out: the events that it makes, one of each delivery.  The names are
those that many mail services agree on; ``docs/events.md`` is made from these types.  An event's id is where its record
stands, so it is the same however often and by whatever feed the event goes out.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from relayd.classify import names
from relayd.identity import show
from relayd.records import Feedback, Record, RecordKind

VERSION = 1  # rises when a field changes its meaning or goes; what is new alone does not raise it

Name = Literal[
    "queued",
    "rejected",
    "deferred",
    "sent",
    "delivered",
    "bounced",
    "failed",
    "complained",
    "unsubscribed",
    "autoresponded",
    "returned",
    "domain_verified",
    "domain_failing",
    "notice",
]
Reason = Literal["invalid", "bounced", "timed_out", "blocked", "spam", "unsubscribed", "other", ""]
NAMES: tuple[Name, ...] = get_args(Name)

# What each name says, for people.
MEANING: dict[Name, str] = {
    "queued": "taken in and on disk: relayd will deliver it or say why not",
    "rejected": "not taken in, or kept from this recipient by a stop-list or a check of its address",
    "deferred": "the recipient's server wants it later; it is tried again (`next_attempt`)",
    "sent": "the connection broke after the content had gone out: it may have arrived, and is tried again",
    "delivered": "the recipient's server took it; with `late`, a report says that it reached the mailbox",
    "bounced": "refused for good; with `late`, by a report that came after the server had taken it",
    "failed": "given up: its time was over, or somebody cancelled it",
    "complained": "the recipient called it spam",
    "unsubscribed": "the recipient wants no more of it",
    "autoresponded": "an automatic answer came back, such as a vacation notice",
    "returned": "something came back that says nothing of a delivery, or that nothing proves",
    "domain_verified": "a sender domain's DNS agrees with what mail leaves with",
    "domain_failing": "a sender domain's DNS agrees no more",
    "notice": "what an account should know: a sender of its under suspicion, held back, let go; a webhook that fails",
}

_NAME_OF: dict[RecordKind, Name] = {
    "Reception": "queued",
    "Rejection": "rejected",
    "Delivery": "delivered",
    "TransientFailure": "deferred",
    "Bounce": "bounced",
    "Expiration": "failed",
    "Cancellation": "failed",
    "Restoration": "queued",
    "Suppression": "rejected",
    "Drop": "rejected",
    "Unknown": "sent",
    "DomainVerified": "domain_verified",
    "DomainFailing": "domain_failing",
    "Notice": "notice",
    "Complaint": "complained",
    "Unsubscribe": "unsubscribed",
}
# Of what came back later (feedback.Kind).
_NAME_OF_REPORT: dict[str, Name] = {
    "bounce": "bounced",
    "delay": "deferred",
    "success": "delivered",
    "auto-reply": "autoresponded",
    "challenge": "autoresponded",
}
_REASON_OF: dict[RecordKind, Reason] = {"Expiration": "timed_out", "Complaint": "spam", "Unsubscribe": "unsubscribed"}


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was seen of an attempt: at which stage of the session it ended and how.  ``class`` is what a failed reply
    is taken for, ``site`` the provider or the mail hosts, ``mx`` and ``peer`` the host and its address, ``source`` the
    address of ours that it went by, ``tls`` what was agreed on, ``seconds`` how long it took."""

    stage: str
    code: int = 0
    enhanced: str = ""
    reply: str = ""
    error: str = ""
    cls: str = msgspec.field(default="", name="class")
    site: str = ""
    source: str = ""
    mx: str = ""
    peer: str = ""
    tls: str = ""
    seconds: float = 0.0
    session: str = ""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event.  ``id`` is the same however often it comes; ``time``, ``received`` (when relayd took the message in)
    and ``next_attempt`` are RFC 3339 in UTC; ``message`` and ``delivery`` are relayd's ids; ``track_id``, ``tags`` and
    ``meta`` are the sender's own words from the message's headers; ``attempts`` counts them so far; ``v``
    is the version of this schema; ``reason`` is why
    it was rejected, bounced or failed, in the words of django-anymail; ``late``: told after the delivery was over."""

    id: str
    event: Name
    time: str
    v: int
    node: str = ""
    account: str = ""
    connection: str = ""
    stream: str = ""
    client: str = ""
    message: str = ""
    delivery: str = ""
    sender: str = ""
    recipient: str = ""
    message_id: str = ""
    track_id: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    size: int = 0
    received: str = ""
    attempts: int = 0
    next_attempt: str = ""
    reason: Reason = ""
    late: bool = False
    domain: str = ""
    note: str = ""
    attempt: Attempt | None = None
    feedback: Feedback | None = None


def events(record: Record, place: str, node: str) -> Iterator[Event]:
    """The events of a record that stands at this place (``place``)."""
    if record.recipients and not record.delivery:
        first = int(record.message, 16) + 1 if record.message else 0
        for n, recipient in enumerate(record.recipients):
            delivery = show(first + n) if first else ""
            yield _event(record, f"{place}-{n}" if n else place, node, recipient, delivery)
    else:
        yield _event(record, place, node, record.recipient, record.delivery)


def place(segment: str, offset: int) -> str:
    """Where a record stands: a segment's name, and the byte with which its line begins."""
    return f"{segment[:10]}-{offset:x}"


def name_of(kind: RecordKind, report: str = "") -> Name:
    """What the events of a record of this kind are called; ``report``: what came back, of an OutOfBand."""
    return _NAME_OF_REPORT.get(report, "returned") if kind == "OutOfBand" else _NAME_OF[kind]


def encode(event: Event) -> bytes:
    """As one JSON object, no newline."""
    return _encoder.encode(event)


def _event(record: Record, id: str, node: str, recipient: str, delivery: str) -> Event:
    seen = record.evidence
    reply = seen.reply if seen else None
    attempt = None
    if seen is not None:
        attempt = Attempt(
            seen.stage,
            reply.code if reply else 0,
            reply.enhanced if reply else "",
            reply.text if reply else "",
            seen.error,
            seen.cls,
            seen.site,
            seen.source,
            seen.mx,
            seen.peer,
            seen.tls,
            seen.seconds,
            seen.session,
        )
    return Event(
        id,
        name_of(record.kind, record.feedback.report if record.feedback else ""),
        rfc3339(record.time),
        VERSION,
        node,
        record.account,
        record.connection,
        record.stream,
        record.client,
        record.message,
        delivery,
        record.sender,
        recipient,
        record.message_id,
        record.track_id,
        record.tags,
        record.meta,
        record.size,
        rfc3339(record.received) if record.received else "",
        record.attempts,
        rfc3339(record.due) if record.due else "",
        _reason(record),
        record.feedback is not None,
        record.domain,
        record.note,
        attempt,
        record.feedback,
    )


def _reason(record: Record) -> Reason:
    kind = record.kind
    if kind in _REASON_OF:
        return _REASON_OF[kind]
    if kind in ("Suppression", "Drop", "Rejection"):
        return _of_words(record.note or (record.evidence.words() if record.evidence else ""))
    if record.evidence is not None and record.evidence.cls:
        return names(record.evidence.cls)["anymail"]  # type: ignore[arg-type,return-value]
    return "other" if kind in ("Bounce", "Cancellation", "TransientFailure") else ""


# Our own words, of the table of replies and of lists' reasons: clients match on them, so they stay what they are.
_WORDS: tuple[tuple[re.Pattern[str], Reason], ...] = (
    (re.compile("unsubscribe|complain"), "unsubscribed"),
    (re.compile(r"mailbox limit|: full\b|: bounce\b"), "bounced"),
    (re.compile(r"\b[45]\.1\.\d"), "invalid"),
    (re.compile("spam"), "spam"),
)


def _of_words(said: str) -> Reason:
    return next((reason for words, reason in _WORDS if words.search(said)), "blocked")


def rfc3339(moment: float) -> str:
    """Unix seconds as UTC, to the millisecond."""
    whole = int(moment)
    return f"{_second(whole)}.{int((moment - whole) * 1000):03d}Z"


@lru_cache(1024)
def _second(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S")


_encoder = msgspec.json.Encoder()
