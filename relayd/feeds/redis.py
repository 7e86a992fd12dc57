"""A Redis stream of events, for programs that consume them.

In: events.  Out: entries with the fields ``id``, ``event`` and ``data`` (the event, JSON), in their order.  One
connection, made when it is needed and dropped at the first fault.  A chunk of entries is one script call: it is there
as a whole, and costs the main thread one command and one answer (XADD one by one took it ten times as long).
"""

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError as Dropped
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from relayd.feeds.blocks import Item
from relayd.feeds.settings import RedisSettings
from relayd.reply import printable
from relayd.tls import failure as tls_failure
from relayd.tls import trust

PORT = 6379
_CHUNK = 200  # entries at a time
_ADD = b"""
for i = 2, #ARGV, 3 do
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'id', ARGV[i], 'event', ARGV[i + 1], 'data', ARGV[i + 2])
end
return #ARGV
"""


class RedisSink:
    """``write`` and ``close`` are for one thread that is not the main one, where all else happens."""

    def __init__(self, reactor: Any, settings: RedisSettings) -> None:
        self.fault = ""
        self._reactor = reactor
        self._settings = settings
        self._url = urlsplit(settings.url)
        self._protocol: Any = None
        self._asked: Deferred[Any] | None = None
        self._closed = False

    def write(self, items: Sequence[Item]) -> None:
        """Raises OSError with what is wrong."""
        for start in range(0, len(items), _CHUNK):
            self._wait(items[start : start + _CHUNK])

    def rest(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._closed = True
        self._reactor.callFromThread(self._drop)

    def _wait(self, items: Sequence[Item]) -> None:
        done: Future[None] = Future()
        self._reactor.callFromThread(self._begin, items, done)
        try:
            done.result()  # each step of it ends in time
        except CancelledError:
            raise OSError("it is stopped") from None

    def _begin(self, items: Sequence[Item], done: "Future[None]") -> None:
        if self._closed:
            done.cancel()
            return

        def failed(failure: Failure) -> None:
            lost = self._protocol.lost if self._protocol else None
            self._drop()
            done.set_exception(OSError(f"{self._url.hostname}: {_words(failure, lost, self._settings.timeout)}"))

        self._asked = Deferred.fromCoroutine(self._add(items))
        self._asked.addCallbacks(lambda _: done.set_result(None), failed)

    async def _add(self, items: Sequence[Item]) -> None:
        if self._protocol is None or not self._protocol.connected:
            await self._connect()
        fields = [field for item in items for field in (item.id, item.event, item.data)]
        await self._ask("EVAL", _ADD, 1, self._settings.stream, self._settings.maxlen, *fields)

    async def _connect(self) -> None:
        # Only now: it looks for the reactor when it is imported.
        from txredisapi import RedisProtocol

        class Protocol(RedisProtocol):
            lost: Failure | None = None  # why

            def connectionLost(self, why: Failure) -> None:
                self.lost = why
                super().connectionLost(why)

        settings, url = self._settings, self._url
        host = url.hostname or ""
        endpoint: Any = HostnameEndpoint(self._reactor, host, url.port or PORT, timeout=settings.timeout)
        if url.scheme == "rediss":
            endpoint = wrapClientTLS(optionsForClientTLS(host, trust(settings.authorities)), endpoint)
        self._protocol = await connectProtocol(endpoint, Protocol(charset=None)).addTimeout(
            settings.timeout, self._reactor
        )
        if settings.password_file:
            password = Path(settings.password_file).read_text("utf-8").strip()
            await self._ask("AUTH", *filter(None, (url.username,)), password)
        if (number := url.path.strip("/")) not in ("", "0"):
            await self._ask("SELECT", number)

    async def _ask(self, *command: Any) -> Any:
        return await self._protocol.execute_command(*command).addTimeout(self._settings.timeout, self._reactor)

    def _drop(self) -> None:
        """Whoever waits for an answer hears that there is none."""
        asked, self._asked = self._asked, None
        protocol, self._protocol = self._protocol, None
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abortConnection()
        if asked is not None:
            asked.cancel()


def _words(failure: Failure, lost: Failure | None, timeout: float) -> str:
    if failure.check(TimeoutError, Dropped):
        return f"it does not answer within {timeout:g} s"
    return printable(tls_failure((lost or failure).value) or failure.getErrorMessage() or "it failed", 300)
