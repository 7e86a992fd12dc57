"""What is on the screen: a widget, what it is asked from, and how far its pages have been turned.

In: answers.  Out: a title, and where the next page begins.  A view with pages holds some of them: what is beyond is
forgotten, and asked for again by whoever goes back there.  So a million rows cost what five thousand do.
"""

from collections.abc import Callable
from typing import Any

from relayd_console.table import Row, Table
from relayd_console.text import count
from relayd_console.view import View

PAGES = 25  # that are held


class Shown:
    """``view``: whose actions can be done here; ``verb``: what is asked again while it is shown, "" for nothing;
    ``row``: what a detail is of; ``rows``: where in the answer they are; ``opened``: what enter does."""

    def __init__(
        self,
        title: str,
        widget: Any,
        *,
        view: View | None = None,
        verb: str = "",
        args: dict[str, Any] | None = None,
        every: float = 0.0,
        rows: str = "",
        row: Row | None = None,
        opened: Callable[[Row], None] | None = None,
    ) -> None:
        self.title = title
        self.widget = widget
        self.view = view
        self.verb = verb
        self.args = args or {}
        self.every = every
        self.rows = rows
        self.row = row
        self.opened = opened
        self._begins: list[str] = [""]  # where each page begins that is known to be
        self._first = 0  # of the pages that are held
        self._sizes: list[int] = []  # how many rows each of these has

    @property
    def paged(self) -> bool:
        """Whether somebody has gone down its pages: then it stands still."""
        return len(self._sizes) > 1 or self._first > 0

    def have(self, value: Any, now: float) -> None:
        """An answer: for a table its first page, and all of it if there are no others."""
        if not isinstance(self.widget, Table):
            self.widget.show(value)
            return
        if self.paged:
            return
        rows = rows_of(value, self.rows)
        self.widget.show(rows, now)
        self._begins, self._sizes = ["", *_next(value)], [len(rows)]

    def page(self, by: int) -> str | None:
        """Where the next page (1) begins, or the one before (-1); None if there is none."""
        wanted = self._first - 1 if by < 0 else self._first + len(self._sizes)
        return self._begins[wanted] if self._sizes and 0 <= wanted < len(self._begins) else None

    def have_page(self, by: int, value: Any) -> None:
        rows = rows_of(value, self.rows)
        if by < 0:
            self._first -= 1
            self._sizes.insert(0, self.widget.prepend(rows))
            if len(self._sizes) > PAGES:
                self.widget.drop(last=self._sizes.pop())
            return
        known = self._first + len(self._sizes) + 1
        self._begins[known:] = _next(value)
        self._sizes.append(self.widget.append(rows))
        if len(self._sizes) > PAGES:
            self.widget.drop(first=self._sizes.pop(0))
            self._first += 1

    def renew(self) -> None:
        """From the first page on again."""
        self._begins, self._first, self._sizes = [""], 0, []

    @property
    def chosen(self) -> list[Row]:
        """The rows that an action takes."""
        if isinstance(self.widget, Table):
            return self.widget.chosen
        return [self.row] if self.row is not None else []

    @property
    def _cut_off(self) -> bool:
        """Whether relayd was asked for no more than there are, and cannot be asked for what is behind."""
        limit = str(self.args.get("limit", ""))
        pages = self.view is not None and self.view.pages
        return limit.isdecimal() and not pages and len(self.widget.all) >= int(limit)

    def words(self) -> str:
        """The title, and how much there is."""
        table = self.widget
        if not isinstance(table, Table):
            return self.title
        beyond = self.page(1) is not None or self._cut_off
        more = f" from the {count(self._first)}. page on" if self._first else "+" if beyond else ""
        words = f"{self.title}  {count(len(table.shown))}"
        words += f" of {count(len(table.all))}{more} with {table.words!r}" if table.words else more
        return words + (f"  {len(table.marks)} marked" if table.marks else "")


def _next(value: Any) -> list[str]:
    found = value.get("next") if isinstance(value, dict) else None
    return [str(found)] if found else []


def rows_of(value: Any, field: str) -> list[Row]:
    found = value.get(field or "rows") if isinstance(value, dict) else value
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
