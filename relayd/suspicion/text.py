"""What a message says, read for likeness: where its links lead, and a sketch of its words.

In: header section and the beginning of the body, whatever bytes they are.  Out: a bitmap of the hosts and addresses
that it links to, and the least hashes of its pairs of neighbouring words (min-wise hashing): texts that differ in a
name or a number have nearly the same ones.  Never raises; work is linear in at most LIMIT bytes of text.  RFC 2045,
2046.
"""

import re
from binascii import Error, a2b_base64, a2b_qp
from itertools import pairwise
from math import log
from zlib import crc32

import msgspec

LIMIT = 64 << 10  # bytes that are read
PARTS = 16
SKETCH = 32  # hashes
WORDS = 20  # fewer of them are too little to be like something
ALIKE = 0.7  # of the sketch: names and numbers change less than that, another text more

_BITS = 512
_MIXES = 0x9E3779B1  # names that differ in a digit have sums that keep out of each other's way: too few share a bit

_TYPE = re.compile(rb"^content-type[ \t]*:\s*([\w/+.-]+)", re.IGNORECASE | re.MULTILINE)
_ENCODING = re.compile(rb"^content-transfer-encoding[ \t]*:\s*([\w-]+)", re.IGNORECASE | re.MULTILINE)
_BOUNDARY = re.compile(rb"boundary[ \t]*=[ \t]*(?:\"([^\"\r\n]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_NO_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_LINK = re.compile(rb"https?://(?:www\.)?([a-z0-9.\x80-\xff-]{1,253})|mailto:([^\s\"'<>?&]{1,254})")
_TAG = re.compile(rb"<[^<>]*>")
_WORD = re.compile(rb"[a-z\x80-\xff]{3,40}")


class Text(msgspec.Struct, frozen=True):
    """``links``: as ``bit`` makes them; ``sketch`` is () where there are too few words."""

    links: int
    sketch: tuple[int, ...]


def examine(head: bytes, body: bytes) -> Text:
    """See the module."""
    words = plain(head[:LIMIT], body[:LIMIT]).lower()
    return Text(_links(words), _sketch(_WORD.findall(_TAG.sub(b" ", words))))


def bit(thing: bytes) -> int:
    """Its bit in a bitmap of many: ``different`` says how many there are."""
    return 1 << (crc32(thing) * _MIXES >> 16) % _BITS


def different(bitmap: int) -> float:
    """About how many different things have their bit in it (linear counting), up to some three thousand."""
    left = _BITS - bitmap.bit_count()
    return _BITS * log(_BITS / max(left, 1))


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two sketches are nearly the same."""
    least = sorted({*one, *other})[:SKETCH]
    return len({*one} & {*other} & {*least}) >= ALIKE * len(least) > 0


def plain(head: bytes, body: bytes) -> bytes:
    """The text parts, decoded, one after another."""
    texts: list[bytes] = []
    left = [(head, body)]
    for _ in range(PARTS):
        if not left:
            break
        head, body = left.pop()
        kind = _TYPE.search(head)
        name = kind[1].lower() if kind else b"text/plain"
        if name.startswith(b"multipart/"):
            if boundary := _BOUNDARY.search(head):
                parts = body.split(b"--" + (boundary[1] or boundary[2]), PARTS)[1:]
                left += [(part[0], part[2]) for part in (part.partition(b"\r\n\r\n") for part in reversed(parts))]
        elif name.startswith(b"text/"):
            texts.append(_decoded(head, body))
    return b"\r\n".join(texts)


def _decoded(head: bytes, body: bytes) -> bytes:
    encoding = _ENCODING.search(head)
    name = encoding[1].lower() if encoding else b""
    if name == b"quoted-printable":
        return a2b_qp(body)
    if name == b"base64":
        letters = body.translate(None, _NO_BASE64)
        try:
            return a2b_base64(letters[: len(letters) & ~3])
        except Error:
            return b""
    return body


def _links(text: bytes) -> int:
    links = 0
    for match in _LINK.finditer(text):
        links |= bit(match[1] or match[2])
    return links


def _sketch(words: list[bytes]) -> tuple[int, ...]:
    if len(words) < WORDS:
        return ()
    pairs = {crc32(b" ".join(pair)) for pair in pairwise(words)}
    return tuple(sorted(pairs)[:SKETCH])
