"""The story of a message: what ``inspect`` makes of its records and of what is still queued."""

import json

from relayd.control.story import story, words
from relayd.envelope import Delivery, Edits, Envelope, Message, Recipient
from relayd.identity import show
from relayd.outcome import Evidence
from relayd.records import Record
from relayd.reply import Reply

ID = 0x1A3185C500000000
MESSAGE = Message(ID, 1000.0, "crm", "login", "bulk", Envelope("a@crm.example"), Edits(), b"\r\n", b"", 7, "<m@x>")


def reception(*recipients: str) -> Record:
    return Record("Reception", 1000.0, show(ID), account="crm", sender="a@crm.example", recipients=recipients, size=7)


def attempt(kind: str, number: int, to: str, **more: object) -> Record:
    evidence = Evidence(
        "rcpt", Reply(451, "4.7.1", "later"), "", "s1", "mx.example", "203.0.113.1:25", "", "TLSv1.3 X", 1.5
    )
    return Record(kind, 1001.0, show(ID), show(ID + number), recipient=to, evidence=evidence, **more)  # type: ignore[arg-type]


def queued(number: int, to: str) -> Delivery:
    return Delivery(ID + number, MESSAGE, Recipient(to), "crm/bulk/x.example", 1300.0, 1, "s1", "rcpt: 451 later")


def why(delivery: Delivery) -> str:
    return f"it waits at {delivery.queue}"


def test_every_recipient_has_its_state():
    records = [
        reception("b@x.example", "c@x.example", "d@x.example", "e@x.example"),
        attempt("Delivery", 1, "b@x.example", attempts=1),
        attempt("Bounce", 2, "c@x.example", attempts=2),
        attempt("TransientFailure", 3, "d@x.example", attempts=1, due=1300.0),
    ]
    told = story(show(ID), records, [queued(3, "d@x.example")], why)
    rows = {row["recipient"]: (row["id"], row["state"], row["attempts"], row["due"]) for row in told["deliveries"]}
    assert rows == {
        "b@x.example": (show(ID + 1), "delivered", 1, None),
        "c@x.example": (show(ID + 2), "bounced", 2, None),
        "d@x.example": (show(ID + 3), "queued", 1, 1300.0),
        "e@x.example": (show(ID + 4), "not here", 0, None),
    }
    assert told["deliveries"][2]["why"] == "it waits at crm/bulk/x.example"
    assert [event["event"] for event in told["history"]] == ["Reception", "Delivery", "Bounce", "TransientFailure"]
    json.dumps(told)


def test_what_is_queued_is_told_though_no_record_is_kept_any_more():
    told = story(show(ID), [], [queued(2, "c@x.example")], why)
    assert told["message"]["account"] == "crm" and told["message"]["received"] == 1000.0
    assert told["message"]["message_id"] == "<m@x>" and told["history"] == []
    assert [row["recipient"] for row in told["deliveries"]] == ["c@x.example"]


def test_what_is_gone_is_told_from_its_records():
    told = story(show(ID), [reception("b@x.example"), attempt("Delivery", 1, "b@x.example", attempts=1)], [], why)
    assert told["message"]["sender"] == "a@crm.example" and told["message"]["size"] == 7
    assert told["message"]["received"] == 1000.0


def test_without_the_reception_the_recipients_come_from_the_other_records():
    told = story(show(ID), [attempt("Bounce", 5, "f@x.example", attempts=3)], [], why)
    assert [(row["recipient"], row["state"]) for row in told["deliveries"]] == [("f@x.example", "bounced")]


def test_an_attempt_in_words_names_stage_server_source_tls_and_next_try():
    said = words(attempt("TransientFailure", 1, "b@x.example", due=1301.0))
    assert said == (
        "at rcpt with mx.example 203.0.113.1:25 by source s1 over TLSv1.3 X after 1.5 s: "
        "451 4.7.1 later; next try 300 s later"
    )


def test_an_attempt_without_a_reply_tells_its_error_and_never_nothing():
    assert words(Record("Expiration", 1.0, evidence=Evidence("queue", error="too old"))) == "at queue: too old"
    assert words(Record("Expiration", 1.0, evidence=Evidence("queue"))) == "at queue: no words"
    assert words(Record("Reception", 1.0, note="from 127.0.0.1")) == "from 127.0.0.1"


def test_a_next_hop_that_is_an_address_is_named_once():
    seen = Evidence("dot", Reply(250, "", "ok"), mx="127.0.0.1", peer="127.0.0.1:2600")
    assert words(Record("Delivery", 1.0, evidence=seen)) == "at dot with 127.0.0.1:2600: 250 ok"
