"""Where webhooks may go: what their URLs look like, and which addresses they may lead to.

In: a URL, the addresses of its host.  Out: its parts; why not, in words.  A customer chooses the URL and relayd stands
inside the operator's network, so only addresses of the public Internet are allowed, and those that an operator names.
Addresses that carry an IPv4 address (RFC 4291 mapped and compatible, 6to4, NAT64) count as what they carry.
"""

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from relayd import notation

_LONGEST = 2000  # characters of a URL
_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out (RFC 4291 section 2.4)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
# Not public by later RFCs (6890, 9637, 7526) than some Pythons know.
_SPECIAL = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Target(msgspec.Struct, frozen=True):
    """``host`` is a name or an address; ``secure``: by https."""

    url: str
    host: str
    port: int
    secure: bool


def parse_url(url: str) -> Target:
    """Raises ValueError with a sentence."""
    if not re.fullmatch("[!-~]+", url) or len(url) > _LONGEST:
        raise ValueError(f'is not a URL of up to {_LONGEST} characters: write "https://crm.example/events"')
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise ValueError('is not a URL for webhooks: write "https://crm.example/events"')
    if "@" in parts.netloc:
        raise ValueError("must hold no login: verify the signature instead")
    if "#" in url:
        raise ValueError("must have no fragment: nothing behind # is ever sent")
    host = parts.hostname if is_address(parts.hostname) else notation.hostname(parts.hostname)
    secure = parts.scheme == "https"
    return Target(url, host, port or (443 if secure else 80), secure)


def refusal(target: Target, addresses: Iterable[str], allow: Iterable[str]) -> str:
    """Why nothing is posted there, "" if it may be: every one of the host's addresses has to be allowed."""
    allow = tuple(allow)
    for address in addresses:
        listed = notation.within(address, allow)
        if not listed and not is_public(address):
            return f"{target.host} is {address}, which is no public address: [webhooks] allow may name it"
        if not listed and not target.secure:
            return f"http:// would send events to {address} in clear: write https://"
    return ""


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    return _public(ipaddress.ip_address(address))


def _public(ip: Address) -> bool:
    if ip.is_multicast or any(ip in network for network in _SPECIAL):
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not (ip.is_unspecified or ip.is_reserved)
    carried = ip.ipv4_mapped or ip.sixtofour or (_last(ip) if ip in _NAT64 or ip in _COMPATIBLE else None)
    if carried is not None:
        return _public(carried)
    return ip in _UNICAST and ip.is_global and ip.teredo is None


def _last(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
