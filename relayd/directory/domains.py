"""Domains: the DKIM keys of accounts, as rows of the directory.

In: a domain, a selector, a PEM file or the wish for a new key.  Out: the row, with what lists want to show of the key
already in it, so that nothing is parsed before something is to be signed.  A private key is shown to nobody.
"""

import sqlite3
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from relayd.errors import InputError
from relayd.message.dkim import Key, generate, load_key, to_pem
from relayd.message.dkim.keys import GOOD_BITS, Algorithm, PrivateKey

DEFAULT_SELECTOR = "relayd"
Kind = Literal["rsa", "ed25519"]
_ALGORITHM: dict[Kind, Algorithm] = {"rsa": "rsa-sha256", "ed25519": "ed25519-sha256"}


class DomainKey(msgspec.Struct, frozen=True):
    """A signing key and whose it is.  ``bits`` is the size of an RSA key, 256 for Ed25519."""

    domain: str
    account: str
    selector: str
    pem: bytes
    algorithm: Algorithm
    bits: int
    created: float

    def __repr__(self) -> str:  # no traceback shows a key
        return f"DomainKey({self.domain!r}, {self.account!r}, {self.selector!r})"

    @property
    def weak(self) -> bool:
        """See ``dkim.Key.weak``."""
        return self.algorithm == "rsa-sha256" and self.bits < GOOD_BITS

    def key(self) -> Key:
        """The key itself.  Raises ValueError if somebody changed the file by hand."""
        return Key(self.domain, self.selector, load_key(self.pem, known=True))


def made(domain: str, account: str, selector: str, pem: bytes, wanted: Kind | None, now: float) -> DomainKey:
    """The row of an imported key, or of a new one if ``pem`` is empty.  Up to a second of CPU.  Raises InputError."""
    private = _imported(pem, wanted) if pem else generate(_ALGORITHM[wanted or "rsa"])
    try:
        key = Key(domain, selector, private)
    except ValueError as error:
        raise InputError("selector" if "selector" in str(error) else "name", str(error)) from None
    bits = getattr(private, "key_size", 256)
    return DomainKey(domain, account, selector, to_pem(private), key.algorithm, bits, now)


def _imported(pem: bytes, wanted: Kind | None) -> PrivateKey:
    try:
        private = load_key(pem)
    except ValueError as error:
        raise InputError("key", str(error)) from None
    kind = "rsa" if hasattr(private, "key_size") else "ed25519"
    if wanted and wanted != kind:
        raise InputError("algorithm", f"the key is of the other kind, {kind}")
    return private


def insert(db: sqlite3.Connection, row: DomainKey) -> DomainKey:
    """Adds a row.  Raises InputError if its account is unknown or its selector taken."""
    if not db.execute("SELECT 1 FROM accounts WHERE name = ?", (row.account,)).fetchone():
        raise InputError("account", f"there is no account {row.account!r}")
    sql = "INSERT INTO domains VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
    if not db.execute(sql, msgspec.structs.astuple(row)).rowcount:
        taken = f"{row.domain} already has a key with the selector {row.selector}: name another with --selector"
        raise InputError("selector", taken)
    return row


def delete(db: sqlite3.Connection, domain: str, selector: str) -> DomainKey:
    """Takes out the key of a selector, or with "" the only one.  Gives what it was.  Raises InputError."""
    rows = _rows(db.execute("SELECT * FROM domains WHERE domain = ? ORDER BY selector", (domain,)))
    chosen = [row for row in rows if selector in ("", row.selector)]
    if not chosen:
        raise InputError("name", f"there is no key {selector}".rstrip() + f" of the domain {domain} in the directory")
    if len(chosen) > 1:
        names = ", ".join(row.selector for row in chosen)
        raise InputError("selector", f"{domain} has several keys, name one: {names}")
    db.execute("DELETE FROM domains WHERE domain = ? AND selector = ?", (domain, chosen[0].selector))
    return chosen[0]


def stored(db: sqlite3.Connection) -> dict[str, tuple[DomainKey, ...]]:
    """All rows by domain."""
    found: dict[str, tuple[DomainKey, ...]] = {}
    for row in _rows(db.execute("SELECT * FROM domains ORDER BY domain, selector")):
        found[row.domain] = (*found.get(row.domain, ()), row)
    return found


def _rows(rows: Iterable[tuple[Any, ...]]) -> list[DomainKey]:
    return [DomainKey(*row) for row in rows]
