"""The verbs of history: what became of messages, found by whose they are, whom they went to, and when.

In: what to look for.  Out: events as feeds tell them (``events.Event``), the newest first, and as a line for each.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import msgspec

from relayd import identity
from relayd.control.accounts import meant
from relayd.control.answers import moment
from relayd.control.verb import Arg, Relay, Scope, Verb, then
from relayd.errors import InputError
from relayd.events import NAMES, Event
from relayd.history import Found, Hit, Query
from relayd.reply import printable

MOST = 1000  # events of one answer
COLUMNS = (
    "time", "event", "account", "connection", "stream", "message", "delivery", "track_id", "sender", "recipient",
    "attempts", "reason", "class", "site", "source", "words",
)  # fmt: skip


def _list(relay: Relay, limit: int, after: str, **given: Any) -> "Future[dict[str, Any]]":
    def shape(found: Found) -> dict[str, Any]:
        return {"events": msgspec.to_builtins(found.events), "next": str(found.next or "")}

    return then(_found(relay, limit, after, **given), shape)


def _export(relay: Relay, after: str, **given: Any) -> "Future[dict[str, Any]]":
    def shape(found: Found) -> dict[str, Any]:
        return {"rows": list(map(_row, found.events)), "next": str(found.next or "")}

    return then(_found(relay, MOST, after, **given), shape)


def _found(
    relay: Relay,
    limit: int,
    after: str,
    account: str | None,
    below: bool,
    connection: str | None,
    status: list[Any],
    since: str,
    until: str | None,
    **given: str | None,
) -> "Future[Found]":
    if not 1 <= limit <= MOST:
        raise InputError("limit", f'1 to {MOST} at a time; an answer\'s "next" says where to go on')
    accounts = meant(relay, account, below)
    if connection and not accounts and (row := relay.directory.connection(connection)):
        accounts = (row.account,)  # an index leads from the account to its connections
    now = relay.now()
    query = Query(
        accounts=accounts,
        connection=connection or "",
        events=tuple(status),
        since=moment("since", since, now),
        until=moment("until", until, now) if until else 0.0,
        **{name: value or "" for name, value in given.items()},  # type: ignore[arg-type]
    )
    return relay.history(query, limit, _cursor(after))


def _cursor(after: str) -> Hit | None:
    try:
        return Hit.read(after) if after else None
    except ValueError as error:
        raise InputError("after", str(error)) from None


def _show(relay: Relay, id: str, account: str | None) -> "Future[dict[str, Any]]":
    accounts = meant(relay, account, below=True)
    nothing = InputError("id", f"nothing is known of {id}: there is none, or its records are not kept any more")

    def shape(found: Found | Event | None) -> dict[str, Any]:
        events = found.events[::-1] if isinstance(found, Found) else [found] if found else []
        if not events:
            raise nothing
        # What is of one delivery is told of that one alone.
        own = [event for event in events if event.delivery == id.lower()] or events
        return {"id": id, "events": msgspec.to_builtins(own)}

    try:
        number = identity.read(id)
    except ValueError:
        return then(relay.event(_place(id), Query(accounts=accounts)), shape)
    since = max(0.0, identity.received_at(number) - 60)
    return then(relay.history(Query(accounts=accounts, id=number, since=since), MOST, None), shape)


def _place(id: str) -> Hit:
    try:
        return Hit.of(id)
    except ValueError:
        raise InputError("id", f"{id!r} is no id of a message, a delivery or an event") from None


def _row(event: Event) -> dict[str, str]:
    told = msgspec.to_builtins(event)
    attempt = told.get("attempt", {})
    return {
        **{name: str(told.get(name, "")) for name in COLUMNS},
        **{name: attempt.get(name, "") for name in ("class", "site", "source")},
        "words": words(told),
    }


def words(event: Mapping[str, Any]) -> str:
    """What was said or noted of an event, in one line."""
    attempt, feedback = event.get("attempt", {}), event.get("feedback")
    reply = " ".join(str(attempt[name]) for name in ("code", "enhanced", "reply") if attempt.get(name))
    parts = [
        f"{feedback['report']} from {feedback.get('reporter') or feedback.get('peer', '')}" if feedback else "",
        reply or attempt.get("error", ""),
        event.get("note", ""),
        f"next try {_time(event['next_attempt'])}" if event.get("next_attempt") else "",
    ]
    return "; ".join(filter(None, parts)).replace("\r", "").replace("\n", " / ")


def lines(answer: Mapping[str, Any]) -> list[str]:
    """A line for each event: when, what, the delivery, to whom, what was said.  Times in UTC."""
    rows = [
        (
            _time(event["time"]),
            event["event"],
            event.get("delivery") or "-",
            printable(event.get("recipient") or event.get("domain") or "-", 40),
            printable(words(event)),
        )
        for event in answer["events"]
    ]
    shown = [*_aligned(rows)] if rows else ["nothing was found"]
    if answer.get("next"):
        shown.append(f"there may be more: --after {printable(answer['next'])}")
    return shown


def _story(answer: Mapping[str, Any]) -> list[str]:
    """The lines, and below each of an attempt where it went and by what."""
    shown = []
    for line, event in zip(lines(answer), answer["events"], strict=True):
        attempt = event.get("attempt", {})
        mx, peer = attempt.get("mx", ""), attempt.get("peer", "")
        parts = (
            f"at {attempt['stage']}" if attempt else "",
            f"with {peer if peer.startswith(mx) else f'{mx} {peer}'}".rstrip() if mx else "",
            f"by source {attempt['source']}" if attempt.get("source") else "",
            f"over {attempt['tls']}" if attempt.get("tls") else "",
            f"after {attempt['seconds']:.1f} s" if attempt.get("seconds") else "",
        )
        shown += [line, *([f"    {printable(' '.join(filter(None, parts)))}"] if attempt else [])]
    return shown


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The last column as it is."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]) - 1)]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows]


def _time(moment: str) -> str:
    return printable(moment[:19].replace("T", " "))


_ARGS = (
    Arg("account", "only this account's", "name"),
    Arg("below", "and those of the accounts below it", "bool", default=False),
    Arg("connection", "only of what came in by this login"),
    Arg("status", "only these events", choices=NAMES, repeated=True),
    Arg("recipient", "only of mail to this address"),
    Arg("domain", "only of mail to this domain"),
    Arg("track_id", "only of messages with this track id"),
    Arg("stream", "only of this stream"),
    Arg("since", "from then on: a time, a date (UTC), or how long ago", default="24h"),
    Arg("until", "up to then; without it, now"),
)
_AFTER = Arg("after", 'go on where an answer\'s "next" says', default="")

VERBS: tuple[Verb, ...] = (
    Verb(
        name="history list",
        help="what became of mail, event by event, the newest first",
        handler=_list,
        args=(*_ARGS, Arg("limit", f"how many at most, up to {MOST}", "int", default=50), _AFTER),
        example="history list --account crm --status bounced --since 2h",
        prints=lines,
        scope=Scope("account"),
    ),
    Verb(
        name="history show",
        help="all that is known of a message, a delivery or an event, by its id, the oldest first",
        handler=_show,
        args=(
            Arg("id", "the id of the 250, of a delivery, or of an event", positional=True, required=True),
            Arg("account", "only if it is this account's, or of one below it", "name"),
        ),
        example="history show 1a2031f92a500001",
        prints=_story,
        scope=Scope("account"),
    ),
    Verb(
        name="history export",
        help="what became of mail as CSV, the newest first",
        handler=_export,
        args=(*_ARGS, _AFTER),
        example="history export --account crm --since 7d",
        columns=COLUMNS,
        scope=Scope("account"),
    ),
)
