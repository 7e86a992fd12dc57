"""An answer to read: any JSON value as lines, nested ones further in."""

from collections.abc import Iterator
from typing import Any

import urwid

from relayd_console.text import clock, number, visible

_TIMES = ("time", "since", "until", "due", "received", "started", "at", "added", "expires", "made", "last", "next")
_MOST = 5000  # lines


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
                parts = [f"{visible(key)} {_plain(str(key), one)}" for key, one in item.items() if _flat(one)]
                yield "", f"{pad}- {'  '.join(parts)}"
                for key, one in item.items():
                    if not _flat(one) and one:
                        yield "heading", f"{pad}  {visible(key)}"
                        yield from lines(one, indent + 2)
            else:
                yield "", f"{pad}- {_plain('', item)}"
    else:
        for line in str(value).splitlines() or [""]:
            yield "", pad + visible(line, 2000)


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

    def __init__(self, value: Any) -> None:
        self._rows: Any = urwid.SimpleFocusListWalker([])
        super().__init__(urwid.ListBox(self._rows))
        self.show(value)

    def show(self, value: Any) -> None:
        focus = self._rows.focus if self._rows else 0
        found = [
            urwid.SelectableIcon((tint, text), 0) for (tint, text), _ in zip(lines(value), range(_MOST), strict=False)
        ]
        self._rows[:] = [urwid.AttrMap(text, None, "focus") for text in found]
        if self._rows:
            self._rows.set_focus(min(focus, len(self._rows) - 1))
