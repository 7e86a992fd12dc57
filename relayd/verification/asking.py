"""Questions to the DNS, asked without I/O: a check is a generator that yields a ``Question`` and is sent a ``Found``.

``Asking[T]`` is such a generator; it returns a T.  ``yield from ask(...)`` inside one gives the values or raises
``Unanswered``, which says nothing about the domain: never take it for an absence.
"""

from collections.abc import Generator
from typing import Literal, TypeVar

import msgspec

T = TypeVar("T")
RdataType = Literal["TXT", "MX", "A", "AAAA"]


class Question(msgspec.Struct, frozen=True):
    """What is wanted of a name (A-labels, no final dot)."""

    name: str
    rdtype: RdataType


class Found(msgspec.Struct, frozen=True):
    """The values in the DNS: a TXT record's strings joined, "10 mx.a.example" of an MX, an address; none if there is no
    such name or no such data.  ``fault`` is why nothing can be said, "" if it can."""

    values: tuple[str, ...] = ()
    fault: str = ""


Asking = Generator[Question, Found, T]


class Unanswered(Exception):
    """The DNS gave no answer; the text says how."""


def ask(name: str, rdtype: RdataType) -> Asking[tuple[str, ...]]:
    """The values that a name has."""
    found = yield Question(name, rdtype)
    if found.fault:
        raise Unanswered(found.fault)
    return found.values


def mail_hosts(values: tuple[str, ...]) -> list[str]:
    """The hosts of MX values, in lower case without a final dot; "" is the null MX."""
    return [value.partition(" ")[2].rstrip(".").lower() for value in values]
