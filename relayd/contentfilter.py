"""A content filter that speaks rspamd's HTTP protocol (POST /checkv2, JSON): what becomes of a message it has seen.

In: the message, who sends it and to whom.  Out: take, mark, defer or refuse, with score and symbols in words.  Where
the filter gives no answer, late and faulty ones included, ``on_error`` decides.  After some failures in a row it is
left alone for a while: a filter that hangs must not hold up every message.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from relayd.reply import printable
from relayd.submission import FATES, Fate
from relayd.webclient import NoAnswer, WebClient, words

RECIPIENTS = 100  # of a message that the filter is told
_PATIENCE = 3  # failures in a row,
_REST = 10.0  # then it is not asked for so many seconds
_SYMBOLS = 10  # that are shown, the heaviest


class Settings(msgspec.Struct, frozen=True):
    """``timeout``: seconds, for waiting its turn and the answer; ``concurrency``: questions at once; ``max_size``:
    bytes of the largest message that is checked; ``settings_id``: the filter's own settings to apply; ``fates`` by
    action."""

    url: str
    timeout: float = 5.0
    concurrency: int = 20
    max_size: int = 1 << 20
    on_error: Literal["open", "closed"] = "open"
    settings_id: str = ""
    fates: Mapping[str, Fate] = msgspec.field(default_factory=lambda: FATES)


class Question(msgspec.Struct, frozen=True):
    """What is told besides the message.  ``user``: the connection."""

    sender: str
    recipients: tuple[str, ...]
    peer: str
    helo: str
    user: str
    queue_id: str


class Verdict(msgspec.Struct, frozen=True):
    """``note``: what the filter found, for the record; ``said``: its words for the client.  ``answered``: it is the
    filter's own verdict."""

    fate: Fate
    note: str
    said: str = ""
    answered: bool = True


class _Symbol(msgspec.Struct):
    score: float = 0.0


class _Answer(msgspec.Struct):
    action: str
    score: float = 0.0
    required_score: float = 0.0
    symbols: dict[str, _Symbol] = {}
    messages: dict[str, Any] = {}


class ContentFilter:
    """See the module.  ``fault``: why it gives no answers, "" if it does."""

    log = Logger()

    def __init__(self, reactor: Any, settings: Settings, trust: Any) -> None:
        self.settings = settings
        self.fault = ""
        self._reactor = reactor
        self._web = WebClient(reactor, settings.timeout, trust, spare=settings.concurrency)
        self._turns = DeferredSemaphore(settings.concurrency)
        self._failures = 0
        self._rested = 0.0  # when it may be asked again

    def close(self) -> None:
        self._web.close()  # not waited for: that would be for the other side to say when

    def warning(self) -> str:
        """For an operator."""
        meanwhile = {"open": "mail goes unchecked", "closed": "mail is deferred"}[self.settings.on_error]
        return f"the content filter: {self.fault}; {meanwhile}" if self.fault else ""

    def check(
        self, question: Question, head: bytes, body: bytes, done: Callable[[Verdict], None]
    ) -> Callable[[], None]:
        """Calls ``done`` once.  Gives what ends the question: then it is not called any more."""
        if self._reactor.seconds() < self._rested:
            done(self._unanswered())
            return lambda: None

        ended = False

        def late(result: object, seconds: float) -> Failure:
            return Failure(NoAnswer(f"it does not answer within {seconds:g} s"))

        def broken(failure: Failure) -> Verdict | None:
            return None if ended else self._failed(words(failure.value))

        def told(verdict: Verdict | None) -> None:
            if verdict is not None and not ended:
                done(verdict)

        def end() -> None:
            nonlocal ended
            ended = True
            asked.cancel()

        asked = Deferred.fromCoroutine(self._ask(question, head, body))
        checked = asked.addTimeout(self.settings.timeout, self._reactor, late).addErrback(broken).addCallback(told)
        checked.addErrback(lambda failure: self.log.failure("What a content filter said was not followed", failure))
        return end

    async def _ask(self, question: Question, head: bytes, body: bytes) -> Verdict:
        await self._turns.acquire()
        try:
            code, answer = await self._web.post(self.settings.url.encode(), self._headers(question), head + body)
        finally:
            self._turns.release()
        if code != 200:
            raise NoAnswer(f"it answers {code}")
        try:
            found = msgspec.json.decode(answer, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise NoAnswer("its answer is not what /checkv2 of rspamd gives") from None
        fate = self.settings.fates.get(found.action)
        if fate is None:
            raise NoAnswer(f"its action {printable(found.action, 40)!r} is none of {', '.join(FATES)}")
        self._failures = 0
        self._heard("")
        return _verdict(fate, found)

    def _headers(self, question: Question) -> Headers:
        told = {
            "User-Agent": ("relayd",),
            "IP": (question.peer,),
            "Helo": (question.helo,),
            "From": (question.sender,),
            "Rcpt": question.recipients[:RECIPIENTS],
            "User": (question.user,),
            "Queue-Id": (question.queue_id,),
            "Settings-ID": (self.settings.settings_id,),
        }
        headers = Headers()  # it makes spaces of line breaks in values
        for name, values in told.items():
            for value in filter(None, values):
                headers.addRawHeader(name.encode(), value.encode("utf-8", "replace"))
        return headers

    def _failed(self, why: str) -> Verdict:
        self._failures += 1
        if self._failures >= _PATIENCE:
            self._rested = self._reactor.seconds() + _REST
        self._heard(why)
        return self._unanswered()

    def _unanswered(self) -> Verdict:
        note = f"the content filter gave no answer: {self.fault}"
        return Verdict("take" if self.settings.on_error == "open" else "defer", note, answered=False)

    def _heard(self, fault: str) -> None:
        if bool(fault) != bool(self.fault):
            self.log.warn("The content filter: {what}", what=fault or "it answers again")
        self.fault = fault


def _verdict(fate: Fate, found: _Answer) -> Verdict:
    heaviest = sorted(found.symbols, key=lambda name: -abs(found.symbols[name].score))[:_SYMBOLS]
    symbols = ", ".join(f"{printable(name, 60)} {found.symbols[name].score:g}" for name in heaviest)
    note = f"the content filter: {found.action}, {found.score:g} of {found.required_score:g}"
    said = found.messages.get("smtp_message")
    text = " ".join(printable(said, 200).split()) if isinstance(said, str) and fate in ("defer", "refuse") else ""
    return Verdict(fate, note + (f": {symbols}" if symbols else ""), text)
