"""The lists that addresses are checked against: files, shipped in ``lists/``, each of which an operator may replace.

In: paths.  Out: ``Lists``, ready for look-ups.  A file has an entry a line; "#" begins a comment.
Misspellings of providers' domains are those that are written down, and the slips of a finger in each provider's name.
What is known to be real is never one.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import msgspec

from relayd import notation
from relayd.address import domain_of, folded, parse_address
from relayd.errors import InputError

T = TypeVar("T")

_LEAST = 5  # letters of a name whose slips count: one letter off a shorter word is another word
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LOCAL = re.compile(r"[A-Za-z0-9!$%&'*/=?^_`{|}~.-]+")


class Lists(msgspec.Struct, frozen=True):
    """``typos``: misspelt domain to the one that was meant; ``roles``: local parts in lower case; ``disposable``:
    domains that stand for all below them too."""

    typos: dict[str, str] = {}
    roles: frozenset[str] = frozenset()
    disposable: frozenset[str] = frozenset()


def read_lists(paths: Mapping[str, str]) -> Lists:
    """All lists, each from the file that is named for it, the shipped one where that is missing or "".

    Raises InputError with the list's name, the file and the line."""
    typos = dict(_read("typos", paths, _pair))
    providers = dict.fromkeys(_read("providers", paths, _domain))
    real = {*providers, *typos.values(), *_read("neighbours", paths, _domain)}
    meant = {slip: domain for domain in providers for slip in _misspelt(domain)} | typos
    return Lists(
        typos={wrong: right for wrong, right in meant.items() if wrong not in real},
        roles=frozenset(_read("roles", paths, _role)),
        disposable=frozenset(_read("disposable", paths, _domain)),
    )


def read_traps(path: str) -> frozenset[str]:
    """Addresses that are traps, folded, from a file; none without one.  Raises InputError like ``read_lists``."""
    return frozenset(_read("traps", {"traps": path}, _address)) if path else frozenset()


def _read(name: str, paths: Mapping[str, str], parse: Callable[[str], T]) -> Iterator[T]:
    path = Path(paths.get(name) or str(files("relayd.validation").joinpath("lists", f"{name}.txt")))
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(name, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(name, f"{path} is not text in UTF-8") from None
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if entry:
            try:
                yield parse(entry)
            except ValueError as error:
                raise InputError(name, f"{path}, line {number}: {error}") from None


def _domain(entry: str) -> str:
    if "." not in entry:
        raise ValueError(f"{entry!r} is not a domain")
    return notation.hostname(entry if entry.isascii() else domain_of(f"@{entry}"))


def _address(entry: str) -> str:
    return folded(parse_address(entry))


def _pair(entry: str) -> tuple[str, str]:
    words = entry.split()
    if len(words) != 2:
        raise ValueError(f"{entry!r} is not a misspelt domain, a space and the domain that was meant")
    return _domain(words[0]), _domain(words[1])


def _role(entry: str) -> str:
    if not _LOCAL.fullmatch(entry):
        raise ValueError(f'{entry!r} is not what stands before the "@" of an address')
    return entry.lower()


def _misspelt(domain: str) -> Iterator[str]:
    """A provider's domain with a slip in its name or in its "com": what comes out of that is no top-level domain."""
    name, _, ending = domain.partition(".")
    if len(name) >= _LEAST:
        yield from (f"{slip}.{ending}" for slip in slips(name))
    if ending == "com":
        yield from (f"{name}.{slip}" for slip in slips(ending) if len(slip) > 2)


def slips(word: str) -> Iterator[str]:
    """What one slip of a finger makes of a word: a letter left out, doubled, swapped with the next, or its neighbour on
    the keyboard.  The first letter stays: with another one it is mostly another name (mail, email, ymail)."""
    for i, letter in enumerate(word):
        yield word[:i] + letter + word[i:]
        if i:
            rest = word[i + 1 :]
            yield word[:i] + rest
            yield from (word[:i] + near + rest for near in _NEAR.get(letter, ""))
            if rest:
                yield word[:i] + rest[0] + letter + rest[1:]


def _near() -> dict[str, str]:
    """The letters around each on a keyboard, whose rows are shifted by half a key."""
    at = {letter: (y, x) for y, row in enumerate(_ROWS) for x, letter in enumerate(row)}
    around = ((0, -1), (0, 1), (1, -1), (1, 0), (-1, 0), (-1, 1))
    back = {place: letter for letter, place in at.items()}
    return {key: "".join(back.get((y + dy, x + dx), "") for dy, dx in around) for key, (y, x) in at.items()}


_NEAR = _near()
