"""The limits of a path (source towards site): sessions at once, and deliveries in a time.

Enter: ``Limits`` as configured, the moments at which deliveries go.  Leave: how long the next one has to wait.
"""

import re

import msgspec

_RATE = re.compile(r"(\d{1,9})\s*/\s*(s|sec|second|m|min|minute|h|hour|d|day)", re.IGNORECASE)
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Rate(msgspec.Struct, frozen=True):
    """So many deliveries in so many seconds."""

    count: int
    period: float

    def __str__(self) -> str:
        return f"{self.count}/{next(unit for unit, seconds in _PERIODS.items() if seconds == self.period)}"


def rate(text: object) -> Rate:
    """``"100/s"``, ``"20/min"``, ``"5000/h"``, ``"20000/d"``.  Raises ValueError."""
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    if not match or not int(match[1]):
        raise ValueError(f'{text!r} is not a rate: write "100/s", "20/min", "5000/h" or "20000/d"')
    return Rate(int(match[1]), _PERIODS[match[2][0].lower()])


class Limits(msgspec.Struct, frozen=True):
    """Of one path."""

    connections: int = 20
    rate: Rate | None = None


class Pace:
    """Keeps a rate (generic cell rate algorithm, ITU-T I.371): evenly, never more than a second's worth at once."""

    __slots__ = ("_burst", "_each", "_full_at", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._each = rate.period / rate.count
        self._burst = max(1.0 - self._each, 0.0)
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        """Seconds until one more may go, 0 if it may go now."""
        return max(0.0, self._full_at - self._burst - now)

    def spend(self, now: float) -> None:
        """One goes now."""
        self._full_at = max(self._full_at, now) + self._each
