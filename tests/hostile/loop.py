"""Real sockets under a clock that is moved by hand.

Time stands still while there is anything left to do, so a slow machine never looks like a slow peer; a time-out of
minutes takes milliseconds.
"""

import os
from collections.abc import Callable
from select import select
from time import monotonic
from typing import Any

from twisted.internet import reactor, tcp
from twisted.internet.task import Clock

START = 1_800_000_000.0
_TURNS = 100_000


class Loop(Clock):
    """Twisted's reactor, with this clock for its time."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = START
        self.real: Any = reactor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def connectTCP(self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None) -> Any:
        connector = tcp.Connector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        made = tcp.Port(port, factory, backlog, interface, self)
        made.startListening()
        return made

    def busy(self, patience: float = 0.0) -> bool:
        """Whether something is left to do at this moment, or comes from a thread within so many real seconds."""
        if (
            self.real.threadCallQueue
            or self.real.timeout() == 0
            or (self.calls and self.calls[0].getTime() <= self.rightNow)
        ):
            return True
        return bool(select([self.real._poller.fileno()], [], [], patience)[0])

    def turn(self) -> None:
        self.real.runUntilCurrent()
        self.real.doIteration(0)
        self.advance(0)

    def rest(self) -> None:
        """Does all there is to do at this moment."""
        left = _TURNS
        while self.busy(0.001):
            self.turn()
            left -= 1
            assert left, "it never comes to rest"

    def until(self, fact: Callable[[], Any], *, within: float = 0.0, patience: float = 60.0) -> None:
        """Goes on until something is so: without time passing, or ``within`` so many seconds of the clock."""
        limit, end = self.rightNow + within, monotonic() + patience
        while not fact():
            assert monotonic() < end, "it did not come to be"
            if self.busy(0.001):
                self.turn()
            elif self.rightNow < limit:
                self.advance(1.0)

    def wait(self, seconds: float) -> None:
        """Lets time pass, second by second."""
        self.rest()
        while seconds > 0:
            self.advance(min(1.0, seconds))
            self.rest()
            seconds -= 1.0


def sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:  # the one that listed the directory
            continue
    return count
