"""The score of a sender, 0 to 100, by parts that are told in words.

In: its habits and what it does of late.  Out: the parts that speak against it.  No part alone reaches the threshold:
a newsletter is sudden, a shop's customers are new, an old list holds dead addresses.  It takes two or three together.
"""

from collections.abc import Iterator
from math import log

import msgspec

from relayd.suspicion.habits import (
    ASKED,
    FAULTY,
    NEW,
    RECIPIENTS,
    SHARED,
    SPOOFED,
    SUPPRESSED,
    TEXTS,
    WINDOW,
    Habits,
)
from relayd.suspicion.text import different

FEW = 30  # recipients or texts of which a share says nothing
_MINUTES = round(WINDOW / 60)
_RISE, _LEAP = 3.0, 10.0  # times what is usual: where it begins to count, and counts whole
# What nobody is asked about, however little is usual: in a window, and of an hour.
_RECIPIENTS, _LINKS, _SENDERS = 50.0, 20.0, 10.0


class Part(msgspec.Struct, frozen=True):
    """What speaks against a sender, and how much."""

    name: str
    points: float
    words: str


def parts(habits: Habits, *, judge_rise: bool, judge_new: bool) -> tuple[Part, ...]:
    """Those that count, the heaviest first.  ``judge_rise``: whether what is usual is known, or known to be nothing;
    ``judge_new``: whether its recipients of before are."""
    found = [*(_rises(habits) if judge_rise else ()), *(_news(habits) if judge_new else ()), *_signs(habits)]
    return tuple(sorted(found, key=lambda part: -part.points))


def total(found: tuple[Part, ...]) -> int:
    return min(100, round(sum(part.points for part in found)))


def _rises(habits: Habits) -> Iterator[Part]:
    """Against what is usual."""
    usual, sent = habits.usual, habits.counts[RECIPIENTS]
    links, senders = different(habits.links), different(habits.senders)
    if points := 40 * _rise(sent, usual.recipients, _RECIPIENTS):
        words = f"{sent:,.0f} recipients in {_MINUTES} minutes, {usual.recipients:,.0f} is the most that is usual"
        yield Part("volume", points, words)
    if points := 15 * _rise(links, usual.links, _LINKS):
        words = (
            f"links to {links:.0f} different hosts and addresses within the hour, {usual.links:.0f} is the most usual"
        )
        yield Part("links", points, words)
    if points := 25 * _rise(senders, usual.senders, _SENDERS):
        words = f"{senders:.0f} different sender addresses within the hour, {usual.senders:.0f} is the most usual"
        yield Part("senders", points, words)


def _news(habits: Habits) -> Iterator[Part]:
    asked, usual = habits.counts[ASKED], habits.usual.new
    share = habits.counts[NEW] / asked if asked >= FEW else 0.0
    if share > usual and (points := 30 * _between((share - usual) / (1 - usual), 0.3, 0.8)):
        words = f"{share:.0%} of the recipients were never written to before, {usual:.0%} is usual"
        yield Part("new", points, words)


def _signs(habits: Habits) -> Iterator[Part]:
    """Whatever is usual."""
    counts = habits.counts
    suppressed, faulty, spoofed, texts = counts[SUPPRESSED], counts[FAULTY], counts[SPOOFED], counts[TEXTS]
    tried = counts[RECIPIENTS] + suppressed + faulty
    if tried >= FEW and (points := 25 * _between(suppressed / tried, 0.05, 0.3)):
        yield Part("suppressed", points, f"{suppressed / tried:.0%} of the recipients are on stop-lists")
    if tried >= FEW and (points := 30 * _between(faulty / tried, 0.05, 0.3)):
        words = f"{faulty / tried:.0%} of the recipients have impossible, misspelt or dead addresses"
        yield Part("faulty", points, words)
    if points := 25 * _between(spoofed, 2, 20):
        words = f"{spoofed:.0f} times in {_MINUTES} minutes it tried to send in another's name"
        yield Part("spoofing", points, words)
    if texts >= 3 and (points := 25 * _between(counts[SHARED] / texts, 0.3, 0.8)):
        words = (
            f"{counts[SHARED] / texts:.0%} of the texts looked at come from other accounts too, nearly word for word"
        )
        yield Part("texts", points, words)


def _rise(value: float, usual: float, floor: float) -> float:
    """0 to 1, by the logarithm: ten times is not thrice as bad as thrice."""
    times = value / max(usual, floor)
    return min(1.0, log(times / _RISE) / log(_LEAP / _RISE)) if times > _RISE else 0.0


def _between(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
