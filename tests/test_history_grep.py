"""Looking for words in the records: by the index where it knows, by reading where it does not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.history import grep as room
from relayd.history.grep import Wanted, grep
from relayd.identity import show
from relayd.records import Record
from relayd.spool.segments import Span, spans
from tests.records_kit import NODE, Kept


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


def found(kept: Kept, pattern: str, **more: Any) -> list[dict[str, Any]]:
    wanted = Wanted(pattern, **more)
    return [json.loads(data) for data in grep(kept.db, kept.directory, wanted, NODE, lambda time: None)]


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["id"] for event in events]


@pytest.mark.parametrize("indexed", [True, False])
def test_an_address_is_found_with_what_became_of_it_the_newest_first(kept: Kept, indexed: bool) -> None:
    kept.message("ivan@x.example", "olga@x.example")
    kept.message("olga@x.example")
    kept.seal()
    kept.message("Ivan@X.example")
    if indexed:
        kept.index()
    hits = found(kept, "ivan@x.example")
    assert [(hit["event"], hit["recipient"]) for hit in hits] == [
        ("delivered", "Ivan@X.example"),
        ("queued", "Ivan@X.example"),
        ("delivered", "ivan@x.example"),
        ("queued", "ivan@x.example"),
    ]
    assert ids(hits) == [event.id for event in reversed(kept.all()) if "ivan" in event.recipient.lower()]


def test_a_sender_is_found_though_the_index_knows_recipients_only(kept: Kept) -> None:
    kept.message("ivan@x.example", account="crm2")
    kept.message("ivan@x.example")
    kept.index()
    assert {hit["account"] for hit in found(kept, "a@crm2.example")} == {"crm2"}


def test_with_full_all_is_read_where_the_index_has_an_answer_too(kept: Kept) -> None:
    kept.message("ivan@x.example")
    kept.message("olga@x.example", sender="ivan@x.example")
    kept.index()
    assert len(found(kept, "ivan@x.example")) == 2
    assert len(found(kept, "ivan@x.example", full=True)) == 4


@pytest.mark.parametrize("indexed", [True, False])
def test_ids_of_message_delivery_and_event_are_found(kept: Kept, indexed: bool) -> None:
    id = kept.message("ivan@x.example", "olga@x.example")
    kept.message("olga@x.example")
    if indexed:
        kept.index()
    assert [hit["event"] for hit in found(kept, id)] == ["delivered", "delivered", "queued", "queued"]
    delivery = show(int(id, 16) + 2)
    assert [(hit["event"], hit["recipient"]) for hit in found(kept, delivery)] == [
        ("delivered", "olga@x.example"),
        ("queued", "olga@x.example"),
    ]
    for event in kept.all():
        assert ids(found(kept, event.id)) == [event.id]


def test_what_is_no_place_of_a_record_is_not_taken_for_one(kept: Kept) -> None:
    kept.message("ivan@x.example")
    place = kept.all()[0].id
    assert found(kept, place.replace("-0", "-1")) == []
    assert found(kept, place.replace("-0", "-ffffff")) == []
    assert found(kept, "1000000000-0") == []


def test_words_of_a_reply_are_found_in_any_case_with_quotes_and_in_any_script(kept: Kept) -> None:
    kept.message("ivan@x.example", reply='He said "No such User\\here"')
    kept.message("olga@x.example", reply="почта принята")
    assert [hit["recipient"] for hit in found(kept, '"no such user\\here"')] == ["ivan@x.example"]
    assert [hit["recipient"] for hit in found(kept, "почта")] == ["olga@x.example"]
    assert found(kept, "nobody said this") == []


@pytest.mark.parametrize(
    ("pattern", "count"), [("delivered", 1), ("queued", 1), ("timed_out", 0), ("next_attempt", 0), (NODE, 2)]
)
def test_what_only_an_event_has_is_found_too(kept: Kept, pattern: str, count: int) -> None:
    kept.message("ivan@x.example")
    assert len(found(kept, pattern)) == count


def test_a_time_is_found_as_events_show_it(kept: Kept) -> None:
    kept.message("ivan@x.example")
    assert len(found(kept, kept.all()[1].time)) == 1


def test_an_expression_is_looked_for_in_the_events_as_json(kept: Kept) -> None:
    kept.message("ivan@x.example", reply="queued as 17")
    kept.message("olga@y.example", reply="queued as 18")
    hits = found(kept, r'"event":"delivered".*@[XY]\.example.*queued as \d8', regex=True)
    assert [hit["recipient"] for hit in hits] == ["olga@y.example"]


def test_filters_hold_with_the_index_and_without(kept: Kept) -> None:
    for account in ("crm", "crm2", "crm"):
        kept.message("ivan@x.example", account=account)
    middle = kept.now - 15
    for _ in range(2):
        assert {hit["account"] for hit in found(kept, "ivan@x.example", account="crm2")} == {"crm2"}
        assert len(found(kept, "ivan@x.example", connection="crm-1")) == 4
        assert {hit["event"] for hit in found(kept, "ivan@x.example", events=("queued",))} == {"queued"}
        late = found(kept, "ivan@x.example", since=middle)
        early = found(kept, "ivan@x.example", until=middle)
        assert (len(late), len(early)) == (4, 2)
        assert ids(late + early) == ids(found(kept, "ivan@x.example"))
        kept.index()


def test_reading_backwards_gives_every_line_once_however_they_lie_in_the_blocks(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        kept.add(Record("Rejection", kept.now + n, note="x" * (n * 7 % 50), account="crm"))
    monkeypatch.setattr(room, "_BLOCK", 100)
    assert ids(found(kept, "rejected")) == [event.id for event in reversed(kept.all())]
    (path,) = kept.directory.glob("*.jsonl")
    raw = path.read_bytes()
    (span,) = spans(kept.db, kept.directory)
    assert span == Span(path.name, 0, len(raw))
    blocks = list(room._backwards(kept.directory, span))
    assert b"".join(data for _, data in reversed(blocks)) == raw
    assert all(raw[at : at + len(data)] == data for at, data in blocks)


def test_the_times_of_what_is_read_are_told_and_the_listener_may_end_it(kept: Kept) -> None:
    for _ in range(3):
        kept.message("ivan@x.example")
    times: list[float] = []

    def at(time: float) -> None:
        times.append(time)
        if len(times) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(grep(kept.db, kept.directory, Wanted("delivered"), NODE, at))
    assert times == sorted(times, reverse=True)
