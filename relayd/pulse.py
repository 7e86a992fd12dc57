"""A pulse: something done every so many seconds, whatever it runs into."""

from collections.abc import Callable
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

log = Logger()


def pulse(reactor: Any, beat: Callable[[], None]) -> LoopingCall:
    """A call to be started.  An exception is logged and the next beat comes: a bug must not stop the heart."""

    def guarded() -> None:
        try:
            beat()
        except Exception:
            log.failure("A periodic task failed; it goes on")

    call = LoopingCall(guarded)
    call.clock = reactor
    return call
