"""The verbs of sources.

In: the running relay's sources, and the directory's drains.  Out: JSON-able rows.
"""

from concurrent.futures import Future
from typing import Any

from relayd import notation
from relayd.control.verb import REASON, Arg, Relay, Verb
from relayd.directory import Drain
from relayd.errors import InputError


def _list(relay: Relay) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = relay.sources()
    return found


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


_SOURCE = Arg("name", "the source's name", "name", positional=True, required=True)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="source list",
        help="the egress addresses and whether each is in use",
        handler=_list,
        example="source list",
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
        would=_would_turn,
        args=(_SOURCE,),
        role="operate",
        effect="change",
        example="source resume t1",
    ),
)
