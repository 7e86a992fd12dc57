"""The content filter: what a real HTTP server may answer, and that anything else is no answer and holds up nobody long.

``tests/e2e/test_filter.py`` goes through whole sessions."""

import json
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from relayd import contentfilter
from relayd.contentfilter import RECIPIENTS, ContentFilter, Question, Settings, Verdict
from relayd.submission import FATES
from relayd.tls import trust
from relayd.webclient import LONGEST

HEAD, BODY = b"From: a@crm.example\r\nSubject: hello\r\n\r\n", b"buy now\r\n"
ASKED = Question("a@crm.example", ("b@x.example", "c@y.example"), "192.0.2.9", "crm.local", "login-1", "19a5c0e1")
HANGS = 0.2  # seconds of patience where the other side has none


def said(action: str, **more: Any) -> bytes:
    return json.dumps({"action": action, "score": 8.25, "required_score": 15, **more}).encode()


class Rspamd(Resource):
    """Answers as ``answer`` says, a body or a function of the request."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.answer: bytes | Callable[[Any], Any] = said("no action")
        self.requests: list[Any] = []
        self.bodies: list[bytes] = []

    def render_POST(self, request: Any) -> Any:
        self.requests.append(request)
        self.bodies.append(request.content.read())
        request.setResponseCode(self.status)
        return self.answer if isinstance(self.answer, bytes) else self.answer(request)


class FilterTests(TestCase):
    def setUp(self) -> None:
        self.rspamd = Rspamd()
        self.port: Any = reactor.listenTCP(0, Site(self.rspamd), interface="127.0.0.1")  # type: ignore[attr-defined]
        self.addCleanup(self.port.stopListening)
        self.url = f"http://127.0.0.1:{self.port.getHost().port}/checkv2"

    def filter(self, url: str = "", **settings: Any) -> ContentFilter:
        made = ContentFilter(reactor, Settings(url or self.url, **settings), trust(""))
        self.addCleanup(made.close)
        return made

    def check(self, made: ContentFilter, question: Question = ASKED) -> "Deferred[Verdict]":
        told: Deferred[Verdict] = Deferred()
        made.check(question, HEAD, BODY, told.callback)
        return told

    async def unanswered(self, words: str, **settings: Any) -> None:
        """Both ways: mail is taken, or deferred."""
        for on_error, fate in (("open", "take"), ("closed", "defer")):
            made = self.filter(on_error=on_error, **settings)
            verdict = await self.check(made)
            self.assertEqual((verdict.fate, verdict.answered), (fate, False))
            self.assertIn(words, made.fault)
            self.assertIn(words, verdict.note)

    # The question.

    async def test_the_filter_is_told_the_message_and_its_envelope(self) -> None:
        await self.check(self.filter(settings_id="outbound"))
        (request,) = self.rspamd.requests
        headers = request.requestHeaders
        told = {name: headers.getRawHeaders(name) for name in ("From", "Rcpt", "IP", "Helo", "User", "Queue-Id")}
        self.assertEqual(
            told,
            {"From": ["a@crm.example"], "Rcpt": ["b@x.example", "c@y.example"], "IP": ["192.0.2.9"],
             "Helo": ["crm.local"], "User": ["login-1"], "Queue-Id": ["19a5c0e1"]},
        )  # fmt: skip
        self.assertEqual(headers.getRawHeaders("Settings-ID"), ["outbound"])
        self.assertEqual((request.method, request.path), (b"POST", b"/checkv2"))
        self.assertEqual(self.rspamd.bodies, [HEAD + BODY])

    async def test_what_clients_say_adds_no_header_and_many_recipients_are_cut(self) -> None:
        to = tuple(f"r{n}@x.example" for n in range(3 * RECIPIENTS))
        await self.check(self.filter(), Question("", to, "192.0.2.9", "x\r\nPass: all", "Логин", "1"))
        headers = self.rspamd.requests[0].requestHeaders
        self.assertFalse(headers.hasHeader("Pass") or headers.hasHeader("From") or headers.hasHeader("Settings-ID"))
        self.assertEqual(len(headers.getRawHeaders("Rcpt")), RECIPIENTS)
        self.assertEqual(headers.getRawHeaders("User"), ["Логин"])

    async def test_a_connection_is_used_again(self) -> None:
        made = self.filter()
        for _ in range(3):
            await self.check(made)
        self.assertEqual(len({request.getClientAddress().port for request in self.rspamd.requests}), 1)

    # What is answered.

    async def test_every_action_has_its_fate_and_an_operator_may_say_otherwise(self) -> None:
        for action, fate in FATES.items():
            self.rspamd.answer = said(action)
            self.assertEqual((await self.check(self.filter())).fate, fate)
        self.rspamd.answer = said("reject")
        self.assertEqual((await self.check(self.filter(fates={**FATES, "reject": "mark"}))).fate, "mark")

    async def test_score_and_the_heaviest_symbols_are_noted_and_cannot_break_a_line(self) -> None:
        symbols = {f"S{n}": {"name": f"S{n}", "score": n / 2} for n in range(30)} | {"BAD\x1b[2J": {"score": -99}}
        self.rspamd.answer = said("add header", symbols=symbols, is_skipped=False, urls=["x"])
        verdict = await self.check(self.filter())
        self.assertTrue(
            verdict.note.startswith("the content filter: add header, 8.25 of 15: BAD\\x1b[2J -99, S29 14.5")
        )
        self.assertEqual(verdict.note.count(", "), 10)

    async def test_its_words_for_the_client_are_one_safe_line(self) -> None:
        self.rspamd.answer = said("reject", messages={"smtp_message": "No\r\n250 ok \x1b" + "x" * 999, "a": [1]})
        verdict = await self.check(self.filter())
        self.assertTrue(verdict.said.startswith("No\\x0d 250 ok \\x1bxxx"))
        self.assertLess(len(verdict.said), 250)
        for action, message in (("no action", "fine"), ("reject", {"odd": 1})):
            self.rspamd.answer = said(action, messages={"smtp_message": message})
            self.assertEqual((await self.check(self.filter())).said, "")

    # What is no answer.

    async def test_other_statuses_are_no_answer(self) -> None:
        for status in (201, 302, 403, 500, 503):
            self.rspamd.status = status
            await self.unanswered(f"it answers {status}")

    async def test_garbage_and_other_json_are_no_answer(self) -> None:
        for answer in (b"", b"ok", b"[]", b"{}", b'{"action": 1}', b'{"action": "reject"', b"\xff\xfe", b'{"score": 3}',
                       said("reject")[:-1], b'{"action": "reject", "score": "high"}'):  # fmt: skip
            self.rspamd.answer = answer
            await self.unanswered("not what /checkv2 of rspamd gives")
        self.rspamd.answer = said("destroy\x1b")
        await self.unanswered("its action 'destroy\\\\x1b' is none of no action")

    async def test_an_answer_that_is_too_long_is_cut_off(self) -> None:
        def unending(request: Any) -> int:
            request.write(b'{"action": "reject", "more": "' + b"x" * LONGEST)
            return NOT_DONE_YET

        for answer in (said("reject") + b" " * LONGEST, unending):
            self.rspamd.answer = answer
            await self.unanswered("longer than 64 KB")

    async def test_a_filter_that_hangs_or_drips_is_waited_for_no_longer_than_the_timeout(self) -> None:
        def hangs(request: Any) -> int:
            return NOT_DONE_YET

        def drips(request: Any) -> int:
            request.write(b'{"action": ')
            return NOT_DONE_YET

        for answer in (hangs, drips):
            self.rspamd.answer = answer
            await self.unanswered("does not answer within 0.2 s", timeout=HANGS)

    async def test_a_filter_that_is_not_there_or_speaks_no_http_is_no_answer(self) -> None:
        class Odd(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(b"220 mx1 ESMTP\r\n")  # type: ignore[union-attr]
                self.transport.loseConnection()  # type: ignore[union-attr]

        port: Any = reactor.listenTCP(0, Factory.forProtocol(Odd), interface="127.0.0.1")  # type: ignore[attr-defined]
        url = f"http://127.0.0.1:{port.getHost().port}/"
        await self.unanswered("", url=url)
        await port.stopListening()
        await self.unanswered("refused", url=url)

    async def test_it_is_well_again_with_the_first_answer_and_an_operator_is_told_what_becomes_of_mail(self) -> None:
        for on_error, words in (("open", "mail goes unchecked"), ("closed", "mail is deferred")):
            made = self.filter(on_error=on_error)
            self.rspamd.status = 500
            await self.check(made)
            self.assertEqual(made.warning(), f"the content filter: it answers 500; {words}")
            self.rspamd.status = 200
            await self.check(made)
            self.assertEqual(made.warning(), "")

    # Many at once.

    async def test_no_more_are_asked_at_once_than_may_be_and_who_waits_has_no_more_time(self) -> None:
        self.rspamd.answer = lambda request: NOT_DONE_YET
        made = self.filter(concurrency=2, timeout=10 * HANGS)  # time enough for two to be there, on any machine
        verdicts = await gatherResults([self.check(made) for _ in range(5)])
        self.assertEqual([verdict.answered for verdict in verdicts], [False] * 5)
        self.assertEqual(len(self.rspamd.requests), 2)

    async def test_a_question_that_is_ended_is_not_answered_and_leaves_its_turn_to_the_next(self) -> None:
        asked: Deferred[None] = Deferred()
        told: list[Verdict] = []

        def hangs(request: Any) -> int:
            asked.callback(None)
            return NOT_DONE_YET

        self.rspamd.answer = hangs
        made = self.filter(concurrency=1)
        end = made.check(ASKED, HEAD, BODY, told.append)
        await asked
        waiting = self.check(made)
        self.rspamd.answer = said("reject")
        end()
        self.assertEqual((await waiting).fate, "refuse")
        end()
        self.assertEqual((told, made.fault), ([], ""))


class RestTests(TestCase):
    """On a clock moved by hand, with a web that fails or answers at once."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.made = ContentFilter(self.clock, Settings("http://127.0.0.1:1/"), None)
        self.asked = 0
        self.status = 500

        async def post(*_: Any) -> tuple[int, bytes]:
            self.asked += 1
            return self.status, said("reject")

        self.patch(self.made._web, "post", lambda *args: Deferred.fromCoroutine(post(*args)))

    def check(self) -> Verdict:
        told: list[Verdict] = []
        self.made.check(ASKED, HEAD, BODY, told.append)
        return told[0]

    def test_after_failures_in_a_row_it_is_left_alone_for_a_while_and_then_asked_again(self) -> None:
        for _ in range(10):
            self.assertEqual(self.check().fate, "take")
        self.assertEqual(self.asked, 3)
        self.clock.advance(contentfilter._REST)
        self.check()
        self.assertEqual((self.asked, self.check().answered), (4, False))
        self.clock.advance(contentfilter._REST)
        self.status = 200
        self.assertEqual(self.check().fate, "refuse")
        self.status = 500
        self.check()
        self.check()
        self.assertEqual(self.asked, 7)
