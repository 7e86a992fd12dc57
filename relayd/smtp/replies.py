"""Reads SMTP replies out of what a peer sends, in bulk and within bounds (RFC 5321 sections 4.2 and 4.5.3.1.5).

In go bytes as they come, out come ``Reply`` values.  Tolerant where it is safe (bare LF ends a line, no text after the
code, lines over 512 octets); whatever could put replies and commands out of step is a ``ReplyFault``.
"""

import re
from functools import lru_cache

from relayd.reply import Reply, parsed, printable

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?", re.DOTALL)


@lru_cache(maxsize=256)  # peers say the same few sentences over and over
def _single(code: bytes, text: bytes) -> Reply:
    return parsed(int(code), [text])


class ReplyFault(Exception):
    """The peer's answer is no SMTP reply, or has no end.  ``str()`` is a sentence that is safe to show."""


class ReplyReader:
    """``feed`` bytes, then take replies with ``next`` until it gives None.  Holds at most one unfinished reply."""

    def __init__(self, max_line: int, max_lines: int, max_bytes: int) -> None:
        self._max_line, self._max_lines, self._max_bytes = max_line, max_lines, max_bytes
        self.clear()

    def clear(self) -> None:
        """Forget everything received: at the start of TLS, and at the end."""
        self._buffer, self._at = b"", 0
        self._lines: list[bytes] = []
        self._code = b""
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._buffer = self._buffer[self._at :] + data
        self._at = 0

    def next(self) -> Reply | None:
        """The next whole reply, or None if it is not all there yet.  Raises ReplyFault."""
        while (end := self._buffer.find(b"\n", self._at)) >= 0:
            start, self._at = self._at, end + 1
            if end - start > self._max_line:
                raise ReplyFault("a reply line is too long")
            if end > start and self._buffer[end - 1] == 13:
                end -= 1
            line = _LINE.fullmatch(self._buffer, start, end)
            if line is None:
                raise ReplyFault(f"not an SMTP reply: {printable(self._buffer[start:end], 80)!r}")
            if line[2] != b"-" and not self._lines:
                return _single(line[1], line[3] or b"")
            if reply := self._continued(line):
                return reply
        if len(self._buffer) - self._at > self._max_line:
            raise ReplyFault("a reply line is too long")
        return None

    def _continued(self, line: re.Match[bytes]) -> Reply | None:
        """Takes one line of a reply of several; gives the reply with its last one."""
        self._lines.append(line[3] or b"")
        self._size += line.end() - line.start()
        if line[1] != (self._code or line[1]):
            raise ReplyFault(f"two codes in one reply: {self._code.decode()} and {line[1].decode()}")
        if len(self._lines) > self._max_lines or self._size > self._max_bytes:
            raise ReplyFault("a reply has too many lines")
        if line[2] == b"-":
            self._code = line[1]
            return None
        lines, self._lines, self._code, self._size = self._lines, [], b"", 0
        return parsed(int(line[1]), lines)
