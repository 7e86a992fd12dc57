"""The classifier: which rule of the table a reply meets, and the verdict that follows.

Words say more than codes, and an enhanced code more than a bare one: rules with ``text`` are tried first, then those
with ``enhanced``, then those with ``code`` alone; within each kind in the table's order.  The first that holds wins.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec

from relayd.classify import text
from relayd.classify.classes import Class, Decision, decide
from relayd.classify.rules import Rule, Table, load
from relayd.reply import Reply, printable

_SHOWN = 80  # characters of what a pattern found
_GRAM = 3  # letters by which literals are looked up
_CACHED = 4096  # verdicts that are kept: providers have few texts, and a refusing one says the same to everybody


class Verdict(msgspec.Struct, frozen=True):
    """``rule`` is the name of the one that held ("" if none did), ``why`` what it found in the reply."""

    cls: Class
    decision: Decision
    rule: str
    why: str


class Classifier:
    """Of one table of rules.  Pure: the same reply always gets the same verdict; a reload makes a new one."""

    def __init__(self, table: Table) -> None:
        self.rules = sorted(table.rules, key=_tier)
        self.origins = {rule.name: rule.origin for rule in self.rules}
        self._but = [[text.pattern(source, table.words).search for source in rule.but] for rule in self.rules]
        # All patterns in the order of their rules; a rule of codes alone has one that is everywhere.
        self._patterns: list[tuple[int, re.Pattern[str]]] = []
        # Places in that list, by a literal that the pattern needs; these by their first letters.
        self._index: dict[str, dict[str, list[int]]] = {}
        for place, rule in enumerate(self.rules):
            for source in rule.text or ("",):
                compiled = text.pattern(source, table.words)
                for literal in text.needed(compiled.pattern) or {""}:
                    self._index.setdefault(literal[:_GRAM], {}).setdefault(literal, []).append(len(self._patterns))
                self._patterns.append((place, compiled))
        self._short = {first for first in self._index if len(first) < _GRAM}
        self._judged = lru_cache(maxsize=_CACHED)(self._judge)
        self._provider = lru_cache(maxsize=_CACHED)(table.provider)

    def classify(self, reply: Reply, provider: str = "", stage: str = "") -> Verdict:
        """What a refusal means.  ``provider`` is a provider's name or the MX host, ``stage`` where it came
        (``outcome.Stage``).  A reply without a code is as severe as its enhanced code says, else transient."""
        enhanced = reply.enhanced or text.enhanced_in(reply.text)
        code = reply.code if 400 <= reply.code < 600 else 0
        # RFC 2034 section 4: of an enhanced code that disagrees with the code, only subject and detail count.
        severity = str(code)[0] if code else "5" if enhanced.startswith("5") else "4"
        enhanced = severity + enhanced[1:] if enhanced else ""
        return self._judged(code, severity, enhanced, text.normal(reply.text), self._provider(provider), stage)

    def _judge(self, code: int, severity: str, enhanced: str, words: str, provider: str, stage: str) -> Verdict:
        for place, pattern in self._candidates(words):
            rule = self.rules[place]
            if (
                (not rule.code or str(code or "") in rule.code or f"{severity}xx" in rule.code)
                and (not rule.provider or provider in rule.provider)
                and (not rule.stage or stage in rule.stage)
                and (not rule.enhanced or _covers(rule.enhanced, enhanced))
                and (found := pattern.search(words))
                and not any(search(words) for search in self._but[place])
            ):
                codes = f"enhanced code {enhanced}" if rule.enhanced else f"code {code}"
                why = f'"{printable(found[0], _SHOWN)}"' if rule.text else codes
                return Verdict(rule.cls, decide(rule.cls, severity == "5", rule.blame), rule.name, why)
        return Verdict("unknown", decide("unknown", severity == "5"), "", "no rule")

    def _candidates(self, words: str) -> Iterator[tuple[int, re.Pattern[str]]]:
        """Places of rules, in order, and their patterns whose literals are there."""
        grams = {words[i : i + _GRAM] for i in range(len(words) - _GRAM + 1)}
        likely = [self._index[first] for first in (self._index.keys() & grams) | self._short]
        found = {at for literals in likely for literal, some in literals.items() if literal in words for at in some}
        return map(self._patterns.__getitem__, sorted(found))


@lru_cache(maxsize=1)
def shipped() -> Classifier:
    """The one of the shipped rules alone."""
    return Classifier(load())


def _tier(rule: Rule) -> int:
    return 0 if rule.text else 1 if rule.enhanced else 2


@lru_cache(maxsize=_CACHED)
def _covers(patterns: tuple[str, ...], enhanced: str) -> bool:
    """Whether one of the patterns of enhanced codes takes this one in."""
    given = enhanced.split(".")
    if len(given) != 3:
        return "" in patterns
    return any(all(map(_part, one.split("."), given)) for one in patterns if one)


def _part(wanted: str, given: str) -> bool:
    first, dash, last = wanted.partition("-")
    return wanted in ("*", given) or bool(dash and int(first) <= int(given) <= int(last))
