"""Plans and what they make of a balance: pure functions of values and ``now``.

A plan says how many units an account has, when they are renewed, what a unit costs and which are given back.  A balance
is what an account has of its plan in the current period.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Literal

import msgspec

from relayd.errors import InputError

Renews = Literal["never", "daily", "monthly"]
REFUNDABLE = ("suppressed", "dropped", "cancelled", "expired", "bounced")  # terms of the ledger
REFUNDS = REFUNDABLE[:3]
BOUNDLESS = 1 << 40  # what is there where nothing stops anybody

_DAY = 86400
_STEP = re.compile(r"(\d{1,12}):(\d{1,9}(?:\.\d{1,6})?)", re.ASCII)


class Plan(msgspec.Struct, frozen=True):
    """``units`` come with each period, or once if the plan never renews (prepaid: more are bought by credits).
    ``overage``: mail goes on when they are used up, and is counted.  ``steps``: (units before it, price of a unit),
    rising.  A trial offers ``trial_units`` for ``trial_days`` (0: without an end).  A balance with fewer than ``low``
    units is called low.  ``refunds``: the ledger's terms that give a unit back if no attempt was made."""

    name: str
    renews: Renews = "never"
    units: int = 0
    overage: bool = False
    steps: tuple[tuple[int, Decimal], ...] = ()
    trial_units: int = 0
    trial_days: int = 0
    low: int = 0
    refunds: tuple[str, ...] = REFUNDS
    created: float = 0.0


class Balance(msgspec.Struct, frozen=True):
    """What an account has of its plan from ``since`` to ``until`` (None: without an end).  ``used`` is charged less
    refunded, and negative if the last period's mail was refunded in this one."""

    account: str
    plan: str
    trial: bool
    since: float
    until: float | None
    units: int
    used: int = 0

    @property
    def left(self) -> int:
        return self.units - self.used

    def over(self, now: float) -> bool:
        return self.until is not None and now >= self.until


def period(renews: Renews, now: float) -> tuple[float, float | None]:
    """(since, until) of the period of UTC that ``now`` is in."""
    if renews == "never":
        return now, None
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if renews == "daily":
        return day.timestamp(), (day + timedelta(days=1)).timestamp()
    first = day.replace(day=1)
    return first.timestamp(), (first + timedelta(days=31)).replace(day=1).timestamp()


def current(balance: Balance, plan: Plan, now: float) -> Balance:
    """The balance as it is now: renewed, if its period is over.  A trial that is over stays so."""
    if balance.trial or not balance.over(now):
        return balance
    since, until = period(plan.renews, now)
    return Balance(balance.account, plan.name, False, since, until, plan.units)


def available(balance: Balance, plan: Plan, leased: int, now: float) -> int:
    """Units of a current balance that can be leased, while so many are leased already."""
    if balance.trial and balance.over(now):
        return 0
    if plan.overage and not balance.trial:
        return BOUNDLESS
    return max(0, balance.left - leased)


def begun(account: str, plan: Plan, now: float) -> Balance:
    """The first period of a plan.  It is as long as the calendar's: renewal is at the start of a month or day."""
    return Balance(account, plan.name, False, now, period(plan.renews, now)[1], plan.units)


def tried(account: str, plan: Plan, now: float) -> Balance:
    """The trial of a plan.  Raises InputError if it has none."""
    if not plan.trial_units:
        raise InputError("trial", f"the plan {plan.name} has no trial")
    until = now + plan.trial_days * _DAY if plan.trial_days else None
    return Balance(account, plan.name, True, now, until, plan.trial_units)


def prepaid(balance: Balance) -> bool:
    """Whether its units were bought without an end: they go along to another prepaid plan, all others lapse."""
    return not balance.trial and balance.until is None


def credited(balance: Balance, plan: Plan, units: int, now: float) -> Balance:
    """More units for the current period, or fewer.  Who buys prepaid units in a trial has ended it; what the trial has
    left is his if it was not over."""
    if balance.trial and balance.over(now):
        if plan.renews != "never":
            raise InputError("account", f"the trial of {plan.name} is over: first give it a plan with balance set-plan")
        balance = msgspec.structs.replace(balance, units=balance.used)
    ends = balance.trial and plan.renews == "never" and units > 0
    changed = msgspec.structs.replace(balance, units=balance.units + units)
    return msgspec.structs.replace(changed, trial=False, until=None) if ends else changed


def cost(plan: Plan, balance: Balance) -> Decimal:
    """What the period has cost so far: each unit at the price of the step it falls in.  A trial costs nothing."""
    if balance.trial:
        return Decimal(0)
    steps = pairwise([*plan.steps, (BOUNDLESS, Decimal(0))])
    return sum((price * max(0, min(balance.used, end) - start) for (start, price), (end, _) in steps), Decimal(0))


def refunds(plan: Plan, term: str, attempts: int) -> bool:
    """Whether a delivery that leaves by this term of the ledger after so many attempts gives its unit back."""
    return not attempts and term in plan.refunds


def steps(texts: Iterable[str]) -> tuple[tuple[int, Decimal], ...]:
    """``"0:0.10", "10000:0.08"``: the price of each unit, and of each after the first 10,000.  Raises InputError."""
    found = []
    for text in texts:
        match = _STEP.fullmatch(text)
        if not match:
            raise InputError("step", f'{text!r} is no step: write UNITS:PRICE, as "0:0.10" and "10000:0.08"')
        found.append((int(match[1]), Decimal(match[2])))
    found.sort()
    for (one, _), (other, _) in pairwise(found):
        if one == other:
            raise InputError("step", f"there are two prices after {one} units")
    return tuple(found)


def checked(plan: Plan) -> Plan:
    """The plan, if it makes sense.  Raises InputError."""
    if plan.renews != "never" and not (plan.units or plan.overage):
        raise InputError("units", "a plan that renews offers at least 1 unit a period, or overage")
    if plan.trial_days and not plan.trial_units:
        raise InputError("trial_units", "a trial needs units: say how many")
    for term in plan.refunds:
        if term not in REFUNDABLE:
            raise InputError("refund", f"{term!r} is none of {', '.join(REFUNDABLE)}")
    return plan
