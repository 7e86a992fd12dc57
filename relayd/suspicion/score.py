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
    found = (part for part in _parts(habits, judge_rise, judge_new) if part.points >= 0.5)
    return tuple(sorted(found, key=lambda part: -part.points))


def total(found: tuple[Part, ...]) -> int:
    return min(100, round(sum(part.points for part in found)))


def _parts(habits: Habits, judge_rise: bool, judge_new: bool) -> Iterator[Part]:
    counts, usual = habits.counts, habits.usual
    if judge_rise:
        sent, links, senders = counts[RECIPIENTS], len(habits.links), len(habits.senders)
        yield Part(
            "volume",
            40 * _rise(sent, usual.recipients, _RECIPIENTS),
            f"{sent:,.0f} recipients in {_MINUTES} minutes, {usual.recipients:,.0f} is the most that is usual",
        )
        yield Part(
            "links",
            15 * _rise(links, usual.links, _LINKS),
            f"links to {links} different hosts and addresses within the hour, {usual.links:.0f} is the most usual",
        )
        yield Part(
            "senders",
            25 * _rise(senders, usual.senders, _SENDERS),
            f"{senders} different sender addresses within the hour, {usual.senders:.0f} is the most usual",
        )
    asked = counts[ASKED]
    if judge_new and asked >= FEW and usual.new < 1:
        share = counts[NEW] / asked
        excess = (share - usual.new) / (1 - usual.new)
        words = f"{share:.0%} of the recipients were never written to before, {usual.new:.0%} is usual"
        yield Part("new", 30 * _between(excess, 0.3, 0.8), words)
    suppressed, faulty = counts[SUPPRESSED], counts[FAULTY]
    tried = counts[RECIPIENTS] + suppressed + faulty
    if tried >= FEW:
        words = f"{suppressed / tried:.0%} of the recipients are on stop-lists"
        yield Part("suppressed", 25 * _between(suppressed / tried, 0.05, 0.3), words)
        words = f"{faulty / tried:.0%} of the recipients have impossible, misspelt or dead addresses"
        yield Part("faulty", 30 * _between(faulty / tried, 0.05, 0.3), words)
    spoofed = counts[SPOOFED]
    words = f"{spoofed:.0f} times in {_MINUTES} minutes it tried to send in another's name"
    yield Part("spoofing", 25 * _between(spoofed, 2, 20), words)
    if counts[TEXTS] >= 3:
        share = counts[SHARED] / counts[TEXTS]
        words = f"{share:.0%} of the texts looked at come from other accounts too, nearly word for word"
        yield Part("texts", 25 * _between(share, 0.3, 0.8), words)


def _rise(value: float, usual: float, floor: float) -> float:
    """0 to 1, by the logarithm: ten times is not thrice as bad as thrice."""
    times = value / max(usual, floor)
    return min(1.0, log(times / _RISE) / log(_LEAP / _RISE)) if times > _RISE else 0.0


def _between(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
