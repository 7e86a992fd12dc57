"""Submission policy: who may send what, and what a message becomes."""

import pytest

from relayd import submission
from relayd.envelope import UNSTEERED, Edits, Envelope, Message, Recipient, Returns, Steering
from relayd.identity import day_of
from relayd.message.headers import survey
from relayd.submission import MAX_HOPS, Session, Submitter

NOW = 1_800_000_000.0
OURS = Submitter("login", "crm", "bulk", lambda address: address.endswith("@crm.example"))
CAME = Session("mx1.relay.example", "crm.example", "198.51.100.1", "ESMTPSA")


def refusal(head: bytes) -> str:
    return str(submission.refuse_head(OURS, survey(head + b"\r\n")) or "")


@pytest.mark.parametrize(("sender", "code"), [("a@crm.example", None), ("", None), ("a@other.example", 553)])
def test_a_sender_must_be_the_connections_or_nobody(sender, code):
    reply = submission.refuse_sender(OURS, sender)
    assert (reply.code if reply else None) == code


@pytest.mark.parametrize(("address", "fine"), [("b@x.example", True), ("postmaster", False)])
def test_a_recipient_needs_a_domain(address, fine):
    assert (submission.refuse_recipient(Recipient(address)) is None) is fine


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"From: a@crm.example\r\n", ""),
        (b"From: A <a@crm.example>, B <b@crm.example>\r\n", ""),
        (b"Subject: one\r\n", "550 5.6.0"),
        (b"From: a@other.example\r\n", "550 5.7.1 From a@other.example"),
        (b"From: a@crm.example, evil@other.example\r\n", "550 5.7.1 From evil@other.example"),
        (b"From: a@crm.example\r\nFrom: evil@other.example\r\n", "550 5.6.0 Message rejected: more than one"),
        (b"From: a@crm.example\r\nFrom: a@crm.example\r\n", "550 5.6.0 Message rejected: more than one"),
        (b"From: undisclosed:;\r\n", "550 5.7.1"),
        (b"From:\r\n", "550 5.7.1"),
    ],
)
def test_every_author_that_people_see_must_be_the_connections(head, said):
    assert refusal(head).startswith(said) and bool(refusal(head)) is bool(said)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"Sender: B <b@crm.example>\r\n", ""),
        (b"Sender: ceo@other.example\r\n", "550 5.7.1 Sender header ceo@other.example"),
        (b"Sender: b@crm.example\r\nSender: ceo@other.example\r\n", "550 5.7.1 Sender header without an address"),
        (b"Sender:\r\n ceo@other.example (b@crm.example)\r\n", "550 5.7.1 Sender header ceo@other.example"),
    ],
)
def test_who_is_shown_as_sending_for_the_author_must_be_the_connections(head, said):
    assert refusal(b"From: a@crm.example\r\n" + head).startswith(said)
    assert bool(refusal(b"From: a@crm.example\r\n" + head)) is bool(said)


def test_a_refusal_shows_no_raw_bytes_of_a_header():
    assert "\x1b" not in refusal(b"From: \x1b[31m@other.example\r\n")


def test_a_message_that_has_passed_too_many_hosts_runs_in_a_circle():
    hops = b"Received: by x\r\n"
    assert refusal(b"From: a@crm.example\r\n" + hops * (MAX_HOPS - 1)) == ""
    assert refusal(b"From: a@crm.example\r\n" + hops * MAX_HOPS).startswith("554 5.4.6")


def edited(head: bytes, *recipients: str) -> tuple[Edits, str]:
    envelope = Envelope("a@crm.example", tuple(map(Recipient, recipients or ("b@x.example",))))
    return submission.edits(CAME, 0x77, envelope, survey(head + b"\r\n"), NOW, NOW)


def test_what_is_missing_is_added_and_what_is_there_stays():
    edits, message_id = edited(b"From: a@crm.example\r\n")
    assert message_id == "<0000000000000077@mx1.relay.example>"
    assert b"Message-ID: <0000000000000077@mx1.relay.example>\r\n" in edits.prepend
    assert b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n" in edits.prepend
    edits, message_id = edited(b"Message-ID: <1@crm>\r\ndate: x\r\n")
    assert message_id == "<1@crm>" and edits.prepend.count(b"\r\n") == edits.prepend.count(b"\r\n\t") + 1


def test_a_recipient_is_named_to_itself_only():
    assert b"for <b@x.example>" in edited(b"")[0].prepend
    assert b"for <" not in edited(b"", "b@x.example", "c@x.example")[0].prepend


def test_fields_that_are_nobody_elses_business_are_dropped():
    edits, _ = edited(b"BCC: c@x.example\r\nReturn-Path: <a@b>\r\nSubject: one\r\n")
    assert edits.drop == ("bcc", "return-path")


def test_headers_that_steer_are_dropped_however_they_are_written():
    edits, _ = edited(b"X-TRACK-ID: 1\r\nx-relayd-tag: a\r\nX-Relayd-Tag: b\r\nX-Tracker: c\r\n")
    assert edits.drop == ("x-track-id", "x-relayd-tag")


def test_a_return_path_of_ours_comes_with_an_unsubscribe_address_where_that_is_wanted():
    made = Edits(b"Received: x\r\n", ("bcc",))
    head = b"From: a@crm.example\r\nList-Unsubscribe: <https://crm.example/u>\r\n\r\n"
    plain = submission.returning(made, head, "bounce.x", 7, unsubscribe=False)
    assert plain == Edits(b"Received: x\r\n", ("bcc",), returns=Returns("bounce.x", 7))
    full = submission.returning(made, head, "bounce.x", 7, unsubscribe=True)
    assert full.drop == ("bcc", "list-unsubscribe") and full.returns
    assert full.returns.unsubscribe.startswith("List-Unsubscribe: <https://crm.example/u>,\r\n <mailto:")
    signed = b"DKIM-Signature: v=1; h=from:list-unsubscribe\r\n" + head
    assert submission.returning(made, signed, "bounce.x", 7, unsubscribe=True) == plain


def test_a_missing_date_is_that_of_the_first_attempt():
    envelope = Envelope("a@crm.example", (Recipient("b@x.example"),))
    edits, _ = submission.edits(CAME, 0x77, envelope, survey(b"\r\n"), NOW, NOW + 86400)
    assert b"Date: Sat, 16 Jan 2027 08:00:00 +0000\r\n" in edits.prepend
    assert edits.prepend.index(b"Fri, 15 Jan 2027 08:00:00 +0000") < edits.prepend.index(b"Message-ID")


def test_a_header_that_cannot_be_followed_is_refused_with_what_to_write():
    refused = submission.steered(survey(b"X-Relayd-Track: yes\r\n\r\n"), NOW)
    assert str(refused) == "550 5.6.0 X-Relayd-Track: 'yes' is none of none, opens, clicks, all"
    assert submission.steered(survey(b"X-Relayd-Track: all\r\n\r\n"), NOW) == Steering(track="all")
    assert submission.steered(survey(b"\r\n"), NOW) is UNSTEERED


def test_a_message_becomes_one_delivery_for_each_recipient_and_one_record():
    recipients = (Recipient("b@x.example"), Recipient("c@Y.example"))
    message = Message(1 << 40, NOW, "crm", "login", "bulk", Envelope("a@crm.example"), Edits(), b"\r\n", b"", 2)
    made = submission.deliveries(message, recipients, NOW)
    assert [(d.id - message.id, d.queue, d.due) for d in made] == [
        (1, "crm/bulk/x.example", NOW),
        (2, "crm/bulk/y.example", NOW),
    ]
    record, entry = submission.reception(message, recipients, CAME, "TLSv1.3 X")
    assert record.recipients == ("b@x.example", "c@Y.example")
    assert record.note == "from 198.51.100.1 (crm.example) by ESMTPSA TLSv1.3 X"
    assert (entry.day, entry.term, entry.count) == (day_of(message.id), "received", 2)
