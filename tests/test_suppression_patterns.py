"""The sieve of patterns: no address that a pattern matches passes, few others are held, and none takes long."""

import re
import time
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.suppression.patterns import Patterns, grams

_text = st.text("ab.@", min_size=1, max_size=8)
_globs = st.lists(st.text("ab.@*?", min_size=1, max_size=10).filter(lambda text: re.search("[^*?]{3}", text)))


def sieve(*globs: str) -> Patterns:
    made = Patterns()
    for glob in globs:
        made.add(glob)
    return made


def may(patterns: Patterns, address: str) -> bool:
    return patterns.may_match(address, grams(address))


@given(_globs, _globs, _text)
def test_what_a_pattern_matches_is_always_held(globs: list[str], gone: list[str], address: str) -> None:
    patterns = sieve(*globs, *gone)
    for glob in gone:
        patterns.discard(glob)
    left = set(globs) - set(gone)
    assert len(patterns) == len(left)
    if any(fnmatchcase(address, glob) for glob in left):
        assert may(patterns, address)


@pytest.mark.parametrize(
    ("glob", "held", "passes"),
    [
        ("*@*.mail.ru", "x@a.mail.ru", "x@mail.ru"),
        ("noreply*@*", "noreply-7@b.example", "reply@b.example"),
        ("*spam*trap*", "a-spam-trap@b.example", "a-spam@b.example"),
        ("root?@host.example", "root1@host.example", "roof1@host.example"),
    ],
)
def test_what_stands_between_the_wildcards_has_to_be_there(glob: str, held: str, passes: str) -> None:
    patterns = sieve(glob, "*@other.example")
    assert may(patterns, held) and not may(patterns, passes)


def test_a_thousand_patterns_are_as_quick_as_a_few() -> None:
    """Even if all that they share with every address is the same three characters."""
    for globs in ([f"*@*.n{n}.example" for n in range(1000)], [f"{n}?*.ru" for n in range(1000)]):
        patterns, found = sieve(*globs), grams("somebody.else@department.mail.ru")
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            for _ in range(1000):
                patterns.may_match("somebody.else@department.mail.ru", found)
            best = min(best, time.process_time() - began)
        assert best / 1000 < 30e-6


def test_of_a_crowd_under_the_same_characters_the_disk_is_asked() -> None:
    patterns = sieve(*(f"{n}?*.ru" for n in range(1000)))
    assert may(patterns, "nobody@mail.ru") and not may(patterns, "nobody@mail.example")
