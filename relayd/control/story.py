"""The whole story of a message, for ``inspect``: from its records and from what is still queued.  Pure."""

from collections.abc import Callable
from typing import Any

from relayd.envelope import Delivery
from relayd.identity import show
from relayd.records import Record
from relayd.spool import NEVER

HEADERS = 8192  # bytes of the header section that are shown


def story(
    message: str, records: list[Record], queued: list[Delivery], why: Callable[[Delivery], str]
) -> dict[str, Any]:
    """{"id", "message": {...}, "deliveries": [...], "history": [...]}, JSON-able.  ``records`` are the message's own,
    the oldest first; ``why`` says what holds a queued delivery."""
    here = {show(delivery.id): delivery for delivery in queued}
    recipients = _recipients(message, records, here)
    return {
        "id": message,
        "message": _message(records, queued),
        "deliveries": [_delivery(id_, to, here.get(id_), records, why) for id_, to in recipients.items()],
        "history": [
            {"time": r.time, "event": r.kind, "recipient": r.recipient or ", ".join(r.recipients), "what": words(r)}
            for r in records
        ],
    }


def _recipients(message: str, records: list[Record], here: dict[str, Delivery]) -> dict[str, str]:
    """Delivery id to recipient, in order."""
    found = {id_: delivery.recipient.address for id_, delivery in here.items()}
    for record in records:
        if record.kind == "Reception":
            first = int(message, 16) + 1
            found |= {show(first + n): address for n, address in enumerate(record.recipients)}
        elif record.delivery:
            found.setdefault(record.delivery, record.recipient)
    return dict(sorted(found.items()))


def _message(records: list[Record], queued: list[Delivery]) -> dict[str, Any]:
    known = queued[0].message if queued else records[0]
    more: dict[str, Any] = {}
    if queued:
        envelope, head = queued[0].message.envelope, queued[0].message.head
        said = {"ret": envelope.ret, "envid": envelope.envid, "smtputf8": envelope.smtputf8, "8bit": envelope.eightbit}
        more["envelope"] = {key: value for key, value in said.items() if value}
        more["headers"] = head[:HEADERS].decode("utf-8", "replace").rstrip().splitlines()
    return {
        "account": known.account,
        "stream": known.stream,
        "connection": known.connection,
        "sender": queued[0].message.envelope.sender if queued else records[0].sender,
        "message_id": known.message_id,
        "size": known.size,
        "received": known.received or records[0].time,
        **more,
    }


def _delivery(
    id_: str, to: str, queued: Delivery | None, records: list[Record], why: Callable[[Delivery], str]
) -> dict[str, Any]:
    own = [record for record in records if record.delivery == id_ and record.feedback is None]
    row: dict[str, Any] = {"id": id_, "recipient": to, "attempts": own[-1].attempts if own else 0, "due": None}
    if queued is not None:
        return row | {
            "state": "queued",
            "queue": queued.queue,
            "attempts": queued.attempts,
            "due": queued.due if queued.due < NEVER else None,
            "why": why(queued),
        }
    if own:
        return row | {"state": _STATES.get(own[-1].kind, own[-1].kind), "why": words(own[-1])}
    return row | {"state": "not here", "why": "it has left, and the records about it are not kept any more"}


_STATES = {
    "Delivery": "delivered",
    "Bounce": "bounced",
    "Expiration": "expired",
    "Cancellation": "cancelled",
    "Suppression": "suppressed",
    "Drop": "dropped",
}


def words(record: Record) -> str:
    """One record in a sentence: stage, server, its words, TLS, next try."""
    seen = record.evidence
    if back := record.feedback:
        said = f": {seen.words()}" if seen else ""
        return f"{back.report} from {back.reporter or back.peer}{', as before' if back.repeated else ''}{said}"
    if seen is None:
        return record.note
    where = seen.peer if seen.peer.startswith(seen.mx) else f"{seen.mx} {seen.peer}".strip()
    parts = [
        f"at {seen.stage}",
        f"with {where}" if where else "",
        f"by source {seen.source}" if seen.source else "",
        f"over {seen.tls}" if seen.tls else "",
        f"after {seen.seconds:.1f} s" if seen.seconds else "",
    ]
    again = f"; next try {record.due - record.time:.0f} s later" if record.due else ""
    return f"{' '.join(filter(None, parts))}: {seen.words() or 'no words'}{again}"
