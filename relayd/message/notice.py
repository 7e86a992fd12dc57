"""Notices: what a customer is told in a mail of our own.

In: to whom, about what, lines of text.  Out: one whole message, UTF-8.  RFC 3834 (Auto-Submitted).
"""

from email.header import Header

from relayd.message.trace import date
from relayd.reply import printable


def notice(*, node: str, message_id: str, now: float, to: str, subject: str, lines: list[str]) -> bytes:
    """Whatever is in subject and lines, each stays what it is; ``to`` is a parsed address."""
    title = Header(" ".join(printable(subject, 200).split()), header_name="Subject").encode(linesep="\r\n")
    head = [
        f"From: Mail Delivery System <MAILER-DAEMON@{node}>",
        f"To: <{to}>",
        f"Subject: {title}",
        f"Date: {date(now)}",
        f"Message-ID: {message_id}",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
    ]
    text = [" ".join(printable(line, 900 // 4).splitlines()) for line in lines]
    return ("\r\n".join(head + text) + "\r\n").encode("utf-8", "replace")
