"""Whether a relay is fit for mail, as it says of itself: threads that die, a loop that stands still."""

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from tests.test_service import MAIL, Running


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    made = Running(tmp_path)
    yield made
    if not made.node.health.stopping:
        made.stop()
    sys.setswitchinterval(interval)


def test_health_is_well_until_it_stops(relay: Running):
    assert relay.node.health.report() == {"ok": True, "faults": [], "warnings": []}
    relay.stop()
    assert "relayd is stopping" in relay.node.health.report()["faults"]


class Fatal(BaseException):
    """What no thread expects."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_breaks_down_is_noticed_at_once_and_mail_is_refused_for_good(relay: Running):
    client = relay.call()

    def fatal(connection: Any) -> None:
        raise Fatal("unheard of")

    with capturedLogs() as logs:
        relay.node.spool.writer.submit(fatal, None)
        relay.reactor.until(lambda: relay.node.health.spool_fault)
        assert client.say(MAIL).startswith("421")
        assert "421" in relay.call().heard.decode()
        words = "the spool's writer has broken down, restart relayd: Fatal('unheard of')"
        assert relay.node.health.report()["faults"] == [words]
        assert relay.node.health.unready()["writer_dead"] == relay.node.health.unready()["spool_fault"] == words
        relay.node.health.spool_said(None)  # as the mover says when it can move records again
        relay.reactor.wait(2)
    assert relay.node.health.report()["faults"] == [words]
    assert [formatEvent(event) for event in logs if words in str(formatEvent(event))] == [words]


def test_a_writer_that_shows_no_sign_of_life_is_a_reason_not_to_be_ready(relay: Running):
    relay.node.spool.writer.beat = float("-inf")
    relay.node.spool.writer.is_alive = lambda: False  # type: ignore[method-assign]
    try:
        assert relay.node.health.unready()["writer_dead"] == "the spool's writer shows no sign of life"
        assert relay.node.health.report()["faults"] == ["the spool's writer shows no sign of life"]
    finally:
        del relay.node.spool.writer.is_alive


def test_a_mover_that_has_ended_is_a_fault(relay: Running):
    relay.node.spool.mover.stop()
    relay.node.spool.mover.join(10)
    assert relay.node.health.report()["faults"] == ["the spool's mover has broken down, restart relayd"]


def test_health_tells_of_a_stall_of_the_last_minutes(relay: Running):
    relay.node.heart.last -= 8
    with capturedLogs():
        relay.node.heart.beat()
    health = relay.node.health.report()
    (warning,) = health["warnings"]
    assert health["ok"] and re.fullmatch(r"the event loop stood still for 7\.\d s, 0 s ago", warning)
