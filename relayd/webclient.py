"""Questions to another system by HTTP: a POST, and an answer that is whole, short and in time, or none.

In: a URL, header fields, a body.  Out: status and body, or why there is no answer (``words``).  Redirects are not
followed.  Connections are kept for the next question.
"""

from io import BytesIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    FileBodyProducer,
    HostnameCachingHTTPSPolicy,
    HTTPConnectionPool,
    ResponseDone,
)
from twisted.web.http_headers import Headers

from relayd.reply import printable
from relayd.tls import failure as tls_failure

LONGEST = 64 << 10  # bytes of an answer
_KEPT = 10  # seconds that a connection waits for the next question: less than most servers keep theirs


class NoAnswer(Exception):
    """No answer came of asking; the text says why."""


class WebClient:
    """``timeout``: seconds for the whole of a question; ``trust``: whose certificates count (``tls.trust``);
    ``spare``: connections that are kept."""

    def __init__(self, reactor: Any, timeout: float, trust: Any, *, spare: int = 4) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = spare
        self._pool.cachedConnectionTimeout = _KEPT
        self._pool._factory.noisy = False  # else two lines in the log for each connection
        policy = HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(trust))
        self._agent = Agent(reactor, policy, pool=self._pool)

    def close(self) -> "Deferred[None]":
        """Closes the connections that are kept."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    def post(self, url: bytes, headers: Headers, body: bytes) -> "Deferred[tuple[int, bytes]]":
        """(status, body); fails with NoAnswer or what went wrong.  To be cancelled by who needs it no more."""

        def late(result: object, seconds: float) -> Failure:
            return Failure(NoAnswer(f"it does not answer within {seconds:g} s"))

        asked = Deferred.fromCoroutine(self._post(url, headers, body))
        return asked.addTimeout(self._timeout, self._reactor, late)

    async def _post(self, url: bytes, headers: Headers, body: bytes) -> tuple[int, bytes]:
        response: Any = await self._agent.request(b"POST", url, headers, FileBodyProducer(BytesIO(body)))
        gathering = _Body()
        response.deliverBody(gathering)
        return response.code, await gathering.whole


class _Body(Protocol):
    """Gathers an answer's body.  ``whole`` is done with it, or fails if it has no end or is longer than it may be."""

    transport: Any

    def __init__(self) -> None:
        # stopProducing closes the connection at once; TLS's loseConnection would wait for a peer that says nothing.
        self.whole: Deferred[bytes] = Deferred(lambda _: self.transport.stopProducing())
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        self._pieces.append(data)
        if self._size > LONGEST:
            self._pieces.clear()
            if not self.whole.called:
                self.whole.errback(NoAnswer(f"its answer is longer than {LONGEST >> 10} KB"))
                self.transport.stopProducing()

    def connectionLost(self, reason: Any = None) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(NoAnswer("its answer breaks off"))


def words(error: BaseException | None) -> str:
    """Why there is no answer, for an operator."""
    # Twisted wraps what happened to a connection into the request's failure.
    reasons = [reason.value for reason in getattr(error, "reasons", ())] or [error]
    found = (tls_failure(reason) or str(reason).rstrip(".") or type(reason).__name__ for reason in reasons)
    return printable("; ".join(found), 200)
