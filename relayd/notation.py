"""What operators type: durations, moments, sizes, names, IP addresses, networks, host:port, Twisted endpoint strings.

Each parser takes text (or any TOML value: a wrong type is refused too) and gives a plain value, or raises ValueError
with a sentence that says what was expected.  The configuration, the verbs and the directory share them.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

import msgspec

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_SIZE = re.compile(r"(\d+)([KMGT]?)", re.ASCII)
_SHIFT = ("", "K", "M", "G", "T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_LIST = re.compile(rf"(?:(?:account|connection):{_NAME.pattern}/)?{_NAME.pattern}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_FIELD = re.compile(r"((?:[^:\\]|\\.)*)(?::|$)", re.DOTALL)

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Endpoint(msgspec.Struct, frozen=True):
    """A Twisted server endpoint string: ``tcp``/``tcp6`` have port and interface, ``unix``/``systemd`` a path."""

    kind: str
    port: int = 0
    interface: str = ""
    path: str = ""


def duration(value: object) -> float:
    """``"90s"``, ``"5m"``, ``"1h30m"``, ``"3d"`` as seconds; a bare number is refused, as nobody knows its unit."""
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise ValueError(f'{value!r} is not a duration: write "90s", "5m", "1h30m" or "3d"')
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    if not seconds:
        raise ValueError(f"{value!r} is no time at all")
    return seconds


def show_duration(seconds: float) -> str:
    """Seconds as an operator reads them, two units at most: ``3h20m``."""
    parts, left = [], round(seconds)
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, int(_UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def moment(value: object, now: float) -> float:
    """``"2h"`` before ``now``, a date, or a time as in RFC 3339 (UTC, unless it says otherwise): unix seconds."""
    text = value if isinstance(value, str) else ""
    if _DURATION.fullmatch(text):
        return max(0.0, now - duration(text))
    try:
        found = datetime.fromisoformat(text) if text.isascii() and text[4:8:3] == "--" else None
        if found is not None and 1970 <= found.year < 9999:
            return max(0.0, (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        pass
    raise ValueError(f'{value!r} is not a time: write "2h" (ago), "2026-05-03" or "2026-05-03T14:00:00Z"')


def size(value: object) -> int:
    """``"50M"``, ``"1G"`` (powers of 1024) or a whole number, as bytes."""
    match = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if not match:
        raise ValueError(f'{value!r} is not a size: write "512K", "50M", "1G" or a number of bytes')
    return int(match[1]) << 10 * _SHIFT.index(match[2])


def name(value: object) -> str:
    """The name of an account, connection, source, pool or stream: up to 64 letters, digits and ``._@+-``."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: up to 64 letters, digits and . _ @ + - (a letter or digit first)")
    return value


def list_name(value: object) -> str:
    """The full name of a suppression list: ``NAME`` (the relay's own), ``account:ACCOUNT/NAME`` or
    ``connection:LOGIN/NAME``."""
    if not isinstance(value, str) or not _LIST.fullmatch(value):
        forms = "write NAME, account:ACCOUNT/NAME or connection:LOGIN/NAME"
        raise ValueError(f"{value!r} is not the name of a suppression list: {forms}")
    return value


def list_owner(name: str) -> tuple[str, str]:
    """Whose a suppression list is: ("account", ACCOUNT), ("connection", LOGIN) or ("", "") for the relay."""
    kind, _, owner = name.rpartition("/")[0].partition(":")
    return kind, owner


def hostname(value: object) -> str:
    """A host or domain name in ASCII, lower-cased, without the last dot."""
    text = value.removesuffix(".").lower() if isinstance(value, str) else ""
    if not text or len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(f"{value!r} is not a host name")
    return text


@lru_cache(maxsize=4096)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(text)
    # A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d; operators write a.b.c.d.
    return (found.ipv4_mapped or found) if found.version == 6 else found


@lru_cache(maxsize=4096)
def _network(text: str) -> Network:
    return ipaddress.ip_network(text)


def address(value: object) -> str:
    """An IPv4 or IPv6 address, in its normal form."""
    try:
        return str(ipaddress.ip_address(str(value)))
    except ValueError:
        raise ValueError(f"{value!r} is not an IP address") from None


def network(value: object) -> str:
    """An address or CIDR, in its normal form; bits behind the prefix are refused, they are mostly a slip."""
    try:
        return str(_network(str(value)))
    except ValueError as fault:
        text = "has bits behind its prefix" if "host bits" in str(fault) else "is not an address or CIDR"
        raise ValueError(f"{value!r} {text}") from None


def within(client: str, networks: Iterable[str]) -> bool:
    """Whether the address lies in one of the networks.  A client that is no IP address (a UNIX socket) lies in none."""
    try:
        found = _address(client)
    except ValueError:
        return False
    return any(found in _network(text) for text in networks)


def host_port(value: object, default: int | None = None) -> tuple[str, int]:
    """``host:port``, ``192.0.2.1:25`` or ``[2001:db8::1]:25``; the port may be left out where there is a default."""
    text = value if isinstance(value, str) else ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        host, sep, port = address(host), rest[:1], rest[1:]
    elif text.count(":") > 1:
        host, sep, port = address(text), "", ""
    else:
        host, sep, port = text.partition(":")
        host = hostname(host)
    if not sep and default is not None:
        return host, default
    if sep != ":" or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{value!r} is not host:port")
    return host, int(port)


def endpoint(value: object) -> Endpoint:
    """The Twisted endpoint strings that a listener may have; what it cannot have (ssl:, fd:) is refused by name."""
    text = value if isinstance(value, str) else ""
    kind, *fields = [re.sub(r"\\(.)", r"\1", field) for field in _FIELD.findall(text)[: text.count(":") + 1]]
    plain = [field for field in fields if "=" not in field]
    keyed = dict(field.split("=", 1) for field in fields if "=" in field)
    first = plain[0] if plain else ""
    if kind in ("tcp", "tcp6"):
        port = keyed.get("port", first)
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f'{value!r} has no port: write "tcp:465" or "tcp:465:interface=127.0.0.1"')
        interface = keyed.get("interface", "")
        return Endpoint(kind, int(port), address(interface) if interface else "")
    if kind in ("unix", "systemd"):
        path = keyed.get("address", first) or keyed.get("domain", "")
        if not path:
            raise ValueError(f'{value!r} names nothing: write "unix:/path" or "systemd:domain=INET:index=0"')
        if kind == "unix":
            socket_path(path)
        # Several systemd sockets share a domain; the whole string tells them apart.
        return Endpoint(kind, path=path if kind == "unix" else text)
    raise ValueError(f"{value!r} is no endpoint to listen on: write tcp:PORT, tcp6:PORT, unix:PATH or systemd:...")


def socket_path(path: str) -> str:
    """The path, if the kernel can hold it: sockaddr_un ends at 107 bytes."""
    length = len(path.encode())
    if length > 107:
        raise ValueError(f"the path {path!r} is {length} bytes long; a UNIX socket's path ends at 107")
    return path


def whole(least: int, most: int | None = None) -> Callable[[object], int]:
    """A parser of whole numbers within bounds."""
    bounds = f"at least {least}" if most is None else f"{least} to {most}"

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= (most or value):
            raise ValueError(f"{value!r} is not a whole number, {bounds}")
        return value

    return parse


def list_of(parse: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """A parser of lists; an empty one is fine."""

    def parse_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is not a list")
        return tuple(parse(item) for item in value)

    return parse_all


def domain_pattern(value: object) -> str:
    """A domain, ``*.suffix`` or ``*``."""
    text = value if isinstance(value, str) else ""
    if text == "*":
        return text
    return "*." + hostname(text[2:]) if text.startswith("*.") else hostname(value)


def patterns(domain: str) -> Iterator[str]:
    """What matches a domain, the longest first: itself, then ``*.suffix`` for each domain above it."""
    yield domain
    parent = domain.partition(".")[2]
    while parent:
        yield "*." + parent
        parent = parent.partition(".")[2]


def nearest(word: str, words: Iterable[str]) -> str:
    """`` (did you mean "x"?)`` or nothing."""
    found = difflib.get_close_matches(word, list(words), 1, 0.5)
    return f' (did you mean "{found[0]}"?)' if found else ""
