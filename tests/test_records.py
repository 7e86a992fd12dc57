from typing import get_args

import msgspec
import pytest

from relayd.outcome import Evidence
from relayd.records import IN_TERMS, OUT_TERMS, TERM_OF, Record, RecordKind, decode, encode
from relayd.reply import Reply


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    record = Record(
        "Bounce", 1.5, "0a", "0b", note="a\r\nb\u2028\x00", evidence=Evidence("rcpt", Reply(550, "", "a\nb"))
    )
    line = encode(record)
    assert line.endswith(b"\n")
    assert line.splitlines(keepends=True) == [line]
    assert decode(line) == record


def test_what_is_not_said_takes_no_room() -> None:
    assert encode(Record("Delivery", 2.0)) == b'{"kind":"Delivery","time":2.0}\n'


@pytest.mark.parametrize("line", [b"", b"{", b'{"kind":"Nonsense","time":1}', b'{"time":1}', b"[]"])
def test_a_spoilt_line_is_told(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(line)


def test_every_kind_adds_to_a_term_but_those_of_no_queued_delivery() -> None:
    events = {"DomainVerified", "DomainFailing", "OutOfBand", "Complaint", "Unsubscribe", "Notice", "Restoration"}
    assert set(get_args(RecordKind)) - set(TERM_OF) == events


def test_no_term_is_both_in_and_out() -> None:
    assert not set(IN_TERMS) & set(OUT_TERMS)


@pytest.mark.parametrize("kind", ["TransientFailure", "Unknown", "Rejection"])
def test_what_stays_or_never_came_leaves_no_queue(kind: RecordKind) -> None:
    assert TERM_OF[kind] not in OUT_TERMS


def test_records_of_before_there_were_classes_are_read():
    reply = b'{"code":550,"enhanced":"5.1.1","text":"no"}'
    old = b'{"kind":"Bounce","time":1.0,"evidence":{"stage":"rcpt","reply":%b}}\n' % reply
    assert decode(old).evidence.cls == ""
