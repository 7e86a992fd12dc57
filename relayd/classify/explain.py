"""What a refusal would be taken for, with all that is known of it, as ``relayctl classify`` shows it."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from relayd.classify.classes import Decision, names
from relayd.classify.classifier import Classifier
from relayd.errors import InputError
from relayd.reply import Reply


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


def answers(lines: Iterable[str], classifier: Classifier) -> Iterator[Answer]:
    """One for each line of JSON that is not empty.  Raises InputError with the number of one that is no row."""
    decoder = msgspec.json.Decoder(Row)
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield answer(decoder.decode(line), classifier)
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
