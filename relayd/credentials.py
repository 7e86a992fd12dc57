"""Logins: who proves one, the directory's hashes or another system by a ``twisted.cred`` checker over HTTP.

POST of {"login", "password", "client": IP address, "service": "smtp"}.  200 with {"ok": true} is yes; 200 with
{"ok": false}, 401 and 403 are no; whatever else, late answers included, is no answer and lets nobody in.
``asking`` makes any checker what ``directory.Verifier`` asks; that one remembers, shares and bounds.  Whether the login
exists, and what it may do, is always the directory's to say.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from zope.interface import implementer

from relayd.directory import Ask, Directory, Done, Verdict, Verifier
from relayd.webclient import NoAnswer, WebClient, words

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
        self._url = url.encode("ascii")
        self._headers = Headers({"Content-Type": ["application/json"], "User-Agent": ["relayd"]})
        if token:
            self._headers.addRawHeader("Authorization", f"Bearer {token}")
        self._web = WebClient(reactor, timeout, trust)

    def close(self) -> "Deferred[None]":
        """Closes the connections that are kept."""
        return self._web.close()

    def requestAvatarId(self, credentials: Any) -> "Deferred[bytes | tuple[()]]":
        """The login; fails with UnauthorizedLogin for a no, with CannotTell or what went wrong for no answer."""
        return Deferred.fromCoroutine(self._ask(credentials))

    async def _ask(self, credentials: Any) -> bytes | tuple[()]:
        question = {
            "login": credentials.username.decode(),
            "password": credentials.password.decode(),
            "client": getattr(credentials, "client", ""),
            "service": "smtp",
        }
        try:
            code, answer = await self._web.post(self._url, self._headers, msgspec.json.encode(question))
        except NoAnswer as error:
            raise CannotTell(str(error)) from None
        if code in _NO:
            raise UnauthorizedLogin
        if code != 200:
            raise CannotTell(f"it answers {code}")
        try:
            found = msgspec.json.decode(answer, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise CannotTell('its answer is not {"ok": true} or {"ok": false}') from None
        if not found.ok:
            raise UnauthorizedLogin
        username: bytes = credentials.username
        return username


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
            heard(words(result.value))
            return Verdict.UNSURE

        asked = maybeDeferred(checker.requestAvatarId, Login(login, password, client))
        asked.addBoth(judge).addCallback(answered)
        asked.addErrback(lambda failure: _log.failure("A login could not be answered", failure=failure))

    return ask


class Logins:
    """Those of the directory, and what they are proved by.  ``post`` brings a call to the main thread.  ``fault``: why
    the other system decides none, "" while it does."""

    def __init__(self, directory: Directory, post: Callable[..., Any], seconds: Callable[[], float]) -> None:
        self._directory = directory
        self._threads = ThreadPoolExecutor(2, "scrypt")
        self.verifier = Verifier(self._password_of, self._threads.submit, post, seconds, self._renew_hash)
        self.checker: HTTPChecker | None = None
        self.fault = ""

    def ask_at(self, checker: HTTPChecker | None, cache: float) -> None:
        """Whom logins that another system decides are asked of from now on; answers count for ``cache`` seconds."""
        self.close()
        self.checker = checker
        self.fault = ""
        self.verifier.ask_externally(asking(checker, partial(self._heard, checker)), cache)

    def warnings(self) -> list[str]:
        return [f"logins that another system decides: {self.fault}"] if self.fault else []

    def close(self) -> None:
        """Asks nobody any more.  Not waited for: that would be for the other side to say when."""
        if self.checker is not None:
            self.checker.close()

    def stop(self) -> None:
        """Blocks until the hashes under way are made."""
        self._threads.shutdown()

    def _heard(self, checker: HTTPChecker | None, fault: str) -> None:
        if checker is not self.checker:
            return  # an answer to what was asked before a reload
        if bool(fault) != bool(self.fault):
            _log.warn("Logins that another system decides: {what}", what=fault or "it answers again")
        self.fault = fault

    def _password_of(self, login: str) -> str:
        connection = self._directory.connection(login)
        return connection.password if connection else ""

    def _renew_hash(self, login: str, old: str, new: str) -> None:
        def done(renewed: "Future[Any]") -> None:
            if fault := renewed.exception():
                _log.error("The imported hash of {login} stays: {fault}", login=login, fault=str(fault))

        self._directory.renew_hash(login, old, new).add_done_callback(done)
