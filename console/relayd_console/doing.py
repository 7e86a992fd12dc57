"""Doing something: from a key or a line to the verb's answer.

In: a verb with some of its arguments, for one thing or for many.  Out: what is missing is asked for, what can be tried
is tried, its exact effect is told, and only a "y" does it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from relayd_console.commands import DRY, Call, Verb
from relayd_console.prompt import WAITS, Prompt
from relayd_console.text import count, visible

_FIRST = ("deliveries", "queued", "sessions", "in", "out", "connections")  # what a trial counts, the weightiest first


class Desk(Protocol):
    """What the console gives for it."""

    def ask(self, verb: str, given: dict[str, Any], post: bool, done: Callable[[Any], None]) -> None: ...
    def prompt(self, prompt: Prompt | None) -> None: ...
    def asks(self, prompt: Prompt) -> bool: ...
    def say(self, words: str, tint: str = "keys") -> None: ...
    def present(self, title: str, value: Any) -> None: ...
    def refresh(self) -> None: ...


class Doing(NamedTuple):
    """What is to be done: a verb's calls, one for each thing; ``label`` is what the key is called; ``shows``: whether
    what relayd answers is there to be read."""

    desk: Desk
    label: str
    calls: list[Call]
    shows: bool = False

    def begin(self, wanted: tuple[str, ...]) -> None:
        """Asks for these arguments, one after another."""
        if not wanted:
            self._try()
            return
        name, *left = wanted
        arg = _arg(self.calls[0].verb, name)
        needed = bool(arg.get("required"))
        many = f" {len(self.calls)} rows" if len(self.calls) > 1 else ""

        def done(text: str) -> None:
            if not text and needed:
                self.desk.say(f"{self.label}: not done, it wants a {name}")
                return
            more = {name: text} if text else {}
            calls = [call._replace(given={**call.given, **more}) for call in self.calls]
            self._replace(calls=calls).begin(tuple(left))

        choices = [str(choice) for choice in arg.get("choices") or ()]
        hint = ", ".join(choices) or str(arg.get("help", ""))
        self.desk.prompt(
            Prompt(
                f"{visible(self.label)}{many}, {name.replace('_', ' ')}: ",
                done,
                hint=hint if needed else f"{hint} (may stay empty)",
                complete=lambda text: [choice for choice in choices if choice.startswith(text)],
            )
        )

    def _try(self) -> None:
        """What relayd can try without doing is tried; keys that are typed until it is known answer nothing."""
        if not _has(self.calls[0].verb, DRY):
            self._confirm([])
            return
        found: list[Any] = []
        waits = Prompt(f"{visible(self.label)}: what would it do? (esc leaves it)", lambda key: None, WAITS)

        def tried(value: Any) -> None:
            found.append(value)
            if len(found) == len(self.calls) and self.desk.asks(waits):
                self.desk.prompt(None)
                faults = [value for value in found if isinstance(value, Exception)]
                if len(faults) == len(found):
                    self.desk.say(f"{self.label}: {faults[0]}", "bad")
                else:
                    self._confirm(found)

        self.desk.prompt(waits)
        for call in self.calls:
            self.desk.ask(call.verb["name"], {**call.given, DRY: True}, call.posts, tried)

    def _confirm(self, found: list[Any]) -> None:
        more = f" and {len(self.calls) - 1} more" if len(self.calls) > 1 else ""
        told = f" [{effect(found)}]" if found else ""
        words = f"{visible(self.calls[0].line(), 200)}{more}{told}? (y/n{', d: details' if found else ''})"

        def answered(key: str) -> None:
            if key == "y":
                self._do()
            elif key == "d":
                self.desk.present(f"{self.label}: what it would do", found[0] if len(found) == 1 else found)
                self._confirm(found)
            else:
                self.desk.say("not done")

        self.desk.prompt(Prompt(words, answered, "ynd" if found else "yn"))

    def _do(self) -> None:
        for call in self.calls:
            self.desk.ask(call.verb["name"], call.given, call.posts, partial(self._done, call))

    def _done(self, call: Call, value: Any) -> None:
        if isinstance(value, Exception):
            self.desk.say(f"{call.line()}: {value}", "bad")
        elif isinstance(value, dict) and "undo_until" in value:
            self.desk.say(job_words(value), "good")
        else:
            self.desk.say(f"done: {call.line()}", "good")
            if isinstance(value, dict | list) and value and len(self.calls) == 1 and self.shows:
                self.desk.present(call.line(), value)
        self.desk.refresh()


def together(calls: list[Call]) -> list[Call]:
    """One call for many things, where the verb takes them all at once: then it is one job, with one undoing."""
    verb, given = calls[0].verb, calls[0].given
    several = [arg["name"] for arg in verb["args"] if arg.get("repeated") and arg["name"] in given]
    if len(calls) == 1 or len(given) != 1 or len(several) != 1:
        return calls
    return [Call(verb, {several[0]: [call.given[several[0]] for call in calls]})]


def job_words(job: dict[str, Any]) -> str:
    """How a job stands after a moment, and how it is taken back."""
    busy = f", {count(job['under_way'])} under way" if job.get("under_way") else ""
    number, action, done = job.get("job"), job.get("action"), count(job.get("done"))
    if job.get("state") == "running":
        return f"job {number}, {action}: {done} done, it goes on: see Jobs"
    undo = f"; :job undo {number} takes it back" if job.get("undo_until") else ""
    return f"job {number}, {action}: {job.get('state')}, {done} done{busy}{undo}"


def effect(found: list[Any]) -> str:
    """What trials say that would be done, in a few words."""
    sums: dict[str, float] = {}
    names: dict[str, list[str]] = {}
    faults = [visible(str(value)) for value in found if isinstance(value, Exception)]
    for value in found:
        for key, item in value.items() if isinstance(value, dict) else ():
            if isinstance(item, int | float) and not isinstance(item, bool):
                sums[key] = sums.get(key, 0) + item
            elif isinstance(item, list) and item and all(isinstance(one, str) for one in item):
                names.setdefault(key, []).extend(item)
    order = sorted(sums, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    told = [f"{key.replace('_', ' ')} {count(sums[key])}" for key in order if sums[key]]
    told += [f"{key.replace('_', ' ')}: {visible(', '.join(dict.fromkeys(names[key])), 100)}" for key in names]
    return "; ".join([", ".join(told) or ("nothing" if sums else "it can be done"), *faults[:1]])


def _has(verb: Verb, name: str) -> bool:
    return any(arg["name"] == name for arg in verb["args"])


def _arg(verb: Verb, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next((arg for arg in verb["args"] if arg["name"] == name), {})
    return found
