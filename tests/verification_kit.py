"""A DNS of one dictionary, for checks that ask without I/O."""

from collections.abc import Generator
from typing import Any, TypeVar

from relayd.verification import Found, Question

T = TypeVar("T")


class Zone:
    """Lines of "name type value"; the value FAULT is a name that nobody answers for.  ``asked`` keeps the questions."""

    def __init__(self, text: str) -> None:
        self.asked: list[tuple[str, str]] = []
        self._values: dict[tuple[str, str], list[str]] = {}
        for line in filter(str.strip, text.splitlines()):
            name, rdtype, value = line.split(None, 2)
            self._values.setdefault((name, rdtype), []).append(value)

    def answer(self, question: Question) -> Found:
        self.asked.append((question.name, question.rdtype))
        values = self._values.get((question.name, question.rdtype), [])
        return Found(fault=f"{question.name} does not answer") if values == ["FAULT"] else Found(tuple(values))

    def tell(self, asking: Generator[Question, Found, T]) -> T:
        """What a check returns, with this DNS."""
        try:
            question = next(asking)
            while True:
                question = asking.send(self.answer(question))
        except StopIteration as done:
            value: Any = done.value
            return value  # type: ignore[no-any-return]
