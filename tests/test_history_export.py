"""Events of a time as a table or as lines."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.history import export as room
from relayd.history.export import COLUMNS, Progress, Wanted, export
from relayd.records import Record
from relayd.spool import segments
from tests.records_kit import NODE, Kept


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


def made(kept: Kept, format: Any = "jsonl", since: float = 0.0, until: float = 1e11, **more: Any) -> bytes:
    out = io.BytesIO()
    for _ in export(kept.db, kept.directory, Wanted(since, until, format, **more), NODE, out):
        pass
    return out.getvalue()


def ids(raw: bytes) -> list[str]:
    return [json.loads(line)["id"] for line in raw.splitlines()]


def rows(raw: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(raw.decode(), newline=""), strict=True))


def test_lines_are_the_events_of_the_time_in_their_order(kept: Kept) -> None:
    times = []
    for _ in range(6):
        times.append(kept.now + 5)
        kept.message("ivan@x.example", "olga@x.example")
        kept.seal()
    everything = [event.id for event in kept.all()]
    assert ids(made(kept)) == everything
    assert ids(made(kept, since=times[1], until=times[4])) == everything[4:16]
    assert made(kept, until=times[0]) == b""


def test_a_time_within_a_large_segment_is_found_without_reading_it_all(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_LOOK", 1000)
    monkeypatch.setattr(segments, "_LATE", 20.0)
    times = []
    for _ in range(60):
        times.append(kept.now + 5)
        kept.message("ivan@x.example")
    everything = [event.id for event in kept.all()]
    out, last = io.BytesIO(), Progress()
    wanted = Wanted(times[30], times[32], "jsonl")
    for last in export(kept.db, kept.directory, wanted, NODE, out):  # noqa: B007
        pass
    assert ids(out.getvalue()) == everything[60:64]
    (path,) = kept.directory.glob("*.jsonl")
    assert last.events == 4 and 0 < last.of < path.stat().st_size / 4


def test_filters_hold(kept: Kept) -> None:
    kept.message("ivan@x.example")
    kept.message("ivan@x.example", account="crm2")
    assert len(ids(made(kept, account="crm2"))) == 2
    assert len(ids(made(kept, connection="crm-1"))) == 2
    assert len(ids(made(kept, events=("delivered",)))) == 2
    assert ids(made(kept, account="crm3")) == []


def test_a_table_has_a_head_and_a_flat_row_for_each_event(kept: Kept) -> None:
    kept.message("ivan@x.example", reply='OK, "thanks"\nline two', tags=("a", "b"), meta={"order": "17"})
    raw = made(kept, "csv")
    assert raw.endswith(b"\r\n") and raw.startswith(b"id,event,time,")
    queued, delivered = rows(raw)
    assert tuple(queued) == COLUMNS
    assert (queued["event"], queued["recipient"], queued["attempt_code"]) == ("queued", "ivan@x.example", "")
    assert (delivered["attempt_code"], delivered["attempt_mx"]) == ("250", "mx.example")
    assert delivered["attempt_reply"] == 'OK, "thanks"\nline two'
    assert json.loads(delivered["meta"]) == {"order": "17"}
    assert json.loads(delivered["tags"]) == ["a", "b"]
    assert "attempt_class" in COLUMNS and "feedback_report" in COLUMNS and "attempt" not in COLUMNS


@pytest.mark.parametrize("text", ["=1+1", "+7", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(kept: Kept, text: str) -> None:
    kept.add(Record("Rejection", kept.now, note=text, account="crm"))
    (row,) = rows(made(kept, "csv"))
    assert row["note"][0] in "'\\"  # guarded, or no control character any more
    assert row["note"].lstrip("'") in (text, text.replace("\r", "\\x0d"))


def test_how_far_it_is_rises_to_all_of_it(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(50):
        kept.message("ivan@x.example")
    read = room.read_span
    monkeypatch.setattr(room, "read_span", lambda records, span, at: read(records, span, at, 2000))
    told = list(export(kept.db, kept.directory, Wanted(0.0, 1e11, "csv"), NODE, io.BytesIO()))
    assert len(told) > 5
    done = [one.done for one in told]
    assert done == sorted(done) and (told[-1].done, told[-1].events) == (told[-1].of, 100)


def test_a_time_from_before_the_records_begin_is_told(kept: Kept) -> None:
    kept.message("ivan@x.example")

    def oldest(since: float) -> float:
        *_, last = export(kept.db, kept.directory, Wanted(since, 1e11, "csv"), NODE, io.BytesIO())
        return last.oldest

    assert oldest(kept.now - 100) == kept.now
    assert oldest(kept.now) == 0.0
