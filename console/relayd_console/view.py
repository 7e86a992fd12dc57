"""What a view is: what it asks relayd, which columns it shows, where enter leads, and what can be done there.

In: nothing.  Out: the types that ``views`` fills, and the arguments that a row gives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from relayd_console.table import Column, Row

Args = dict[str, str] | Callable[[Row], dict[str, str]]


class Action(NamedTuple):
    """A key, the verb behind it, and its arguments: ``{field}`` is the row's.  ``fault(row)``: why it cannot be done
    with this one, "" if it can.  ``ask``: arguments that are asked for, one after another."""

    key: str
    label: str
    verb: str
    args: "Args"
    fault: Callable[[Row], str] = lambda row: ""
    ask: tuple[str, ...] = ("reason",)


class Leads(NamedTuple):
    """Where enter leads: to a view, or to a verb's answer; ``args`` as an action's.  ``find``: the name of the row that
    is looked for there."""

    args: dict[str, str]
    view: str = ""
    verb: str = ""
    find: str = ""


class View(NamedTuple):
    """``rows``: where in the answer they are ("" for the answer itself); ``key``: the fields that name a row;
    ``every``: seconds between questions; ``pages``: whether the verb takes ``after`` and answers with ``next``."""

    name: str
    title: str
    verb: str
    args: dict[str, str]
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    actions: tuple[Action, ...] = ()
    leads: Leads | Callable[[Row], Leads] | None = None
    rows: str = ""
    every: float = 2.0
    pages: bool = False
    empty: str = "nothing here"
    top: bool = True  # one of those that tab goes through


def needs_row(action: Action) -> bool:
    return callable(action.args) or any(text.startswith("{") for text in action.args.values())


def filled(args: Args, row: Row) -> dict[str, Any]:
    """The arguments with the row's own values."""
    if callable(args):
        return args(row)
    return {name: row.get(text[1:-1]) if text.startswith("{") else text for name, text in args.items()}
