"""Mail addresses: what stands behind ``MAIL FROM:`` and ``RCPT TO:``, and the domain that a queue is named by.

In: the text of a path as a peer typed it.  Out: a plain ``str``, "" for the null reverse-path, that is safe to put into
any later command, header or record: no control characters, bounded, its domain valid.  RFC 5321 sections 4.1.2, 4.5.3.1
and appendix C (source routes are dropped), RFC 6531 for addresses beyond ASCII, RFC 5891 and UTS 46 for their domains.
"""

import re
from functools import lru_cache
from unicodedata import normalize

import idna

MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_ADDRESS = 254  # a path has 256 octets, its angle brackets included

# Dots may stand anywhere in a local part: some providers gave out a..b@ and a.@, and those mailboxes get mail.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]"
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_REST = r"(?:[ \t]+(.*))?"

_ORDINARY = re.compile(rf"[ \t]*<({_ATOM}{{1,{MAX_LOCAL}}}@{_DOMAIN})>(?:[ \t]+([\x20-\x7e\t]*))?")
_BRACKETED = re.compile(rf"<((?:{_QUOTED}|[^\"<>])*)>{_REST}")
_NAKED = re.compile(rf"((?:{_QUOTED}|[^\"<>\s])+){_REST}")
_SOURCE_ROUTE = re.compile(r"@[^:\"]*:")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_ASCII_DOMAIN = re.compile(_DOMAIN)
_DOT_STRING = re.compile(rf"(?:{_ATOM}|[^\x00-\x7f])+")
_QUOTED_LOCAL = re.compile(_QUOTED)
_PAIR = re.compile(r"\\(.)")
_TO_PAIR = re.compile(r'["\\]')
_NEEDLESSLY_QUOTED = re.compile(r'"([A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*)"')


class AddressError(ValueError):
    """The text is no address that we relay for; ``text`` is a sentence for the peer."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def parse_path(text: str, *, smtputf8: bool) -> tuple[str, str]:
    """(address, parameter text) of what follows ``MAIL FROM:`` or ``RCPT TO:``.

    The address is "" for ``<>``, and "postmaster" where that stands without a domain.  Raises AddressError.
    """
    match = _ORDINARY.fullmatch(text)
    if match and len(match[1]) <= MAX_ADDRESS:
        return match[1], match[2] or ""
    return _parse_sloppy(text, smtputf8)


def parse_address(text: str, *, smtputf8: bool = True) -> str:
    """The address of a bare ``local@domain`` as a user or a configuration wrote it.  Raises AddressError."""
    if _CONTROL.search(text):
        raise AddressError("Control character in address")
    return _checked(text.strip(), smtputf8)


def domain_of(address: str) -> str:
    """The address's domain as queues are named by: lower case, A-labels; "" for the null path and bare postmaster."""
    domain = address.rpartition("@")[2] if "@" in address else ""
    return domain.lower() if domain.isascii() else _to_ascii(domain)


def folded(address: str) -> str:
    """The address as addresses are compared: lower case, quoted as little as can be, its domain in A-labels."""
    local = address.rpartition("@")[0]
    if local.startswith('"'):
        local = _least_quoted(local)
    if not local.isascii():
        local = normalize("NFC", local)  # RFC 6532 section 3.1
    return f"{local.lower()}@{domain_of(address)}"


def _least_quoted(local: str) -> str:
    """RFC 5321 section 4.1.2: however a local part is quoted, it is one mailbox, and a stop-list must find it."""
    if not _QUOTED_LOCAL.fullmatch(local):
        return local
    text = _PAIR.sub(r"\1", local[1:-1])
    return text if _DOT_STRING.fullmatch(text) else '"' + _TO_PAIR.sub(r"\\\g<0>", text) + '"'


def is_ascii(address: str) -> bool:
    """Whether a server without SMTPUTF8 can be given this address as it is."""
    return address.isascii()


def _parse_sloppy(text: str, smtputf8: bool) -> tuple[str, str]:
    """What the ordinary pattern does not know: no angle brackets, spaces, quotes, source routes, SMTPUTF8, faults."""
    if _CONTROL.search(text):
        raise AddressError("Control character in address")
    text = text.strip()
    match = (_BRACKETED if text.startswith("<") else _NAKED).fullmatch(text)
    if match is None:
        raise AddressError("Syntax error in address")
    path = match[1].strip()
    route = _SOURCE_ROUTE.match(path)
    if route:
        path = path[route.end() :]
    return _checked(path, smtputf8) if path else "", match[2] or ""


def _checked(address: str, smtputf8: bool) -> str:
    if address.lower() == "postmaster":
        return "postmaster"
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain:
        raise AddressError("Address must be local-part@domain")
    if domain.startswith("["):
        raise AddressError("Address literals are not relayed; use a domain name")
    if not smtputf8 and not address.isascii():
        raise AddressError("Address beyond ASCII needs SMTPUTF8")
    _check_lengths(local, domain)
    return f"{_checked_local(local)}@{_checked_domain(domain)}"


def _check_lengths(local: str, domain: str) -> None:
    octets, wide = len(local.encode("utf-8", "replace")), len(domain.encode("utf-8", "replace"))
    if octets > MAX_LOCAL:
        raise AddressError(f"Local part is longer than {MAX_LOCAL} octets")
    if wide > MAX_DOMAIN:
        raise AddressError(f"Domain is longer than {MAX_DOMAIN} octets")
    if octets + 1 + wide > MAX_ADDRESS:
        raise AddressError(f"Address is longer than {MAX_ADDRESS} octets")


def _checked_local(local: str) -> str:
    # isprintable() also refuses what the console must never meet: surrogates, bidi overrides, unassigned code points.
    if not local.isprintable():
        raise AddressError("Character not allowed in local part")
    plain = _NEEDLESSLY_QUOTED.fullmatch(local)
    if plain:
        return plain[1]  # RFC 5321 4.1.2: the two forms are one mailbox, and a suppression must find it under one name
    if not _DOT_STRING.fullmatch(local) and not _QUOTED_LOCAL.fullmatch(local):
        raise AddressError("Syntax error in local part")
    return local


def _checked_domain(domain: str) -> str:
    if domain.isascii():
        if not _ASCII_DOMAIN.fullmatch(domain):
            raise AddressError("Domain is not valid")
    elif not domain.isprintable():
        raise AddressError("Character not allowed in domain")
    else:
        _to_ascii(domain)
    return domain


@lru_cache(maxsize=4096)
def _to_ascii(domain: str) -> str:
    """A-labels of a domain beyond ASCII, label by label, so that an underscore beside it does no harm."""
    try:
        mapped = idna.uts46_remap(domain, std3_rules=False)
        labels = [part if part.isascii() else idna.alabel(part).decode("ascii") for part in mapped.split(".")]
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressError("Domain is not a valid internationalised name") from error
    ascii_domain = ".".join(labels).lower()
    if len(ascii_domain) > MAX_DOMAIN or not _ASCII_DOMAIN.fullmatch(ascii_domain):
        raise AddressError("Domain is not a valid internationalised name")
    return ascii_domain
