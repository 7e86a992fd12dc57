"""The plan of a warm-up, as [warmup.NAME] has it: so many deliveries a day, and what a day's outcomes mean for it.

Enter: caps as a table or as a curve, shares.  Leave: the cap of each day of the plan.
"""

from itertools import pairwise
from math import inf, nan
from typing import Annotated

import msgspec

from relayd import notation

DAYS = 366  # of a plan, at most
MOST = 10**9  # deliveries a day: more is no limit
_CURVE = ("first", "growth", "days")


def parse_caps(value: object) -> tuple[int, ...]:
    """``[50, 100, 200]`` or ``{ first = 50, growth = 1.3, days = 30 }`` as a cap for each day.  Raises ValueError."""
    if isinstance(value, dict):
        return _curve(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value!r} are no caps: write [50, 100, 200] or {{ first = 50, growth = 1.3, days = 30 }}")
    if len(value) > DAYS:
        raise ValueError(f"has {len(value)} days, {DAYS} are enough")
    found = tuple(map(notation.whole(1, MOST), value))
    for day, (before, cap) in enumerate(pairwise(found), 2):
        if cap < before:
            raise ValueError(f"day {day} has {cap}, less than the day before: caps must rise")
    return found


def _curve(value: dict[str, object]) -> tuple[int, ...]:
    for key in (key for key in value if key not in _CURVE):
        raise ValueError(f"unknown key {key!r}{notation.nearest(key, _CURVE)}")
    for key in (key for key in _CURVE if key not in value):
        raise ValueError(f"{key} is missing: write {{ first = 50, growth = 1.3, days = 30 }}")
    growth = _number(value["growth"])
    if not 1 < growth <= 10:
        raise ValueError(f"growth: {value['growth']!r} is not a number above 1, up to 10: caps must rise")
    try:
        cap: float = notation.whole(1, MOST)(value["first"])
        days = notation.whole(1, DAYS)(value["days"])
    except ValueError as error:
        raise ValueError(f"first and days: {error}") from None
    found = []
    for _ in range(days):
        found.append(round(cap))
        cap = min(MOST, cap * growth)
    return tuple(found)


def parse_caps_for(value: object) -> dict[str, tuple[int, ...]]:
    """``parse_caps`` by the name of a group.  Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is not {{ PROVIDER = [20, 40, 80] }}")
    found = {}
    for group, table in value.items():
        try:
            found[group] = parse_caps(table)
        except ValueError as error:
            raise ValueError(f"{group}: {error}") from None
    return found


def share(value: object) -> float:
    """0 to 1.  Raises ValueError."""
    found = _number(value)
    if not 0 <= found <= 1:
        raise ValueError(f"{value!r} is not a share, 0 to 1: write 0.1 for 10 %")
    return found


def _number(value: object) -> float:
    """nan, which lies within no bounds, if it is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else nan


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``caps``: deliveries to each group on each day of the plan, after the last of which the source is warm there;
    ``caps_for``: of groups that have their own.

    ``deferrals``, ``blocks``, ``complaints``: the shares of the attempts above which a day is repeated (deferrals), or
    the plan goes a day back; fewer attempts than ``samples`` are judged together with those of the next day.  ``stop``:
    above ``blocks`` nothing more goes on the same day.  ``day_share``: of its cap, a day counts if so much was sent.
    ``longest_wait``: who has waited so long, in seconds, goes over the cap."""

    caps: Annotated[tuple[int, ...], parse_caps] = parse_caps({"first": 50, "growth": 1.3, "days": 30})
    caps_for: Annotated[dict[str, tuple[int, ...]], parse_caps_for] = {}
    deferrals: Annotated[float, share] = 0.1
    blocks: Annotated[float, share] = 0.02
    complaints: Annotated[float, share] = 0.001
    samples: Annotated[int, notation.whole(1)] = 20
    day_share: Annotated[float, share] = 0.5
    stop: bool = True
    longest_wait: Annotated[float, notation.duration] = 4 * 3600.0

    def of(self, group: str) -> tuple[int, ...]:
        """The caps of a group."""
        return self.caps_for.get(group, self.caps)

    def cap(self, group: str, day: int) -> float:
        """Of a day of the plan, the first is 1; inf after the last."""
        found = self.of(group)
        return found[day - 1] if day <= len(found) else inf
