"""A table that makes only the rows on the screen: ten or a million scroll alike.

In: rows, which are JSON objects, and columns that say how to show them.  Out: a list that can be walked, filtered,
ordered and marked; the focus stays with its row when new ones come, and marks do for as long as their rows are there.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import urwid

from relayd_console.text import clock, count, fitted, number, short, span, visible, when

Row = dict[str, Any]
_NEAR_END = 50  # rows before either end at which more are asked for
MOST = 10_000  # rows of one answer

_KINDS: dict[str, Callable[[Any, float], str]] = {
    "text": lambda value, now: visible(_flat(value)) if value not in (None, "", []) else "-",
    "count": lambda value, now: count(value),
    "short": lambda value, now: short(value),
    "when": when,
    "clock": lambda value, now: clock(value),
    "span": lambda value, now: span(number(value)) if number(value) else "-",
    "share": lambda value, now: f"{number(value):.0%}" if value is not None else "-",
    "stamp": lambda value, now: visible(value)[5:19].replace("T", " ") if value else "-",
    "said": lambda value, now: visible(_said(value)) if value else "-",
}


def _flat(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(_flat(item)) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={_flat(item)}" for key, item in value.items() if item not in (None, "", [], {}))
    return value


def _said(attempt: object) -> object:
    """What a server said, or why it could not be asked."""
    if not isinstance(attempt, dict):
        return attempt
    words = (attempt.get(name) for name in ("code", "enhanced", "reply", "error"))
    return f"{attempt.get('stage', '')}: {' '.join(str(word) for word in words if word)}"


class Column(NamedTuple):
    """``field`` of a row, or else the one after a comma, as ``kind`` says.  ``width`` in columns of the terminal, and
    with ``grow`` a share of what is left; it is left out on a terminal narrower than ``least``.  ``tint`` gives a
    colour's name for a value."""

    title: str
    field: str
    width: int
    kind: str = "text"
    grow: int = 0
    least: int = 0
    tint: Callable[[Any], str] | None = None

    @property
    def right(self) -> bool:
        return self.kind in ("count", "short", "share")

    def value(self, row: Row) -> Any:
        first, _, other = self.field.partition(",")
        return row.get(first) or row.get(other) if other else row.get(first)

    def text(self, row: Row, now: float) -> str:
        return _KINDS[self.kind](self.value(row), now)


class _Line(urwid.Widget):
    """One row."""

    _sizing = frozenset([urwid.FLOW])
    _selectable = True
    ignore_focus = False

    def __init__(self, table: "Table", row: Row) -> None:
        super().__init__()
        self._table = table
        self._row = row

    def rows(self, size: Any, focus: bool = False) -> int:
        return 1

    def render(self, size: Any, focus: bool = False) -> Any:
        (width,) = size
        markup = self._table.markup(self._row, width, focus=focus)
        return urwid.CompositeCanvas(urwid.Text(markup, wrap="clip").render((width,)))

    def keypress(self, size: Any, key: str) -> str:
        return key


class _Walker(urwid.ListWalker[int, _Line]):
    """Makes a row's widget when it is looked at."""

    def __init__(self, table: "Table") -> None:
        self._table = table
        self.focus = 0

    def __getitem__(self, position: int) -> _Line:
        return _Line(self._table, self._table.shown[position])

    def positions(self, reverse: bool = False) -> Iterable[int]:
        found = range(len(self._table.shown))
        return reversed(found) if reverse else found

    def __len__(self) -> int:
        return len(self._table.shown)

    def next_position(self, position: int) -> int:
        if position + 1 >= len(self._table.shown):
            raise IndexError
        return position + 1

    def prev_position(self, position: int) -> int:
        if position <= 0:
            raise IndexError
        return position - 1

    def set_focus(self, position: int) -> None:
        self.focus = position
        self._modified()
        self._table.moved()

    def changed(self) -> None:
        self._modified()


class Table(urwid.WidgetWrap[Any]):
    """``key``: the fields that name a row; ``more``: called with 1 when the end comes near, with -1 when the beginning
    does; ``moved``: the focus is on another row; ``find``: the name of the row that is looked for when rows come."""

    def __init__(
        self,
        columns: Sequence[Column],
        key: Sequence[str],
        more: Callable[[int], None] = lambda by: None,
        moved: Callable[[], None] = lambda: None,
        empty: str = "nothing here",
        find: str = "",
    ) -> None:
        self.columns = columns
        self.key = key
        self.all: list[Row] = []
        self.shown: list[Row] = []
        self.marks: set[str] = set()
        self.words = ""
        self.order: int | None = None
        self.backwards = False
        self.now = 0.0
        self.more = more
        self._find = find
        self._texts: dict[int, str] = {}  # what a filter looks at, by the row's identity
        self._moved = moved
        self._layouts: dict[int, list[tuple[Column, int]]] = {}
        self._walker = _Walker(self)
        self._list = urwid.ListBox(self._walker)
        self._empty = empty
        self._nothing = urwid.Filler(urwid.Text(("dim", "asking relayd ..."), align="center"))
        self._head = _Head(self)
        super().__init__(urwid.Frame(self._nothing, header=self._head))

    # What is shown.

    def name(self, row: Row) -> str:
        """What tells a row from others, and is the same the next time it comes."""
        return "/".join(str(row.get(field, "")) for field in self.key)

    def show(self, rows: list[Row], now: float) -> None:
        """New rows for those of before."""
        self.now = now
        self._hold(rows[:MOST])

    def append(self, rows: list[Row]) -> int:
        """More of them, behind those that are there; gives how many are new."""
        fresh = self._fresh(rows)
        self._hold(self.all + fresh)
        return len(fresh)

    def prepend(self, rows: list[Row]) -> int:
        """The same before them."""
        fresh = self._fresh(rows)
        self._hold(fresh + self.all)
        return len(fresh)

    def drop(self, first: int = 0, last: int = 0) -> None:
        """Forgets so many rows at the ends."""
        self._hold(self.all[first : len(self.all) - last])

    def _fresh(self, rows: list[Row]) -> list[Row]:
        known = set(map(self.name, self.all))
        return [row for row in rows if self.name(row) not in known]

    def _hold(self, rows: list[Row]) -> None:
        focused = self.focused
        self.all, self._texts = rows, {}
        if self.marks:
            self.marks &= set(map(self.name, rows))
        self._arrange(self.name(focused) if focused else "")

    def _arrange(self, name: str) -> None:
        """``name``: of the row that has the focus, wherever it is now."""
        wanted = [word.lower() for word in self.words.split()]
        shown = [row for row in self.all if _meets(self._text(row), wanted)] if wanted else list(self.all)
        if self.order is not None:
            column = self.columns[self.order]
            shown.sort(key=lambda row: _rank(column.value(row)), reverse=self.backwards)
        self.shown = shown
        place = self._place(self._find) if self._find else None
        if place is not None:
            self._find = ""
        else:
            place = self._place(name) if name else 0
        self._walker.focus = min(self._walker.focus, max(0, len(shown) - 1)) if place is None else place
        self._walker.changed()
        frame: Any = self._w
        if shown:
            frame.body = self._list
        else:
            said = f"nothing here has {self.words!r}" if self.words and self.all else self._empty
            frame.body = urwid.Filler(urwid.Text(("dim", said), align="center"))

    def _place(self, name: str) -> int | None:
        return next((i for i, row in enumerate(self.shown) if self.name(row) == name), None)

    def _text(self, row: Row) -> str:
        text = self._texts.get(id(row))
        if text is None:
            text = " ".join(column.text(row, self.now) for column in self.columns).lower()
            self._texts[id(row)] = text
        return text

    # Where one is.

    @property
    def focused(self) -> Row | None:
        return self.shown[self._walker.focus] if self._walker.focus < len(self.shown) else None

    @property
    def chosen(self) -> list[Row]:
        """The marked rows, else the one in focus."""
        marked = [row for row in self.all if self.name(row) in self.marks]
        return marked or ([self.focused] if self.focused else [])

    def moved(self) -> None:
        if self._walker.focus >= len(self.shown) - _NEAR_END:
            self.more(1)
        if self._walker.focus < _NEAR_END:
            self.more(-1)
        self._moved()

    # What is done with it.

    def filter(self, words: str) -> None:
        self.words = words
        self._again()

    def _again(self) -> None:
        self._arrange(self.name(self.focused) if self.focused else "")

    def mark(self) -> None:
        """Turns the mark of the row in focus, and goes on to the next."""
        if self.focused is None:
            return
        self.marks ^= {self.name(self.focused)}
        if self._walker.focus + 1 < len(self.shown):
            self._walker.set_focus(self._walker.focus + 1)
        self._walker.changed()

    def unmark(self) -> None:
        self.marks.clear()
        self._walker.changed()

    def sort(self) -> str:
        """Orders by the next column; gives its title."""
        self.order = 0 if self.order is None else (self.order + 1) % len(self.columns)
        self.backwards = self.columns[self.order].right
        self._again()
        return self.columns[self.order].title

    def reverse(self) -> None:
        self.backwards = not self.backwards
        self._again()

    # How a row looks.

    def markup(self, row: Row, width: int, *, focus: bool) -> list[Any]:
        marked = self.name(row) in self.marks
        found: list[Any] = [("focus" if focus else "mark" if marked else "", "*" if marked else " ")]
        for column, wide in self._layout(width):
            tint = column.tint(column.value(row)) if column.tint else ""
            cell = fitted(column.text(row, self.now), wide, right=column.right)
            found.append(("focus" if focus else tint or ("mark" if marked else ""), cell + " "))
        return found

    def heading(self, width: int) -> str:
        cells = []
        for column, wide in self._layout(width):
            sign = ""
            if self.order is not None and self.columns[self.order] is column:
                sign = "▼" if self.backwards else "▲"
            cells.append(fitted(column.title + sign, wide, right=column.right))
        return " " + " ".join(cells)

    def _layout(self, width: int) -> list[tuple[Column, int]]:
        found = self._layouts.get(width)
        if found is None:
            columns = [column for column in self.columns if width >= column.least]
            left = width - 1 - sum(column.width + 1 for column in columns)
            shares = sum(column.grow for column in columns) or 1
            wide = {column: max(4, column.width + left * column.grow // shares) for column in columns}
            found = self._layouts[width] = [(column, wide[column]) for column in columns]
        return found


class _Head(urwid.Widget):
    """The titles of the columns."""

    _sizing = frozenset([urwid.FLOW])

    def __init__(self, table: Table) -> None:
        super().__init__()
        self._table = table

    def rows(self, size: Any, focus: bool = False) -> int:
        return 1

    def render(self, size: Any, focus: bool = False) -> Any:
        self._invalidate()  # the order may have changed
        text = self._table.heading(size[0])
        return urwid.CompositeCanvas(urwid.Text(("heading", text), wrap="clip").render(size))


def _meets(text: str, words: list[str]) -> bool:
    """Every word is in it, and none of those with a ``!`` before."""
    return all((word[1:] not in text) if word[0] == "!" and len(word) > 1 else word in text for word in words)


def _rank(value: object) -> tuple[int, float, str]:
    """Numbers before words; what is missing last of all."""
    if value in (None, ""):
        return 2, 0.0, ""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return 1, 0.0, str(_flat(value)).lower()
