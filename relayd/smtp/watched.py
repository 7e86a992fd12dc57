"""What is said in a session, for those who look into it: what a machine notes, and how that reads.

In: the items that machines append to their logs.  Out: lines of text without secrets, fit for a terminal.  An item is
what the client said (bytes), what the server answered (a stage and a reply), the time (a float), the size of a content
(an int) or a note (text).  A client machine notes its last items always: they are what is left of a failed attempt.  A
server machine notes nothing until it is made a ``WatchedSession``.
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from relayd.reply import Reply, printable
from relayd.smtp.events import BodyChunk, Event, MessageAborted, MessageEnded
from relayd.smtp.server import VERBS, ServerSession
from relayd.smtp.transaction import Transaction

Item = bytes | str | float | int | tuple[str, Reply | bytes]
HIDDEN = b"(secret)"
_HEAD = 64 << 10  # bytes of a header section that are looked at
_FIELDS = 40  # of it that are named
_LINE = 1000  # characters of a line
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_ADDRESS = re.compile(rb"(MAIL FROM|RCPT TO):[ \t]*<([^>]*)>", re.IGNORECASE)


class Brief(deque[Any]):
    """The last items of a client's session: each is what is there already, so noting costs next to nothing."""

    def content(self, transaction: Transaction) -> None:
        self.append(transaction.size)


class WatchedSession(ServerSession):
    """A server's session whose every line is noted.  A running one becomes it, and is it no more, by its ``__class__``:
    so nobody who is not watched pays for it."""

    log: Any
    _head: bytearray | None = None
    _size = 0

    def watch(self, log: Any) -> None:
        self.log = log

    def _obey(self, line: bytes) -> None:
        self.log.append(HIDDEN if self._exchange is not None else masked(line))
        super()._obey(line)

    def data_to_send(self) -> bytes:
        data = super().data_to_send()
        if data:
            self.log.append(("", data))
        return data

    def next_event(self) -> Event | None:
        event = super().next_event()
        if isinstance(event, BodyChunk):
            self._head = bytearray() if self._head is None else self._head
            self._head += event.data[: _HEAD - len(self._head)]
            self._size += len(event.data)
        elif isinstance(event, MessageEnded | MessageAborted):
            broken = "" if isinstance(event, MessageEnded) else ", broken off"
            self.log.append(f"({described(bytes(self._head or b''), self._size)}{broken})")
            self._head, self._size = None, 0
        return event

    def tls_started(self) -> None:
        super().tls_started()
        self.log.append("(TLS from here on)")


def masked(line: bytes) -> bytes:
    """A client's line as it may be shown.  What is no command may be a password that came a moment too late."""
    words = line.split(None, 1)
    verb = words[0].upper().decode("latin-1") if words else ""
    if verb not in VERBS:
        return b"(no command, %d bytes)" % len(line)
    return b"AUTH " + HIDDEN if verb == "AUTH" else line


def described(head: bytes, size: int) -> str:
    """A content without what is in it: how large it is, and its header fields with their sizes."""
    head = head.partition(b"\r\n\r\n")[0]
    fields: list[list[Any]] = []
    for line in head.split(b"\r\n"):
        found = _NAME.match(line)
        if found:
            fields.append([printable(found[1], 60), len(line) + 2])
        elif fields and line[:1] in b" \t":
            fields[-1][1] += len(line) + 2
        else:
            break
    names = ", ".join(f"{name} {length}" for name, length in fields[:_FIELDS])
    more = f" and {len(fields) - _FIELDS} more" if len(fields) > _FIELDS else ""
    return f"content of {size} bytes" + (f"; header fields: {names}{more}" if names else "")


def shown(item: Item) -> Iterator[tuple[str, str]]:
    """(C for the client, S for the server, "" for neither; what was said) of each line of an item."""
    if isinstance(item, bytes):
        yield from (("C", printable(line, _LINE)) for line in item.removesuffix(b"\r\n").split(b"\r\n"))
    elif isinstance(item, tuple):
        raw = item[1] if isinstance(item[1], bytes) else item[1].encode()
        yield from (("S", printable(line, _LINE)) for line in raw.removesuffix(b"\r\n").split(b"\r\n"))
    elif isinstance(item, str):
        yield "", printable(item, _LINE)
    elif isinstance(item, int):
        yield "C", f"(content of {item} bytes)"


def lines(items: Iterable[Item], since: float) -> list[str]:
    """As text; the times, of the last thing heard, are seconds after ``since``."""
    found, at = [], ""
    for item in items:
        if isinstance(item, float):
            at = f"{max(0.0, item - since):8.3f} "
        else:
            found += [f"{at}{f'{who}: ' if who else ''}{text}" for who, text in shown(item)]
    return found


def recipient_of(item: Item) -> Iterator[str]:
    """Those that a client names in it."""
    if isinstance(item, bytes):
        yield from (a.decode("utf-8", "replace") for verb, a in _ADDRESS.findall(item) if verb.upper() == b"RCPT TO")


def own(items: Iterable[Item], recipient: str) -> list[Item]:
    """Of what a client's machine noted: how the session began, and its last transaction to this recipient.  Of nobody
    else's, whose addresses these are not to be seen with; with PIPELINING they stand between each other."""
    opening: list[Item] = []
    mine: list[Item] = []
    pending: list[Item] = []  # a MAIL, and its answer, of which it is not known yet to whom
    stage, at = "", 0.0
    for item in items:
        if isinstance(item, float):
            at = item
            (opening if stage == "opening" else mine if stage in ("ours", "answered") else []).append(item)
            continue
        if not stage:  # of a long session the beginning is not there any more
            stage = "opening" if isinstance(item, tuple) and item[0] == "banner" else "others"
            opening += [at] if at else []
        if isinstance(item, bytes) and item.startswith((b"MAIL ", b"RCPT ", b"RSET")):
            to = list(recipient_of(item))
            if recipient in to:
                mine = [*([at] if at else []), *pending, item]
                stage, pending = ("answered" if pending else "ours"), []
            elif not to and item.startswith(b"MAIL "):
                stage, pending = "others", [item]
            elif stage == "opening":
                stage = "others"
        elif stage == "opening":
            opening.append(item)
        elif isinstance(item, tuple):
            if pending and item[0] == "mail":
                pending.append(item)
            elif stage == "answered" and item[0] in ("mail", "rset"):
                stage = "others"
            elif stage == "answered" or (stage == "ours" and item[0] in ("mail", "rcpt")):
                mine.append(item)
                stage = "others" if item[0] == "dot" else "answered"
        elif stage in ("ours", "answered"):
            mine.append(item)
    return opening + mine
