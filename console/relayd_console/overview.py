"""The overview: is it well, what goes on, and what is the worst, in words, on one screen.

In: the answers of a few verbs, whichever of them relayd gives.  Out: lines.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import urwid

from relayd_console.text import count, fitted, number, spark, visible, when

Answers = dict[str, Any]
PROBLEMS = 8


class Source(NamedTuple):
    """A verb that the overview is made from, and seconds between questions."""

    name: str
    verb: str
    args: dict[str, str]
    every: float


SOURCES = (
    Source("queues", "queue list", {"limit": "20"}, 2.0),
    Source("sources", "source list", {}, 5.0),
    Source("reactions", "shaping reactions", {}, 5.0),
    Source("reputation", "reputation list", {}, 5.0),
    Source("suspects", "suspects list", {}, 10.0),
    Source("minutes", "stats show", {"since": "1h", "step": "minute", "by": "event"}, 10.0),
)
_OUTCOMES = ("queued", "delivered", "deferred", "bounced", "rejected", "complained")


def lines(status: dict[str, Any], answers: Answers, width: int, now: float) -> Iterator[Any]:
    """Markup of each line."""
    faults = [str(text) for text in status.get("faults", [])]
    warnings = [str(text) for text in status.get("warnings", [])]
    if faults:
        yield [("fault", " NOT WELL "), " ", ("bad", visible(faults[0], width - 12))]
    elif warnings:
        yield [("warn", " well, but "), " ", visible(warnings[0], width - 12)]
    else:
        yield [("well", " WELL "), " it takes mail, writes it down and delivers it"]
    for text in (faults + warnings)[1:4]:
        yield [" " * 12, ("warn", visible(text, width - 12))]
    yield ""
    yield from _rates(answers.get("minutes"), width)
    yield ("heading", "What stands out")
    found = list(problems(answers, now))
    for sign, text in found[:PROBLEMS]:
        yield [("bad" if sign == "!" else "warn", f" {sign} "), visible(text, width - 4)]
    if len(found) > PROBLEMS:
        yield ("dim", f"   and {len(found) - PROBLEMS} more: tab goes through the views")
    if not found:
        yield ("dim", "   nothing: queues move, no source is out of use, nobody is held back")
    yield ""
    yield from _longest(answers.get("queues"), width, now)


def _rates(figures: Any, width: int) -> Iterator[Any]:
    """The last hour, minute by minute."""
    rows = figures.get("rows") if isinstance(figures, dict) else None
    if not isinstance(rows, list):
        return
    yield ("heading", "The last hour, by the minute")
    by: dict[str, dict[float, float]] = {}
    for row in rows:
        if isinstance(row, dict):
            counts = row.get("counts")
            for name, many in counts.items() if isinstance(counts, dict) else ():
                series = by.setdefault(str(name), {})
                moment = number(row.get("time"))
                series[moment] = series.get(moment, 0.0) + number(many)
    last = max((moment for series in by.values() for moment in series), default=0.0)
    wide = max(10, min(60, width - 34))
    for name in _OUTCOMES:
        series = by.get(name, {})
        values = [series.get(last - 60 * n, 0.0) for n in range(wide - 1, -1, -1)]
        total = sum(series.values())
        if total or name in ("queued", "delivered"):
            tint = "bad" if name in ("bounced", "rejected", "complained") and total else "spark"
            yield [f" {name:11}{fitted(count(total), 11, right=True)} ", (tint, spark(values, wide))]
    yield ""


def problems(answers: Answers, now: float) -> Iterator[tuple[str, str]]:
    """("!" or "~", a sentence) of each thing that an operator should know, the worst first."""
    for row in _rows(answers.get("sources")):
        if row.get("state") == "out of use":
            yield "!", f"source {row.get('name')} is out of use: {row.get('why')}"
    for row in _rows(answers.get("reputation")):
        if row.get("step") not in ("good", None):
            since = when(row.get("since"), now)
            yield "!", f"{row.get('subject')} is at step {row.get('step')} since {since}: {row.get('why')}"
    for row in _rows(answers.get("reactions")):
        whom = " ".join(str(row[key]) for key in ("source", "at", "account", "pool") if row.get(key))
        yield (
            "~",
            f"{row.get('action')} {whom} until {when(row.get('until'), now)}: {row.get('reply') or row.get('rule')}",
        )
    for row in _rows(answers.get("suspects")):
        yield "~", f"{row.get('kind')} {row.get('name') or row.get('account')} is under suspicion: {row.get('why')}"
    for row in _rows(answers.get("sources")):
        if row.get("listed"):
            yield "!", f"source {row.get('name')} is listed: {', '.join(map(str, row['listed']))}"
    for row in _rows(answers.get("queues")):
        due = number(row.get("due"))
        if due and now - due > 600:
            queue = "/".join(str(row.get(part)) for part in ("account", "stream", "domain"))
            yield "~", f"{count(row.get('count'))} wait in {queue} since {when(due, now)}: {row.get('why')}"


def _longest(found: Any, width: int, now: float) -> Iterator[Any]:
    rows = _rows(found)
    yield ("heading", f"Longest queues{'' if rows else ': none, nothing waits'}")
    for row in rows[:5]:
        name = "/".join(visible(row.get(part, "?")) for part in ("account", "stream", "domain"))
        left = max(10, width - 58)
        many, due = fitted(count(row.get("count")), 9, right=True), fitted(when(row.get("due"), now), 8)
        yield [f" {fitted(name, 34)} {many}  {due}  ", ("dim", fitted(visible(row.get("why") or "-"), left))]


def _rows(answer: Any) -> list[dict[str, Any]]:
    found = answer.get("rows") if isinstance(answer, dict) else answer
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


class Overview(urwid.WidgetWrap[Any]):
    """``width()``: columns of the terminal."""

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._rows: Any = urwid.SimpleFocusListWalker([])
        super().__init__(urwid.ListBox(self._rows))

    def show(self, status: dict[str, Any], answers: Answers, now: float) -> None:
        self._rows[:] = [urwid.Text(markup, wrap="clip") for markup in lines(status, answers, self._width(), now)]
