"""What a server session is told first, what it tells, and what it asks: the values between the machine and its runner.

Questions are answered with the session's ``accept`` or ``refuse``; everything else is for information.
"""

import msgspec

from relayd.envelope import Envelope, Recipient
from relayd.reply import Reply
from relayd.smtp.framing import Bare


class ServerSettings(msgspec.Struct, frozen=True):
    """What a listener is.  Sizes in bytes, 0 for none; ``errors`` are the client's faults and refused logins, not the
    recipients that policy refuses; ``commands_without_progress`` begins anew with each accepted message."""

    hostname: str
    service: str = ""
    auth: bool = False
    auth_required: bool = False
    starttls: bool = False
    max_size: int = 50 * 1024 * 1024
    max_recipients: int = 1000
    max_messages: int = 10000
    max_commands_without_progress: int = 100
    max_errors: int = 20
    line_limit: int = 4096
    bare: Bare = "reject"


class Hello(msgspec.Struct, frozen=True):
    """The client said who it is; ``extended`` for EHLO."""

    name: str
    extended: bool


class TransactionReset(msgspec.Struct, frozen=True):
    """The transaction that was open is forgotten, with whatever content had come."""


class Quit(msgspec.Struct, frozen=True):
    """The client said goodbye; the session is closed."""


class StartTLS(msgspec.Struct, frozen=True):
    """Flush what there is to send (the 220), start TLS, then call ``tls_started()``."""


class BodyChunk(msgspec.Struct, frozen=True, gc=False):
    """Content as it comes, CRLF line ends only, dots taken off."""

    data: bytes


class MessageAborted(msgspec.Struct, frozen=True):
    """The machine refuses this message: drop what came of it.  ``reply`` goes out when its end has come."""

    reply: Reply


class AuthProposed(msgspec.Struct, frozen=True):
    """May this login in with this password?"""

    mechanism: str
    login: str
    password: str


class MailProposed(msgspec.Struct, frozen=True):
    """May there be a transaction from this sender ("" the null path)?  The rest is as in Envelope."""

    sender: str
    eightbit: bool = False
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    size: int = 0


class RecipientProposed(msgspec.Struct, frozen=True):
    """May the message go to this recipient?"""

    recipient: Recipient


class MessageStarted(msgspec.Struct, frozen=True):
    """May the content come?  Asked at DATA, and at a message's first BDAT."""

    envelope: Envelope


class MessageEnded(msgspec.Struct, frozen=True, gc=False):
    """All ``size`` bytes of content were given out: is the message taken?  ``accept`` needs the reply."""

    size: int


Question = AuthProposed | MailProposed | RecipientProposed | MessageStarted | MessageEnded
Event = Hello | TransactionReset | Quit | StartTLS | BodyChunk | MessageAborted | Question
