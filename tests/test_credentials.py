"""Logins that another system decides: what an endpoint may answer, and that anything else lets nobody in.

Real servers on the loopback, in clear and with TLS; ``tests/e2e/test_logins.py`` goes through whole sessions.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Client
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface.verify import verifyObject

from relayd.credentials import CannotTell, HTTPChecker, Login, asking
from relayd.directory import Verdict
from relayd.tls import trust
from relayd.webclient import LONGEST
from tests.hostile.certificates import Authority

TRUSTED = Authority()
HANGS = 0.2  # seconds of patience where the other side has none


class Endpoint(Resource):
    """Answers as ``answer`` says, a body or a function of the request, with ``status``."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.answer: bytes | Callable[[Any], Any] = b'{"ok": true}'
        self.asked: list[Any] = []
        self.headers: list[Any] = []
        self.paths: list[bytes] = []

    def render_POST(self, request: Any) -> Any:
        self.asked.append(json.loads(request.content.read()))
        self.headers.append(request.requestHeaders)
        self.paths.append(request.uri)
        request.setResponseCode(self.status)
        return self.answer if isinstance(self.answer, bytes) else self.answer(request)


class Counting(Factory):
    """A site that knows its open connections."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.open = 0
        self.made = 0
        self.waiting: list[Deferred[None]] = []

    def buildProtocol(self, address: Any) -> Any:
        made = self.site.buildProtocol(address)
        assert made is not None
        lost = made.connectionLost
        self.open += 1
        self.made += 1

        def counted(reason: Any) -> None:
            self.open -= 1
            lost(reason)
            if not self.open:
                for one in self.waiting:
                    one.callback(None)

        made.connectionLost = counted
        return made

    def closed(self) -> "Deferred[None]":
        """Done when nobody is connected any more."""
        if not self.open:
            return succeed(None)
        self.waiting.append(Deferred())
        return self.waiting[-1].addTimeout(10, reactor)


class CheckerTests(TestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.endpoint = Endpoint()
        self.site = Counting(Site(self.endpoint))
        self.port: Any = reactor.listenTCP(0, self.site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.addCleanup(self.site.closed)
        self.url = f"http://127.0.0.1:{self.port.getHost().port}/login?for=relay"

    def checker(self, url: str = "", *, timeout: float = 10.0, authorities: str = "", token: str = "") -> HTTPChecker:
        made = HTTPChecker(reactor, url or self.url, timeout, trust(authorities), token)
        self.addCleanup(made.close)
        return made

    async def told(self, checker: HTTPChecker | None = None) -> tuple[Verdict, str]:
        """The verdict that a Verifier is given, and what is said to be wrong."""
        verdict: Deferred[Verdict] = Deferred()
        heard: list[str] = []
        asking(checker or self.checker(), heard.append)("crm-1", "Пароль", "192.0.2.9", verdict.callback)
        return await verdict, heard[0]

    async def unsure(self, words: str, checker: HTTPChecker | None = None) -> None:
        verdict, fault = await self.told(checker)
        self.assertEqual(verdict, Verdict.UNSURE)
        self.assertIn(words, fault)

    def served_with_tls(self, context: Any) -> str:
        """The site's URL behind TLS."""
        from twisted.internet.ssl import ContextFactory

        factory = ContextFactory()
        factory.getContext = lambda: context  # type: ignore[method-assign]
        port: Any = reactor.listenSSL(0, self.site, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"https://localhost:{port.getHost().port}/"

    # As twisted.cred has it.

    async def test_it_is_a_credentials_checker_for_passwords(self) -> None:
        checker = self.checker()
        verifyObject(ICredentialsChecker, checker)
        self.assertIn(IUsernamePassword, checker.credentialInterfaces)
        self.assertEqual(await checker.requestAvatarId(UsernamePassword(b"crm-1", b"secret")), b"crm-1")
        self.endpoint.answer = b'{"ok": false}'
        await self.assertFailure(checker.requestAvatarId(UsernamePassword(b"crm-1", b"secret")), UnauthorizedLogin)
        self.endpoint.status = 500
        await self.assertFailure(checker.requestAvatarId(Login("crm-1", "secret", "192.0.2.9")), CannotTell)

    async def test_any_checker_can_be_asked_and_its_surprises_let_nobody_in(self) -> None:
        class Broken:
            credentialInterfaces = (IUsernamePassword,)

            def requestAvatarId(self, credentials: Any) -> Any:
                raise RuntimeError("no\x1b[2Jway")

        await self.unsure("no\\x1b[2Jway", Broken())  # type: ignore[arg-type]

    async def test_without_anybody_to_ask_it_says_what_is_missing(self) -> None:
        verdict: list[Verdict] = []
        heard: list[str] = []
        asking(None, heard.append)("crm-1", "secret", "192.0.2.9", verdict.append)
        self.assertEqual(verdict, [Verdict.UNSURE])
        self.assertIn("names no url", heard[0])

    # What is asked.

    async def test_question_holds_login_password_client_and_service(self) -> None:
        self.assertEqual(await self.told(), (Verdict.RIGHT, ""))
        question = {"login": "crm-1", "password": "Пароль", "client": "192.0.2.9", "service": "smtp"}
        self.assertEqual(self.endpoint.asked, [question])
        self.assertEqual(self.endpoint.paths, [b"/login?for=relay"])
        (headers,) = self.endpoint.headers
        self.assertEqual(headers.getRawHeaders("content-type"), ["application/json"])
        self.assertIsNone(headers.getRawHeaders("authorization"))

    async def test_token_is_sent_as_bearer(self) -> None:
        await self.told(self.checker(token="s3cret-token"))
        self.assertEqual(self.endpoint.headers[0].getRawHeaders("authorization"), ["Bearer s3cret-token"])

    async def test_connection_is_used_again(self) -> None:
        checker = self.checker()
        for _ in range(3):
            self.assertEqual(await self.told(checker), (Verdict.RIGHT, ""))
        self.assertEqual(self.site.made, 1)

    async def test_few_connections_are_kept_after_many_questions_at_once(self) -> None:
        checker = self.checker()
        requests: list[Any] = []

        def together(request: Any) -> int:
            requests.append(request)
            if len(requests) == 20:
                for one in requests:
                    one.write(b'{"ok": true}')
                    one.finish()
            return NOT_DONE_YET

        self.endpoint.answer = together
        asked = [checker.requestAvatarId(UsernamePassword(b"crm-%d" % n, b"secret")) for n in range(20)]
        self.assertEqual(await gatherResults(asked), [b"crm-%d" % n for n in range(20)])
        (kept,) = checker._web._pool._connections.values()
        self.assertLessEqual(len(kept), 4)

    # What is answered.

    async def test_no_comes_as_a_word_or_a_status(self) -> None:
        for status, answer in [(200, b'{"ok": false, "why": "blocked"}'), (401, b"who?"), (403, b"")]:
            self.endpoint.status, self.endpoint.answer = status, answer
            self.assertEqual(await self.told(), (Verdict.WRONG, ""))

    async def test_other_statuses_are_no_answer_even_with_a_yes_in_the_body(self) -> None:
        for status in (201, 202, 204, 400, 404, 429, 500, 502, 503):
            self.endpoint.status = status
            self.endpoint.answer = b"" if status == 204 else b'{"ok": true}'
            await self.unsure(f"it answers {status}")

    async def test_redirect_is_no_answer_and_nobody_is_asked_there(self) -> None:
        def elsewhere(request: Any) -> bytes:
            request.setHeader("Location", "/yes")
            return b'{"ok": true}'

        self.endpoint.answer = elsewhere
        for status in (301, 302, 303, 307, 308):
            self.endpoint.status = status
            await self.unsure(f"it answers {status}")
        self.assertEqual(len(self.endpoint.asked), 5)

    async def test_garbage_is_no_answer(self) -> None:
        for answer in (b"", b"ok", b"true", b"{}", b'{"ok": 1}', b'{"ok": "true"}', b'{"ok": null}', b'[{"ok": true}]',
                       b'{"ok": true}x', b'{"ok": true', b"\xff\xfe", b'{"OK": true}'):  # fmt: skip
            self.endpoint.answer = answer
            await self.unsure('is not {"ok": true} or {"ok": false}')

    async def test_answer_that_is_too_long_is_cut_off_whether_announced_or_not(self) -> None:
        def unending(request: Any) -> int:
            request.write(b'{"ok": true, "more": "')  # chunked
            request.write(b"x" * LONGEST)
            return NOT_DONE_YET

        for answer in (b'{"ok": true}' + b" " * LONGEST, unending):
            self.endpoint.answer = answer
            await self.unsure("longer than 64 KB")
        self.endpoint.answer = b'{"ok": true}' + b" " * (LONGEST - 12)
        self.assertEqual(await self.told(), (Verdict.RIGHT, ""))

    async def test_answer_that_breaks_off_is_no_answer(self) -> None:
        def broken(request: Any) -> int:
            request.setHeader("Content-Length", "100")
            request.write(b'{"ok": true}')
            request.transport.loseConnection()
            return NOT_DONE_YET

        self.endpoint.answer = broken
        await self.unsure("breaks off")

    async def test_server_that_speaks_no_http_is_no_answer(self) -> None:
        class Chatter(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(b"220 mx.example \x1b[2J ESMTP\r\n")
                self.transport.loseConnection()

        port: Any = reactor.listenTCP(0, Factory.forProtocol(Chatter), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        verdict, fault = await self.told(self.checker(f"http://127.0.0.1:{port.getHost().port}/"))
        self.assertEqual(verdict, Verdict.UNSURE)
        self.assertTrue(fault.isprintable())

    async def test_endpoint_that_is_not_there_is_no_answer(self) -> None:
        await self.port.stopListening()
        await self.unsure("refused")

    # Time.

    async def test_endpoint_that_hangs_is_no_answer_and_its_connection_is_closed(self) -> None:
        self.endpoint.answer = lambda request: NOT_DONE_YET
        await self.unsure("does not answer within 0.2 s", self.checker(timeout=HANGS))
        await self.site.closed()

    async def test_answer_that_drips_has_no_more_time_than_one_that_hangs(self) -> None:
        def drips(request: Any) -> int:
            request.write(b'{"ok": ')
            return NOT_DONE_YET

        self.endpoint.answer = drips
        await self.unsure("does not answer within 0.2 s", self.checker(timeout=HANGS))
        await self.site.closed()

    async def test_connection_to_a_peer_that_has_died_behind_tls_is_not_kept_for_its_goodbye(self) -> None:
        dead: list[Any] = []

        def dies(request: Any) -> int:
            request.write(b'{"ok": ')
            dead.append(request.channel.transport.transport)
            dead[0].pauseProducing()  # it hears nothing more, TLS's goodbye neither
            return NOT_DONE_YET

        self.endpoint.answer = dies
        url = self.served_with_tls(TRUSTED.context("localhost"))
        authorities = TRUSTED.write(self.directory / "authority.pem")
        await self.unsure("does not answer", self.checker(url, timeout=HANGS * 5, authorities=authorities))
        self.assertEqual([one for one in reactor.getReaders() if isinstance(one, Client)], [])
        dead[0].resumeProducing()

    # TLS.

    async def test_certificate_of_a_trusted_authority_is_believed(self) -> None:
        url = self.served_with_tls(TRUSTED.context("localhost"))
        authorities = TRUSTED.write(self.directory / "authority.pem")
        self.assertEqual(await self.told(self.checker(url, authorities=authorities)), (Verdict.RIGHT, ""))

    async def test_password_is_not_sent_to_one_whose_certificate_proves_nothing(self) -> None:
        authorities = TRUSTED.write(self.directory / "authority.pem")
        for context, trusted, words in [
            (Authority().context("localhost"), authorities, "certificate verify failed"),
            (TRUSTED.context("localhost"), "", "certificate verify failed"),
            (TRUSTED.context("other.example"), authorities, "not of the server's name"),
            (TRUSTED.context("localhost", days=-1), authorities, "certificate verify failed"),
        ]:
            await self.unsure(words, self.checker(self.served_with_tls(context), authorities=trusted))
        self.assertEqual(self.endpoint.asked, [])

    # Secrets.

    async def test_neither_password_nor_token_is_in_what_is_said_to_be_wrong(self) -> None:
        def repeats(request: Any) -> bytes:
            return b'{"ok": "Bearer s3cret-token", "password": "' + "Пароль".encode() + b'"}'

        self.endpoint.answer = repeats
        for status in (200, 500):
            self.endpoint.status = status
            _, fault = await self.told(self.checker(token="s3cret-token"))
            self.assertNotIn("Пароль", fault)
            self.assertNotIn("s3cret", fault)

    async def test_verdict_is_given_once_though_its_taker_fails(self) -> None:
        given: list[Verdict] = []

        def taker(verdict: Verdict) -> None:
            given.append(verdict)
            raise RuntimeError("a fault of ours")

        class No:
            credentialInterfaces = (IUsernamePassword,)

            def requestAvatarId(self, credentials: Any) -> Any:
                return fail(UnauthorizedLogin())

        asking(No(), lambda fault: None)("crm-1", "secret", "", taker)  # type: ignore[arg-type]
        self.assertEqual(given, [Verdict.WRONG])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
