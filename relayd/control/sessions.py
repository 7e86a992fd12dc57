"""The verbs of live sessions: which there are, and ending some.

In: filters.  Out: JSON-able rows, the relay's.
"""

from typing import Any

from relayd.control.verb import REASON, Arg, Relay, Verb
from relayd.errors import InputError


def way(given: dict[str, Any]) -> str:
    """ "in", "out", or "" for both."""
    if given["in"] and given["out"]:
        return ""
    return "in" if given["in"] else "out" if given["out"] else ""


def _filter(given: dict[str, Any]) -> dict[str, Any]:
    names = ("peer", "login", "account", "site", "source")
    return {"way": way(given), **{name: given[name] or "" for name in names}}


def _list(relay: Relay, limit: int, **given: Any) -> Any:
    return relay.live(limit, **_filter(given))


def _drop(relay: Relay, id: str | None, reason: str, who: str, **given: Any) -> Any:
    return relay.drop(who, reason, False, id=_id(id), **_filter(given))


def _would_drop(relay: Relay, id: str | None, reason: str | None, **given: Any) -> Any:
    return relay.drop("", "", True, id=_id(id), **_filter(given))


def _id(id: str | None) -> str:
    if id and not (id[0] in "io" and id[1:].isalnum()):
        raise InputError("id", f"{id!r} is no session's id, such as i1f or o2a: relayctl session list shows them")
    return id or ""


FILTERS = (
    Arg("in", "those of clients", "bool", default=False),
    Arg("out", "those with mail servers", "bool", default=False),
    Arg("peer", "the other side's IP address or CIDR", "network"),
    Arg("login", "a client's login", "some"),
    Arg("account", "whose mail: this account's, or of one below it", "name"),
    Arg("site", "with this provider or site", "some"),
    Arg("source", "by this source", "name"),
)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="session list",
        help="the live sessions, with clients (in) and with mail servers (out); the oldest first",
        handler=_list,
        args=(*FILTERS, Arg("limit", "how many at most", "int", default=100)),
        example="session list --in --account crm",
    ),
    Verb(
        name="session drop",
        help="end a live session, or all that fit a filter; who is not blocked may come again",
        handler=_drop,
        would=_would_drop,
        args=(
            Arg("id", "its id in session list", positional=True),
            *FILTERS,
            REASON,
        ),
        role="operate",
        effect="change",
        signed=True,
        example='session drop --peer 198.51.100.7 --reason "floods us"',
    ),
)
