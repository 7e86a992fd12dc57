"""Processes that read records for us (``history.work``), a few at a time.

In: what to do.  Out: its lines, as they come, and how it ended.  A worker that takes too long, or is not wanted any
more, is killed; one whose relay has gone ends at its next word.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from relayd.errors import InputError
from relayd.history.grep import Wanted
from relayd.history.work import End, Work

_GRACE = 2.0  # seconds that a worker may take beyond its time to say so
_AT_ONCE = 2
_WAITING = 8
_MOST = 16 << 20  # bytes of an answer

# Isolated, and with our own path: it imports what we imported, whatever lies in the working directory.
_PROGRAM = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from relayd.history.work import main; main()"


class Worker:
    """One process.  ``run`` blocks, for the thread that made it; ``kill`` is for any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def run(self, work: Work, line: Callable[[bytes], object]) -> End:
        """``line`` gets every line but the last, without its end.  Raises OSError if it cannot be started."""
        with self._lock:
            if self._killed:
                return End("killed")
            process = self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
            )
        late = threading.Timer(work.seconds + _GRACE, self.kill) if work.seconds else None
        try:
            if late:
                late.start()
            assert process.stdin is not None and process.stdout is not None
            with process.stdin as given:
                given.write(msgspec.json.encode(work))
            for said in process.stdout:
                if said.startswith(b'{"end":'):
                    return msgspec.json.decode(said, type=End)
                line(said[:-1])
        except BrokenPipeError:
            pass  # it ended early: its code says more
        finally:
            if late:
                late.cancel()
            self._reap(process)
        if self._killed:
            return End("killed")
        return End(error=f"the process that reads records ended with {process.returncode}")

    def _reap(self, process: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._process = None
            process.kill()  # it has said its last word, or has no one to say it to
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def kill(self) -> None:
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()


class Workers:
    """Those that look for something in the records."""

    def __init__(self, spool: str, node: str, post: Callable[..., Any]) -> None:
        self._spool = spool
        self._node = node
        self._post = post
        self._pool = ThreadPoolExecutor(_AT_ONCE, "records-grep")
        self._running: set[Worker] = set()

    def grep(self, wanted: Wanted, limit: int, seconds: float) -> "Future[tuple[list[dict[str, Any]], End]]":
        """(events, how it ended), the newest first.  Raises InputError if too many ask."""
        if len(self._running) >= _WAITING:
            raise InputError("", "too many are looking for something in the records: try again in a minute")
        worker, answer = Worker(), Future[tuple[list[dict[str, Any]], End]]()
        self._running.add(worker)

        def look() -> None:
            found: list[dict[str, Any]] = []
            size = 0

            def line(said: bytes) -> None:
                nonlocal size
                size += len(said)
                if size > _MOST:
                    worker.kill()
                else:
                    found.append(json.loads(said))

            try:
                work = Work(self._spool, self._node, find=wanted, seconds=seconds, most=limit)
                result: Any = (found, worker.run(work, line))
            except Exception as error:
                result = error
            self._post(done, result)

        def done(result: Any) -> None:
            self._running.discard(worker)
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self._pool.submit(look)
        return answer

    def stop(self) -> None:
        """Ends all that run.  Blocks for a moment."""
        for worker in list(self._running):
            worker.kill()
        self._pool.shutdown()
