"""The overview: is it well, what goes on, and what is the worst, in words, on one screen.

In: the answers of a few verbs, whichever of them relayd gives.  Out: lines; enter on one leads to what it tells of.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import urwid

from relayd_console.text import count, fitted, number, spark, visible, when
from relayd_console.view import Leads

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
    Source("jobs", "job list", {"limit": "5"}, 5.0),
    Source("minutes", "stats show", {"since": "1h", "step": "minute", "by": "event"}, 10.0),
)
_OUTCOMES = ("queued", "delivered", "deferred", "bounced", "rejected", "complained")
_AGO = 600.0  # seconds after which mail that is due is told of


class Line(NamedTuple):
    """Markup, and where enter leads from here."""

    markup: Any
    leads: Leads | None = None


class Problem(NamedTuple):
    """``sign``: "!" for what is bad, "~" for what should be known."""

    sign: str
    words: str
    leads: Leads


def lines(status: dict[str, Any], answers: Answers, width: int, now: float) -> Iterator[Line]:
    faults = [str(text) for text in status.get("faults", [])]
    warnings = [str(text) for text in status.get("warnings", [])]
    if faults:
        yield Line([("fault", " NOT WELL "), " ", ("bad", visible(faults[0], width - 12))])
    elif warnings:
        yield Line([("warn", " well, but "), " ", visible(warnings[0], width - 12)])
    else:
        yield Line([("well", " WELL "), " it takes mail, writes it down and delivers it"])
    for text in (faults + warnings)[1:4]:
        yield Line([" " * 12, ("warn", visible(text, width - 12))])
    yield Line("")
    yield from _rates(answers.get("minutes"), width)
    yield Line(("heading", "What stands out"))
    found = list(problems(answers, now))
    for problem in found[:PROBLEMS]:
        tint = "bad" if problem.sign == "!" else "warn"
        yield Line([(tint, f" {problem.sign} "), visible(problem.words, width - 4)], problem.leads)
    if len(found) > PROBLEMS:
        yield Line(("dim", f"   and {len(found) - PROBLEMS} more: tab goes through the views"))
    if not found:
        yield Line(("dim", "   nothing: queues move, no source is out of use, nobody is held back"))
    yield Line("")
    yield from _longest(answers.get("queues"), width, now)


def _rates(figures: Any, width: int) -> Iterator[Line]:
    """The last hour, minute by minute; the rate is that of the last whole minute."""
    rows = _rows(figures)
    if not rows:
        return
    wide = max(10, min(60, width - 40))
    yield Line(("heading", f"{'The last hour':23}{'a minute':>11}   by the minute"))
    by: dict[str, dict[float, float]] = {}
    for row in rows:
        counts = row.get("counts")
        for name, many in counts.items() if isinstance(counts, dict) else ():
            series = by.setdefault(str(name), {})
            moment = number(row.get("time"))
            series[moment] = series.get(moment, 0.0) + number(many)
    last = max((moment for series in by.values() for moment in series), default=0.0)
    for name in _OUTCOMES:
        series = by.get(name, {})
        values = [series.get(last - 60 * n, 0.0) for n in range(wide - 1, -1, -1)]
        total = sum(series.values())
        if total or name in ("queued", "delivered"):
            tint = "bad" if name in ("bounced", "rejected", "complained") and total else "spark"
            sums = fitted(count(total), 11, right=True) + fitted(count(values[-2]), 11, right=True)
            yield Line([f" {name:11}{sums}   ", (tint, spark(values, wide))])
    yield Line("")


def problems(answers: Answers, now: float) -> Iterator[Problem]:
    """What an operator should know, the worst first."""
    sources = _rows(answers.get("sources"))
    for row in sources:
        if row.get("state") == "out of use":
            yield Problem("!", f"source {row.get('name')} is out of use: {row.get('why')}", _to("sources", row, "name"))
    for row in _rows(answers.get("reputation")):
        if row.get("step") not in ("good", None):
            since = when(row.get("since"), now)
            words = f"{row.get('subject')} is at step {row.get('step')} since {since}: {row.get('why')}"
            yield Problem("!", words, _to("reputation", row, "subject"))
    for row in _rows(answers.get("reactions")):
        whom = " ".join(str(row[key]) for key in ("source", "at", "account", "pool") if row.get(key)) or "all"
        until = f", over {when(row.get('until'), now)}" if row.get("until") else ""
        words = f"{row.get('action')} {whom}{until}: {row.get('reply') or row.get('rule')}"
        yield Problem("~", words, _to("throttles", row, "id"))
    for row in _rows(answers.get("suspects")):
        words = f"{row.get('kind')} {row.get('name') or row.get('account')} is under suspicion: {row.get('why')}"
        yield Problem("~", words, _to("suspects", row, "account", "kind", "name"))
    for row in sources:
        if row.get("listed"):
            words = f"source {row.get('name')} is listed: {', '.join(map(str, row['listed']))}"
            yield Problem("!", words, _to("sources", row, "name"))
    for row in _rows(answers.get("jobs")):
        if row.get("state") == "running":
            words = f"job {row.get('job')}, {row.get('action')}: {count(row.get('done'))} done, {row.get('reason')}"
            yield Problem("~", words, _to("jobs", row, "job"))
    for row in _rows(answers.get("queues")):
        due = number(row.get("due"))
        if due and now - due > _AGO:
            words = f"{count(row.get('count'))} wait in {_queue(row)} since {when(due, now)}: {row.get('why')}"
            yield Problem("~", words, _deliveries(row))


def _longest(found: Any, width: int, now: float) -> Iterator[Line]:
    rows = _rows(found)
    yield Line(("heading", f"Longest queues{'' if rows else ': none, nothing waits'}"))
    for row in rows[:5]:
        left = max(10, width - 58)
        many, due = fitted(count(row.get("count")), 9, right=True), fitted(when(row.get("due"), now), 8)
        why = ("dim", fitted(visible(row.get("why") or "-"), left))
        yield Line([f" {fitted(_queue(row), 34)} {many}  {due}  ", why], _deliveries(row))


def _queue(row: dict[str, Any]) -> str:
    return "/".join(visible(row.get(part, "?")) for part in ("account", "stream", "domain"))


def _to(view: str, row: dict[str, Any], *key: str) -> Leads:
    return Leads({}, view=view, find="/".join(str(row.get(field, "")) for field in key))


def _deliveries(row: dict[str, Any]) -> Leads:
    return Leads({part: str(row.get(part, "")) for part in ("account", "stream", "domain")}, view="deliveries")


def _rows(answer: Any) -> list[dict[str, Any]]:
    found = answer.get("rows") if isinstance(answer, dict) else answer
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


class Overview(urwid.WidgetWrap[Any]):
    """``width()``: columns of the terminal."""

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._lines: list[Line] = []
        self._walked = False  # by somebody: until then the worst has the focus
        self._rows: Any = urwid.SimpleFocusListWalker([])
        super().__init__(urwid.ListBox(self._rows))

    def show(self, status: dict[str, Any], answers: Answers, now: float) -> None:
        """The focus of who has walked stays with what it was on, wherever that is now."""
        leads = self.leads
        self._lines = list(lines(status, answers, self._width(), now))
        self._rows[:] = [_widget(line) for line in self._lines]
        targets = [n for n, line in enumerate(self._lines) if line.leads]
        if targets:
            same = (n for n in targets if self._walked and self._lines[n].leads == leads)
            self._rows.set_focus(next(same, targets[0]))

    def render(self, size: Any, focus: bool = False) -> Any:
        """Whether all is well stays in sight for as long as what has the focus does."""
        if self._lines and self._rows.focus < size[1]:
            self._w.shift_focus(size, self._rows.focus)
        return super().render(size, focus)

    def keypress(self, size: Any, key: str) -> str | None:
        left: str | None = super().keypress(size, key)
        self._walked = self._walked or left is None
        return left

    @property
    def leads(self) -> Leads | None:
        """Where enter leads now."""
        at = self._rows.focus if self._lines else 0
        return self._lines[at].leads if at < len(self._lines) else None


_TINTS = (None, "well", "fault", "warn", "bad", "good", "dim", "heading", "spark")


def _widget(line: Line) -> urwid.Widget:
    if line.leads is None:
        return urwid.Text(line.markup, wrap="clip")
    text = urwid.SelectableIcon(line.markup, 0)
    text.set_wrap_mode("clip")
    return urwid.AttrMap(text, None, dict.fromkeys(_TINTS, "focus"))
