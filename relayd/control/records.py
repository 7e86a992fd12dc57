"""The verbs of records: looking for something in them.

In: what is looked for.  Out: events, the newest last, and a note where there may be more.
"""

from concurrent.futures import Future
from typing import Any

from relayd import notation
from relayd.control.verb import Arg, Relay, Verb, then
from relayd.errors import InputError
from relayd.events import NAMES, rfc3339
from relayd.history.grep import Wanted
from relayd.history.work import End

_MOST = 1000
_LONGEST = 300.0


def moment(relay: Relay, field: str, text: str | None) -> float:
    """A point in time that somebody wrote; 0.0 without one.  Raises InputError."""
    try:
        return notation.moment(text, relay.now()) if text else 0.0
    except ValueError as error:
        raise InputError(field, str(error)) from None


def _grep(
    relay: Relay,
    pattern: str,
    regex: bool | None,
    since: str | None,
    until: str | None,
    account: str | None,
    connection: str | None,
    event: list[Any],
    limit: int,
    seconds: float | None,
    full: bool | None,
) -> "Future[dict[str, Any]]":
    if not pattern:
        raise InputError("pattern", "is empty")
    if not 0 < limit <= _MOST:
        raise InputError("limit", f"{limit} is not 1 to {_MOST}")
    patience = min(seconds or 30.0, _LONGEST)
    wanted = Wanted(
        pattern,
        bool(regex),
        account or "",
        connection or "",
        tuple(event),
        moment(relay, "since", since),
        moment(relay, "until", until),
        bool(full),
    )
    return then(relay.workers.grep(wanted, limit, patience), lambda found: _answer(*found, limit))


def _answer(events: list[dict[str, Any]], end: End, limit: int) -> dict[str, Any]:
    if end.error:
        raise InputError("pattern" if "expression" in end.error else "", end.error)
    back = f", back to {rfc3339(end.at)}" if end.at else ""
    notes = {
        "most": f"these are the newest {limit}{back}: there are more, ask for them with --until or a larger --limit",
        "time": f"the time was over{back}: what is older was not looked at; narrow it with --until, or give --seconds",
        "killed": "it took too long and was ended: what is older was not looked at",
    }
    return {"events": events[::-1], "complete": not end.why, "note": notes.get(end.why, "")}


ACCOUNT = Arg("account", "only this account's", "name")
CONNECTION = Arg("connection", "only those of this connection, by its login", "name")
EVENT = Arg("event", "only these", repeated=True, choices=NAMES)
_WHEN = "a time such as 2026-11-26T07:30 (UTC) or how long ago, such as 2h"

VERBS: tuple[Verb, ...] = (
    Verb(
        name="records grep",
        help="look for an id, an address or any words in what happened; shows events, the newest last",
        handler=_grep,
        args=(
            Arg(
                "pattern",
                "found anywhere in an event as --json shows it, in any case",
                "words",
                positional=True,
                required=True,
            ),
            Arg("regex", "the pattern is a regular expression", "bool"),
            Arg("since", f"from when: {_WHEN}"),
            Arg("until", f"before when: {_WHEN}"),
            ACCOUNT,
            CONNECTION,
            EVENT,
            Arg("limit", f"how many at most, up to {_MOST}", "int", default=100),
            Arg("seconds", "how long to look at most, up to 5m; without it, 30s", "duration"),
            Arg("full", "read all records, also for an id or a recipient that the index knows", "bool"),
        ),
        example="records grep --since 2h ivan@mail.example",
        timeout=_LONGEST + 15,
        items="events",
    ),
)
