"""Facts: the few fields of a record that are counted and looked for, an event each.

In: record lines.  Out: one fact for each event that ``relayd.events`` makes of them, with its position.  Only these
fields are decoded: it is done for every record that there is.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from relayd.events import NAMES, Name, name_of
from relayd.records import RecordKind

NUMBER: dict[Name, int] = {name: number for number, name in enumerate(NAMES)}  # as indexes keep it: only append
MANY = 16  # bits of a position for which of a record's events it is


class _Seen(msgspec.Struct, frozen=True, gc=False):
    cls: str = msgspec.field(default="", name="class")
    site: str = ""
    source: str = ""


class _Report(msgspec.Struct, frozen=True, gc=False):
    report: str = ""


class _Line(msgspec.Struct, frozen=True):
    kind: RecordKind
    time: float
    message: str = ""
    delivery: str = ""
    account: str = ""
    connection: str = ""
    stream: str = ""
    recipient: str = ""
    recipients: tuple[str, ...] = ()
    track_id: str = ""
    received: float = 0.0
    evidence: _Seen | None = None
    feedback: _Report | None = None


class Fact(NamedTuple):
    """One event.  ``position``: where its record's line begins in the segment, and which of its events it is
    (``offset << MANY | n``); ``delivery`` is 0 where it is of none; ``received`` 0.0 where it is not known; ``late``:
    told by what came back."""

    position: int
    event: Name
    time: float
    account: str
    connection: str
    stream: str
    recipient: str
    track_id: str
    delivery: int
    received: float
    cls: str
    site: str
    source: str
    late: bool = False


_decode = msgspec.json.Decoder(_Line).decode
_NOTHING = _Seen()


def facts(lines: Iterable[bytes], offset: int) -> Iterator[Fact]:
    """``offset``: where the first line begins.  Raises msgspec.DecodeError."""
    for text in lines:
        line = _decode(text)
        event = name_of(line.kind, line.feedback.report if line.feedback else "")
        position = offset << MANY
        offset += len(text)
        seen = line.evidence or _NOTHING
        if line.recipients and not line.delivery:
            first = int(line.message, 16) + 1 if line.message else 0
            for n, recipient in enumerate(line.recipients):
                yield Fact(
                    position | n, event, line.time, line.account, line.connection, line.stream, recipient,
                    line.track_id, first and first + n, line.received, seen.cls, seen.site, seen.source,
                )  # fmt: skip
        else:
            delivery = int(line.delivery, 16) if line.delivery else 0
            yield Fact(
                position, event, line.time, line.account, line.connection, line.stream, line.recipient,
                line.track_id, delivery, line.received, seen.cls, seen.site, seen.source, line.feedback is not None,
            )  # fmt: skip
