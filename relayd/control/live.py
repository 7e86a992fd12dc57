"""Live views: a verb that reads, asked again and again, as server-sent events (WHATWG HTML, section 9.2).

In: a request whose Accept is text/event-stream, and a call that asks the verb.  Out: an event with the answer when it
differs from the last one, a comment now and then that keeps proxies from giving up, an event "error" before the end if
there is one.  One question at a time, and none while the peer does not take what it was sent; who takes nothing for
long is cut off.
"""

from collections.abc import Callable
from math import isnan, nan
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request
from zope.interface import implementer

from relayd.control.verb import EVERY

MOST = 100  # streams at once
_PATIENCE = 300.0  # seconds for which a peer may take nothing
_ALIVE = 15.0  # seconds after which a comment is sent

Ask = Callable[[], "Deferred[tuple[int, bytes]]"]  # status and body


def wanted(request: Request) -> bool:
    """Whether the request wants a stream."""
    accepts = request.getHeader(b"accept") or b""
    return request.method == b"GET" and b"text/event-stream" in accepts


def pace(given: dict[str, Any]) -> float:
    """Takes ``every`` seconds out of the arguments of a stream.  Raises ValueError."""
    least, meant, most = EVERY
    value = given.pop("every", None)
    try:
        seconds = float(meant if value is None else value)
    except (TypeError, ValueError, OverflowError):
        seconds = nan
    if isnan(seconds):
        raise ValueError("is not a number of seconds")
    return min(max(seconds, least), most)


@implementer(IPushProducer)
class Stream:
    """``over`` is called once, when it has ended for whatever reason."""

    _log = Logger()

    def __init__(self, reactor: Any, request: Request, every: float, ask: Ask, over: Callable[[], None]) -> None:
        self._reactor = reactor
        self._request: Any = request  # Twisted's annotations are partial
        self._every = every
        self._ask = ask
        self._over = over
        self._last = b""
        self._sent = 0.0  # when anything was sent last
        self._full = False
        self._since = 0.0  # when it became full
        self._ended = False
        self._asking: Any = None
        self._next: Any = None

    def begin(self) -> None:
        request = self._request
        request.setHeader(b"Content-Type", b"text/event-stream; charset=utf-8")
        request.setHeader(b"Cache-Control", b"no-store")
        request.setHeader(b"X-Accel-Buffering", b"no")
        request.notifyFinish().addBoth(lambda _: self._end())
        request.registerProducer(self, True)
        self._send(b"retry: 3000\n\n")
        self._look()

    # The peer's pace.

    def pauseProducing(self) -> None:
        self._full, self._since = True, self._reactor.seconds()

    def resumeProducing(self) -> None:
        self._full = False

    def stopProducing(self) -> None:
        self._end()

    # What it says.

    def _look(self) -> None:
        self._next = None
        if self._full:
            if self._reactor.seconds() - self._since < _PATIENCE:
                self._later()
            else:
                self._end()
                self._request.channel.transport.abortConnection()
            return
        self._asking = maybeDeferred(self._ask)
        self._asking.addCallbacks(self._answered, self._failed).addErrback(self._broken)

    def _answered(self, answer: tuple[int, bytes]) -> None:
        self._asking = None
        if self._ended:
            return
        status, body = answer
        if status >= 400 and status != 503:
            self._finish(body)
            return
        if body != self._last:
            self._last = body
            self._send(_event(b"", body))
        elif self._reactor.seconds() - self._sent >= _ALIVE:
            self._send(b":\n\n")
        self._later()

    def _failed(self, failure: Failure) -> None:
        self._asking = None
        if not self._ended:
            self._finish(str(failure.getErrorMessage()).encode())

    def _broken(self, failure: Failure) -> None:
        self._log.failure("A live view failed", failure)
        self._end()

    def _later(self) -> None:
        if not self._ended:
            self._next = self._reactor.callLater(self._every, self._look)

    def _send(self, data: bytes) -> None:
        self._sent = self._reactor.seconds()
        self._request.write(data)

    def _finish(self, body: bytes) -> None:
        self._send(_event(b"error", body))
        self._request.unregisterProducer()
        self._request.finish()
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._asking is not None:
            self._asking.addErrback(lambda _: None)
            self._asking.cancel()
        self._over()


def _event(name: bytes, body: bytes) -> bytes:
    head = b"event: %s\n" % name if name else b""
    return head + b"".join(b"data: %s\n" % line for line in body.splitlines() or [b""]) + b"\n"
