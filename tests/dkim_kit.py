"""For tests of DKIM: keys, a message, and dkimpy as the receiver who verifies."""

import base64
from functools import cache
from types import SimpleNamespace

import dkim
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from relayd.message.dkim import BodyHash, Key, dns_record, generate
from relayd.message.dkim.keys import Algorithm, PrivateKey

NOW = 1_700_000_000

HEAD = (
    b"Received: from crm.example (crm.example [192.0.2.1])\r\n"
    b"\tby mx1.relay.example; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b'From: "The News" <news@sender.example>\r\n'
    b"To: one@rcpt.example,\r\n two@rcpt.example\r\n"
    b"Cc: three@rcpt.example\r\n"
    b"Reply-To: answers@sender.example\r\n"
    b"Subject:  What   happened \t today\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
    b"Message-ID: <1@sender.example>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain;\r\n\tcharset=utf-8 \r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"List-Unsubscribe: <https://u.sender.example/1>\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    b"X-Mailer: crm\r\n"
    b"\r\n"
)
BODY = b"Good  morning,\t\r\n\r\n this is all. \r\n\r\n\r\n"


class BadSignatureError(Exception):
    pass


class VerifyKey:
    """What dkimpy asks of PyNaCl, answered by cryptography: the curve's arithmetic and nothing of DKIM."""

    def __init__(self, key: bytes, encoder: object) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(base64.b64decode(key))

    def verify(self, data: bytes, signature: bytes) -> None:
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            raise BadSignatureError from None


dkim.nacl = SimpleNamespace(
    signing=SimpleNamespace(VerifyKey=VerifyKey),
    encoding=SimpleNamespace(Base64Encoder=None),
    exceptions=SimpleNamespace(BadSignatureError=BadSignatureError, ValueError=ValueError),
)


@cache
def private(algorithm: Algorithm) -> PrivateKey:
    return generate(algorithm)


def rsa(**names: str) -> Key:
    return key("rsa-sha256", **names)


def ed25519(**names: str) -> Key:
    return key("ed25519-sha256", **names)


def key(algorithm: Algorithm, domain: str = "sender.example", selector: str = "", **forms: str) -> Key:
    return Key(domain, selector or algorithm[:3], private(algorithm), **forms)  # type: ignore[arg-type]


def hashes(body: bytes) -> dict[str, bytes]:
    out = {}
    for form in ("simple", "relaxed"):
        hashing = BodyHash(form)  # type: ignore[arg-type]
        hashing.feed(body)
        out[form] = hashing.digest()
    return out


def verifies(message: bytes, keys: list[Key]) -> list[bool]:
    """Whether each signature of a message passes, from the top, for a receiver who finds these keys in DNS."""
    records = {f"{name}.".encode(): text.encode() for name, text in map(dns_record, keys)}
    receiver = dkim.DKIM(message)
    return [passes(receiver, index, records) for index in range(len(keys))]


def passes(receiver: dkim.DKIM, index: int, records: dict[bytes, bytes]) -> bool:
    try:
        return bool(receiver.verify(idx=index, dnsfunc=lambda name, timeout=5: records.get(name)))
    except dkim.ValidationError:
        return False
