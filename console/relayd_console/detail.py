"""An answer to read: any JSON value as lines, nested ones further in."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import urwid

from relayd_console.text import clock, number, visible

_TIMES = ("time", "since", "until", "due", "received", "started", "at", "added", "expires", "made", "last", "next")
_MOST = 5000  # lines
_WIDE = 78  # columns that one line of a list has at most
_FOCUS = {None: "focus", "heading": "focus"}


def lines(value: Any, indent: int = 0) -> Iterator[tuple[str, str]]:
    """(a colour's name, text) of each line."""
    pad = "  " * indent
    if isinstance(value, dict):
        wide = max((len(str(key)) for key in value), default=0)
        for key, item in value.items():
            if isinstance(item, dict | list) and item:
                yield "heading", f"{pad}{visible(key)}"
                yield from lines(item, indent + 1)
            else:
                yield "", f"{pad}{visible(key):{wide}}  {_plain(str(key), item)}"
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from _item(item, pad, indent)
            else:
                yield "", f"{pad}- {_plain('', item)}"
    else:
        for line in str(value).splitlines() or [""]:
            yield "", pad + visible(line, 2000)


def _item(item: dict[str, Any], pad: str, indent: int) -> Iterator[tuple[str, str]]:
    """One of a list: on a line if that holds it, else a line for each field."""
    if all(_flat(one) or not one for one in item.values()):
        line = f"{pad}- {'  '.join(f'{visible(key)} {_plain(str(key), one)}' for key, one in item.items())}"
        if len(line) <= _WIDE:
            yield "", line
            return
    first, *more = lines(item, indent + 1)
    yield first[0], f"{pad}- {first[1][len(pad) + 2 :]}"
    yield from more


def _flat(value: object) -> bool:
    return not isinstance(value, dict | list)


def _plain(key: str, value: object) -> str:
    if key in _TIMES and number(value) > 1e9:
        return clock(value)
    if value in (None, "", [], {}):
        return "-"
    return visible(value, 2000)


class Detail(urwid.WidgetWrap[Any]):
    """Lines that can be walked."""

    def __init__(self, value: Any = None) -> None:
        self._shown: list[tuple[str, str]] = []
        self._rows: Any = urwid.SimpleFocusListWalker([])
        super().__init__(urwid.ListBox(self._rows))
        if value is not None:
            self.show(value)

    def keypress(self, size: Any, key: str) -> str | None:
        if key not in ("page down", "page up") or not self._rows:
            left: str | None = super().keypress(size, key)
            return left
        # A screen further at once: a list would first move the focus through this one.
        top = self._rows.focus - self._w.get_focus_offset_inset(size)[0]
        by = size[1] - 1
        self._rows.set_focus(max(0, min(len(self._rows) - 1, top + (by if key == "page down" else -by))))
        self._w.shift_focus(size, 0)
        return None

    def show(self, value: Any) -> None:
        found = list(islice(lines(value), _MOST))
        if found == self._shown:
            return
        focus, self._shown = self._rows.focus if self._rows else 0, found
        self._rows[:] = [urwid.AttrMap(urwid.SelectableIcon(line, 0), None, _FOCUS) for line in found]
        if self._rows:
            self._rows.set_focus(min(focus, len(self._rows) - 1))
