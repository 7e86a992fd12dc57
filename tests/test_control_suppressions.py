"""What the verbs do with suppression lists."""

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
    made.directory.add_connection("crm-1", account="crm", now=1.0).result(10)
    for name in ("complaints", "account:crm/own", "connection:crm-1/own"):
        say(made, "list/add", list=name)
    yield made
    made.close()


def say(relay: FakeRelay, path: str, **given: object) -> Any:
    value = run(BY_PATH["/v1/" + path], relay, given, "anna")  # type: ignore[arg-type]
    return value.result(30) if hasattr(value, "result") else value


def add(relay: FakeRelay, *values: str, **more: object) -> Any:
    return say(relay, "suppression/add", **{"list": "complaints", "value": list(values), **more})


def test_lists_are_told_with_their_numbers(relay):
    add(relay, "a@b.example", "*@c.example")
    rows = [(row.list, row.entries, row.patterns, row.created) for row in say(relay, "list/list")]
    assert rows == [("account:crm/own", 0, 0, NOW), ("complaints", 2, 1, NOW), ("connection:crm-1/own", 0, 0, NOW)]
    assert say(relay, "list/remove", list="complaints").entries == 2
    assert not relay.suppressions.suspects(("complaints",), "a@b.example")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("account:crn/own", r"there is no account 'crn' \(did you mean .crm"),
        ("connection:crm-2/own", r"there is no connection 'crm-2' \(did you mean .crm-1"),
        ("relay:own", "is not the name of a suppression list"),
    ],
)
def test_a_list_needs_an_owner_that_exists(relay, name, words):
    with pytest.raises(InputError, match=words) as raised:
        say(relay, "list/add", list=name)
    assert raised.value.field == "list"


def test_what_is_added_is_told_as_it_was_understood_and_kept_with_its_reason(relay):
    told = add(relay, "Ivan@Mail.Example", "@spam.example", reason="complaint", evidence="by phone", expires="30d")
    first, second = {"kind": "address", "value": "ivan@mail.example"}, {"kind": "domain", "value": "spam.example"}
    assert told == {"added": 2, "replaced": 0, "kept": 0, "entries": [first, second]}
    rest = {"list": "complaints", "reason": "complaint", "evidence": "by phone", "by": "anna"}
    rest |= {"added": NOW, "expires": NOW + 30 * 86400}
    assert say(relay, "suppression/list", list="complaints")["entries"] == [first | rest, second | rest]
    assert add(relay, "ivan@mail.example", expires="1d")["kept"] == 1
    assert add(relay, "ivan@mail.example")["replaced"] == 1
    assert say(relay, "suppression/search", address="ivan@mail.example")[0]["expires"] is None


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"value": ["no body"]}, "value", "is not a host name"),
        ({"value": []}, "value", "is missing"),
        ({"list": "complains"}, "list", "there is no list 'complains'"),
        ({"reason": "boredom"}, "reason", "none of unsubscribe"),
        ({"expires": "30"}, "expires", "is not a duration"),
        ({"kind": "mail"}, "kind", "none of address"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(relay, given, field, words):
    with pytest.raises(InputError, match=words) as raised:
        add(relay, "a@b.example", **given)
    assert raised.value.field == field


def test_a_search_says_which_lists_stop_an_address_and_a_removal_ends_that(relay):
    add(relay, "a@b.example", evidence="x")
    add(relay, "b.example", list="account:crm/own")
    found = say(relay, "suppression/search", address="A@b.example")
    assert [(row["list"], row["value"], row["expires"]) for row in found] == [
        ("account:crm/own", "b.example", None),
        ("complaints", "a@b.example", None),
    ]
    assert say(relay, "suppression/remove", list="complaints", value="A@b.example")["evidence"] == "x"
    assert len(say(relay, "suppression/search", address="a@b.example")) == 1


def test_a_list_is_read_in_parts(relay):
    add(relay, *(f"{name}@b.example" for name in "abcd"))
    first = say(relay, "suppression/list", list="complaints", limit=3)
    rest = say(relay, "suppression/list", list="complaints", after=first["next"])
    assert [row["value"][0] for row in [*first["entries"], *rest["entries"]]] == [*"abcd"] and rest["next"] == ""
    assert [row["value"] for row in say(relay, "suppression/list", list="complaints", prefix="C")["entries"]] == [
        "c@b.example"
    ]


def test_rows_go_in_and_come_out(relay):
    rows = [{"value": "a@b.example", "expires": "2027-01-31"}, {"value": "no body"}, {"value": "*@c.example"}]
    told = say(relay, "suppression/import", list="complaints", rows=rows, reason="complaint")
    assert (told["complete"], told["added"], told["refused"]) == (False, 2, 1)
    assert (told["faults"][0].row, told["faults"][0].error[:6]) == (1, "value:")
    exported = say(relay, "suppression/export", list="complaints")
    assert [(row["value"], row["reason"], row["expires"]) for row in exported["rows"]] == [
        ("*@c.example", "complaint", ""),
        ("a@b.example", "complaint", "2027-01-31T00:00:00Z"),
    ]
    assert exported["next"] == ""
    again = say(relay, "suppression/import", list="account:crm/own", rows=exported["rows"])
    assert (again["complete"], again["added"]) == (True, 2)


@pytest.mark.parametrize("rows", [[], ["a@b.example"], [{}], [{"value": 7}]])
def test_what_is_no_row_is_refused(relay, rows):
    with pytest.raises(InputError, match=r"^rows: (is missing|a row is an object of texts)"):
        say(relay, "suppression/import", list="complaints", rows=rows)


def test_a_connections_lists_go_with_it(relay):
    add(relay, "a@b.example", list="connection:crm-1/own")
    assert say(relay, "connection/remove", login="crm-1")["login"] == "crm-1"
    assert [row.list for row in say(relay, "list/list")] == ["account:crm/own", "complaints"]
    with pytest.raises(InputError, match="there is no connection 'crm-1'"):
        say(relay, "connection/remove", login="crm-1")
