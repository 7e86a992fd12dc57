"""A small SQLite file beside the spool: how it is opened, and the one thread that works on it.

In: a path and the scripts of its versions; jobs.  Out: an open connection; futures of what the jobs gave, done on the
main thread.  What a job wrote is durable when its future is done (WAL, synchronous=FULL).
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

A = TypeVar("A")
R = TypeVar("R")
Post = Callable[[Callable[[], None]], None]


def opened(path: str | Path, scripts: Sequence[str]) -> sqlite3.Connection:
    """The file, made if there is none and brought to the last version; script n brings it from version n to n + 1.

    Raises RuntimeError if it is of a later version, sqlite3.Error if it cannot be read.
    """
    # Made here and not by SQLite: what is in it is nobody else's to read.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(scripts):
        db.close()
        raise RuntimeError(f"{path} is of version {version}; this relayd knows versions up to {len(scripts)}")
    for step in range(version, len(scripts)):
        db.executescript(f"BEGIN IMMEDIATE; {scripts[step]} PRAGMA user_version = {step + 1}; COMMIT;")
    return db


def reading(path: str | Path) -> sqlite3.Connection:
    """A second connection to a file that is open already, for reading beside whoever writes."""
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA query_only = ON")
    return db


_STILL = 10.0  # seconds that a pause may last


class Pause:
    """A job that keeps a thread which commits from doing so, until ``end``; ``late``: it could not wait so long."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.late = False
        self._go = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> None:
        self.reached.set()
        self.late = not self._go.wait(_STILL)

    def end(self) -> None:
        self._go.set()


class Worker:
    """A thread of its own for one connection: jobs run in order, each as one transaction."""

    def __init__(self, db: sqlite3.Connection, post: Post, name: str) -> None:
        """``post`` brings a call to the main thread (``reactor.callFromThread``)."""
        self._db = db
        self._post = post
        self._thread = ThreadPoolExecutor(1, name)

    def run(self, job: Callable[[sqlite3.Connection], A], swap: Callable[[A], R]) -> "Future[R]":
        """``job`` on the thread, after its commit ``swap`` on the main thread; the future is what that gives.

        So who waited for the future reads what he wrote, and nobody reads what is not on disk.
        """
        future: Future[R] = Future()

        def work() -> None:
            try:
                with self._db:
                    result = job(self._db)
            except Exception as error:
                fault = error
                self._post(lambda: future.set_exception(fault))
            else:
                self._post(lambda: future.set_result(swap(result)))

        self._thread.submit(work)
        return future

    def close(self) -> None:
        """Finishes the jobs under way and closes the connection.  Their futures are done if ``post`` still works."""
        self._thread.shutdown(wait=True)
        self._db.close()
