"""Delivery windows: the hours of the week in which a message may be sent.

Enter: ``Mon-Fri 09:00-18:00 Europe/Moscow; Sat 10:00-14:00`` as a sender wrote it; moments in unix seconds.  Leave:
whether the window is open then, and when it opens next.  The wall clock of the window's zone decides, also on the days
on which that clock is put forward (what is skipped does not open) or back (what comes twice opens twice).

Zones with a name need the system's zone data, offsets (``+03:00``) and UTC need nothing.
"""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

import msgspec

from relayd.message.trace import DAYS

_DAY = 86400
_WEEK = 7 * _DAY
_EPOCH = 3 * _DAY  # 1970-01-01 was a Thursday, and weeks begin on Monday
_STEPS = 32  # of at most a day each: a clock put forward can swallow one week's opening, never two

_SPAN = re.compile(r"\s*([A-Z][A-Z,\- ]*?)?\s*(\d\d:\d\d)\s*-\s*(\d\d:\d\d)(?:\s+(\S+))?\s*", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|(24):(00)", re.ASCII)
_OFFSET = re.compile(r"([+-])(0\d|1[0-4]):([0-5]\d)", re.ASCII)
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9+_-]*(?:/[A-Za-z0-9+_-]+)*", re.ASCII)
_DAY_NUMBER = {name.lower(): number for number, name in enumerate(DAYS)}


class Window(msgspec.Struct, frozen=True):
    """``spans``: (first, behind the last) second of the week that is open, counted from Monday 00:00 in ``zone``."""

    zone: tzinfo
    spans: tuple[tuple[int, int], ...]

    def is_open(self, moment: float) -> bool:
        at = math.floor(moment)
        return not self._wait(at + self._offset(at))

    def next_open(self, moment: float) -> float:
        """The moment itself while the window is open, else the first one after it at which it is."""
        at = math.floor(moment)
        for _ in range(_STEPS):
            offset = self._offset(at)
            wait = self._wait(at + offset)
            if not wait:
                break
            until = at + min(wait, _DAY)
            at = until if self._offset(until) == offset else self._turn(at, until)
        return max(moment, float(at))

    def _wait(self, local: int) -> int:
        """Seconds on the wall clock until it opens, 0 while it is open."""
        second = (local + _EPOCH) % _WEEK
        if any(first <= second < end for first, end in self.spans):
            return 0
        return min((first - second) % _WEEK for first, _ in self.spans)

    def _offset(self, at: int) -> int:
        """Seconds by which the zone's clock is ahead of UTC."""
        return int((datetime.fromtimestamp(at, self.zone).utcoffset() or timedelta()).total_seconds())

    def _turn(self, before: int, after: int) -> int:
        """The second in which the offset of ``before`` ends; at ``after`` it is another."""
        offset = self._offset(before)
        while after - before > 1:
            middle = (before + after) // 2
            if self._offset(middle) == offset:
                before = middle
            else:
                after = middle
        return after


_ALWAYS = Window(UTC, ((0, _WEEK),))


@lru_cache(maxsize=256)
def parse(text: str) -> Window:
    """A window from its text.  Raises ValueError with a sentence that says what to write."""
    zones: dict[str, None] = {}
    spans: list[tuple[int, int]] = []
    for part in text.split(";"):
        match = _SPAN.fullmatch(part)
        if not match:
            raise ValueError(f'{part.strip()[:60]!r} is no window: write "Mon-Fri 09:00-18:00 Europe/Moscow"')
        days, first, end, zone = match.groups()
        start, stop = _time(first), _time(end)
        if start in (stop, _DAY):
            raise ValueError(f'{part.strip()[:60]!r} is no time at all: for whole days write "00:00-24:00"')
        zones |= {zone: None} if zone else {}
        for day in _days(days or "Mon-Sun"):
            spans += _within_week(day * _DAY + start, day * _DAY + stop + (_DAY if stop < start else 0))
    if len(zones) > 1:
        raise ValueError(f"a window has one time zone, not {' and '.join(map(repr, zones))[:100]}")
    return Window(_zone(next(iter(zones), "UTC")), tuple(spans))


@lru_cache(maxsize=256)
def stored(text: str) -> Window:
    """The window of a message in the spool.  One that cannot be read here any more (the spool was moved to a machine
    without zone data) is always open: mail must go on."""
    try:
        return parse(text)
    except ValueError:
        return _ALWAYS


def _time(text: str) -> int:
    match = _TIME.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no time of day: 00:00 to 24:00")
    hour, minute = filter(None, match.groups())
    return int(hour) * 3600 + int(minute) * 60


def _days(text: str) -> Iterator[int]:
    """``Mon-Fri``, ``Sat,Sun``, ``Sat-Mon``; 0 is Monday."""
    for item in text.split(","):
        first, _, last = (word.strip().lower() for word in item.partition("-"))
        if first not in _DAY_NUMBER or (last or first) not in _DAY_NUMBER or item.strip().endswith("-"):
            raise ValueError(f'{item.strip()[:60]!r} is no day: write "Mon", "Mon-Fri" or "Sat,Sun"')
        start, end = _DAY_NUMBER[first], _DAY_NUMBER[last or first]
        for day in range(start, start + (end - start) % 7 + 1):
            yield day % 7


def _within_week(start: int, end: int) -> list[tuple[int, int]]:
    """The span, in two if it goes over the end of the week."""
    return [(start, end)] if end <= _WEEK else [(start, _WEEK), (0, end - _WEEK)]


def _zone(name: str) -> tzinfo:
    if name in ("UTC", "Z"):
        return UTC
    offset = _OFFSET.fullmatch(name)
    if offset:
        ahead = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(-ahead if offset[1] == "-" else ahead)
    if _ZONE.fullmatch(name):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # not there; a file of another kind; a directory
            pass
    raise ValueError(
        f"{name[:60]!r} is no time zone known here: write a name such as Europe/Moscow or an offset such as +03:00"
    )
