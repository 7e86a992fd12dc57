"""A message's header section (RFC 5322 section 2.2), read and edited as bytes: what is not changed stays as it was."""

import re
from email.utils import getaddresses

import msgspec

from relayd.address import AddressError, domain_of
from relayd.reply import printable

HEAD_LIMIT = 512 << 10  # bytes of a header section; real ones stay under 64 KiB
_LIST_LIMIT = 8 << 10  # bytes of an address list that is read: longer ones cost more than they can tell

_FIELD = re.compile(rb"^([!-9;-~]+)[ \t]*:(.*(?:\r\n[ \t].*)*)(?:\r\n|\Z)", re.MULTILINE)
# One address, bare or behind a plain display name: nearly every From there is, at a tenth of the cost.
_ATEXT = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_USUAL = re.compile(
    rb"\s*+(?:(" + _ATEXT + rb"@" + _ATEXT + rb")|(?:[\w \t!#$%&'*+/=?^`{|}~\x80-\xff-]*+|\"[^\"\\\r\n]*\")\s*<("
    + _ATEXT + rb"@" + _ATEXT + rb")>)\s*"
)  # fmt: skip
_X = ord("x")
_CONTINUATION = re.compile(r"\r\n(?=[ \t])")


class Head(msgspec.Struct, frozen=True):
    """What submission wants to know of a header section.  ``froms`` are of the first From field only, ``senders`` of
    the first Sender field; "" stands for an address that cannot be read, and for every other Sender field."""

    names: frozenset[bytes]
    received: int
    message_id: str
    froms: tuple[str, ...]
    from_fields: int
    senders: tuple[str, ...]
    steering: tuple[tuple[bytes, bytes], ...]  # (lower-case name, value with its folds) for ``steering.read``


def split(content: bytes) -> tuple[bytes, bytes]:
    """(header section with its empty line, body).  A message without a header section begins with an empty line or
    with a line that is no field; one without a body has no empty line."""
    if content.startswith(b"\r\n"):
        return content[:2], content[2:]
    if not _FIELD.match(content):
        return b"", content
    at = content.find(b"\r\n\r\n")
    return (content[: at + 4], content[at + 4 :]) if at >= 0 else (content, b"")


def fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """(name as written, value with its folds) of every field, in order."""
    return _FIELD.findall(head)


def survey(head: bytes) -> Head:
    """Reads a header section once."""
    names = set()
    received = from_fields = 0
    message_id = ""
    froms: list[str] = []
    senders: list[str] = []
    steering: list[tuple[bytes, bytes]] = []
    for name, value in fields(head):
        lower = name.lower()
        names.add(lower)
        if lower[0] == _X:
            if lower.startswith(b"x-relayd-") or lower == b"x-track-id":
                steering.append((lower, value))
        elif lower == b"received":
            received += 1
        elif lower == b"from":
            from_fields += 1
            froms = froms or addresses(value)  # of more fields there is no need: each may cost milliseconds
        elif lower == b"sender":
            senders += [""] if senders else addresses(value)
        elif lower == b"message-id":
            message_id = message_id or printable(unfold(value), 998)
    return Head(frozenset(names), received, message_id, tuple(froms), from_fields, tuple(senders), tuple(steering))


def unfold(value: bytes) -> str:
    return _CONTINUATION.sub("", value.decode("utf-8", "replace")).strip()


def addresses(value: bytes) -> list[str]:
    """The addresses of an address-list field (From, To ...).  One that cannot be read is given as "": it is there."""
    if len(value) > _LIST_LIMIT:
        return [""]
    usual = _USUAL.fullmatch(value)
    if usual:
        return [(usual[1] or usual[2]).decode()]
    try:
        return [_known(address) for _, address in getaddresses([unfold(value)])] or [""]
    except RecursionError:  # the library follows nested comments by recursion
        return [""]


def _known(address: str) -> str:
    """The address, or "" where its domain is none: nobody behind this need be ready for that."""
    try:
        domain_of(address)
    except AddressError:
        return ""
    return address


def without(head: bytes, names: tuple[str, ...]) -> bytes:
    """The header section without the fields of these (lower-case) names."""
    unwanted = {name.encode() for name in names}
    return _FIELD.sub(lambda m: b"" if m[1].lower() in unwanted else m[0], head)
