"""``docs/keys.md``: the views and the keys, from the tables that make them.  ``python -m relayd_console.page``"""

from collections.abc import Iterator

from relayd_console import keys
from relayd_console.view import View
from relayd_console.views import OVERVIEW, TOPS, VIEWS

_HEAD = """\
# Views and keys of the console

What the [console](console.md) is made of. Every other [verb](verbs.md) can be typed after `:`, with the same options as
relayctl. This page is written by `make docs`.
"""


def page() -> str:
    """The whole page."""
    return "\n".join((_HEAD, *_views(), "", *_keys(), "", *_verbs())) + "\n"


def _views() -> Iterator[str]:
    yield "## Views\n"
    yield "Numbers go to the first ten, `tab` through all of them, `v` lists them; `:NAME` too.\n"
    yield "| | view | `:` | made of | enter shows | what can be done there |"
    yield "|---|---|---|---|---|---|"
    for n, one in enumerate((OVERVIEW, *TOPS), 1):
        yield f"| {n} | {_row(one)} |"
    for one in (one for one in VIEWS if not one.top):
        yield f"| | {_row(one)} |"


def _row(one: View) -> str:
    actions = ", ".join(f"`{action.key}` {action.label}" for action in one.actions) or "-"
    name = "" if one is OVERVIEW else f"`{one.name}`"
    return f"{one.title} | {name} | `{one.verb}` | {_leads(one)} | {actions}"


def _leads(one: View) -> str:
    if one is OVERVIEW:
        return "what the line tells of"
    if one.leads is None:
        return "the row"
    if callable(one.leads):
        return "its deliveries"
    return f"`{one.leads.verb}`" if one.leads.verb else next(v.title for v in VIEWS if v.name == one.leads.view)


def _keys() -> Iterator[str]:
    yield "## Keys\n"
    yield "| key | |"
    yield "|---|---|"
    for row in (*keys.KEYS, *keys.MOVES):
        names = ", ".join(f"`{'space' if key == ' ' else key}`" for key in row.keys)
        yield f"| {names} | {row.help} |"


def _verbs() -> Iterator[str]:
    yield "## Where a verb has a key\n"
    yield "| verb | view and key |"
    yield "|---|---|"
    places: dict[str, list[str]] = {}
    for one in (OVERVIEW, *VIEWS):
        for action in one.actions:
            places.setdefault(action.verb, []).append(f"{one.title} `{action.key}`")
    for verb, where in sorted(places.items()):
        yield f"| `{verb}` | {', '.join(where)} |"


if __name__ == "__main__":
    print(page(), end="")
