"""Words for a terminal: whatever relayd says is escaped, for words of remote servers and senders are in it.

In: values of JSON answers.  Out: text that no terminal obeys and that is as wide as it looks: control characters,
escape sequences and marks that turn the direction of writing are shown as what they are, not acted upon.
"""

import time
from collections.abc import Sequence

import urwid

SPARKS = " ▁▂▃▄▅▆▇█"
_GREATEST = 1e15
_COMBINING = 4  # marks on one letter: more are a joke that eats the lines above


def visible(value: object, limit: int = 200) -> str:
    """A value as text that no terminal obeys: whatever is not printable is escaped."""
    text = str(value)[: limit + 1]
    shown, marks = [], 0
    for char in text:
        marks = marks + 1 if urwid.calc_width(char, 0, 1) == 0 else 0
        if char.isprintable() and marks <= _COMBINING:
            shown.append(char)
        else:
            shown.append(f"\\x{ord(char):02x}")
    text = "".join(shown)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def span(seconds: float) -> str:
    """Seconds in one unit, rounded down: ``59s``, ``3m``, ``7h``, ``2d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def number(value: object) -> float:
    """A JSON number, 0.0 for anything else."""
    found = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _GREATEST
    return float(value) if found else 0.0  # type: ignore[arg-type]


def count(value: object) -> str:
    """A whole number as people read it: ``12,345``."""
    return f"{int(number(value)):,}"


def short(value: object) -> str:
    """A count in at most four columns: ``999``, ``9.9k``, ``12k``, ``1.2M``."""
    found = number(value)
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if found >= size:
            return f"{int(found / size * 10) / 10:.1f}{unit}" if found < 10 * size else f"{int(found / size)}{unit}"
    return str(int(found))


def when(value: object, now: float) -> str:
    """A moment (unix seconds): ``in 5m``, ``3h ago``, ``-`` for none."""
    moment = number(value)
    if not moment:
        return "-"
    left = moment - now
    if abs(left) < 1:
        return "now"
    return f"in {span(left)}" if left > 0 else f"{span(-left)} ago"


def clock(value: object) -> str:
    """A moment of the day, in UTC; with its date if it is not of today."""
    moment = number(value)
    return time.strftime("%m-%d %H:%M:%S", time.gmtime(moment)) if moment else "-"


def spark(values: Sequence[float], width: int) -> str:
    """The last ``width`` values as a line of bars."""
    last = list(values)[-width:]
    most = max(last, default=0.0)
    if most <= 0:
        return SPARKS[0] * len(last)
    return "".join(SPARKS[max(1, round(value / most * 8)) if value > 0 else 0] for value in last)


def middle(text: str, limit: int) -> str:
    """Text that is too long, without some of its middle: the end is what matters, and how it begins."""
    if len(text) <= limit:
        return text
    head = max(0, limit // 4 - 1)
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}" if limit > 1 else ""


def fitted(text: str, width: int, *, right: bool = False) -> str:
    """The text in so many columns of the terminal, cut with an ellipsis where it is wider."""
    if width <= 0:
        return ""
    wide = urwid.calc_width(text, 0, len(text))
    if wide > width:
        end, _ = urwid.calc_text_pos(text, 0, len(text), width - 1)
        text = text[:end] + "…"
        wide = urwid.calc_width(text, 0, len(text))
    pad = " " * (width - wide)
    return pad + text if right else text + pad
