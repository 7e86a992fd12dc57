"""Records: the durable events of a relay's life, one JSON object a line, and the ledger's terms that they add to.

A record is encoded once, when the thing happens, and goes into the same transaction as the state change it tells of.
Its ledger line belongs to the account, the stream and the day *of the reception*, so each day balances by itself:
received + generated + transferred_in = delivered + bounced + expired + cancelled + suppressed + dropped
+ transferred_out + queued.
"""

from typing import Any, Literal

import msgspec

from relayd.envelope import Message
from relayd.identity import show
from relayd.outcome import Evidence

RecordKind = Literal[
    "Reception",
    "Rejection",
    "Delivery",
    "TransientFailure",
    "Bounce",
    "Expiration",
    "Cancellation",
    "Restoration",
    "Suppression",
    "Drop",
    "Unknown",
    "DomainVerified",
    "DomainFailing",
    "OutOfBand",
    "Complaint",
    "Unsubscribe",
    "Notice",
]

# The term each kind adds to, and whether the delivery leaves the queue by it.  Events of a domain, what comes back of a
# delivery after it has left, and what a customer is told, add to none.  A Restoration takes back its Cancellation: it
# adds -1 to "cancelled", so each delivery is counted where it ends, and nowhere else.
TERM_OF: dict[RecordKind, str] = {
    "Reception": "received",
    "Rejection": "rejected",
    "Delivery": "delivered",
    "TransientFailure": "deferred",
    "Unknown": "unknown",
    "Bounce": "bounced",
    "Expiration": "expired",
    "Cancellation": "cancelled",
    "Suppression": "suppressed",
    "Drop": "dropped",
}
IN_TERMS = ("received", "generated", "transferred_in")
OUT_TERMS = ("delivered", "bounced", "expired", "cancelled", "suppressed", "dropped", "transferred_out")


class Feedback(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a message that came back was, and how far it can be believed.  ``id`` is that of our 250; ``report`` one of
    ``feedback.Kind``, ``type`` what a complaint's report calls it; ``token``: "valid", or why it counts for nothing
    ("none", "forged", "expired"); ``recipient`` whom it names; ``repeated``: as much was heard before."""

    id: str
    report: str
    token: str
    type: str = ""
    recipient: str = ""
    reporter: str = ""
    subject: str = ""
    peer: str = ""
    helo: str = ""
    size: int = 0
    repeated: bool = False


class Record(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One event.  Times are unix seconds; ids are as users see them; ``recipients`` of a Reception are in the order of
    the delivery ids, which follow the message id one by one.  ``track_id``, ``tags`` and ``meta`` are the sender's own
    words of the message (``envelope.Steering``); ``domain`` is the sender domain that an event is of;
    ``quiet`` the recipients of a Reception of whose failure its sender wants no report (RFC 3461)."""

    kind: RecordKind
    time: float
    message: str = ""
    delivery: str = ""
    account: str = ""
    connection: str = ""
    stream: str = ""
    sender: str = ""
    recipient: str = ""
    recipients: tuple[str, ...] = ()
    message_id: str = ""
    size: int = 0
    client: str = ""
    track_id: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    received: float = 0.0
    attempts: int = 0
    due: float = 0.0
    evidence: Evidence | None = None
    domain: str = ""
    note: str = ""
    quiet: tuple[str, ...] = ()
    feedback: Feedback | None = None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What one record adds to the ledger: ``count`` to ``term`` of (day of reception, account, stream)."""

    day: int
    account: str
    stream: str
    term: str
    count: int = 1


def of_message(kind: RecordKind, message: Message, time: float, **more: Any) -> Record:
    """An event of a message, with all that the message itself tells."""
    steering = message.steering
    return Record(
        kind=kind,
        time=time,
        message=show(message.id),
        account=message.account,
        connection=message.connection,
        stream=message.stream,
        sender=message.envelope.sender,
        message_id=message.message_id,
        size=message.size,
        client=message.client,
        track_id=steering.track_id,
        tags=steering.tags,
        meta=steering.meta,
        **more,
    )


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """The record as one line, newline included."""
    return _encoder.encode(record) + b"\n"


def decode(line: bytes) -> Record:
    """The record of one line.  Raises msgspec.DecodeError."""
    return _decoder.decode(line)
