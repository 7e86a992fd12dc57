"""Looking for words in the records: an id, an address, some words of a reply.

In: what is looked for, and where the records are.  Out: events, the newest first.  An id and a whole address are found
by the index; anything else by reading, from the end backwards, so that whoever stops has seen the newest.
"""

import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import msgspec

from relayd.address import domain_of
from relayd.events import Attempt, Event, Name, Reason, encode, events, place
from relayd.history.find import Query, find
from relayd.records import Feedback, decode
from relayd.spool.segments import Span, spans

_BLOCK = 1 << 20  # bytes at a time
_RECIPIENTS = 1000  # of a message: their ids follow its own
_PLACE = re.compile(r"(\d{10})-([0-9a-f]{1,12})(?:-\d{1,5})?")
_ID = re.compile(r"[0-9a-f]{16}")
_ADDRESS = re.compile(r"[^@\s\"\\]+@[^@\s\"\\]+\.[^@\s\"\\]+")

# What is in an event and not in its record: names, and what is made of numbers.
_FIELDS = (field.encode_name for kind in (Event, Attempt, Feedback) for field in msgspec.structs.fields(kind))
_MADE = " ".join((*get_args(Name), *get_args(Reason), "true", *_FIELDS))
_NUMBERS = re.compile(r"[0-9a-ftz:.-]+")


class Wanted(msgspec.Struct, frozen=True):
    """``pattern`` is a text, in any case, or with ``regex`` an expression, and looked for in the events as JSON; "" and
    () are all, 0.0 no bound.  ``full``: read everything, whatever the index says."""

    pattern: str
    regex: bool = False
    account: str = ""
    connection: str = ""
    events: tuple[Name, ...] = ()
    since: float = 0.0
    until: float = 0.0
    full: bool = False


def grep(
    db: sqlite3.Connection, records: Path, wanted: Wanted, node: str, at: Callable[[float], None]
) -> Iterator[bytes]:
    """The events, encoded.  ``at(time)`` is called now and then, with the time of what is being read; it may raise to
    end this.  Raises OSError, sqlite3.Error, re.error."""
    if not (wanted.regex or wanted.full):
        found = None
        for found in _known(db, records, wanted, node):
            yield found
        if found is not None:
            return
    match = _matcher(wanted)
    plain = b"" if wanted.regex or _is_made(wanted.pattern, node) else _escaped(wanted.pattern)
    for span in reversed(spans(db, records, wanted.since, wanted.until)):
        for start, block in _backwards(records, span):
            for offset, line in _lines(block, plain):
                if b'"account":"%s"' % wanted.account.encode() not in line and wanted.account:
                    continue
                record = decode(line)
                at(record.time)
                for event in reversed(list(events(record, place(span.segment, start + offset), node))):
                    if _fits(wanted, event, record.time) and match(data := encode(event)):
                        yield data
            at(0.0)


def _known(db: sqlite3.Connection, records: Path, wanted: Wanted, node: str) -> Iterator[bytes]:
    """By the place that an event's id names, or by the index; nothing if that is no way to look for it."""
    text = wanted.pattern.lower()
    if found := _PLACE.fullmatch(text):
        yield from _at(db, records, wanted, node, f"{found[1]}.jsonl", int(found[2], 16))
    elif _ID.fullmatch(text):
        id = int(text, 16)
        yield from _indexed(records, wanted, node, deliveries=tuple(range(id, id + _RECIPIENTS + 1)))
    elif _ADDRESS.fullmatch(text) and domain_of(text):
        yield from _indexed(records, wanted, node, recipient=text)


def _at(db: sqlite3.Connection, records: Path, wanted: Wanted, node: str, segment: str, offset: int) -> Iterator[bytes]:
    size = db.execute("SELECT bytes FROM segment WHERE name = ?", (segment,)).fetchone()
    if size is None or offset >= size[0]:
        return
    with open(records / segment, "rb") as file:
        file.seek(max(0, offset - 1))
        if offset and file.read(1) != b"\n":
            return
        record = decode(file.readline())
    for event in events(record, place(segment, offset), node):
        if wanted.pattern.lower() == event.id and _fits(wanted, event, record.time):
            yield encode(event)


def _indexed(
    records: Path, wanted: Wanted, node: str, *, deliveries: tuple[int, ...] = (), recipient: str = ""
) -> Iterator[bytes]:
    query = Query(
        accounts=(wanted.account,) if wanted.account else (),
        connection=wanted.connection,
        events=wanted.events,
        since=wanted.since,
        until=wanted.until,
        deliveries=deliveries,
        recipient=recipient,
    )
    match, before = _matcher(wanted), None
    while True:
        found = find(records, query, node, before=before)
        yield from filter(match, map(encode, found.events))
        if (before := found.next) is None:
            return


def _fits(wanted: Wanted, event: Event, time: float) -> bool:
    return (
        wanted.account in ("", event.account)
        and wanted.connection in ("", event.connection)
        and (not wanted.events or event.event in wanted.events)
        and wanted.since <= time
        and (not wanted.until or time < wanted.until)
    )


def _matcher(wanted: Wanted) -> Callable[[bytes], bool]:
    if wanted.regex:
        expression = re.compile(wanted.pattern, re.IGNORECASE)
        return lambda data: expression.search(data.decode()) is not None
    text = _escaped(wanted.pattern)
    return lambda data: text in data.lower()


def _escaped(text: str) -> bytes:
    """As it stands in JSON."""
    return msgspec.json.encode(text)[1:-1].lower()


def _is_made(pattern: str, node: str) -> bool:
    """Whether it may be found in an event though it is not in its record."""
    text = pattern.lower()
    return text in _MADE or text in node.lower() or _NUMBERS.fullmatch(text) is not None


def _lines(block: bytes, text: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a block that hold a text (lower case), and where each begins, the last first."""
    low, end = block.lower() if text else block, len(block)
    while end > 0:
        found = low.rfind(text, 0, end) if text else end - 1
        if found < 0:
            return
        start = block.rfind(b"\n", 0, found) + 1
        yield start, block[start : block.find(b"\n", found)]
        end = start


def _backwards(records: Path, span: Span) -> Iterator[tuple[int, bytes]]:
    """A span's blocks of whole lines, and where each begins, the last first."""
    with open(records / span.segment, "rb") as file:
        end = span.end
        while end > span.start:
            start, cut = end, 0
            while not cut:  # a line may be longer than a block
                start = max(span.start, start - _BLOCK)
                file.seek(start)
                data = file.read(end - start)
                cut = data.find(b"\n") + 1 if start > span.start else -1
                cut = 0 if cut == len(data) else cut
            data = data[max(cut, 0) :]
            end -= len(data)
            yield end, data
