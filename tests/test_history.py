"""History: facts of records, an index beside each segment, and what is found by them, whatever is lost or killed."""

import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.events import events, place
from relayd.history import (
    Fact,
    Found,
    Hit,
    Index,
    Indexer,
    Query,
    event_at,
    facts,
    find,
    index_path,
    indexer,
    trace,
)  # fmt: skip
from relayd.history.find import lines
from relayd.history.index import mark
from relayd.history.indexer import rest
from relayd.identity import show
from relayd.records import Feedback, Record, decode, encode
from relayd.spool import Checkpoint, Spool
from relayd.statistics import Figures, Settings, Statistics, figures
from tests.history_kit import BOOT, NOW, Kept, identity, message, outcome
from tests.spool_kit import Mail, Main

ROOT = Path(__file__).parent.parent
EARLY, LATE = NOW + 100, NOW + 5000


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


def found(kept: Kept, **query: Any) -> list[str]:
    """(event, recipient) of what is found, the newest first."""
    return [f"{event.event} {event.recipient}" for event in find(kept.records, Query(**query), "n").events]


# Facts.


def test_a_reception_is_a_fact_for_each_recipient():
    line = encode(message(NOW, "a@x.example", "b@y.example", track_id="t"))
    one, two = facts([line], 700)
    first = identity(NOW) + 1
    assert (one.event, one.recipient, one.delivery, one.position) == ("queued", "a@x.example", first, 700 << 16)
    assert (two.event, two.recipient, two.delivery, two.position) == ("queued", "b@y.example", first + 1, 700 << 16 | 1)
    assert (two.account, two.connection, two.stream, two.track_id, two.late) == ("crm", "crm-1", "news", "t", False)


def test_the_next_line_begins_where_the_last_one_ends():
    of = message()
    lines = [encode(of), encode(outcome("Delivery", of, NOW + 2))]
    assert [fact.position >> 16 for fact in facts(lines, 10)] == [10, 10 + len(lines[0])]


def test_an_attempt_has_its_class_site_and_source():
    (fact,) = facts([encode(outcome("Bounce", message(), NOW + 2))], 0)
    assert (fact.event, fact.cls, fact.site, fact.source) == ("bounced", "recipient_unknown", "gmail", "t1")
    assert (fact.time, fact.received) == (NOW + 2, NOW)


_SAMPLE = message(NOW, "a@x.example", "b@x.example")
SAMPLES = [
    _SAMPLE,
    message(NOW, counter=9),
    *(
        outcome(kind, _SAMPLE, NOW + 1, 1)
        for kind in ("Delivery", "TransientFailure", "Bounce", "Unknown", "Expiration")
    ),
    Record("Rejection", NOW, account="crm", recipient="c@x.example", note="550 no"),
    Record("DomainFailing", NOW, account="crm", domain="crm.example"),
    Record("OutOfBand", NOW, feedback=Feedback("1", "bounce", "none")),
    outcome("OutOfBand", _SAMPLE, NOW + 9, feedback=Feedback("1", "bounce", "valid")),
    outcome("OutOfBand", _SAMPLE, NOW + 9, feedback=Feedback("1", "success", "valid")),
    outcome("Complaint", _SAMPLE, NOW + 9, feedback=Feedback("1", "complaint", "valid")),
]


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: record.kind)
def test_facts_are_those_of_the_events_that_users_are_told(record):
    told = list(events(record, "place", "n"))
    seen = list(facts([encode(record)], 0))
    assert [(event.event, event.delivery, event.recipient, event.late) for event in told] == [
        (fact.event, show(fact.delivery) if fact.delivery else "", fact.recipient, fact.late) for fact in seen
    ]


def test_a_line_that_is_no_record_is_an_error():
    with pytest.raises(msgspec.DecodeError):
        list(facts([b'{"kind":"Reception"\n'], 0))


# The index of a segment.


def some(count: int) -> list[Fact]:
    return list(facts([encode(message(NOW + n, f"r{n}@x.example")) for n in range(count)], 0))


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM event").fetchone()[0])


def test_an_index_grows_and_is_found_again_as_it_was(tmp_path):
    path = tmp_path / "1.index"
    first = Index(path, BOOT)
    first.add(some(3), 300)
    first.close()
    again = Index(path, BOOT)
    assert (again.read, again.sealed) == (300, False)
    again.add(some(5), 500)  # those that are there already are there once
    again.close()
    assert rows(path) == 5
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_facts_go_in_at_once(tmp_path):
    index = Index(tmp_path / "1.index", BOOT)
    index.add(some(7001), 1)
    index.close()
    assert rows(tmp_path / "1.index") == 7001


def test_what_fails_midway_leaves_nothing(tmp_path):
    index = Index(tmp_path / "1.index", BOOT)
    bad = some(1)[0]._replace(account="another", position=1 << 70)
    with pytest.raises(OverflowError):
        index.add([*some(2), bad], 200)
    assert index.read == 0
    index.add(some(2), 200)
    index.close()
    assert rows(tmp_path / "1.index") == 2
    with closing(sqlite3.connect(tmp_path / "1.index")) as db:
        assert not db.execute("SELECT * FROM name WHERE name = 'another'").fetchall()


def test_an_index_that_was_not_sealed_before_the_machine_went_down_is_made_anew(tmp_path):
    path = tmp_path / "1.index"
    Index(path, BOOT).add(some(3), 300)
    assert Index(path, "the next boot").read == 0
    assert rows(path) == 0


def test_a_sealed_index_outlives_the_machine(tmp_path):
    path = tmp_path / "1.index"
    index = Index(path, BOOT)
    index.add(some(3), 300)
    index.seal()
    again = Index(path, "the next boot")
    assert (again.read, again.sealed) == (300, True)
    again.close()
    assert [file.name for file in tmp_path.iterdir()] == ["1.index"]  # no journal is left beside it


def test_a_seal_that_was_cut_short_is_made_up_for(tmp_path):
    path = tmp_path / "1.index"
    index = Index(path, BOOT)
    index.add(some(3), 300)
    index._db.execute("CREATE INDEX of_sender ON event (account, connection)")
    index._db.close()
    again = Index(path, BOOT)
    again.seal()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT sealed FROM state").fetchone() == (1,)
        assert len(db.execute("SELECT * FROM sqlite_master WHERE name LIKE 'of_%'").fetchall()) == 4


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\0" + b"\1" * 5000])
def test_a_broken_index_is_made_anew(tmp_path, content):
    path = tmp_path / "1.index"
    path.write_bytes(content)
    index = Index(path, BOOT)
    index.add(some(2), 200)
    index.seal()
    assert rows(path) == 2


# Finding.


@pytest.fixture
def mail(kept: Kept) -> Kept:
    """Two segments: three messages of two accounts, and what became of them; the second is not sealed."""
    one = message(EARLY, "ann@x.example", "Bob@Y.example", track_id="order-1")
    two = message(EARLY + 10, "ann@x.example", connection="crm-2", stream="bulk", counter=4)
    three = message(LATE, "cid@z.example", account="other", connection="other-1", track_id="order-2")
    first = [one, two, outcome("Delivery", one, EARLY + 11), outcome("TransientFailure", one, EARLY + 12, 1)]
    second = [three, outcome("Bounce", one, LATE + 1, 1), outcome("Delivery", three, LATE + 2)]
    kept.segment(EARLY, *first)
    name = kept.segment(LATE, *second, sealed=False)
    kept.index(f"{EARLY}.jsonl")
    kept.index(name, seal=False)
    return kept


ALL = [
    "delivered cid@z.example", "bounced Bob@Y.example", "queued cid@z.example", "deferred Bob@Y.example",
    "delivered ann@x.example", "queued ann@x.example", "queued Bob@Y.example", "queued ann@x.example",
]  # fmt: skip


def test_everything_is_found_the_newest_first(mail):
    assert found(mail) == ALL


@pytest.mark.parametrize(
    ("query", "which"),
    [
        ({"accounts": ("other",)}, [0, 2]),
        ({"accounts": ("other", "crm")}, range(8)),
        ({"accounts": ("nobody",)}, []),
        ({"accounts": ("crm",), "connection": "crm-2"}, [5]),
        ({"connection": "crm-1"}, [1, 3, 4, 6, 7]),
        ({"accounts": ("other",), "connection": "crm-1"}, []),
        ({"stream": "bulk"}, [5]),
        ({"recipient": "ANN@x.example"}, [4, 5, 7]),
        ({"accounts": ("crm",), "recipient": "bob@y.example"}, [1, 3, 6]),
        ({"accounts": ("other",), "recipient": "bob@y.example"}, []),
        ({"domain": "y.example"}, [1, 3, 6]),
        ({"track_id": "Order-1"}, [1, 3, 4, 6, 7]),
        ({"track_id": "order-1", "recipient": "ann@x.example"}, [4, 7]),
        ({"events": ("bounced",)}, [1]),
        ({"events": ("bounced", "deferred"), "accounts": ("crm",)}, [1, 3]),
        ({"deliveries": (identity(EARLY) + 2,)}, [1, 3, 6]),
        ({"deliveries": (identity(EARLY) + 1, identity(LATE) + 1)}, [0, 2, 4, 7]),
        ({"id": identity(EARLY)}, [1, 3, 4, 6, 7]),
        ({"id": identity(EARLY) + 2}, [1, 3, 6]),
        ({"id": identity(EARLY) + 2, "accounts": ("other",)}, []),
        ({"since": EARLY + 11}, [0, 1, 2, 3, 4]),
        ({"until": EARLY + 11}, [5, 6, 7]),
        ({"since": EARLY + 10, "until": EARLY + 12}, [4, 5]),
        ({"since": LATE + 1.5}, [0]),
    ],
)
def test_events_are_found_by_what_is_asked(mail, query, which):
    assert found(mail, **query) == [ALL[n] for n in which]


@pytest.mark.parametrize("limit", range(1, 10))
def test_pages_follow_one_another_without_a_gap(mail, limit):
    got, before, pages = list[str](), None, 0
    while True:
        page = find(mail.records, Query(), "n", limit=limit, before=before)
        got += [f"{event.event} {event.recipient}" for event in page.events]
        pages, before = pages + 1, page.next
        if before is None:
            break
    assert got == ALL
    assert pages == len(ALL) // limit + 1


def test_a_search_that_takes_too_long_says_where_to_go_on(mail):
    query, got, before = Query(accounts=("crm",), connection="crm-2"), [], None
    for _ in range(2):  # a segment each
        page = find(mail.records, query, "n", before=before, patience=0.0)
        got += page.events
        before = page.next
    assert len(got) == 1 and before is None


# crc32 of both is the same, whatever follows.
TWINS = ("plumless@x.example", "buckeroo@x.example")


def test_addresses_that_share_a_mark_are_told_apart(kept):
    assert len({mark(name) for name in TWINS}) == 1
    kept.segment(NOW, message(NOW, *TWINS))
    kept.index()
    assert found(kept, recipient=TWINS[0]) == [f"queued {TWINS[0]}"]
    assert found(kept, track_id="plumless") == []


def test_a_page_is_filled_though_others_share_the_mark(kept):
    ours, others = TWINS
    kept.segment(NOW, message(NOW, ours), message(NOW + 1, ours), message(NOW + 2, others))
    kept.segment(NOW + 1000, message(NOW + 1000, ours))
    kept.index()
    page = find(kept.records, Query(recipient=ours), "n", limit=3)
    assert [event.recipient for event in page.events] == [ours] * 3


@pytest.mark.parametrize(
    ("waited", "behind", "seconds"),
    [(0.0, 0.0, 0.0), (0.01, 0.0, 0.1), (5.0, 0.0, 1.0), (0.01, 30.0, 0.05), (5.0, 60.0, 0.0), (5.0, 900.0, 0.0)],
)
def test_indexing_that_mail_keeps_waiting_lets_it_go_first_for_a_minute(waited, behind, seconds):
    assert rest(waited, behind) == pytest.approx(seconds)


def test_a_cursor_is_read_back():
    hit = Hit("1764000000.jsonl", 5 << 16 | 2)
    assert Hit.read(str(hit)) == hit


@pytest.mark.parametrize(
    "text", ["", "x", "1764000000", "1764000000-", "../1764000000-5", "1764000000-5g", "1764000000-" + "f" * 16]
)
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(ValueError, match="next"):
        Hit.read(text)


def test_every_event_is_found_by_its_own_id(mail):
    for event in find(mail.records, Query(), "n").events:
        assert event_at(mail.records, Hit.of(event.id), Query(), "n") == event


def test_an_event_of_another_is_not_found_by_its_id(mail):
    (event,) = find(mail.records, Query(accounts=("other",), events=("delivered",)), "n").events
    assert event_at(mail.records, Hit.of(event.id), Query(accounts=("crm",)), "n") is None


def test_a_place_within_a_line_or_behind_all_is_no_event(mail):
    for offset in (1, 17, 1 << 40):
        assert event_at(mail.records, Hit.of(place(f"{EARLY}.jsonl", offset)), Query(), "n") is None


@pytest.mark.parametrize("text", ["", "1764000000", "1764000000-zz", "1764000000-1-99999", "1a2031f92a500001"])
def test_what_is_no_id_of_an_event_is_refused(text):
    with pytest.raises(ValueError, match="not the id of an event"):
        Hit.of(text)


def test_a_segment_without_an_index_is_as_if_it_were_not_there(mail):
    index_path(mail.records / f"{EARLY}.jsonl").unlink()
    assert found(mail) == ALL[:3]


def test_an_index_that_is_just_being_made_has_nothing_yet(mail):
    index_path(mail.records / f"{EARLY}.jsonl").write_bytes(b"")
    assert found(mail) == ALL[:3]


def test_a_segment_that_is_deleted_meanwhile_is_as_if_it_were_not_there(mail):
    hits = [Hit.of(event.id) for event in reversed(find(mail.records, Query(), "n").events)]
    (mail.records / f"{EARLY}.jsonl").unlink()  # the mover takes away one file after the other
    assert found(mail) == ALL[:3]
    assert len(list(lines(mail.records, hits, Query(), "n"))) == 3
    index_path(mail.records / f"{EARLY}.jsonl").unlink()
    assert found(mail) == ALL[:3]


def test_what_waited_long_to_be_moved_is_found_by_its_own_time(kept):
    kept.segment(EARLY, message(EARLY))
    kept.segment(LATE, message(EARLY + 2, "b@x.example"), message(LATE, "c@x.example"))
    kept.segment(LATE + 900, message(LATE + 900, "d@x.example"))
    kept.index()
    assert found(kept, until=EARLY + 10) == ["queued b@x.example", "queued ann@x.example"]


def test_an_address_beyond_ascii_is_found(kept):
    kept.segment(NOW, message(NOW, "иван@пример.рф"))
    kept.index()
    assert found(kept, recipient="Иван@пример.рф") == found(kept, domain="пример.рф") == ["queued иван@пример.рф"]


def test_a_long_line_is_read_whole(kept):
    kept.segment(
        NOW, message(NOW, *(f"recipient-number-{n}@a-long-name.example" for n in range(900))), message(NOW + 1)
    )
    kept.index()
    assert len(found(kept)) == 901


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_whatever_is_asked_is_what_reading_all_lines_gives(tmp_path_factory, data):
    kept = Kept(tmp_path_factory.mktemp("kept"))
    names = st.sampled_from(["ann@x.example", "bob@x.example", "cid@y.example", *TWINS])
    at = NOW
    for n in range(data.draw(st.integers(1, 4))):
        at += 100
        records = []
        for m in range(data.draw(st.integers(0, 6))):
            at += data.draw(st.sampled_from([0, 0.5, 3]))
            account = data.draw(st.sampled_from(["crm", "other"]))
            of = message(at, *data.draw(st.lists(names, min_size=1, max_size=3)), account=account, counter=8 * m)
            kind = data.draw(st.sampled_from(["Delivery", "Bounce"]))
            records += [of, outcome(kind, of, at + 1)]
        kept.segment(NOW + 200 * n, *records)
    kept.index()
    query = Query(
        accounts=data.draw(st.sampled_from([(), ("crm",), ("crm", "other")])),
        recipient=data.draw(st.just("") | names),
        events=data.draw(st.sampled_from([(), ("bounced",), ("queued", "delivered")])),
        since=data.draw(st.sampled_from([0.0, NOW + 150.0, NOW + 300.0])),
        until=data.draw(st.sampled_from([0.0, NOW + 150.0, NOW + 301.0])),
    )
    naive = [
        event.id
        for path in sorted(kept.records.glob("*.jsonl"))
        for event in _all(path)
        if (not query.accounts or event.account in query.accounts)
        and query.recipient in ("", event.recipient)
        and (not query.events or event.event in query.events)
        and (not query.since or _unix(event) >= query.since)
        and (not query.until or _unix(event) < query.until)
    ]
    limit, got, before = data.draw(st.integers(1, 5)), [], None
    while True:
        page: Found = find(kept.records, query, "n", limit=limit, before=before)
        got += [event.id for event in page.events]
        if (before := page.next) is None:
            break
    kept.close()
    assert got == naive[::-1]


def _all(path: Path) -> Iterator[Any]:
    offset = 0
    for line in path.read_bytes().splitlines(keepends=True):
        yield from events(decode(line), place(path.name, offset), "n")
        offset += len(line)


def _unix(event: Any) -> float:
    from datetime import datetime

    return datetime.fromisoformat(event.time).timestamp()


# All records of one message.


def traced(kept: Kept, identity: int) -> list[str]:
    return [record.kind for record in trace(kept.db, kept.records, identity)]


STORY = ["Reception", "Delivery", "TransientFailure", "Bounce"]


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_message_is_traced_by_its_own_id_and_by_those_of_its_deliveries(mail, nth):
    assert traced(mail, identity(EARLY) + nth) == STORY


def test_a_message_is_traced_where_there_are_no_indexes_or_useless_ones(mail):
    index_path(mail.records / f"{EARLY}.jsonl").unlink()
    index_path(mail.records / f"{LATE}.jsonl").write_bytes(b"nothing")
    assert traced(mail, identity(EARLY)) == STORY


def test_a_message_is_traced_beyond_what_is_indexed_and_moved(mail):
    first = next(iter(map(decode, mail.lines())))
    mail.append(f"{LATE}.jsonl", outcome("Complaint", first, LATE + 10))
    mail.outbox(outcome("Unsubscribe", first, LATE + 20))
    assert traced(mail, identity(EARLY)) == [*STORY, "Complaint", "Unsubscribe"]


def test_indexed_lines_are_not_read_through(mail):
    """What only reading all lines would show stays unseen."""
    path = mail.records / f"{EARLY}.jsonl"
    another, ours = show(identity(EARLY + 10, 4)).encode(), show(identity(EARLY)).encode()
    path.write_bytes(path.read_bytes().replace(another, ours))
    assert traced(mail, identity(EARLY)) == STORY
    index_path(path).unlink()
    assert len(traced(mail, identity(EARLY))) == len(STORY) + 1


def test_messages_of_the_same_millisecond_are_told_apart(kept):
    one, two = message(NOW, counter=0), message(NOW, counter=2)
    kept.segment(NOW, one, two, outcome("Delivery", two, NOW + 1), outcome("Bounce", one, NOW + 1))
    for seal in (False, True):
        assert traced(kept, identity(NOW)) == ["Reception", "Bounce"]
        assert traced(kept, identity(NOW) + 3) == ["Reception", "Delivery"]
        kept.index(seal=seal)


def test_of_an_unknown_message_there_is_nothing(mail):
    assert traced(mail, identity(EARLY, 500)) == [] == traced(mail, 7) == traced(mail, (1 << 62) - 1)


# The thread.


class Following:
    """An Indexer over a directory, with real counters."""

    def __init__(self, path: Path, wall: Callable[[], float] = time.time, **more: Any) -> None:
        self.path = path
        self.held: list[str] = []
        self.came: set[tuple[str, str]] = set()
        self.faults: list[str] = []
        self.thread = Indexer(
            path,
            more.get("counters", lambda: Statistics(path / "statistics.sqlite", Settings, wall)),
            lambda to: self.held.append(to.segment),
            self.came.update,
            self.faults.append,
            wall,
        )
        self.thread.start()

    def until(self, fact: Callable[[], Any]) -> "Following":
        end = time.monotonic() + 20
        while not fact():
            assert time.monotonic() < end, "it did not come to be"
            assert self.thread.is_alive()
            self.thread.wake()
            threading.Event().wait(0.005)
        return self

    def stop(self) -> None:
        self.thread.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


def count(path: Path) -> dict[str, int]:
    whole = Figures(since=0, until=4e9, step="total")
    found: dict[str, int] = figures(path / "statistics.sqlite", whole, Settings(), NOW)["total"]["counts"]
    return found


def wall() -> float:
    return float(NOW + 6000)


def test_what_is_moved_is_found_and_counted_and_told(kept):
    kept.segment(EARLY, message(EARLY), sealed=False)
    follower = Following(kept.path, wall).until(lambda: found(kept))
    assert found(kept) == ["queued ann@x.example"]
    kept.append(f"{EARLY}.jsonl", message(EARLY + 1, "bob@x.example", connection="crm-2"))
    follower.until(lambda: len(found(kept)) == 2)
    follower.stop()
    assert follower.came == {("crm", "crm-1"), ("crm", "crm-2")}
    assert count(kept.path) == {"queued": 2}
    assert set(follower.faults) == {""}


def test_it_goes_on_where_it_stopped(kept):
    kept.segment(EARLY, message(EARLY))
    Following(kept.path, wall).until(lambda: found(kept)).stop()
    kept.segment(LATE, message(LATE, "b@x.example"))
    follower = Following(kept.path, wall).until(lambda: len(found(kept)) == 2)
    follower.stop()
    assert follower.came == {("crm", "crm-1")}
    assert count(kept.path) == {"queued": 2}


def test_the_index_of_a_segment_is_sealed_when_the_next_one_begins(kept):
    kept.segment(EARLY, message(EARLY))
    kept.segment(LATE, message(LATE, "b@x.example"))
    Following(kept.path, wall).until(lambda: len(found(kept)) == 2).stop()
    sealed = {}
    for path in sorted(kept.records.glob("*.index")):
        with closing(sqlite3.connect(path)) as db:
            sealed[path.name[:10]] = db.execute("SELECT sealed FROM state").fetchone()[0]
    assert sealed == {f"{EARLY}": 1, f"{LATE}": 0}


def test_lost_indexes_are_made_again_though_nothing_comes(kept):
    for n in range(3):
        kept.segment(EARLY + n, message(EARLY + n, f"r{n}@x.example"))
    Following(kept.path, wall).until(lambda: len(found(kept)) == 3).stop()
    before = found(kept)
    for path in kept.records.glob("*.index"):
        path.unlink()
    follower = Following(kept.path, wall).until(lambda: len(found(kept)) == 3)
    follower.stop()
    assert found(kept) == before
    assert count(kept.path) == {"queued": 3}
    assert follower.came == set()  # nobody is told again


def test_an_index_that_may_be_broken_is_made_again_though_nothing_comes(kept, monkeypatch):
    kept.segment(EARLY, message(EARLY))
    Following(kept.path, wall).until(lambda: found(kept)).stop()
    monkeypatch.setattr(indexer, "_boot", lambda: "the next boot")
    path = index_path(kept.records / f"{EARLY}.jsonl")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM event")  # as if the disk had lost it
    Following(kept.path, wall).until(lambda: found(kept)).stop()


class Failing(Statistics):
    """Whose first additions fail."""

    left = 0

    def add(self, found: Any, to: Checkpoint) -> None:
        if Failing.left:
            Failing.left -= 1
            raise sqlite3.OperationalError("killed")
        super().add(found, to)


def test_what_was_indexed_before_a_failure_is_counted_once_after_it(kept, monkeypatch):
    monkeypatch.setattr(indexer, "_AGAIN", 0.01)
    monkeypatch.setattr(Failing, "left", 3)
    kept.segment(EARLY, message(EARLY, "a@x.example", "b@x.example"))
    follower = Following(kept.path, wall, counters=lambda: Failing(kept.path / "statistics.sqlite", Settings, wall))
    follower.until(lambda: follower.came)
    follower.stop()
    assert count(kept.path) == {"queued": 2}
    assert len(found(kept)) == 2
    assert [bool(fault) for fault in follower.faults] == [False, True, False, False, False]


def test_a_fault_is_told_once_and_what_stood_still_goes_on(kept, monkeypatch):
    monkeypatch.setattr(indexer, "_AGAIN", 0.01)
    kept.segment(EARLY, message(EARLY))
    broken = kept.path / "statistics.sqlite"
    broken.write_bytes(b"no database" * 100)
    follower = Following(kept.path, wall)
    follower.until(lambda: follower.faults)
    assert "move it away" in follower.faults[0]
    broken.unlink()
    follower.until(lambda: follower.came)
    follower.stop()
    assert [bool(fault) for fault in follower.faults] == [True, False]


def test_only_what_is_counted_on_disk_may_be_deleted(kept):
    class Slow(Statistics):
        def tend(self) -> None:
            pass  # nothing goes to disk before the end

    kept.segment(EARLY, message(EARLY))
    kept.segment(LATE, message(LATE))
    slow = Following(kept.path, wall, counters=lambda: Slow(kept.path / "statistics.sqlite", Settings, wall))
    slow.until(lambda: len(found(kept)) == 2).stop()
    assert slow.held == []
    quick = Following(kept.path, wall)
    quick.until(lambda: quick.held).stop()
    assert quick.held == [f"{LATE}.jsonl"]


def test_counters_that_lag_behind_the_indexes_are_caught_up(kept):
    """As after a kill: the indexes are there and sealed, the counters know of nothing."""
    for n in range(3):
        kept.segment(EARLY + n, message(EARLY + n, f"r{n}@x.example"), message(EARLY + n, f"s{n}@x.example", counter=5))
    kept.index()
    ticking = itertools.count(NOW + 6000)
    follower = Following(kept.path, lambda: float(next(ticking)))
    follower.until(lambda: f"{EARLY + 2}.jsonl" in follower.held).stop()
    assert count(kept.path) == {"queued": 6}
    assert len(found(kept)) == 6


# With a real spool, and killed.

LOAD = """
import sys
from pathlib import Path
from relayd.history import Indexer
from relayd.spool import Spool
from relayd.statistics import Settings, Statistics
from tests.spool_kit import NOW, Mail, Main
import time
path, main, mail = Path(sys.argv[1]), Main(), Mail(time.time())
spool = Spool(path, main.post, print)
indexer = Indexer(
    path,
    lambda: Statistics(path / "statistics.sqlite", Settings, time.time),
    lambda to: spool.advance("history", to),
    lambda whose: print("came", flush=True),
    lambda fault: print("fault", fault, flush=True) if fault else None,
)
spool.mover.moved = indexer.wake
indexer.start()
waiting = 0
def told(result):
    global waiting
    waiting -= 1
while True:
    while waiting < 40:
        waiting += 1
        spool.receive(mail.reception("x.example", "y.example"), told)
    main.until(lambda: waiting < 40)
"""


def test_however_often_it_is_killed_every_event_is_there_and_counted_once(tmp_path):
    for kills in (3, 5, 4):
        command = [sys.executable, "-c", LOAD, str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for _ in range(kills):
            assert process.stdout.readline() == "came\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    main = Main()
    spool = Spool(tmp_path, main.post, main.faults.append)
    follower = Following(tmp_path)
    spool.mover.moved = follower.thread.wake
    main.answer(spool.receive, Mail(time.time()).reception("last.example"))
    query = Query(recipient="r1@last.example")
    follower.until(lambda: main.drain() or find(tmp_path / "records", query, "n").events)
    spool.mover.stop()
    while spool.mover.is_alive():
        main.drain()
        spool.mover.join(0.01)
    follower.stop()
    spool.stop()
    kept = Counter(
        event.id for path in sorted((tmp_path / "records").glob("*.jsonl")) for event in _all(path) if event.delivery
    )
    assert len(kept) > 200
    assert count(tmp_path) == {"queued": len(kept)}
    got: list[str] = []
    before = None
    while True:
        page = find(tmp_path / "records", Query(), "n", before=before)
        got += [event.id for event in page.events]
        if (before := page.next) is None:
            break
    assert got == sorted(kept, key=lambda id: Hit.of(id), reverse=True)
