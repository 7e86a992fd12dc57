"""``relayctl feedback explain``: what a message that came back is taken for.  Needs no running relay."""

import argparse
import json
import sys

import msgspec

from relayd.feedback.explain import Classify, Verify, explain
from relayd.feedback.mime import MAX_SIZE
from relayd.feedback.report import Clue
from relayd.reply import Reply, printable

HELP = "what messages that came back are taken for: a JSON line for each"
EXAMPLE = "feedback explain bounce.eml"


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("files", nargs="+", metavar="FILE", help='a message, "-" is stdin')
    command.add_argument("--recipient", default="", metavar="ADDRESS", help="whom it came to, if that is known")


def unchecked(clues: tuple[Clue, ...]) -> str:
    """For where no key is at hand: whether there is anything in which a token could be."""
    return "unchecked" if clues else "none"


class _Unclassified(msgspec.Struct, frozen=True):
    cls: str = "unknown"
    decision: None = None
    rule: str = ""


def unclassified(reply: Reply, mx: str, stage: str) -> _Unclassified:
    """For where no classifier is at hand."""
    return _Unclassified()


def run(
    options: argparse.Namespace,
    rendered: object = None,
    *,
    classify: Classify = unclassified,
    verify: Verify = unchecked,
) -> int:
    """Prints a line a file; gives the exit code, 1 if a file could not be read."""
    code = 0
    for name in options.files:
        try:
            content = _content(name)
        except OSError as error:
            print(f"relayctl: {printable(name)} cannot be read: {error.strerror}", file=sys.stderr)
            code = 1
            continue
        answer = explain(content, classify, verify, options.recipient)
        # In ASCII, so that no byte of it means anything to a terminal.
        print(json.dumps({"file": name, **answer}))
    return code


def _content(name: str) -> bytes:
    """As much as is read of it, and a byte more that shows if there is more."""
    if name == "-":
        return sys.stdin.buffer.read(MAX_SIZE + 1)
    with open(name, "rb") as file:
        return file.read(MAX_SIZE + 1)
