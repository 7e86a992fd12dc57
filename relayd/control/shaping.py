"""The verbs of reactions: what holds now and why, ending it, and what other rules would have done.

In: the running relay's reactions and records.  Out: JSON-able rows.
"""

from typing import Any

from relayd import notation
from relayd.control.accounts import known, stream_names
from relayd.control.verb import Arg, Relay, Verb
from relayd.errors import InputError
from relayd.identity import DAY
from relayd.shaping.reactions import Active


def shown(active: Active, now: float, replies: int) -> dict[str, Any]:
    """A row: what holds, until when, and the very reply that it began or went on with."""
    said = active.reply
    return {
        "id": active.id,
        "rule": active.rule,
        "action": f"limit to {active.limits.words()}" if active.action == "limit" else active.action,
        "source": active.source,
        "at": active.group or active.mx,
        "account": active.account,
        "state": active.state(now),
        "since": active.since,
        "until": active.until,
        "returns_until": active.returns_until,
        "times": active.step + 1,
        "replies": replies,
        "time": said.time,
        "delivery": said.delivery,
        "stage": said.stage,
        "host": said.mx,
        "reply": str(said.reply),
    }


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


def _replay(relay: Relay, rules: list[str], since: float | None) -> Any:
    return relay.replay(rules, since or DAY)


RULES = Arg(
    "rules", "a file of [reaction] and [provider] tables; without one, the rules in force", "text", repeated=True
)

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
        name="shaping lift",
        help="end a reaction now: what it held goes on",
        handler=_lift,
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
