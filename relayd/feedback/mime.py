"""A message taken to pieces within fixed limits: what a forged report may cost is known beforehand.

The standard library's parser is not used: it follows nesting by recursion and returns on 10,000 nested multiparts only
with a RecursionError, and it reads all of a message, however large.  Here every byte is looked at once per level of
nesting, and there are at most ``MAX_DEPTH``.  RFC 2045, 2046, 2047; line ends may be CRLF, LF or CR.
"""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64, a2b_qp
from email.errors import MessageError
from email.header import decode_header
from html import unescape

import msgspec

MAX_SIZE = 1 << 20  # bytes of a message that are read: reports stand before what they return
MAX_DEPTH = 8  # multiparts within one another
MAX_PARTS = 64
MAX_FIELDS = 512
MAX_HEAD = 128 << 10  # bytes of one header section
MAX_VALUE = 4096  # characters of one field
MAX_TEXT = 64 << 10  # characters of one part's text
MAX_LINE = 2000

Fields = tuple[tuple[str, str], ...]

_FIELD = re.compile(r"([!-9;-~]{1,76})[ \t]*:[ \t]*(.*)")
_PARAMETER = r";?\s*{}\s*=\s*(?:\"([^\"\n]{{1,200}})\"|([^\s;\"]{{1,200}}))"
_BOUNDARY = re.compile(_PARAMETER.format("boundary"), re.IGNORECASE)
_CHARSET = re.compile(_PARAMETER.format("charset"), re.IGNORECASE)
# Names of charsets, not of Python's other codecs: punycode is quadratic, unicode_escape is no charset.
_KNOWN = re.compile(
    r"utf[-_]?(?:7|8|16|32)(?:[-_]?[lb]e)?|(?:us-)?ascii|ansi_x3\.4-19\d\d|iso[-_]?(?:8859|2022|ir)[-_\w]{1,12}"
    r"|latin[-_]?\d+|(?:windows|cp|ibm|x-cp)[-_]?\d{3,5}|koi8[-_][a-z]|x?-?mac[-_a-z]{0,12}"
    r"|euc[-_]?(?:jp|kr|cn)|gbk|gb[-_]?(?:2312|18030)|hz(?:-gb-2312)?|big5(?:-?hkscs)?|s(?:hift)?[-_]?jis|ks_c_5601.*|tis-620",
    re.IGNORECASE,
)
_SOFT_BREAK = re.compile(rb"(?:=20|[a-z,;.]=)\n")
_LEADING = re.compile(rb"\A(?:[ \t]{0,998}\n){1,20}")
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_BREAKS = ("br", "p", "div", "tr", "li", "h1", "h2", "h3", "hr", "pre", "table", "td")


class Part(msgspec.Struct, frozen=True):
    """A leaf of a message: ``kind`` is its content type in lower case; ``body`` is as it came, but for line ends."""

    kind: str
    fields: Fields
    body: bytes

    def text(self) -> str:
        """The part's text, as far as it can be made out: decoded, without the tags of HTML, at most MAX_TEXT."""
        raw = self.raw()
        if raw is self.body and _SOFT_BREAK.search(raw, 0, MAX_TEXT):  # quoted-printable that does not say so
            raw = a2b_qp(raw)
        text = decoded(raw, _found(_CHARSET, value(self.fields, "content-type")))
        return (_without_tags(text[: 4 * MAX_TEXT]) if self.kind == "text/html" else text)[:MAX_TEXT]

    def raw(self) -> bytes:
        encoding = value(self.fields, "content-transfer-encoding").strip().lower()
        if encoding == "base64":
            return _from_base64(self.body)
        return a2b_qp(self.body) if encoding == "quoted-printable" else self.body


def parts(content: bytes) -> tuple[Fields, list[Part], bool]:
    """(the header section's fields, the leaves in order, whether a limit cut something off) of a message.  A message
    returned within it is one leaf, whatever it holds."""
    found: list[Part] = []
    content, cut = content[:MAX_SIZE], len(content) > MAX_SIZE
    head, body = split(_LEADING.sub(b"", content.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), 1))
    stack = [(head, body, 0)]
    while stack:
        fields, body, depth = stack.pop()
        declared = value(fields, "content-type")
        kind = declared.partition(";")[0].split("\n")[0].strip().lower()
        boundary = _found(_BOUNDARY, declared) if kind.startswith("multipart/") else ""
        if not boundary:
            found.append(Part(kind or "text/plain", fields, body))
        elif depth == MAX_DEPTH or len(found) + len(stack) > MAX_PARTS:
            cut = True
        else:
            pieces, more = _pieces(body, boundary.encode("utf-8", "replace"))
            cut = cut or more
            stack += [(*split(piece), depth + 1) for piece in reversed(pieces)]
            if not pieces:  # it says that it has parts, and has none
                found.append(Part("text/plain", (), body))
    return head, found[:MAX_PARTS], cut or len(found) > MAX_PARTS


def split(content: bytes) -> tuple[Fields, bytes]:
    """(fields, body); a content that does not begin with a field is all body."""
    if content.startswith(b"\n"):
        return (), content[1:]
    end = content.find(b"\n\n")
    head = content[: end if end >= 0 else MAX_HEAD][:MAX_HEAD]
    fields = fields_of(decoded(head, ""))
    return (fields, content[end + 2 :] if end >= 0 else b"") if fields else ((), content)


def fields_of(text: str) -> Fields:
    """(lower-case name, unfolded value) of the fields at the start of a text, which may have an mbox line before."""
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\n", MAX_FIELDS * 8)[: MAX_FIELDS * 8]:
        if not line:
            break
        if line[0] in " \t":
            if found and len(found[-1][1]) < 100:
                found[-1][1].append(line.strip()[:MAX_VALUE])
            continue
        match = _FIELD.match(line[:MAX_VALUE])
        if match and len(found) < MAX_FIELDS:
            found.append((match[1].lower(), [match[2].strip()]))
        elif not match and not found and not line.startswith(("From ", ">From ")):
            break
    return tuple((name, " ".join(lines)[:MAX_VALUE]) for name, lines in found)


def value(fields: Fields, name: str) -> str:
    """The first field of this (lower-case) name, "" for none."""
    return next((value for known, value in fields if known == name), "")


def words(text: str) -> str:
    """A field's text with its encoded words read (RFC 2047)."""
    if "=?" not in text:
        return text
    try:
        chunks = decode_header(text[:MAX_VALUE])
    except (MessageError, ValueError):
        return text
    return "".join(chunk if isinstance(chunk, str) else decoded(chunk, charset or "") for chunk, charset in chunks)


def decoded(raw: bytes, charset: str) -> str:
    """Text of bytes in a charset that may be unknown, wrongly named or not kept to."""
    if charset and _KNOWN.fullmatch(charset) and charset.lower() not in ("us-ascii", "ascii", "utf-8"):
        try:
            return raw.decode(charset.lower().removeprefix("x-"), "replace")
        except LookupError:
            pass
    try:
        if b"\x1b$" in raw:
            return raw.decode("iso-2022-jp", "replace")
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8" if charset.lower() == "utf-8" else "latin-1", "replace")


def _pieces(body: bytes, boundary: bytes) -> tuple[list[bytes], bool]:
    """(the parts between the delimiter lines, whether there are more than are taken)."""
    rows = (b"\n" + body).split(b"\n--" + boundary, MAX_PARTS + 1)
    found: list[bytes] = []
    for row in rows[1 : MAX_PARTS + 1]:
        if row.startswith(b"--"):
            return found, False
        found.append(row.partition(b"\n")[2])
    return found, len(rows) > MAX_PARTS + 1


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return (match[1] or match[2]) if match else ""


def _from_base64(body: bytes) -> bytes:
    """What can be read of it: other characters and an incomplete end are left out."""
    clean = _NO_BASE64.sub(b"", body)
    try:
        return a2b_base64(
            clean[: len(clean) // 4 * 4] + (clean[len(clean) // 4 * 4 :] + b"===")[: 4 * (len(clean) % 4 > 1)]
        )
    except Base64Error:
        return b""


def _without_tags(text: str) -> str:
    out: list[str] = []
    hidden = ""
    for chunk in text.split("<"):
        tag, closed, shown = chunk.partition(">")
        name = tag[:12].split(None, 1)[0].lower().rstrip("/") if tag[:1].strip() else ""
        if not out or not closed:
            shown = chunk if not hidden else ""
        elif hidden:
            hidden = "" if name == "/" + hidden else hidden
        elif name in ("script", "style", "head"):
            hidden = name
        if name.lstrip("/") in _BREAKS:
            out.append("\n")
        out.append("" if hidden else " ".join(shown.split()) + " " if shown.strip() else " " if shown else "")
    lines = (line.strip() for line in unescape("".join(out)).split("\n"))
    return "\n".join(line for line in lines if line)
