"""The verbs of the keys of tokens."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.returnpath import ACCEPT
from tests.fake_relay import NOW, FakeRelay, opened


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    yield made
    made.close()


def say(relay: FakeRelay, verb: str) -> Any:
    told: Any = run(BY_PATH[f"/v1/token/{verb}"], relay, {}, "anna")  # type: ignore[arg-type]
    return told.result(10) if isinstance(told, Future) else told


def test_a_rotation_shows_the_new_key_in_use_and_until_when_the_old_one_verifies(relay):
    (first,) = say(relay, "list")
    assert first["state"] == "in use" and first["until"] is None
    new, old = say(relay, "rotate")
    assert new["state"] == "in use" and new["id"] == relay.directory.tokens.keys.newest.id != first["id"]
    assert old == {**first, "state": "verifies", "until": new["made"] + ACCEPT}
    assert new["made"] == NOW
    assert say(relay, "list") == [new, old]


def test_no_secret_is_shown(relay):
    rows = [*say(relay, "rotate"), *say(relay, "list")]
    assert {name for row in rows for name in row} == {"id", "made", "state", "until"}


def test_only_administrators_rotate():
    assert (BY_PATH["/v1/token/rotate"].role, BY_PATH["/v1/token/rotate"].effect) == ("admin", "change")
    assert BY_PATH["/v1/token/list"].effect != "change"
