"""All feeds of a relay: which there are, and how each does.

In: settings by name, again and again.  Out: a thread for each, stopped and begun anew as the settings change; rows for
people.  Nothing here waits for a sink: a feed that changes waits, on its own thread, for the one before it to end.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

from relayd.feeds.blocks import Blocks
from relayd.feeds.file import FileSink
from relayd.feeds.follower import Follower, Sink, checkpoints
from relayd.feeds.settings import FileSettings, RedisSettings, Settings
from relayd.notation import show_duration
from relayd.spool.segments import Checkpoint

LATE = 600.0  # seconds behind from which on somebody should know
_PREFIX = "feed "  # before a feed's name, among those for whom records are kept


class Spool(Protocol):
    """What feeds want of the spool: ``advance``: records before there may go; ``retain``: of those whose names begin
    like this, only these are waited for."""

    directory: Path

    def advance(self, feed: str, to: Checkpoint) -> None: ...
    def retain(self, prefix: str, feeds: Collection[str]) -> None: ...


class Feeds:
    """For the main thread.  ``told(name, fault)``, on any thread: a feed fails, or with "" it goes on."""

    def __init__(
        self,
        reactor: Any,
        spool: Spool,
        node: str,
        told: Callable[[str, str], object],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._spool = spool
        self._blocks = Blocks(spool.directory / "records", node)
        self._told = told
        self._wall = wall
        self._lock = threading.Lock()
        self._running: dict[str, Follower] = {}

    def start(self, wanted: Mapping[str, Settings]) -> None:
        """Forgets the feeds that are configured no more, and begins the others.  What cannot be read of where they
        stood is their fault, each one's: mail does not wait for it."""
        with suppress(sqlite3.Error, OSError, RuntimeError), closing(checkpoints(self._spool.directory)) as own, own:
            known = {name for (name,) in own.execute("SELECT name FROM feed")}
            own.executemany("DELETE FROM feed WHERE name = ?", [(name,) for name in known - set(wanted)])
        self.configure(wanted)
        self._retain()

    def configure(self, wanted: Mapping[str, Settings]) -> None:
        """Changed feeds go on at their checkpoints, new ones begin, those that are not wanted are forgotten."""
        before = self._running
        after: dict[str, Follower] = {}
        for name, settings in wanted.items():
            old = before.get(name)
            if old is None or old.settings != settings:
                if old is not None:
                    old.stop()
                after[name] = self._follower(name, settings, old)
            else:
                after[name] = old
        with self._lock:
            self._running = after
        for name, old in before.items():
            if name not in wanted:
                old.stop(forget=True)
        for follower in after.values():
            if not follower.ident:
                follower.start()

    def _follower(self, name: str, settings: Settings, old: Follower | None) -> Follower:
        hold = _PREFIX + name
        return Follower(
            name,
            settings,
            self._spool.directory,
            self._blocks,
            self._sink(settings),
            lambda to: self._spool.advance(hold, to),
            self._retain,
            lambda fault: self._told(name, fault),
            self._wall,
            old,
        )

    def _sink(self, settings: Settings) -> Sink:
        if isinstance(settings, RedisSettings):
            from relayd.feeds.redis import RedisSink

            return RedisSink(self._reactor, settings)
        assert isinstance(settings, FileSettings)
        return FileSink(settings, self._wall)

    def _retain(self) -> None:
        with self._lock:
            names = list(self._running)
        self._spool.retain(_PREFIX, [_PREFIX + name for name in names])

    def wake(self) -> None:
        """There are new records.  For any thread."""
        with self._lock:
            running = list(self._running.values())
        for follower in running:
            follower.wake()

    def stop(self, seconds: float = 10.0) -> None:
        """Ends all after what they have under way.  Blocks, so long at most; not on the main thread."""
        end = time.monotonic() + seconds
        for follower in self._running.values():
            follower.stop()
        for follower in self._running.values():
            follower.join(max(0.0, end - time.monotonic()))

    def faults(self) -> list[tuple[str, float, str]]:
        """Of each feed: its name, how many seconds it is behind, and what is wrong with it."""
        return [(name, follower.behind, follower.fault) for name, follower in self._running.items()]

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "type": "redis" if isinstance(follower.settings, RedisSettings) else "file",
                "behind": round(follower.behind, 1),
                "events": follower.events,
                "fault": follower.fault,
            }
            for name, follower in self._running.items()
        ]

    def warnings(self) -> list[str]:
        found = []
        for name, behind, fault in self.faults():
            if fault:
                found.append(f"feed {name}: {fault}")
            if behind > LATE:
                found.append(f"feed {name} is {show_duration(behind)} behind: records are kept until it has read them")
        return found
