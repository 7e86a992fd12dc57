import re
from email import message_from_bytes, policy
from email.message import EmailMessage, Message
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.envelope import Envelope, Recipient
from relayd.message import dsn
from relayd.message.headers import fields, split
from relayd.outcome import Evidence, Stage
from relayd.reply import Reply

NOW = 1_764_000_000.0  # Mon, 24 Nov 2025 16:00:00
HEAD = b"From: s@crm.example\r\nMessage-ID: <one@crm.example>\r\nSubject: Hello\r\n\r\n"
BODY = b"Dear all,\r\n.\r\nregards\r\n"
REFUSED = Evidence("rcpt", Reply(550, "5.1.1", "No such user"), mx="mx.far.example", peer="192.0.2.9:25")
SENDER = Envelope("s@crm.example")
FULL = Envelope("s@crm.example", ret="FULL")
WIDE = Envelope("отправитель@crm.example", smtputf8=True)
TO = Recipient("r@far.example")
KINDS: tuple[dsn.Kind, ...] = ("failed", "expired", "delayed", "delivered")


def raw(kind: dsn.Kind = "failed", **changed: Any) -> bytes:
    given: dict[str, Any] = {
        "node": "mx1.relay.example",
        "message_id": "<report@mx1.relay.example>",
        "now": NOW,
        "envelope": SENDER,
        "recipient": TO,
        "original_head": HEAD,
        "original_body": BODY,
        "evidence": REFUSED,
        "received": NOW - 7200,
        "attempts": 3,
    }
    return dsn.report(kind, **(given | changed))


def parsed(content: bytes) -> EmailMessage:
    message = message_from_bytes(content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def parts(content: bytes) -> list[Any]:
    report = parsed(content)
    assert not report.defects
    assert report.get_content_type() == "multipart/report"
    found = list(report.iter_parts())
    assert len(found) == 3
    assert not any(part.defects for part in found)
    return found


def words(content: bytes) -> str:
    return str(parts(content)[0].get_content()).replace("\r\n", "\n")


def machine(content: bytes) -> "tuple[Message[str, str], Message[str, str]]":
    """The fields of the message and of the recipient.  The library knows only the plain family as a list of blocks."""
    part = parts(content)[1]
    if part.get_content_type() == "message/delivery-status":
        message, recipient = part.get_payload()
        return message, recipient
    text = content.split(b"message/global-delivery-status\r\n")[1].split(b"\r\n\r\n", 1)[1].split(b"\r\n--=_")[0]
    message, recipient = (message_from_bytes(block, policy=policy.SMTPUTF8) for block in text.split(b"\r\n\r\n"))
    return message, recipient


def last_part(content: bytes) -> bytes:
    """The third part's content, as it stands."""
    boundary = parsed(content).get_boundary()
    assert boundary
    part = content.split(b"\r\n--" + boundary.encode())[3]
    return part.split(b"\r\n\r\n", 1)[1]


# Who is told.

NOTIFY = ["", "NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,FAILURE", "FAILURE,DELAY", "SUCCESS,FAILURE,DELAY"]
TOLD: dict[str, set[str]] = {
    "": {"failed", "expired", "delayed"},
    "NEVER": set(),
    "SUCCESS": {"delivered"},
    "FAILURE": {"failed", "expired"},
    "DELAY": {"delayed"},
    "SUCCESS,FAILURE": {"delivered", "failed", "expired"},
    "FAILURE,DELAY": {"failed", "expired", "delayed"},
    "SUCCESS,FAILURE,DELAY": {"delivered", "failed", "expired", "delayed"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("notify", NOTIFY)
def test_notify_decides_what_the_sender_is_told(notify: str, kind: dsn.Kind) -> None:
    assert dsn.wanted(kind, SENDER, Recipient("r@x.example", notify), "sender") is (kind in TOLD[notify])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("notify", NOTIFY)
def test_mail_from_the_null_sender_is_never_reported_on(notify: str, kind: dsn.Kind) -> None:
    assert dsn.wanted(kind, Envelope(""), Recipient("r@x.example", notify), "sender") is False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("notify", NOTIFY)
def test_a_stream_without_reports_tells_nobody_whatever_was_asked(notify: str, kind: dsn.Kind) -> None:
    assert dsn.wanted(kind, SENDER, Recipient("r@x.example", notify), "none") is False


# The report's own header.


@pytest.mark.parametrize(
    ("kind", "remote_dsn", "subject"),
    [
        ("failed", False, "Your message could not be delivered"),
        ("expired", False, "Your message could not be delivered"),
        ("delayed", False, "Your message is delayed"),
        ("delivered", False, "Your message was passed on"),
        ("delivered", True, "Your message was delivered"),
    ],
)
def test_the_header_says_who_to_whom_and_that_it_is_automatic(kind: dsn.Kind, remote_dsn: bool, subject: str) -> None:
    report = parsed(raw(kind, remote_dsn=remote_dsn))
    assert report["From"] == "Mail Delivery System <MAILER-DAEMON@mx1.relay.example>"
    assert report["To"].addresses[0].addr_spec == "s@crm.example"
    assert report["Subject"] == subject
    assert report["Date"].datetime.timestamp() == NOW
    assert report["Message-ID"] == "<report@mx1.relay.example>"
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["MIME-Version"] == "1.0"
    assert report["Content-Type"].params["report-type"] == "delivery-status"


def test_the_report_answers_the_original() -> None:
    report = parsed(raw())
    assert report["In-Reply-To"] == report["References"] == "<one@crm.example>"


def test_a_folded_message_id_is_found() -> None:
    report = parsed(raw(original_head=b"Message-Id:\r\n\t<two@crm.example>\r\n\r\n"))
    assert report["In-Reply-To"] == "<two@crm.example>"


@pytest.mark.parametrize(
    "head", [b"", b"\r\n", b"Subject: x\r\n\r\n", b"Message-ID: <a b@c>\r\n\r\n", b"X: Message-ID: <a@b>\r\n\r\n"]
)
def test_without_a_usable_message_id_nothing_is_referred_to(head: bytes) -> None:
    report = parsed(raw(original_head=head))
    assert report["In-Reply-To"] is None
    assert report["References"] is None


def test_a_quoted_sender_is_addressed_as_it_stands() -> None:
    report = parsed(raw(envelope=Envelope('"a, b"@crm.example')))
    assert [address.addr_spec for address in report["To"].addresses] == ['"a, b"@crm.example']


# Fields for a machine.


@pytest.mark.parametrize(
    ("kind", "remote_dsn", "action", "code"),
    [
        ("failed", False, "failed", "5.1.1"),
        ("expired", False, "failed", "4.4.7"),
        ("delayed", False, "delayed", "4.1.1"),
        ("delivered", False, "relayed", "2.1.1"),
        ("delivered", True, "delivered", "2.1.1"),
    ],
)
def test_each_kind_has_its_action_and_a_status_of_its_class(
    kind: dsn.Kind, remote_dsn: bool, action: str, code: str
) -> None:
    _, recipient = machine(raw(kind, remote_dsn=remote_dsn))
    assert (recipient["Action"], recipient["Status"]) == (action, code)


def test_the_machine_part_tells_node_times_server_and_reply() -> None:
    message, recipient = machine(raw())
    assert message.items() == [
        ("Reporting-MTA", "dns; mx1.relay.example"),
        ("Arrival-Date", "Mon, 24 Nov 2025 14:00:00 +0000"),
    ]
    assert recipient.items() == [
        ("Final-Recipient", "rfc822; r@far.example"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.far.example"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 No such user"),
        ("Last-Attempt-Date", "Mon, 24 Nov 2025 16:00:00 +0000"),
    ]


def test_envid_and_orcpt_come_back() -> None:
    envelope = Envelope("s@crm.example", envid="batch 7=a+b")
    message, recipient = machine(raw(envelope=envelope, recipient=Recipient("r@far.example", "", "rfc822;o@x.example")))
    assert message["Original-Envelope-Id"] == "batch 7=a+b"
    assert recipient["Original-Recipient"] == "rfc822; o@x.example"
    assert recipient["Final-Recipient"] == "rfc822; r@far.example"


def test_only_a_delayed_delivery_says_until_when_it_is_tried() -> None:
    told = {kind: machine(raw(kind, until=NOW + 86400))[1]["Will-Retry-Until"] for kind in KINDS}
    assert told == dict.fromkeys(KINDS) | {"delayed": "Tue, 25 Nov 2025 16:00:00 +0000"}


def test_what_was_never_tried_has_no_last_attempt() -> None:
    _, recipient = machine(raw("expired", evidence=Evidence("queue", error="the queue is suspended"), attempts=0))
    assert recipient["Last-Attempt-Date"] is None
    assert recipient["Remote-MTA"] is None
    assert recipient["Diagnostic-Code"] == "x-relayd; the queue is suspended"


def test_our_own_finding_is_not_given_out_as_a_server_s_reply() -> None:
    _, recipient = machine(raw(evidence=Evidence("dns", Reply(550, "5.1.2", "far.example does not exist"))))
    assert recipient["Diagnostic-Code"] == "x-relayd; 550 5.1.2 far.example does not exist"
    assert recipient["Remote-MTA"] is None


@pytest.mark.parametrize(
    ("mx", "name"),
    [
        ("mx.far.example", "mx.far.example"),
        ("192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("localhost", "localhost"),
    ],
)
def test_a_server_known_by_address_is_named_by_a_literal(mx: str, name: str) -> None:
    _, recipient = machine(raw(evidence=Evidence("connect", error="refused", mx=mx)))
    assert recipient["Remote-MTA"] == f"dns; {name}"


def test_a_reply_of_several_lines_is_one_diagnostic() -> None:
    reply = Reply(554, "5.7.1", "Refused\nsee https://far.example/why\nbye")
    _, recipient = machine(raw(evidence=Evidence("dot", reply, mx="mx.far.example")))
    unfolded = re.sub(r"\r?\n ", " ", recipient["Diagnostic-Code"])
    assert unfolded == "smtp; 554 5.7.1 Refused / see https://far.example/why / bye"


@pytest.mark.parametrize(
    ("kind", "evidence", "code"),
    [
        ("failed", Evidence("rcpt", Reply(550, "", "no")), "5.1.0"),
        ("failed", Evidence("dot", Reply(550, "", "no")), "5.0.0"),
        ("failed", Evidence("rcpt", Reply(552, "", "no")), "5.2.2"),
        ("failed", Evidence("rcpt", Reply(556, "", "no")), "5.1.10"),
        ("failed", Evidence("dot", Reply(554, "", "no")), "5.0.0"),
        ("failed", Evidence("rcpt", Reply(599, "", "no")), "5.0.0"),
        ("failed", Evidence("dns", Reply(550, "5.1.2", "no such domain")), "5.1.2"),
        ("failed", Evidence("dns", error="no such domain"), "5.1.2"),
        ("failed", Evidence("mail", error="the message is too large for the server"), "5.0.0"),
        ("failed", Evidence("dot", error="the connection was lost"), "5.4.2"),
        ("delayed", Evidence("banner", Reply(421, "", "later")), "4.3.2"),
        ("delayed", Evidence("rcpt", Reply(450, "", "later")), "4.2.0"),
        ("delayed", Evidence("rcpt", Reply(451, "4.7.1", "greylisted")), "4.7.1"),
        ("delayed", Evidence("dns", error="time-out"), "4.4.3"),
        ("delayed", Evidence("route", error="none"), "4.4.4"),
        ("delayed", Evidence("connect", error="refused"), "4.4.1"),
        ("delayed", Evidence("dot", error="lost after the final dot"), "4.4.2"),
        ("delayed", Evidence("tls", error="handshake failed"), "4.7.0"),
        ("delayed", Evidence("queue", error="suspended"), "4.0.0"),
        ("expired", Evidence("connect", error="refused"), "4.4.7"),
        ("expired", Evidence("rcpt", Reply(451, "4.7.1", "greylisted")), "4.4.7"),
        ("delivered", Evidence("dot", Reply(250, "2.6.0", "queued")), "2.6.0"),
        ("delivered", Evidence("dot", Reply(250, "", "OK")), "2.0.0"),
        ("delivered", Evidence("dot"), "2.0.0"),
    ],
)
def test_the_status_is_the_peer_s_or_what_code_or_stage_tell(kind: dsn.Kind, evidence: Evidence, code: str) -> None:
    assert dsn.status(kind, evidence) == code


def test_a_malformed_enhanced_code_is_not_passed_on() -> None:
    assert dsn.status("failed", Evidence("dot", Reply(554, "5.1\r\nX: y", "no"))) == "5.0.0"


@pytest.mark.parametrize("stage", Stage.__args__)  # type: ignore[attr-defined]
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_every_stage_has_a_status_and_words(kind: dsn.Kind, stage: Stage) -> None:
    content = raw(kind, evidence=Evidence(stage, error="it went wrong"))
    assert re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", machine(content)[1]["Status"])
    assert "it went wrong" in words(content)


# Words for a person.


def test_a_failure_is_told_in_words_with_the_server_s_reply() -> None:
    assert words(raw()).splitlines() == [
        "This is the mail system at mx1.relay.example.",
        "",
        "Your message could not be delivered to",
        "",
        "    <r@far.example>",
        "",
        "It came here on Mon, 24 Nov 2025 14:00:00 +0000. It will not be tried again.",
        "",
        "There is no such mailbox. Please check the address.",
        "",
        "The mail server mx.far.example answered when it was told the recipient:",
        "",
        "    550 5.1.1 No such user",
        "",
        "Below are the same facts for programs, and your message or its header.",
    ]


@pytest.mark.parametrize(
    ("kind", "changed", "sentence"),
    [
        ("expired", {}, "It was tried 3 times, and the time for it is over. It will not be tried again."),
        ("expired", {"attempts": 1}, "It was tried once, and the time for it is over."),
        ("expired", {"attempts": 0}, "It could not be tried, and the time for it is over."),
        ("delayed", {}, "It will be tried again: you need not send it again."),
        ("delayed", {"until": NOW + 1}, "It will be tried again until Mon, 24 Nov 2025 16:00:01 +0000"),
        ("delivered", {}, "The next server does not report what becomes of it"),
        ("delivered", {"remote_dsn": True}, "That is what the receiving side reports."),
    ],
)
def test_the_reader_learns_what_happens_next(kind: dsn.Kind, changed: dict[str, Any], sentence: str) -> None:
    assert sentence in " ".join(words(raw(kind, **changed)).split())


def test_only_a_failure_is_explained_as_final() -> None:
    assert "no such mailbox" not in words(raw("delayed"))


def test_every_line_of_a_reply_is_quoted_with_its_code() -> None:
    reply = Reply(550, "5.7.1", "Blocked\nSee the list")
    text = words(raw(evidence=Evidence("mail", reply, mx="mx.far.example")))
    assert "    550 5.7.1 Blocked\n    550 5.7.1 See the list\n" in text


def test_a_reply_without_end_is_quoted_in_part() -> None:
    text = words(raw(evidence=Evidence("mail", Reply(550, "", "\n".join("x" * 500)), mx="m")))
    assert text.count("550") == 12


# What comes back of the original.


@pytest.mark.parametrize("kind", ["failed", "expired"])
def test_ret_full_returns_the_whole_message_with_a_failure(kind: dsn.Kind) -> None:
    content = raw(kind, envelope=FULL)
    assert parts(content)[2].get_content_type() == "message/rfc822"
    assert last_part(content) == HEAD + BODY


@pytest.mark.parametrize("kind", ["delayed", "delivered"])
def test_ret_full_does_not_concern_what_is_no_failure(kind: dsn.Kind) -> None:
    content = raw(kind, envelope=FULL)
    assert parts(content)[2].get_content_type() == "text/rfc822-headers"
    assert last_part(content) == HEAD


@pytest.mark.parametrize("ret", ["HDRS", ""])
def test_without_ret_full_only_the_header_comes_back(ret: str) -> None:
    content = raw(envelope=Envelope("s@crm.example", ret=ret))
    assert parts(content)[2].get_content_type() == "text/rfc822-headers"
    assert last_part(content) == HEAD
    assert b"Dear all" not in content


def test_a_message_of_256_kib_comes_back_whole_and_one_byte_more_does_not() -> None:
    body = (b"x" * 62 + b"\r\n") * (dsn.FULL_LIMIT // 64)
    whole = body[: dsn.FULL_LIMIT - len(HEAD)]
    assert last_part(raw(envelope=FULL, original_body=whole)) == HEAD + whole
    larger = raw(envelope=FULL, original_body=whole + b"x")
    assert last_part(larger) == HEAD


def test_a_body_that_is_not_at_hand_leaves_the_header() -> None:
    assert last_part(raw(envelope=FULL, original_body=None)) == HEAD


def test_a_message_without_header_comes_back_behind_an_empty_line() -> None:
    assert last_part(raw(envelope=FULL, original_head=b"")) == b"\r\n" + BODY


def test_an_endless_header_is_cut_at_a_line() -> None:
    line = b"X-Padding: " + b"y" * 87 + b"\r\n"
    returned = last_part(raw(original_head=line * 2000 + b"\r\n"))
    assert 0 < len(returned) <= dsn.HEADERS_LIMIT
    assert len(returned) % len(line) == 0


# What may be beyond ASCII, and where.

EIGHT = HEAD.replace(b"Hello", "Привет".encode())
EIGHT_BODY = "Здравствуйте\r\n".encode()


def test_a_seven_bit_transaction_gets_a_seven_bit_report() -> None:
    content = raw(
        envelope=FULL,
        original_head=EIGHT,
        original_body=EIGHT_BODY,
        evidence=Evidence("rcpt", Reply(550, "", "Нет такого"), mx="mx.far.example"),
    )
    assert content.isascii()
    human, _, original = parts(content)
    assert "    550 Нет такого\n" in words(content)
    assert human["Content-Transfer-Encoding"] == "quoted-printable"
    assert original.get_content_type() == "text/rfc822-headers"
    assert original.get_payload(decode=True) == EIGHT


def test_an_eightbit_transaction_gets_its_message_back_as_it_was() -> None:
    envelope = Envelope("s@crm.example", eightbit=True, ret="FULL")
    content = raw(envelope=envelope, original_body=EIGHT_BODY)
    assert last_part(content) == HEAD + EIGHT_BODY
    assert parsed(content)["Content-Transfer-Encoding"] == "8bit"
    assert parts(content)[2]["Content-Transfer-Encoding"] == "8bit"


def test_a_header_beyond_ascii_is_encoded_unless_smtputf8_allows_it() -> None:
    content = raw(envelope=Envelope("s@crm.example", eightbit=True), original_head=EIGHT)
    assert content.isascii()
    assert parts(content)[2].get_payload(decode=True) == EIGHT


def test_the_machine_part_of_a_plain_report_is_ascii() -> None:
    envelope = Envelope("s@crm.example", eightbit=True)
    evidence = Evidence("rcpt", Reply(550, "", "Нет"), mx="mx.far.example")
    _, recipient = machine(raw(envelope=envelope, evidence=evidence))
    assert recipient["Diagnostic-Code"] == "smtp; 550 \\u041d\\u0435\\u0442"


def test_smtputf8_gets_the_international_report() -> None:
    envelope = Envelope("отправитель@crm.example", smtputf8=True, ret="FULL", envid="№1")
    to = Recipient("получатель@far.example", "", "utf-8;кто@far.example")
    content = raw(envelope=envelope, recipient=to, original_head=EIGHT, original_body=EIGHT_BODY)
    types = [part.get_content_type() for part in parts(content)]
    assert types == ["text/plain", "message/global-delivery-status", "message/global"]
    assert parsed(content)["Content-Type"].params["report-type"] == "global-delivery-status"
    assert "To: <отправитель@crm.example>\r\n".encode() in content
    message, recipient = machine(content)
    assert message["Original-Envelope-Id"] == "№1"
    assert recipient["Original-Recipient"] == "utf-8; кто@far.example"
    assert recipient["Final-Recipient"] == "utf-8; получатель@far.example"
    assert last_part(content) == EIGHT + EIGHT_BODY


def test_smtputf8_without_ret_full_gets_global_headers() -> None:
    content = raw(envelope=WIDE, original_head=EIGHT)
    assert parts(content)[2].get_content_type() == "message/global-headers"
    assert last_part(content) == EIGHT


def test_an_ascii_recipient_keeps_its_type_in_an_international_report() -> None:
    assert machine(raw(envelope=WIDE))[1]["Final-Recipient"] == "rfc822; r@far.example"


@pytest.mark.parametrize(
    ("envelope", "recipient", "head", "needed"),
    [
        (Envelope("s@x.example", smtputf8=True), TO, HEAD, False),
        (Envelope("s@x.example", smtputf8=True), TO, EIGHT, True),
        (Envelope("s@x.example", smtputf8=True), Recipient("р@x.example"), HEAD, True),
        (Envelope("s@x.example", smtputf8=True), Recipient("r@x.example", "", "utf-8;р@x"), HEAD, True),
        (Envelope("с@x.example", smtputf8=True), TO, HEAD, True),
        (Envelope("s@x.example"), TO, EIGHT, False),
    ],
)
def test_a_report_needs_smtputf8_only_where_the_original_had_use_for_it(
    envelope: Envelope, recipient: Recipient, head: bytes, needed: bool
) -> None:
    assert dsn.needs_smtputf8(envelope, recipient, head) is needed
    content = raw(envelope=envelope, recipient=recipient, original_head=head)
    assert (b"message/global" in content) is needed


def test_a_wide_address_in_a_plain_report_is_spelled_in_ascii() -> None:
    _, recipient = machine(raw(recipient=Recipient("é+\\@x.example", "", "utf-8;\\x{E9}ü@x.example")))
    assert recipient["Final-Recipient"] == "utf-8; \\x{E9}\\x{2B}\\x{5C}@x.example"
    assert recipient["Original-Recipient"] == "utf-8; \\x{E9}\\x{FC}@x.example"


def test_what_no_line_may_carry_is_not_returned_whole() -> None:
    for body in (b"bare\nline\r\n", b"bare\rreturn\r\n", b"a\0b\r\n", b"x" * 999 + b"\r\n"):
        assert last_part(raw(envelope=FULL, original_body=body)) == HEAD


def test_a_header_with_a_line_too_long_comes_back_encoded() -> None:
    head = b"Subject: " + b"x" * 2000 + b"\r\n\r\n"
    content = raw(original_head=head)
    assert parts(content)[2].get_payload(decode=True) == head
    assert max(map(len, content.split(b"\r\n"))) <= 998


# Nothing that came from outside makes fields or parts.

FORGED = "x\r\nBcc: v@x.example\r\n\r\n--=_0\r\nContent-Type: text/html\r\n\r\n<b>"


def test_line_breaks_in_what_was_said_make_no_fields() -> None:
    content = raw(
        envelope=Envelope(f"s{FORGED}@x", envid=FORGED),
        recipient=Recipient(f"r{FORGED}@x", "", f"rfc822;{FORGED}"),
        evidence=Evidence("rcpt", Reply(550, "", FORGED), FORGED, mx=FORGED),
    )
    assert [part.get_content_type() for part in parts(content)] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    message, recipient = machine(content)
    for block in (parsed(content), message, recipient):
        assert block["Bcc"] is None
    assert recipient.keys() == [
        "Original-Recipient",
        "Final-Recipient",
        "Action",
        "Status",
        "Remote-MTA",
        "Diagnostic-Code",
        "Last-Attempt-Date",
    ]


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x85", "\u202e", "\u2028", "\udc80"])
def test_control_characters_are_shown_and_not_passed_on(character: str) -> None:
    said = f"a{character}b"
    shown = f"a\\x{ord(character):02x}b"
    for envelope in (Envelope(said, envid=said), Envelope(said + "ж", envid=said, smtputf8=True)):
        evidence = Evidence("rcpt", Reply(550, "", said), mx=said)
        content = raw(envelope=envelope, recipient=Recipient(said, "", f"x;{said}"), evidence=evidence)
        assert character.encode("utf-8", "surrogatepass") not in content
        message, recipient = machine(content)
        assert message["Original-Envelope-Id"] == shown
        assert recipient["Diagnostic-Code"] == f"smtp; 550 {shown}"
        text = words(content)
        assert f"<{shown}>" in text
        assert f"The mail server {shown} answered" in text
        assert f"    550 {shown}\n" in text
        assert f"    {shown}\n" in words(raw(envelope=envelope, evidence=Evidence("connect", error=said)))
        odd = Evidence("rcpt", Reply(550, said, "no"))
        assert f"    550 {shown} no\n" in words(raw(envelope=envelope, evidence=odd))


@pytest.mark.parametrize("envelope", [SENDER, WIDE])
def test_a_word_without_end_is_cut_before_it_is_too_long_for_a_line(envelope: Envelope) -> None:
    content = raw(envelope=envelope, evidence=Evidence("rcpt", Reply(550, "", "é" * 1000), mx="mx.far.example"))
    assert 700 < max(map(len, content.split(b"\r\n"))) <= 998


def test_the_longest_address_is_folded_and_not_cut() -> None:
    address = f"{'a' * 64}@{'.'.join(['d' * 63] * 2 + ['e' * 61])}"
    content = raw(envelope=Envelope(address), recipient=Recipient(address))
    assert machine(content)[1]["Final-Recipient"].replace("\r\n", "") == f"rfc822; {address}"
    assert parsed(content)["To"].addresses[0].addr_spec == address
    assert max(map(len, words(content).splitlines())) <= 78


def test_an_original_that_is_a_report_itself_stays_one_part() -> None:
    inner_head, inner_body = split(raw(envelope=FULL))
    content = raw(envelope=FULL, original_head=inner_head, original_body=inner_body)
    assert len(parts(content)) == 3
    assert last_part(content) == inner_head + inner_body


def test_the_boundary_depends_on_what_it_encloses() -> None:
    one, other = parsed(raw()).get_boundary(), parsed(raw(original_head=HEAD + b"x")).get_boundary()
    assert one != other


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert raw(envelope=FULL) == raw(envelope=FULL)


ANY = st.text(max_size=300)
TEXTS = st.one_of(ANY, ANY.map(lambda t: f"{t}\r\n\r\n--=_{t}"), st.text("é\r\n\t \x85\u2028x", max_size=1500))
BYTES = st.one_of(st.binary(max_size=400), st.lists(st.binary(max_size=80), max_size=20).map(b"\r\n".join))


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    envelope=st.builds(
        Envelope,
        TEXTS,
        eightbit=st.booleans(),
        smtputf8=st.booleans(),
        ret=st.sampled_from(["", "FULL", "HDRS"]),
        envid=TEXTS,
    ),
    recipient=st.builds(Recipient, TEXTS, st.just(""), TEXTS),
    evidence=st.builds(
        Evidence,
        st.sampled_from(Stage.__args__),  # type: ignore[attr-defined]
        st.none() | st.builds(Reply, st.integers(200, 599), TEXTS, TEXTS),
        TEXTS,
        mx=TEXTS,
    ),
    head=BYTES,
    body=st.none() | BYTES,
)
def test_whatever_was_said_the_report_keeps_its_structure(
    kind: dsn.Kind,
    envelope: Envelope,
    recipient: Recipient,
    evidence: Evidence,
    head: bytes,
    body: bytes | None,
) -> None:
    content = raw(
        kind, envelope=envelope, recipient=recipient, evidence=evidence, original_head=head, original_body=body
    )
    utf8 = dsn.needs_smtputf8(envelope, recipient, head)
    assert content.isascii() or utf8 or envelope.eightbit
    assert b"\0" not in content
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)
    assert max(map(len, content.split(b"\r\n"))) <= 998
    own, rest = split(content)
    names = [name for name, _ in fields(own)]
    optional = {b"In-Reply-To", b"References"}
    assert [name for name in names if name not in optional] == OWN_FIELDS
    boundary = re.search(rb'boundary="(=_[0-9a-f]{40})"', own)
    assert boundary
    assert rest.count(b"--" + boundary[1]) == 4
    assert rest.startswith(b"--" + boundary[1] + b"\r\n")
    assert rest.endswith(b"\r\n--" + boundary[1] + b"--\r\n")
    _, human, status, _ = rest.split(b"--" + boundary[1])[:4]
    assert human.startswith(b"\r\nContent-Type: text/plain; charset=utf-8\r\n")
    (human_part,) = [message_from_bytes(human[2:])]
    text = human_part.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert max(map(len, text.decode().split("\r\n"))) <= 78
    blocks = status[2:].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n").split(b"\r\n\r\n")
    assert len(blocks) == 2
    for block, known in zip(blocks, (MESSAGE_FIELDS, RECIPIENT_FIELDS), strict=True):
        found = [name for name, _ in fields(block + b"\r\n")]
        assert set(found) <= known
        assert len(found) == len(set(found))
        assert all(line[:1] in (b" ", *KNOWN_FIRST) for line in block.split(b"\r\n") if line)


OWN_FIELDS = [
    b"From",
    b"To",
    b"Subject",
    b"Date",
    b"Message-ID",
    b"Auto-Submitted",
    b"MIME-Version",
    b"Content-Type",
    b"Content-Transfer-Encoding",
]
MESSAGE_FIELDS = {b"Reporting-MTA", b"Original-Envelope-Id", b"Arrival-Date"}
RECIPIENT_FIELDS = {
    b"Original-Recipient",
    b"Final-Recipient",
    b"Action",
    b"Status",
    b"Remote-MTA",
    b"Diagnostic-Code",
    b"Last-Attempt-Date",
    b"Will-Retry-Until",
}
KNOWN_FIRST = tuple({name[:1] for name in MESSAGE_FIELDS | RECIPIENT_FIELDS})


@given(BYTES, BYTES)
def test_an_original_that_can_be_carried_comes_back_byte_for_byte(head: bytes, body: bytes) -> None:
    clean = re.sub(rb"[\0\r\n]", b" ", head) + b"\r\n\r\n"
    envelope = Envelope("s@x.example", eightbit=True, ret="FULL")
    lines = re.sub(rb"[\0]|\r(?!\n)|(?<!\r)\n", b" ", body)
    content = raw(envelope=envelope, original_head=clean, original_body=lines)
    boundary = re.search(rb'boundary="([^"]+)"', content)
    assert boundary
    assert content.endswith(b"\r\n\r\n" + clean + lines + b"\r\n--" + boundary[1] + b"--\r\n")
