"""Export jobs: the events of a time as a file that somebody fetches.

In: what is wanted.  Out: ``<spool>/exports/<id>.csv.gz`` or ``.jsonl.gz``, whole or not there at all, beside the job
that made it (``<id>.json``).  One job works at a time, in a process of its own (``workers``); one that a stop or a
crash interrupted begins anew.  Files go when they are old, or when they are too much together, the oldest first.
"""

import base64
import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from relayd.errors import InputError
from relayd.history.export import Progress, Wanted
from relayd.history.work import Work
from relayd.spool.files import sync_directory
from relayd.workers import Worker

MOST = 20  # jobs that wait
PIECE = 384 << 10  # bytes of a file that are fetched at a time
_LOOK = 60.0  # seconds between looks for what is old

State = Literal["waiting", "running", "done", "failed", "cancelled"]


class Job(msgspec.Struct, frozen=True):
    """``why`` it failed, or what its reader should know; ``size`` of the file, packed."""

    id: str
    wanted: Wanted
    who: str
    asked: float
    state: State = "waiting"
    why: str = ""
    ended: float = 0.0
    progress: Progress = Progress()
    size: int = 0

    @property
    def file(self) -> str:
        return f"{self.id}.{self.wanted.format}.gz"

    @property
    def is_over(self) -> bool:
        return self.state not in ("waiting", "running")


class Settings(msgspec.Struct, frozen=True):
    """``keep`` seconds, ``max_size`` bytes together; ``min_free``: with less on the disk nothing is written."""

    keep: float
    max_size: int
    min_free: int


class Exports:
    """For the main thread.  ``free()``, for any thread: bytes that are left on the disk; ``post`` brings a call to the
    main thread; ``fault(text)`` is called there."""

    def __init__(
        self,
        spool: Path,
        node: str,
        settings: Settings,
        free: Callable[[], int],
        post: Callable[..., Any],
        fault: Callable[[str], object],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.jobs: dict[str, Job] = {}
        self._spool = spool
        self._directory = spool / "exports"
        self._node = node
        self._free = free
        self._post = post
        self._fault = fault
        self._wall = wall
        self._lock = threading.Lock()  # of jobs, which two threads change
        self._files = ThreadPoolExecutor(1, "export-files")
        self._wake = threading.Event()
        self._stopping = False
        self._worker: tuple[str, Worker] | None = None
        self._begun = 0.0
        self._thread = threading.Thread(target=self._run, name="exports", daemon=True)

    def start(self) -> None:
        """Takes up what was left.  If the disk will not, that is a fault of exports alone."""
        try:
            self._take_up()
        except OSError as error:
            self._post(self._fault, f"exports cannot go on: {error}")
        self._thread.start()

    def _take_up(self) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(self._directory.iterdir()):
            if path.suffix == ".json":
                with suppress(msgspec.DecodeError, OSError):  # of what cannot be read, the file goes below
                    job = msgspec.json.decode(path.read_bytes(), type=Job)
                    self.jobs[job.id] = job if job.is_over else msgspec.structs.replace(job, state="waiting")
        known = {name for job in self.jobs.values() for name in (f"{job.id}.json", job.file)}
        for path in self._directory.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends the job under way, which begins anew at the next start.  Blocks for a moment."""
        self._stopping = True
        self._wake.set()
        if self._worker:
            self._worker[1].kill()
        self._thread.join(10)
        self._files.shutdown()

    # What verbs ask.

    def add(self, wanted: Wanted, who: str) -> "Future[Job]":
        """The job, once it is on disk.  Raises InputError."""
        if sum(not job.is_over for job in self.jobs.values()) >= MOST:
            raise InputError("", f"{MOST} exports wait already: wait until one is done, or cancel one")
        if self._free() < self.settings.min_free:
            raise InputError("", _FULL)
        job = Job(secrets.token_hex(6), wanted, who, self._wall())

        def begin() -> Job:
            self._write(job)
            with self._lock:
                self.jobs[job.id] = job
            self._wake.set()
            return job

        return self._asked(begin)

    def get(self, id: str, account: str = "") -> Job:
        """A job, for an account only its own.  Raises InputError."""
        job = self.jobs.get(id)
        if job is None or (account and job.wanted.account != account):
            raise InputError("id", f"there is no export {id!r}: relayctl export list shows those there are")
        return job

    def cancel(self, id: str, account: str = "") -> "Future[Job]":
        """Ends a job; of one that is over the file goes."""
        self.get(id, account)

        def end() -> Job:
            with self._lock:
                job = self.get(id)
                job = msgspec.structs.replace(job, state="cancelled", ended=self._wall(), size=0)
                self.jobs[id] = job
                worker = self._worker
            if worker and worker[0] == id:
                worker[1].kill()
            self._write(job)
            self._unlink(job.file)
            return job

        return self._asked(end)

    def piece(self, id: str, after: int, account: str = "") -> "Future[dict[str, Any]]":
        """{"data": base64, "next": where the next begins or None} of the file."""
        job = self.get(id, account)
        if job.state != "done":
            words = "it is not done yet" if not job.is_over else f"it is {job.state}: {job.why}".removesuffix(": ")
            raise InputError("id", f"there is nothing to fetch of {id}: {words}")

        def read() -> dict[str, Any]:
            with open(self._directory / job.file, "rb") as file:
                file.seek(after)
                data = file.read(PIECE)
            end = after + len(data)
            return {"data": base64.b64encode(data).decode(), "next": end if data and end < job.size else None}

        return self._asked(read)

    def left(self, job: Job) -> float:
        """About how many seconds a running job will take still; 0.0: nobody knows."""
        done, spent = job.progress.done, self._wall() - self._begun
        return spent * (job.progress.of - done) / done if job.state == "running" and done and spent > 1 else 0.0

    def _asked(self, work: Callable[[], Any]) -> "Future[Any]":
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                result: Any = work()
            except Exception as error:
                self._post(answer.set_exception, error)
            else:
                self._post(answer.set_result, result)

        self._files.submit(run)
        return answer

    # The thread of jobs.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._tidy()
                job = self._next()
                if job is None:
                    self._wake.wait(_LOOK)
                    self._wake.clear()
                else:
                    self._perform(job)
                self._post(self._fault, "")
            except Exception as error:  # whatever it is: the next job must not wait for ever
                self._post(self._fault, f"exports cannot go on: {error}")
                self._wake.wait(_LOOK)

    def _next(self) -> Job | None:
        with self._lock:
            waiting = [job for job in self.jobs.values() if job.state == "waiting"]
        return min(waiting, key=lambda job: job.asked, default=None)

    def _perform(self, job: Job) -> None:
        worker = Worker()
        with self._lock:
            if self.jobs[job.id].state != "waiting":
                return
            self._worker = (job.id, worker)
            self.jobs[job.id] = job = msgspec.structs.replace(job, state="running")
        self._begun = self._wall()
        part = self._directory / f"{job.file}.part"
        why = ""

        def line(said: bytes) -> None:
            nonlocal why
            self._change(job.id, progress=msgspec.json.decode(said, type=Progress))
            if self._free() < self.settings.min_free:
                why = _FULL
                worker.kill()

        try:
            most = self.settings.max_size
            end = worker.run(Work(str(self._spool), self._node, export=job.wanted, path=str(part), most=most), line)
            if self._stopping:
                return
            if end.why == "most":
                why = f"it has more than [exports] max_size, {most} bytes packed: ask for a shorter time"
            why = why or end.error
            if why:
                part.unlink(missing_ok=True)
                self._end(job.id, "failed", why)
            elif end.progress is not None:
                self._finish(job, part, end.progress)
        except OSError as error:
            self._end(job.id, "failed", str(error))
        finally:
            with self._lock:
                self._worker = None
            part.unlink(missing_ok=True)

    def _finish(self, job: Job, part: Path, progress: Progress) -> None:
        size = part.stat().st_size
        with self._lock:
            if self.jobs[job.id].state != "running":
                return
            os.rename(part, self._directory / job.file)
        sync_directory(self._directory)
        why = (
            f"records are there from {_utc(progress.oldest)} on only" if progress.oldest > job.wanted.since + 1 else ""
        )
        self._end(job.id, "done", why, progress=progress, size=size)

    def _change(self, id: str, **values: Any) -> Job | None:
        """What a running job is like now; None if it was ended meanwhile."""
        with self._lock:
            if self.jobs[id].state != "running":
                return None
            job = self.jobs[id] = msgspec.structs.replace(self.jobs[id], **values)
        return job

    def _end(self, id: str, state: State, why: str, **values: Any) -> None:
        if self._change(id, state=state, why=why, ended=self._wall(), **values):
            self._files.submit(lambda: self._write(self.jobs[id])).result()

    def _tidy(self) -> None:
        """Forgets what is old, and the oldest of what is too much together."""
        now, left = self._wall(), self.settings.max_size
        with self._lock:
            over = sorted((job for job in self.jobs.values() if job.is_over), key=lambda job: -job.ended)
        for job, size in zip(over, itertools.accumulate(job.size for job in over), strict=True):
            if now - job.ended > self.settings.keep or (job.size and size > left):
                self._files.submit(self._forget, job).result()

    # Files: all of it on the one thread of these.

    def _forget(self, job: Job) -> None:
        with self._lock:
            del self.jobs[job.id]
        self._unlink(job.file)
        self._unlink(f"{job.id}.json")

    def _write(self, job: Job) -> None:
        path = self._directory / f"{job.id}.json"
        part = path.with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(job))
            file.flush()
            os.fsync(file.fileno())
        os.rename(part, path)
        sync_directory(self._directory)

    def _unlink(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)


_FULL = "the disk has less left than [node] min_free: make room, then start it again"


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
