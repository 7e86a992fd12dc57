"""Stored passwords: hashes of ours, and those that other systems made and somebody imports.

In: the text of a hash, a password.  Out: whether the one is of the other; what is wrong with a hash to be imported.
bcrypt and SHA-crypt are computed by the system's crypt(3): the reference for both, and ctypes drops the GIL meanwhile.
"""

import base64
import ctypes
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any

import msgspec

EXTERNAL = "external"  # stored in the place of a hash: another system is asked
SCRYPT_MEMORY = 64 * 2**20

_FORMATS = (
    "scrypt$ (relayd), $2a$ $2b$ $2y$ (bcrypt), $5$ $6$ (SHA-crypt), pbkdf2_sha256$ (Django), "
    "{SHA} {SHA256} {SHA512} {SSHA} {SSHA256} {SSHA512} in base64 (LDAP, Dovecot)"
)
_B64 = "((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)"
_SCRYPT = re.compile(rf"scrypt\$(\d{{1,9}})\$(\d{{1,3}})\$(\d{{1,3}})\${_B64}\${_B64}", re.ASCII)
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_SHA_CRYPT = re.compile(r"\$([56])\$(?:rounds=(\d{1,9})\$)?[./A-Za-z0-9]{0,16}\$([./A-Za-z0-9]{43,86})", re.ASCII)
_PBKDF2 = re.compile(rf"pbkdf2_sha256\$(\d{{1,9}})\$([!-#%-~]{{1,128}})\${_B64}", re.ASCII)
_LDAP = re.compile(rf"\{{(S?)SHA(256|512)?\}}{_B64}", re.ASCII)
_DOVECOT = re.compile(r"\{(?:CRYPT|BLF-CRYPT|SHA256-CRYPT|SHA512-CRYPT)\}(?=\$)", re.ASCII | re.IGNORECASE)
_PREFIX = re.compile(r"\{[A-Za-z0-9]+\}", re.ASCII)


class _Hash(msgspec.Struct, frozen=True):
    """A hash that was read.  ``cost`` is in the scheme's own measure; ``most`` is half a second or so."""

    scheme: str
    cost: int
    most: int
    matches: Callable[[bytes], bool]


def imported(text: str) -> str:
    """The form in which another system's hash is stored.  Raises ValueError for one that cannot be checked, or not in
    reasonable time; the hash is not repeated."""
    text = _PREFIX.sub(lambda prefix: prefix[0].upper(), _DOVECOT.sub("", text.strip(), count=1), count=1)
    found = _read(text)
    if found is None:
        raise ValueError(f"is of no format that works here; these do: {_FORMATS}")
    if found.cost > found.most:
        raise ValueError(f"takes too long to check: its {found.scheme} cost is {found.cost}, the most is {found.most}")
    if text.startswith("$") and not _crypt(b"", _trial(text)):
        raise ValueError(f"cannot be checked here: this system's libcrypt does not know {found.scheme}")
    return text


def kind(stored: str) -> str:
    """How a stored password is kept, in a word: "scrypt", "bcrypt" ..., "external"."""
    found = _read(stored)
    return found.scheme if found else "external" if stored == EXTERNAL else "unknown"


def verify(password: bytes, stored: str) -> bool:
    """Whether the password made the hash; one that cannot be read matches nothing.  Up to a second of CPU."""
    found = _read(stored)
    try:
        return found is not None and found.matches(password)
    except ValueError:  # parameters that hashlib refuses
        return False


def _read(text: str) -> _Hash | None:
    return next(filter(None, (read(text) for read in (_scrypt, _bcrypt, _sha_crypt, _pbkdf2, _ldap))), None)


def _scrypt(text: str) -> _Hash | None:
    if (found := _SCRYPT.fullmatch(text)) is None:
        return None
    n, r, p = map(int, found.group(1, 2, 3))
    salt, key = map(base64.b64decode, found.group(4, 5))
    if n & (n - 1) or not key:
        return None

    def matches(password: bytes) -> bool:
        made = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=SCRYPT_MEMORY, dklen=len(key))
        return hmac.compare_digest(made, key)

    return _Hash("scrypt", n * r * p, 2**18, matches)


def _bcrypt(text: str) -> _Hash | None:
    found = _BCRYPT.fullmatch(text)
    return _Hash("bcrypt", int(found[1]), 14, lambda password: _same(password, text)) if found else None


def _sha_crypt(text: str) -> _Hash | None:
    found = _SHA_CRYPT.fullmatch(text)
    if found is None or len(found[3]) != (43 if found[1] == "5" else 86):
        return None
    return _Hash("SHA-crypt", int(found[2] or 5000), 1_000_000, lambda password: _same(password, text))


def _pbkdf2(text: str) -> _Hash | None:
    if (found := _PBKDF2.fullmatch(text)) is None:
        return None
    rounds, salt, key = int(found[1]), found[2].encode(), base64.b64decode(found[3])
    if not rounds or len(key) != 32:
        return None

    def matches(password: bytes) -> bool:
        return hmac.compare_digest(hashlib.pbkdf2_hmac("sha256", password, salt, rounds), key)

    return _Hash("PBKDF2", rounds, 2_000_000, matches)


def _ldap(text: str) -> _Hash | None:
    """RFC 2307 section 5.3 and what became of it: a digest of password and salt, then the salt."""
    if (found := _LDAP.fullmatch(text)) is None:
        return None
    digest = f"sha{found[2] or 1}"
    raw, size = base64.b64decode(found[3]), hashlib.new(digest).digest_size
    if len(raw) < size or bool(found[1]) != (len(raw) > size):
        return None

    def matches(password: bytes) -> bool:
        return hmac.compare_digest(hashlib.new(digest, password + raw[size:]).digest(), raw[:size])

    return _Hash(f"{found[1]}SHA{found[2] or ''}", 0, 0, matches)


# crypt(3).

_CRYPT_DATA = 1 << 18  # bytes for its struct crypt_data: 32 KB in libxcrypt, 128 KB in older ones


def _libcrypt() -> Any:
    """The library's crypt_r, None if there is none."""
    for name in ("libcrypt.so.1", "libcrypt.so.2", None):  # None: musl has it in the C library
        try:
            crypt_r = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        crypt_r.argtypes, crypt_r.restype = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p), ctypes.c_char_p
        return crypt_r
    return None


_crypt_r = _libcrypt()


def _crypt(password: bytes, setting: str) -> bytes:
    """The hash of a password as ``setting``, which may be a whole hash, says; b"" if the library cannot."""
    if _crypt_r is None or b"\0" in password:  # C would read the password up to there only
        return b""
    made: bytes | None = _crypt_r(password, setting.encode("ascii"), ctypes.create_string_buffer(_CRYPT_DATA))
    return made if made and not made.startswith(b"*") else b""  # crypt(5): "*0" and "*1" are failures


def _same(password: bytes, stored: str) -> bool:
    return hmac.compare_digest(_crypt(password, stored), stored.encode("ascii"))


def _trial(text: str) -> str:
    """The cheapest setting of the hash's kind."""
    return f"{text[:4]}04${'.' * 22}" if text.startswith("$2") else f"{text[:3]}rounds=1000$x"
