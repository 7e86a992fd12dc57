"""DKIM keys: reading, making, publishing and choosing them (RFC 6376 section 3.6, RFC 8301, RFC 8463).

In: PEM files, domains and selectors.  Out: ``Key``, the DNS records that its owner must publish, what is wrong with
the record that was found instead, and the keys that sign for a From domain.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal, assert_never

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from relayd.message.dkim.canonical import Canonicalization

Algorithm = Literal["rsa-sha256", "ed25519-sha256"]
PrivateKey = RSAPrivateKey | Ed25519PrivateKey

LEAST_BITS, GOOD_BITS, MOST_BITS = 1024, 2048, 4096  # of RSA: RFC 8301 section 3.2
_LINE = 78  # RFC 5322 section 2.1.1
_TXT_STRING = 255  # octets of one character-string in a TXT record: RFC 1035 section 3.3

_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})+")
_SELECTOR = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")


class Key(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A private key with the names it signs by.  ``domain`` is lower case with A-labels.  Raises ValueError."""

    domain: str
    selector: str
    private: PrivateKey
    head: Canonicalization = "relaxed"
    body: Canonicalization = "relaxed"

    def __post_init__(self) -> None:
        # Both are written into headers and DNS names, so they hold nothing but labels.
        if not _DOMAIN.fullmatch(self.domain):
            raise ValueError(f"{self.domain!r} is not a domain that can sign: lower-case labels, at least two")
        if not _SELECTOR.fullmatch(self.selector):
            raise ValueError(f"{self.selector!r} is not a selector: letters, digits, hyphens, labels joined by dots")

    @cached_property
    def algorithm(self) -> Algorithm:
        return "rsa-sha256" if isinstance(self.private, RSAPrivateKey) else "ed25519-sha256"

    @property
    def weak(self) -> bool:
        """RSA of fewer than 2048 bits: still verified by everyone, advised against by RFC 8301."""
        return isinstance(self.private, RSAPrivateKey) and self.private.key_size < GOOD_BITS

    @cached_property
    def lead(self) -> bytes:
        """How all its signature fields begin."""
        who = f" d={self.domain}; s={self.selector};"
        if len(who) > _LINE:
            who = f" d={self.domain};\r\n s={self.selector};"
        return f"DKIM-Signature: v=1; a={self.algorithm}; c={self.head}/{self.body};\r\n{who}\r\n t=".encode()

    @cached_property
    def published(self) -> str:
        """The public key as p= has it: RFC 6376 section 3.6.1 for RSA, RFC 8463 section 4 for Ed25519."""
        raw = self.algorithm == "ed25519-sha256"
        encoding = serialization.Encoding.Raw if raw else serialization.Encoding.DER
        form = serialization.PublicFormat.Raw if raw else serialization.PublicFormat.SubjectPublicKeyInfo
        return base64.b64encode(self.private.public_key().public_bytes(encoding, form)).decode()


def load_key(pem: bytes, *, known: bool = False) -> PrivateKey:
    """The private key of a PEM file, or of the bare base64 seed that some tools write for Ed25519.

    ``known`` says that it was loaded before and has not changed: RSA's own numbers are then not proved again, which
    takes 90 ms for 2048 bits against 30 us for the rest.  Raises ValueError with a sentence for the operator.
    """
    if b"-----BEGIN" not in pem:
        return _from_seed(pem)
    try:
        private = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=known)
    except TypeError:
        raise ValueError("The key is encrypted: a relay that starts by itself cannot ask for its password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("The file holds no private key that can be read: RSA or Ed25519 in PEM is expected") from None
    if isinstance(private, RSAPrivateKey):
        if not LEAST_BITS <= private.key_size <= MOST_BITS:
            raise ValueError(
                f"The key has {private.key_size} bits: receivers verify RSA of {LEAST_BITS} to {MOST_BITS} bits only"
            )
    elif not isinstance(private, Ed25519PrivateKey):
        raise ValueError("The key is neither RSA nor Ed25519: DKIM has no others")
    return private


def _from_seed(text: bytes) -> Ed25519PrivateKey:
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError):
        raise ValueError("The file holds no private key: neither PEM nor the base64 of an Ed25519 seed") from None


def generate(algorithm: Algorithm = "rsa-sha256") -> PrivateKey:
    """A new private key: RSA of 2048 bits (the most that one UDP answer and every DNS panel take) or Ed25519."""
    match algorithm:
        case "rsa-sha256":
            return generate_private_key(65537, GOOD_BITS)
        case "ed25519-sha256":
            return Ed25519PrivateKey.generate()
        case _:
            assert_never(algorithm)


def to_pem(private: PrivateKey) -> bytes:
    """The key as ``load_key`` reads it (PKCS #8, not encrypted)."""
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def dns_record(key: Key) -> tuple[str, str]:
    """(name, text) of the TXT record to publish (RFC 6376 section 3.6.1)."""
    kind = key.algorithm.partition("-")[0]
    return f"{key.selector}._domainkey.{key.domain}", f"v=DKIM1; k={kind}; p={key.published}"


def txt_strings(text: str) -> list[str]:
    """A TXT record's text as the strings of at most 255 octets that it consists of."""
    return [text[i : i + _TXT_STRING] for i in range(0, len(text), _TXT_STRING)]


def mismatch(key: Key, text: str) -> str:
    """Why the TXT record that was found would not let this key's signatures pass: a sentence, or "" if it would."""
    tags = {tag.strip(): "".join(value.split()) for tag, _, value in (part.partition("=") for part in text.split(";"))}
    kind = key.algorithm.partition("-")[0]
    if tags.get("v", "DKIM1") != "DKIM1":
        return "the record is of another version than DKIM1"
    if "p" not in tags:
        return "the record has no public key (p=)"
    if not tags["p"]:
        return "the record says that the key is revoked (empty p=)"
    if tags.get("k", "rsa") != kind:
        return f"the record is not for {kind} keys (k=)"
    if "sha256" not in tags.get("h", "sha256").split(":"):
        return "the record does not allow sha256 (h=)"
    if not {"*", "email"} & set(tags.get("s", "*").split(":")):
        return "the record is not for mail (s=)"
    return "" if tags["p"] == key.published else "the record has another public key"


def aligned(from_domain: str, keys: Mapping[str, Sequence[Key]], own: Iterable[Key] = ()) -> list[Key]:
    """The keys that sign for a From domain (lower case, A-labels): those of the domain itself or else of its nearest
    parent that has any, which is what DMARC calls aligned (RFC 7489 section 3.1.1); then the relay's ``own``, unless
    they are of that same domain.  One look-up for each label, however many keys there are."""
    domain = from_domain
    found = keys.get(domain)
    while not found:
        domain = domain.partition(".")[2]
        if "." not in domain:  # nobody signs for a top-level domain
            return list(own)
        found = keys.get(domain)
    return [*found, *(key for key in own if key.domain != domain)]
