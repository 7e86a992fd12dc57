"""Messages, what SMTP says around them, and the deliveries they become.

RFC 5321 (envelope), 3461 (DSN), 6152 (8BITMIME), 6531 (SMTPUTF8).
"""

import msgspec


class Recipient(msgspec.Struct, frozen=True, omit_defaults=True):
    """One accepted RCPT.  ``notify`` is "" (not said), "NEVER" or a list; ``orcpt`` the decoded "type;address"."""

    address: str
    notify: str = ""
    orcpt: str = ""


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """One MAIL transaction.  ``sender`` "" is the null reverse-path.  ``size`` is what was declared, 0 if nothing."""

    sender: str
    recipients: tuple[Recipient, ...] = ()
    eightbit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    size: int = 0


PLACE = "<>"  # where a token goes: no address and no URI between angle brackets has it


class Returns(msgspec.Struct, frozen=True, array_like=True):
    """Where what comes back of a message goes, as it was at reception: the domain of its return path, and the id of the
    key of its tokens.  ``unsubscribe`` has List-Unsubscribe (whole lines, ``PLACE`` for the token), "" for none."""

    domain: str
    key: int
    unsubscribe: str = ""


class Edits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What relayd changes in a message's header section: fields put in front (whole lines, CRLF each), the names of
    fields left out, and the DKIM signature over the result (whole fields), which goes in front of it all.  Kept beside
    the original, applied by ``message.render``.  ``unsigned``: the body's hash, of a message that waits for its key.
    ``returns`` None: what comes back goes to the sender."""

    prepend: bytes = b""
    drop: tuple[str, ...] = ()
    signature: bytes = b""
    unsigned: bytes = b""
    returns: Returns | None = None


class Steering(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What the sender asked for in headers (``message.steering`` reads them).  ``send_at`` and ``expire`` are unix
    seconds, 0 where nothing was said; ``window`` is the text of a ``message.window``; ``track`` is "" (as the stream
    says), "none", "opens", "clicks" or "all"; ``key`` is the idempotency key."""

    track_id: str = ""
    stream: str = ""
    client: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    send_at: float = 0.0
    window: str = ""
    expire: float = 0.0
    track: str = ""
    key: str = ""


UNSTEERED = Steering()


class Message(msgspec.Struct, frozen=True):
    """What was submitted.  ``head`` is the original's header section with its empty line; ``body`` the rest, or None
    where it lies in a file of its own; ``size`` counts both.  ``received`` is unix seconds.  ``payer`` is the account
    that was charged for it, "" if nobody was."""

    id: int
    received: float
    account: str
    connection: str
    stream: str
    envelope: Envelope
    edits: Edits
    head: bytes
    body: bytes | None
    size: int
    message_id: str = ""
    client: str = ""
    eightbit: bool = False
    payer: str = ""
    steering: Steering = UNSTEERED


class Delivery(msgspec.Struct):
    """One recipient's copy of a message, with its own life in queue ``queue``.  ``source`` and ``last`` are those of
    the last attempt: the source it went by and what was seen, in words; ``told``: its sender knows of the delay."""

    id: int
    message: Message
    recipient: Recipient
    queue: str
    due: float
    attempts: int = 0
    source: str = ""
    last: str = ""
    told: bool = False


class Marks(msgspec.Struct, frozen=True, gc=False):
    """What one delivery has for itself (``returnpath.marks`` makes it): the return path it leaves with, our field that
    names it, in front of all and not signed, and its List-Unsubscribe, signed with the rest."""

    sender: str
    trace: bytes = b""
    unsubscribe: bytes = b""


FALLBACK = "fallback:"  # and a name, in a queue's name instead of a domain: mail that goes by that fallback
POOL = "pool:"  # and a name and a colon, in front of the domain: mail that an operator has moved to that pool


def queue_name(account: str, stream: str, domain: str, pool: str = "") -> str:
    """The name of the scheduled queue of (account, stream, domain): ``account/stream/domain``; of what was moved to a
    pool ``account/stream/pool:POOL:domain``."""
    return f"{account}/{stream}/{POOL}{pool}:{domain}" if pool else f"{account}/{stream}/{domain}"


def queue_parts(name: str) -> tuple[str, str, str, str]:
    """(account, stream, domain, pool or "") of a queue's name.  Names have no slash and no colon, domains no slash."""
    account, stream, domain = name.split("/", 2)
    if not domain.startswith(POOL):
        return account, stream, domain, ""
    pool, _, domain = domain.removeprefix(POOL).partition(":")
    return account, stream, domain, pool
