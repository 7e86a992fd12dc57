"""Where a subject stands, and what its counts say of it.

Enter: a rule, counts of windows, the counts of days long past.  Leave: a finding, or none.  A good record lends
evidence: so many recipients, of which as few were bad as there always are, are added to those that are judged.
"""

from collections.abc import Iterable, Sequence
from math import sqrt

import msgspec

from relayd import notation
from relayd.reputation.counts import DAY, HOUR, N
from relayd.reputation.rules import KINDS, Rule, Shares, Signal

BY = "reputation"  # who takes the steps that nobody asked for
SURE = 3.0  # standard deviations above what is allowed: less may be chance, and there is a look every second
CREDIT = 10  # times the volume of its rule: what a record lends at most
KNOWN = 5  # times that volume: from which on a record is one
SIGN = 5  # times fewer than that volume may show that it goes on
EASE = 0.5  # of a step's share: above it there is still a sign of what led there
FADES = 0.95  # of the past that is left after a day: half of it in a fortnight

Key = tuple[str, str]  # kind and name


class Standing(msgspec.Struct):
    """A subject as it is kept on disk.  ``step``: its place in STEPS; ``why`` and since when; ``by``: who put it there;
    ``raised``: when it last went a step up, ``seen``: the last sign of what led there, ``until``: when an operator's
    ends by itself, 0.0 for never.  ``pace``: recipients an hour while it is slowed.  ``today``: counts of the UTC
    ``date``; ``past``: of the days before, the older the less."""

    kind: str
    name: str
    step: int = 0
    why: str = ""
    by: str = BY
    since: float = 0.0
    raised: float = 0.0
    seen: float = 0.0
    until: float = 0.0
    pace: int = 0
    date: int = 0
    today: list[int] = msgspec.field(default_factory=lambda: [0] * N)
    past: list[int] = msgspec.field(default_factory=lambda: [0] * N)

    def __post_init__(self) -> None:
        for counts in (self.today, self.past):
            counts.extend([0] * (N - len(counts)))  # of before a counter was added

    @property
    def key(self) -> Key:
        return self.kind, self.name

    @property
    def manual(self) -> bool:
        return self.step > 0 and self.by != BY

    def count(self, counts: Sequence[tuple[int, int]], now: float) -> None:
        """So many of each counter, in the day that it is."""
        date = int(now // DAY)
        if date > self.date:
            if any(self.today) or any(self.past):
                fades = FADES ** min(date - self.date, 365)
                self.past = [round((a + b) * fades) for a, b in zip(self.past, self.today, strict=True)]
                self.today = [0] * N
            self.date = date
        for counter, count in counts:
            self.today[counter] += count


def named(key: Key) -> str:
    """``kind:name``, as ``read`` takes it."""
    return f"{key[0]}:{key[1]}"


def read(text: str) -> Key:
    """``account:NAME``, ``client:ACCOUNT/CLIENT``, ``connection:LOGIN``, ``domain:NAME`` or ``source:SOURCE/GROUP``.
    Raises ValueError."""
    kind, colon, name = text.partition(":")
    paired = kind in ("client", "source")
    if kind not in KINDS or not colon or not name or (paired and not all(name.partition("/"))):
        forms = "account:NAME, client:ACCOUNT/CLIENT, connection:LOGIN, domain:NAME or source:SOURCE/GROUP"
        raise ValueError(f"{text!r} is not {forms}{notation.nearest(kind, KINDS)}")
    return kind, name


class Finding(msgspec.Struct, frozen=True):
    """``step``: where the worst signal would put the subject; ``sign``: whether there is any of what led to the step at
    which it stands; ``known``: whether it has a good record."""

    step: int
    words: str
    sign: bool
    known: bool


def judged(at: Standing, rule: Rule, hour: list[int], day: list[int]) -> Finding | None:
    """What a subject's windows say; None if nothing bad, or too little of anything.  The hour is judged if it has the
    volume, else the day; a fifth of it is enough for a sign."""
    worst = (0, 0.0)
    enough = rule.volume // SIGN if at.step else rule.volume
    found, sign = None, False
    for signal, shares in rule.signals():
        windows = (hour if window == HOUR else day for window in signal.windows)
        counts = next((counts for counts in windows if _among(counts, signal) >= enough), None)
        if counts is None or not counts[signal.bad]:
            continue
        bad, among = counts[signal.bad], _among(counts, signal)
        lent, usual = _credit(at.past, signal, shares, rule)
        bad_in_all, in_all = bad + lent * usual, among + lent
        sign = sign or _surely(bad_in_all, in_all, EASE * shares[min(max(at.step, 1), len(shares)) - 1])
        step = sum(_surely(bad_in_all, in_all, share) for share in shares) if among >= rule.volume else 0
        share = bad_in_all / in_all
        if (step, share / shares[0]) > worst:
            worst = step, share / shares[0]
            text = _words(signal, counts is hour, bad, among, share, shares[max(step, 1) - 1], lent)
            found = Finding(step, text, sign, lent >= KNOWN * rule.volume)
    return found and msgspec.structs.replace(found, sign=sign)


def near(at: Standing, signals: Iterable[tuple[Signal, Shares]]) -> float:
    """How much of what is allowed was reached today, by the signals of its rule: 1.0 is what it is slowed from."""
    return max(
        (_share(at.today, signal) / shares[0] for signal, shares in signals if at.today[signal.bad]), default=0.0
    )


def _share(counts: Sequence[int], signal: Signal) -> float:
    return counts[signal.bad] / _among(counts, signal)


def _surely(bad: float, among: int, share: float) -> bool:
    """Whether so many of so many are more than that share, and not by chance."""
    return bad >= among * share + SURE * sqrt(among * share * (1 - share))


def _among(counts: Sequence[int], signal: Signal) -> int:
    # Complaints come later than what they are of: more of them than deliveries are still a share.
    return max(counts[signal.bad], sum(counts[counter] for counter in signal.among))


def _credit(past: list[int], signal: Signal, shares: Shares, rule: Rule) -> tuple[int, float]:
    """How many recipients the past lends, and the share of bad ones among them; none if it is not good."""
    among = _among(past, signal)
    usual = past[signal.bad] / among if among else 0.0
    return (min(among, CREDIT * rule.volume), usual) if usual < shares[0] else (0, 0.0)


def _words(signal: Signal, hour: bool, bad: int, among: int, share: float, allowed: float, lent: int) -> str:
    what = signal.words.format(" of the last hour" if hour else " of the last day")
    record = f", {percent(share)} with its record" if lent else ""
    return f"{bad} of {among} {what} ({percent(bad / among)}{record}; {percent(allowed)} allowed)"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
