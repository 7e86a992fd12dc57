"""relayctl: the control API at a shell prompt.  Its commands, options and help derive from the table of verbs, and from
that of what it does by itself (``local``).

Exit codes: 0 done; 1 refused, unreachable, unwell or an audit that is not clean; 2 a command that cannot be understood.
Whatever relayd says goes through ``printable``: text of remote servers ends up in it.
"""

import argparse
import json
import os
import sys
import time
import zlib
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

from relayd import completion
from relayd.control import sheet
from relayd.control.verb import MAX_BODY, REASON, Arg, Verb, arguments
from relayd.control.verbs import BY_PATH, VERBS
from relayd.errors import InputError
from relayd.local import LOCAL
from relayd.notation import show_duration
from relayd.reply import printable
from relayd.ways import Unreachable, Way, ask, network

DEFAULT_CONFIG = "/etc/relayd/relayd.toml"
_WIDEST = 60
_PIECE = MAX_BODY // 2  # bytes of a file's rows that are sent at a time
_AGAIN = 0.3  # seconds between questions of what is followed
_FAULTS = 10  # of its rows that are told when they are refused

_OVER_SSH = "RELAYD_SSH"  # set by ``ssh.child``

Row = tuple[int, dict[str, str]]  # of a file, with its line number
ITSELF = (
    *LOCAL,
    Verb(
        name="completion",
        help="a script by which a shell completes what is typed after relayctl",
        handler=lambda shell: _completion(shell),
        args=(Arg("shell", "which", positional=True, required=True, choices=completion.SHELLS),),
        example="completion bash",
    ),
)
COMMANDS = (*VERBS, *(row for row in ITSELF if row.path not in BY_PATH))


def _completion(shell: str) -> str:
    return completion.script(shell, COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    verb: Verb = options.verb
    rows = next((arg.name for arg in verb.args if arg.kind == "row"), "")
    local: Verb | None = options.local
    try:
        _keep_to_session(options)
        if local is not None and (local is verb or options.files):
            _refuse_files(f"relayctl {verb.name}")
            return _here(options, local)
        way, given = _way(options), _given(options, verb)
        if rows:
            return _told(options, verb, *_sent(way, verb, given, rows))
        if verb.columns and not options.json:
            return _written(options, verb, way, given)
        if verb.file and not options.json:
            return _fetched(options, verb, way, given)
        if verb.follow and not options.json:
            return _followed(options, verb, way, given)
        return _told(options, verb, *_answer(way, verb, given))
    except Unreachable as fault:
        print(f"relayctl: {printable(str(fault))}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads our output has read enough: `relayctl ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _keep_to_session(options: argparse.Namespace) -> None:
    """For somebody who came over SSH there is the socket of that session, and no other.  Raises Unreachable."""
    if _OVER_SSH in os.environ and (options.control or options.config):
        raise Unreachable("over SSH relayctl asks the relay that you came to: leave --control and --config out")


def _refuse_files(what: str) -> None:
    """Whoever came over SSH may not have files read with the rights of relayd's own user.  Raises Unreachable."""
    if _OVER_SSH in os.environ:
        raise Unreachable(
            f"{what}: no files are read over SSH: write - and send yours as standard input (ssh ... < FILE)"
        )


def _here(options: argparse.Namespace, local: Verb) -> int:
    """Does what needs no relay; gives the exit code.  Of several values each is a line of JSON, as it comes."""
    try:
        value = local.handler(**arguments(local, _given(options, local)))
        if isinstance(value, str):
            sys.stdout.write(value)  # a script, of our own words
            return 0
        if not isinstance(value, Iterator):
            return _told(options, local, 200, value)
        for one in value:
            print(json.dumps(one))  # in ASCII, so that no byte of it means anything to a terminal
        sys.stdout.flush()
        return 0
    except InputError as error:
        return _told(options, local, 400, {"error": error.text, "field": error.field})
    except UnicodeError as error:
        return _told(options, local, 400, {"error": f"is not text in UTF-8: {error}"})


def _told(options: argparse.Namespace, verb: Verb, status: int, value: Any) -> int:
    """Prints an answer; gives the exit code."""
    well = status == 200 and (not verb.verdict or bool(isinstance(value, dict) and value.get(verb.verdict)))
    if verb.items and status == 200:
        for item in value[verb.items]:
            print(json.dumps(item) if options.json else _line(item))
        if value["note"]:
            print(f"relayctl: {printable(value['note'])}", file=sys.stderr)
    elif options.json:
        # Made anew in ASCII, so that no byte of it means anything to a terminal.
        print(json.dumps(value))
    elif isinstance(value, dict) and "error" in value and status != verb.unwell:
        where = f"{value['field']}: " if value.get("field") else ""
        print(f"relayctl: {printable(where + str(value['error']), 8192)}", file=sys.stderr)
    else:
        print("\n".join(verb.prints(value) if verb.prints else rendered(value)))
    sys.stdout.flush()
    return 0 if well else 1


def _written(options: argparse.Namespace, verb: Verb, way: Way, given: dict[str, Any]) -> int:
    """Prints the rows of an answer, and of all that follow it, as CSV; gives the exit code."""
    head = True
    while True:
        status, value = _answer(way, verb, given)
        if status != 200:
            return _told(options, verb, status, value)
        sheet.write(value["rows"], verb.columns, sys.stdout, head=head)
        head, given = False, given | {"after": value["next"]}
        if not value["next"]:
            sys.stdout.flush()
            return 0


def _fetched(options: argparse.Namespace, verb: Verb, way: Way, given: dict[str, Any]) -> int:
    """Writes a file, piece by piece, to where it is wanted; gives the exit code."""
    status, value = _answer(way, verb, given)  # what is refused leaves a file alone that is there
    if status != 200:
        return _told(options, verb, status, value)
    packed = str(options.output or "").endswith(".gz")
    unpack = zlib.decompressobj(wbits=31)
    shown = not options.output and sys.stdout.isatty()
    try:
        with nullcontext(sys.stdout.buffer) if not options.output else open(options.output, "wb") as out:
            while True:
                data = b64decode(value["data"])
                data = data if packed else unpack.decompress(data)
                out.write(printable(data, len(data)).encode() if shown else data)
                if value["next"] is None:
                    out.flush()
                    return 0
                status, value = _answer(way, verb, given | {"after": value["next"]})
                if status != 200:
                    return _told(options, verb, status, value)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise Unreachable(f"{options.output or 'stdout'} cannot be written: {error.strerror}") from None


def _followed(options: argparse.Namespace, verb: Verb, way: Way, given: dict[str, Any]) -> int:
    """Prints lines as they come, until there will be no more or somebody has seen enough; gives the exit code."""
    with suppress(KeyboardInterrupt):
        while True:
            status, value = _answer(way, verb, given)
            if status != 200:
                return _told(options, verb, status, value)
            for line in value["lines"]:
                at = time.strftime("%H:%M:%S", time.localtime(line["time"])) + f"{line['time'] % 1:.3f}"[1:]
                who = f"{line['who']}: " if line["who"] else ""
                print(printable(f"{at} {line['session']:6} {who}{line['text']}", 2048))
            sys.stdout.flush()
            if value["over"]:
                return 0
            given = given | {"after": value["next"]}
            if not value["lines"]:
                time.sleep(_AGAIN)
    return 0


def _sent(way: Way, verb: Verb, given: dict[str, Any], rows: str) -> tuple[int, Any]:
    """Sends the rows of a file, piece by piece, until one is refused; status and sum of the answers."""
    file, total, done = given.pop(rows), dict[str, Any](), ""
    try:
        for piece in _pieces(_read_rows(file, verb.columns)):
            status, value = _answer(way, verb, given | {rows: [row for _, row in piece]})
            if status != 200:
                return status, value | {"error": value["error"] + done}
            value["faults"] = [{"line": piece[one.pop("row")][0], **one} for one in value["faults"]]
            total = _sum(total, value)
            done = f" (up to line {piece[-1][0]} all is done)"
    except (Unreachable, OSError, ValueError) as error:
        raise Unreachable(f"{file}: {error}{done}") from None
    if not total:
        raise Unreachable(f"{file} has no rows")
    return 200, total


def _read_rows(file: str, columns: Sequence[str]) -> Iterator[Row]:
    if file == "-":
        yield from sheet.read(sys.stdin, columns)
        return
    _refuse_files(file)
    with open(file, encoding="utf-8", newline="") as lines:
        yield from sheet.read(lines, columns)


def _pieces(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """As many rows together as fit into a request."""
    piece: list[Row] = []
    room = _PIECE
    for line, row in rows:
        size = len(json.dumps(row)) + 2
        if piece and size > room:
            yield piece
            piece, room = [], _PIECE
        piece.append((line, row))
        room -= size
    if piece:
        yield piece


def _sum(total: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """Numbers added up, verdicts that all share, the first of the faults."""
    added = dict(value)
    for name, had in total.items():
        if isinstance(had, bool):
            added[name] = had and value[name]
        elif isinstance(had, list):
            added[name] = (had + value[name])[:_FAULTS]
        else:
            added[name] = had + value[name]
    return added


@cache
def parser() -> argparse.ArgumentParser:
    """The command line: one command for each verb, "connection add" as a command of a command."""
    about = "Watch and steer a running relayd."
    top = argparse.ArgumentParser("relayctl", description=about, epilog=_overview(), **_FORMAT)
    where = top.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help=f"the file that names the socket (default {DEFAULT_CONFIG})")
    where.add_argument("--control", metavar="SOCKET", help="the control socket (default $RELAYD_CONTROL)")
    where.add_argument("--api", metavar="URL", help="or the API over the network, https://HOST:PORT ($RELAYD_API)")
    token = 'what proves who you are there: the first line of this file, "-" is stdin ($RELAYD_TOKEN)'
    top.add_argument("--token-file", metavar="FILE", help=token)
    top.add_argument("--ca", metavar="FILE", default="", help="whom to trust there, in PEM; without it, as the system")
    top.add_argument("--json", action="store_true", help="print the answer as relayd gave it")
    nouns = top.add_subparsers(required=True, metavar="VERB")
    groups: dict[str, Any] = {}
    by_itself = {row.name: row for row in ITSELF}
    for verb in COMMANDS:
        first, _, second = verb.name.partition(" ")
        if second and first not in groups:
            several = ", ".join(v.name.split(" ")[1] for v in COMMANDS if v.name.startswith(first + " "))
            group = nouns.add_parser(first, help=several, **_FORMAT)
            groups[first] = group.add_subparsers(required=True, metavar="VERB")
        within = groups[first] if second else nouns
        local = by_itself.get(verb.name)
        examples = "".join(f"\n  relayctl {text}" for text in dict.fromkeys([verb.example, (local or verb).example]))
        words: dict[str, Any] = {"description": _sentence(verb.help), "epilog": f"example:{examples}"}
        command = within.add_parser(second or first, help=verb.help, **words, **_FORMAT)
        command.set_defaults(verb=verb, local=local)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for arg in (local or verb).args:
            _add(command, arg, here=local is not None)
        if verb.file:
            command.add_argument("--output", metavar="FILE", help="write it here, as it is if the name ends in .gz")
    return top


_FORMAT: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}


def _overview() -> str:
    width = max(len(verb.name) for verb in COMMANDS)
    return "verbs:\n" + "\n".join(f"  {verb.name:{width}}  {verb.help}" for verb in COMMANDS)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _add(command: argparse.ArgumentParser, arg: Arg, *, here: bool) -> None:
    more: dict[str, Any] = {"help": arg.help.replace("%", "%%")}
    if arg.choices:
        more |= {"choices": arg.choices, "default": arg.default}
    if arg.kind == "row":
        command.add_argument(arg.name, metavar="FILE", **more)
        return
    if arg.positional:
        if arg.repeated and not here:
            more["help"] += '; "-": the first word of each line of standard input'
        several, one = ("+", None) if arg.required else ("*", "?")
        command.add_argument(arg.name, nargs=several if arg.repeated else one, **more)
        return
    flag = "--" + arg.name.replace("_", "-")
    if arg.kind == "secret":
        # A password on the command line is everybody's to read in the list of processes.
        flag += "-file"
        more |= {"help": f'{arg.help}: the first line of this file, "-" is stdin', "metavar": "FILE"}
    elif arg.kind == "pem":
        flag += "-file"
        more |= {"help": f'{arg.help}: this file, "-" is stdin', "metavar": "FILE"}
    elif arg.kind == "text":
        more["metavar"] = "FILE"
    elif arg.kind == "bool":
        more["action"] = argparse.BooleanOptionalAction
    if arg.repeated:
        more["action"], more["help"] = "append", more["help"] + " (may be repeated)"
    if arg.name != REASON.name:  # that relayd asks for, unless it is a dry run
        more["required"] = arg.required
    command.add_argument(flag, dest=arg.name, **more)


def _given(options: argparse.Namespace, verb: Verb) -> dict[str, Any]:
    given = {arg.name: getattr(options, arg.name) for arg in verb.args}
    for arg in verb.args:
        if arg.kind == "secret" and given[arg.name] is not None:
            given[arg.name] = _read(given[arg.name]).partition("\n")[0].rstrip("\r")
        elif arg.kind in ("pem", "text") and given[arg.name] is not None:
            found = given[arg.name]
            given[arg.name] = list(map(_read, found)) if arg.repeated else _read(found)
        elif arg.positional and arg.repeated and _from_stdin(options, arg) and "-" in (given[arg.name] or ()):
            # What another command has found: the first word of each line.
            given[arg.name] = [
                word
                for value in given[arg.name]
                for word in ((line.split()[0] for line in sys.stdin if line.strip()) if value == "-" else [value])
            ]
            if not given[arg.name]:
                raise Unreachable(f"standard input names no {arg.name}: nothing is done")
    return {name: value for name, value in given.items() if value is not None}


def _from_stdin(options: argparse.Namespace, arg: Arg) -> bool:
    """Whether "-" stands for values; of files it stands for what is in one."""
    return options.local is None and arg.kind not in ("row", "text")


def _read(file: str) -> str:
    if file != "-":
        _refuse_files(file)
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unreachable(f"{file} cannot be read: {error}") from None


def _way(options: argparse.Namespace) -> Way:
    """What was named, else what the environment names, else the socket in the configuration.  Raises Unreachable."""
    unnamed = not (options.control or options.config)
    if url := options.api or (os.environ.get("RELAYD_API") if unnamed else ""):
        file = options.token_file
        token = _read(file).partition("\n")[0] if file else os.environ.get("RELAYD_TOKEN", "")
        return network(url, token, options.ca)
    if options.token_file or options.ca:
        raise Unreachable("--token-file and --ca go with --api URL")
    if named := options.control or (os.environ.get("RELAYD_CONTROL") if unnamed else ""):
        return str(named)
    # Only now: the configuration room loads what a mere client rarely needs.
    from relayd.config import ConfigError, control_path

    try:
        return control_path(options.config or DEFAULT_CONFIG)
    except ConfigError as error:
        advice = "name the configuration with --config, the socket with --control, or an API with --api"
        raise Unreachable(f"{error}\n{advice}") from None


def _answer(way: Way, verb: Verb, given: dict[str, Any]) -> tuple[int, Any]:
    """Status and value of the API's answer.  Raises Unreachable."""
    status, raw = ask(way, verb, given)
    try:
        return status, json.loads(raw)
    except ValueError:
        raise Unreachable(f"{way}: not an answer of relayd's: {raw[:200]!r}") from None


def rendered(value: Any, indent: str = "") -> list[str]:
    """A JSON value as lines: objects as "key  value", lists of objects as tables."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [indent + line for line in _table(value)]
    if isinstance(value, list):
        return [indent + _cell("", item) for item in value] or [indent + "none"]
    if not isinstance(value, dict):
        return [indent + _cell("", value)]
    width = max((len(printable(key)) for key in value), default=0)
    lines = []
    for key, item in value.items():
        label = indent + printable(key).ljust(width)
        if isinstance(item, dict | list) and not _flat(item):
            lines += [label.rstrip() + ":", *rendered(item, indent + "  ")]
        else:
            lines.append(f"{label}  {_cell(key, item)}".rstrip())
    return lines


def _line(item: dict[str, Any]) -> str:
    """An object in a line: when and what first, then the rest by name."""
    head = [_cell(name, item[name], 100) for name in ("time", "event") if name in item]
    rest = {name: value for name, value in item.items() if name not in ("time", "event", "v", "node")}
    return " ".join([*head, _cell("", rest, 1 << 20)])


def _flat(item: dict[str, Any] | list[Any]) -> bool:
    """Whether it has room in one line; of several long texts each has its own."""
    if not item or isinstance(item, dict) or any(isinstance(entry, dict) for entry in item):
        return not item
    return len(item) == 1 or len(_cell("", item)) <= _WIDEST


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Without the columns in which no row has anything."""
    named = dict.fromkeys(key for row in rows for key in row)
    columns = [key for key in named if any(row.get(key) not in _NOTHING for row in rows)] or list(named)
    cells = [[printable(name).upper() for name in columns]]
    # The last column has room to the end of the line: there stands what is long, such as a server's words.
    limits = [*[_WIDEST] * (len(columns) - 1), 1024]
    cells += [[_cell(name, row.get(name), limit) for name, limit in zip(columns, limits, strict=True)] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


_MOMENTS = frozenset(
    {"added", "created", "started", "due", "received", "time", "expires", "until", "returns_until", "since", "checked"}
    | {
        "told",
        "ended",
        "undo_until",
        "last_used",
        "at",
        "made",
        "done",
        "previous_until",
        "last_success",
        "last_failure",
        "next_try",
    }
)
_NOTHING: tuple[object, ...] = (None, "", [], {})
_EPOCH = 1e9  # less is a count that bears the same name


def _cell(key: str, item: Any, limit: int = 1024) -> str:
    number = isinstance(item, int | float) and not isinstance(item, bool)
    if number and key in _MOMENTS and item > _EPOCH:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(item))
    if number and key in ("uptime", "age", "behind"):
        return show_duration(item)
    if item in _NOTHING:
        return "-"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, dict):
        text = " ".join(f"{name}={_word(name, value)}" for name, value in item.items())
    elif isinstance(item, list):
        text = ", ".join(":".join(map(str, entry)) if isinstance(entry, list) else str(entry) for entry in item)
    else:
        text = str(item)
    return printable(text, limit).replace("\n", " / ").replace("\t", " ")


def _word(key: str, item: Any) -> str:
    """A value within an object, such that it is seen where it ends."""
    if isinstance(item, dict) and item:
        return "{" + _cell(key, item) + "}"
    text = ",".join(map(str, item)) if isinstance(item, list) and item else _cell(key, item)
    return json.dumps(text, ensure_ascii=False) if " " in text else text


if __name__ == "__main__":
    sys.exit(main())
