"""The watchdog: sees whether the main loop and the spool's threads are alive, says so when they are not, and lets
systemd restart a relay that is not.

In: the heartbeat of the main loop, the signs of life of threads.  Out: warnings with the stack that the main thread
stands in; what sd_notify(3) knows: READY, RELOADING, STOPPING, STATUS, and WATCHDOG only while all is alive.
"""

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from math import inf
from typing import Protocol

from twisted.logger import Logger

from relayd.histogram import Histogram
from relayd.reply import printable

EVERY = 1.0  # seconds between beats, and between looks
LATE = 5.0  # seconds that a beat may be late: more is a stall
DEAD = 30.0  # seconds without a sign of life after which a restart is the cure
RECENT = 600.0  # seconds for which health tells of a stall
_LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_STATUS = 15.0  # seconds between looks at the status, where no sign of life is wanted
_FRAMES = 30  # innermost ones of a stack that are shown

log = Logger()


class Sign(Protocol):
    """A thread that says when it was last alive (monotonic seconds)."""

    beat: float

    def is_alive(self) -> bool: ...


class Heart:
    """The main loop's: ``beat`` is called there every EVERY seconds.  ``lags``: how late beats were, ``stalls``: how
    many of them by more than LATE; ``longest``: the worst of these.  Only ``last`` is for other threads."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.last = now()
        self.lags = Histogram(_LAGS)
        self.stalls = 0
        self.longest = 0.0
        self._stalled = (-inf, 0.0)  # when the last stall was over, and how long it lasted

    def beat(self) -> None:
        now = self._now()
        lag = max(0.0, now - self.last - EVERY)
        self.last = now
        self.lags.add(lag)
        if lag > LATE:
            self.stalls += 1
            self.longest = max(self.longest, lag)
            self._stalled = now, lag
            log.warn("The event loop stood still for {seconds:.1f} s; it goes on", seconds=lag)

    def warning(self) -> str:
        """What is to be said of a stall of the last minutes, "" if there was none."""
        ended, lasted = self._stalled
        ago = self._now() - ended
        return f"the event loop stood still for {lasted:.1f} s, {ago:.0f} s ago" if ago < RECENT else ""


class Systemd:
    """The service manager, if it is one that wants to be told (sd_notify(3)); else nothing happens.  ``watchdog``: it
    wants a sign of life within so many seconds, 0.0 for none."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        wanted = environ.get("WATCHDOG_USEC", "")
        self.watchdog = int(wanted) / 1e6 if self._address and ours and wanted.isdecimal() else 0.0

    def tell(self, *lines: str) -> None:
        """Any thread.  Waits a second at most; what cannot be told is logged."""
        if not self._address:
            return
        abstract = self._address.startswith("@")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
                way.settimeout(1.0)
                way.sendto("\n".join(lines).encode(), "\0" + self._address[1:] if abstract else self._address)
        except OSError as error:
            log.error("systemd cannot be told {what}: {error}", what=lines[0], error=str(error))

    def reloading(self) -> None:
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


class Watchdog(threading.Thread):
    """See the module.  ``threads`` by their names; ``status``: a line for the operator, set by the main thread."""

    def __init__(
        self,
        heart: Heart,
        threads: Mapping[str, Sign],
        systemd: Systemd,
        main: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``main``: the main thread's identity."""
        super().__init__(name="watchdog", daemon=True)
        self._heart = heart
        self._threads = threads
        self._systemd = systemd
        self._main = main
        self._now = now
        self._over = threading.Event()
        self._stall = -inf  # the beat after which the stall came that was told last
        self._fault = self._said = ""  # what was told last
        self._next = -inf  # when systemd is told next
        self.status = ""

    def stop(self) -> None:
        """Join it afterwards."""
        self._over.set()

    def run(self) -> None:
        every = min(EVERY, self._systemd.watchdog / 4 or EVERY)
        while not self._over.wait(every):
            try:
                self.look()
            except Exception:
                log.failure("The watchdog failed to look; it goes on")

    def look(self) -> None:
        now = self._now()
        beat = self._heart.last
        if now - beat - EVERY > LATE and beat != self._stall:
            self._stall = beat
            log.warn(
                "The event loop has stood still for {seconds:.1f} s. The main thread is at:\n{stack}",
                seconds=now - beat - EVERY,
                stack=self._stack(),
            )
        fault = self.fault(now)
        if fault and fault != self._fault:
            log.critical("{fault}: this takes a restart", fault=fault)
        if now >= self._next or fault != self._fault:
            self._next = now + (self._systemd.watchdog / 2 or _STATUS)
            self._tell(fault)
        self._fault = fault

    def _tell(self, fault: str) -> None:
        said = printable(fault or self.status, 300)
        lines = ["WATCHDOG=1"] if self._systemd.watchdog and not fault else []
        if said != self._said:
            self._said = said
            lines.append(f"STATUS={said}")
        if lines:
            self._systemd.tell(*lines)

    def fault(self, now: float) -> str:
        """Why the process should be restarted, "" while it should not."""
        if now - self._heart.last > DEAD:
            return f"the event loop has stood still for more than {DEAD:.0f} s"
        for name, thread in self._threads.items():
            if not thread.is_alive():
                return f"{name} has broken down"
            if now - thread.beat > DEAD:
                return f"{name} has shown no sign of life for more than {DEAD:.0f} s"
        return ""

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._main)
        return "".join(traceback.format_stack(frame)[-_FRAMES:]).rstrip() if frame else "(it has ended)"
