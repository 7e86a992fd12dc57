"""Notices in JSON, in samples of our own writing."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relayd.feedback import Report, read
from relayd.feedback.notices import notice_in


def mailed(notice: dict[str, Any], split: str = "") -> Report:
    text = json.dumps(notice)
    text = text[:30] + split + text[30:]
    head = "From: notices@cloud.example\nTo: us@relay.example\nSubject: Notification\n\n"
    return read(f"{head}{text}\n\n--\nTo unsubscribe, visit https://cloud.example/\n".encode())


def bounce(**fields: str) -> dict[str, Any]:
    told = {"emailAddress": "anna@client.example", **fields}
    return {"notificationType": "Bounce", "bounce": {"bounceType": "Permanent", "bouncedRecipients": [told]}}


def test_a_bounce_tells_recipient_status_and_the_server_s_words() -> None:
    told = {"action": "failed", "status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 nobody"}
    found = mailed(bounce(**told))
    assert found.kind == "bounce"
    (one,) = found.recipients
    assert (one.final, one.status, one.code, one.diagnostic) == (
        "anna@client.example",
        "5.1.1",
        550,
        "550 5.1.1 nobody",
    )
    assert mailed(bounce(**told), split="!\n ").recipients == found.recipients


def test_a_bounce_without_a_reason_is_one_all_the_same() -> None:
    found = mailed(bounce())
    assert (found.kind, found.recipients[0].final, found.recipients[0].status) == ("bounce", "anna@client.example", "")


def test_a_delivery_is_a_success() -> None:
    found = mailed({"notificationType": "Delivery", "delivery": {"recipients": ["anna@client.example"]}})
    assert (found.kind, [one.final for one in found.recipients]) == ("success", ["anna@client.example"])


def test_a_complaint_is_one_with_its_type() -> None:
    told = {"complainedRecipients": [{"emailAddress": "anna@client.example"}], "complaintFeedbackType": "fraud"}
    found = mailed({"eventType": "Complaint", "complaint": told})
    assert found.kind == "complaint"
    assert found.complaint is not None
    assert (found.complaint.type, found.complaint.recipients) == ("fraud", ("anna@client.example",))


def test_what_only_looks_like_a_notice_is_none() -> None:
    assert notice_in('{"notificationType": ') is None
    assert notice_in('{"notificationType": "Bounce", "bounce": 7}') is None
    assert notice_in('{"notificationType": ' + "[" * 60_000 + "}") is None
    assert notice_in('{"other": 1}') is None


@given(st.text())
def test_no_text_raises(text: str) -> None:
    notice_in('{"eventType":' + text + "}")
