"""Events: what each record is called for users, what it tells them, and by which id."""

import json
from typing import Any, get_args

import pytest

from relayd import events
from relayd.events import MEANING, NAMES, Event, place
from relayd.outcome import Evidence
from relayd.records import Feedback, Record, RecordKind
from relayd.reply import Reply

NOW = 1_796_126_400.25
REFUSED = Evidence(
    "rcpt", Reply(550, "5.1.1", "User unknown"), "", "t1", "mx.example.net", "192.0.2.1:25", "", "TLSv1.3", 0.2, "1a",
    2, "recipient_unknown", "gmail",
)  # fmt: skip


def told(**given: Any) -> list[Event]:
    record = Record(**{"kind": "Delivery", "time": NOW, "account": "crm", **given})
    return list(events.events(record, place("1796126400.jsonl", 4096), "mx1.relay.example"))


def test_every_kind_of_record_has_a_name_and_every_name_a_meaning() -> None:
    assert {events.name_of(kind) for kind in get_args(RecordKind)} <= set(NAMES) == set(MEANING)


def test_a_reception_is_one_event_for_each_recipient_with_its_delivery() -> None:
    made = told(kind="Reception", message="0000000000000010", recipients=("a@x.example", "b@x.example"))
    assert [(e.event, e.recipient, e.delivery) for e in made] == [
        ("queued", "a@x.example", "0000000000000011"),
        ("queued", "b@x.example", "0000000000000012"),
    ]
    assert [e.id for e in made] == ["1796126400-1000", "1796126400-1000-1"]


def test_a_refusal_carries_stage_words_class_and_who_said_it() -> None:
    (event,) = told(kind="Bounce", delivery="11", message="10", recipient="a@x.example", attempts=2, evidence=REFUSED)
    shown = json.loads(events.encode(event))
    assert shown["attempt"] == {
        "stage": "rcpt", "code": 550, "enhanced": "5.1.1", "reply": "User unknown", "class": "recipient_unknown",
        "site": "gmail", "source": "t1", "mx": "mx.example.net", "peer": "192.0.2.1:25", "tls": "TLSv1.3",
        "seconds": 0.2, "session": "1a",
    }  # fmt: skip
    assert (shown["event"], shown["reason"], shown["attempts"], shown["v"]) == ("bounced", "invalid", 2, 1)
    assert "late" not in shown


def test_times_are_utc_to_the_millisecond() -> None:
    (event,) = told(kind="TransientFailure", delivery="11", received=NOW - 60, due=NOW + 300, evidence=REFUSED)
    assert event.time == "2026-12-01T12:00:00.250Z"
    assert (event.received, event.next_attempt) == ("2026-12-01T11:59:00.250Z", "2026-12-01T12:05:00.250Z")


def test_the_senders_own_words_come_back() -> None:
    (event,) = told(delivery="11", track_id="order-7", tags=("sale",), meta={"campaign": "Весна"})
    assert json.loads(events.encode(event))["meta"] == {"campaign": "Весна"}
    assert (event.track_id, event.tags) == ("order-7", ("sale",))


@pytest.mark.parametrize(
    ("report", "name"),
    [
        ("bounce", "bounced"),
        ("delay", "deferred"),
        ("success", "delivered"),
        ("auto-reply", "autoresponded"),
        ("challenge", "autoresponded"),
        ("other", "returned"),
    ],
)
def test_what_comes_back_later_says_so(report: str, name: str) -> None:
    (event,) = told(kind="OutOfBand", delivery="11", feedback=Feedback("20", report, "valid"))
    assert (event.event, event.late) == (name, True)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"kind": "Expiration", "evidence": REFUSED}, "timed_out"),
        ({"kind": "Cancellation"}, "other"),
        ({"kind": "Suppression", "note": "550 5.7.1 Email receiver unsubscribe or complaint"}, "unsubscribed"),
        ({"kind": "Suppression", "note": "553 5.2.2 Recipient has exceeded mailbox limit"}, "bounced"),
        ({"kind": "Drop", "note": "550 5.1.1 a@x.example does not exist"}, "invalid"),
        ({"kind": "Suppression", "evidence": Evidence("queue", None, "a@x is on the list crm/all: complaint")},
         "unsubscribed"),
        ({"kind": "Rejection", "note": "554 5.7.1 Message refused as spam"}, "spam"),
        ({"kind": "Rejection", "note": "450 4.7.1 Balance not enough"}, "blocked"),
        ({"kind": "Complaint", "feedback": Feedback("20", "complaint", "valid")}, "spam"),
        ({"kind": "Delivery"}, ""),
    ],
)  # fmt: skip
def test_why_is_told_in_one_word(given: dict[str, Any], reason: str) -> None:
    (event,) = told(delivery="11", **given)
    assert event.reason == reason
