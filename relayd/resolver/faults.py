"""How a look-up can end badly.  Each fault carries the reply that an operator, a bounce and a record show.

Only ``LookupFailed`` is transient: the DNS said nothing definite.  All others are what the domain's owner published.
"""

from typing import ClassVar

from relayd.reply import Reply, printable


class ResolveError(Exception):
    """The look-up gave nothing to connect to; ``reply`` says what and why."""

    code: ClassVar[int] = 451
    enhanced: ClassVar[str] = "4.4.3"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(self.code, self.enhanced, printable(text))

    def again(self) -> "ResolveError":
        """A fresh copy to raise: one object raised over and over would collect the traceback of every raise."""
        return type(self)(self.args[0])


class LookupFailed(ResolveError):
    """No server gave a usable answer, or none was asked for want of room.  Transient, 451 4.4.3."""


class NoSuchDomain(ResolveError):
    """The name does not exist, or cannot be the name of a domain at all.  Permanent, 550 5.1.2."""

    code = 550
    enhanced = "5.1.2"


class NoMail(ResolveError):
    """The domain says with a null MX that it takes no mail.  Permanent, 556 5.1.10 (RFC 7505 section 4.2)."""

    code = 556
    enhanced = "5.1.10"


class NoRoute(ResolveError):
    """The domain exists, but no host of it has an address.  Permanent, 550 5.4.4 (RFC 5321 section 5.1)."""

    code = 550
    enhanced = "5.4.4"


class MailLoop(ResolveError):
    """The best host for the domain is this relay itself.  Permanent, 554 5.4.6 (RFC 5321 section 5.1)."""

    code = 554
    enhanced = "5.4.6"
