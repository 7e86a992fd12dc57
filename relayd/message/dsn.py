"""Delivery status reports: what a sender is told of a delivery that failed, waits, or went well.

In: the envelope, the recipient, the evidence of the last attempt, the original message.  Out: one whole message of
three parts: words for a person, fields for a machine, the original or its header section.  The report's own envelope
is the caller's: sender "", ``smtputf8`` as ``needs_smtputf8`` says, ``eightbit`` where the report is not ASCII.

RFC 3461 (what the sender asked for), 3464 (the fields), 6522 (multipart/report), 6533 (beyond ASCII), 3463 (status
codes), 3834 (Auto-Submitted).
"""

import re
import textwrap
from binascii import b2a_qp
from collections.abc import Iterable
from hashlib import blake2b
from ipaddress import ip_address
from typing import Literal

from relayd.envelope import Envelope, Recipient
from relayd.message.trace import date
from relayd.outcome import Evidence, Stage
from relayd.reply import Reply, printable

Kind = Literal["failed", "expired", "delayed", "delivered"]

FULL_LIMIT = 256 << 10  # bytes of an original that is returned whole
HEADERS_LIMIT = 64 << 10  # bytes of a header section that is returned
_VALUE_LIMIT = 900  # octets of a field's value: with its name it stays within the 998 of a line, even unfolded
_QUOTED_LINES = 12  # of a server's reply
_WIDTH = 76

_ASKED_BY: dict[Kind, str] = {"failed": "FAILURE", "expired": "FAILURE", "delayed": "DELAY", "delivered": "SUCCESS"}
_UNASKED = "FAILURE,DELAY"  # RFC 3461 section 4.1: without NOTIFY failures must be told, delays may be
_ACTION: dict[Kind, str] = {"failed": "failed", "expired": "failed", "delayed": "delayed", "delivered": "relayed"}
_CLASS: dict[Kind, str] = {"failed": "5", "delayed": "4", "delivered": "2"}

_SENDABLE = re.compile(rb"(?:[^\r\n\0]{0,998}\r\n)*+[^\r\n\0]{0,998}")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_OWN = re.compile(r"[245]\.(\d{1,3}\.\d{1,3}) ")  # what we found ourselves begins with its code
_ENHANCED = re.compile(r"[245]\.(\d{1,3}\.\d{1,3})", re.ASCII)
_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:(?:\r\n)?[ \t]*(<[!-;=?-~]{1,250}>)", re.IGNORECASE | re.MULTILINE)
_NO_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
_WIDE = re.compile("[^\x00-\x7f]")


def wanted(kind: Kind, envelope: Envelope, recipient: Recipient, reports: Literal["none", "sender"]) -> bool:
    """Whether the sender is to be told (RFC 3461 section 4.1); ``reports`` is the stream's own rule and goes first.
    Nobody is told of mail from the null reverse-path: it is itself a report, or wants none."""
    if not envelope.sender or reports == "none":
        return False
    return _ASKED_BY[kind] in (recipient.notify or _UNASKED).split(",")


def needs_smtputf8(envelope: Envelope, recipient: Recipient, original_head: bytes) -> bool:
    """Whether a report is of the internationalised kind (RFC 6533): the original came with SMTPUTF8 and had use for
    it.  Otherwise the report can go to servers that know nothing of it."""
    said = envelope.sender + envelope.envid + recipient.address + recipient.orcpt
    return envelope.smtputf8 and not (said.isascii() and original_head.isascii())


def report(
    kind: Kind,
    *,
    node: str,
    message_id: str,
    now: float,
    envelope: Envelope,
    recipient: Recipient,
    original_head: bytes,
    original_body: bytes | None,
    evidence: Evidence,
    received: float,
    attempts: int,
    until: float = 0.0,
    remote_dsn: bool = False,
    track_id: str = "",
) -> bytes:
    """The report on one recipient, a whole message with CRLF line ends.

    ``message_id`` is the report's own, with its angle brackets; ``original_body`` None where it is too large to be at
    hand; ``now``, ``received`` and ``until`` (the end of the retries, told when delayed) are unix seconds;
    ``track_id`` is the sender's own id of the original.
    ``delivered`` means handed to a server that will report no more (action "relayed"), or with ``remote_dsn`` that the
    remote side itself reported the delivery (action "delivered").  The original is returned whole where a failure is
    told, RET=FULL was asked, it has at most ``FULL_LIMIT`` bytes, and it can be carried; else its header section is.
    The report is ASCII unless the original came with 8BITMIME or needs SMTPUTF8.
    """
    utf8 = needs_smtputf8(envelope, recipient, original_head)
    eightbit = utf8 or envelope.eightbit
    action = "delivered" if kind == "delivered" and remote_dsn else _ACTION[kind]
    code = status(kind, evidence)
    fate = action if kind == "delivered" else kind
    outlook = _outlook(fate, attempts, until)
    text = _text(fate, node, date(received), recipient.address, outlook, _meaning(kind, code), evidence)
    per_message = (
        ("Reporting-MTA", f"dns; {node}"),
        ("Original-Envelope-Id", envelope.envid),
        ("Arrival-Date", date(received)),
    )
    tried = evidence.stage != "queue"
    per_recipient = (
        ("Original-Recipient", _original(recipient.orcpt, utf8)),
        ("Final-Recipient", _final(recipient.address, utf8)),
        ("Action", action),
        ("Status", code),
        ("Remote-MTA", f"dns; {_host(evidence.mx)}" if evidence.mx else ""),
        ("Diagnostic-Code", _diagnostic(evidence)),
        ("Last-Attempt-Date", date(now) if tried else ""),
        ("Will-Retry-Until", date(until) if kind == "delayed" and until else ""),
    )
    whole = kind in ("failed", "expired") and envelope.ret == "FULL"
    original = _whole(original_head, original_body, utf8, eightbit) if whole else None
    family = b"global-delivery-status" if utf8 else b"delivery-status"
    parts = [
        _text_part(b"text/plain; charset=utf-8", text.encode(), eightbit),
        _part(b"message/" + family, _fields(per_message, utf8) + b"\r\n" + _fields(per_recipient, utf8)),
        original or _headers(original_head, utf8),
    ]
    answered = _MESSAGE_ID.search(original_head)
    reference = answered[1].decode("ascii") if answered else ""
    head = (
        ("From", f"Mail Delivery System <MAILER-DAEMON@{node}>"),
        ("To", f"<{envelope.sender}>"),
        ("Subject", _SUBJECT[action]),
        ("Date", date(now)),
        ("Message-ID", message_id),
        ("In-Reply-To", reference),
        ("References", reference),
        ("Auto-Submitted", "auto-replied"),
        ("X-Track-ID", track_id),
        ("MIME-Version", "1.0"),
    )
    return _fields(head, utf8) + _multipart(family, parts)


def status(kind: Kind, evidence: Evidence) -> str:
    """The status code (RFC 3463): the peer's own, else what its reply's code, else what the stage tells.  Its class is
    the one of ``kind``; a delivery that expired is 4.4.7, which is of the class of what it waited for."""
    return "4.4.7" if kind == "expired" else f"{_CLASS[kind]}.{_detail(kind, evidence)}"


def _detail(kind: Kind, evidence: Evidence) -> str:
    reply = evidence.reply
    if reply is None:
        found = _OWN.match(evidence.error)
        if found:
            return found[1]
        return "0.0" if kind == "delivered" else _BY_KIND.get((kind, evidence.stage)) or _BY_STAGE[evidence.stage]
    said = _ENHANCED.fullmatch(reply.enhanced)
    if said:
        return said[1]
    if reply.code == 550 and evidence.stage == "rcpt":
        return "1.0"  # something is wrong with the address; what, the server did not say
    return _BY_CODE.get(reply.code, "0.0")


# Fields for a machine.


def _fields(rows: Iterable[tuple[str, str]], utf8: bool) -> bytes:
    """Header lines, folded; rows without a value are left out.  Whatever a value holds, it stays one field."""
    return b"".join(_field(name, value, utf8) for name, value in rows if value)


def _field(name: str, value: str, utf8: bool) -> bytes:
    safe = printable(value).strip()
    raw = safe.encode("utf-8") if utf8 else safe.encode("ascii", "backslashreplace")
    line = f"{name}: {raw[:_VALUE_LIMIT].decode('utf-8', 'ignore')}"
    # A line break or tab that ``printable`` left becomes a space here.
    folded = textwrap.wrap(line, _WIDTH, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False)
    return "\r\n".join(folded).encode() + b"\r\n"


def _final(address: str, utf8: bool) -> str:
    """The address with its type.  One beyond ASCII has in a plain report the form of RFC 6533 section 3, \\x{HEX}."""
    if address.isascii():
        return f"rfc822; {address}"
    return f"utf-8; {address if utf8 else _NO_QCHAR.sub(_embedded, address)}"


def _original(orcpt: str, utf8: bool) -> str:
    type_, _, address = orcpt.partition(";")
    if not address:
        return ""
    return f"{type_}; {address if utf8 else _WIDE.sub(_embedded, address)}"


def _embedded(match: re.Match[str]) -> str:
    return f"\\x{{{ord(match[0]):X}}}"


def _host(mx: str) -> str:
    """The next hop as RFC 3464 section 2.1.2 names a server: by its name, or its address as a literal."""
    try:
        address = ip_address(mx)
    except ValueError:
        return mx
    return f"[IPv6:{address}]" if address.version == 6 else f"[{address}]"


def _diagnostic(evidence: Evidence) -> str:
    """What the peer said is of type smtp; what we say ourselves has a type of our own."""
    if evidence.reply is None:
        return f"x-relayd; {evidence.error}" if evidence.error else ""
    return f"{'smtp' if evidence.mx else 'x-relayd'}; {evidence.reply}"


# Words for a person.


def _text(fate: str, node: str, sent: str, address: str, outlook: str, meaning: str, evidence: Evidence) -> str:
    paragraphs = [
        _filled(f"This is the mail system at {node}."),
        _filled(f"Your message {_FATE[fate]}"),
        _quoted([f"<{printable(address)}>"]),
        _filled(f"It came here on {sent}. {outlook}"),
        _filled(meaning),
        *_said(evidence),
        _filled("Below are the same facts for programs, and your message or its header."),
    ]
    return "\r\n\r\n".join("\r\n".join(lines) for lines in paragraphs if lines) + "\r\n"


def _outlook(fate: str, attempts: int, until: float) -> str:
    times = {0: "It could not be tried", 1: "It was tried once"}.get(attempts, f"It was tried {attempts} times")
    end = f" until {date(until)}" if until else ""
    return _OUTLOOK[fate].format(times=times, end=end)


def _meaning(kind: Kind, code: str) -> str:
    return _MEANING.get(code.partition(".")[2], "") if kind == "failed" else ""


def _said(evidence: Evidence) -> list[list[str]]:
    when = _WHEN.get(evidence.stage, "")
    reply = evidence.reply
    if reply is None:
        return [_filled(f"What was seen{when}:"), _quoted([printable(evidence.error)])] if evidence.error else []
    who = f"The mail server {_host(printable(evidence.mx))} answered" if evidence.mx else "What was seen"
    return [_filled(f"{who}{when}:"), _quoted(_reply_lines(reply))]


def _reply_lines(reply: Reply) -> list[str]:
    prefix = " ".join(filter(None, (str(reply.code), printable(reply.enhanced, 16))))
    lines = printable(reply.text).split("\n")
    return [f"{prefix} {line}" for line in lines[:_QUOTED_LINES]]


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_on_hyphens=False)


def _quoted(lines: list[str]) -> list[str]:
    indent = "    "
    wrap = textwrap.TextWrapper(_WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return [piece for line in lines for piece in wrap.wrap(line)]


# The MIME structure.


def _multipart(family: bytes, parts: list[bytes]) -> bytes:
    # A boundary made from what it separates: nobody can write a text that holds the hash of a whole around that text.
    boundary = b"=_" + blake2b(b"".join(parts), digest_size=20).hexdigest().encode()
    body = b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts)
    head = (
        b'Content-Type: multipart/report; report-type=%s;\r\n boundary="%s"\r\nContent-Transfer-Encoding: %s\r\n\r\n'
        % (family, boundary, _encoding(body))
    )
    return head + body + b"--%s--\r\n" % boundary


def _part(type_: bytes, content: bytes, encoding: bytes = b"") -> bytes:
    encoding = encoding or _encoding(content)
    return b"Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\n\r\n%s" % (type_, encoding, content)


def _text_part(type_: bytes, content: bytes, eightbit: bool) -> bytes:
    """As it is where it can be carried so, else in quoted-printable."""
    if _sendable(content, eightbit):
        return _part(type_, content)
    quoted = b2a_qp(_LINE_END.sub(b"\n", content), istext=True).replace(b"\n", b"\r\n")
    return _part(type_, quoted, b"quoted-printable")


def _whole(head: bytes, body: bytes | None, utf8: bool, eightbit: bool) -> bytes | None:
    """The original as a part, or None: quoted-printable is forbidden to it, so what cannot be carried stays away."""
    if body is None or len(head) + len(body) > FULL_LIMIT:
        return None
    content = (head or b"\r\n") + body
    return _part(b"message/global" if utf8 else b"message/rfc822", content) if _sendable(content, eightbit) else None


def _headers(head: bytes, utf8: bool) -> bytes:
    if len(head) > HEADERS_LIMIT:
        head = b"".join(head[:HEADERS_LIMIT].rpartition(b"\r\n")[:2])
    return _text_part(b"message/global-headers" if utf8 else b"text/rfc822-headers", head, utf8)


def _sendable(content: bytes, eightbit: bool) -> bool:
    """Whether content can go as it is (RFC 2045 section 2.7, 2.8): its lines short enough and ended by CRLF, no NUL."""
    return (eightbit or content.isascii()) and _SENDABLE.fullmatch(content) is not None


def _encoding(content: bytes) -> bytes:
    return b"7bit" if content.isascii() else b"8bit"


# Tables.  Status codes without their class: "subject.detail" of RFC 3463 section 3.

_BY_CODE = {
    421: "3.2",
    450: "2.0",
    451: "3.0",
    452: "3.1",
    454: "7.0",
    455: "5.4",
    500: "5.1",
    501: "5.4",
    502: "5.1",
    503: "5.1",
    504: "5.4",
    521: "3.2",
    523: "7.10",
    530: "7.0",
    534: "7.9",
    535: "7.8",
    551: "1.6",
    552: "2.2",
    553: "1.3",
    555: "5.4",
    556: "1.10",
}

_BY_STAGE: dict[Stage, str] = {
    "queue": "0.0",
    "route": "4.4",
    "dns": "4.3",
    "source": "4.0",
    "connect": "4.1",
    "banner": "4.2",
    "ehlo": "4.2",
    "starttls": "7.0",
    "tls": "7.0",
    "auth": "7.0",
    "mail": "4.2",
    "rcpt": "4.2",
    "data": "4.2",
    "dot": "4.2",
    "rset": "4.2",
    "report": "0.0",
}

_BY_KIND: dict[tuple[Kind, Stage], str] = {
    ("failed", "dns"): "1.2",
    ("failed", "queue"): "7.1",  # the recipient is on a stop-list
    ("failed", "mail"): "0.0",  # nothing was lost: we saw that the server cannot take this message
}

_SUBJECT = {
    "failed": "Your message could not be delivered",
    "delayed": "Your message is delayed",
    "relayed": "Your message was passed on",
    "delivered": "Your message was delivered",
}

# What became of the message: the kind, or for what went well the action.
_FATE = {
    "failed": "could not be delivered to",
    "expired": "could not be delivered in time to",
    "delayed": "has not been delivered yet to",
    "relayed": "was passed on to the next mail server for",
    "delivered": "was delivered to",
}

_OUTLOOK = {
    "failed": "It will not be tried again.",
    "expired": "{times}, and the time for it is over. It will not be tried again.",
    "delayed": "{times} so far. It will be tried again{end}: you need not send it again.",
    "relayed": "The next server does not report what becomes of it: this is the last you hear of it from here.",
    "delivered": "That is what the receiving side reports.",
}

_MEANING = {
    "1.1": "There is no such mailbox. Please check the address.",
    "1.2": "There is no such mail domain. Please check the part of the address behind the @.",
    "1.10": "That domain takes no mail.",
    "2.1": "That mailbox is closed.",
    "2.2": "The mailbox is full.",
    "2.3": "The message is too large for that mailbox.",
    "3.4": "The message is too large for that server.",
    "7.1": "The receiving side refuses this message by its own rules.",
}

_WHEN: dict[Stage, str] = {
    "route": " when a way to its server was looked for",
    "dns": " when its mail servers were looked up",
    "source": " when a connection was made",
    "connect": " when a connection was made",
    "banner": " when the conversation began",
    "ehlo": " when the conversation began",
    "starttls": " when the connection was to be encrypted",
    "tls": " when the connection was to be encrypted",
    "auth": " when we logged in",
    "mail": " when it was told the sender",
    "rcpt": " when it was told the recipient",
    "data": " when it was given the message",
    "dot": " when it was given the message",
}
