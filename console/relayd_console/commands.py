"""Commands: a line as relayctl takes it, by the table of verbs that relayd itself gives.

In: the table (``/v1/verbs``) and a line.  Out: a verb with its arguments, or what is wrong with the line; and what the
line may go on with.
"""

import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

Verb = dict[str, Any]
DRY = "dry_run"
_FILES = ("secret", "pem", "text", "row")  # arguments that are read from files
_LONGEST = 32 * 1024  # bytes of one: the rest of a request needs room too


class Mistake(Exception):
    """The line cannot be done; the text says why."""


class Call(NamedTuple):
    """A verb and what it is given."""

    verb: Verb
    given: dict[str, Any]

    @property
    def changes(self) -> bool:
        return bool(self.verb["effect"] == "change")

    @property
    def posts(self) -> bool:
        return bool(self.verb["method"] == "POST")

    @property
    def tries(self) -> bool:
        """Whether it is a dry run, which changes nothing."""
        return self.changes and str(self.given.get(DRY)).lower() == "true"

    def line(self) -> str:
        """The line that relayctl would take."""
        bare: list[str] = []
        options: list[str] = []
        for arg in self.verb["args"]:
            value = self.given.get(arg["name"])
            name = arg["name"].replace("_", "-")
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                text = str(one)
                if arg.get("kind") in ("secret", "pem", "text"):
                    options.append(f"--{name} (a file)")
                elif arg.get("positional"):
                    bare.append(text)
                elif arg.get("kind") == "bool":
                    options.append(f"--{name}" if text.lower() == "true" else f"--no-{name}")
                elif text.startswith("-"):  # it is no option
                    options.append(f"--{name}={shlex.quote(text)}")
                else:
                    options += [f"--{name}", shlex.quote(text)]
        quoted = list(map(shlex.quote, bare))
        if any(text.startswith("-") for text in bare):
            return " ".join([self.verb["name"], *options, "--", *quoted])
        return " ".join([self.verb["name"], *quoted, *options])


def parse(line: str, verbs: Iterable[Verb], *, files: bool = False) -> Call:
    """What a verb that changes something still lacks is the caller's to ask for; ``files``: whether files that the line
    names are read.  Raises Mistake."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise Mistake(f"the line cannot be read: {str(error).lower()}") from None
    verb, rest = _verb(words, verbs)
    if verb is None:
        raise Mistake(f"there is no verb {' '.join(words[:2])!r}: tab shows what there is")
    args = {arg["name"].replace("_", "-"): arg for arg in verb["args"]}
    args |= {f"{name}-file": arg for name, arg in args.items() if arg.get("kind") in ("secret", "pem")}  # as relayctl
    bare = [arg for arg in verb["args"] if arg.get("positional")]
    given: dict[str, Any] = {}
    plain = False  # nothing is an option any more
    while rest:
        word = rest.pop(0)
        if word == "--" and not plain:
            plain = True
            continue
        if word.startswith("--") and not plain:
            name, equals, value = word[2:].partition("=")
            arg, meant = args.get(name), "true"
            if arg is None and (arg := args.get(name.removeprefix("no-"))) is not None:
                meant = "false"
            if arg is None or (meant == "false" and arg.get("kind") != "bool"):
                raise Mistake(f"{verb['name']} has no --{name}")
            if arg.get("kind") == "bool":
                value = value or meant
            elif not equals:
                if not rest:
                    raise Mistake(f"--{name} wants a value")
                value = rest.pop(0)
        else:
            arg = next((one for one in bare if one.get("repeated") or one["name"] not in given), None)
            if arg is None:
                raise Mistake(f"{verb['name']} takes no {word!r}")
            value = word
        if arg.get("kind") in _FILES:
            value = _read(value, verb["name"], arg, files=files)
        if arg.get("repeated"):
            given.setdefault(arg["name"], []).append(value)
        else:
            given[arg["name"]] = value
    wanted = [arg for arg in verb["args"] if arg.get("required") and arg["name"] not in given]
    for arg in (arg for arg in wanted if arg.get("kind") in _FILES):
        raise Mistake(f"{arg['name']} is read from a file: relayctl {verb['name']} does that")
    missing = [arg["name"] for arg in wanted]
    if missing and verb["effect"] == "read":
        raise Mistake(f"{verb['name']} wants {', '.join(missing)}")
    return Call(verb, given)


def _read(path: str, verb: str, arg: dict[str, Any], *, files: bool) -> str:
    """What is in a file.  Raises Mistake."""
    if not files or arg["kind"] == "row":
        raise Mistake(f"{arg['name']} is read from a file: relayctl {verb} does that")
    try:
        with open(path, "rb") as file:
            text = file.read(_LONGEST + 1).decode()
    except (OSError, ValueError) as error:
        raise Mistake(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(text) > _LONGEST:
        raise Mistake(f"{path} is longer than {_LONGEST} bytes: relayctl {verb} takes it")
    return text.partition("\n")[0].rstrip("\r") if arg["kind"] == "secret" else text


def completions(line: str, verbs: Iterable[Verb], more: Iterable[str] = ()) -> list[str]:
    """What the last word of the line may become, as whole lines; ``more``: words that are lines by themselves."""
    verbs = list(verbs)
    words = line.split(" ")
    verb, rest = _verb([word for word in words if word], verbs)
    if verb is not None and (rest or line.endswith(" ")):
        last = words[-1]
        kept = line[: len(line) - len(last)]
        names = [f"--{arg['name'].replace('_', '-')}" for arg in verb["args"] if not arg.get("positional")]
        if len(words) > 1 and words[-2].startswith("--"):
            arg = next((a for a in verb["args"] if f"--{a['name'].replace('_', '-')}" == words[-2]), None)
            choices = [str(choice) for choice in (arg or {}).get("choices", ())]
            if choices:
                return [kept + choice + " " for choice in choices if choice.startswith(last)]
        taken = set(words[:-1])
        return [kept + name + " " for name in names if name.startswith(last) and name not in taken]
    found = [f"{verb['name']} " for verb in verbs if verb["name"].startswith(line)]
    return sorted([*found, *(word for word in more if word.startswith(line))])


def _verb(words: list[str], verbs: Iterable[Verb]) -> tuple[Verb | None, list[str]]:
    """The verb with which the words begin, the longest name first."""
    named = {verb["name"]: verb for verb in verbs}
    for n in range(min(3, len(words)), 0, -1):
        verb = named.get(" ".join(words[:n]))
        if verb is not None:
            return verb, words[n:]
    return None, words
