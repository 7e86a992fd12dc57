"""Where content begins and ends: DATA with its dots, BDAT with its counts, and the dots put back on the way out.

In: bytes as they arrive, cut anywhere.  Out: content with CRLF lines and nothing else, whether its end was seen, and
what came behind it.  Work is bulk: find, count, replace; at most four bytes are carried over.  Only CRLF.CRLF ends DATA
(RFC 5321 sections 2.3.8, 4.1.1.4, 4.5.2), and a bare CR or LF is a fault or made CRLF, in BDAT chunks too (RFC 3030),
so no reading of a message differs from ours.  NUL is always a fault (RFC 2045 section 2.8; some receivers drop it, and
then find an end that was none).
"""

import re
from typing import Literal

Bare = Literal["reject", "normalise"]
Fault = Literal["", "bare", "nul", "size"]

_CRLF = b"\r\n"
_END = b"\r\n.\r\n"

# The longest tail that may be the beginning of something: of the end, or of a line end and its dot.
_HOLD_STRICT = re.compile(rb"\r(?:\n(?:\.\r?)?)?\Z")
_HOLD_LENIENT = re.compile(rb"(?:\r(?:\n(?:\.\r?)?|\.)?|\n\.?)\Z")

# A client with bare line ends either stuffs every line (two dots: one goes) or none (one dot: it is content and stays).
_UNSTUFF_LENIENT = re.compile(rb"\r\n\.?|[\r\n](?:\.(?=\.))?")


class _Content:
    """What both readers know: the size given out, the limit, and the first fault, after which nothing is given out."""

    __slots__ = ("_lenient", "_limit", "fault", "size")

    def __init__(self, limit: int, bare: Bare = "reject") -> None:
        self._limit = limit
        self._lenient = bare == "normalise"
        self.fault: Fault = ""
        self.size = 0

    def _admit(self, content: bytes) -> bytes:
        self.size += len(content)
        if self._limit and self.size > self._limit:
            return self._fail("size")
        return content

    def _fail(self, fault: Fault) -> bytes:
        self.fault = fault
        return b""


class DataReader(_Content):
    """Content after 354, up to the dot.  ``limit`` in bytes of unstuffed content, 0 for none."""

    __slots__ = ("_held", "_virtual")

    last = True
    hungry = True

    def __init__(self, limit: int, bare: Bare = "reject") -> None:
        super().__init__(limit, bare)
        # The CRLF of the DATA line itself makes a dot at the very beginning like any other.
        self._held = _CRLF
        self._virtual = 2

    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """(content, whether the end was found, what follows the end)."""
        data = self._held + data
        dot = data.find(b"\r\n.")  # most content has none but the last
        end = data.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            return self._decode(data[: end + 2], dot < end), True, data[end + 5 :]
        hold = (_HOLD_LENIENT if self._lenient else _HOLD_STRICT).search(data, max(0, len(data) - 4))
        if hold is None:
            self._held = b""
        else:
            self._held = hold[0]
            data = data[: hold.start()]
        return self._decode(data, dot >= 0), False, b""

    def _decode(self, raw: bytes, dots: bool) -> bytes:
        """Content of a piece that no CRLF straddles; ``dots``: there are some to take off."""
        if self.fault or not raw:
            return b""
        if 0 in raw:
            return self._fail("nul")
        if len(_normalised(raw)) == len(raw):
            content = raw.replace(b"\r\n.", _CRLF) if dots else raw
        elif self._lenient:
            content = _UNSTUFF_LENIENT.sub(_CRLF, raw)
        else:
            return self._fail("bare")
        if self._virtual:
            content = content[self._virtual :]
            self._virtual = 0
        return self._admit(content)


class ChunkReader(_Content):
    """Content of one message in BDAT chunks: ``begin`` for each command, then ``feed`` until the chunk is done."""

    __slots__ = ("_held", "_left", "last")

    def __init__(self, limit: int, bare: Bare = "reject") -> None:
        super().__init__(limit, bare)
        self._held = b""
        self._left = 0
        self.last = False

    @property
    def hungry(self) -> bool:
        """Whether the chunk needs more bytes; one of size 0 needs none."""
        return self._left > 0

    def begin(self, size: int, last: bool) -> None:
        """A chunk of ``size`` bytes follows; ``last`` ends the message."""
        self._left = size
        self.last = last

    def feed(self, data: bytes) -> tuple[bytes, bool, bytes]:
        """(content, whether the chunk is complete, what follows it)."""
        piece, rest = data[: self._left], data[self._left :]
        self._left -= len(piece)
        done = self._left == 0
        return self._decode(piece, final=done and self.last), done, rest

    def _decode(self, raw: bytes, final: bool) -> bytes:
        if self.fault:
            return b""
        raw = self._held + raw
        self._held = b""
        if raw.endswith(b"\r") and not final:
            raw, self._held = raw[:-1], b"\r"
        if 0 in raw:
            return self._fail("nul")
        content = _normalised(raw)
        if len(content) != len(raw) and not self._lenient:
            return self._fail("bare")
        return self._admit(content)


class DotStuffer:
    """Dots for content that goes out by DATA in pieces (RFC 5321 section 4.5.2).  Content has CRLF line ends only."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = _CRLF

    def feed(self, content: bytes) -> bytes:
        """The piece with a dot before each dot that begins a line."""
        if not content:
            return content
        tail = self._tail
        self._tail = content[-2:] if len(content) > 1 else tail[-1:] + content
        if content[0] in b".\n":  # only then can a line's beginning lie across the border
            return (tail + content).replace(b"\r\n.", b"\r\n..")[len(tail) :]
        return content.replace(b"\r\n.", b"\r\n..")

    def finish(self) -> bytes:
        """What ends the message: the final CRLF where it is missing, then the dot and its CRLF.  Ready for the next."""
        missing = self._tail != _CRLF
        self._tail = _CRLF
        return _END if missing else b".\r\n"


def dot_stuff(content: bytes) -> bytes:
    """One whole content with its dots and, where it is missing, its final CRLF; the ending dot is not part of it."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    return stuffed if not stuffed or stuffed.endswith(_CRLF) else stuffed + _CRLF


def _normalised(raw: bytes) -> bytes:
    """Every bare CR and LF made CRLF: the result is longer by one for each.  Cheaper than counting all three."""
    joined = _CRLF.join(raw.splitlines())
    return joined + _CRLF if raw.endswith((b"\n", b"\r")) else joined
