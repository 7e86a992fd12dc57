"""What relayctl does by itself, on files and without a running relay: rows like those of the verbs, whose handlers take
no relay.  One that is called like a verb does that verb's work on the files that are named; without any, the relay is
asked.
"""

import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from relayd.classify import Classifier, load
from relayd.classify.explain import Row, answer, answers
from relayd.classify.rules import STAGES
from relayd.control.shaping import RULES
from relayd.control.verb import Arg, Verb
from relayd.directory.tokens import stored
from relayd.errors import InputError
from relayd.feedback import Clue, explain
from relayd.feedback.explain import Verify
from relayd.feedback.mime import MAX_SIZE
from relayd.notation import show_duration
from relayd.records import Record, decode
from relayd.reply import printable
from relayd.returnpath import Keys, Token, find, may_hold
from relayd.schema import schema
from relayd.shaping.replay import replay
from relayd.shaping.rules import Providers, Rule, Rules


def records(files: Iterable[str]) -> Iterator[Record]:
    """The records of files, "-" is stdin, as they come.  Raises InputError with file and line."""
    for file in files:
        try:
            with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        yield decode(line)
                    except msgspec.DecodeError as error:
                        raise InputError("files", f"{file}, line {number} is not a record: {error}") from None
        except OSError as error:
            raise InputError("files", f"{file} cannot be read: {error.strerror}") from None


def replayed(
    rules: list[str], found: Iterable[Record], providers: dict[str, Any], named: dict[str, Rule]
) -> dict[str, Any]:
    """What rules would have done to records: those of the texts, or those ``named`` if there is no text."""
    # Only now: the configuration room loads what a mere client rarely needs.
    from relayd import config

    if rules:
        files = [(f"rules[{number}]" if len(rules) > 1 else "rules", text) for number, text in enumerate(rules)]
        try:
            providers, named = config.load_rules(files, providers)
        except config.ConfigError as error:
            raise InputError("rules", str(error)) from None
    hosts = Providers({name: provider.match for name, provider in providers.items()})
    done = replay(Rules(named.values()), found, hosts.of)
    shown: dict[str, Any] = msgspec.to_builtins(done)
    shown["firings"] = [
        {"rule": effect["rule"], **firing} for effect in shown["rules"] for firing in effect.pop("firings")
    ]
    return shown


def _replay(rules: list[str], since: float | None, files: list[str]) -> dict[str, Any]:
    if not rules:
        raise InputError("rules", "is missing: with files of records, name at least one file of rules")
    start = time.time() - since if since else 0.0
    return replayed(rules, (record for record in records(files) if record.time >= start), {}, {})


def _classify(
    text: str | None,
    code: str | None,
    enhanced: str | None,
    provider: str | None,
    stage: str | None,
    rules: list[str],
    jsonl: bool | None,
) -> Any:
    classifier = Classifier(load(rules))
    if jsonl:
        return map(msgspec.to_builtins, answers(sys.stdin, classifier))
    return msgspec.to_builtins(answer(Row(code, enhanced, text, provider, stage), classifier))


def _explain(files: list[str], recipient: str | None, rules: list[str], keys: str | None) -> Iterator[dict[str, Any]]:
    """Each file in turn; of one that cannot be read, the rest is told first."""
    classifier = Classifier(load(rules))
    verify = _verifier(stored(keys) if keys else None)
    faults = []
    for file in files:
        try:
            with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as content:
                # As much as is read of it, and a byte more that shows if there is more.
                text = content.read(MAX_SIZE + 1)
            yield {"file": file, **explain(text, classifier.classify, verify, recipient or "")}
        except OSError as error:
            faults.append(f"{printable(file)} cannot be read: {error.strerror}")
    if faults:
        raise InputError("files", "; ".join(faults))


def _verifier(keys: Keys | None) -> Verify:
    """Says of the places where a token may be what is there."""

    def verify(clues: tuple[Clue, ...]) -> str:
        text = "\n".join(clue.value for clue in clues).encode()
        if keys is None:
            return "unchecked" if may_hold(text) else "none"
        found = find(text, keys, time.time())
        return "none" if found is None else "valid" if isinstance(found, Token) else found.value

    return verify


def _restore(directory: str, to: str, hold: bool) -> dict[str, Any]:
    # Only now: what makes backups is not needed by a mere client.
    from relayd.backup import BackupError, restore

    try:
        made = restore(Path(directory), Path(to), now=time.time(), hold=hold)
    except (BackupError, OSError, sqlite3.Error) as error:
        raise InputError("directory", str(error)) from None
    age = show_duration(max(0.0, time.time() - made.time))
    again = f"{made.queued} deliveries are queued as they were {age} ago: what went out since then goes out again"
    held = "nothing goes out before relayctl shaping resume --all" if hold else "hold them back with --hold"
    return {
        "node": made.node,
        "of": made.time,
        "files": len(made.files),
        "queued": made.queued,
        "held": hold,
        "mind": f"{again}; {held}" if made.queued else "nothing was queued",
        "next": f'set [node] spool = "{to}", let it belong to relayd\'s user, start relayd, then: relayctl audit',
    }


_RULES = Arg("rules", "a file of rules of classification of yours", repeated=True)

LOCAL: tuple[Verb, ...] = (
    Verb(
        name="restore",
        help="make a spool of a backup; no relayd may run on it yet",
        handler=_restore,
        args=(
            Arg("directory", "the backup", positional=True, required=True),
            Arg("to", "the spool to make: a directory that is empty or not there", required=True),
            Arg("hold", "nothing goes out before you say so", "bool", default=False),
        ),
        example="restore /var/backups/relayd/monday --to /var/spool/relayd --hold",
    ),
    Verb(
        name="classify",
        help="what a server's refusal is taken for, and by which rule",
        handler=_classify,
        args=(
            Arg("text", "the words of the reply", "words", positional=True),
            Arg("code", "the reply's code, 400 to 599"),
            Arg("enhanced", "its enhanced code"),
            Arg("provider", "the provider's name or MX host"),
            Arg("stage", "where in the session it came", choices=STAGES),
            _RULES,
            Arg("jsonl", "answer a line for each of stdin's: {code, enhanced, text, provider, stage, id}", "bool"),
        ),
        example="classify --code 550 --enhanced 5.7.1 --provider gmail 'this message is likely unsolicited mail'",
    ),
    Verb(
        name="feedback explain",
        help="what messages that came back are taken for: a JSON line for each",
        handler=_explain,
        args=(
            Arg("files", 'messages, "-" is stdin', positional=True, required=True, repeated=True),
            Arg("recipient", "whom they came to, if that is known"),
            _RULES,
            Arg("keys", "the directory.sqlite of the spool whose keys verify the tokens"),
        ),
        example="feedback explain bounce.eml",
    ),
    Verb(
        name="events schema",
        help="what an event looks like: the JSON schema",
        handler=lambda: iter([schema()]),
        example="events schema",
    ),
    Verb(
        name="shaping replay",
        help="what rules would have done to recorded replies",
        handler=_replay,
        args=(
            RULES,
            Arg("since", "how far back", "duration"),
            Arg(
                "files",
                "files of records, the oldest first: these are read, and no running relay is asked",
                positional=True,
                repeated=True,
            ),
        ),
        example="shaping replay --rules new.toml /var/spool/relayd/records/1797000000.jsonl",
    ),
)
