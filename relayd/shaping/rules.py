"""Reaction rules: what is done when a reply says something about us, and which rules a reply meets.

In: tables as an operator writes them; failed replies as sessions saw them.  Out: frozen rules; of a reply, the rules it
meets.  They are found by place and code before any text is looked at, so that thousands of rules for others cost
nothing.  The nearest place decides: rules that name the domain or host (``match``) before those of its provider, and
these before the ones for everybody; only the first of these that a reply meets any of are its own.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

import msgspec

from relayd import notation
from relayd.errors import InputError
from relayd.outcome import Stage
from relayd.shaping.limits import Rate, rate

Action = Literal["suspend", "limit", "move", "keep", "bounce", "defer", "skip-mx"]
On = Literal["path", "site", "source", "account"]
STAGES = get_args(Stage)[get_args(Stage).index("banner") :]  # those at which a server says something
LASTING = ("suspend", "limit", "skip-mx")  # what holds for a time; the others are about the one delivery
LONGEST = 86400.0  # seconds that the doubled time of a reaction does not exceed, unless its rule says otherwise
MOST_COUNTED = 1000  # replies that a threshold may ask for
_PATTERN = 500  # characters of a pattern, ...
_REPEATS = 2  # ... and * + { in it: with more, a hostile text could take seconds to look at
TEXT = 512  # characters of a reply's text that are looked at

_CODE = re.compile(r"[45](?:\d[\dx]|xx)", re.ASCII)
_ENHANCED = re.compile(r"[45]\.(?:x\.x|\d{1,3}\.(?:x|\d{1,3}))", re.ASCII)
_ESCAPED = re.compile(r"\\.|\[\^?\]?[^\]]*\]", re.DOTALL)  # what is no operator in a pattern


class Seen(msgspec.Struct, frozen=True, gc=False):
    """One failed reply, from whatever stage.  ``group``: where adaptive state lives, the provider's name or else the
    site's; ``mx``: the host that said it; ``text`` is printable; ``delivery``: its id as users see it, "" if the reply
    was not about one; ``time``: unix seconds."""

    provider: str
    group: str
    domain: str
    source: str
    account: str
    mx: str
    stage: str
    code: int
    enhanced: str
    text: str
    time: float
    delivery: str = ""


class Ceiling(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a ``limit`` allows while it holds; None and 0 leave what there is."""

    rate: Rate | None = None
    connections: int = 0
    connection_rate: Rate | None = None

    def halved(self) -> "Ceiling":
        slower = (self.rate and self.rate.part(0.5), self.connection_rate and self.connection_rate.part(0.5))
        return Ceiling(slower[0], (self.connections + 1) // 2, slower[1])

    def words(self) -> str:
        parts = [
            str(self.rate) if self.rate else "",
            f"{self.connections} connections" if self.connections else "",
            f"{self.connection_rate} new connections" if self.connection_rate else "",
        ]
        return ", ".join(filter(None, parts))


class Rule(msgspec.Struct, frozen=True, kw_only=True, rename={"duration": "for"}):
    """One rule.  It is for a ``provider``, for domains or mail hosts that ``match``, or for everybody, and meets
    replies that are of one of its ``codes`` ("421", "4xx"), ``enhanced`` codes ("4.7.28", "4.7.x") and ``stages``, and
    have ``text`` (a regular expression) in them; what is not given is any.  ``after`` so many within a time (None: at
    once) its action is taken: ``on`` whom, ``for`` how long (seconds; doubled each time up to ``longest``), with which
    ``limits``, or moving ``to`` which pool ("": another source of its own).  ``move``: deliveries of what is suspended
    may go by other sources.  ``defer``: a 5yz that it meets is about us, not the recipient, and counts as 4yz.
    ``origin``: where the rule is from."""

    name: str
    action: Action
    provider: str = ""
    match: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    enhanced: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    text: str = ""
    after: Rate | None = None
    on: On = "path"
    duration: float = 0.0
    longest: float = LONGEST
    limits: Ceiling = Ceiling()
    move: bool = True
    to: str = ""
    defer: bool = False
    origin: str = ""
    enabled: bool = True


def parse(name: str, table: Mapping[str, object]) -> Rule:
    """The rule of a ``[reaction.NAME]`` table, in which "" takes back what another file says.  Raises InputError, which
    names the key and says what to write."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _KEYS:
            raise InputError(key, f"unknown key{notation.nearest(key, _KEYS)}")
        try:
            if value != "":
                values[key] = _KEYS[key](value)
        except ValueError as error:
            raise InputError(key, str(error)) from None
    given = set(values)
    if "action" not in values:
        alone = not values.get("enabled", True)
        lack = "is missing: no other table of this name has one, so there is nothing to switch off" if alone else ""
        raise InputError("action", lack or f"is missing: write one of {_listed(get_args(Action))}")
    values["limits"] = Ceiling(**{key: values.pop(key) for key in _CEILINGS if key in values})
    values["duration"] = values.pop("for", 0.0)
    values.setdefault("longest", max(LONGEST, values["duration"]))
    rule = Rule(name=name, **values)
    _check(rule, given)
    return rule


def _check(rule: Rule, given: set[str]) -> None:
    """Keys against each other."""
    action = rule.action
    if rule.provider and rule.match:
        raise InputError("match", f"is of no use beside provider = {rule.provider!r}: leave one of them out")
    if not (rule.codes or rule.enhanced or rule.text):
        raise InputError("codes", "is missing, and so are enhanced and text: without any, every failed reply would do")
    for key in ("for", "longest", "on", "to", "move", *_CEILINGS):
        owners = _BELONGS[key]
        if key in given and action not in owners:
            lack = "leave it out, or write '' over another file's"
            raise InputError(key, f"belongs to action {_listed(owners)}, not to {action!r}: {lack}")
    if action in _BELONGS["for"] and not rule.duration:
        raise InputError("for", f'is missing: how long {action!r} holds, such as "30m"')
    if action == "limit" and rule.limits == Ceiling():
        raise InputError("rate", f"is missing: a limit has at least one of {_listed(_CEILINGS)}")
    if rule.longest < rule.duration:
        raise InputError("longest", "is shorter than for")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _one_of(words: tuple[str, ...]) -> Callable[[object], str]:
    def parsed(value: object) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is none of {', '.join(words)}{notation.nearest(str(value), words)}")
        return str(value)

    return parsed


def _some(parsed: Callable[[object], str]) -> Callable[[object], tuple[str, ...]]:
    """One or a list of them."""
    return lambda value: tuple(map(parsed, value)) if isinstance(value, list) else (parsed(value),)


def _code(value: object) -> str:
    text = str(value) if isinstance(value, str | int) else ""
    if not _CODE.fullmatch(text):
        raise ValueError(f'{value!r} is not a code of failure: write "421", "45x" or "4xx"')
    return text


def _enhanced(value: object) -> str:
    if not isinstance(value, str) or not _ENHANCED.fullmatch(value):
        raise ValueError(f'{value!r} is not an enhanced code of failure: write "4.7.28", "4.7.x" or "4.x.x"')
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _PATTERN:
        raise ValueError(f"is not a regular expression of up to {_PATTERN} characters")
    operators = _ESCAPED.sub("", value)
    if re.search(r"\)[*+{]", operators):
        raise ValueError("repeats a group: a hostile reply could make that last for ever; write what it is made of")
    if len(re.findall(r"[*+{]", operators)) > _REPEATS:
        raise ValueError(f"has more than {_REPEATS} of * + {{: write shorter rules, or more of them")
    try:
        found = re.compile(value, re.IGNORECASE).search("")
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if found:
        raise ValueError("is found in an empty text, so in any: leave it out")
    return value


def _after(value: object) -> Rate:
    try:
        found = rate(value)
    except ValueError:
        raise ValueError(f'{value!r} is not so many within a time: write "10/h", or "" for at once') from None
    if found.burst or found.count > MOST_COUNTED:
        raise ValueError(f'{value!r}: write up to {MOST_COUNTED} within a time, such as "10/h"')
    return found


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _patterns(value: object) -> tuple[str, ...]:
    found = _some(notation.domain_pattern)(value)
    if "*" in found:
        raise ValueError('"*" is everybody: leave match out')
    return found


def _origin(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("https?://[!-~]+", value):
        raise ValueError(f"{value!r} is not a URL: write where the rule is from, or leave it out")
    return value


_CEILINGS = ("rate", "connections", "connection_rate")
_KEYS: dict[str, Callable[[object], Any]] = {
    "action": _one_of(get_args(Action)),
    "provider": notation.name,
    "match": _patterns,
    "codes": _some(_code),
    "enhanced": _some(_enhanced),
    "stages": _some(_one_of(STAGES)),
    "text": _text,
    "after": _after,
    "on": _one_of(get_args(On)),
    "for": notation.duration,
    "longest": notation.duration,
    "rate": rate,
    "connections": notation.whole(1),
    "connection_rate": rate,
    "move": _boolean,
    "to": notation.name,
    "defer": _boolean,
    "origin": _origin,
    "enabled": _boolean,
}
_BELONGS: dict[str, tuple[str, ...]] = {
    "for": (*LASTING, "keep"),
    "longest": LASTING,
    "on": ("suspend", "limit"),
    "to": ("move",),
    "move": ("suspend",),
    **dict.fromkeys(_CEILINGS, ("limit",)),
}


class _Test:
    """What a reply of the right place and code has still to meet."""

    __slots__ = ("_enhanced", "_stages", "_text", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        enhanced = "|".join(re.escape(code).replace("x", r"\d+") for code in rule.enhanced)
        self._enhanced = re.compile(enhanced) if enhanced else None
        self._text = re.compile(rule.text, re.IGNORECASE) if rule.text else None
        self._stages = frozenset(rule.stages)

    def meets(self, seen: Seen, text: str) -> bool:
        return (
            (not self._stages or seen.stage in self._stages)
            and (self._enhanced is None or self._enhanced.fullmatch(seen.enhanced) is not None)
            and (self._text is None or self._text.search(text) is not None)
        )


class Rules:
    """All that are switched on.  ``by_name``: the rules themselves."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.by_name = {rule.name: rule for rule in rules if rule.enabled}
        self._patterns: dict[str, list[_Test]] = {}
        self._providers: dict[str, list[_Test]] = {}
        for rule in self.by_name.values():
            for pattern in rule.match:
                self._patterns.setdefault(pattern, []).append(_Test(rule))
            if not rule.match:
                self._providers.setdefault(rule.provider, []).append(_Test(rule))
        self._by_code: dict[tuple[int, int], tuple[_Test, ...]] = {}  # (place, code): at most 200 codes each

    def matching(self, seen: Seen) -> tuple[Rule, ...]:
        """The rules that a reply meets, all of the nearest place that has any."""
        if not 400 <= seen.code < 600:
            return ()
        text = seen.text[:TEXT].replace("\n", " ")
        if self._patterns and (found := self._named(seen, text)):
            return found
        for place in (seen.provider, "") if seen.provider else ("",):
            tests = self._providers.get(place)
            if tests and (found := tuple([test.rule for test in self._of(tests, seen.code) if test.meets(seen, text)])):
                return found
        return ()

    def _named(self, seen: Seen, text: str) -> tuple[Rule, ...]:
        found: dict[str, Rule] = {}
        for name in dict.fromkeys((*notation.patterns(seen.domain), *notation.patterns(seen.mx))):
            tests = self._of(self._patterns[name], seen.code) if name in self._patterns else ()
            found |= {test.rule.name: test.rule for test in tests if test.meets(seen, text)}
        return tuple(found.values())

    def _of(self, tests: list[_Test], code: int) -> tuple[_Test, ...]:
        """Those of a place that a code is right for; remembered."""
        known = self._by_code.get((id(tests), code))
        if known is None:
            known = tuple(test for test in tests if _is_of(code, test.rule.codes))
            self._by_code[id(tests), code] = known
        return known


def _is_of(code: int, patterns: tuple[str, ...]) -> bool:
    text = str(code)
    return not patterns or any(
        all(mine in ("x", theirs) for mine, theirs in zip(pattern, text, strict=True)) for pattern in patterns
    )


class Providers:
    """Which provider's a mail host is."""

    def __init__(self, providers: Mapping[str, Iterable[str]]) -> None:
        """Name to the patterns of its hosts."""
        self._of = {pattern: name for name, patterns in providers.items() for pattern in patterns}

    def of(self, host: str) -> str:
        """The provider's name, "" for a host of nobody's: the exact name first, then the longest ``*.suffix``."""
        if not self._of:
            return ""
        return next(filter(None, map(self._of.get, notation.patterns(host))), "")
