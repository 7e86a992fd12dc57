"""Tokens of the control API: who may ask over the network, and as whom.

In: tokens that operators make and revoke, texts that callers show.  Out: the token that a text is, by a dict look-up
and one comparison in constant time.  Of a secret only the SHA-256 is kept: 256 random bits need nothing slower.
"""

import hashlib
import hmac
import re
import secrets
import sqlite3
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, Literal

import msgspec

from relayd import notation
from relayd.directory import rows
from relayd.directory.balances import Change
from relayd.errors import InputError

TokenRole = Literal["view", "operate", "admin", "customer"]

_TEXT = re.compile(r"relayd_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
_NOBODYS = bytes(32)  # is compared with where there is no token, for the same work
_EVERY = 60.0  # seconds between notes of a token's use


class ApiToken(msgspec.Struct, frozen=True):
    """``account``: whose a customer's is.  ``networks``: where it may be used, none means anywhere.  Times are unix
    seconds: ``expires`` 0 is never, ``used`` 0 not yet, and up to a minute behind."""

    name: str
    id: str
    digest: bytes
    role: TokenRole
    account: str = ""
    networks: tuple[str, ...] = ()
    note: str = ""
    by: str = ""
    created: float = 0.0
    expires: float = 0.0
    used: float = 0.0
    used_from: str = ""

    def over(self, now: float) -> bool:
        return bool(self.expires) and now >= self.expires

    def may_come_from(self, client: str) -> bool:
        return not self.networks or notation.within(client, self.networks)


class NewToken(msgspec.Struct, frozen=True):
    """A token just made, and the only time that its text is seen."""

    token: ApiToken
    text: str


class ApiTokens:
    """Everything is for the main thread, as in the Directory; changes give a Future."""

    def __init__(self, db: sqlite3.Connection, run: Change) -> None:
        """``run``: a job on the directory's thread; nothing is derived from tokens."""
        self._run = run
        self._by_id = {row.id: row for row in map(_token, db.execute("SELECT * FROM api_tokens"))}

    def all(self) -> list[ApiToken]:
        return sorted(self._by_id.values(), key=lambda row: row.name)

    def read(self, text: str) -> tuple[ApiToken | None, bool]:
        """The token that a text names, and whether it proves to be it."""
        match = _TEXT.fullmatch(text)
        id, secret = match.groups() if match else ("", "")
        known = self._by_id.get(id)
        same = hmac.compare_digest(_digest(secret), known.digest if known else _NOBODYS)
        return known, same and known is not None

    def add(
        self,
        name: str,
        role: TokenRole,
        *,
        now: float,
        by: str,
        account: str = "",
        networks: Iterable[str] = (),
        expires: float = 0.0,
        note: str = "",
    ) -> "Future[NewToken]":
        """Raises InputError."""
        id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        try:
            notation.name(name)
        except ValueError as error:
            raise InputError("name", str(error)) from None
        try:
            within = rows.networks(networks)
        except ValueError as error:
            raise InputError("network", str(error)) from None
        row = ApiToken(name, id, _digest(secret), role, account, within, note, by, now, expires)

        def write(db: sqlite3.Connection) -> ApiToken:
            if account and not db.execute("SELECT 1 FROM accounts WHERE name = ?", (account,)).fetchone():
                raise InputError("account", f"there is no account {account!r}")
            insert = "INSERT INTO api_tokens VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (name) DO NOTHING"
            if not db.execute(insert, _values(row)).rowcount:
                raise InputError("name", f"there is already a token {name!r}: revoke it, or name this one otherwise")
            return row

        def keep(row: ApiToken) -> NewToken:
            self._by_id[id] = row
            return NewToken(row, f"relayd_{id}_{secret}")

        return self._run(write, keep)

    def revoke(self, name: str) -> "Future[ApiToken]":
        """Gives what it was; it is void when the future is done."""
        near = notation.nearest(name, [row.name for row in self._by_id.values()])

        def write(db: sqlite3.Connection) -> ApiToken:
            found = db.execute("DELETE FROM api_tokens WHERE name = ? RETURNING *", (name,)).fetchall()
            if not found:
                raise InputError("name", f"there is no token {name!r}{near}")
            return _token(found[0])

        def forget(row: ApiToken) -> ApiToken:
            self._by_id.pop(row.id, None)
            return row

        return self._run(write, forget)

    def touch(self, token: ApiToken, client: str, now: float) -> "Future[None] | None":
        """Notes that it was used; None if that was noted within the last minute."""
        known = self._by_id.get(token.id)
        if known is None or abs(now - known.used) < _EVERY:
            return None
        # At once, so that a minute's requests write once, whatever the disk does.
        self._by_id[token.id] = msgspec.structs.replace(known, used=now, used_from=client)

        def write(db: sqlite3.Connection) -> None:
            db.execute("UPDATE api_tokens SET used = ?, used_from = ? WHERE id = ?", (now, client, token.id))

        return self._run(write, lambda written: written)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _token(row: tuple[Any, ...]) -> ApiToken:
    found = dict(zip(ApiToken.__struct_fields__, row, strict=True))
    # RETURNING shows numbers before their columns make them REAL.
    times = {name: float(found[name]) for name in ("created", "expires", "used")}
    return ApiToken(**{**found, **times, "networks": msgspec.json.decode(found["networks"], type=tuple[str, ...])})


def _values(row: ApiToken) -> tuple[object, ...]:
    return tuple({**msgspec.structs.asdict(row), "networks": msgspec.json.encode(row.networks).decode()}.values())
