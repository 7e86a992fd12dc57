"""Figures: what was counted of a period, step by step or in all.

In: a question.  Out: JSON-able rows with counts by event, rates in per cent, and how long deliveries took.  For any
thread: each call opens the file for itself.  What happened in the last seconds may not be in it yet.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from relayd.errors import InputError
from relayd.events import NAMES, Name
from relayd.history.facts import NUMBER
from relayd.statistics.store import ACCOUNTS, BOUNDS, DAY, HOUR, KINDS, MINUTE, SPANS, Settings

Step = Literal["minute", "hour", "day", "total"]
By = Literal["event", "class", "account", "connection", "stream", "provider", "site", "source"]
STEPS: tuple[Step, ...] = get_args(Step)
BY: tuple[By, ...] = get_args(By)
MOST = 20_000  # sums of one answer

_SPAN: dict[str, int] = {"minute": MINUTE, "hour": HOUR, "day": DAY}
_NAME_OF = {span: step for step, span in _SPAN.items()}
_OF_SENDERS = {"account", "connection", "stream"}
_OF_PATHS = {"site", "source"}
_PARTS = 24  # of a period, that its ends may be out by one of


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A question: of ``since`` up to ``until``, unix seconds, by ``step`` and by up to two of BY; () and "": whatever.
    Senders (account, connection, stream) are counted by provider, sites and sources for all senders together."""

    since: float
    until: float
    step: Step = "hour"
    accounts: tuple[str, ...] = ()
    connection: str = ""
    stream: str = ""
    provider: str = ""
    site: str = ""
    source: str = ""
    events: tuple[Name, ...] = ()
    cls: str = ""
    by: tuple[By, ...] = ()

    def of_paths(self) -> bool:
        """Whether it is of paths, not of senders.  Raises InputError if it is of both."""
        asked = {name for name in ("connection", "stream", "site", "source") if getattr(self, name)} | set(self.by)
        asked |= {"account"} if self.accounts else set()
        paths, senders = asked & _OF_PATHS, asked & _OF_SENDERS
        if paths and senders:
            text = f"is counted for all senders together: leave out {', '.join(sorted(senders))}, or ask for providers"
            raise InputError(min(paths), text)
        if paths and "provider" in self.by:
            raise InputError("by", f"a provider is a site beside {min(paths)}: write --by site")
        return bool(paths)


def figures(path: Path, asked: Figures, settings: Settings, now: float) -> dict[str, Any]:
    """{"step", "since", "until", "rows": [{"time", ..., "counts", "rates", "seconds"}], "total": {...}}: the step that
    could be had, with the period rounded to it.  Raises InputError, sqlite3.Error."""
    of_paths = asked.of_paths()
    if not asked.since < asked.until:
        raise InputError("since", "the period ends before it begins")
    span = _span(asked, settings, now)
    since, until = asked.since // span * span, -(-asked.until // span) * span
    stepped = asked.step != "total"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")  # counts and times are of one moment
            counts = _counts(db, asked, of_paths, span, since, until)
            waits = _waits(db, asked, span, since, until)
    except sqlite3.OperationalError as error:
        if not str(error).startswith(("unable to open", "no such table")):
            raise
        raise InputError("", "nothing is counted yet: relayctl health says if something is wrong") from None
    whole = not (asked.events or asked.cls or {"event", "class"} & set(asked.by))  # else there are no rates
    rows = [
        {
            **({"time": start} if stepped else {}),
            **dict(zip(asked.by, names, strict=True)),
            **_told(found, waits[key], whole),
        }
        for key, found in counts.items()
        for start, *names in (key,)
    ]
    total: defaultdict[str, int] = defaultdict(int)
    for found in counts.values():
        for name, count in found.items():
            total[name] += count
    if stepped:
        rows.sort(key=lambda row: (row["time"], -sum(row["counts"].values())))
    else:
        rows.sort(key=lambda row: -sum(row["counts"].values()))
    return {
        "step": _NAME_OF[span] if stepped else "total",
        "since": since,
        "until": until,
        "rows": rows,
        "total": _told(total, _sum(waits.values()), whole),
    }


def _span(asked: Figures, settings: Settings, now: float) -> int:
    """The longest one that gives the step and does not round the period away; a longer one if its sums are gone."""
    period = asked.until - asked.since
    exact = [span for span in SPANS if span * _PARTS <= period or not (asked.since % span or asked.until % span)]
    span = max(exact, default=MINUTE) if asked.step == "total" else _SPAN[asked.step]
    keeps = settings.keeps()
    return next((one for one in SPANS if one >= span and asked.since >= now - keeps[one] - one), DAY)


def _counts(
    db: sqlite3.Connection, asked: Figures, of_paths: bool, span: int, since: float, until: float
) -> dict[tuple[Any, ...], dict[str, int]]:
    """By (start or 0, *names): the counts of events."""
    terms, values = _terms(db, asked, of_paths)
    keys = [("0" if asked.step == "total" else "start"), *("0" if by == "event" else by for by in asked.by)]
    table = "paths" if of_paths else "senders"
    rows = db.execute(
        f"SELECT {', '.join(keys)}, event, sum(count) FROM {table} WHERE span = ? AND start >= ? AND start < ? {terms} "
        f"GROUP BY {', '.join(str(n + 1) for n in range(len(keys) + 1))} LIMIT ?",
        (span, since, until, *values, MOST + 1),
    ).fetchall()
    if len(rows) > MOST:
        step = f"by the {_NAME_OF[span]}" if asked.step != "total" else "in all"
        raise InputError("", f"more than {MOST} sums {step}: ask for a shorter period, a longer step, or fewer groups")
    names = _names(db, (id for row in rows for by, id in zip(asked.by, row[1:], strict=False) if by != "event"))
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    for start, *ids, event, count in rows:
        event = NAMES[event]
        own = (event if by == "event" else names[id] for by, id in zip(asked.by, ids, strict=True))
        sums = found.setdefault((start, *own), {})
        sums[event] = sums.get(event, 0) + count  # names that came to be one
    return found


def _terms(db: sqlite3.Connection, asked: Figures, of_paths: bool) -> tuple[str, list[Any]]:
    """Conditions, and their values."""
    provider, site = asked.provider, asked.site
    if of_paths and site and provider and site != provider:
        raise InputError("provider", "is another site than --site: leave one of them out")
    among = {
        "account": asked.accounts,
        "connection": (asked.connection,),
        "stream": (asked.stream,),
        "provider": ("" if of_paths else provider,),
        "site": ((site or provider) if of_paths else "",),
        "source": (asked.source,),
        "class": (asked.cls,),
    }
    text, values = "", list[Any]()
    for kind, names in among.items():
        if any(names):
            marks = ", ".join("?" * len(names))
            text += f" AND {kind} IN (SELECT id FROM name WHERE kind = ? AND name IN ({marks}))"
            values += [KINDS.index(kind), *names]
    if not (of_paths or asked.accounts):
        text += f" AND account IN ({ACCOUNTS})"
    if asked.events:
        text += f" AND event IN ({', '.join(str(NUMBER[name]) for name in asked.events)})"
    return text, values


def _names(db: sqlite3.Connection, ids: Iterable[int]) -> dict[int, str]:
    wanted = list(set(ids))
    rows = db.execute("SELECT id, name FROM name WHERE id IN (SELECT value FROM json_each(?))", (str(wanted),))
    return {0: "", **dict(rows.fetchall())}


# How long deliveries took.


def _waits(
    db: sqlite3.Connection, asked: Figures, span: int, since: float, until: float
) -> defaultdict[tuple[Any, ...], dict[int, tuple[int, float]]]:
    """By (start or 0, *names), by bound: how many deliveries, and their seconds; nothing where that is not counted."""
    found: defaultdict[tuple[Any, ...], dict[int, tuple[int, float]]] = defaultdict(dict)
    other = asked.connection or asked.site or asked.source or asked.cls or asked.events
    if other or span == MINUTE or not set(asked.by) <= {"account", "stream", "provider"}:
        return found
    terms, values = _terms(db, asked, of_paths=False)
    keys = ["0" if asked.step == "total" else "start", *asked.by]
    rows = db.execute(
        f"SELECT {', '.join(keys)}, bound, sum(count), sum(seconds) FROM waits "
        f"WHERE span = ? AND start >= ? AND start < ? {terms} "
        f"GROUP BY {', '.join(str(n + 1) for n in range(len(keys) + 1))}",
        (span, since, until, *values),
    ).fetchall()
    names = _names(db, (id for row in rows for id in row[1 : len(keys)]))
    for start, *ids, bound, count, seconds in rows:
        found[(start, *(names[id] for id in ids))][bound] = (count, seconds)
    return found


def _sum(several: Iterable[Mapping[int, tuple[int, float]]]) -> dict[int, tuple[int, float]]:
    total: dict[int, tuple[int, float]] = {}
    for waits in several:
        for bound, (count, seconds) in waits.items():
            had = total.get(bound, (0, 0.0))
            total[bound] = (had[0] + count, had[1] + seconds)
    return total


def _told(counts: Mapping[str, int], waits: Mapping[int, tuple[int, float]], whole: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"counts": {name: counts[name] for name in NAMES if name in counts}}
    told["rates"] = rates(counts) if whole else {}
    if waits:
        total = sum(count for count, _ in waits.values())
        mean = round(sum(seconds for _, seconds in waits.values()) / total, 1)
        told["seconds"] = {"mean": mean, "median": _share(waits, total, 0.5), "p95": _share(waits, total, 0.95)}
    return told


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """In per cent: delivered and bounced of all that came to an end, deferred of all attempts, complained of those that
    were delivered; what cannot be said is left out."""
    ended = sum(counts.get(name, 0) for name in ("delivered", "bounced", "failed"))
    attempts = sum(counts.get(name, 0) for name in ("delivered", "bounced", "deferred", "sent"))
    of = {"delivered": ended, "deferred": attempts, "bounced": ended, "complained": counts.get("delivered", 0)}
    return {name: round(100 * counts.get(name, 0) / whole, 2) for name, whole in of.items() if whole}


def _share(waits: Mapping[int, tuple[int, float]], total: int, share: float) -> float:
    """Seconds within which this share of them was delivered: the bound that it lies below."""
    reached = 0
    for bound in sorted(waits):
        reached += waits[bound][0]
        if reached >= share * total:
            return BOUNDS[bound]
    return BOUNDS[-1]
