"""Logins that another system decides: a ``twisted.cred`` checker that asks an HTTP endpoint.

POST of {"login", "password", "client": IP address, "service": "smtp"}.  200 with {"ok": true} is yes; 200 with
{"ok": false}, 401 and 403 are no; whatever else, late answers included, is no answer and lets nobody in.
``asking`` makes any checker what ``directory.Verifier`` asks; that one remembers, shares and bounds.  Whether the login
exists, and what it may do, is always the directory's to say.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import msgspec
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
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
from zope.interface import implementer

from relayd.directory import Ask, Done, Verdict
from relayd.reply import printable
from relayd.tls import failure as tls_failure

MAX_ANSWER = 64 * 1024
_SPARE = 4  # connections kept for the next question,
_KEPT = 10  # so many seconds: less than most servers keep theirs
_NO = (401, 403)

_log = Logger()


class CannotTell(LoginFailed):
    """No answer came of asking; the text says why."""


class Login(UsernamePassword):
    """A password that somebody gave, UTF-8, and the IP address he came from."""

    def __init__(self, login: str, password: str, client: str) -> None:
        super().__init__(login.encode(), password.encode())
        self.client = client


class _Answer(msgspec.Struct):
    ok: bool


@implementer(ICredentialsChecker)
class HTTPChecker:
    """Asks ``url``.  ``timeout``: seconds for the whole of it; ``trust``: whose certificates count (``tls.trust``);
    ``token``: sent as a bearer token if there is one."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, reactor: Any, url: str, timeout: float, trust: Any, token: str = "") -> None:
        self._reactor = reactor
        self._url = url.encode("ascii")
        self._timeout = timeout
        self._headers = Headers({"Content-Type": ["application/json"], "User-Agent": ["relayd"]})
        if token:
            self._headers.addRawHeader("Authorization", f"Bearer {token}")
        self._pool = HTTPConnectionPool(reactor)
        self._pool.maxPersistentPerHost = _SPARE
        self._pool.cachedConnectionTimeout = _KEPT
        self._pool._factory.noisy = False  # else two lines in the log for each connection
        policy = HostnameCachingHTTPSPolicy(BrowserLikePolicyForHTTPS(trust))
        self._agent = Agent(reactor, policy, pool=self._pool)

    def close(self) -> "Deferred[None]":
        """Closes the connections that are kept."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    def requestAvatarId(self, credentials: Any) -> "Deferred[bytes | tuple[()]]":
        """The login; fails with UnauthorizedLogin for a no, with CannotTell or what went wrong for no answer."""

        def late(result: object, seconds: float) -> Failure:
            return Failure(CannotTell(f"it does not answer within {seconds:g} s"))

        return Deferred.fromCoroutine(self._ask(credentials)).addTimeout(self._timeout, self._reactor, late)

    async def _ask(self, credentials: Any) -> bytes | tuple[()]:
        question = {
            "login": credentials.username.decode(),
            "password": credentials.password.decode(),
            "client": getattr(credentials, "client", ""),
            "service": "smtp",
        }
        body = FileBodyProducer(BytesIO(msgspec.json.encode(question)))
        response = await self._agent.request(b"POST", self._url, self._headers, body)
        answer = await _body(response)
        if response.code in _NO:
            raise UnauthorizedLogin
        if response.code != 200:
            raise CannotTell(f"it answers {response.code}")
        try:
            found = msgspec.json.decode(answer, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise CannotTell('its answer is not {"ok": true} or {"ok": false}') from None
        if not found.ok:
            raise UnauthorizedLogin
        username: bytes = credentials.username
        return username


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
        if self._size > MAX_ANSWER:
            self._pieces.clear()
            if not self.whole.called:
                self.whole.errback(CannotTell(f"its answer is longer than {MAX_ANSWER >> 10} KB"))
                self.transport.stopProducing()

    def connectionLost(self, reason: Any = None) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(CannotTell("its answer breaks off"))


def _body(response: Any) -> "Deferred[bytes]":
    gathering = _Body()
    response.deliverBody(gathering)
    return gathering.whole


def asking(checker: ICredentialsChecker | None, heard: Callable[[str], None]) -> Ask:
    """What a Verifier asks, by a checker.  ``heard`` is told after each question what is wrong, "" if nothing is."""

    def ask(login: str, password: str, client: str, answered: Done) -> None:
        if checker is None:
            heard("[auth] of the configuration names no url")
            return answered(Verdict.UNSURE)

        def judge(result: Any) -> Verdict:
            if not isinstance(result, Failure):
                heard("")
                return Verdict.RIGHT
            if result.check(UnauthorizedLogin):
                heard("")
                return Verdict.WRONG
            heard(_words(result.value))
            return Verdict.UNSURE

        asked = maybeDeferred(checker.requestAvatarId, Login(login, password, client))
        asked.addBoth(judge).addCallback(answered)
        asked.addErrback(lambda failure: _log.failure("A login could not be answered", failure=failure))

    return ask


def _words(error: BaseException | None) -> str:
    """Why there is no answer, for an operator."""
    # Twisted wraps what happened to a connection into the request's failure.
    reasons = [reason.value for reason in getattr(error, "reasons", ())] or [error]
    words = (tls_failure(reason) or str(reason).rstrip(".") or type(reason).__name__ for reason in reasons)
    return printable("; ".join(words), 200)
