"""What the verbs do with connections: what each may do, and who said so."""

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.errors import InputError
from relayd.quotas import parse_limits
from tests.fake_relay import NOW, FakeRelay, opened


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    say(made, "account/add", name="crm")
    yield made
    made.close()


def say(relay: FakeRelay, path: str, who: str = "anna", **given: object) -> Any:
    value = run(BY_PATH["/v1/" + path], relay, given, who)  # type: ignore[arg-type]
    return value.result(10) if hasattr(value, "result") else value


def add(relay: FakeRelay, **given: object) -> Any:
    return say(relay, "connection/add", **{"login": "a", "account": "crm", "password": "correct horse", **given})


def test_a_connection_has_streams_and_lists_of_its_own(relay):
    say(relay, "stream/set", account="crm", name="news", template="marketing")
    add(relay, sender=["@crm.example"], client="192.0.2.0/24", stream=["transactional", "news"], list=["own", "vip"])
    row = relay.directory.connection("a")
    assert (row.streams, row.lists) == (("transactional", "news"), ("own", "vip"))
    assert (row.senders, row.clients, row.state, row.by) == (("@crm.example",), ("192.0.2.0/24",), "active", "anna")


def test_one_that_is_not_activated_waits_for_an_operator(relay):
    assert add(relay, inactive=True)["state"] == "inactive"
    told = say(relay, "connection/activate", "boris", login="a")
    assert (told["state"], told["by"]) == ("active", "boris")


def test_who_blocked_a_connection_and_why_is_shown_until_it_is_activated(relay):
    add(relay)
    say(relay, "connection/block", "boris", login="a", reason="password on a pastebin")
    told = say(relay, "connection/show", login="a")
    assert (told["state"], told["by"], told["reason"]) == ("blocked", "boris", "password on a pastebin")
    told = say(relay, "connection/activate", "clara", login="a")
    assert (told["state"], told["by"], told["reason"]) == ("active", "clara", "")


def test_what_is_set_is_shown_what_is_not_named_stays_and_none_takes_away(relay):
    add(relay, sender=["@crm.example"], stream=["transactional"], list=["own"], client="192.0.2.1")
    told = say(relay, "connection/set", login="a", messages=["10/s", "5000/h"], recipients="1/s", sessions=3)
    assert told["limits"] == {"messages": ["10/s", "5000/h"], "recipients": ["1/s"]} and told["sessions"] == 3
    assert (told["senders"], told["streams"], told["lists"]) == (("@crm.example",), ("transactional",), ("own",))
    gone = dict.fromkeys(("client", "stream", "list", "messages"), "none")
    say(relay, "connection/set", login="a", sender=["a@x.example", "*"], **gone)
    row = relay.directory.connection("a")
    assert (row.senders, row.clients, row.streams, row.lists) == (("a@x.example", "*"), (), (), ())
    assert row.limits == parse_limits({"recipients": "1/s"}) and (row.created, row.state) == (NOW, "active")


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({}, "", "nothing to set"),
        ({"login": "b", "sessions": 1}, "login", "there is no connection 'b'"),
        ({"sender": ["nobody"]}, "sender", "omain"),
        ({"client": ["10.0.0.1/8"]}, "client", "bits behind its prefix"),
        ({"stream": ["marketin"]}, "stream", 'did you mean "marketing"'),
        ({"stream": ["none", "marketing"]}, "stream", "there is no stream 'none'"),
        ({"list": ["account:crm/own"]}, "list", "is not a name"),
        ({"messages": ["often"]}, "messages", "often"),
        ({"recipients": ["1/s"] * 9}, "recipients", "8 are enough"),
        ({"sessions": "-1"}, "sessions", "is not a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(relay, given, field, words):
    add(relay, sender=["@crm.example"])
    before = relay.directory.connection("a")
    with pytest.raises(InputError) as raised:
        say(relay, "connection/set", **{"login": "a", **given})
    assert raised.value.field == field and words in raised.value.text
    assert relay.directory.connection("a") == before


def test_a_stream_of_an_account_above_may_be_used_and_one_of_another_may_not(relay):
    for name, parent in (("shop", "crm"), ("other", "none")):
        say(relay, "account/add", name=name, **({"parent": parent} if parent != "none" else {}))
    say(relay, "stream/set", account="crm", name="news", template="marketing")
    add(relay, account="shop", stream="news")
    with pytest.raises(InputError, match="there is no stream 'news'"):
        add(relay, login="b", account="other", stream="news")


def test_a_connection_that_is_removed_takes_its_lists_along(relay):
    add(relay)
    for name in ("connection:a/own", "account:crm/own"):
        say(relay, "list/add", list=name)
    say(relay, "connection/remove", login="a")
    assert [row.list for row in say(relay, "list/list")] == ["account:crm/own"]
