"""What is served over HTTP: ``/metrics`` for Prometheus, ``/livez``, ``/readyz`` and ``/healthz`` for who decides where
traffic goes or what is restarted.

Enter: requests from named networks.  Leave: text, JSON.  One request a connection, half a minute for it, few of them at
once, no body, nothing said of the server.  What is read of the relay is read on the main thread; text is made of it in
another, for a page may be long.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import Request as BareRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from relayd import notation
from relayd.health import Health
from relayd.metrics.collector import Collector, Process, encoded
from relayd.spool import Spool
from relayd.waiting import asked

VISITS = 20  # connections at once
LONGEST = 30.0  # seconds for one, from its first to its last byte
PARTING = 5.0  # seconds that a stop waits for those under way
_PATIENCE = 5.0  # seconds that the spool may take to say how much is queued
_LOOPBACK = ("127.0.0.0/8", "::1/128")
_TEXT, _JSON = b"text/plain; charset=utf-8", b"application/json"


class Watched(Protocol):
    """What is asked of the relay, besides the metrics.  ``depth``: how many deliveries are queued, and when the oldest
    came in, as it was told last; None: unknown."""

    spool: Spool
    health: Health
    depth: tuple[int, float] | None


class MetricsService(Service):
    """Listens while it runs.  ``allow``: networks that may ask; none: this machine."""

    def __init__(self, reactor: Any, endpoint: str, allow: tuple[str, ...], relay: Watched) -> None:
        self.setName(f"metrics {endpoint}")
        self.endpoint = endpoint
        self._reactor = reactor
        self._page = _Page(reactor, allow, relay)
        self._door = _Door(_Site(self._page, reactor=reactor), reactor)
        self._port: Any = None

    @property
    def allow(self) -> tuple[str, ...]:
        return self._page.allow

    @allow.setter
    def allow(self, allow: tuple[str, ...]) -> None:
        self._page.allow = allow

    async def listen(self) -> None:
        """Opens the port.  Raises CannotListenError."""
        self._port = await serverFromString(self._reactor, self.endpoint).listen(self._door)

    def stopService(self) -> "Deferred[None]":
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
        await self._door.emptied(PARTING)


class _Visit(ProtocolWrapper):
    """One connection."""

    _end: Any = None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._end = self.factory.reactor.callLater(LONGEST, transport.abortConnection)
        super().connectionMade()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        if self._end is not None and self._end.active():
            self._end.cancel()
        super().connectionLost(reason)


class _Door(WrappingFactory):
    """Lets few in at once."""

    protocol = _Visit
    noisy = False

    def __init__(self, site: Site, reactor: Any) -> None:
        super().__init__(site)
        self.reactor = reactor
        self._empty: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Any:
        return super().buildProtocol(addr) if len(self.protocols) < VISITS else None

    def unregisterProtocol(self, p: Any) -> None:
        super().unregisterProtocol(p)
        if self._empty is not None and not self.protocols:
            empty, self._empty = self._empty, None
            empty.callback(None)

    async def emptied(self, patience: float) -> None:
        """Once everybody has gone; who has not by then is sent away."""
        if not self.protocols:
            return
        empty = self._empty = Deferred()
        cut = self.reactor.callLater(patience, self._cut)
        await empty
        if cut.active():
            cut.cancel()

    def _cut(self) -> None:
        for visit in list(self.protocols):
            visit.transport.abortConnection()


class _Request(Request):
    """One that has no body: what comes of one is dropped."""

    _bodied = False

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)

    def handleContentChunk(self, data: bytes) -> None:
        self._bodied = True

    def process(self) -> None:
        self.channel.persistent = False
        if self._bodied:
            _answer(self, 413, _TEXT, b"a request has no body\n")
        else:
            super().process()


class _Site(Site):
    """Writes no line for each request."""

    requestFactory = _Request
    displayTracebacks = False
    noisy = False

    def log(self, request: BareRequest) -> None:
        pass


class _Page(Resource):
    """Every path."""

    isLeaf = True
    _log = Logger()

    def __init__(self, reactor: Any, allow: tuple[str, ...], relay: Watched) -> None:
        super().__init__()
        self._reactor = reactor
        self.allow = allow
        self._relay = relay
        self._collector = Collector(relay)
        self._process = Process()

    def render(self, request: Request) -> int:
        answer = self._ANSWERS.get(request.path)
        if not self._admits(request):
            _answer(request, 403, _TEXT, b"your address is not in [metrics] allow\n")
        elif answer is None:
            _answer(request, 404, _TEXT, b"there are /metrics, /livez, /readyz and /healthz\n")
        elif request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"Allow", b"GET, HEAD")
            _answer(request, 405, _TEXT, b"ask with GET\n")
        else:
            answer(self, request)
        return NOT_DONE_YET

    def _admits(self, request: Request) -> bool:
        host = getattr(request.getClientAddress(), "host", None)
        # On a UNIX socket, whom the file's mode admits.
        return host is None or notation.within(host, self.allow or _LOOPBACK)

    def _live(self, request: Request) -> None:
        _answer(request, 200, _TEXT, b"the event loop turns\n")

    def _ready(self, request: Request) -> None:
        reasons = {reason: why for reason, why in self._relay.health.unready().items() if why}
        _answer(request, 503 if reasons else 200, _JSON, _json({"ready": not reasons, "reasons": reasons}))

    def _healthy(self, request: Request) -> None:
        health = self._relay.health.report()
        _answer(request, 200 if health["ok"] else 503, _JSON, _json(health))

    def _metrics(self, request: Request) -> None:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)

        def made(page: tuple[bytes, str]) -> None:
            body, kind = page
            if not gone:
                _answer(request, 200, kind.encode(), body)

        def failed(failure: Failure) -> None:
            self._log.failure("Metrics cannot be served", failure)
            if not gone:
                _answer(request, 500, _TEXT, b"it failed inside relayd; its log says how\n")

        accept = request.getHeader("accept") or ""
        Deferred.fromCoroutine(self._scrape(accept)).addCallbacks(made, failed)

    async def _scrape(self, accept: str) -> tuple[bytes, str]:
        relay = self._relay
        try:
            relay.depth = await asked(relay.spool.depth).addTimeout(_PATIENCE, self._reactor)
        except Exception as error:
            relay.depth = None  # unknown is better than old
            self._log.error("The spool does not say how much is queued: {error}", error=str(error) or "too late")
        families = list(self._collector.collect())
        pool = self._reactor.getThreadPool()
        found: tuple[bytes, str] = await deferToThreadPool(
            self._reactor, pool, lambda: encoded([*families, *self._process.collect()], accept)
        )
        return found

    _ANSWERS: ClassVar[dict[bytes, Callable[["_Page", Request], None]]] = {
        b"/metrics": _metrics,
        b"/livez": _live,
        b"/readyz": _ready,
        b"/healthz": _healthy,
    }


def _json(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _answer(request: Request, status: int, kind: bytes, body: bytes) -> None:
    request.setResponseCode(status)
    request.responseHeaders.removeHeader(b"Server")
    for name, value in (
        (b"Content-Type", kind),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"Connection", b"close"),
    ):
        request.setHeader(name, value)
    request.write(body)
    request.finish()
