"""Bodies too large for a row: files ``bodies/<message id>``, written while they arrive and read while they leave.

Enter: chunks from the main thread.  Leave: a file, fsynced with its directory before the message's row is committed.
All file work runs in a small thread pool; what waits for it is counted, so that a session can be paused, and its end is
told through ``post`` on the main thread.  A file without a row (a crash before the commit) is swept at start.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any

from relayd.identity import show
from relayd.spool.files import sync_directory

INLINE = 64 << 10  # bodies up to this live in their row: one fsync less, and SQLite is quicker than a file here
CHUNK = 64 << 10
HIGH_WATER = 256 << 10  # bytes of one body waiting for the disk at which its session pauses

Post = Callable[..., Any]


class Bodies:
    """The directory of body files."""

    def __init__(self, directory: Path, pool: Executor, post: Post) -> None:
        self.directory = directory
        self._pool = pool
        self._post = post
        self._lock = threading.Lock()
        self._held: list[int] | None = None  # those whose files go later, while files are held
        directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, message: int) -> Path:
        return self.directory / show(message)

    def create(self, message: int) -> "BodyWriter":
        return BodyWriter(self.path(message), self._pool, self._post)

    def read(self, message: int, offset: int, done: Callable[[bytes | OSError], Any]) -> None:
        """Calls ``done`` on the main thread with up to CHUNK bytes from ``offset`` (b"" at the end), or the error."""

        def work() -> None:
            try:
                with open(self.path(message), "rb") as file:
                    file.seek(offset)
                    piece: bytes | OSError = file.read(CHUNK)
            except OSError as error:
                piece = error
            self._post(done, piece)

        self._pool.submit(work)

    def load(self, message: int, limit: int, done: Callable[[bytes | OSError], Any]) -> None:
        """Calls ``done`` on the main thread with the whole body, or one byte more than ``limit`` of it."""

        def work() -> None:
            try:
                with open(self.path(message), "rb") as file:
                    body: bytes | OSError = file.read(limit + 1)
            except OSError as error:
                body = error
            self._post(done, body)

        self._pool.submit(work)

    def unlink(self, messages: list[int]) -> None:
        """Removes files whose messages are gone, or as soon as they are not held.  Any thread."""
        with self._lock:
            if self._held is not None:
                self._held += messages
                return
        for message in messages:
            with suppress(OSError):  # what stays is swept at the next start
                self.path(message).unlink()

    def hold(self) -> None:
        """Files stay where they are from now on.  Any thread."""
        with self._lock:
            self._held = self._held or []

    def release(self) -> None:
        """They go again, and those that should have gone meanwhile go now.  Any thread."""
        with self._lock:
            held, self._held = self._held or [], None
        self.unlink(held)

    def sweep(self, known: set[int]) -> int:
        """At start: removes files that no message owns; says how many."""
        names = {show(message) for message in known}
        orphans = [path for path in self.directory.iterdir() if path.name not in names]
        for path in orphans:
            with suppress(OSError):  # nobody's mail: no reason not to start
                path.unlink()
        return len(orphans)


class BodyWriter:
    """One file being written.  Main thread only, but for its own pool work."""

    def __init__(self, path: Path, pool: Executor, post: Post) -> None:
        self._path = path
        self._pool = pool
        self._post = post
        self._lock = threading.Lock()
        self._chunks: list[bytes] = []
        self._working = False
        self._file: int | None = None
        self._error: OSError | None = None
        self._abandoned = False
        self._removed = False
        self._finish: Callable[[OSError | None], Any] | None = None
        self.drained: Callable[[], Any] | None = None
        self.waiting = 0

    @property
    def full(self) -> bool:
        """More waits for the disk than should: pause the session until ``drained`` is called."""
        return self.waiting > HIGH_WATER

    def write(self, chunk: bytes) -> None:
        self.waiting += len(chunk)
        with self._lock:
            self._chunks.append(chunk)
            self._kick()

    def finish(self, done: Callable[[OSError | None], Any]) -> None:
        """Calls ``done(None)`` once all is on disk, ``done(error)`` if it could not be."""
        with self._lock:
            self._finish = done
            self._kick()

    def abandon(self) -> None:
        """The message will not be: the file goes, what is written later is dropped, and ``finish`` is not answered."""
        with self._lock:
            self._abandoned = True
            self._kick()

    def _kick(self) -> None:
        if not self._working:
            self._working = True
            self._pool.submit(self._work)

    def _work(self) -> None:
        """One pool thread at a time is here: it goes on until nothing is left to do."""
        while True:
            with self._lock:
                chunks, self._chunks = self._chunks, []
                finish, self._finish = self._finish, None
                if not (chunks or finish or (self._abandoned and not self._removed)):
                    self._working = False
                    return
                if self._abandoned:
                    self._removed = True
            if self._removed:
                self._remove()
            elif chunks or finish:
                self._append(b"".join(chunks))
            if chunks:
                self._post(self._written, sum(map(len, chunks)))
            if finish and not self._removed:
                self._sync()
                self._post(finish, self._error)

    def _append(self, data: bytes) -> None:
        if self._error is not None:
            return
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self._error = error

    def _sync(self) -> None:
        try:
            if self._file is not None and self._error is None:
                os.fdatasync(self._file)
                sync_directory(self._path.parent)
            self._close()
        except OSError as error:
            self._error = error
        if self._error is not None:
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self._close()
        with suppress(OSError):  # what stays is swept at the next start
            self._path.unlink()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _written(self, size: int) -> None:
        self.waiting -= size
        if self.drained and not self.full:
            drained, self.drained = self.drained, None
            drained()
