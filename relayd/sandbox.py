"""The sandbox: a receiver at hand for first steps and for tests, in the place of the world's mail servers.

A door for ``listener``: it takes mail for anybody and keeps it in a Maildir, with the envelope written on top of each
message.  In: SMTP sessions' questions.  Out: replies and files.  A recipient whose local part begins with the name of a
character is answered as such a provider would (RFC 5321, RFC 3463); digits behind the name are its number:

    greylist[N]@   451 4.7.1 at first, accepted when N seconds have gone by (1)
    full@          452 4.2.2 mailbox full for now          fullhard@   552 5.2.2 mailbox full for good
    unknown@       550 5.1.1 no such user                  blocked@    550 5.7.1 refused as spam, with a page to read
    slow[N]@       answers the final dot after N seconds (10; at most 600)
    busy[N]@       421 4.7.0 once the session has sent N messages (1)
    drop@          the message is kept, but the connection ends after the final dot, without an answer
"""

import os
import re
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.envelope import Envelope, Recipient
from relayd.reply import Reply, printable
from relayd.smtp.events import AuthProposed, MailProposed, ServerSettings

if TYPE_CHECKING:
    from relayd.listener import Session

Answer = Callable[[Reply], None]

LONGEST_WAIT = 600
_GREYLISTED = 10_000  # (sender, recipient) pairs remembered, the oldest forgotten first
_CHARACTER = re.compile(r"(greylist|fullhard|full|unknown|blocked|slow|busy|drop)(\d{0,6})", re.IGNORECASE | re.ASCII)
_DEFAULT_NUMBER = {"greylist": 1, "slow": 10, "busy": 1}

# Characters that have one thing to say, at RCPT.
_REFUSALS = {
    "full": Reply(452, "4.2.2", "Mailbox full; try again later"),
    "fullhard": Reply(552, "5.2.2", "Mailbox full; the owner has been gone for a year"),
    "unknown": Reply(550, "5.1.1", "User unknown"),
    "blocked": Reply(550, "5.7.1", "Message refused as spam; see https://sandbox.invalid/blocked?ip=192.0.2.1"),
}
_GREYLIST = Reply(451, "4.7.1", "Greylisted; try again later")
_BUSY = Reply(421, "4.7.0", "Too many messages on this connection; try again later")
_NO_AUTH = Reply(535, "5.7.8", "Nobody logs in at the sandbox")
_NO_ROOM = Reply(452, "4.3.1", "The sandbox cannot write; its log says why")

_log = Logger()


class Character(NamedTuple):
    """What a recipient plays: "" for an ordinary mailbox."""

    name: str
    number: int = 0


def character(address: str) -> Character:
    """The character of a recipient's address."""
    match = _CHARACTER.match(address)
    if match is None:
        return Character("")
    name = match[1].lower()
    return Character(name, int(match[2] or _DEFAULT_NUMBER.get(name, 0)))


class Sandbox:
    """The door.  Keeps at most ``keep`` messages and ``keep_bytes`` bytes of them, the latest always among them."""

    def __init__(
        self,
        clock: IReactorTime,
        maildir: str | Path,
        settings: ServerSettings,
        *,
        keep: int = 1000,
        keep_bytes: int = 256 * 2**20,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._maildir = Maildir(Path(maildir), keep, keep_bytes)
        self._greylist: OrderedDict[tuple[str, str], float] = OrderedDict()
        # Each character with more than one answer to RCPT.
        self._moods = {"greylist": self._greylisted, "busy": self._busy}

    def connected(self, session: "Session") -> Reply | None:
        return None

    def barred(self, session: "Session") -> Reply | None:
        return None

    def disconnected(self, session: "Session") -> None:
        pass

    def authenticate(self, session: "Session", proposal: AuthProposed, answer: Callable[[Reply | None], None]) -> None:
        answer(_NO_AUTH)

    def mail(self, session: "Session", proposal: MailProposed) -> Reply | None:
        session.state = proposal.sender
        return None

    def recipient(self, session: "Session", recipient: Recipient, answer: Callable[[Reply | None], None]) -> None:
        found = character(recipient.address)
        mood = self._moods.get(found.name)
        answer(mood(session, recipient, found.number) if mood else _REFUSALS.get(found.name))

    def begin(self, session: "Session", envelope: Envelope) -> "Receiver | Reply":
        try:
            return Receiver(self._clock, self._maildir, session, envelope)
        except OSError as error:
            _log.error("sandbox: {error}", error=error)
            return _NO_ROOM

    def _greylisted(self, session: "Session", recipient: Recipient, wait: int) -> Reply | None:
        key = (str(session.state).lower(), recipient.address.lower())
        now = self._clock.seconds()
        first = self._greylist.setdefault(key, now)
        if len(self._greylist) > _GREYLISTED:
            self._greylist.popitem(last=False)
        # The first try is refused even where N is 0.
        return _GREYLIST if first == now or now - first < wait else None

    def _busy(self, session: "Session", recipient: Recipient, most: int) -> Reply | None:
        return _BUSY if session.number >= most else None


class Receiver:
    """One message on its way into the Maildir."""

    def __init__(self, clock: IReactorTime, maildir: "Maildir", session: "Session", envelope: Envelope) -> None:
        self._clock = clock
        self._session = session
        self._maildir = maildir
        self._characters = [character(recipient.address) for recipient in envelope.recipients]
        self._failed = False
        self._later: IDelayedCall | None = None
        self._name, self._file = maildir.create(clock.seconds())
        self.write(_stamp(session, envelope, clock.seconds()))

    def write(self, chunk: bytes) -> None:
        if self._failed:
            return
        try:
            self._file.write(chunk)
        except OSError as error:
            _log.error("sandbox: {error}", error=error)
            self._failed = True

    def end(self, size: int, answer: Answer) -> None:
        """Keeps the message, then answers as its recipients' characters do."""
        reply = self._kept()
        plays = {one.name for one in self._characters}
        if "drop" in plays:
            self._session.drop()
        elif "slow" in plays:
            wait = max(one.number for one in self._characters if one.name == "slow")
            self._later = self._clock.callLater(min(wait, LONGEST_WAIT), answer, reply)
        else:
            answer(reply)

    def abort(self) -> None:
        """Forgets the message; one that was kept already, in a session that ended before its answer, stays."""
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._maildir.discard(self._name, self._file)

    def _kept(self) -> Reply:
        try:
            if not self._failed:
                self._maildir.keep(self._name, self._file)
                return Reply(250, "2.0.0", f"Kept as {self._name}")
        except OSError as error:
            _log.error("sandbox: {error}", error=error)
        self.abort()
        return _NO_ROOM


class Maildir:
    """A bounded Maildir.  Messages that a mail reader moved out of ``new`` are its owner's, and not counted."""

    def __init__(self, path: Path, keep: int, keep_bytes: int) -> None:
        for part in ("tmp", "new", "cur"):
            (path / part).mkdir(parents=True, exist_ok=True)
        for left in (path / "tmp").glob("*.sandbox"):
            left.unlink(missing_ok=True)
        self._path = path
        self._keep, self._keep_bytes = keep, keep_bytes
        self._serial = count(1)
        self._kept = deque((file.name, file.stat().st_size) for file in sorted((path / "new").glob("*.sandbox")))
        self._bytes = sum(size for _, size in self._kept)

    def create(self, now: float) -> tuple[str, BinaryIO]:
        """A new file's name and the file, open, in ``tmp``.  Names sort by time."""
        name = f"{now:017.6f}.P{os.getpid()}Q{next(self._serial):06}.sandbox"
        return name, open(self._path / "tmp" / name, "xb")

    def keep(self, name: str, file: BinaryIO) -> None:
        """Closes the file and moves it into ``new``; the oldest go.  Raises OSError."""
        size = file.tell()
        file.close()
        os.rename(self._path / "tmp" / name, self._path / "new" / name)
        self._kept.append((name, size))
        self._bytes += size
        while len(self._kept) > 1 and (len(self._kept) > self._keep or self._bytes > self._keep_bytes):
            oldest, size = self._kept.popleft()
            self._bytes -= size
            (self._path / "new" / oldest).unlink(missing_ok=True)

    def discard(self, name: str, file: BinaryIO) -> None:
        with suppress(OSError):  # what could not be flushed is not wanted either
            file.close()
        (self._path / "tmp" / name).unlink(missing_ok=True)


def _stamp(session: "Session", envelope: Envelope, now: float) -> bytes:
    """The envelope as header fields, for a reader to see on top of the message."""
    how = f"{'ESMTP' if session.extended else 'SMTP'}{' over TLS' if session.secure else ''}"
    asked = {
        "SMTPUTF8": envelope.smtputf8,
        "BODY=8BITMIME": envelope.eightbit,
        f"RET={envelope.ret}": envelope.ret,
        f"ENVID={envelope.envid}": envelope.envid,
    }
    fields = [
        ("Return-Path", f"<{envelope.sender}>"),
        *(("Delivered-To", one.address) for one in envelope.recipients),
        ("X-Sandbox-Time", formatdate(now, usegmt=True)),
        ("X-Sandbox-Client", f"{session.helo} [{session.peer}], {how}"),
        ("X-Sandbox-Asked", ", ".join(words for words, said in asked.items() if said)),
        *(("X-Sandbox-Notify", f"{one.address} {one.notify}") for one in envelope.recipients if one.notify),
    ]
    # The values are a peer's: no line of theirs may become a line of ours.
    lines = (f"{name}: {_flat(value)}\r\n" for name, value in fields if value)
    return "".join(lines).encode("utf-8", "backslashreplace")


def _flat(value: str) -> str:
    return printable(value).replace("\n", "\\n").replace("\t", " ")
