"""The whole story of a message, for ``inspect``: from its records and from what is still queued.  Pure."""

from collections.abc import Callable
from typing import Any

from relayd.envelope import Delivery
from relayd.identity import show


def story(
    message: str, records: list[dict[str, Any]], queued: list[Delivery], why: Callable[[Delivery], str]
) -> dict[str, Any]:
    """{"id", "message": {...}, "deliveries": [...], "records": [...]}.  ``why`` says what holds a queued delivery."""
    records = sorted((r for r in records if r.get("message") == message), key=lambda r: r["time"])
    here = {show(delivery.id): delivery for delivery in queued}
    recipients = _recipients(message, records, here)
    return {
        "id": message,
        "message": _message(records, queued),
        "deliveries": [_delivery(id_, to, here.get(id_), records, why) for id_, to in recipients.items()],
        "records": records,
    }


def _recipients(message: str, records: list[dict[str, Any]], here: dict[str, Delivery]) -> dict[str, str]:
    """Delivery id to recipient, in order."""
    found = {id_: delivery.recipient.address for id_, delivery in here.items()}
    for record in records:
        if record["kind"] == "Reception":
            first = int(message, 16) + 1
            found |= {show(first + n): address for n, address in enumerate(record.get("recipients", []))}
        elif record.get("delivery"):
            found.setdefault(record["delivery"], record.get("recipient", ""))
    return dict(sorted(found.items()))


def _message(records: list[dict[str, Any]], queued: list[Delivery]) -> dict[str, Any]:
    if queued:
        m = queued[0].message
        facts = {
            "account": m.account,
            "stream": m.stream,
            "connection": m.connection,
            "sender": m.envelope.sender,
            "message_id": m.message_id,
            "size": m.size,
            "received": m.received,
        }
    else:
        first = records[0]
        names = ("account", "stream", "connection", "sender", "message_id", "size")
        facts = {name: first.get(name, "") for name in names}
        facts["received"] = first.get("received") or first["time"]
    return facts


def _delivery(
    id_: str, to: str, queued: Delivery | None, records: list[dict[str, Any]], why: Callable[[Delivery], str]
) -> dict[str, Any]:
    own = [record for record in records if record.get("delivery") == id_]
    last = own[-1] if own else {}
    found: dict[str, Any] = {"id": id_, "recipient": to, "attempts": last.get("attempts", 0)}
    if queued is not None:
        found |= {"state": "queued", "queue": queued.queue, "due": queued.due, "why": why(queued), "last": queued.last}
    elif own:
        found |= {"state": _STATES.get(last["kind"], last["kind"]), "last": evidence(last)}
    else:
        found |= {"state": "unknown here", "last": "the records about it are not kept any more"}
    return found


_STATES = {"Delivery": "delivered", "Bounce": "bounced", "Expiration": "expired", "Cancellation": "cancelled"}


def evidence(record: dict[str, Any]) -> str:
    """One attempt in a sentence: stage, server, words, TLS."""
    seen = record.get("evidence") or {}
    reply = seen.get("reply") or {}
    said = " ".join(str(part) for part in (reply.get("code"), reply.get("enhanced"), reply.get("text")) if part)
    where = f"{seen.get('mx', '')} {seen.get('peer', '')}".strip()
    parts = [
        f"at {seen['stage']}" if seen.get("stage") else "",
        f"with {where}" if where else "",
        f"by source {seen['source']}" if seen.get("source") else "",
        f"over {seen['tls']}" if seen.get("tls") else "",
    ]
    return " ".join(filter(None, parts)) + ": " + (said or seen.get("error", "") or "no words")
