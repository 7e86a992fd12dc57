"""Passwords: checked without ever stopping the reactor, repeats for the price of a hash.

A password of ours is stored as ``scrypt$n$r$p$salt$key`` with salt and key in base64; ``hashes`` knows this and the
imported forms.  ``Verifier.check`` answers on the spot what it remembers (keyed BLAKE2 of login and password under a
key of this process, together with what was stored when it was checked, so a new password makes the memory void).
For the rest it asks a thread, where the GIL is dropped, or, for a connection kept as EXTERNAL, another system.
Unknown logins cost what wrong passwords cost.
"""

import base64
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from math import inf

from relayd.directory import hashes
from relayd.directory.hashes import EXTERNAL

_N, _R, _P = 2**14, 8, 1
_OURS = f"scrypt${_N}${_R}${_P}$"
_LONGEST = 1024
_WRONG_FOR = 10.0  # seconds at most that another system's "no" is believed: the password may have just been made there


class Verdict(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    BUSY = "busy"
    UNSURE = "unsure"  # whoever knows could not be asked


Done = Callable[[Verdict], None]
Ask = Callable[[str, str, str, Done], None]  # login, password, the client's IP address


def hash_password(password: str, salt: bytes | None = None) -> str:
    """The form to store.  About 50 ms of CPU."""
    salt = salt if salt is not None else secrets.token_bytes(16)
    key = hashlib.scrypt(_bytes(password), salt=salt, n=_N, r=_R, p=_P, maxmem=hashes.SCRYPT_MEMORY)
    return _stored(salt, key)


def _stored(*parts: bytes) -> str:
    return _OURS + "$".join(base64.b64encode(part).decode() for part in parts)


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


def verify_password(password: str, stored: str) -> bool:
    """Whether the password made the stored hash; a hash that cannot be read matches nothing."""
    return hashes.verify(_bytes(password), stored)


_NOBODY = _stored(secrets.token_bytes(16), secrets.token_bytes(64))  # of no password that anybody could find


def _nobody_to_ask(login: str, password: str, client: str, answered: Done) -> None:
    answered(Verdict.UNSURE)


class Verifier:
    """Checks passwords by what ``stored(login)`` gives: a hash, EXTERNAL, or "" if there is no such login.

    ``submit`` runs a function in some thread, ``post`` brings one back to the caller's.  ``done`` is called exactly
    once, on the spot if the answer is remembered, and must not raise.  Above ``pending`` different checks under way it
    is BUSY.  A right answer says nothing about the connection's state: that is the caller's to look at, each time.
    ``renew(login, old, new)`` gets a hash of ours for the imported one that a password has just proved right.
    """

    def __init__(
        self,
        stored: Callable[[str], str],
        submit: Callable[[Callable[[], None]], object],
        post: Callable[[Callable[[], None]], None],
        now: Callable[[], float],
        renew: Callable[[str, str, str], None],
        *,
        pending: int = 64,
        remembered: int = 10000,
        secret: bytes | None = None,
    ) -> None:
        self._stored = stored
        self._submit = submit
        self._post = post
        self._now = now
        self._renew = renew
        self._limit = pending
        self._remembered = remembered
        self._secret = secret if secret is not None else secrets.token_bytes(32)
        self._hashes = _Desk(remembered)
        self.ask_externally(_nobody_to_ask, 0.0)

    def ask_externally(self, ask: Ask, cache: float) -> None:
        """Who is asked from now on about EXTERNAL logins, and for how many seconds a right answer is remembered;
        earlier answers are forgotten."""
        self._ask = ask
        self._external = _Desk(self._remembered, cache, min(cache, _WRONG_FOR))

    def check(self, login: str, password: str, done: Done, client: str = "") -> None:
        """Calls ``done`` with the verdict on a client that came from the IP address ``client``."""
        if len(password) > _LONGEST or len(login) > _LONGEST:
            return done(Verdict.WRONG)
        stored = self._stored(login)
        # Another system's answer may depend on where the client is; a hash's cannot.
        desk, place = (self._external, client) if stored == EXTERNAL else (self._hashes, "")
        # Lengths keep ("ab", "c") and ("a", "bc") apart.
        text = _bytes(f"{len(login)}:{login}{len(place)}:{place}{password}")
        key = hashlib.blake2b(text, key=self._secret, digest_size=32).digest()
        now = self._now()
        if desk.right.has(key, stored, now):
            return done(Verdict.RIGHT)
        if desk.wrong.has(key, stored, now):
            return done(Verdict.WRONG)
        if waiting := desk.waiting.get((key, stored)):
            return waiting.append((done, client))
        if len(desk.waiting) >= self._limit:
            return done(Verdict.BUSY)
        desk.waiting[key, stored] = [(done, client)]

        def finish(verdict: Verdict) -> None:
            waiting = desk.settle(key, stored, verdict, self._now())
            for done, client in waiting:
                if self._stored(login) == stored:
                    done(verdict)
                else:  # changed while we looked at the old one: the answer must be about the new
                    self.check(login, password, done, client)

        if stored == EXTERNAL:
            self._ask(login, password, client, finish)
        else:
            self._submit(lambda: self._work(login, password, stored, finish))

    def _work(self, login: str, password: str, stored: str, finish: Done) -> None:
        """In the thread."""
        ours = stored.startswith(_OURS)
        right = bool(stored) and verify_password(password, stored)
        if not right and not ours:  # how long a no takes must not tell which logins there are
            verify_password(password, _NOBODY)
        self._post(lambda: finish(Verdict.RIGHT if right else Verdict.WRONG))
        if right and not ours:
            new = hash_password(password)
            self._post(lambda: self._renew(login, stored, new))


class _Desk:
    """Checks of one kind: who waits for which, with his address, and what is remembered, for how many seconds."""

    def __init__(self, remembered: int, right: float = inf, wrong: float = inf) -> None:
        self.waiting: dict[tuple[bytes, str], list[tuple[Done, str]]] = {}
        # Two memories, so that a guesser can push only his own guesses out.
        self.right, self.wrong = _Memory(remembered, right), _Memory(remembered, wrong)

    def settle(self, key: bytes, stored: str, verdict: Verdict, now: float) -> list[tuple[Done, str]]:
        """Remembers a verdict, if it is one; gives those who wait for it."""
        if verdict is Verdict.RIGHT:
            self.right.add(key, stored, now)
        elif verdict is Verdict.WRONG:
            self.wrong.add(key, stored, now)
        return self.waiting.pop((key, stored))


class _Memory:
    """The last so many keys, each with what was stored when it was answered, and until when the answer holds."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._rows: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def has(self, key: bytes, stored: str, now: float) -> bool:
        row = self._rows.get(key)
        if row is None or row[0] != stored or row[1] <= now:
            return False
        self._rows.move_to_end(key)
        return True

    def add(self, key: bytes, stored: str, now: float) -> None:
        self._rows[key] = stored, now + self._seconds
        self._rows.move_to_end(key)
        if len(self._rows) > self._size:
            self._rows.popitem(last=False)
