"""Values of the configuration as they are written: durations, sizes, names, addresses, URLs, limits.

In: what TOML gives.  Out: seconds, bytes, checked text; or ValueError with a sentence for who wrote it.
"""

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from relayd import notation
from relayd.events import NAMES
from relayd.events import Name as EventName
from relayd.shaping import limits
from relayd.submission import FATES, Fate
from relayd.tables import File

_SHORTEST_ACCEPT = 35 * 86400.0


def addresses(value: object) -> tuple[str, ...]:
    found = tuple(notation.address(item) for item in (value if isinstance(value, list) else [value]) if item != "")
    if len({":" in item for item in found}) < len(found):
        raise ValueError("a source has one address per family")
    return found


def nameserver(value: object) -> str:
    host, port = notation.host_port(value, 53)
    host = notation.address(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def endpoint_text(value: object) -> str:
    notation.endpoint(value)
    return str(value)


def next_hop(value: object) -> str:
    notation.host_port(value)
    return str(value)


def weights(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not value:
        raise ValueError("names no source: write { name = weight }")
    return {name: notation.whole(1)(weight) for name, weight in value.items()}


def risk_pools(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not {*value} <= {"low", "normal", "high"}:
        raise ValueError('is not { high = "POOL" }: the classes are low, normal and high')
    return {risk: notation.name(pool) for risk, pool in value.items()}


def pool_for(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError('is not { "*.DOMAIN" = "POOL" }')
    if "*" in value:
        raise ValueError('"*" is every domain: write pool = "POOL"')
    return {notation.domain_pattern(pattern): notation.name(pool) for pattern, pool in value.items()}


def durations(value: object) -> tuple[float, ...]:
    found = notation.list_of(notation.duration)(value)
    if not found:
        raise ValueError("names no wait")
    return found


def hosts(value: object) -> tuple[str, ...]:
    found = notation.list_of(notation.domain_pattern)(value)
    if not found or "*" in found:
        raise ValueError('names no mail hosts: write ["*.google.com"]')
    return found


def rate(value: object) -> str:
    if value != "":
        limits.rate(value)
    return str(value)


def volume(value: object) -> str:
    if value != "":
        limits.volume(value)
    return str(value)


def hours(value: object) -> str:
    limits.parse_limits({"hours": value})
    return str(value)


def shared(value: object) -> limits.Limits:
    """Limits of a source, a pool or an account: sessions are ended by paths."""
    return limits.parse_limits(value, tuple(key for key in limits.LIMITS if key != "deliveries_per_session"))


def account(value: object) -> limits.Limits:
    """Limits of an account: a session carries everybody's mail."""
    return limits.parse_limits(value, limits.OWN)


def accept(value: object) -> float:
    seconds = notation.duration(value)
    if seconds < _SHORTEST_ACCEPT:
        raise ValueError(f'{value!r} is too short: mail may wait 30 days before it goes; write "35d" or more')
    return seconds


def login_url(value: object) -> str:
    instead = "what proves relayd to the other system goes into token_file"
    return url(value, "https://crm.example/login", "passwords", instead)


def filter_url(value: object) -> str:
    return url(value, "http://127.0.0.1:11333/checkv2", "mail", "the filter is asked without one")


def redis_url(value: object) -> str:
    text = value if isinstance(value, str) and re.fullmatch("[!-~]+", value) else ""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not re.fullmatch("/?[0-9]*", parts.path) or parts.query:
        raise ValueError('is not the URL of a Redis: write "redis://127.0.0.1:6379/0"')
    if parts.password is not None:
        raise ValueError("must hold no password: it goes into password_file")
    if parts.scheme == "redis" and not loopback(parts.hostname or ""):
        raise ValueError(
            f"would send events to {parts.hostname} in clear: write rediss://, redis:// is for this machine"
        )
    return text


def event(value: object) -> EventName:
    if value not in NAMES:
        raise ValueError(f"there is no event {value!r}{notation.nearest(str(value), NAMES)}")
    return value


def actions(value: object) -> dict[str, Fate]:
    fates = list(dict.fromkeys(FATES.values()))
    if not isinstance(value, dict) or not all(fate in fates for fate in value.values()):
        raise ValueError(f'is not {{ reject = "refuse" }}: what becomes of a message is one of {", ".join(fates)}')
    for action in (action for action in value if action not in FATES):
        raise ValueError(f"{action!r} is no action of the filter{notation.nearest(str(action), FATES)}")
    return {**FATES, **value}


def url(value: object, example: str, what: str, instead: str) -> str:
    """Where ``what`` is sent to: in clear to this machine only.  ``instead``: of a login in it.  Raises ValueError."""
    text = value if isinstance(value, str) and re.fullmatch("[!-~]+", value) else ""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not whole:  # not repeated: there may be a password in it
        raise ValueError(f'is not a URL: write "{example}"')
    if "@" in parts.netloc:
        raise ValueError(f"must hold no login: {instead}")
    host = parts.hostname or ""
    if parts.scheme == "http" and not loopback(host):
        raise ValueError(f"would send {what} to {host} in clear: write https://, http:// is for this machine only")
    return text


def loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def some_bytes(value: object) -> int:
    found = notation.size(value)
    if not found:
        raise ValueError(f"{value!r} is no size at all")
    return found


Duration = Annotated[float, notation.duration]
Durations = Annotated[tuple[float, ...], durations]
Size = Annotated[int, notation.size]
Positive = Annotated[int, notation.whole(1)]
Port = Annotated[int, notation.whole(1, 65535)]
FilePath = Annotated[str, File]
Host = Annotated[str, notation.hostname]
EndpointText = Annotated[str, endpoint_text]
RateText = Annotated[str, rate]
Shared = Annotated[limits.Limits, shared]
