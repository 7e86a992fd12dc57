"""A crew of threads that run what they are given, with less ado than an executor: no futures, no locks of Python's own.

In: functions, from any thread.  Out: nothing; a function tells its result in its own way, and must not raise.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Crew:
    """``size`` threads, from now until ``stop``."""

    def __init__(self, size: int, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True) for n in range(size)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def stop(self) -> None:
        """Does what was submitted before, then ends.  Blocks."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
