"""SPF records: their terms, their macros, and how to make one allow what it should (RFC 7208 sections 4.6, 5, 7, 12).

In: the text of a record.  Out: its ``Policy``, or ``SPFError`` with a sentence for the domain's owner.
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal
from urllib.parse import quote

import msgspec

from relayd.reply import printable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Qualifier = Literal["+", "-", "~", "?"]

VERSION = "v=spf1"
MAX_RECORD = 4096  # characters; a record of one UDP answer has a tenth of that
_MAX_NAME = 253

_MACRO = r"%(?:\{[slodiphvSLODIPHV]\d{0,3}[rR]?[.+,/_=-]*\}|[%_-])"
_MACROS = re.compile(rf"(?:[!-$&-~]|{_MACRO})*")
_END = re.compile(rf"(?:{_MACRO}|\.(?=[A-Za-z0-9-]*[A-Za-z-])[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?)\Z")
_PARTS = re.compile(r"%(?:\{([A-Za-z])(\d*)([rR]?)([.+,/_=-]*)\}|([%_-]))")
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)")
_MECHANISM = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9]*)((?:[:/].*)?)")
_PREFIX = r"(0|[1-9][0-9]{0,2})"
_NAME_AND_PREFIXES = re.compile(rf"(?::(.+?))?(?:/{_PREFIX})?(?://{_PREFIX})?")
_NETWORK = re.compile(rf":([0-9A-Fa-f:.]+)(?:/{_PREFIX})?")


class SPFError(Exception):
    """The record means nothing to a receiver (permerror); the text says why."""


class Term(msgspec.Struct, frozen=True):
    """A mechanism as written and as read: ``spec`` names a domain (with macros, "" the domain itself), ``network`` is
    that of ip4 and ip6, ``prefixes`` the bits of an address, by IP version, that have to match."""

    text: str
    qualifier: Qualifier
    kind: str
    spec: str = ""
    network: Network | None = None
    prefixes: tuple[int, int] = (32, 128)


class Policy(msgspec.Struct, frozen=True):
    """A record: its mechanisms in order, and where it leads if none matches ("" nowhere)."""

    terms: tuple[Term, ...]
    redirect: str = ""


class Names(msgspec.Struct, frozen=True):
    """What macros stand for: the client's address, its EHLO name, the sender, and the domain whose record it is."""

    address: Address
    ehlo: str
    sender: str
    domain: str


def policies(texts: Sequence[str]) -> list[str]:
    """The SPF records among TXT records (section 4.5)."""
    return [text for text in texts if text.lower() == VERSION or text.lower().startswith(VERSION + " ")]


@lru_cache(128)  # each is evaluated for every address
def parse(text: str) -> Policy:
    """Reads a record whole: a fault anywhere voids all of it (section 4.6)."""
    if len(text) > MAX_RECORD:
        raise SPFError(f"it is longer than {MAX_RECORD} characters")
    terms: list[Term] = []
    seen: dict[str, str] = {}
    for word in _words(text):
        modifier = _MODIFIER.fullmatch(word)
        if modifier is None:
            terms.append(_mechanism(word))
            continue
        name, spec = modifier[1].lower(), modifier[2]
        if name in ("redirect", "exp"):
            if name in seen:
                raise SPFError(f"{name}= stands in it twice")
            seen[name] = _domain(spec, word)
        elif not _MACROS.fullmatch(spec):
            raise SPFError(f"{_shown(word)} in it cannot be read")
    return Policy(tuple(terms), seen.get("redirect", ""))


def _words(text: str) -> list[str]:
    return [word for word in text[:MAX_RECORD].split(" ")[1:] if word]


def _mechanism(word: str) -> Term:
    match = _MECHANISM.fullmatch(word)
    if match is None:
        raise SPFError(f"{_shown(word)} in it cannot be read")
    qualifier: Qualifier = match[1] or "+"  # type: ignore[assignment]
    kind, rest = match[2].lower(), match[3]
    match kind:
        case "all" if not rest:
            return Term(word, qualifier, kind)
        case "include" | "exists" if rest.startswith(":"):
            return Term(word, qualifier, kind, _domain(rest[1:], word))
        case "ptr" if not rest or rest.startswith(":"):
            return Term(word, qualifier, kind, _domain(rest[1:], word) if rest else "")
        case "a" | "mx":
            return _with_prefixes(word, qualifier, kind, rest)
        case "ip4" | "ip6":
            return Term(word, qualifier, kind, network=_network(word, kind, rest))
        case "all" | "include" | "exists" | "ptr":
            raise SPFError(f"{_shown(word)} in it cannot be read")
    raise SPFError(f"{_shown(word)} in it is no mechanism of SPF")


def _with_prefixes(word: str, qualifier: Qualifier, kind: str, rest: str) -> Term:
    match = _NAME_AND_PREFIXES.fullmatch(rest)
    if match is None:
        raise SPFError(f"{_shown(word)} in it cannot be read")
    bits = int(match[2] or 32), int(match[3] or 128)
    if bits[0] > 32 or bits[1] > 128:
        raise SPFError(f"{_shown(word)} in it has too long a prefix")
    return Term(word, qualifier, kind, _domain(match[1], word) if match[1] else "", prefixes=bits)


def _network(word: str, kind: str, rest: str) -> Network:
    match = _NETWORK.fullmatch(rest)
    try:
        if match is None:
            raise ValueError
        address = ipaddress.IPv4Address(match[1]) if kind == "ip4" else ipaddress.IPv6Address(match[1])
        return ipaddress.ip_network((address, int(match[2] or address.max_prefixlen)), strict=False)
    except ValueError:
        raise SPFError(f"{_shown(word)} in it is no {kind[:2].upper()}v{kind[2]} address or network") from None


def _domain(spec: str, word: str) -> str:
    """A domain-spec (section 7.1)."""
    if not (_MACROS.fullmatch(spec) and _END.search(spec)) or _no_parts(spec):
        raise SPFError(f"{_shown(word)} in it names no domain")
    return spec


def _no_parts(spec: str) -> bool:
    """Whether a macro asks for none of its parts."""
    return any(match[2] and not int(match[2]) for match in _PARTS.finditer(spec))


def _shown(word: str) -> str:
    return printable(word, 80)


def expand(spec: str, names: Names) -> str:
    """A domain-spec with its macros filled in (section 7); of one that is too long, the right part (section 7.3)."""

    def fill(match: "re.Match[str]") -> str:
        if match[5]:
            return {"%": "%", "_": " ", "-": "%20"}[match[5]]
        value = _value(match[1].lower(), names)
        parts = re.split(f"[{re.escape(match[4] or '.')}]", value)
        if match[3]:
            parts.reverse()
        if match[2]:
            parts = parts[-int(match[2]) :]
        filled = ".".join(parts)
        return quote(filled, safe="-._~") if match[1].isupper() else filled

    name = _PARTS.sub(fill, spec).rstrip(".").lower()
    while len(name) > _MAX_NAME and "." in name:
        name = name.partition(".")[2]
    return name


def _value(letter: str, names: Names) -> str:
    local, _, origin = names.sender.rpartition("@")
    match letter:
        case "i":
            return _dotted(names.address)
        case "v":
            return "in-addr" if names.address.version == 4 else "ip6"
        case "p":
            return "unknown"  # what section 7.3 has for a name that was not proved; we look up none
    return {"s": names.sender, "l": local, "o": origin, "d": names.domain, "h": names.ehlo}[letter]


def _dotted(address: Address) -> str:
    return str(address) if address.version == 4 else ".".join(address.exploded.replace(":", ""))


def allowing(texts: Sequence[str], wanted: Sequence[str], otherwise: str) -> str:
    """One record to publish in the place of these, with the ``wanted`` terms first: what they match passes, whatever
    follows.  What cannot be read is left out.  Where there was none, ``otherwise`` ends it."""
    kept = [word for text in texts for word in _words(text) if _readable(word)]
    ends = [word for word in kept if word.lower().lstrip("+-~?") == "all"] or _starting("redirect=", kept)
    if not texts:
        ends = [otherwise]
    body = [word for word in kept if not word.lower().lstrip("+-~?").startswith(("all", "redirect=", "exp="))]
    return " ".join(dict.fromkeys([VERSION, *wanted, *body, *ends[:1], *_starting("exp=", kept)[:1]]))


def _starting(name: str, words: list[str]) -> list[str]:
    return [word for word in words if word.lower().startswith(name)]


def _readable(word: str) -> bool:
    try:
        parse(f"{VERSION} {word}")
    except SPFError:
        return False
    return True
