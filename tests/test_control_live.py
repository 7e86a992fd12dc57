"""Live views: what a stream says, when, and how it ends."""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.web.test.requesthelper import DummyRequest

from relayd.control import live
from relayd.control.api import ControlService, Refused
from relayd.control.live import Stream
from tests.fake_relay import FakeRelay, opened


class Watching:
    """A stream of answers that the test gives."""

    def __init__(self, every: float = 2.0) -> None:
        self.clock = Clock()
        self.request = DummyRequest([b""])
        self.request.registerProducer = lambda producer, streaming: setattr(self, "producer", producer)
        self.request.unregisterProducer = lambda: None
        self.answer: Any = (200, b'{"n":1}\n')
        self.asked = self.ended = 0
        Stream(self.clock, self.request, every, self._ask, self._over).begin()

    def _ask(self) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _over(self) -> None:
        self.ended += 1

    def later(self, seconds: float) -> bytes:
        """What was said meanwhile."""
        self.request.written.clear()
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
        return b"".join(self.request.written)


@pytest.fixture
def watching() -> Watching:
    return Watching()


def test_the_first_answer_comes_at_once_and_later_ones_when_they_differ(watching: Watching) -> None:
    assert b"".join(watching.request.written) == b'retry: 3000\n\ndata: {"n":1}\n\n'
    assert watching.later(6) == b"" and watching.asked == 4
    watching.answer = (200, b'{"n":2}\n')
    assert watching.later(2) == b'data: {"n":2}\n\n'


def test_a_stream_that_has_nothing_new_says_so_now_and_then(watching: Watching) -> None:
    assert watching.later(16) == b":\n\n"
    assert watching.request.responseHeaders.getRawHeaders(b"content-type") == [b"text/event-stream; charset=utf-8"]


def test_a_slow_answer_is_waited_for_and_not_asked_for_again(watching: Watching) -> None:
    watching.answer = Deferred()
    watching.later(60)
    assert watching.asked == 2
    watching.answer.callback((200, b"{}"))
    watching.answer = (200, b"{}")
    watching.later(4)
    assert watching.asked == 4


def test_a_peer_that_takes_nothing_is_sent_nothing(watching: Watching) -> None:
    watching.producer.pauseProducing()
    asked = watching.asked
    watching.answer = (200, b"2")
    assert watching.later(200) == b"" and watching.asked == asked
    watching.producer.resumeProducing()
    assert watching.later(2) == b"data: 2\n\n"


def test_a_peer_that_takes_nothing_for_long_leaves_its_place_to_others(watching: Watching) -> None:
    aborted: list[bool] = []
    transport = SimpleNamespace(abortConnection=lambda: aborted.append(True))
    watching.request.channel = SimpleNamespace(transport=transport)
    for _ in range(2):  # each time anew
        watching.producer.pauseProducing()
        watching.later(200)
        watching.producer.resumeProducing()
    assert watching.ended == 0
    watching.producer.pauseProducing()
    watching.later(400)
    assert watching.ended == 1 and aborted == [True] and not watching.clock.getDelayedCalls()


@pytest.mark.parametrize("end", [(403, b"no more"), Refused(401, "no more")])
def test_who_may_ask_no_more_is_told_and_the_stream_ends(watching: Watching, end: Any) -> None:
    watching.answer = end
    assert watching.later(2) == b"event: error\ndata: no more\n\n"
    assert watching.request.finished and watching.ended == 1
    watching.later(60)
    assert watching.ended == 1 and not watching.clock.getDelayedCalls()


def test_a_peer_that_goes_ends_the_stream_and_the_question_under_way(watching: Watching) -> None:
    cancelled: list[Any] = []
    watching.answer = Deferred(cancelled.append)
    watching.later(2)
    watching.request.processingFailed(ConnectionError("gone"))
    assert watching.ended == 1 and len(cancelled) == 1 and not watching.clock.getDelayedCalls()


def test_a_relay_that_is_not_well_is_an_answer_too(watching: Watching) -> None:
    watching.answer = (503, b'{"ok":false}')
    assert watching.later(2) == b'data: {"ok":false}\n\n'


@pytest.mark.parametrize(("value", "seconds"), [(None, 2.0), ("0", 1.0), ("5", 5.0), ("1e9", 3600.0)])
def test_the_pace_is_within_bounds(value: object, seconds: float) -> None:
    given = {"limit": "3"} | ({} if value is None else {"every": value})
    assert live.pace(given) == seconds and given == {"limit": "3"}


@pytest.mark.parametrize("value", ["often", "nan", ["1", "2"]])
def test_a_pace_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not a number of seconds"):
        live.pace({"every": value})


class OnASocket(TestCase):
    """Streams of a control socket."""

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="live")
        self.addCleanup(shutil.rmtree, self.directory)
        self.relay: FakeRelay = opened(self.directory)
        self.addCleanup(self.relay.close)
        self.path = os.path.join(self.directory, "s")
        self.service = ControlService(reactor, self.path, self.relay)
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def test_who_is_refused_meanwhile_is_told_in_the_form_of_every_refusal(self) -> Any:
        def refuse(request: Any) -> Any:
            raise Refused(401, "no more")

        def watch() -> None:
            told = stream(self.path, b"/v1/version?every=1")
            next(told)
            self.service._site.resource._caller = refuse
            assert json.loads(next(told)) == {"error": "no more", "field": ""}

        return deferToThread(watch)

    def test_any_verb_that_reads_can_be_watched(self) -> Any:
        def watch() -> None:
            for text in stream(self.path, b"/v1/version?every=1"):
                assert "version" in json.loads(text)
                return

        return deferToThread(watch)

    def test_a_faulty_argument_is_told_in_the_stream(self) -> Any:
        return deferToThread(lambda: self.assertIn("no such argument", next(stream(self.path, b"/v1/version?x=1"))))

    def test_too_many_streams_are_refused(self) -> Any:
        def watch() -> None:
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(self.path)
                peer.sendall(_request(b"/v1/version"))
                assert peer.recv(65536).startswith(b"HTTP/1.1 503")

        self.service._site.resource.streams = live.MOST
        return deferToThread(watch)


def _request(path: bytes) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: relayd\r\nAccept: text/event-stream\r\n\r\n" % path


def stream(control: str, path: bytes) -> Iterator[str]:
    """The data of each event."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(20)
        peer.connect(control)
        peer.sendall(_request(path))
        heard = b""
        while True:
            *lines, heard = (heard + peer.recv(65536)).split(b"\n")
            for line in lines:
                if line.startswith(b"data: "):
                    yield line[6:].decode()
