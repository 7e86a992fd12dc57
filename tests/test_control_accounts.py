"""What the verbs do with accounts and with what each calls a stream."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from relayd.config import Provider
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.errors import InputError
from relayd.quotas import parse_limits
from tests.fake_relay import FakeRelay, opened


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    say(made, "account/add", name="crm")
    yield made
    made.close()


def say(relay: FakeRelay, path: str, **given: object) -> Any:
    value = run(BY_PATH["/v1/" + path], relay, given, "anna")  # type: ignore[arg-type]
    return value.result(10) if hasattr(value, "result") else value


def refused(relay: FakeRelay, path: str, **given: object) -> tuple[str, str]:
    """The argument at fault, and why."""
    with pytest.raises(InputError) as raised:
        say(relay, path, **given)
    return raised.value.field, raised.value.text


def test_what_is_set_is_shown_and_what_is_not_named_stays(relay):
    say(relay, "account/set", name="crm", recipients=["1000/h", "10000/d"], risk="high", zone="Mail.Crm.Example")
    told = say(relay, "account/set", name="crm", messages="10/s", client_recipients="5/min", sessions=7)
    assert told == {**told, "risk": "high", "zone": "mail.crm.example", "sessions": 7, "domain_check": "require"}
    assert told["limits"] == {"messages": ["10/s"], "recipients": ["1000/h", "10000/d"]}
    assert told["client_limits"] == {"recipients": ["5/m"]}
    shown = say(relay, "account/show", name="crm")
    assert {key: shown[key] for key in told} == told and (shown["accounts"], shown["connections"]) == ([], [])


def test_a_client_of_an_account_has_no_weight_of_its_own(relay):
    assert say(relay, "account/set", name="crm", weight=5)["weight"] == 5
    say(relay, "account/add", name="shop", parent="crm")
    field, text = refused(relay, "account/set", name="shop", weight=2)
    assert field == "weight" and "shop is a client of crm" in text
    say(relay, "account/add", name="agency")
    assert refused(relay, "account/set", name="crm", parent="agency")[0] == "weight"


def test_what_goes_out_for_an_account_is_limited_in_all_and_towards_a_provider(relay):
    relay.config = msgspec.structs.replace(relay.config, provider={"gmail": Provider(match=("*.google.com",))})
    say(relay, "account/shape", name="crm", set="rate=100/min")
    told = say(relay, "account/shape", name="crm", at="gmail", set=["path.connections=2", "bytes=10M/s"])
    both = {"": {"account": {"rate": "100/m"}}, "gmail": {"account": {"bytes": "10M/s"}, "path": {"connections": 2}}}
    assert told["shaping"] == both and say(relay, "account/show", name="crm")["shaping"] == both
    scheduling = relay.streams.scheduling("crm", "marketing")
    assert [(layer.name, layer.at) for layer in scheduling.layers] == [
        ("account crm", ""),
        ("account crm at gmail", "gmail"),
    ]
    say(relay, "account/add", name="shop", parent="crm")
    assert relay.streams.scheduling("shop", "marketing").layers == scheduling.layers
    say(relay, "account/shape", name="crm", set="rate=")
    assert say(relay, "account/shape", name="crm", at="gmail", set=["bytes=", "path.connections="])["shaping"] == {}


@pytest.mark.parametrize(
    ("given", "field", "word"),
    [
        ({"set": "rate=fast"}, "set", "is not a rate"),
        ({"set": "rat=1/s"}, "set", "did you mean"),
        ({"set": "path.connection_rate=1/s"}, "set", "no limit here"),
        ({"set": "domain.rate=1/s"}, "set", "is no scope"),
        ({"set": "rate=1/s", "at": "gmial"}, "at", "no provider 'gmial'"),
        ({"set": "hours=25:00-26:00"}, "set", "hours: "),
    ],
)
def test_what_cannot_be_a_limit_of_an_account_is_refused_with_the_reason(relay, given, field, word):
    found = refused(relay, "account/shape", name="crm", **given)
    assert found[0] == field and word in found[1]
    assert relay.directory.account("crm").shaping == ()


def test_none_takes_away(relay):
    say(relay, "account/add", name="agency")
    given = {"parent": "agency", "zone": "a.example", "messages": "1/s", "recipients": "1/s"}
    say(relay, "account/set", name="crm", **given)
    say(relay, "account/set", name="crm", parent="none", zone="none", messages="none", client_messages="none")
    account = relay.directory.account("crm")
    assert (account.parent, account.zone, account.limits) == ("", "", parse_limits({"recipients": "1/s"}))


def test_a_sub_account_is_listed_below_its_account(relay):
    say(relay, "account/add", name="shop", parent="crm", domain_check="off")
    assert [row["name"] for row in say(relay, "account/list", parent="crm")] == ["shop"]
    assert [row["name"] for row in say(relay, "account/list")] == ["crm", "shop"]
    assert say(relay, "account/show", name="crm")["accounts"] == ["shop"]


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"name": "crm"}, "", "nothing to set"),
        ({"name": "cmr", "risk": "low"}, "name", 'did you mean "crm"'),
        ({"name": "crm", "parent": "crm"}, "parent", "crm is crm itself or below it"),
        ({"name": "crm", "parent": "nobody"}, "parent", "there is no account 'nobody'"),
        ({"name": "crm", "risk": "none"}, "risk", "none of low, normal, high"),
        ({"name": "crm", "zone": "no zone"}, "zone", "is not a host name"),
        ({"name": "crm", "sessions": "many"}, "sessions", "is not a whole number"),
        ({"name": "crm", "weight": 0}, "weight", "1 to 1000"),
        ({"name": "crm", "messages": "many"}, "messages", "many"),
        ({"name": "crm", "recipients": ["1/s", "none"]}, "recipients", "none"),
        ({"name": "crm", "client_messages": "fast"}, "client_messages", "fast"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(relay, given, field, words):
    before = relay.directory.account("crm")
    found, text = refused(relay, "account/set", **given)
    assert found == field and words in text and relay.directory.account("crm") == before


# Streams.


def test_a_stream_is_a_template_with_some_keys_different(relay):
    keys = ["priority=10", 'lists=["own", "all"]', "validation=off", 'limits={ messages = "10/s" }', "reports = none"]
    made = say(relay, "stream/set", account="crm", name="news", template="marketing", set=keys)
    assert made["template"] == "marketing" and "fault" not in made
    assert made["overrides"] == {
        "priority": 10,
        "lists": ["own", "all"],
        "validation": "off",
        "limits": {"messages": "10/s"},
        "reports": "none",
    }
    shown = say(relay, "stream/show", account="crm", name="news")
    assert (shown["priority"], shown["lists"], shown["pool"]) == (10, ("own", "all"), "p")
    assert shown["limits"] == {"messages": ["10/s"]} and shown["reports"] == "none"
    assert say(relay, "account/show", name="crm")["streams"] == [made]


def test_keys_of_a_stream_are_changed_one_by_one_and_an_empty_value_takes_the_templates(relay):
    say(relay, "stream/set", account="crm", name="marketing", set=["priority=10", "reports=none"])
    made = say(relay, "stream/set", account="crm", name="marketing", set=["priority=", "risk=high"])
    assert (made["template"], made["overrides"]) == ("marketing", {"reports": "none", "risk": "high"})
    moved = say(relay, "stream/set", account="crm", name="marketing", template="transactional")
    assert (moved["template"], moved["overrides"]) == ("transactional", made["overrides"])


def test_streams_are_listed_the_configured_ones_first_and_removed(relay):
    say(relay, "stream/set", account="crm", name="news", template="marketing")
    rows = [(row["account"], row["name"], row["template"]) for row in say(relay, "stream/list")]
    assert rows == [
        ("", "transactional", "transactional"),
        ("", "marketing", "marketing"),
        ("crm", "news", "marketing"),
    ]
    assert [row["name"] for row in say(relay, "stream/list", account="crm")] == ["news"]
    assert say(relay, "stream/remove", account="crm", name="news")["name"] == "news"
    assert say(relay, "stream/list", account="crm") == []
    assert refused(relay, "stream/remove", account="crm", name="news")[0] == "name"


def test_a_sub_account_is_shown_what_holds_for_it(relay):
    say(relay, "account/add", name="shop", parent="crm")
    say(relay, "stream/set", account="crm", name="news", template="marketing", set="priority=7")
    assert say(relay, "stream/show", account="shop", name="news")["priority"] == 7
    assert say(relay, "stream/show", account="shop", name="transactional")["priority"] == 50


def test_a_stream_that_a_changed_configuration_spoilt_is_shown_with_its_fault(relay):
    relay.directory.set_stream("crm", "news", "gone", {}).result(10)
    (row,) = say(relay, "stream/list", account="crm")
    assert row["fault"] == "its template 'gone' is not in the configuration any more"


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"account": "cmr"}, "account", 'did you mean "crm"'),
        ({"template": "marketin"}, "template", 'did you mean "marketing"'),
        ({}, "template", "there is no stream 'news' in the configuration"),
        ({"template": "marketing", "set": "priority"}, "set", "'priority' is not KEY=VALUE"),
        (
            {"template": "marketing", "set": "prioritty=1"},
            "set",
            "unknown key 'prioritty' (did you mean \"priority\"?)",
        ),
        ({"template": "marketing", "set": "priority=high"}, "set", "priority: 'high' is not a whole number"),
        ({"template": "marketing", "set": "priority=101"}, "set", "priority: 101 is not a whole number, 0 to 100"),
        ({"template": "marketing", "set": "pool=fast"}, "set", "there is no pool 'fast'"),
        ({"template": "marketing", "set": 'risk_pools={ high = "fast" }'}, "set", "there is no pool 'fast'"),
        ({"template": "marketing", "set": "limits={ mails = 1 }"}, "set", "limits: 'mails' is no limit"),
        ({"template": "marketing", "set": "expire=3"}, "set", "expire: 3 is not a duration"),
        ({"template": "marketing", "set": "=1"}, "set", "unknown key ''"),
        ({"template": "marketing", "set": 'pool_for={ "*.ru" = "fast" }'}, "set", "there is no pool 'fast'"),
        ({"template": "marketing", "set": 'pool_for={ "*" = "p" }'}, "set", 'write pool = "POOL"'),
        ({"template": "marketing", "set": "priority=2026-01-01"}, "set", "priority: "),
    ],
)
def test_a_fault_in_a_stream_names_the_key(relay, given, field, words):
    found, text = refused(relay, "stream/set", **{"account": "crm", "name": "news", **given})
    assert found == field and words in text and relay.directory.streams() == []


def test_a_stream_that_an_account_has_not_is_not_shown(relay):
    field, text = refused(relay, "stream/show", account="crm", name="marketin")
    assert field == "name" and 'did you mean "marketing"' in text
