"""The verbs of sources and pools.

In: the running relay's sources, and the directory's drains.  Out: JSON-able rows.
"""

from concurrent.futures import Future
from typing import Any

from relayd import notation
from relayd.control import reputation, shaping, warmup
from relayd.control.verb import REASON, Arg, Relay, Verb
from relayd.directory import Drain
from relayd.errors import InputError


def _list(relay: Relay) -> list[dict[str, Any]]:
    """The worst of each source's warm-up and reputation beside it; ``source show`` has all."""
    rows: list[dict[str, Any]] = relay.sources()
    return [_summed(relay, row) for row in rows]


def _summed(relay: Relay, row: dict[str, Any]) -> dict[str, Any]:
    warming = warmup.of_source(relay, row["name"])
    stands = reputation.of_source(relay, row["name"])
    worst = next((at for at in warming if at["state"] != "warm"), None)
    return {
        **row,
        "warmup": f"{worst['group']} day {worst['day']}: {worst['state']}" if worst else "warm" if warming else "",
        "reputation": stands[0]["step"] if stands else "",
    }


def _show(relay: Relay, name: str) -> dict[str, Any]:
    row = next((row for row in relay.sources() if row["name"] == name), None)
    if row is None:
        raise InputError("name", f"there is no source {name!r}{notation.nearest(name, relay.config.source)}")
    now, all_ = relay.now(), relay.reactions.all()
    return {
        **row,
        "warmup": warmup.of_source(relay, name),
        "reputation": reputation.of_source(relay, name),
        "throttles": [shaping.shown(at, now, relay.reactions.replies(at.id)) for at in all_ if at.source == name],
    }


async def _pools(relay: Relay) -> list[dict[str, Any]]:
    """Each pool, how many of its sources are in use, what waits for it, and whether it is suspended."""
    state = {row["name"]: row["state"] for row in _list(relay)}
    waits = {row["pool"]: row for row in await relay.queue_summary("pool", len(relay.config.pool))}
    imposed = (active for active in relay.reactions.all() if active.action == "suspend" and not active.group)
    suspended = {active.pool: active.reason for active in imposed if active.pool}
    rows = []
    for name, pool in relay.config.pool.items():
        used = [source for source in pool.sources if state.get(source) == "in use"]
        why = suspended.get(name, "")
        rows.append(
            {
                "name": name,
                "state": "suspended" if why else "in use" if used else "no source",
                "sources": [f"{source} x{weight}" for source, weight in pool.sources.items()],
                "in_use": f"{len(used)} of {len(pool.sources)}",
                "queued": waits.get(name, {}).get("deliveries", 0),
                "held": waits.get(name, {}).get("held", 0),
                "overflow": pool.overflow,
                "why": why,
            }
        )
    return rows


def _drain(relay: Relay, name: str, reason: str, who: str) -> "Future[Drain]":
    if name not in relay.config.source:
        raise InputError("name", f"there is no source {name!r}{notation.nearest(name, relay.config.source)}")
    return relay.directory.drains.drain(name, reason=reason, by=who, now=relay.now())


def _resume(relay: Relay, name: str) -> "Future[Drain]":
    return relay.directory.drains.resume(name)


async def _would_turn(relay: Relay, name: str, **given: Any) -> dict[str, Any]:
    """Whom it concerns, and what is left of the source's pools without it."""
    rows = {row["name"]: row for row in _list(relay)}
    if name not in rows:
        raise InputError("name", f"there is no source {name!r}{notation.nearest(name, rows)}")
    left = {
        pool: [row["name"] for row in rows.values() if pool in row["pools"] and row["state"] == "in use"]
        for pool in rows[name]["pools"]
    }
    alone = sorted(pool for pool, names in left.items() if not set(names) - {name})
    return {"state": rows[name]["state"], "pools_of_it_alone": alone, **await relay.hit(source=name)}


async def _would_resume(relay: Relay, name: str, **given: Any) -> dict[str, Any]:
    if relay.directory.drains.get(name) is None:
        raise InputError("name", f"the source {name!r} is not drained")
    if name not in relay.config.source:  # it was taken out of the configuration since
        return {"state": "not configured"}
    return await _would_turn(relay, name)


_SOURCE = Arg("name", "the source's name", "name", positional=True, required=True)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="source list",
        help="the egress addresses and whether each is in use",
        handler=_list,
        example="source list",
    ),
    Verb(
        name="source show",
        help="an egress address: its state, warm-up and reputation with each provider, and what holds it back",
        handler=_show,
        args=(_SOURCE,),
        example="source show t1",
    ),
    Verb(
        name="pool list",
        help="the pools: their sources and how many are in use, what waits for each, whether it is suspended",
        handler=_pools,
        example="pool list",
    ),
    Verb(
        name="source drain",
        help="let a source take no new deliveries: its pools' other sources do; what it has under way it finishes",
        handler=_drain,
        would=_would_turn,
        args=(_SOURCE, REASON),
        role="operate",
        effect="change",
        signed=True,
        example='source drain --reason "the provider moves it" t1',
    ),
    Verb(
        name="source resume",
        help="let a source that was drained take deliveries again",
        handler=_resume,
        would=_would_resume,
        args=(_SOURCE,),
        role="operate",
        effect="change",
        example="source resume t1",
    ),
)
