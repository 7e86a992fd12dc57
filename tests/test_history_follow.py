"""Following the history: every event once, in order, never beyond what is indexed without a gap."""

import sqlite3
import time
from contextlib import closing
from itertools import chain
from pathlib import Path

import pytest

from relayd.history import Followed, Hit, Indexer, Query, begin, follow, index_path, lines
from relayd.statistics import Settings, Statistics
from tests.e2e.relay import until
from tests.harness import START
from tests.webhook_kit import Desk

EVERYTHING = Query()
MINE = Query(accounts=("crm",))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three segments of three events each; the second event of each is somebody else's."""
    desk = Desk(tmp_path)
    for n in range(3):
        if n:
            desk.segment(int(START) + 100 * n)
        owners = ("crm", "other", "crm")
        made = [desk.event(10 * n + i, account=a, time=START + 100 * n + i) for i, a in enumerate(owners)]
        desk.records(made)
    desk.stop()
    return tmp_path / "records"


def notes(home: Path, found: Followed) -> list[str]:
    return [event.note for _, event in lines(home, found.hits, EVERYTHING, "mx1")]


def test_step_by_step_all_come_once_and_in_order(home: Path) -> None:
    for limit in (1, 2, 3, 4, 7, 100):
        at, seen = Hit("", 0), list[str]()
        while (found := follow(home, EVERYTHING, at, limit)).hits:
            assert len(found.hits) <= limit and found.more == (len(found.hits) == limit)
            seen += notes(home, found)
            at = found.to
        assert seen == list("123456789")


def test_the_place_moves_on_past_what_is_not_wanted(home: Path) -> None:
    nothing = follow(home, Query(accounts=("nobody",)), Hit("", 0), 10)
    assert nothing.hits == [] and nothing.to == follow(home, EVERYTHING, Hit("", 0), 100).to
    assert notes(home, follow(home, MINE, Hit("", 0), 10)) == list("134679")


def test_lanes_share_out_all_deliveries(home: Path) -> None:
    parts = [notes(home, follow(home, EVERYTHING, Hit("", 0), 100, lane=(i, 3))) for i in range(3)]
    assert sorted(chain(*parts)) == list("123456789") and all(parts)


def test_it_ends_where_it_is_told_to(home: Path) -> None:
    fifth = follow(home, EVERYTHING, Hit("", 0), 5).to
    for limit in (2, 5, 100):
        at, seen = Hit("", 0), list[str]()
        while at < fifth:
            found = follow(home, EVERYTHING, at, limit, until=fifth)
            seen += notes(home, found)
            at = found.to
        assert seen == list("12345") and at == fifth


def test_a_segment_that_is_not_indexed_yet_is_waited_for(home: Path) -> None:
    second = index_path(sorted(home.glob("*.jsonl"))[1])
    aside = second.rename(second.with_suffix(".aside"))
    found = follow(home, EVERYTHING, Hit("", 0), 100)
    assert notes(home, found) == list("123") and not found.more
    assert follow(home, EVERYTHING, found.to, 100) == Followed([], found.to)
    aside.rename(second)
    assert notes(home, follow(home, EVERYTHING, found.to, 100)) == list("456789")


def test_a_segment_that_is_gone_is_passed_by(home: Path) -> None:
    first = sorted(home.glob("*.jsonl"))[0]
    at = follow(home, EVERYTHING, Hit("", 0), 1).to
    index_path(first).unlink()
    first.unlink()
    assert notes(home, follow(home, EVERYTHING, at, 100)) == list("456789")


def test_the_time_of_the_first_is_told(home: Path) -> None:
    found = follow(home, MINE, follow(home, MINE, Hit("", 0), 2).to, 2)
    assert (notes(home, found), found.oldest) == (["4", "6"], START + 100)


def test_a_moment_has_a_place_before_it(home: Path) -> None:
    for moment, first in ((START - 1e6, "1"), (START + 1, "2"), (START + 50, "4"), (START + 202, "9")):
        assert notes(home, follow(home, EVERYTHING, begin(home, moment), 1)) == [first]
    assert follow(home, EVERYTHING, begin(home, START + 203), 1).hits == []


def test_lines_far_apart_long_and_backwards_are_found(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.records([desk.event(n, meta={"x": "y" * (60_000 if n % 3 == 0 else 10)}) for n in range(1, 40)])
    desk.stop()
    records = tmp_path / "records"
    hits = follow(records, EVERYTHING, Hit("", 0), 100).hits
    for some in (hits, hits[::-1], hits[::7], hits[-1:], []):
        wanted = [str(hits.index(hit) + 1) for hit in some]
        assert [event.note for _, event in lines(records, some, EVERYTHING, "mx1")] == wanted


def test_an_index_that_was_lost_is_made_again_though_nothing_more_came_to_its_segment(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.events(1, 2)
    desk.stop()
    first, second = (tmp_path / "records" / f"{int(START) + n:010d}.jsonl" for n in (0, 9))
    second.write_bytes(first.read_bytes())
    with closing(sqlite3.connect(tmp_path / "spool.sqlite", isolation_level=None)) as db:
        db.execute("CREATE TABLE segment (name TEXT, bytes INTEGER, sealed REAL)")
        db.execute("INSERT INTO segment VALUES (?, ?, 0)", (first.name, first.stat().st_size))
        index_path(first).unlink()
        index_until(tmp_path, 2)
        index_path(first).unlink()  # as a power cut may leave it
        db.execute("INSERT INTO segment VALUES (?, ?, 0)", (second.name, second.stat().st_size))
        index_until(tmp_path, 4)


def index_until(home: Path, count: int) -> None:
    """Indexes until so many events can be followed."""
    faults: list[str] = []
    indexer = Indexer(
        home, lambda: Statistics(home / "statistics.sqlite", Settings, time.time), print, print, faults.append
    )
    indexer.start()
    until(lambda: len(follow(home / "records", EVERYTHING, Hit("", 0), 9).hits) == count)
    indexer.stop()
    indexer.join()
    assert not any(faults)
