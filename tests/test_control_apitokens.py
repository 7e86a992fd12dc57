"""The verbs of the API's tokens."""

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.errors import InputError
from tests.fake_relay import NOW, FakeRelay, opened


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    made.directory.add_account("crm", now=1.0).result(10)
    yield made
    made.close()


def say(relay: FakeRelay, path: str, **given: object) -> Any:
    value = run(BY_PATH["/v1/apitoken/" + path], relay, given, "anna")
    return value.result(10) if hasattr(value, "result") else value


def test_a_token_is_shown_when_it_is_made_and_never_again(relay):
    made = say(relay, "add", name="crm-1", account="crm", expires="1d", network=["198.51.100.0/24"], note="theirs")
    assert next(iter(made)) == "token" and relay.directory.api_tokens.read(made["token"])[1]
    row = {key: value for key, value in made.items() if key != "token"}
    assert say(relay, "list") == [row] == say(relay, "list", account="crm") and say(relay, "list", account="x") == []
    assert (row["role"], row["account"], row["expires"], row["by"]) == ("customer", "crm", NOW + 86400, "anna")
    assert row["state"] == "in use" and row["id"] in made["token"] and "digest" not in row
    assert say(relay, "revoke", name="crm-1") == row and say(relay, "list") == []


def test_a_token_whose_time_is_over_is_called_expired(relay, monkeypatch):
    say(relay, "add", name="v", role="view", expires="1h")
    monkeypatch.setattr(relay, "now", lambda: NOW + 3600)
    assert [row["state"] for row in say(relay, "list")] == ["expired"]


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({}, "role", "--account NAME for a customer, or --role"),
        ({"account": "crm", "role": "admin"}, "role", "--account NAME for a customer, or --role"),
        ({"account": "crn"}, "account", 'did you mean "crm"'),
        ({"role": "customer"}, "role", "none of view, operate, admin"),
        ({"role": "view", "network": ["10.1.2.3/8"]}, "network", "behind its prefix"),
        ({"role": "view", "expires": "soon"}, "expires", "is not a duration"),
    ],
)
def test_a_token_that_would_be_nobodys_or_everybodys_is_refused(relay, given, field, words):
    with pytest.raises(InputError, match=words) as raised:
        say(relay, "add", name="t", **given)
    assert raised.value.field == field and say(relay, "list") == []
