"""The outcome of one attempt at one delivery, with its evidence: made once, by the session that saw it."""

from typing import Literal

import msgspec

from relayd.reply import Reply

Kind = Literal["delivered", "transient", "permanent", "expired", "cancelled", "suppressed", "unknown"]

# Where in the walk to the peer it happened, in order (REQUIREMENTS U3); "report": told later, of no stage that we know.
Stage = Literal[
    "queue",
    "route",
    "dns",
    "source",
    "connect",
    "banner",
    "ehlo",
    "starttls",
    "tls",
    "auth",
    "mail",
    "rcpt",
    "data",
    "dot",
    "rset",
    "report",
]


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was seen.  ``mx`` is the host name (or static next hop), ``peer`` and ``local`` are "address:port";
    ``seconds`` is the time from the start of the attempt, ``session`` names the SMTP session, ``nth`` counts in it,
    ``cls`` is what a failed reply is taken for (``classify.Class``); ``site`` is the destination's provider, or its
    mail hosts where it is nobody's we know by name."""

    stage: Stage
    reply: Reply | None = None
    error: str = ""
    source: str = ""
    mx: str = ""
    peer: str = ""
    local: str = ""
    tls: str = ""
    seconds: float = 0.0
    session: str = ""
    nth: int = 0
    cls: str = msgspec.field(default="", name="class")
    site: str = ""

    def words(self) -> str:
        """One line for an operator: what was said, or what went wrong."""
        return str(self.reply) if self.reply else self.error


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the attempt, and what was seen of it."""

    kind: Kind
    evidence: Evidence


def judged(reply: Reply, evidence: Evidence) -> Outcome:
    """The outcome that a final reply means, by its first digit alone (RFC 5321 section 4.2.1)."""
    kind: Kind = "delivered" if reply.code < 300 else "permanent" if reply.code >= 500 else "transient"
    return Outcome(kind, evidence)
