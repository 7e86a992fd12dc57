"""The keys: one table, each bound to a named command.  Help, the bottom line and the documentation come from it."""

from typing import NamedTuple


class Key(NamedTuple):
    """One or more keys, the command they are bound to, and what it does."""

    keys: tuple[str, ...]
    command: str
    help: str


KEYS = (
    Key(("?", "f1"), "help", "these keys"),
    Key((":",), "command", "any verb of relayctl; tab completes"),
    Key(("enter",), "open", "look into the row"),
    Key(("esc", "q", "backspace"), "back", "back; at the first view it asks whether to quit"),
    Key(("Q",), "quit", "quit at once"),
    Key(("/",), "filter", "show only rows with these words; empty shows all"),
    Key((" ",), "mark", "mark the row: actions take the marked ones"),
    Key(("U",), "unmark", "mark none"),
    Key(("o",), "sort", "order by the next column"),
    Key(("O",), "reverse", "the other way round"),
    Key(("Z",), "freeze", "let the screen stand still, and go on"),
    Key(("r",), "refresh", "ask relayd now"),
    Key(("tab",), "next", "the next view"),
    Key(("shift tab",), "previous", "the one before"),
    Key(("v",), "views", "all views"),
)
# What a list itself understands; here only to be told.
MOVES = (
    Key(("j", "down"), "", "one row down"),
    Key(("k", "up"), "", "one row up"),
    Key(("page down", "ctrl f"), "", "one screen down"),
    Key(("page up", "ctrl b"), "", "one screen up"),
    Key(("g", "home"), "", "the first"),
    Key(("G", "end"), "", "the last"),
)
_MEANT = {"j": "down", "k": "up", "ctrl f": "page down", "ctrl b": "page up", "g": "home", "G": "end"}


def meant(key: str) -> str:
    """The key by which a list knows it."""
    return _MEANT.get(key, key)


def command_of(key: str) -> str:
    """The command that a key is bound to everywhere, "" for none."""
    return next((row.command for row in KEYS if key in row.keys), "")
