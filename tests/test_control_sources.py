"""The verbs of sources."""

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.directory import Drain
from relayd.errors import InputError
from tests.fake_relay import NOW, FakeRelay, opened


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    yield made
    made.close()


def say(relay: FakeRelay, verb: str, **given: object) -> Any:
    return run(BY_PATH[f"/v1/source/{verb}"], relay, given, "anna").result(10)  # type: ignore[arg-type]


def test_a_source_is_drained_in_the_name_of_who_asked_and_resumed(relay):
    assert say(relay, "drain", name="t1", reason="moving") == Drain("t1", "moving", "anna", NOW)
    assert relay.directory.drains.get("t1")
    assert say(relay, "resume", name="t1").source == "t1"
    assert relay.directory.drains.get("t1") is None


@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("drain", {"name": "t2", "reason": "x"}, "there is no source 't2' .did you mean .t1"),
        ("drain", {"name": "t1"}, "reason: is missing"),
        ("resume", {"name": "t1"}, "'t1' is not drained"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(relay, verb, given, words):
    with pytest.raises(InputError, match=words):
        say(relay, verb, **given)


def tried(relay: FakeRelay, verb: str, **given: object) -> Any:
    """What a dry run tells that waits for nobody."""
    with pytest.raises(StopIteration) as done:
        run(BY_PATH[f"/v1/{verb}"], relay, {**given, "dry_run": True}, "anna").send(None)
    return done.value.value


def test_what_would_be_refused_is_refused_when_it_is_tried(relay):
    for verb, given, words in (
        ("source/resume", {"name": "t1"}, "'t1' is not drained"),
        ("reputation/release", {"subject": "account:crm"}, "account:crm is not held back"),
    ):
        with pytest.raises(InputError, match=words):
            tried(relay, verb, **given)


def test_only_operators_drain_and_it_is_signed():
    verbs = [BY_PATH[f"/v1/source/{name}"] for name in ("drain", "resume")]
    assert [(verb.role, verb.effect) for verb in verbs] == [("operate", "change")] * 2
    assert verbs[0].signed


def test_a_source_that_is_no_longer_configured_can_be_resumed(relay):
    relay.directory.drains.drain("gone", reason="moving", by="anna", now=NOW).result(10)
    assert tried(relay, "source/resume", name="gone") == {"dry_run": True, "state": "not configured"}
    assert say(relay, "resume", name="gone").source == "gone"
