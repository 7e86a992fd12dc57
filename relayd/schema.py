"""What an event looks like: for people, and as a JSON schema.  ``make docs`` writes docs/events.md from it.

In: the types of ``events``.  Out: a page, and the schema.
"""

import json
from typing import Any, get_args

import msgspec

from relayd.events import MEANING, NAMES, VERSION, Attempt, Event, encode, events, place
from relayd.identity import lower_bound, show
from relayd.outcome import Evidence, Stage
from relayd.records import Feedback, Record, RecordKind
from relayd.reply import Reply

STAGES = get_args(Stage)

# What each field says.
FIELDS: dict[type[msgspec.Struct], dict[str, str]] = {
    Event: {
        "id": "the same however often and wherever the event comes: who keeps it takes no event twice",
        "event": "what happened: one of the names above",
        "time": "when, RFC 3339 in UTC",
        "v": "the version of this schema: it rises when a field goes or changes its meaning, not when one is added",
        "node": "the relay, `[node] name`",
        "account": "whose mail it is",
        "connection": "the login that the message came by; \"\" where there was none",
        "stream": "the kind of traffic",
        "client": "who is behind the message where one account sends for many",
        "message": "relayd's id of the message: that of its 250",
        "delivery": "relayd's id of this recipient's copy",
        "sender": "the envelope sender",
        "recipient": "the envelope recipient",
        "message_id": "the Message-ID of the message",
        "track_id": "the sender's own id of the message, from its headers",
        "tags": "the sender's own words of the message, from its headers",
        "meta": "the sender's own names and values of the message, from its headers",
        "size": "bytes of the message",
        "received": "when relayd took the message in, RFC 3339 in UTC",
        "attempts": "attempts at this delivery so far",
        "next_attempt": "of what is deferred or sent: when it is tried again, RFC 3339 in UTC",
        "reason": "why it was rejected, deferred, bounced or failed, in the words of django-anymail",
        "late": "true: told by what came back after the delivery was over",
        "domain": "the sender domain that `domain_verified` and `domain_failing` are of",
        "note": "why, in words, where no server of the recipient's said it",
        "attempt": "what was seen of the attempt, below",
        "feedback": "what came back, below",
    },
    Attempt: {
        "stage": f"where the session ended: {', '.join(STAGES[:-1])}; report: told later",
        "code": "of the reply",
        "enhanced": "the reply's enhanced code (RFC 3463)",
        "reply": "the words of the reply, as the recipient's server said them",
        "error": "what went wrong where there was no reply",
        "class": "what a failed reply is taken for: `relayctl classify`",
        "site": "the provider, or the mail hosts",
        "source": "the source that it went by",
        "mx": "the mail host",
        "peer": "its address and port",
        "tls": "what was agreed on: version, cipher, the certificate; \"\": no TLS",
        "seconds": "how long it took",
        "session": "the SMTP session, which carries several deliveries",
    },
    Feedback: {
        "id": "relayd's id of what came back",
        "report": "what it is: bounce, delay, success, auto-reply, challenge, complaint, unsubscribe, other",
        "token": "\"valid\": it is proved to be about mail of ours; else why it counts for nothing",
        "type": "what a complaint's report calls it, such as abuse",
        "recipient": "whom it names",
        "reporter": "who made the report",
        "subject": "the subject of what came back",
        "peer": "the address that it came from",
        "helo": "what that called itself",
        "size": "its bytes",
        "repeated": "true: as much was heard before",
    },
}  # fmt: skip

_INTRODUCTION = f"""# Events

What becomes of mail, as relayd tells it: to files and Redis streams (`[feed.NAME]`), in exports, and to who asks.
`make docs` writes this page from the types that events are made of. An event is one JSON object, of one delivery:
a message to three recipients is three events `queued`. Fields that are empty, 0 or false are left out.

Events come **at least once**, and those of one delivery in order: after a crash some come again, with the same `id`.
This is version {VERSION} of the schema (`v`). Fields and names may be added at any time: ignore those you do not know.
"""


def schema() -> dict[str, Any]:
    """The JSON schema of an event."""
    made = msgspec.json.schema(Event)
    for kind, meanings in FIELDS.items():
        part = made["$defs"][kind.__name__]
        part["description"] = _ABOUT[kind]
        for name, meaning in meanings.items():
            found = part["properties"][name]
            part["properties"][name] = {"description": meaning, **found}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"An event of relayd, version {VERSION}",
        **made,
    }


_ABOUT: dict[type[msgspec.Struct], str] = {
    Event: "What became of one delivery, or of a sender domain.",
    Attempt: "What was seen of an attempt at a delivery.",
    Feedback: "What came back about mail of ours, and how far it can be believed.",
}


def page() -> str:
    """docs/events.md."""
    lines = [_INTRODUCTION.rstrip(), "", "## Names", "", "| event | what it says |", "|---|---|"]
    lines += [f"| `{name}` | {MEANING[name]} |" for name in NAMES]
    for kind, title in ((Event, "Fields"), (Attempt, "`attempt`"), (Feedback, "`feedback`")):
        lines += ["", f"## {title}", "", _ABOUT[kind], "", "| field | type | what it says |", "|---|---|---|"]
        lines += [f"| `{name}` | {_type(kind, name)} | {text} |" for name, text in FIELDS[kind].items()]
    lines += ["", "## Examples", ""]
    for event in examples():
        lines += [f"`{event.event}`: {MEANING[event.event]}.", "", *_indented(json.loads(encode(event))), ""]
    lines += ["## JSON schema", "", "Also by `relayctl events schema`.", "", *_indented(schema())]
    return "\n".join(lines) + "\n"


def _type(kind: type[msgspec.Struct], name: str) -> str:
    found = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"][name]
    if "$ref" in (first := found.get("anyOf", [found])[0]):
        return "object"
    return str(first.get("type", "string"))


def _indented(value: Any) -> list[str]:
    return [f"    {line}" for line in json.dumps(value, indent=2, ensure_ascii=False).splitlines()]


_MOMENT = 1_797_000_000.25


def examples() -> list[Event]:
    """A few, as records make them."""
    id = lower_bound(_MOMENT)
    of_message: dict[str, Any] = {
        "message": show(id), "account": "crm", "connection": "crm-1", "stream": "transactional",
        "sender": "sales@crm.example", "message_id": "<17@crm.example>", "size": 2140, "track_id": "order-17",
        "tags": ("receipt",), "meta": {"shop": "7"},
    }  # fmt: skip
    of_delivery = {**of_message, "delivery": show(id + 1), "recipient": "ivan@mail.example", "received": _MOMENT}

    def seen(code: int, enhanced: str, text: str, cls: str = "") -> Evidence:
        reply = Reply(code, enhanced, text)
        return Evidence(
            "dot" if code == 250 else "rcpt", reply, source="t1", mx="mx.mail.example", peer="203.0.113.25:25",
            tls="TLSv1.3 TLS_AES_256_GCM_SHA384", seconds=0.42, session="s4f1", cls=cls, site="mail.example",
        )  # fmt: skip

    def made(kind: RecordKind, seconds: float, offset: int, **more: Any) -> Event:
        record = Record(kind, _MOMENT + seconds, **more)
        return next(events(record, place("1796990000.jsonl", offset), "mx1.relay.example"))

    later = seen(451, "4.7.1", "greylisted, try again later", "greylist")
    gone = seen(550, "5.1.1", "no such user", "recipient_unknown")
    came = Feedback(show(id + 1000), "complaint", "valid", type="abuse", recipient="ivan@mail.example", size=5210)
    return [
        made("Reception", 0, 0x1A40, **of_message, recipients=("ivan@mail.example",)),
        made("TransientFailure", 1, 0x1B77, **of_delivery, evidence=later, attempts=1, due=_MOMENT + 301),
        made("Delivery", 303, 0x2C10, **of_delivery, evidence=seen(250, "2.0.0", "queued"), attempts=2),
        made("Bounce", 303, 0x2E51, **of_delivery, evidence=gone, attempts=2),
        made("Complaint", 7200, 0x9F02, **of_delivery, feedback=came),
    ]


if __name__ == "__main__":
    print(page(), end="")
