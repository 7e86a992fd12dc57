"""What the client says in MAIL and RCPT: a transaction, put in the words that the peer's EHLO offers to understand.

In go the text of an EHLO reply (``offered``) and a ``Transaction`` (``commands``); out come ``Capabilities`` and
command lines.  Parameters: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), RET ENVID NOTIFY ORCPT (RFC 3461).
"""

import re

import msgspec

from relayd.envelope import Recipient
from relayd.smtp import xtext

_CONTROL = re.compile("[\x00-\x1f\x7f]")
_SIZE = re.compile("[0-9]{1,18}")
_KEYWORDS = {
    "pipelining": "PIPELINING",
    "eightbit": "8BITMIME",
    "smtputf8": "SMTPUTF8",
    "dsn": "DSN",
    "enhanced": "ENHANCEDSTATUSCODES",
    "chunking": "CHUNKING",
    "starttls": "STARTTLS",
}


class Capabilities(msgspec.Struct, frozen=True):
    """What the peer offers.  ``size``: -1 = SIZE not offered, 0 = no fixed limit, else the limit in octets.
    ``auth`` holds the mechanisms in upper case; ``name`` is what the peer calls itself."""

    name: str = ""
    pipelining: bool = False
    size: int = -1
    eightbit: bool = False
    smtputf8: bool = False
    dsn: bool = False
    enhanced: bool = False
    chunking: bool = False
    starttls: bool = False
    auth: tuple[str, ...] = ()


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """One message to one recipient.  ``content`` is the whole message with CRLF lines, not dot-stuffed; None =
    given in pieces when the peer is ready for it.  ``size`` in octets, 0 = not known."""

    sender: str
    recipient: Recipient
    size: int = 0
    eightbit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    content: bytes | None = None


def offered(text: str) -> Capabilities:
    """What the lines of an EHLO reply offer (RFC 5321 section 4.1.1.1); unknown keywords are passed over."""
    name, *lines = text.split("\n")
    keywords: dict[str, list[str]] = {}
    for line in lines:
        # "AUTH=LOGIN" is an old form that some peers still give beside the right one.
        keyword, *parameters = line.upper().replace("=", " ", 1).split() or [""]
        keywords.setdefault(keyword, []).extend(parameters)
    size = keywords.get("SIZE")
    return Capabilities(
        name=name.split(" ", 1)[0],
        size=-1 if size is None else int(size[0]) if size and _SIZE.fullmatch(size[0]) else 0,
        auth=tuple(keywords.get("AUTH", ())),
        **{field: keyword in keywords for field, keyword in _KEYWORDS.items()},
    )


def commands(transaction: Transaction, capabilities: Capabilities) -> tuple[bytes, bytes]:
    """The MAIL and RCPT commands, with the parameters that the peer offers to take.  Raises ValueError."""
    recipient = transaction.recipient
    mail, rcpt = f"MAIL FROM:<{transaction.sender}>", f"RCPT TO:<{recipient.address}>"
    if capabilities.size >= 0 and transaction.size:
        mail += f" SIZE={transaction.size}"
    if capabilities.eightbit and transaction.eightbit:
        mail += " BODY=8BITMIME"
    if capabilities.smtputf8 and transaction.smtputf8:
        mail += " SMTPUTF8"
    if capabilities.dsn:
        mail += f" RET={transaction.ret}" if transaction.ret else ""
        mail += f" ENVID={xtext.encode(transaction.envid)}" if transaction.envid else ""
        rcpt += f" NOTIFY={recipient.notify}" if recipient.notify else ""
        rcpt += _orcpt(recipient.orcpt, transaction.smtputf8 and capabilities.smtputf8)
    if _CONTROL.search(mail) or _CONTROL.search(rcpt):
        raise ValueError("control characters in an address or its options")
    return f"{mail}\r\n".encode(), f"{rcpt}\r\n".encode()


def _orcpt(orcpt: str, smtputf8: bool) -> str:
    """ORCPT, or nothing where it could not be said.  An address of type utf-8 came in, and goes out, in an encoding of
    its own, whose form beyond ASCII is for SMTPUTF8 alone (RFC 6533 section 3)."""
    kind, _, address = orcpt.partition(";")
    if not address or not (orcpt.isascii() or smtputf8):
        return ""
    return f" ORCPT={kind};{address if kind.lower() == 'utf-8' else xtext.encode(address)}"
