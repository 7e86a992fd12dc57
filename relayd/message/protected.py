"""What must go out as it came: bodies that somebody has signed or encrypted.

In: a header section and a body as they came in.  Out: what protects it, in words, or "".  Whoever would change a body
(tracking, footers ...) asks here first.  Conversion to 7-bit for a peer without 8BITMIME (``message.downgrade``) spares
what a signature covers byte for byte: DKIM and multipart/signed; it undoes nothing that is signed in its decoded form.

RFC 1847 (multipart/signed, /encrypted), 8551 (S/MIME), 3156 and 9580 (OpenPGP), 6376 (DKIM), 8617 (ARC).
"""

import re

_LINES = re.IGNORECASE | re.MULTILINE
_SIGNATURE = re.compile(rb"^(?:dkim|arc-message)-signature[ \t]*:", _LINES)
_TYPE = re.compile(rb"^content-type[ \t]*:\s*(multipart/(?:signed|encrypted)|application/(?:x-)?pkcs7-mime)", _LINES)
_INLINE = re.compile(rb"^-----BEGIN PGP (?:SIGNED )?MESSAGE-----", re.MULTILINE)


def dkim_signed(head: bytes) -> bool:
    """Whether there is a signature over the whole message that is not ours."""
    return _SIGNATURE.search(head) is not None


def protected(head: bytes, body: bytes = b"") -> str:
    """Why the body may not be changed, or "".  Parts are looked at too, those in base64 not inside."""
    if dkim_signed(head):
        return "a DKIM signature"
    found = _TYPE.search(head) or _TYPE.search(body)
    if found:
        return found[1].decode().lower()
    return "inline PGP" if _INLINE.search(body) else ""
