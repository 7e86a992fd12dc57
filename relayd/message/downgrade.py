"""8-bit messages made 7-bit, for peers without 8BITMIME.

In: a message with bytes beyond ASCII.  Out: the same message in ASCII, or None where that cannot be done without
breaking it.  Leaves of the MIME tree are re-encoded, header fields become encoded words or extended parameters; what
needs no change stays byte for byte.  Our own DKIM signature is made anew afterwards; what others have signed is left
alone (``message.protected``).

RFC 6152 section 3 (why), 2045 and 2046 (bodies), 2047 and 2231 (header fields), 6532 (message/global), 1428
(unknown-8bit), 1847 (why multipart/signed is left alone).
"""

import re
from binascii import a2b_qp, b2a_base64, b2a_qp
from collections.abc import Callable, Iterator
from urllib.parse import quote_from_bytes

import msgspec

from relayd.message.headers import split
from relayd.message.protected import dkim_signed

DEPTH_LIMIT = 100  # of multiparts and messages within one another
PARTS_LIMIT = 10_000  # of a message
_LINE = 76  # octets: RFC 2045 section 6.7 and 2047 section 2

_TEXT = b"text/plain"
_MESSAGE = b"message/rfc822"
_ENCODES = frozenset({b"base64", b"uuencode", b"x-uuencode", b"uue", b"x-uue"})  # 8-bit data in these has no meaning
_IDENTITY = frozenset({b"7bit", b"8bit", b"binary"})

_ASCII = bytes(range(128))
_BLANK = b" \t\r\n"
_VISIBLE = bytes(set(_ASCII) - set(_BLANK))
_QUESTIONED = _ASCII + b"?" * 128

_COMMENT = rb"\((?:[^()\\]|\\.)*+\)"
_QUOTED = rb'"(?:[^"\\]|\\.)*+"'
_FIELD = re.compile(rb"^([!-9;-~]+)([ \t]*:)(.*(?:\r\n[ \t].*)*)(\r\n|\Z)", re.MULTILINE)
_TYPE = re.compile(rb"\s*([^\s/;()]+/[^\s/;()]+)\s*(?:;|\(|\Z)")
_TOKEN = re.compile(rb"(?:\s|" + _COMMENT + rb")*+([^\s;()]+)", re.DOTALL)
_PARAMETER = re.compile(rb';\s*+([^\s=;"()<>@,*]++)\s*+=\s*+(' + _QUOTED + rb'|[^;"]*+)', re.DOTALL)
_ENCODED_WORD = re.compile(rb"(=\?[^?\s]+\?[BbQq]\?[^?\s]*\?=)")
_ADDRESS_TOKEN = re.compile(
    rb"(" + _COMMENT + rb')|<[^<>]*+>|((?:[^\s"(),:;<>@\[\]\\]|' + _QUOTED + rb"|\s)++)|.", re.DOTALL
)
_STRUCTURED_TOKEN = re.compile(rb"<[^<>]*+>|" + _QUOTED + rb"|(" + _COMMENT + rb")", re.DOTALL)
_NAMES_SOMEBODY = re.compile(rb"(?:\s|" + _COMMENT + rb")*+[<:]", re.DOTALL)
_QUOTES = re.compile(rb'"|\\(.)', re.DOTALL)
_ESCAPES = re.compile(rb"\\(.)", re.DOTALL)
# The library lets white space at the end of a line grow past the limit when it encodes it.
_OVERLONG = re.compile(rb"(=20|=09)(?=\n|\Z)(?<=[^\n]{77})")
_DELIMITER_END = re.compile(rb"(--)?[ \t]*(?:\r\n|\Z)")


class _Impossible(Exception):
    """This message cannot be made 7-bit."""


class _Entity(msgspec.Struct, frozen=True):
    """A part of a multipart, or a message within a message, that is still to be looked at."""

    content: bytes
    default: bytes  # its type where it names none
    message: bool
    depth: int


def downgrade(head: bytes, body: bytes) -> tuple[bytes, bytes] | None:
    """The message in ASCII; one that already is comes back as it was.

    ``head`` is the header section with its empty line; line ends are CRLF.  None where it cannot be done faithfully: it
    came with a DKIM signature or has 8-bit data below multipart/signed (the signatures would break) or in a message/*
    type that may not be encoded, addresses and other header fields that have no ASCII form, structure too broken or too
    large to be sure of.  8-bit bytes around the parts of a multipart, which no reader shows (RFC 2046 section 5.1.1),
    become "?".
    """
    if head.isascii() and body.isascii():
        return head, body
    if dkim_signed(head):
        return None
    try:
        new_head, pieces = _opened(head, body, _Entity(b"", _TEXT, message=True, depth=0))
        new_body = b"".join(_walk(pieces))
    except _Impossible:
        return None
    return (new_head, new_body) if new_head.isascii() and new_body.isascii() else None


def _walk(pieces: list[bytes | _Entity]) -> Iterator[bytes]:
    """Every piece in order, entities opened on the way.  A stack and no recursion: what is opened is let go, so that
    depth costs no memory."""
    pending = pieces[::-1]
    opened = 0
    while pending:
        piece = pending.pop()
        if isinstance(piece, bytes):
            yield piece
        elif piece.content.isascii():
            yield piece.content
        else:
            opened += 1
            if opened > PARTS_LIMIT or piece.depth > DEPTH_LIMIT:
                raise _Impossible
            head, inner = _opened(*split(piece.content), piece)
            yield head
            pending += inner[::-1]


def _opened(head: bytes, body: bytes, entity: _Entity) -> tuple[bytes, list[bytes | _Entity]]:
    """(new header section, what its body consists of) of an entity with something 8-bit in it."""
    rest = _FIELD.sub(b"", head)
    if rest not in (b"", b"\r\n") or (body and rest != head[-2:]):
        raise _Impossible  # lines that are no fields: readers disagree on where the body begins
    if not head.isascii():
        head = _FIELD.sub(_field, head)
    if body.isascii():
        return head, [body]
    values: dict[bytes, bytes] = {}
    for name, _, value, _ in _FIELD.findall(head):
        values.setdefault(name.lower(), value)
    type_, encoding = _type(values, entity.default), _encoding(values)
    added = b"MIME-Version: 1.0\r\n" if entity.message and b"mime-version" not in values else b""
    pieces: list[bytes | _Entity]
    if type_.startswith(b"multipart/"):
        if type_ == b"multipart/signed":
            raise _Impossible
        default = _MESSAGE if type_ == b"multipart/digest" else _TEXT
        pieces = _parts(body, _boundary(values[b"content-type"]), default, entity.depth + 1)
    elif type_ == _MESSAGE and encoding in _IDENTITY:
        pieces = [_Entity(body, _TEXT, message=True, depth=entity.depth + 1)]
    elif type_.startswith(b"message/") and not type_.startswith(b"message/global"):
        raise _Impossible  # RFC 2045 section 6.4; RFC 6532 section 3.7 lets message/global be encoded
    else:
        if b"content-type" not in values:
            added += b"Content-Type: text/plain; charset=%s\r\n" % _charset(body)
        new, encoded = _encoded_leaf(body, type_, encoding)
        return _relabelled(head, new, added), [encoded]
    if added or encoding in (b"8bit", b"binary"):
        head = _relabelled(head, b"7bit", added)
    return head, pieces


def _type(values: dict[bytes, bytes], default: bytes) -> bytes:
    """The media type, lower case.  One that cannot be read is text/plain (RFC 2045 section 5.2)."""
    if b"content-type" not in values:
        return default
    match = _TYPE.match(values[b"content-type"])
    return match[1].lower() if match else _TEXT


def _encoding(values: dict[bytes, bytes]) -> bytes:
    match = _TOKEN.match(values.get(b"content-transfer-encoding", b""))
    return match[1].lower() if match else b"7bit"


def _boundary(content_type: bytes) -> bytes:
    for name, value in _PARAMETER.findall(content_type):
        if name.lower() == b"boundary":
            boundary = _unquoted(value)
            if boundary:
                return boundary
    raise _Impossible


def _parts(body: bytes, boundary: bytes, default: bytes, depth: int) -> list[bytes | _Entity]:
    """A multipart's body, cut at its delimiter lines (RFC 2046 section 5.1.1); the end may be missing.  The CRLF before
    a delimiter belongs to it, unless it is the end of the delimiter before."""
    dashes = b"--" + boundary
    pieces: list[bytes | _Entity] = []
    start = at = 0  # of the current part; where to look on
    inside = closed = False
    while not closed:
        at = 0 if not at and body.startswith(dashes) else body.find(b"\r\n" + dashes, at)
        if at < 0:
            break
        line = at + (2 if body.startswith(b"\r\n", at) else 0)
        end = _DELIMITER_END.match(body, line + len(dashes))
        if not end:
            at = line + len(dashes)
            continue
        part = body[start:at]
        pieces.append(_Entity(part, default, message=False, depth=depth) if inside else part.translate(_QUESTIONED))
        pieces.append(body[max(at, start) : end.end()])
        if len(pieces) > 2 * PARTS_LIMIT:
            raise _Impossible
        start = end.end()
        at = max(start - 2, line + len(dashes))
        closed = bool(end[1])
        if closed and not inside:
            break
        inside = True
    if not inside:
        raise _Impossible  # no part at all: a reader may show anything
    rest = body[start:]
    pieces.append(rest.translate(_QUESTIONED) if closed else _Entity(rest, default, message=False, depth=depth))
    return pieces


def _encoded_leaf(body: bytes, type_: bytes, encoding: bytes) -> tuple[bytes, bytes]:
    """(transfer encoding, body in it)."""
    if encoding in _ENCODES:
        raise _Impossible
    if encoding == b"quoted-printable":
        body = a2b_qp(body)  # 8-bit bytes in it stand for themselves, as every decoder reads them
    # A bare CR or LF is data, and quoted-printable as the library makes it would take it for a line end.
    lines = body.count(b"\r\n")
    if type_.startswith(b"text/") and lines == body.count(b"\r") == body.count(b"\n"):
        return b"quoted-printable", _quoted_printable(body)
    return b"base64", _base64(body)


def _quoted_printable(body: bytes) -> bytes:
    encoded = b2a_qp(body.replace(b"\r\n", b"\n"), istext=True)
    return _OVERLONG.sub(rb"=\n\1", encoded).replace(b"\n", b"\r\n")


def _base64(body: bytes) -> bytes:
    encoded = b2a_base64(body, newline=False)
    return b"".join([encoded[i : i + _LINE] + b"\r\n" for i in range(0, len(encoded), _LINE)])


def _relabelled(head: bytes, encoding: bytes, added: bytes) -> bytes:
    """The header section with this one Content-Transfer-Encoding: the first's place, or the end after ``added``."""
    label = b"Content-Transfer-Encoding: %s\r\n" % encoding
    labels = [label]

    def replaced(field: re.Match[bytes]) -> bytes:
        if field[1].lower() != b"content-transfer-encoding":
            return field[0]
        return labels.pop() if labels else b""

    fields = _FIELD.sub(replaced, head.removesuffix(b"\r\n"))
    return b"".join((fields, added, *labels, b"\r\n"))


# --- header fields ------------------------------------------------------------------------------------------


def _field(match: re.Match[bytes]) -> bytes:
    """One field in ASCII, where there is a way to say it."""
    name, colon, value, end = match.groups()
    if value.isascii():
        return match[0]
    out = bytearray(name + colon)
    _WRITERS.get(name.lower(), _unstructured)(out, value)
    return bytes(out + end)


def _unstructured(out: bytearray, value: bytes) -> None:
    """Text (RFC 2047 section 5 rule 1): from the first 8-bit word to the last becomes encoded words.  Between two
    encoded words white space counts for nothing, so what parts one of the field's own from ours is encoded too."""
    pieces = _ENCODED_WORD.split(value)
    for i, piece in enumerate(pieces):
        if piece.isascii():
            out += piece
            continue
        first = len(piece) - len(piece.lstrip(_ASCII))
        last = len(piece.rstrip(_ASCII))
        start = len(piece[:first].rstrip(_VISIBLE))
        end = len(piece) - len(piece[last:].lstrip(_VISIBLE))
        if i and not piece[:start].strip():
            start = 0
        after = piece[end:]
        if i + 1 < len(pieces) and not after.strip():
            end, after = len(piece), b" "
        out += piece[:start]
        _encode(out, piece[start:end])
        if after[:1] in (b" ", b"\t") and (after.strip() or i + 1 < len(pieces)):
            out += b"\r\n"
        out += after


def _addresses(out: bytearray, value: bytes) -> None:
    """Address lists (RFC 2047 section 5 rules 2 and 3): comments, and phrases that name an address or a group."""
    for token in _ADDRESS_TOKEN.finditer(value):
        comment, phrase = token.groups()
        if token[0].isascii():
            out += token[0]
        elif comment:
            _encode_comment(out, comment)
        elif phrase and _NAMES_SOMEBODY.match(value, token.end()):
            _encode_phrase(out, phrase)
        else:
            raise _Impossible


def _comments(out: bytearray, value: bytes) -> None:
    """Structured fields: only their comments can be encoded; the rest must be ASCII."""
    at = 0
    for token in _STRUCTURED_TOKEN.finditer(value):
        if token[1] and not token[1].isascii():
            out += value[at : token.start()]
            _encode_comment(out, token[1])
            at = token.end()
    out += value[at:]


def _parameters(out: bytearray, value: bytes) -> None:
    """Content-Type and Content-Disposition: parameters as RFC 2231 sections 3 and 4 extend them."""

    def written(match: re.Match[bytes]) -> bytes:
        name, content = match.groups()
        return match[0] if content.isascii() else _extended(name, _unquoted(content))

    _comments(out, _PARAMETER.sub(written, value))


def _extended(name: bytes, value: bytes) -> bytes:
    prefix = _charset(value) + b"''"
    sections = [quote_from_bytes(chunk, safe="").encode() for chunk in _chunks(value, 12, 18)]
    if len(sections) == 1:
        return b";\r\n %s*=%s%s" % (name, prefix, sections[0])
    sections[0] = prefix + sections[0]
    return b"".join(b";\r\n %s*%d*=%s" % (name, i, section) for i, section in enumerate(sections))


def _encode_phrase(out: bytearray, phrase: bytes) -> None:
    """The whole phrase without its quotes: what they guarded (a comma ...) must not come into the open."""
    words = _ENCODED_WORD.split(phrase.strip())
    for i, word in enumerate(words):
        if i % 2:
            out += b"\r\n " + word
        elif word:
            _encode(out, _QUOTES.sub(rb"\1", word))
    out += b" "


def _encode_comment(out: bytearray, comment: bytes) -> None:
    out += b"("
    _encode(out, _ESCAPES.sub(rb"\1", comment[1:-1]))
    out += b")"


def _encode(out: bytearray, text: bytes) -> None:
    """Appends encoded words (RFC 2047 section 2) for this text, its folds undone, in lines of 76."""
    text = text.replace(b"\r\n", b"")
    charset = _charset(text)
    end = len(out)
    while out[end - 1] in _BLANK:
        end -= 1
    space = bytes(out[end:]).replace(b"\r\n", b"") or (b"" if out.endswith(b"(") else b" ")
    del out[end:]
    column = end - out.rfind(b"\n") - 1 + len(space)
    if column > _LINE // 2:
        space = b"\r\n" + (space or b" ")
        column = len(space) - 2
    frame = len(charset) + 8  # with the ")" that may follow
    chunks = _chunks(text, max(_LINE - column - frame, 16) // 4 * 3, (_LINE - 1 - frame) // 4 * 3)
    words = [b"=?%s?B?%s?=" % (charset, b2a_base64(chunk, newline=False)) for chunk in chunks]
    out += space + b"\r\n ".join(words)


def _chunks(text: bytes, first: int, rest: int) -> Iterator[bytes]:
    """Pieces of at most ``first``, then ``rest`` octets, no UTF-8 character cut (RFC 2047 section 5)."""
    at, size = 0, first
    while at < len(text):
        end = at + size
        for _ in range(3):
            if end < len(text) and text[end] & 0xC0 == 0x80:
                end -= 1
        yield text[at:end]
        at, size = end, rest


def _charset(text: bytes) -> bytes:
    try:
        text.decode()
    except UnicodeDecodeError:
        return b"unknown-8bit"
    return b"utf-8"


def _unquoted(value: bytes) -> bytes:
    value = value.strip()
    return _ESCAPES.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value


_STRUCTURED = (
    "Received Message-ID Resent-Message-ID References In-Reply-To Date Resent-Date Return-Path DKIM-Signature "
    "Authentication-Results Received-SPF ARC-Seal ARC-Message-Signature ARC-Authentication-Results MIME-Version "
    "Content-ID Content-Transfer-Encoding Content-Location Content-Language List-Help List-Unsubscribe "
    "List-Unsubscribe-Post List-Subscribe List-Post List-Owner List-Archive Auto-Submitted"
)
_ADDRESS_LISTS = (
    "From Sender Reply-To To Cc Bcc Resent-From Resent-Sender Resent-Reply-To Resent-To Resent-Cc Resent-Bcc "
    "Disposition-Notification-To Return-Receipt-To Errors-To List-Id"
)
_Writer = Callable[[bytearray, bytes], None]
_WRITERS: dict[bytes, _Writer] = {  # any other field is text
    **dict.fromkeys(_STRUCTURED.lower().encode().split(), _comments),
    **dict.fromkeys(_ADDRESS_LISTS.lower().encode().split(), _addresses),
    b"content-type": _parameters,
    b"content-disposition": _parameters,
}
