"""Complaints: feedback reports (RFC 5965, RFC 6591) and the ways of telling that some providers keep to themselves."""

from relayd.feedback.mime import Fields, Part, fields_of, value
from relayd.feedback.notices import notice_in
from relayd.feedback.report import Complaint
from relayd.feedback.statuses import address_in
from relayd.feedback.wording import COMPLAINT
from relayd.reply import printable

_MANY = 16
_REPORT = ("message/feedback-report", "application/x-feedback-report")


def complaint_of(head: Fields, leaves: list[Part], original: Fields, subject: str) -> Complaint | None:
    """The complaint in a message, None where it is none."""
    for part in leaves:
        if part.kind in _REPORT:
            return _complaint(fields_of(part.text().lstrip("\n")), original)
    for part in leaves[:1]:
        notice = notice_in(part.text())
        if notice and (fields := notice.complaint_fields()):
            return _complaint(fields, original)
    for returned in (original, head):  # one provider forwards the message itself, with this field on top
        told = value(returned, "x-hmxmroriginalrecipient")
        if told or (COMPLAINT.match(subject) and returned):
            return _complaint((("original-rcpt-to", told),), returned)
    return None


def _complaint(fields: Fields, original: Fields) -> Complaint:
    count = value(fields, "incidents")
    recipients = _all(fields, "original-rcpt-to") or _all(fields, "removal-recipient")
    recipients = recipients or tuple(filter(None, map(address_in, _all(original, "to"))))
    return Complaint(
        type=printable(value(fields, "feedback-type").lower(), 40) or "abuse",
        user_agent=printable(value(fields, "user-agent"), 200),
        version=printable(value(fields, "version"), 20),
        arrival_date=printable(value(fields, "arrival-date") or value(fields, "received-date"), 100),
        source_ip=printable(value(fields, "source-ip") or value(fields, "source"), 64),
        incidents=int(count) if count.isdecimal() and count.isascii() and len(count) < 7 else 1,
        mail_from=printable(address_in(value(fields, "original-mail-from")), 320),
        envelope_id=printable(value(fields, "original-envelope-id"), 100),
        message_id=printable(value(original, "message-id") or value(fields, "original-message-id"), 998),
        recipients=tuple(dict.fromkeys(address_in(one) or one.strip("<> ") for one in recipients)),
        domains=_all(fields, "reported-domain"),
        uris=_all(fields, "reported-uri"),
        authentication=_all(fields, "authentication-results"),
    )


def _all(fields: Fields, name: str) -> tuple[str, ...]:
    return tuple(printable(value, 998) for known, value in fields if known == name and value)[:_MANY]
