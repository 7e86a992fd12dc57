"""Histograms of plain numbers: how many values were no larger than each bound.

Adding a value is a search among a dozen bounds and two additions, so it may stand where much happens.  One thread adds;
another may read a copy, in which the count may be one value ahead of the sum.
"""

from bisect import bisect_left
from itertools import accumulate
from math import inf


class Histogram:
    """``bounds`` rise; what is beyond the last one counts too."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> "Histogram":
        made = Histogram(self.bounds)
        made.counts, made.sum = self.counts.copy(), self.sum
        return made

    def steps(self) -> list[tuple[float, int]]:
        """Each bound with the number of values that are no larger; the last bound is infinite."""
        return list(zip((*self.bounds, inf), accumulate(self.counts), strict=True))
