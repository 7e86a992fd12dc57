"""The canonical forms that DKIM signs (RFC 6376 section 3.4).

In: the body in chunks as it streams by, the header section as it will go out.  Out: the body's hash; the fields that
are signed, with their names as h= has them.  All of it by operations on whole buffers, never line by line.
"""

import hashlib
import re
from typing import Literal

Canonicalization = Literal["relaxed", "simple"]

# (field, guarded): all instances that are there are signed; a guarded one once more, so that none can be added.
SIGNED = (
    (b"from", True),
    (b"sender", False),
    (b"reply-to", True),
    (b"to", True),
    (b"cc", False),
    (b"subject", True),
    (b"date", True),
    (b"message-id", True),
    (b"in-reply-to", False),
    (b"references", False),
    (b"mime-version", True),
    (b"content-type", True),
    (b"content-transfer-encoding", True),
    (b"list-id", False),
    (b"list-unsubscribe", True),
    (b"list-unsubscribe-post", True),
    (b"feedback-id", False),
)
_SIGNED_NAMES = frozenset(name for name, _ in SIGNED)

_CRLF = b"\r\n"
_EMPTY_LINES = _CRLF * 4096
_RUN = re.compile(b"  +")
_UP_TO_BARE = re.compile(rb"(?:(?:\r\n)*+[\r\n])*")  # of a run of CR and LF: as far as one that ends no line
_NEXT_FIELD = re.compile(rb"\r\n(?![ \t])")
_NAMES_LINE = re.compile(rb".{1,72}(?::|\Z)")


class BodyHash:
    """The hash of a canonical body (RFC 6376 section 3.4), taken from chunks of any size as they come.

    A body without a final CRLF is hashed as if it had one, which it gets on the wire.
    """

    def __init__(self, canonicalization: Canonicalization = "relaxed") -> None:
        self._relaxed = canonicalization == "relaxed"
        self._hash = hashlib.sha256()
        self._lines = 0  # line ends seen and not hashed: nothing of them counts but the first if nothing follows
        self._tail = b""  # white space and CR whose meaning depends on what follows: at most b" \r"
        self._content = False  # whether anything was hashed

    def feed(self, chunk: bytes) -> None:
        """The next octets of the body, neither dot-stuffed nor with the final dot."""
        data = self._tail + chunk if self._tail else chunk
        end = len(data)
        if self._relaxed:
            data = _compressed(data)
            end = len(data) - data.endswith(b"\r")
            end -= data.endswith(b" ", 0, end)
        else:
            end -= data.endswith(b"\r")
        self._tail = data[end:]
        stop = _content_end(data, end)
        if stop:
            _hash_lines(self._hash, self._lines)
            self._hash.update(memoryview(data)[:stop])
            self._content, self._lines = True, 0
        self._lines += (end - stop) // 2

    def digest(self) -> bytes:
        """The 32 octets of bh=.  More may be fed afterwards."""
        last, content = self._hash.copy(), self._content
        if self._tail.endswith(b"\r"):  # a bare CR, as it turns out
            _hash_lines(last, self._lines)
            last.update(self._tail)
            content = True
        # RFC 6376 section 3.4.3 and 3.4.4: of a body without content, simple leaves one line end, relaxed nothing.
        if content or not self._relaxed:
            last.update(_CRLF)
        return last.digest()


def _hash_lines(into: "hashlib._Hash", lines: int) -> None:
    while lines > 0:
        into.update(_EMPTY_LINES[: 2 * lines])
        lines -= len(_EMPTY_LINES) // 2


def _compressed(data: bytes) -> bytes:
    """Runs of white space as one space, none before CRLF.  Each step is one search where there is nothing to do."""
    data = data.replace(b"\t", b" ")
    if b"  " in data:
        data = _RUN.sub(b" ", data)
    return data.replace(b" \r\n", _CRLF)


def _content_end(data: bytes, end: int) -> int:
    """Where the CRLFs begin that data[:end] ends with.  A bare CR or LF among them is content."""
    stripped = len(data[:end].rstrip(_CRLF))
    run = _UP_TO_BARE.match(data, stripped, end)
    return run.end() if run else stripped


def chosen(head: bytes, canonicalization: Canonicalization) -> tuple[bytes, bytes]:
    """(h= in folded lines, the canonical fields it names with a CRLF each), instances of a name from the bottom up."""
    found = _relaxed_fields(head) if canonicalization == "relaxed" else _simple_fields(head)
    names: list[bytes] = []
    lines: list[bytes] = []
    for name, guarded in SIGNED:
        here = found.get(name)
        if here:
            names += [name] * len(here)
            lines += reversed(here)
        if guarded:
            names.append(name)
    lines.append(b"")
    return b"\r\n ".join(_NAMES_LINE.findall(b":".join(names))), _CRLF.join(lines)


def _relaxed_fields(head: bytes) -> dict[bytes, list[bytes]]:
    """RFC 6376 section 3.4.2, done to the whole section at once: names are looked at afterwards."""
    text = head.replace(b"\t", b" ").replace(b"\r\n ", b" ")
    if b"  " in text:
        text = _RUN.sub(b" ", text)
    found: dict[bytes, list[bytes]] = {}
    for line in text.split(_CRLF):
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" ").lower()
        if name in _SIGNED_NAMES and colon:
            found.setdefault(name, []).append(name + b":" + value.strip(b" "))
    return found


def _simple_fields(head: bytes) -> dict[bytes, list[bytes]]:
    """RFC 6376 section 3.4.1: as they are."""
    found: dict[bytes, list[bytes]] = {}
    for field in _NEXT_FIELD.split(head):
        name, colon, _ = field.partition(b":")
        name = name.rstrip(b" \t").lower()
        if name in _SIGNED_NAMES and colon:
            found.setdefault(name, []).append(field)
    return found
