"""The table of rules: TOML files, shipped in ``rules/``, to which an operator's own files add.

Enter: paths.  Leave: a ``Table``.  Reading it again is all there is to a reload; a faulty file is refused whole.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import msgspec

from relayd.classify import text
from relayd.classify.classes import Blame, Class
from relayd.errors import InputError
from relayd.notation import nearest, patterns
from relayd.outcome import Stage

_CODE = re.compile(r"|[45](?:\d\d|xx)")
_ENHANCED = re.compile(r"|[45*]\.(?:\d{1,3}|\*)\.(?:\d{1,3}(?:-\d{1,3})?|\*)")
_SECTIONS = ("words", "providers", "rule")
STAGES: tuple[Stage, ...] = get_args(Stage)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that is given has to hold; of a list, one.  ``text`` are patterns over the normal form of the words, ``but``
    such that must not match.  ``origin`` says where the rule is from.  ``blame`` overrides the class's."""

    name: str
    cls: Class = msgspec.field(name="class")
    origin: str
    text: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    enhanced: tuple[str, ...] = ()
    provider: tuple[str, ...] = ()
    stage: tuple[Stage, ...] = ()
    blame: Blame | None = None


class Table(msgspec.Struct, frozen=True):
    """Rules in the order in which they are tried; words that stand for others in their patterns; providers: a name or a
    pattern of MX hosts to the name that rules use."""

    rules: tuple[Rule, ...]
    words: dict[str, str]
    providers: dict[str, str]

    def provider(self, given: str) -> str:
        """The name that rules use for a provider, from one of its names or from an MX host; "" if none is known."""
        given = given.strip().lower().removesuffix(".")
        return (
            next((self.providers[known] for known in patterns(given) if known in self.providers), "") if given else ""
        )


def load(paths: Sequence[str] = ()) -> Table:
    """The shipped rules and those of an operator's files.  What these add is tried before what is shipped; a rule of
    the same name takes the shipped one's place.  Raises InputError with the file, the rule and the key."""
    words: dict[str, str] = {}
    providers: dict[str, str] = {}
    shipped: dict[str, Rule] = {}
    own: dict[str, Rule] = {}
    shelf = files("relayd.classify").joinpath("rules")
    here = sorted(str(entry) for entry in shelf.iterdir() if entry.name.endswith(".toml"))
    for path in [*here, *paths]:
        data = _read(path)
        words |= _words(path, data.get("words", {}))
        providers |= _providers(path, data.get("providers", {}))
        for rule in _rules(path, data.get("rule", []), words, set(providers.values())):
            rules = shipped if path in here or rule.name in shipped else own
            if path in here and rule.name in shipped:
                raise InputError(f"rule {rule.name}", f"{path}: there are two of this name")
            rules[rule.name] = rule
    return Table((*own.values(), *shipped.values()), words, providers)


def _read(path: str) -> dict[str, Any]:
    try:
        data = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError("", f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError("", f"{path} is not text in UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError("", f"{path} is not TOML: {error}") from None
    for key in data:
        if key not in _SECTIONS:
            raise InputError(
                key, f"{path}: there is no such key{nearest(key, _SECTIONS)}: write {', '.join(_SECTIONS)}"
            )
    return data


def _words(path: str, given: object) -> dict[str, str]:
    return {name: "|".join(listed) for name, listed in _lists(path, "words", given)}


def _providers(path: str, given: object) -> dict[str, str]:
    """Every name and pattern to the provider's own name."""
    return {known: name for name, listed in _lists(path, "providers", given) for known in [name, *listed]}


def _lists(path: str, key: str, given: object) -> Iterator[tuple[str, list[str]]]:
    try:
        yield from msgspec.convert(given, dict[str, list[str]]).items()
    except msgspec.ValidationError as error:
        raise InputError(key, f"{path}: {error}") from None


def _rules(path: str, given: object, words: dict[str, str], providers: set[str]) -> Iterator[Rule]:
    if not isinstance(given, list):
        raise InputError("rule", f"{path}: write [[rule]]")
    for number, item in enumerate(given, 1):
        called = item.get("name", number) if isinstance(item, dict) else number
        try:
            rule = msgspec.convert(item, Rule)
            _check(rule, words, providers)
        except (msgspec.ValidationError, ValueError) as error:
            raise InputError(f"rule {called}", f"{path}: {error}") from None
        yield rule


def _check(rule: Rule, words: dict[str, str], providers: Iterable[str]) -> None:
    for source in (*rule.text, *rule.but):
        text.pattern(source, words)
    for code in rule.code:
        if not _CODE.fullmatch(code):
            raise ValueError(f'code is {code!r}: write "550", "5xx" or "" for none')
    for code in rule.enhanced:
        if not _ENHANCED.fullmatch(code):
            raise ValueError(f'enhanced is {code!r}: write "5.7.1", "*.2.2", "5.7.*", "5.7.606-649" or "" for none')
    for name in rule.provider:
        if name not in providers:
            raise ValueError(f"provider is {name!r}{nearest(name, providers)}, which is not one of [providers]")
    if not (rule.text or rule.code or rule.enhanced):
        raise ValueError("text, enhanced or code is missing: nothing says what it matches")
