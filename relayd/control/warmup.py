"""The verbs of warm-up.

In: the running relay's plans and where its sources stand.  Out: JSON-able rows.
"""

from concurrent.futures import Future
from heapq import nsmallest
from typing import Any

from relayd import notation
from relayd.control.verb import Arg, Relay, Verb, then
from relayd.errors import InputError
from relayd.warmup import Plan, Standing, state, upcoming


def _list(relay: Relay, limit: int) -> list[dict[str, Any]]:
    plans = {source: relay.warmup.plan_of(source) for source in relay.config.source}
    warming = {source: plan for source, plan in plans.items() if plan}
    found = {source: relay.warmup.standings(source, relay.now()) for source in warming}
    fresh = [{"source": source, "state": "nothing sent yet"} for source in warming if not found[source]]
    return fresh + _rows([(at, warming[source]) for source, places in found.items() for at in places], limit)


def _show(relay: Relay, source: str, limit: int) -> dict[str, Any]:
    plan = _plan_of(relay, source)
    return {
        "source": source,
        "plan": relay.config.source[source].warmup,
        "caps": [
            {"day": day, "cap": cap, **{group: _of(caps, day) for group, caps in plan.caps_for.items()}}
            for day, cap in enumerate(plan.caps, 1)
        ],
        "groups": _rows([(at, plan) for at in relay.warmup.standings(source, relay.now())], limit),
    }


def _rows(places: list[tuple[Standing, Plan]], limit: int) -> list[dict[str, Any]]:
    """What does not go well comes first, what is warm last, else what sent most first."""

    def rank(place: tuple[Standing, Plan]) -> tuple[int, int, str]:
        at, plan = place
        return _RANKS.get(state(at, plan), 0), -at.used - at.over, at.group

    return [_row(at, plan) for at, plan in nsmallest(limit, places, key=rank)]


_RANKS = {"advancing": 1, "warm": 2}


def of_source(relay: Relay, source: str) -> list[dict[str, Any]]:
    """How the warm-up of a source goes, everywhere; [] if it has no plan or has sent nothing."""
    plan = relay.warmup.plan_of(source)
    return _rows([(at, plan) for at in relay.warmup.standings(source, relay.now())], 1000) if plan else []


def _set(relay: Relay, source: str, group: str, day: int) -> "Future[dict[str, Any]]":
    plan = _plan_of(relay, source)
    if day < 1:
        raise InputError("day", "the first day is 1; one after the last of the plan is warm")
    done = relay.warmup.put(source, group, day, relay.now())
    row = next(_row(at, plan) for at in relay.warmup.standings(source, relay.now()) if at.group == group)
    return then(done, lambda _: row)


def _plan_of(relay: Relay, source: str) -> Plan:
    plan = relay.warmup.plan_of(source)
    if plan is None:
        names = [name for name in relay.config.source if relay.warmup.plan_of(name)]
        raise InputError("source", f"no source {source!r} is in warm-up{notation.nearest(source, names)}")
    return plan


def _of(caps: tuple[int, ...], day: int) -> int | None:
    return caps[day - 1] if day <= len(caps) else None


def _row(at: Standing, plan: Plan) -> dict[str, Any]:
    """``day`` and ``cap`` are None where the source is warm; shares are of the attempts not judged yet."""
    caps = plan.of(at.group)
    attempts = at.attempts
    return {
        "source": at.source,
        "group": at.group,
        "day": at.day if at.day <= len(caps) else None,
        "of": len(caps),
        "cap": _of(caps, at.day),
        "sent": at.used + at.over,
        "over": at.over,
        "attempts": attempts,
        "deferred": _share(at.deferred, attempts),
        "blocked": _share(at.blocked, attempts),
        "complaints": _share(at.complaint, attempts),
        "tomorrow": upcoming(at, plan),
        "state": state(at, plan),
    }


def _share(count: int, attempts: int) -> float:
    return round(count / attempts, 4) if attempts else 0.0


_SOURCE = Arg("source", "the source's name", "name", positional=True, required=True)
_LIMIT = Arg("limit", "how many groups at most", "int", default=50)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="warmup list",
        help="the sources in warm-up: where each stands at each group of sites, and what holds it there",
        handler=_list,
        args=(_LIMIT,),
        example="warmup list --limit 20",
    ),
    Verb(
        name="warmup show",
        help="a source's plan day by day, and where it stands",
        handler=_show,
        args=(_SOURCE, _LIMIT),
        example="warmup show t9",
    ),
    Verb(
        name="warmup set",
        help="put a source at a day of its plan: 1 starts again, one after the last is warm",
        handler=_set,
        args=(
            _SOURCE,
            Arg("group", "the provider, or the site as warmup list shows it", required=True),
            Arg("day", "the day of the plan", "int", required=True),
        ),
        role="operate",
        effect="change",
        example="warmup set --group gmail --day 5 t9",
    ),
)
