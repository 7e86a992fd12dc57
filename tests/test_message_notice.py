"""Notices: whatever is told, the mail stays one that can be read and sent."""

import email
import email.policy

from hypothesis import given
from hypothesis import strategies as st

from relayd.message.notice import notice


def read(raw: bytes):
    return email.message_from_bytes(raw, policy=email.policy.default)


def made(subject: str = "Суббота", lines: tuple[str, ...] = ("Строка",)) -> bytes:
    return notice(
        node="mx1.relay.example", message_id="<1@mx1.relay.example>", now=0.0, to="a@crm.example", subject=subject,
        lines=list(lines),
    )  # fmt: skip


def test_it_is_from_nobody_who_could_be_answered_by_a_machine():
    told = read(made())
    assert (told["From"], told["To"]) == ("Mail Delivery System <MAILER-DAEMON@mx1.relay.example>", "a@crm.example")
    assert (told["Auto-Submitted"], told["Message-ID"]) == ("auto-generated", "<1@mx1.relay.example>")
    assert (told["Subject"], told.get_content()) == ("Суббота", "Строка\r\n")


@given(st.text(), st.lists(st.text()))
def test_no_text_adds_a_field_or_breaks_a_line(subject, lines):
    raw = made(subject, tuple(lines))
    head, _, body = raw.partition(b"\r\n\r\n")
    assert b"\n" not in raw.replace(b"\r\n", b"") and b"\r" not in raw.replace(b"\r\n", b"")
    assert len([line for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")]) == 9
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert body.count(b"\r\n") == len(lines)
