"""DKIM signing (RFC 6376, RFC 8301, RFC 8463), the pure part: canonical forms, keys, signatures."""

from relayd.message.dkim.canonical import BodyHash
from relayd.message.dkim.keys import (
    Key,
    aligned,
    dns_record,
    generate,
    load_key,
    mismatch,
    to_pem,
    txt_strings,
)
from relayd.message.dkim.sign import ToSign, finish, prepare, sign

__all__ = [
    "BodyHash",
    "Key",
    "ToSign",
    "aligned",
    "dns_record",
    "finish",
    "generate",
    "load_key",
    "mismatch",
    "prepare",
    "sign",
    "to_pem",
    "txt_strings",
]
