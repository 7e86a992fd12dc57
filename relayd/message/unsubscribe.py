"""List-Unsubscribe (RFC 2369, RFC 8058): how a message says where its recipient can unsubscribe.

In: the header section as it came, the domain of our addresses, perhaps an address of ours on the web.  Out: the field,
with ``PLACE`` where a recipient's token goes, and the names of fields that it replaces.

A message has one such field, and readers use the first address they can.  The sender's own on the web stay in front:
Gmail and Yahoo want one-click (RFC 8058 needs exactly one https address), his as long as he offers it.  Ours
by mail comes next, before any of his by mail: so we hear of it and keep to it whatever he does, and tell him.
"""

import re

import msgspec

from relayd.envelope import PLACE
from relayd.message.headers import fields

ONE_CLICK = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"

_FIELD, _POST = b"list-unsubscribe", b"list-unsubscribe-post"
_SPACE = re.compile(rb"\s+")
_URI = re.compile(rb"<([A-Za-z][A-Za-z0-9+.-]*:[!-;=?-~]{1,900})>")
_MOST = 8  # addresses of the sender's that are kept


class Offer(msgspec.Struct, frozen=True):
    """``text``: whole lines; ``drop``: lower-case names of the fields whose place it takes."""

    text: str
    drop: tuple[str, ...] = ()


def offer(head: bytes, domain: str, url: str = "") -> Offer | None:
    """What a message should say, ``url`` with ``PLACE`` in it; None if its sender has signed what it says already."""
    own: dict[bytes, bytes] = {}
    for name, value in fields(head):
        name = name.lower()
        if name in (_FIELD, _POST):
            own[name] = own.get(name, b"") + value
        elif name == b"dkim-signature" and _FIELD in value.lower():
            return None
    addresses = [found.decode() for found in _URI.findall(_SPACE.sub(b"", own.get(_FIELD, b"")))[:_MOST]]
    web = [address for address in addresses if address.lower().startswith(("http:", "https:"))]
    others = [address for address in addresses if address not in web]
    one_click = bool(url) and not any(address.lower().startswith("https:") for address in web)
    if one_click:
        web = [url]
    said = [*web, f"mailto:{PLACE}@{domain}?subject=unsubscribe", *others]
    text = "List-Unsubscribe: " + ",\r\n ".join(f"<{address}>" for address in said) + "\r\n"
    replaced = (_FIELD, _POST) if one_click else (_FIELD,)
    drop = tuple(name.decode() for name in replaced if name in own)
    return Offer(text + ONE_CLICK if one_click else text, drop)
