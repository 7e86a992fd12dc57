"""Entries of suppression lists: what may be written, and what an entry stops.

In: values, reasons and times as people, feeds and files give them.  Out: ``Entry`` in its normal form, or InputError
that names the field.  An address is compared as ``address.folded`` makes it; a domain also stands for all below it; a
pattern is a glob over the whole folded address.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TypeVar, get_args

import msgspec

from relayd import notation
from relayd.address import MAX_ADDRESS, domain_of, folded, parse_address
from relayd.errors import InputError
from relayd.reply import printable
from relayd.suppression.patterns import runs

T = TypeVar("T", bound=str)
Kind = Literal["address", "domain", "pattern"]
Reason = Literal["unsubscribe", "complaint", "bounce", "full", "role", "manual"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REASONS: tuple[Reason, ...] = get_args(Reason)
COLUMNS = ("value", "kind", "reason", "evidence", "expires", "added")  # of a row as files have it

MAX_EVIDENCE = 500
MAX_LABELS = 6  # of a domain that is an entry: an address is looked up under so many domains at most
_GLOB = re.compile(r"[!-Z\\-~]+")  # ASCII without spaces and without what SQL's GLOB takes for a set of characters
_LATEST = 253_402_300_799  # the last second that ISO 8601 can write


class Entry(msgspec.Struct, frozen=True):
    """One entry.  ``list`` is the list's full name, times are unix seconds, ``expires`` 0 is never; ``by`` is who
    added it."""

    list: str
    kind: Kind
    value: str
    reason: Reason
    evidence: str
    added: int
    expires: int
    by: str

    @property
    def lasting(self) -> tuple[bool, int]:
        """Of two, the greater one lasts longer."""
        return self.expires == 0, self.expires


def entry(
    list: str,
    value: str,
    *,
    kind: Kind | None = None,
    reason: Reason,
    evidence: str = "",
    added: float,
    expires: float = 0,
    by: str,
) -> Entry:
    """An entry in its normal form; without a kind, what the value looks like.  Raises InputError."""
    kind, value = normal(value, kind)
    return Entry(list, kind, value, reason, _line(evidence, MAX_EVIDENCE), int(added), int(expires), _line(by, 64))


def _line(text: str, limit: int) -> str:
    return printable(" ".join(text.split()), limit)


def normal(value: str, kind: Kind | None = None) -> tuple[Kind, str]:
    """The kind of a value and the form that is kept and compared.  Raises InputError."""
    text = value.strip()
    kind = kind or _looks_like(text)
    try:
        return kind, _FORMS[kind](text)
    except ValueError as error:
        raise InputError("value", str(error)) from None


def _looks_like(text: str) -> Kind:
    if "*" in text or "?" in text:
        return "pattern"
    return "address" if text.rfind("@") > 0 else "domain"


def _address(text: str) -> str:
    address = parse_address(text)
    if "@" not in address:
        raise ValueError(f"{text!r} has no domain")
    return folded(address)


def _domain(text: str) -> str:
    domain = notation.hostname(domain_of("x@" + text.removeprefix("@")))
    if domain.count(".") >= MAX_LABELS:
        raise ValueError(f"{domain!r} has more than {MAX_LABELS} parts: write one above it, which stands for it too")
    return domain


def _pattern(text: str) -> str:
    if len(text) > MAX_ADDRESS or not _GLOB.fullmatch(text):
        limits = f"up to {MAX_ADDRESS} ASCII characters without spaces and [ ], domains beyond ASCII as xn--..."
        raise ValueError(f"{printable(text, 80)!r} is not a pattern: {limits}")
    if max(map(len, runs(text)), default=0) < 3:
        raise ValueError(f"{text!r} says too little: a pattern has three characters in a row that are not * or ?")
    return text.lower()


_FORMS = {"address": _address, "domain": _domain, "pattern": _pattern}


def covering(address: str) -> list[tuple[Kind, str]]:
    """The entries that would stop a folded address, patterns aside: itself, its domain, the domains above that."""
    labels = address.rpartition("@")[2].split(".")[-MAX_LABELS:]
    above: list[tuple[Kind, str]] = [("domain", ".".join(labels[i:])) for i in range(len(labels))]
    return [("address", address), *above]


def from_row(list: str, row: Mapping[str, str], *, reason: Reason, now: float, by: str) -> Entry:
    """The entry of a row of COLUMNS, of which only the value must be there; ``reason`` is that of rows that have none.
    Raises InputError."""
    for name in row:
        if name not in COLUMNS:
            raise InputError(name[:40], f"there is no such column{notation.nearest(name, COLUMNS)}")
    if "value" not in row:
        raise InputError("value", "is missing")
    expires = _moment("expires", row.get("expires", ""))
    if 0 < expires <= now:
        raise InputError("expires", f"{row['expires']!r} is over already")
    return entry(
        list,
        row["value"],
        kind=_one_of("kind", KINDS, row.get("kind")),
        reason=_one_of("reason", REASONS, row.get("reason")) or reason,
        evidence=row.get("evidence", ""),
        added=_moment("added", row.get("added", "")) or now,
        expires=expires,
        by=by,
    )


def to_row(entry: Entry) -> dict[str, str]:
    """The row of an entry, as ``from_row`` reads it."""
    expires = _iso(entry.expires) if entry.expires else ""
    cells = (entry.value, entry.kind, entry.reason, entry.evidence, expires, _iso(entry.added))
    return dict(zip(COLUMNS, cells, strict=True))


def _one_of(field: str, words: tuple[T, ...], text: str | None) -> T | None:
    if not text:
        return None
    for word in words:
        if word == text.strip().lower():
            return word
    raise InputError(field, f"{printable(text, 40)!r} is none of {', '.join(map(str, words))}")


def _moment(field: str, text: str) -> int:
    """Unix seconds of a number, or of a date and time in ISO 8601 (UTC if it names no zone); 0 for none."""
    text = text.strip()
    if not text:
        return 0
    try:
        found = int(text) if text.isascii() and text.isdigit() else _seconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        found = -1
    if not 0 <= found <= _LATEST:
        shown = printable(text, 40)
        raise InputError(field, f"{shown!r} is no time: write 2027-01-31T12:00:00Z, 2027-01-31 or unix seconds")
    return found


def _seconds(moment: datetime) -> int:
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
