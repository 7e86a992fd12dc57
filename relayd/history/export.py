"""The events of a time as a file: JSON lines, or a table for a spreadsheet.

In: what is wanted, and where the records are.  Out: lines, oldest first, and word of how far it is.  All records of the
time are read, whosoever they are: so nothing is missing because an index is.
"""

import csv
import io
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from relayd.events import Attempt, Event, Name, encode, events, place
from relayd.records import Feedback, decode
from relayd.reply import printable
from relayd.spool.segments import read_span, spans

Format = Literal["csv", "jsonl"]
_NESTED: dict[str, Any] = {"attempt": Attempt, "feedback": Feedback}
_FORMULA = re.compile(r"'*[=+@\t\r-]")  # as a spreadsheet takes it; any number of ' before it, so that it can be undone
_LONGEST = 1 << 20  # characters of a cell


class Wanted(msgspec.Struct, frozen=True):
    """``since`` up to before ``until`` in unix seconds; "" and () are all."""

    since: float
    until: float
    format: Format
    account: str = ""
    connection: str = ""
    events: tuple[Name, ...] = ()


class Progress(msgspec.Struct, frozen=True):
    """``done`` bytes of records ``of`` all that are read, and the events that were written; ``oldest``: where the
    records begin if that is behind the beginning of the time that is wanted, else 0.0."""

    done: int = 0
    of: int = 0
    events: int = 0
    oldest: float = 0.0


class Out(Protocol):
    def write(self, data: bytes, /) -> int: ...


def export(db: sqlite3.Connection, records: Path, wanted: Wanted, node: str, out: Out) -> Iterator[Progress]:
    """Writes; gives how far it is after every block.  Raises OSError, sqlite3.Error."""
    line = _jsonl if wanted.format == "jsonl" else _Table()
    found = spans(db, records, wanted.since, wanted.until)
    whole = sum(span.end - span.start for span in found)
    begun = done = count = 0
    oldest = 0.0
    if wanted.format == "csv":
        out.write(_Table().row(COLUMNS))
    for span in found:
        at = span.start
        while at < span.end:
            data = read_span(records, span, at)
            for text in data.splitlines(keepends=True):
                offset, at = at, at + len(text)
                if not begun:
                    begun, oldest = 1, _oldest(text, wanted.since)
                if wanted.account and b'"account":"%s"' % wanted.account.encode() not in text:
                    continue
                for event in _events(text, place(span.segment, offset), wanted, node):
                    out.write(line(event))
                    count += 1
            done += len(data)
            yield Progress(min(done, whole), whole, count, oldest)
    yield Progress(whole, whole, count, oldest)


def _oldest(line: bytes, since: float) -> float:
    time = decode(line).time
    return time if time > since else 0.0


def _events(line: bytes, at: str, wanted: Wanted, node: str) -> Iterator[Event]:
    record = decode(line)
    if wanted.since <= record.time < wanted.until:
        for event in events(record, at, node):
            if (
                wanted.account in ("", event.account)
                and wanted.connection in ("", event.connection)
                and (not wanted.events or event.event in wanted.events)
            ):
                yield event


def _jsonl(event: Event) -> bytes:
    return encode(event) + b"\n"


def _columns() -> tuple[str, ...]:
    names: list[str] = []
    for field in msgspec.structs.fields(Event):
        nested = _NESTED.get(field.name)
        inner = msgspec.structs.fields(nested) if nested else ()
        names += [f"{field.name}_{one.encode_name}" for one in inner] or [field.encode_name]
    return tuple(names)


COLUMNS = _columns()


class _Table:
    """Rows of CSV (RFC 4180)."""

    def __init__(self) -> None:
        self._out = io.StringIO()
        self._writer = csv.writer(self._out, lineterminator="\r\n")

    def __call__(self, event: Event) -> bytes:
        cells: list[str] = []
        for name in event.__struct_fields__:
            value = getattr(event, name)
            if nested := _NESTED.get(name):
                inner = nested.__struct_fields__
                cells += [_cell(getattr(value, field)) for field in inner] if value is not None else [""] * len(inner)
            else:
                cells.append(_cell(value))
        return self.row(cells)

    def row(self, cells: "tuple[str, ...] | list[str]") -> bytes:
        self._writer.writerow(cells)
        made = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return made.encode()


def _cell(value: object) -> str:
    if value in ("", 0, 0.0, (), {}, False):
        return ""
    if value is True:
        return "true"
    if isinstance(value, tuple | dict):
        value = msgspec.json.encode(value).decode()
    text = str(value)
    if not text.isprintable() or len(text) > _LONGEST:
        text = printable(text, _LONGEST)
    return f"'{text}" if _FORMULA.match(text) else text
