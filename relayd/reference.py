"""The page of all verbs, docs/verbs.md: ``python -m relayd.reference`` writes it, `make docs` keeps it.

In: the table of commands.  Out: a page of Markdown.
"""

from collections.abc import Iterator, Sequence

from relayd.completion import option
from relayd.control.verb import Arg, Verb
from relayd.ctl import COMMANDS

_HEAD = """\
# Every verb

Each is a command of relayctl, a path of [the API](api.md) (`queue list` is `GET /v1/queue/list`) and a line of
[the console](console.md), after `:`. The role is the least that may use it; those marked with * a customer's token may
use too, for what is its own; those without a role need no running relay. This page is written by `make docs`.
"""


def page(commands: Sequence[Verb]) -> str:
    """The whole page."""
    return _HEAD + "\n".join(_lines(commands)) + "\n"


def _lines(commands: Sequence[Verb]) -> Iterator[str]:
    noun = ""
    for verb in sorted(commands, key=lambda verb: (" " in verb.name, verb.name)):
        first = verb.name.partition(" ")[0] if " " in verb.name else "by themselves"
        if first != noun:
            noun = first
            yield f"\n## {noun[0].upper() + noun[1:]}\n"
            yield "| verb | role | what it does | arguments |"
            yield "|---|---|---|---|"
        needs = "" if "/v1/" not in verb.path else verb.role
        mark = "*" if verb.scope is not None else ""
        yield f"| `{verb.name}` | {needs}{mark} | {_cell(verb.help)} | {', '.join(map(_argument, verb.args))} |"


def _argument(arg: Arg) -> str:
    shown = option(arg) or arg.name.upper()
    if arg.required:
        return f"`{shown}`"
    return f"`[{shown}]`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(COMMANDS), end="")
