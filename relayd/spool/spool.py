"""The spool's front: it owns the directory (one live process at a time), its threads (writer, reader, mover) and a
small pool for body files.  Every call returns at once and answers through ``post`` on the main thread.
"""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec

from relayd.database import Pause
from relayd.spool import leases, reader, store
from relayd.spool.bodies import Bodies
from relayd.spool.files import sync_directory
from relayd.spool.landing import Landing
from relayd.spool.ledger import Audit, audit, lost_contents
from relayd.spool.segments import (
    Checkpoint,
    Mover,
    advance,
    blocks,
    checkpoint_of,
    read_records,
    reception,
    retain,
)
from relayd.spool.writer import Done, Post, Settle, Writer


class SpoolError(Exception):
    """The spool cannot be opened; the text says what to do."""


class Spool:
    """See the module.  ``fault(error | None)`` is posted when the spool stops or resumes being writable."""

    def __init__(self, directory: Path, post: Post, fault: Callable[[str | None], None], keep: float = 30 * 86400):
        self.directory = directory
        self._lock = _own(directory)
        try:
            self._open(post, fault, keep)
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise SpoolError(f"{directory} cannot be opened: {error}") from error

    def _open(self, post: Post, fault: Callable[[str | None], None], keep: float) -> None:
        path = self.directory / "spool.sqlite"
        self._post = post
        self._segments = self.directory / "records"
        self._writing = store.create(path)
        os.chmod(path, 0o600)
        self._path = path
        self._reading = store.connect(path, readonly=True)
        self._moving = store.connect(path, readonly=True)
        self._pool = ThreadPoolExecutor(3, "spool-file")
        self._read_pool = ThreadPoolExecutor(1, "spool-reader")
        self._find_pool = ThreadPoolExecutor(1, "spool-find")  # what comes back waits for no operator's question
        self._long_pool = ThreadPoolExecutor(2, "spool-long")  # an inspection need not wait for an audit
        self._stopping = False
        self.bodies = Bodies(self.directory / "bodies", self._pool, post)
        self.bodies.sweep(reader.message_ids(self._reading))
        self.last_identity = reader.last_identity(self._reading)
        self.queued_at_start = reader.queued_total(self._reading)
        self._landing = Landing(self.directory / "landing")
        self.writer = Writer(store.Store(self._writing, self._landing), post, fault, self.bodies.unlink)
        self.mover = Mover(
            self._segments,
            self._moving,
            self.writer.submit,
            lambda error: post(fault, error),
            keep,
        )
        sync_directory(self.directory)  # that its parts are there
        self.writer.start()
        self.mover.start()

    def stop(self) -> None:
        """Makes durable what was submitted, moves the records and lets go of the directory.  Blocks: not on the main
        thread while ``post`` needs it."""
        self._stopping = True
        self.mover.stop()
        self.mover.join()
        self.writer.stop()
        self.writer.join()
        for pool in (self._pool, self._read_pool, self._find_pool, self._long_pool):
            pool.shutdown()
        self._reading.close()
        self._moving.close()
        self._writing.close()
        self._landing.close()
        os.close(self._lock)

    # Changes: ``done`` is called on the main thread once the change is durable.

    def receive(self, reception: store.Reception, done: Done) -> None:
        """``done(None)``; ``done(error)``: nothing was kept, or ``done(first message)``: the key had come before."""
        self.writer.submit(reception, done)

    def depart(self, departure: store.Departure, done: Done | None = None) -> None:
        self.writer.submit(departure, done)

    def requeue(self, requeue: store.Requeue, done: Done | None = None) -> None:
        self.writer.submit(requeue, done)

    def settle(self, queue: str, done: Done) -> None:
        """``done(due)``: the queue's true next due time; only while none of its deliveries is in memory."""
        self.writer.submit(Settle(queue), done)

    def settle_leases(self, rows: list[tuple[str, int, int]], done: Done) -> None:
        """Of each (account, granted, back): what ``leases.settle`` does.  ``done({account: Lease})``."""
        self.writer.submit(leases.settle(rows), done)

    def keep_records(self, lines: bytes, entries: Any, done: Done | None = None) -> None:
        """Records that go with no delivery: rejections."""
        self.writer.submit(lambda connection: store.Store(connection).keep_records(lines, entries), done)

    def change(self, job: Callable[[sqlite3.Connection], Any], done: Done) -> None:
        """``done(what it gives)``: a function of the writing connection, which runs inside a transaction."""
        self.writer.submit(job, done)

    def unlink(self, messages: list[int]) -> None:
        """Body files that are needed no more."""
        self._pool.submit(self.bodies.unlink, messages)

    # Questions: ``done(result)`` on the main thread.

    def read(self, question: Callable[..., Any], *rest: Any) -> None:
        """``rest`` are the arguments behind the connection, and ``done``.  One after the other: who is answered knows
        that all who asked before have been."""
        *args, done = rest
        self._ask(done, question, *args)

    def deliveries(self, ids: list[int], done: Done) -> None:
        """Those of these that are in the spool, with their contents."""
        self._ask(done, reader.deliveries_by_id, self._landing.read, ids)

    def due_deliveries(self, queue: str, now: float, limit: int, but: list[int], done: Done) -> None:
        self._ask(done, reader.due_deliveries, self._landing.read, queue, now, limit, but)

    def old_deliveries(self, account: str, stream: str, before: float, limit: int, done: Done) -> None:
        self._ask(done, reader.old_deliveries, self._landing.read, f"{account}/{stream}/*", before, limit)

    def ended_deliveries(self, now: float, limit: int, done: Done) -> None:
        self._ask(done, reader.ended_deliveries, self._landing.read, now, limit)

    def deliveries_of(self, identity: int, done: Done) -> None:
        """``done`` gets what is still queued of a message, named by its own id or a delivery's."""
        self._ask(done, reader.deliveries_of, self._landing.read, identity)

    def due_queues(self, after: tuple[float, str], now: float, limit: int, done: Done) -> None:
        self._ask(done, reader.due_queues, after, now, limit)

    def queue_summary(self, limit: int, account: str, done: Done) -> None:
        self._ask(done, reader.queue_summary, limit, account)

    def queues_of(self, domain: str, limit: int, done: Done) -> None:
        self._ask(done, reader.queues_of, domain, limit)

    def queue_counts(self, done: Done) -> None:
        """``done([(queue, count), ...])`` of all that are not empty, the longest first."""
        self._look(reader.queue_counts, done)

    def queued_of(self, connection: str, done: Done) -> None:
        """``done(deliveries that a connection brought)``: every message is looked at."""
        self._look(lambda db: reader.queued_of(db, connection), done)

    def queued_total(self, done: Done) -> None:
        self._ask(done, reader.queued_total)

    def depth(self, done: Done) -> None:
        """``done((deliveries, when the oldest came in))``."""
        self._ask(done, reader.depth)

    def lease_today(self, account: str, day: int, done: Done) -> None:
        """``done((lease, units paid for mail of that day))``."""
        self._ask(done, leases.lease_today, account, day)

    def audit(self, done: Done) -> None:
        """``done(Audit)``."""

        def work(connection: sqlite3.Connection) -> Audit:
            found = audit(connection, self._segments)
            lost = lost_contents(connection, self.directory / "landing", self.bodies.directory)
            return msgspec.structs.replace(found, clean=found.clean and not lost, faults=found.faults + lost)

        self._look(work, done)

    # Feeds.

    def checkpoint(self, feed: str, done: Done) -> None:
        self._ask(done, checkpoint_of, feed)

    def records_since(self, since: Checkpoint, done: Done) -> None:
        """``done((lines, checkpoint))``."""
        self._ask(done, read_records, self._segments, since)

    def find_reception(self, delivery: int, done: Done) -> None:
        """``done(record)``: the Reception of a delivery's message, with the evidence of its Delivery if that came soon;
        None where there is none."""

        def work() -> Any:
            with closing(store.connect(self._path, readonly=True)) as connection:
                return reception(connection, self._segments, delivery)

        self._find_pool.submit(self._answer, done, work)

    def read_through(self, since: float, read: Callable[[Iterator[bytes]], Any], done: Done) -> None:
        """``done(read(blocks))``: what ``read``, called on another thread, makes of all record lines that may be of
        ``since`` or later, oldest first, many in a block; a stop cuts it short."""

        def work(connection: sqlite3.Connection) -> Any:
            return read(takewhile(lambda block: not self._stopping, blocks(connection, self._segments, since)))

        self._look(work, done)

    def look(self, question: Callable[[sqlite3.Connection, Path], Any], done: Done) -> None:
        """``done(question(connection, segments))``: a long question, which is called on another thread."""
        self._look(lambda connection: question(connection, self._segments), done)

    def _look(self, question: Callable[[sqlite3.Connection], Any], done: Done) -> None:
        """A long question, so on a thread and a connection of its own."""

        def work() -> Any:
            connection = store.connect(self._path, readonly=True)
            try:
                return question(connection)
            finally:
                connection.close()

        self._long_pool.submit(self._answer, done, work)

    def advance(self, feed: str, to: Checkpoint, done: Done | None = None) -> None:
        self.writer.submit(advance(feed, to), done)

    def retain(self, prefix: str, feeds: Collection[str]) -> None:
        """Of the feeds whose names begin like this, records are kept for these only."""
        self.writer.submit(retain(prefix, feeds), None)

    # For a backup.

    def pause(self, job: Pause) -> None:
        """Nothing is committed until the pause ends.  Any thread."""
        self.writer.submit(job, None)

    def hold_contents(self, on: bool) -> None:
        """Contents outside the database stay where they are, or may go again.  Any thread; to begin, during a pause."""
        if on:
            self.bodies.hold()
            self._landing.hold()
        else:
            self.bodies.release()
            self.writer.submit(lambda connection: self._landing.release(), None)

    def free_bytes(self) -> int:
        """Free space where the spool lies."""
        return shutil.disk_usage(self.directory).free

    def _ask(self, done: Done, question: Callable[..., Any], *args: Any) -> None:
        self._read_pool.submit(self._answer, done, lambda: question(self._reading, *args))

    def _answer(self, done: Done, work: Callable[[], Any]) -> None:
        try:
            result = work()
        except Exception as error:  # the asker decides what a failed read means
            result = error
        self._post(done, result)


def _own(directory: Path) -> int:
    """Takes the spool for this process.  The lock goes with the process, however it ends."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SpoolError(f"the spool {directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise SpoolError(
            f"the spool {directory} is in use by the relayd with process id {owner}: stop it first, "
            "or give this one a spool of its own"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock
