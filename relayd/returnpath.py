"""Tokens: addresses of ours that name a delivery, for bounces and complaints to come back to and for unsubscribes.

In: a delivery's identity and the keys.  Out: a local part of 33 letters and digits, whatever case others make of it;
and of one that came back, what it names, or why it counts for nothing.  No address is in it, and nobody without the key
can make one: a letter for the purpose, then 20 octets in base32 (RFC 4648: they fill its 32 characters to the last bit,
so any other character is another token): the key's id (2), the delivery's (8), HMAC-SHA256 over all of it (10 of 32).

Key and domain are fixed at reception, so a delivery has the same return path at every attempt (greylisting keeps
strangers waiting) and keys can change at any time.  RFC 5321 section 4.5.3.1.1 allows a local part 64 octets; those who
forward rewrite ours into their own (SRS), which takes some 30 more than it and its domain.
"""

import re
import struct
from base64 import b32decode, b32encode
from collections.abc import Container, Mapping
from enum import Enum
from hmac import compare_digest, digest
from itertools import islice
from typing import Literal

import msgspec

from relayd.envelope import PLACE, Delivery, Marks, Returns
from relayd.identity import received_at

Purpose = Literal["bounce", "unsubscribe"]

ACCEPT = 60 * 86400.0  # seconds after a message's reception for which its tokens count
KEY_IDS = 1 << 16
TRACE = "X-Return-Token"  # our field with a delivery's token: complaints often bring back nothing else unblackened
ROLES = ("postmaster", "abuse", "fbl")  # RFC 2142, and where feedback loops are subscribed to

_PURPOSES: dict[str, Purpose] = {"b": "bounce", "u": "unsubscribe"}
_LETTERS = {purpose: letter for letter, purpose in _PURPOSES.items()}
_IDS = struct.Struct(">HQ")
_MAC = 10  # octets of it: who guesses has one try for each RCPT
_TOKEN = re.compile(r"[bu][a-z2-7]{32}", re.IGNORECASE | re.ASCII)
_WITHIN = re.compile(rb"(?<![a-z0-9])[bu][a-z2-7]{32}(?![a-z0-9])", re.IGNORECASE)
_LOOKS = 50  # like tokens, of one text


class Key(msgspec.Struct, frozen=True):
    """``made``: unix seconds."""

    id: int
    secret: bytes
    made: float

    def __repr__(self) -> str:
        return f"Key({self.id})"  # never the secret


class Keys(msgspec.Struct, frozen=True):
    """All keys that still verify; the newest makes the tokens of new mail."""

    by_id: Mapping[int, Key]
    newest: Key
    accept: float = ACCEPT

    def get(self, identity: int) -> Key:
        """A message's own; where it is not known (a spool that came without its directory), the newest."""
        return self.by_id.get(identity, self.newest)


class Token(msgspec.Struct, frozen=True):
    """A token that counts: what for, the delivery's identity, seconds since its message's reception."""

    purpose: Purpose
    id: int
    age: float


class Role(msgspec.Struct, frozen=True):
    """An address of a function at a domain of ours, one of ``ROLES``."""

    name: str


class Void(Enum):
    """What counts for nothing."""

    FORGED = "forged"
    EXPIRED = "expired"
    STRANGE = "strange"  # no token, and at no domain of ours


def make(purpose: Purpose, identity: int, key: Key) -> str:
    """The token of a delivery: a local part.  4 us."""
    letter = _LETTERS[purpose]
    ids = _IDS.pack(key.id, identity)
    return letter + b32encode(ids + _mac(letter, ids, key)).decode().lower()


def read(local: str, keys: Keys, now: float) -> Token | Void:
    """What a local part names; ``now`` is unix seconds."""
    if not _TOKEN.fullmatch(local):
        return Void.FORGED
    letter, octets = local[0].lower(), b32decode(local[1:].upper())
    ids = octets[: _IDS.size]
    number, identity = _IDS.unpack(ids)
    key = keys.by_id.get(number)
    if key is None or not compare_digest(octets[_IDS.size :], _mac(letter, ids, key)):
        return Void.FORGED
    age = now - received_at(identity)
    return Void.EXPIRED if age > keys.accept else Token(_PURPOSES[letter], identity, age)


def find(text: bytes, keys: Keys, now: float) -> Token | Void | None:
    """The first token that counts in a report or the original that it brings back, wherever it stands: in Return-Path,
    Original-Mail-From, our own field, List-Unsubscribe.  It proves itself, so its surroundings need not be trusted.
    Else why those that are there count for nothing; None if nothing looks like one."""
    void = None
    for found in islice(_WITHIN.finditer(text), _LOOKS):
        token = read(found[0].decode(), keys, now)
        if isinstance(token, Token):
            return token
        void = Void.EXPIRED if Void.EXPIRED in (token, void) else token
    return void


def may_hold(text: bytes) -> bool:
    """Whether anything in it looks like a token: all that can be said without the keys."""
    return bool(_WITHIN.search(text))


def addressed(address: str, ours: Container[str], keys: Keys, now: float) -> Token | Role | Void:
    """Whom a recipient's address means; ``ours`` are the domains of return paths (lower case).  A token counts at any
    domain: we gave it out, and the zone of an account may have been renamed since."""
    local, _, domain = address.rpartition("@")
    local = (local or domain).lower()  # RFC 5321 section 4.5.1: postmaster may stand without a domain
    token = read(local, keys, now)
    if token is not Void.FORGED:
        return token
    if address.lower() != "postmaster" and domain.lower() not in ours:
        return Void.STRANGE
    return Role(local) if local in ROLES else token


def marks(delivery: Delivery, keys: Keys) -> Marks:
    """What only this delivery has when it goes out.  The null sender stays what it is: nobody answers it."""
    sender, returns = delivery.message.envelope.sender, delivery.message.edits.returns
    if returns is None:
        return Marks(sender)
    token = make("bounce", delivery.id, keys.get(returns.key))
    trace = f"{TRACE}: {token}\r\n".encode()
    return Marks(f"{token}@{returns.domain}" if sender else "", trace, unsubscribe(returns, delivery.id, keys))


def unsubscribe(returns: Returns, identity: int, keys: Keys) -> bytes:
    """A delivery's List-Unsubscribe."""
    if not returns.unsubscribe:
        return b""
    return returns.unsubscribe.replace(PLACE, make("unsubscribe", identity, keys.get(returns.key))).encode()


def _mac(letter: str, ids: bytes, key: Key) -> bytes:
    return digest(key.secret, letter.encode() + ids, "sha256")[:_MAC]
