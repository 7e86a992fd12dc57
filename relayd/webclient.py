"""Questions to another system by HTTP: a POST, and an answer that is whole, short and in time, or none; or news for it,
of which only the status has to come back.

In: a URL, header fields, a body.  Out: status and body, or why there is no answer (``words``).  Redirects are not
followed.  Connections are kept for the next question.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HostnameCachingHTTPSPolicy,
    HTTPConnectionPool,
    ResponseDone,
    _HTTP11ClientFactory,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from relayd.reply import printable
from relayd.tls import failure as tls_failure

LONGEST = 64 << 10  # bytes of an answer
_WHOLE = 4 * LONGEST  # of an answer with its head, which Twisted does not bound
_KEPT = 10  # seconds that a connection waits for the next question: less than most servers keep theirs
_REST = 2.0  # seconds for the body of an answer of which the status would do
_CONNECT = 5.0  # seconds for each address, where there are several
_ADDRESSES = 4  # that are tried

# The addresses of a host, given whether TLS will prove who is there; raises NoAnswer.
Find = Callable[[str, bool], Awaitable[Sequence[str]]]


class NoAnswer(Exception):
    """No answer came of asking; the text says why."""


class Sent(NamedTuple):
    """``body``: what came of it soon, cut to LONGEST."""

    status: int
    headers: Headers
    body: bytes


class WebClient:
    """``timeout``: seconds for the whole of a question; ``trust``: whose certificates count (``tls.trust``);
    ``spare``: connections that are kept, for ``kept`` seconds; ``find``: who says which addresses a host has and which
    of them may be used: connections go there and nowhere else."""

    def __init__(
        self, reactor: Any, timeout: float, trust: Any, *, spare: int = 4, kept: int = _KEPT, find: Find | None = None
    ) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = spare
        self._pool.cachedConnectionTimeout = kept
        self._pool._factory = _Factory
        policy = HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(trust))
        if find is None:
            self._agent = Agent(reactor, policy, pool=self._pool)
        else:
            self._agent = Agent.usingEndpointFactory(reactor, _Ways(reactor, policy, find), self._pool)

    def close(self) -> "Deferred[None]":
        """Closes the connections that are kept."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    def post(self, url: bytes, headers: Headers, body: bytes) -> "Deferred[tuple[int, bytes]]":
        """(status, body); fails with NoAnswer or what went wrong.  To be cancelled by who needs it no more."""
        return self._in_time(Deferred.fromCoroutine(self._post(url, headers, body)))

    async def _post(self, url: bytes, headers: Headers, body: bytes) -> tuple[int, bytes]:
        response: Any = await self._agent.request(b"POST", url, headers, _Content(body))
        gathering = _Body()
        response.deliverBody(gathering)
        return response.code, await gathering.whole

    def tell(self, url: bytes, headers: Headers, body: bytes) -> "Deferred[Sent]":
        """As ``post``, but once the status is there it is an answer, however the body goes on."""
        return Deferred.fromCoroutine(self._tell(url, headers, body))

    async def _tell(self, url: bytes, headers: Headers, body: bytes) -> Sent:
        asked = self._agent.request(b"POST", url, headers, _Content(body))
        response: Any = await self._in_time(asked)
        gathering = _Body(cut=True)
        response.deliverBody(gathering)
        hurry = self._reactor.callLater(_REST, gathering.end)
        try:
            return Sent(response.code, response.headers, await gathering.whole)
        finally:
            if hurry.active():
                hurry.cancel()

    def _in_time(self, asked: "Deferred[Any]") -> "Deferred[Any]":
        def late(result: object, seconds: float) -> Failure:
            return Failure(NoAnswer(f"it does not answer within {seconds:g} s"))

        return asked.addTimeout(self._timeout, self._reactor, late)


@implementer(IBodyProducer)
class _Content:
    """A body that is there already: it is written at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.length = len(content)

    def startProducing(self, consumer: Any) -> "Deferred[None]":
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class _Protocol(HTTP11ClientProtocol):
    """Ends an answer that is too long, whatever part of it."""

    _left = _WHOLE

    def request(self, request: Any) -> Any:
        self._left = _WHOLE
        return super().request(request)

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            super().dataReceived(data)
        else:
            transport: Any = self.transport
            transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(Failure(NoAnswer("its answer has no end")) if self._left < 0 else reason)


class _Factory(_HTTP11ClientFactory):
    noisy = False  # else two lines in the log for each connection

    def buildProtocol(self, addr: object) -> HTTP11ClientProtocol:
        return _Protocol(self._quiescentCallback)


@implementer(IAgentEndpointFactory)
class _Ways:
    """Makes endpoints that ask who knows for the addresses of their host."""

    def __init__(self, reactor: Any, policy: Any, find: Find) -> None:
        self.reactor = reactor
        self.policy = policy
        self.find = find

    def endpointForURI(self, uri: URI) -> "_Way":
        return _Way(self, uri)


class _Way:
    """Connects to the first address that answers.  The name is for the certificate; it is not looked up again."""

    def __init__(self, ways: _Ways, uri: URI) -> None:
        self._ways = ways
        self._uri = uri

    def connect(self, factory: Any) -> "Deferred[Any]":
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        uri, ways = self._uri, self._ways
        secure = uri.scheme == b"https"
        addresses = list(await ways.find(uri.host.decode("ascii").strip("[]"), secure))[:_ADDRESSES]
        for address in addresses:
            kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
            endpoint: Any = kind(ways.reactor, address, uri.port, _CONNECT)
            if secure:
                endpoint = wrapClientTLS(ways.policy.creatorForNetloc(uri.host.strip(b"[]"), uri.port), endpoint)
            try:
                return await endpoint.connect(factory)
            except CancelledError:
                raise
            except Exception:
                if address == addresses[-1]:
                    raise
        raise NoAnswer("its host has no address")


class _Body(Protocol):
    """Gathers an answer's body.  ``whole`` is done with it, or fails if it has no end or is longer than it may be;
    ``cut``: then it is done with what came."""

    transport: Any

    def __init__(self, cut: bool = False) -> None:
        self._cut = cut
        # stopProducing closes the connection at once; TLS's loseConnection would wait for a peer that says nothing.
        self.whole: Deferred[bytes] = Deferred(lambda _: self.transport.stopProducing())
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        if self.whole.called:
            return
        self._size += len(data)
        self._pieces.append(data)
        if self._size <= LONGEST:
            return
        if self._cut:
            self.end()
        else:
            self._pieces.clear()
            self.whole.errback(NoAnswer(f"its answer is longer than {LONGEST >> 10} KB"))
            self.transport.stopProducing()

    def end(self) -> None:
        """That will do."""
        if not self.whole.called:
            self.whole.callback(b"".join(self._pieces)[:LONGEST])
            self.transport.stopProducing()

    def connectionLost(self, reason: Any = None) -> None:
        if self.whole.called:
            return
        if self._cut or reason.check(ResponseDone):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(NoAnswer("its answer breaks off"))


def words(error: BaseException | None) -> str:
    """Why there is no answer, for an operator."""
    # Twisted wraps what happened to a connection into the request's failure.
    reasons = [reason.value for reason in getattr(error, "reasons", ())] or [error]
    found = (tls_failure(reason) or str(reason).rstrip(".") or type(reason).__name__ for reason in reasons)
    return printable("; ".join(found), 200)
