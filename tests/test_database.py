"""A small database: opened at its version, worked on by one thread, its futures done on the main thread."""

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.database import Worker, opened, reading

SCRIPTS = ["CREATE TABLE words (word TEXT) STRICT;", "INSERT INTO words VALUES ('second');"]


def words(db: sqlite3.Connection) -> list[str]:
    return [word for (word,) in db.execute("SELECT word FROM words")]


def add(word: str) -> Callable[[sqlite3.Connection], str]:
    def job(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO words VALUES (?)", (word,))
        return word

    return job


def test_file_is_made_for_its_owner_only_and_brought_to_the_last_version(tmp_path: Path) -> None:
    opened(tmp_path / "w.sqlite", SCRIPTS[:1]).close()
    for _ in range(2):  # no script runs twice
        db = opened(tmp_path / "w.sqlite", SCRIPTS)
        assert words(db) == ["second"]
        assert {oct(os.stat(file).st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o600"}
        db.close()


def test_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "w.sqlite", SCRIPTS).close()
    with pytest.raises(RuntimeError, match="is of version 2; this relayd knows versions up to 1"):
        opened(tmp_path / "w.sqlite", SCRIPTS[:1])


def test_job_runs_on_the_thread_and_its_future_is_done_on_the_main_thread(tmp_path: Path) -> None:
    posted: list[Callable[[], None]] = []
    arrived = threading.Event()

    def post(call: Callable[[], None]) -> None:
        posted.append(call)
        arrived.set()

    worker = Worker(opened(tmp_path / "w.sqlite", SCRIPTS), post, "words")
    threads: list[int] = []

    def job(db: sqlite3.Connection) -> str:
        threads.append(threading.get_ident())
        return add("third")(db)

    future = worker.run(job, lambda word: f"{word}, swapped in by {threading.get_ident()}")
    assert arrived.wait(10) and not future.done()
    assert words(reading(tmp_path / "w.sqlite")) == ["second", "third"]  # on disk before anybody is told
    posted.pop()()
    assert future.result(0) == f"third, swapped in by {threading.get_ident()}" and threads != [threading.get_ident()]
    worker.close()


def test_job_that_fails_leaves_nothing_behind_and_the_next_one_runs(tmp_path: Path) -> None:
    worker = Worker(opened(tmp_path / "w.sqlite", SCRIPTS), lambda call: call(), "words")

    def job(db: sqlite3.Connection) -> None:
        add("half")(db)
        raise ValueError("the other half")

    with pytest.raises(ValueError, match="the other half"):
        worker.run(job, lambda _: None).result(10)
    assert worker.run(add("third"), str).result(10) == "third"
    worker.close()
    assert words(reading(tmp_path / "w.sqlite")) == ["second", "third"]


def test_who_only_reads_cannot_write(tmp_path: Path) -> None:
    opened(tmp_path / "w.sqlite", SCRIPTS).close()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        add("third")(reading(tmp_path / "w.sqlite"))
