"""Notices in JSON, as Amazon SES mails them through SNS: https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html"""

import msgspec

from relayd.feedback import statuses
from relayd.feedback.mime import Fields
from relayd.feedback.report import Recipient

_SPLIT = "!\n "  # where long lines were broken on the way
_MARKS = ('"notificationType"', '"eventType"')


class _Address(msgspec.Struct, rename="camel"):
    email_address: str = ""
    action: str = "failed"
    status: str = ""
    diagnostic_code: str = ""


class _Bounce(msgspec.Struct, rename="camel"):
    bounced_recipients: list[_Address] = []


class _Complaint(msgspec.Struct, rename="camel"):
    complained_recipients: list[_Address] = []
    complaint_feedback_type: str | None = None
    user_agent: str | None = None
    arrival_date: str | None = None


class _Delivery(msgspec.Struct):
    recipients: list[str] = []


class Notice(msgspec.Struct):
    """One of the three is there, or the notice tells of something else."""

    bounce: _Bounce | None = None
    complaint: _Complaint | None = None
    delivery: _Delivery | None = None

    def recipients(self) -> list[Recipient]:
        """Those who were reached or not, as a status report would tell of them."""
        reached = [_Address(one, "delivered", "2.0.0") for one in (self.delivery.recipients if self.delivery else [])]
        told = (self.bounce.bounced_recipients if self.bounce else []) + reached
        groups = (
            {
                "final-recipient": one.email_address,
                "action": one.action,
                "status": one.status,
                "diagnostic-code": one.diagnostic_code,
            }
            for one in told[: statuses.MAX_RECIPIENTS]
        )
        return [one for one in map(statuses.recipient, groups) if one]

    def complaint_fields(self) -> Fields:
        """The fields that a feedback report (RFC 5965) would have; none if it is no complaint."""
        told = self.complaint
        if told is None:
            return ()
        fields = [("original-rcpt-to", one.email_address) for one in told.complained_recipients]
        fields += [("feedback-type", told.complaint_feedback_type or "abuse"), ("user-agent", told.user_agent or "")]
        return (*fields, ("arrival-date", told.arrival_date or ""))


def notice_in(text: str) -> Notice | None:
    """The notice that a text begins with, None where there is none."""
    text = text.lstrip()
    if not text.startswith("{") or not any(mark in text for mark in _MARKS):
        return None
    try:
        return msgspec.json.decode(text[: text.rfind("}") + 1].replace(_SPLIT, ""), type=Notice)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
