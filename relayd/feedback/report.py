"""What a returned message tells, in one form for all ways of telling it.  All text has gone through ``printable``."""

from typing import Literal

import msgspec

from relayd.outcome import Stage

Kind = Literal["bounce", "delay", "success", "auto-reply", "complaint", "unsubscribe", "challenge", "other"]
Action = Literal["failed", "delayed", "delivered", "relayed", "expanded", ""]


class Recipient(msgspec.Struct, frozen=True, omit_defaults=True):
    """One recipient of ours that a report names (RFC 3464 section 2.3).  ``final`` is "" where it names none: only a
    token tells who it was.  ``status`` is "" and ``code`` 0 where the report gives none; ``diagnostic`` is the remote
    server's words, or the reporter's where only those are known; ``stage`` is which command they answered."""

    final: str = ""
    original: str = ""
    action: Action = ""
    status: str = ""
    code: int = 0
    diagnostic: str = ""
    remote_mta: str = ""
    stage: Stage | None = None

    @property
    def address(self) -> str:
        """The address that we sent to, as far as the report knows it."""
        return self.original or self.final


class Complaint(msgspec.Struct, frozen=True, omit_defaults=True):
    """A feedback report's fields (RFC 5965 section 3, RFC 6591); ``type`` "abuse" where the reporter names none.
    Recipients and addresses may be redacted: only a token of ours tells whose they are."""

    type: str = "abuse"
    user_agent: str = ""
    version: str = ""
    arrival_date: str = ""
    source_ip: str = ""
    incidents: int = 1
    mail_from: str = ""
    envelope_id: str = ""
    message_id: str = ""
    recipients: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()
    authentication: tuple[str, ...] = ()


class Clue(msgspec.Struct, frozen=True):
    """Something that may hold a token of ours.  ``where``: envelope, to, original-mail-from, or the name of a field of
    the original; only ``envelope`` and ``to`` are of the report itself, the others anyone may have written."""

    where: str
    value: str


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came back.  ``cut`` says that a limit kept part of it from being read."""

    kind: Kind
    recipients: tuple[Recipient, ...] = ()
    complaint: Complaint | None = None
    clues: tuple[Clue, ...] = ()
    subject: str = ""
    reporter: str = ""
    cut: bool = False
