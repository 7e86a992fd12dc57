"""What a client has sent and the server has not yet read: taken line by line for commands, as a whole for content.

In: bytes as they arrive.  Out: lines without their CRLF, or a LineFault for a line that must not be obeyed, in whole or
in part (RFC 5321 sections 2.3.8 and 4.5.3.1.4).  Holds at most one unfinished line beside what waits for its turn.
"""

from relayd import catalogue
from relayd.reply import Reply
from relayd.smtp.framing import Bare

AUTH_LINE = 12288  # RFC 4954 section 4


class LineFault(Exception):
    """``reply`` answers the line; ``verb`` is its first word's first four bytes, in capitals."""

    def __init__(self, reply: Reply, line: bytes) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.verb = line.lstrip()[:4].upper()


class Input:
    """The bytes in waiting.  ``limit`` bounds a line, AUTH's lines apart."""

    __slots__ = ("_buffer", "_limit", "_position", "_strict", "_swallowing", "_tainted")

    def __init__(self, limit: int, bare: Bare) -> None:
        self._limit = limit
        self._strict = bare == "reject"
        self.clear()

    def __len__(self) -> int:
        return len(self._buffer) - self._position

    def clear(self) -> None:
        """Forgets everything."""
        self._buffer = b""
        self._position = 0
        self._tainted = False  # a part of the line that is being read ended with a bare LF
        self._swallowing = False  # the line that is being read was too long

    def feed(self, data: bytes) -> None:
        """More has come."""
        if self._position < len(self._buffer):
            data = self._buffer[self._position :] + data
        self._buffer = data
        self._position = 0

    def take(self) -> bytes:
        """Everything there is, as content."""
        data = self._buffer[self._position :] if self._position else self._buffer
        self._buffer = b""
        self._position = 0
        return data

    def line(self, auth: bool) -> bytes | None:
        """The next line; None when it is not complete.  ``auth``: within an AUTH dialogue.  Raises LineFault."""
        while True:
            buffer, start = self._buffer, self._position
            end = buffer.find(b"\n", start)
            if end < 0:
                if self._swallowing or len(buffer) - start > self._limit_at(start, auth):
                    self._swallow(buffer[start : start + 16])
                return None
            self._position = end + 1
            crlf = end > start and buffer[end - 1] == 13
            line = buffer[start : end - 1] if crlf else buffer[start:end]
            whole = crlf or not self._strict
            if not self._swallowing:
                break
            self._swallowing = not whole
        # A line with a bare LF in it is one line to some and several to others: no part of it is obeyed.
        tainted, self._tainted = self._tainted, not whole
        if tainted or not whole or b"\r" in line or 0 in line:
            raise LineFault(catalogue.BARE_LINE, line)
        if len(line) > self._limit and len(line) > self._limit_at(start, auth):
            raise LineFault(catalogue.LINE_TOO_LONG, line)
        return line

    def _limit_at(self, start: int, auth: bool) -> int:
        if auth or self._buffer[start : start + 4].upper() == b"AUTH":
            return max(AUTH_LINE, self._limit)
        return self._limit

    def _swallow(self, beginning: bytes) -> None:
        """Drops what there is of a line that is too long; its last byte stays, it may be the CR of the line's end."""
        self._position = max(self._position, len(self._buffer) - 1)
        if not self._swallowing:
            self._swallowing = True
            raise LineFault(catalogue.LINE_TOO_LONG, beginning)
