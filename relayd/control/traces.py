"""The verbs of traces: what is said in live sessions.

In: filters.  Out: JSON-able rows, the relay's.
"""

from typing import Any

from relayd.control.sessions import FILTERS, way
from relayd.control.verb import REASON, Arg, Relay, Verb
from relayd.errors import InputError

USUAL = 600.0  # seconds that a trace takes
LONGEST = 86400.0  # seconds that a trace may take
MOST = 1000  # sessions of one


def _start(
    relay: Relay, domain: str | None, recipient: str | None, limit: int, reason: str, who: str, **given: Any
) -> Any:
    seconds = given["for"] or USUAL
    if seconds > LONGEST:
        raise InputError("for", "is longer than a day")
    if not 0 < limit <= MOST:
        raise InputError("limit", f"is not within 1 and {MOST}")
    if given["in"] and (given["site"] or given["source"]):
        raise InputError("in", "clients have neither site nor source: leave those out, or ask for --out")
    names = ("peer", "login", "account", "site", "source")
    wanted = {"way": way(given), "domain": (domain or "").lower(), **{name: given[name] or "" for name in names}}
    return relay.trace(wanted, recipient or "", seconds, limit, who, reason)


def _list(relay: Relay) -> Any:
    return relay.traces.listed()


def _show(relay: Relay, id: int) -> Any:
    return relay.traces.show(id)


def _tail(relay: Relay, id: int, after: int) -> Any:
    return relay.traces.tail(id, after)


def _stop(relay: Relay, id: int) -> Any:
    return relay.traces.stop(id)


_ID = Arg("id", "its number in trace list", "int", positional=True, required=True)

VERBS: tuple[Verb, ...] = (
    Verb(
        name="trace start",
        help="listen to sessions that fit: every line but secrets and contents, from now on, for a time",
        handler=_start,
        args=(
            *FILTERS,
            Arg("domain", "that name a recipient of this domain", "some"),
            Arg("recipient", "that name this recipient", "some"),
            Arg("for", "how long, such as 1h; without it, 10m", "duration"),
            Arg("limit", "how many sessions at most", "int", default=20),
            REASON,
        ),
        role="operate",
        effect="change",
        signed=True,
        example='trace start --out --site gmail --for 10m --reason "why do they defer?"',
    ),
    Verb(name="trace list", help="the traces, the latest first", handler=_list, example="trace list"),
    Verb(
        name="trace show",
        help="what was heard, session by session",
        handler=_show,
        args=(_ID,),
        example="trace show 1",
    ),
    Verb(
        name="trace tail",
        help="what is heard, as it is said, until the trace is over",
        handler=_tail,
        args=(_ID, Arg("after", 'go on where an answer\'s "next" says', "int", default=0)),
        example="trace tail 1",
        follow=True,
    ),
    Verb(
        name="trace stop",
        help="listen no more; what was heard stays for a while",
        handler=_stop,
        args=(_ID,),
        role="operate",
        effect="change",
        example="trace stop 1",
    ),
)
