"""The verb of figures: how many events there were, whose and where to.

In: a period and whom to count for.  Out: JSON-able rows, and as a table with rates in per cent.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from relayd.control.accounts import meant
from relayd.control.answers import moment
from relayd.control.verb import Arg, Relay, Scope, Verb
from relayd.errors import InputError
from relayd.events import NAMES
from relayd.notation import show_duration
from relayd.reply import printable
from relayd.statistics import BY, STEPS, Figures

_STEP = ((2 * 3600, "minute"), (3 * 86400, "hour"))  # periods up to which it is taken, if none is asked for


def _show(
    relay: Relay,
    account: str | None,
    below: bool,
    event: list[Any],
    since: str,
    until: str | None,
    step: Any,
    by: list[Any],
    **given: Any,
) -> "Future[dict[str, Any]]":
    if len(by) > 2:
        raise InputError("by", "figures are grouped by two at most")
    now = relay.now()
    first, last = moment("since", since, now), moment("until", until, now) if until else now
    accounts = meant(relay, account, below)
    connection = given["connection"] or ""
    if connection and not accounts and (row := relay.directory.connection(connection)):
        accounts = (row.account,)  # only what is its account's need be looked through
    if step is None:
        step = "total" if by else next((name for most, name in _STEP if last - first <= most), "day")
    asked = Figures(
        since=first,
        until=last,
        step=step,
        accounts=accounts,
        connection=connection,
        stream=given["stream"] or "",
        provider=given["provider"] or "",
        site=given["site"] or "",
        source=given["source"] or "",
        events=tuple(event),
        cls=given["class"] or "",
        by=tuple(by),
    )
    asked.of_paths()
    return relay.figures(asked)


def lines(answer: Mapping[str, Any]) -> list[str]:
    """A table for 80 columns, times in UTC; below it the sum, and how long deliveries took."""
    rows, total = answer["rows"], answer["total"]
    period = f"{_time(answer['since'])} to {_time(answer['until'])} UTC"
    if not rows:
        return [f"nothing was counted from {period}"]
    keys = [key for key in rows[0] if key in ("time", *BY)]
    events = () if total["rates"] else ("event",) if "event" in keys else tuple(total["counts"])
    heads = [*(key.upper() for key in keys), *_heads(events)]
    cells = [[*(_key(key, row[key]) for key in keys), *_cells(row, events)] for row in rows]
    if len(rows) > 1 and keys:
        cells.append(["TOTAL", *[""] * (len(keys) - 1), *_cells(total, events)])
    seldom = () if events else _IF_ANY
    used = [n for n, head in enumerate(heads) if head not in seldom or any(line[n] != "-" for line in cells)]
    widths = {n: max(len(line[n]) for line in (heads, *cells)) for n in used}
    shown = [f"{period}, by the {answer['step']}" if "time" in keys else period]
    for line in (heads, *cells):
        parts = [line[n].ljust(widths[n]) if n < len(keys) else line[n].rjust(widths[n]) for n in used]
        shown.append("  ".join(parts).rstrip())
    if took := total.get("seconds"):
        half, most = show_duration(took["median"]), show_duration(took["p95"])
        shown.append(f"half of the deliveries took less than {half} from reception on, 95 % less than {most}")
    return shown


_HEADS = ("QUEUED", "DELIVERED", "DELIV%", "DEFER%", "BOUNCE%", "COMPL%", "REJECTED", "FAILED")
_IF_ANY = ("REJECTED", "FAILED")  # columns that are there only if anything is in them


def _heads(events: Sequence[str]) -> Sequence[str]:
    """``events``: those whose counts are shown rather than rates, "event" for the one that a row is of."""
    return [("COUNT" if name == "event" else name.upper()) for name in events] or _HEADS


def _cells(row: Mapping[str, Any], events: Sequence[str]) -> list[str]:
    counts, rates = row["counts"], row["rates"]
    if events:
        return [f"{sum(counts.values()) if name == 'event' else counts.get(name, 0):,}" for name in events]
    in_per_cent = [f"{rates[name]:.2f}" if name in rates else "-" for name in _RATES]
    rejected, failed = (f"{counts[name]:,}" if name in counts else "-" for name in ("rejected", "failed"))
    return [f"{counts.get('queued', 0):,}", f"{counts.get('delivered', 0):,}", *in_per_cent, rejected, failed]


_RATES = ("delivered", "deferred", "bounced", "complained")


def _key(key: str, value: Any) -> str:
    return _time(value) if key == "time" else printable(str(value), 40) or "-"


def _time(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment))


VERBS: tuple[Verb, ...] = (
    Verb(
        name="stats show",
        help="how much was taken in, delivered, deferred, bounced and complained of in a period, and the rates",
        handler=_show,
        args=(
            Arg("account", "only what is this account's", "name"),
            Arg("below", "and of the accounts below it", "bool", default=False),
            Arg("connection", "only what came in by this login"),
            Arg("stream", "only this stream's"),
            Arg("provider", "only to this provider"),
            Arg("site", "only to this provider or these mail hosts, of all accounts together"),
            Arg("source", "only by this source, of all accounts together"),
            Arg("event", "only these events", choices=NAMES, repeated=True),
            Arg("class", 'only refusals that are taken for this, such as "mailbox_full"'),
            Arg("since", "from then on: a time, a date (UTC), or how long ago", default="24h"),
            Arg("until", "up to then; without it, now"),
            Arg("step", "a row for each; without it, what suits the period", choices=STEPS),
            Arg("by", "a row for each of these, in all if no step is given", choices=BY, repeated=True),
        ),
        example="stats show --account crm --since 7d --step day",
        scope=Scope("account"),
        prints=lines,
    ),
)
