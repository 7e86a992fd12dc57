"""The verbs of plans and balances.

In: the directory's values and a payer's lease as it is in the spool now.  Out: JSON-able rows and counters.
"""

from concurrent.futures import Future
from typing import Any

import msgspec

from relayd import notation
from relayd.control.accounts import known
from relayd.control.verb import Arg, Relay, Scope, Verb
from relayd.directory import plans
from relayd.directory.balances import Movement
from relayd.directory.plans import Balance, Plan
from relayd.errors import InputError
from relayd.lease import Lease

_NOTHING = "nothing"


def _plan_add(
    relay: Relay,
    name: str,
    renews: Any,
    units: int,
    overage: bool,
    step: list[str],
    trial_units: int,
    trial_days: int,
    low: int,
    refund: list[str],
) -> "Future[Plan]":
    terms = tuple(dict.fromkeys(refund)) or plans.REFUNDS
    made = Plan(
        name=name,
        renews=renews,
        units=units,
        overage=overage,
        steps=plans.steps(step),
        trial_units=trial_units,
        trial_days=trial_days,
        low=low,
        refunds=() if terms == (_NOTHING,) else terms,
        created=relay.now(),
    )
    return relay.directory.balances.add_plan(made)


def _plan_list(relay: Relay) -> list[Plan]:
    return relay.directory.balances.plans()


def _plan_show(relay: Relay, name: str) -> dict[str, Any]:
    plan = _plan_of(relay, name)
    accounts = [balance.account for balance in relay.directory.balances.balances() if balance.plan == name]
    return {**msgspec.structs.asdict(plan), "accounts": accounts}


def _plan_remove(relay: Relay, name: str) -> "Future[Plan]":
    return relay.directory.balances.remove_plan(_plan_of(relay, name).name)


def _plan_of(relay: Relay, name: str, field: str = "name") -> Plan:
    plan = relay.directory.balances.plan(name)
    if plan is None:
        near = notation.nearest(name, (one.name for one in relay.directory.balances.plans()))
        raise InputError(field, f"there is no plan {name!r}{near}")
    return plan


def _balance_of(relay: Relay, account: str) -> Balance:
    balance = relay.directory.balances.balance(account)
    if balance is None:
        known(relay, account)
        raise InputError("account", f"{account} has no balance: it is unlimited")
    return balance


async def _balance_show(relay: Relay, account: str) -> dict[str, Any]:
    balance, booked = _balance_of(relay, account), relay.directory.balances.leases.get(account, Lease())
    lease, today = await relay.lease(account)
    unbooked = (lease.charged - lease.refunded) - (booked.charged - booked.refunded)
    now = msgspec.structs.replace(balance, used=balance.used + unbooked)
    return {**_row(relay, now), "leased": lease.left, "used_today": today}


def _balance_list(relay: Relay, low: bool) -> list[dict[str, Any]]:
    rows = [_row(relay, balance) for balance in relay.directory.balances.balances()]
    return [row for row in rows if row["low"] or not low]


def _row(relay: Relay, balance: Balance) -> dict[str, Any]:
    """The counters as they are now.  ``left``: units that can still be sent, leased ones included; None: any number."""
    plan, now = _plan_of(relay, balance.plan), relay.now()
    current = plans.current(balance, plan, now)
    left = plans.available(current, plan, 0, now)
    return {
        **msgspec.structs.asdict(current),
        "left": left if left < plans.BOUNDLESS else None,
        "low": left < plan.low,
        "cost": plans.cost(plan, current),
    }


async def _balance_set_plan(
    relay: Relay, account: str, plan: str, trial: bool, note: str, who: str
) -> "Future[Balance]":
    _plan_of(relay, plan, "plan")
    await relay.book(account)  # to the plan it was used of
    return relay.directory.balances.set_plan(account, plan, now=relay.now(), trial=trial, by=who, note=note)


def _balance_credit(relay: Relay, account: str, units: int, note: str, who: str) -> "Future[Balance]":
    _balance_of(relay, account)
    return relay.directory.balances.credit(account, units, now=relay.now(), by=who, note=note)


def _balance_debit(relay: Relay, account: str, units: int, note: str, who: str) -> "Future[Balance]":
    return _balance_credit(relay, account, -units, note, who)


async def _balance_remove(relay: Relay, account: str, who: str) -> "Future[Balance]":
    _balance_of(relay, account)
    await relay.book(account)
    return relay.directory.balances.remove(account, now=relay.now(), by=who)


def _balance_ledger(relay: Relay, account: str, limit: int) -> "Future[list[Movement]]":
    return relay.directory.balances.movements(account, limit)


_PLAN = Arg("name", "the plan's name", "name", positional=True, required=True)
_ACCOUNT = Arg("account", "the account that pays", "name", positional=True, required=True)
_UNITS = Arg("units", "how many", "int", positional=True, required=True)
_NOTE = Arg("note", "why, for the ledger", default="")

VERBS: tuple[Verb, ...] = (
    Verb(
        name="plan add",
        help="make a plan: how many units, each for one recipient, when they renew, what they cost",
        handler=_plan_add,
        args=(
            _PLAN,
            Arg(
                "renews",
                "when the units renew (UTC); never: prepaid, more are bought by credits",
                default="never",
                choices=("never", "daily", "monthly"),
            ),
            Arg("units", "units of each period; of a prepaid plan, those that come with it", "int", default=0),
            Arg("overage", "mail goes on when they are used up, and is counted", "bool", default=False),
            Arg("step", "UNITS:PRICE, the price of each unit after so many in a period", repeated=True),
            Arg("trial_units", "units of a trial", "int", default=0),
            Arg("trial_days", "days of a trial; without, it ends by its units only", "int", default=0),
            Arg("low", "with fewer units left a balance is called low", "int", default=0),
            Arg(
                "refund",
                "gives a unit back if no attempt was made; without any: suppressed, dropped, cancelled",
                repeated=True,
                choices=(*plans.REFUNDABLE, _NOTHING),
            ),
        ),
        role="admin",
        effect="change",
        example="plan add --renews monthly --units 10000 --overage --step 10000:0.02 business",
    ),
    Verb(name="plan list", help="all plans", handler=_plan_list, example="plan list"),
    Verb(
        name="plan show",
        help="a plan and the accounts that have it",
        handler=_plan_show,
        args=(_PLAN,),
        example="plan show business",
        scope=Scope("name", "plan", hides=("accounts",)),
    ),
    Verb(
        name="plan remove",
        help="forget a plan that no account has",
        handler=_plan_remove,
        args=(_PLAN,),
        role="admin",
        effect="change",
        example="plan remove business",
    ),
    Verb(
        name="balance show",
        help="what an account has left, has used today and in this period, and what that costs so far",
        handler=_balance_show,
        args=(_ACCOUNT,),
        example="balance show crm",
        scope=Scope("account"),
    ),
    Verb(
        name="balance list",
        help="all balances, as far as they are booked: the last seconds may be missing",
        handler=_balance_list,
        args=(Arg("low", "only those that are low", "bool", default=False),),
        example="balance list --low",
    ),
    Verb(
        name="balance ledger",
        help="what came to a balance and left it, by whom and why, the latest first",
        handler=_balance_ledger,
        args=(_ACCOUNT, Arg("limit", "how many lines at most", "int", default=50)),
        example="balance ledger crm",
        scope=Scope("account", hides=("by",)),
    ),
    Verb(
        name="balance set-plan",
        help="give an account a plan, whose first period or trial begins at once",
        handler=_balance_set_plan,
        args=(
            _ACCOUNT,
            Arg("plan", "the plan's name", "name", positional=True, required=True),
            Arg("trial", "begin with the plan's trial", "bool", default=False),
            _NOTE,
        ),
        role="admin",
        effect="change",
        signed=True,
        example="balance set-plan crm business",
    ),
    Verb(
        name="balance credit",
        help="add units to a balance",
        handler=_balance_credit,
        args=(_ACCOUNT, _UNITS, _NOTE),
        role="admin",
        effect="change",
        signed=True,
        example='balance credit --note "invoice 17" crm 50000',
    ),
    Verb(
        name="balance debit",
        help="take units from a balance",
        handler=_balance_debit,
        args=(_ACCOUNT, _UNITS, _NOTE),
        role="admin",
        effect="change",
        signed=True,
        example='balance debit --note "credited twice" crm 50000',
    ),
    Verb(
        name="balance remove",
        help="let an account send without a balance, as much as it likes",
        handler=_balance_remove,
        args=(_ACCOUNT,),
        role="admin",
        effect="change",
        signed=True,
        example="balance remove crm",
    ),
)
