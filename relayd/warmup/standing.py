"""Where a source stands in its plan at a group, and how a day's outcomes move it.  Pure.

A day with too many blocks or complaints takes the plan a day back, one with too many deferrals is repeated, any other
moves it on, if enough was sent: only *sending days* count.  Too few attempts judge nothing; their outcomes are kept and
judged with those of the days after, so that a group with little mail is judged all the same.
"""

from datetime import UTC, datetime
from math import ceil, inf

import msgspec

from relayd.warmup.plan import Plan

DAY = 86400
PAUSE = 14  # days without a delivery that change nothing; each week more takes the plan a day back
WEEK = 7


class Standing(msgspec.Struct, eq=False):
    """``day``: of the plan, after its last the source is warm here.  ``date``: the UTC day, in days since 1970, on
    which ``used`` went within the cap and ``over`` beyond it; on disk ``used`` is what may have gone.  Then the
    outcomes by which no day was judged yet.  ``sent``: the last date with a delivery, from which a pause is counted.
    ``stopped``: for the rest of the date.  ``note``: why the plan last did not move on, "" if it did."""

    source: str
    group: str
    day: int = 1
    date: int = 0
    used: int = 0
    over: int = 0
    delivered: int = 0
    deferred: int = 0
    blocked: int = 0
    other: int = 0
    complaint: int = 0
    sent: int = 0
    stopped: bool = False
    note: str = ""

    @property
    def attempts(self) -> int:
        return self.delivered + self.deferred + self.blocked + self.other


def turn(at: Standing, plan: Plan, date: int) -> None:
    """Another date begins: the one that ends is judged, then the pause up to this one."""
    cap = plan.cap(at.group, at.day)
    judged = at.stopped or at.attempts >= plan.samples
    if cap < inf:
        back, why = (1, at.note) if at.stopped else trouble(at, plan)
        if why:
            at.day = max(1, at.day - back)
            at.note = f"{'went back' if back else 'held'} on {_day(at.date)}: {why}"
        elif at.used + at.over >= wanted(plan, cap):
            at.day += 1
            at.note = ""
    if judged:
        forget_outcomes(at)
    weeks = ceil((date - at.sent - 1 - PAUSE) / WEEK)
    if weeks > 0:
        last = min(at.day, len(plan.of(at.group)) + 1)
        at.day = max(1, last - weeks)
        at.sent += weeks * WEEK  # the next week more is another day back
        if at.day < last:
            at.note = f"went back on {_day(date)}: nothing was sent for over {PAUSE} days"
    at.date, at.used, at.over, at.stopped = date, 0, 0, False


def forget_outcomes(at: Standing) -> None:
    at.delivered = at.deferred = at.blocked = at.other = at.complaint = 0


def wanted(plan: Plan, cap: float) -> int:
    """How many make a sending day."""
    return max(1, ceil(plan.day_share * cap))


def blocks(at: Standing, plan: Plan) -> str:
    """Words for too many blocks, "" if they are not."""
    return _too_many(at, plan, at.blocked, plan.blocks, "blocked")


def trouble(at: Standing, plan: Plan) -> tuple[int, str]:
    """How many days back the outcomes take the plan, and why; (0, "") if they let it move on."""
    if why := blocks(at, plan) or _too_many(at, plan, at.complaint, plan.complaints, "complained about"):
        return 1, why
    return 0, _too_many(at, plan, at.deferred, plan.deferrals, "deferred")


def _too_many(at: Standing, plan: Plan, count: int, share: float, what: str) -> str:
    attempts = at.attempts
    # A single one proves nothing, whatever its share.
    if attempts < plan.samples or count < 2 or count <= share * attempts:
        return ""
    return f"{count} of {attempts} were {what}, more than {100 * share:.4g} %"


def state(at: Standing, plan: Plan) -> str:
    """How it goes, in words."""
    if at.day > len(plan.of(at.group)):
        return "warm"
    if at.stopped:
        return f"stopped until {until(at)}: {at.note}"
    back, why = trouble(at, plan)
    if why:
        return f"will {'go back' if back else 'be held'}: {why}"
    return at.note or "advancing"


def upcoming(at: Standing, plan: Plan) -> str:
    """What the next date brings, as things stand."""
    cap = plan.cap(at.group, at.day)
    if cap == inf:
        return ""
    then = msgspec.structs.replace(at)
    turn(then, plan, at.date + 1)
    if then.day > len(plan.of(at.group)):
        return "warm"
    if then.day != at.day:
        return f"day {then.day}" + ("" if then.day > at.day else ", back")
    left = wanted(plan, cap) - at.used - at.over
    clean = left > 0 and not trouble(at, plan)[1]
    return f"day {at.day} again" + (f", day {at.day + 1} if {left} more go today" if clean else "")


def until(at: Standing) -> str:
    """The end of its date."""
    return f"{_day(at.date + 1)} 00:00 UTC"


def _day(date: int) -> str:
    return f"{datetime.fromtimestamp(date * DAY, UTC):%b %d}"
