"""Signing: which DKIM keys sign a message, and the making of its signatures."""

from relayd.signing.crew import Crew
from relayd.signing.keyring import Found, Keyring, Rules, StoredKey
from relayd.signing.signer import WORKERS, NoKey, Signer

__all__ = ["WORKERS", "Crew", "Found", "Keyring", "NoKey", "Rules", "Signer", "StoredKey"]
