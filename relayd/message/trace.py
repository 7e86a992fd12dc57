"""Fields that relayd adds: Received (RFC 5321 section 4.4), Date and Message-ID (RFC 5322 section 3.6)."""

from datetime import UTC, datetime
from functools import lru_cache

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=4)
def _date_of_second(second: int) -> str:
    t = datetime.fromtimestamp(second, UTC)
    return f"{DAYS[t.weekday()]}, {t.day} {MONTHS[t.month - 1]} {t.year} {t:%H:%M:%S} +0000"


def date(now: float) -> str:
    """A moment (unix seconds) as RFC 5322 writes it, in UTC."""
    return _date_of_second(int(now))


def received(node: str, queue_id: str, protocol: str, helo: str, peer: str, recipient: str, now: float) -> bytes:
    """The Received field of one message.  ``recipient`` "" leaves out the ``for``: it may only be told to itself."""
    literal = f"IPv6:{peer}" if ":" in peer else peer
    target = f"\r\n\tfor <{recipient}>" if recipient else ""
    field = f"Received: from {safe_name(helo)} ([{literal}])\r\n\tby {node} (relayd) with {protocol} id {queue_id}"
    return f"{field}{target};\r\n\t{date(now)}\r\n".encode()


@lru_cache(maxsize=1024)  # a session says it once, and all its messages tell of it
def safe_name(helo: str) -> str:
    """What a client called itself, fit for a header: whatever it said, it cannot begin a field or a comment."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in ".-_:[]") else "?" for c in helo[:255])
    return kept or "unknown"


def protocol(*, extended: bool, tls: bool, auth: bool, utf8: bool) -> str:
    """The ``with`` keyword: RFC 3848, and RFC 6531 for UTF8."""
    if utf8:
        return f"UTF8SMTP{'S' * tls}{'A' * auth}"
    return f"ESMTP{'S' * tls}{'A' * auth}" if extended else "SMTP"
