"""The verbs of warm-up.

In: the running relay's plans and where its sources stand.  Out: JSON-able rows.
"""

from concurrent.futures import Future
from typing import Any

from relayd import notation
from relayd.control.verb import Arg, Relay, Verb, then
from relayd.errors import InputError
from relayd.warmup import Plan, Standing, state, upcoming


def _list(relay: Relay, limit: int) -> list[dict[str, Any]]:
    """Those that are held first, then those that sent most."""
    found = []
    for source in relay.config.source:
        plan = relay.warmup.plan_of(source)
        if plan is not None:
            standings = relay.warmup.standings(source, relay.now())
            found += [_row(at, plan) for at in standings] or [{"source": source, "state": "nothing sent yet"}]
    found.sort(key=lambda row: (row["state"] in ("advancing", "warm"), row["state"] == "warm", -row.get("sent", 0)))
    return found[:limit]


def _show(relay: Relay, source: str) -> dict[str, Any]:
    plan = _plan_of(relay, source)
    standings = sorted(relay.warmup.standings(source, relay.now()), key=lambda at: (-at.used - at.over, at.group))
    return {
        "source": source,
        "plan": relay.config.source[source].warmup,
        "caps": [
            {"day": day, "cap": cap, **{group: _of(caps, day) for group, caps in plan.caps_for.items()}}
            for day, cap in enumerate(plan.caps, 1)
        ],
        "groups": [_row(at, plan) for at in standings],
    }


def _set(relay: Relay, source: str, group: str, day: int) -> "Future[dict[str, Any]]":
    plan = _plan_of(relay, source)
    if day < 1:
        raise InputError("day", "the first day is 1; one after the last of the plan is warm")
    now = relay.now()

    def shape(_: None) -> dict[str, Any]:
        return next(_row(at, plan) for at in relay.warmup.standings(source, now) if at.group == group)

    return then(relay.warmup.put(source, group, day, now), shape)


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

VERBS: tuple[Verb, ...] = (
    Verb(
        name="warmup list",
        help="the sources in warm-up: where each stands at each group of sites, and what holds it there",
        handler=_list,
        args=(Arg("limit", "how many rows at most", "int", default=50),),
        example="warmup list --limit 20",
    ),
    Verb(
        name="warmup show",
        help="a source's plan day by day, and where it stands",
        handler=_show,
        args=(_SOURCE,),
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
