"""Signatures of webhooks, as the Standard Webhooks specification has them (standardwebhooks.com), "v1".

In: secrets, a message's id, the time, the body as it goes out.  Out: header values.  A signature covers all three, so
none can be changed, and an old message that comes again is known by its time.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

_OCTETS = 32


def new_secret() -> bytes:
    return secrets.token_bytes(_OCTETS)


def shown(secret: bytes) -> str:
    """As its owner keeps it."""
    return "whsec_" + base64.b64encode(secret).decode()


def message_id(events: Iterable[str]) -> str:
    """The id of what carries these events: the same whenever the same are sent again, and no other's."""
    return "msg_" + hashlib.sha256("\n".join(events).encode()).hexdigest()[:32]


def sign(keys: Iterable[bytes], id: str, timestamp: int, body: bytes) -> str:
    """A signature by each key, parted by spaces: who knows any of them can verify."""
    signed = f"{id}.{timestamp}.".encode() + body
    made = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join("v1," + base64.b64encode(signature).decode() for signature in made)
