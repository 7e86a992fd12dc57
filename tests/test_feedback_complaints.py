"""Complaints, in samples of our own writing."""

from relayd.feedback import Complaint, Report, read

ORIGINAL = (
    "Return-Path: <b-token@bounce.example>\nMessage-ID: <1@crm.example>\nTo: anna@client.example\n"
    "List-Unsubscribe: <mailto:u-token@bounce.example>\nSubject: offer\n\nBuy!\n"
)


def arf(fields: str, original: str = ORIGINAL, kind: str = "message/feedback-report") -> Report:
    return read(
        (
            "From: <fbl@provider.example>\nTo: fbl@relay.example\nSubject: FW: offer\nMIME-Version: 1.0\n"
            'Content-Type: multipart/report; report-type=feedback-report; boundary="b"\n\n'
            "--b\nContent-Type: text/plain\n\nThis is a complaint: could not be delivered to x@y.example\n"
            f"--b\nContent-Type: {kind}\n\n{fields}\n--b\nContent-Type: message/rfc822\n\n{original}\n--b--\n"
        ).encode()
    )


def complaint(found: Report) -> Complaint:
    assert found.kind == "complaint"
    assert found.complaint is not None
    return found.complaint


def test_every_field_of_a_feedback_report_is_read() -> None:
    told = complaint(
        arf(
            "Feedback-Type: abuse\nUser-Agent: Provider-FBL/1\nVersion: 1\n"
            "Original-Mail-From: <b-token@bounce.example>\n"
            "Original-Rcpt-To: <anna@client.example>\nArrival-Date: Thu, 1 Jan 2026 00:00:00 +0000\n"
            "Reporting-MTA: dns; mx\n"
            "Source-IP: 192.0.2.10\nReported-Domain: crm.example\nReported-Domain: shop.example\n"
            "Reported-URI: http://shop.example/\n"
            "Incidents: 3\nAuthentication-Results: provider.example; dkim=pass\nOriginal-Envelope-Id: e1\n"
        )
    )
    assert told == Complaint(
        type="abuse",
        user_agent="Provider-FBL/1",
        version="1",
        arrival_date="Thu, 1 Jan 2026 00:00:00 +0000",
        source_ip="192.0.2.10",
        incidents=3,
        mail_from="b-token@bounce.example",
        envelope_id="e1",
        message_id="<1@crm.example>",
        recipients=("anna@client.example",),
        domains=("crm.example", "shop.example"),
        uris=("http://shop.example/",),
        authentication=("provider.example; dkim=pass",),
    )


def test_a_redacted_recipient_stays_redacted_and_the_token_is_found() -> None:
    found = arf(
        "Feedback-Type: abuse\nOriginal-Rcpt-To: redacted\n", ORIGINAL.replace("anna@client.example", "undisclosed")
    )
    assert complaint(found).recipients == ("redacted",)
    assert {clue.where for clue in found.clues} == {"to", "return-path", "message-id", "list-unsubscribe"}
    assert complaint(arf("Feedback-Type: abuse\n", "To: undisclosed\nSubject: x\n\n")).recipients == ()


def test_other_types_say_what_they_are() -> None:
    assert complaint(arf("Feedback-Type: not-spam\n")).type == "not-spam"
    assert complaint(arf("Feedback-Type: auth-failure\nAuth-Failure: dmarc\n")).type == "auth-failure"
    assert complaint(arf("Version: 1\nIncidents: -5\n")).type == "abuse"


def test_a_report_of_the_wrong_mime_type_or_of_none_is_known() -> None:
    assert complaint(arf("Feedback-Type: fraud\n", kind="application/x-feedback-report")).type == "fraud"
    forwarded = "X-HmXmrOriginalRecipient: anna@client.example\nFrom: x@crm.example\nSubject: offer\n\nBuy!\n"
    assert complaint(read(forwarded.encode())).recipients == ("anna@client.example",)


def test_a_complaint_is_never_a_bounce_as_well() -> None:
    assert arf("Feedback-Type: abuse\n").recipients == ()
