"""Processes that read records: what they answer, and how they end."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import workers as room
from relayd.errors import InputError
from relayd.history.grep import Wanted
from relayd.history.work import End, Work
from relayd.workers import Worker, Workers
from tests.e2e.relay import until
from tests.records_kit import NODE, Kept
from tests.spool_kit import Main


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


class Asker:
    def __init__(self, spool: Path) -> None:
        self.main = Main()
        self.workers = Workers(str(spool), NODE, self.main.post)

    def ask(self, pattern: str, limit: int = 100, seconds: float = 30.0, **more: Any) -> tuple[list[Any], End]:
        future = self.workers.grep(Wanted(pattern, **more), limit, seconds)
        self.main.until(future.done)
        return future.result()


@pytest.fixture
def asker(kept: Kept) -> Iterator[Asker]:
    made = Asker(kept.spool)
    yield made
    made.workers.stop()


def test_a_worker_finds_what_there_is(kept: Kept, asker: Asker) -> None:
    kept.message("ivan@x.example")
    events, end = asker.ask("ivan@x.example")
    assert [event["event"] for event in events] == ["delivered", "queued"]
    assert end == End()


def test_it_stops_at_the_limit_and_says_so(kept: Kept, asker: Asker) -> None:
    for _ in range(3):
        kept.message("ivan@x.example")
    events, end = asker.ask("ivan@x.example", limit=2)
    assert (len(events), end.why) == (2, "most")
    assert asker.ask("ivan@x.example", limit=6)[1].why == ""


def test_an_expression_that_is_none_is_refused_in_words(kept: Kept, asker: Asker) -> None:
    kept.message("ivan@x.example")
    assert asker.ask("a(", regex=True)[1].error.startswith("the expression cannot be read: ")


def test_an_expression_that_never_ends_is_ended(kept: Kept, asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_GRACE", 0.2)
    kept.message("ivan@x.example", reply="a" * 60)
    kept.message("olga@x.example")
    events, end = asker.ask("(olga)|(a+)+!", regex=True, seconds=0.5)
    assert {event["recipient"] for event in events} == {"olga@x.example"}  # what it had found before
    assert end.why == "killed"


def test_a_look_that_takes_too_long_ends_with_what_it_has(kept: Kept, asker: Asker) -> None:
    kept.message("ivan@x.example")
    assert asker.ask("nobody", seconds=1e-9)[1].why == "time"


def test_too_many_at_once_are_refused(kept: Kept, asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAITING", 2)
    futures = [asker.workers.grep(Wanted("x"), 1, 30.0) for _ in range(2)]
    with pytest.raises(InputError, match="too many"):
        asker.workers.grep(Wanted("x"), 1, 30.0)
    asker.main.until(lambda: all(future.done() for future in futures))
    assert asker.ask("x")[1] == End()


def test_a_stop_ends_those_that_run(kept: Kept, asker: Asker) -> None:
    kept.message("ivan@x.example", reply="a" * 60)
    future = asker.workers.grep(Wanted("(a+)+!", regex=True), 1, 300.0)
    (worker,) = asker.workers._running
    until(lambda: worker._process)
    asker.workers.stop()
    asker.main.until(future.done)
    assert future.result()[1].why == "killed"


def test_a_spool_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    end = Worker().run(Work(str(tmp_path / "none"), NODE, find=Wanted("x"), seconds=5.0, most=1), lambda line: None)
    assert end.error == "unable to open database file"


def test_a_worker_that_is_killed_from_outside_is_told(kept: Kept) -> None:
    kept.message("ivan@x.example", reply="a" * 60)
    kept.message("olga@x.example")
    worker = Worker()
    work = Work(str(kept.spool), NODE, find=Wanted("(olga)|(a+)+!", regex=True), seconds=60.0, most=10)

    def kill(line: bytes) -> None:
        assert worker._process is not None
        os.kill(worker._process.pid, 9)

    assert worker.run(work, kill).error == "the process that reads records ended with -9"


def test_nothing_is_imported_from_where_it_is_started(
    kept: Kept, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept.spool / "msgspec.py").write_text("raise SystemExit(3)")
    (kept.spool / "gzip.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(kept.spool)
    kept.message("ivan@x.example")
    started = time.monotonic()
    assert len(asker.ask("ivan@x.example")[0]) == 2
    print(f"a worker took {time.monotonic() - started:.2f} s")
