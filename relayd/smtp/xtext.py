"""xtext (RFC 3461 section 4): how DSN parameters carry text that a command line cannot: "+" and two hexadecimal digits.

In goes str, out comes str.  Text beyond ASCII travels as the bytes of its UTF-8 form, each encoded.
"""

import re

_TO_ENCODE = re.compile(rb"[^!-*,-<>-~]")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(rb"\+([0-9A-F]{2})")


def encode(text: str) -> str:
    """``text`` as xtext: everything but printable ASCII, and "+", "=" and space, as +XX."""
    return _TO_ENCODE.sub(lambda m: b"+%02X" % m[0][0], text.encode()).decode("ascii")


def decode(xtext: str) -> str:
    """The text that ``xtext`` carries.  Raises ValueError with a sentence for the peer when it is not xtext, is not
    UTF-8 when decoded, or hides a control character."""
    if not _XTEXT.fullmatch(xtext):
        raise ValueError("not xtext")
    raw = _HEXCHAR.sub(lambda m: bytes.fromhex(m[1].decode("ascii")), xtext.encode("ascii"))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("xtext that is not UTF-8 when decoded") from None
    if any(c < " " or c == "\x7f" for c in text):
        raise ValueError("xtext that hides a control character")
    return text
