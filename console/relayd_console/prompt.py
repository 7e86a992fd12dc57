"""The bottom line while something is asked there: a line of text with completion and a memory, or one key.

In: keys.  Out: what was typed, to whoever asked; the text to show meanwhile.
"""

from collections.abc import Callable
from typing import NamedTuple

import urwid

from relayd_console.text import visible

_LINES = 100  # that are remembered
_SHOWN = 12  # completions
WAITS = "\0"  # the keys of a prompt that no key answers


class Prompt(NamedTuple):
    """What is asked: a line of text, or (``keys``) one of these keys.  ``hint`` says what can be written;
    ``live``: called at each change of the text; ``remember``: whether the up key gives lines of before."""

    words: str
    done: Callable[[str], None]
    keys: str = ""
    hint: str = ""
    text: str = ""
    live: Callable[[str], None] | None = None
    complete: Callable[[str], list[str]] | None = None
    remember: bool = False


class Line:
    """The line; ``prompt`` is None while nothing is asked."""

    def __init__(self) -> None:
        self.prompt: Prompt | None = None
        self._edit = urwid.Edit("")
        self._hint = ""
        self._lines: list[str] = []
        self._back = 0  # how far one has gone back in them

    def ask(self, prompt: Prompt) -> None:
        self.prompt, self._hint, self._back = prompt, prompt.hint, 0
        self._put(prompt.text)

    def _put(self, text: str) -> None:
        self._edit.set_edit_text(text)
        self._edit.set_edit_pos(len(text))

    def typed(self, key: str) -> None:
        prompt = self.prompt
        assert prompt is not None
        if key in ("esc", "ctrl c", "ctrl g"):
            self.prompt = None
            if prompt.live:
                prompt.live("")
        elif prompt.keys:
            if key.lower() in prompt.keys:
                self.prompt = None
                prompt.done(key.lower())
        elif key == "enter":
            self.prompt = None
            text = self._edit.edit_text.strip()
            if prompt.remember and text:
                self._lines = [*(line for line in self._lines if line != text), text][-_LINES:]
            prompt.done(text)
        elif key == "tab":
            self._complete(prompt)
        elif key in ("up", "down") and prompt.remember:
            self._back = max(0, min(len(self._lines), self._back + (1 if key == "up" else -1)))
            self._put(self._lines[-self._back] if self._back else "")
        else:
            self._edit.keypress((10_000,), key)
            self._hint = prompt.hint
            if prompt.live:
                prompt.live(self._edit.edit_text)

    def _complete(self, prompt: Prompt) -> None:
        found = prompt.complete(self._edit.edit_text) if prompt.complete else []
        if not found:
            return
        common = found[0]
        while not all(one.startswith(common) for one in found):
            common = common[:-1]
        if len(common) > len(self._edit.edit_text):
            self._put(common)
        left = len(found) - _SHOWN
        more = f"  and {left} more" if left > 0 else ""
        self._hint = "  ".join(one.strip() for one in found[:_SHOWN]) + more if len(found) > 1 else ""

    def text(self) -> str:
        assert self.prompt is not None
        if self.prompt.keys:
            return self.prompt.words
        at, text = self._edit.edit_pos, self._edit.edit_text
        hint = f"   {visible(self._hint, 500)}" if self._hint else ""
        return f"{self.prompt.words}{visible(text[:at], 500)}▏{visible(text[at:], 500)}{hint}"
