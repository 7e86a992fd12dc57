"""The process: what a relay is to the interpreter and to the system that runs it.

In: the main loop, once it turns; SIGHUP and SIGTERM; the spool's threads, which it cannot live without.  Out: an
interpreter fit for many small objects beside busy threads; a reload, a stop with exit code 0; systemd told what it
wants to know, and a watchdog that looks at the loop and the threads until the stop.
"""

import faulthandler
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.internet.threads import deferToThreadPool

from relayd.pulse import pulse
from relayd.transport import quicken_loop
from relayd.watchdog import EVERY, Heart, Sign, Systemd, Watchdog

# Seconds a thread waits for the GIL beside a busy reactor: with Python's 5 ms a commit takes far too long.
_SWITCH = 0.0005
_COLLECT = (20_000, 20, 50)  # allocations between collections: a message makes hundreds of objects and few cycles


class Process:
    """See the module.  ``hang_up`` is called for SIGHUP, on the main thread."""

    def __init__(self, reactor: Any, heart: Heart, hang_up: Callable[[], None]) -> None:
        self._reactor = reactor
        self._heart = heart
        self._hang_up = hang_up
        self._beating = pulse(reactor, heart.beat)
        self._watchdog: Watchdog | None = None
        self.systemd = Systemd()

    def tune(self) -> None:
        """Before anything is made."""
        sys.setswitchinterval(_SWITCH)
        quicken_loop()
        gc.freeze()  # modules and classes are there for good: no collection need look at them again
        gc.set_threshold(*_COLLECT)

    def start(self, threads: Mapping[str, Sign]) -> None:
        """``threads`` by their names."""
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._hang_up))
        self._reactor.callWhenRunning(self._running, threads)

    def _running(self, threads: Mapping[str, Sign]) -> None:
        """The main loop turns."""
        self._on_sigterm()
        if sys.__stderr__ is not None and not faulthandler.is_enabled():
            faulthandler.enable(sys.__stderr__)  # SIGABRT, which systemd's watchdog sends, shows all threads' stacks
        self._heart.last = time.monotonic()
        self._beating.start(EVERY)
        self._watchdog = Watchdog(self._heart, threads, self.systemd, threading.get_ident())
        self._watchdog.start()
        self.systemd.tell("READY=1")

    def _on_sigterm(self) -> None:
        """A stop that was asked for ends with exit code 0; twistd's own handler ends by the signal."""

        def stop() -> None:
            with suppress(ReactorNotRunning):  # a second signal while the first one's stop is under way
                self._reactor.stop()

        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(stop))

    def show(self, status: Callable[[], str]) -> None:
        """What the system shows of it, if anybody looks."""
        if self._watchdog is not None:
            self._watchdog.status = status()

    async def end_watch(self) -> None:
        """From here on threads end as they should; systemd's patience with a stop is its own."""
        if self._watchdog is not None:
            self._watchdog.stop()
            await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._watchdog.join)

    def stop(self) -> None:
        """After everything else."""
        if self._beating.running:
            self._beating.stop()
        gc.unfreeze()  # for a process that goes on without it
