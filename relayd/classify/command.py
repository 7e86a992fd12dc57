"""``relayctl classify``: what a refusal would be taken for.  Needs no running relay."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from relayd.classify.classes import Decision, names
from relayd.classify.classifier import Classifier
from relayd.classify.rules import STAGES, load
from relayd.errors import InputError
from relayd.reply import Reply, printable

HELP = "what a server's refusal is taken for, and by which rule"
EXAMPLE = "classify --code 550 --enhanced 5.7.1 --provider gmail 'this message is likely unsolicited mail'"


class Row(msgspec.Struct):
    """A refusal to classify; ``id`` comes back with the answer.  All may be missing; a code may be text or a number."""

    code: int | str | None = None
    enhanced: str | None = None
    text: str | None = None
    provider: str | None = None
    stage: str | None = None
    id: Any = None


class Answer(msgspec.Struct, omit_defaults=True):
    """What is known of it; ``names`` are those that others have for the class."""

    cls: str = msgspec.field(name="class")
    decision: Decision
    rule: str
    why: str
    origin: str
    names: dict[str, str]
    id: Any = None


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("text", nargs="?", metavar="TEXT", help="the words of the reply")
    command.add_argument("--code", help="the reply's code, 400 to 599")
    command.add_argument("--enhanced", metavar="X.Y.Z", help="its enhanced code")
    command.add_argument("--provider", help="the provider's name or MX host")
    command.add_argument("--stage", choices=STAGES, help="where in the session it came")
    command.add_argument(
        "--rules", action="append", default=[], metavar="FILE", help="rules of yours (may be repeated)"
    )
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the answer as JSON")
    command.add_argument(
        "--jsonl",
        action="store_true",
        help="answer a line for each of stdin's: {code, enhanced, text, provider, stage, id}",
    )


def run(options: argparse.Namespace, rendered: Callable[[Any], list[str]]) -> int:
    """Prints the answer, or one a row; gives the exit code."""
    try:
        classifier = Classifier(load(options.rules))
        if options.jsonl:
            sys.stdout.writelines(answers(sys.stdin, classifier))
        else:
            row = Row(*(getattr(options, key) for key in ("code", "enhanced", "text", "provider", "stage")))
            found = answer(row, classifier)
            shown = rendered(msgspec.to_builtins(found))
            sys.stdout.write(_line(found) if options.json else "\n".join([*shown, ""]))
        sys.stdout.flush()
    except (InputError, UnicodeError) as fault:
        print(f"relayctl: {printable(str(fault))}", file=sys.stderr)
        return 1
    return 0


def answers(lines: Iterable[str], classifier: Classifier) -> Iterator[str]:
    """A JSON line for each that is not empty.  Raises InputError with the number of one that is no row."""
    decoder = msgspec.json.Decoder(Row)
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _line(answer(decoder.decode(line), classifier))
            except (msgspec.DecodeError, InputError, UnicodeError) as error:
                raise InputError("", f"line {number}: {error}") from None


def answer(row: Row, classifier: Classifier) -> Answer:
    """Raises InputError for a code that is none."""
    code = str(row.code or 0)
    if not (code.isascii() and code.isdigit()):
        raise InputError("code", f"{code!r} is not a reply code: write 550")
    reply = Reply(int(code[:4]), row.enhanced or "", row.text or "")
    verdict = classifier.classify(reply, row.provider or "", row.stage or "")
    origin = classifier.origins.get(verdict.rule, "")
    return Answer(verdict.cls, verdict.decision, verdict.rule, verdict.why, origin, names(verdict.cls), row.id)


def _line(found: Answer) -> str:
    # In ASCII, so that no byte of it means anything to a terminal.
    return json.dumps(msgspec.to_builtins(found)) + "\n"
