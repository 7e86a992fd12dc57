"""SMTP replies (RFC 5321 section 4.2) with enhanced status codes (RFC 3463, RFC 2034), ours and the peer's.

Also ``printable``: the one place where bytes from a peer become text that may go to a terminal, a log or a record.
"""

import re

import msgspec

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?:\s+|$)", re.ASCII)
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """One reply.  ``text`` has its lines joined by ``\\n``; ``enhanced`` is "" where there is none."""

    code: int
    enhanced: str = ""
    text: str = ""

    @property
    def positive(self) -> bool:
        """2yz, or 3yz: go on."""
        return self.code < 400

    @property
    def transient(self) -> bool:
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def encode(self) -> bytes:
        """The reply as it goes out: every line with the codes, CRLF at each end."""
        prefix = f"{self.enhanced} " if self.enhanced else ""
        lines = self.text.split("\n")
        out = [f"{self.code}-{prefix}{line}\r\n" for line in lines[:-1]]
        out.append(f"{self.code} {prefix}{lines[-1]}\r\n")
        return "".join(out).encode("utf-8", "replace")

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.enhanced, self.text.replace("\n", " / "))))


def parsed(code: int, lines: list[bytes]) -> Reply:
    """The reply that a peer gave: its code and the bytes after the code of each line; the enhanced code taken off."""
    texts = [printable(line).strip().replace("\n", "\\x0a") for line in lines]
    enhanced = ""
    for i, text in enumerate(texts):
        match = _ENHANCED.match(text)
        # RFC 2034 section 4: the class of the enhanced code must agree with the first digit; else it is only text.
        if match and match[1] == str(code)[0]:
            enhanced = enhanced or match[0].strip()
            texts[i] = text[match.end() :]
    return Reply(code, enhanced, "\n".join(texts))


def printable(raw: bytes | str, limit: int = 1024) -> str:
    """Text from a peer, safe to show: control characters and bidi overrides as \\xNN, cut at ``limit`` characters."""
    text = raw[: limit * 4].decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    text = _UNSAFE.sub(lambda m: f"\\x{ord(m[0]):02x}", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
