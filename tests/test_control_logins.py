"""What the verbs tell of failed logins, and do about them."""

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.ctl import rendered
from relayd.errors import InputError
from tests.fake_relay import NOW, FakeRelay, opened


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    yield made
    made.directory.close()


def say(relay: FakeRelay, path: str, **given: object) -> Any:
    return run(BY_PATH["/v1/login/" + path], relay, given)  # type: ignore[arg-type]


def test_the_worst_are_listed_with_the_end_of_their_lock_as_a_time(relay):
    for _ in range(6):
        relay.guard.failed("198.51.100.7", "crm-1", NOW)
    rows = say(relay, "failures", limit=1)
    assert rows == [{"ip": "198.51.100.7", "login": "crm-1", "failures": 6, "until": NOW + 30}]
    head, row = rendered(rows)
    assert head.split() == ["IP", "LOGIN", "FAILURES", "UNTIL"] and row.split()[:3] == ["198.51.100.7", "crm-1", "6"]
    assert row.split()[3].startswith("2023-11-")


def test_who_is_forgiven_may_try_at_once(relay):
    for _ in range(6):
        relay.guard.failed("198.51.100.7", "crm-1", NOW)
    assert say(relay, "forgive", who="crm-1") == {"forgiven": "crm-1", "keys": 2}
    assert relay.guard.refuse("198.51.100.7", "crm-1", NOW) == 0


@pytest.mark.parametrize("who", ["crm-2", "203.0.113.1"])
def test_forgiving_somebody_who_did_not_fail_is_a_slip(relay, who):
    relay.guard.failed("198.51.100.7", "crm-1", NOW)
    with pytest.raises(InputError, match="has failed lately: write an IP address or a login"):
        say(relay, "forgive", who=who)
