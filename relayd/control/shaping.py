"""The verbs of reactions: what holds now and why, ending it, and what other rules would have done.

In: the running relay's reactions and records.  Out: JSON-able rows.
"""

from typing import Any, Literal

import msgspec

from relayd import notation
from relayd.control.accounts import known, stream_names
from relayd.control.verb import REASON, Arg, Relay, Verb
from relayd.errors import InputError
from relayd.identity import DAY
from relayd.shaping.limits import rate
from relayd.shaping.reactions import FOREVER, Active, Key
from relayd.shaping.rules import Ceiling


def shown(active: Active, now: float, replies: int) -> dict[str, Any]:
    """A row: what holds, until when, and the very reply that it began or went on with."""
    said = active.reply
    by_hand = {"by": active.by, "pool": active.pool} if active.by else {}
    return {
        "id": active.id,
        "rule": active.rule,
        "action": f"limit to {active.limits.words()}" if active.action == "limit" else active.action,
        "source": active.source,
        "at": active.group or active.mx,
        "account": active.account,
        "state": active.state(now),
        "since": active.since,
        "until": end(active.until),
        "returns_until": end(active.returns_until),
        "times": active.step + 1,
        "replies": replies,
        "time": said.time,
        "delivery": said.delivery,
        "stage": said.stage,
        "host": said.mx,
        **by_hand,
        "reply": active.reason if active.by else str(said.reply),
    }


def end(until: float) -> float | None:
    """None for what has no end but by hand."""
    return until if until < FOREVER else None


def _why(relay: Relay, what: str) -> Any:
    return relay.why(what)


def _explain(relay: Relay, domain: str, stream: str | None, account: str | None) -> Any:
    try:
        name = notation.hostname(domain)
    except ValueError as fault:
        raise InputError("domain", str(fault)) from None
    names = stream_names(relay, account) if account else sorted(relay.config.stream)
    if account:
        known(relay, account)
    if stream is not None and stream not in names:
        raise InputError("stream", f"there is no stream {stream!r}{notation.nearest(stream, names)}")
    return relay.explain(name, account or "", stream or relay.config.node.default_stream)


def _reactions(relay: Relay) -> list[dict[str, Any]]:
    return [shown(active, relay.now(), relay.reactions.replies(active.id)) for active in relay.reactions.all()]


def _lift(relay: Relay, id: int) -> dict[str, Any]:
    replies = relay.reactions.replies(id)
    return shown(relay.lift(id), relay.now(), replies)


async def _would_lift(relay: Relay, id: int) -> dict[str, Any]:
    active = next((active for active in relay.reactions.all() if active.id == id), None)
    if active is None:
        raise InputError("id", f"there is no reaction {id}: relayctl shaping reactions shows those there are")
    row = shown(active, relay.now(), relay.reactions.replies(id))
    return {"lifts": [row], **await relay.hit_by(active.key)}


class Whom(msgspec.Struct, frozen=True, kw_only=True):
    """Whose mail, as the arguments say it."""

    at: str | None = None
    source: str | None = None
    account: str | None = None
    pool: str | None = None
    all: bool = False


async def suspend(relay: Relay, whom: Whom, reason: str, who: str, seconds: float | None) -> dict[str, Any]:
    """Also what ``block add site`` does."""
    return await _imposed(relay, "suspend", whom, Ceiling(), reason, who, seconds)


async def would_stop(relay: Relay, whom: Whom) -> dict[str, Any]:
    return await relay.hit_by(await _key(relay, whom))


async def resume(relay: Relay, whom: Whom) -> dict[str, Any]:
    """Also what ``block remove site`` does."""
    found = _imposed_on(relay, await _key(relay, whom))
    rows = [shown(active, relay.now(), 0) for active in found]
    for active in found:
        relay.lift(active.id)
    return {"lifted": rows}


async def would_resume(relay: Relay, whom: Whom) -> dict[str, Any]:
    key = await _key(relay, whom)
    found = _imposed_on(relay, key)
    return {"lifts": [shown(active, relay.now(), 0) for active in found], **await relay.hit_by(key)}


def _suspend(relay: Relay, reason: str, who: str, **given: Any) -> Any:
    seconds = given.pop("for")
    return suspend(relay, Whom(**given), reason, who, seconds)


def _would_suspend(relay: Relay, **given: Any) -> Any:
    return would_stop(relay, Whom(**{name: given[name] for name in Whom.__struct_fields__}))


async def _limit(
    relay: Relay,
    at: str | None,
    source: str | None,
    account: str | None,
    rate: str | None,
    connections: int | None,
    connection_rate: str | None,
    reason: str,
    who: str,
    **given: Any,
) -> dict[str, Any]:
    limits = _ceiling(rate, connections, connection_rate)
    whom = Whom(at=at, source=source, account=account)
    return await _imposed(relay, "limit", whom, limits, reason, who, given["for"])


async def _would_limit(
    relay: Relay,
    at: str | None,
    source: str | None,
    account: str | None,
    rate: str | None,
    connections: int | None,
    connection_rate: str | None,
    **given: Any,
) -> dict[str, Any]:
    limits = _ceiling(rate, connections, connection_rate)
    return {"limit": limits.words(), **await would_stop(relay, Whom(at=at, source=source, account=account))}


def _ceiling(rate: str | None, connections: int | None, connection_rate: str | None) -> Ceiling:
    limits = Ceiling(_rate("rate", rate), connections or 0, _rate("connection_rate", connection_rate))
    if limits == Ceiling():
        raise InputError("rate", "is missing, and so are connections and connection_rate: say how much is allowed")
    return limits


def _rate(field: str, text: str | None) -> Any:
    try:
        return rate(text) if text else None
    except ValueError as error:
        raise InputError(field, str(error)) from None


def _resume(relay: Relay, **given: Any) -> Any:
    return resume(relay, Whom(**given))


def _would_go_on(relay: Relay, **given: Any) -> Any:
    return would_resume(relay, Whom(**given))


async def _key(relay: Relay, whom: Whom) -> Key:
    """Raises InputError."""
    source, pool = whom.source, whom.pool
    if source and source not in relay.config.source:
        raise InputError("source", f"there is no source {source!r}{notation.nearest(source, relay.config.source)}")
    if pool and pool not in relay.config.pool:
        raise InputError("pool", f"there is no pool {pool!r}{notation.nearest(pool, relay.config.pool)}")
    if whom.account:
        known(relay, whom.account)
    return await relay.key_of(whom.at or "", source or "", whom.account or "", pool or "", everything=whom.all)


def _imposed_on(relay: Relay, key: Key) -> list[Active]:
    found: list[Active] = list(relay.reactions.imposed(key))
    if not found:
        raise InputError("at", "nothing is imposed on this by hand: relayctl shaping reactions shows what is")
    return found


async def _imposed(
    relay: Relay,
    action: Literal["suspend", "limit"],
    whom: Whom,
    limits: Ceiling,
    reason: str,
    who: str,
    seconds: float | None,
) -> dict[str, Any]:
    key = await _key(relay, whom)
    until = relay.now() + seconds if seconds else FOREVER
    try:
        active = relay.reactions.impose(action, key, until, reason=reason, by=who, now=relay.now(), limits=limits)
    except ValueError as error:
        raise InputError("", str(error)) from None
    await relay.imposed(active)
    return shown(active, relay.now(), 0)


def _replay(relay: Relay, rules: list[str], since: float | None) -> Any:
    return relay.replay(rules, since or DAY)


RULES = Arg(
    "rules", "a file of [reaction] and [provider] tables; without one, the rules in force", "text", repeated=True
)

_ON = (
    Arg("at", "a provider, or a domain whose site is meant; without it, everywhere", "some"),
    Arg("source", "what goes by this source", "name"),
    Arg("account", "mail of this account, and of those below it where it is suspended", "name"),
)
_POOL = Arg("pool", "mail of this pool, by whichever source", "name")
_ALL = Arg("all", "all that goes out", "bool", default=False)
_FOR = Arg("for", "how long, such as 2h; without it, until it is resumed", "duration")

VERBS: tuple[Verb, ...] = (
    Verb(
        name="why",
        help="what holds back a message, or the mail to a domain, and when that is over",
        handler=_why,
        args=(Arg("what", "the id of a message or delivery, or a domain", positional=True, required=True),),
        example="why example.com",
    ),
    Verb(
        name="shaping explain",
        help="what holds for mail to a domain: its site, sources, and every limit with the file and line it is from",
        handler=_explain,
        args=(
            Arg("domain", "the recipients' domain", positional=True, required=True),
            Arg("stream", "by which stream; without it, the default one", "name"),
            Arg("account", "whose mail; without it, of no account in particular", "name"),
        ),
        example="shaping explain --stream marketing example.com",
    ),
    Verb(
        name="shaping reactions",
        help="what is suspended or limited because of replies: by which rule and reply, until when",
        handler=_reactions,
        example="shaping reactions",
    ),
    Verb(
        name="shaping suspend",
        help="let nothing go out to a site, by a source, of a pool or account: mail is taken all the same, and waits",
        handler=_suspend,
        would=_would_suspend,
        args=(*_ON, _POOL, _ALL, REASON, _FOR),
        role="operate",
        effect="change",
        signed=True,
        example='shaping suspend --at gmail --for 2h --reason "they asked us to"',
    ),
    Verb(
        name="shaping limit",
        help="let no more than so much go out to a site, by a source or of an account for a time",
        handler=_limit,
        would=_would_limit,
        args=(
            *_ON,
            Arg("rate", 'the most deliveries in a time, "10/min"'),
            Arg("connections", "the most at once", "int"),
            Arg("connection_rate", 'the most new connections in a time, "5/min"'),
            REASON,
            _FOR,
        ),
        role="operate",
        effect="change",
        signed=True,
        example='shaping limit --at gmail --rate 10/min --for 2h --reason "complaints"',
    ),
    Verb(
        name="shaping resume",
        help="end what was suspended or limited by hand: what it held goes on",
        handler=_resume,
        would=_would_go_on,
        args=(*_ON, _POOL, _ALL),
        role="operate",
        effect="change",
        example="shaping resume --at gmail",
    ),
    Verb(
        name="shaping lift",
        help="end a reaction now: what it held goes on",
        handler=_lift,
        would=_would_lift,
        args=(Arg("id", "its number in shaping reactions", "int", positional=True, required=True),),
        role="operate",
        effect="change",
        example="shaping lift 7",
    ),
    Verb(
        name="shaping replay",
        help="what rules would have done to the replies of the last time: how often each would have fired, and on what",
        handler=_replay,
        args=(RULES, Arg("since", "how far back; without it, a day", "duration")),
        example="shaping replay --rules new.toml --since 6h",
        timeout=600.0,
    ),
)
