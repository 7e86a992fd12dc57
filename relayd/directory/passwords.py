"""Passwords: stored as scrypt, checked without ever stopping the reactor, repeats for the price of a hash.

A stored hash is ``scrypt$n$r$p$salt$key`` with salt and key in base64.  ``Verifier.check`` answers on the spot what it
remembers (keyed BLAKE2 of login and password under a key of this process, together with the stored hash that it was
checked against, so a new password makes the memory void) and otherwise asks a thread, where hashlib drops the GIL.
Unknown logins cost what wrong passwords cost.
"""

import base64
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

_N, _R, _P = 2**14, 8, 1
_MAXMEM = 64 * 2**20
_LONGEST = 1024


class Verdict(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    BUSY = "busy"


Done = Callable[[Verdict], None]


def hash_password(password: str, salt: bytes | None = None) -> str:
    """The form to store.  About 50 ms of CPU."""
    salt = salt if salt is not None else secrets.token_bytes(16)
    key = hashlib.scrypt(_bytes(password), salt=salt, n=_N, r=_R, p=_P, maxmem=_MAXMEM)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), *(base64.b64encode(part).decode() for part in (salt, key))))


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def verify_password(password: str, stored: str) -> bool:
    """Whether the password made the stored hash; a hash that cannot be read matches nothing."""
    try:
        scheme, n, r, p, salt, key = stored.split("$")
        wanted = base64.b64decode(key, validate=True)
        secret, seed = _bytes(password), base64.b64decode(salt, validate=True)
        found = hashlib.scrypt(secret, salt=seed, n=int(n), r=int(r), p=int(p), maxmem=_MAXMEM, dklen=len(wanted))
    except ValueError:
        return False
    return scheme == "scrypt" and hmac.compare_digest(found, wanted)


_NOBODY = hash_password(secrets.token_urlsafe(18))


class Verifier:
    """Checks passwords against the stored hashes that ``stored(login)`` gives (None: no such login).

    ``submit`` runs a function in some thread, ``post`` brings one back to the caller's.  ``done`` is called exactly
    once, on the spot if the answer is remembered, and must not raise.  Above ``pending`` different checks under way it
    is BUSY.  A right answer says nothing about the connection's state: that is the caller's to look at, each time.
    """

    def __init__(
        self,
        stored: Callable[[str], str | None],
        submit: Callable[[Callable[[], None]], object],
        post: Callable[[Callable[[], None]], None],
        *,
        pending: int = 64,
        remembered: int = 10000,
        secret: bytes | None = None,
    ) -> None:
        self._stored = stored
        self._submit = submit
        self._post = post
        self._limit = pending
        self._secret = secret if secret is not None else secrets.token_bytes(32)
        self._waiting: dict[tuple[bytes, str | None], list[Done]] = {}
        # Two memories, so that a guesser can push only his own guesses out.
        self._right = _Memory(remembered)
        self._wrong = _Memory(remembered)

    def check(self, login: str, password: str, done: Done) -> None:
        """Calls ``done`` with RIGHT, WRONG or BUSY."""
        if len(password) > _LONGEST or len(login) > _LONGEST:
            return done(Verdict.WRONG)
        stored = self._stored(login)
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        text = _bytes(f"{len(login)}:{login}{password}")
        key = hashlib.blake2b(text, key=self._secret, digest_size=32).digest()
        if stored is not None and self._right.has(key, stored):
            return done(Verdict.RIGHT)
        if self._wrong.has(key, stored):
            return done(Verdict.WRONG)
        if waiting := self._waiting.get((key, stored)):
            return waiting.append(done)
        if len(self._waiting) >= self._limit:
            return done(Verdict.BUSY)
        self._waiting[key, stored] = [done]
        self._submit(lambda: self._work(key, login, password, stored))

    def _work(self, key: bytes, login: str, password: str, stored: str | None) -> None:
        right = verify_password(password, stored or _NOBODY) and stored is not None
        self._post(lambda: self._finish(key, login, password, stored, right))

    def _finish(self, key: bytes, login: str, password: str, stored: str | None, right: bool) -> None:
        waiting = self._waiting.pop((key, stored))
        if self._stored(login) != stored:
            # The password was changed while we looked at the old one: the answer must be about the new.
            for done in waiting:
                self.check(login, password, done)
            return
        (self._right if right else self._wrong).add(key, stored)
        for done in waiting:
            done(Verdict.RIGHT if right else Verdict.WRONG)


class _Memory:
    """The last so many keys, each with the stored hash that its answer holds for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: OrderedDict[bytes, str | None] = OrderedDict()

    def has(self, key: bytes, stored: str | None) -> bool:
        if key not in self._rows or self._rows[key] != stored:
            return False
        self._rows.move_to_end(key)
        return True

    def add(self, key: bytes, stored: str | None) -> None:
        self._rows[key] = stored
        self._rows.move_to_end(key)
        if len(self._rows) > self._size:
            self._rows.popitem(last=False)
