"""Limits: rates and the buckets that keep them; of a path (source towards site), also how many sessions at once.

Enter: rates as configured, the moments at which something goes.  Leave: how long the next one has to wait.
"""

import re

import msgspec

_RATE = re.compile(
    r"(\d{1,9})\s*/\s*(s|sec|second|m|min|minute|h|hour|d|day)(?:\s+burst\s+(\d{1,9}))?", re.IGNORECASE | re.ASCII
)
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_GRAIN = 3e-7  # seconds: unix time in a float knows no less


class Rate(msgspec.Struct, frozen=True):
    """So many in so many seconds.  ``burst``: of which so many at once, 0 for what is usual where the rate is kept."""

    count: int
    period: float
    burst: int = 0

    def __str__(self) -> str:
        unit = next(unit for unit, seconds in _PERIODS.items() if seconds == self.period)
        return f"{self.count}/{unit}" + (f" burst {self.burst}" if self.burst else "")


def rate(text: object) -> Rate:
    """``"100/s"``, ``"20/min"``, ``"5000/h"``, ``"20000/d"``, ``"1000/h burst 50"``.  Raises ValueError."""
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if not match or not int(match[1]) or not int(match[3] or 1):
        raise ValueError(
            f'{text!r} is not a rate: write "100/s", "20/min", "5000/h" or "20000/d", '
            'or "1000/h burst 50" to say how many may go at once'
        )
    return Rate(int(match[1]), _PERIODS[match[2][0].lower()], int(match[3] or 0))


class Bucket:
    """Keeps a rate (generic cell rate algorithm, ITU-T I.371): so many as ``burst`` at once, then evenly.

    More than the burst at once is not impossible: it goes when the bucket is full, and the next ones wait until it is
    paid for.  All the state is the moment at which the bucket is full again.  A clock that is set back takes the bucket
    back with it, so that nobody waits for the time to come again.
    """

    __slots__ = ("_deep", "_each", "_full_at", "_seen", "rate")

    def __init__(self, rate: Rate, burst: float) -> None:
        self.rate = rate
        self._each = rate.period / rate.count
        self._deep = burst * self._each  # seconds from empty to full
        self._full_at = 0.0
        self._seen = 0.0

    def wait(self, now: float, count: float = 1) -> float:
        """Seconds until so many may go, 0 if they may go now."""
        if now < self._seen:
            self._full_at -= self._seen - now
        self._seen = now
        slack = self._deep - count * self._each
        wait = self._full_at - now - (slack if slack > 0 else 0.0)
        return wait if wait > _GRAIN else 0.0

    def spend(self, now: float, count: int = 1) -> None:
        """So many go now."""
        self._full_at = (self._full_at if self._full_at > now else now) + count * self._each

    def give_back(self, taken: float, now: float, count: int = 1) -> None:
        """So many that went at ``taken`` did not go after all.  What has been refilled since is not given twice, so
        that the rate holds whatever is given back."""
        self._full_at -= max(0.0, count * self._each - max(0.0, now - taken))

    def left(self, now: float) -> int:
        """How many may go now."""
        return max(0, int((self._deep - self.fills(now) + _GRAIN) / self._each))

    def fills(self, now: float) -> float:
        """Seconds until it is full; a full one knows nothing that a new one does not."""
        return max(0.0, self._full_at - now)


class Limits(msgspec.Struct, frozen=True):
    """Of one path."""

    connections: int = 20
    rate: Rate | None = None


KEPT = 0.1  # of a path's rate, for priority mail


class Pace(Bucket):
    """Keeps a path's rate: evenly, without a burst of its own never more than a second's worth at once.

    Of what may go at once a share, one at least, is kept for priority mail (without a burst of its own, on top of the
    second's worth, from 2/s on): other mail goes only where that much is left.  Priority mail may pass at up to that
    share of the rate, so that neither kind ever stops the other.  While there is none, the whole rate is other mail's.
    """

    __slots__ = ("_kept", "_passing")

    def __init__(self, rate: Rate) -> None:
        second = rate.count / rate.period
        self._kept = max(1.0, KEPT * (rate.burst or second))
        super().__init__(rate, rate.burst or (second + self._kept if second >= 2 else max(1.0, second)))
        self._passing = Bucket(Rate(rate.count, rate.period / KEPT), self._kept)

    def wait_in_line(self, now: float) -> float:
        """Seconds until the next in line may go, whatever it is, and leave what is kept."""
        return self.wait(now, 1 + self._kept)

    def wait_to_pass(self, now: float) -> float:
        """Seconds until priority mail may pass what is in line."""
        return max(self.wait(now), self._passing.wait(now))

    def passed(self, now: float) -> None:
        """Priority mail goes now, past what is in line."""
        self.spend(now)
        self._passing.spend(now)
