"""What streams write about their recipients' addresses, and what it means."""

import json
import tomllib

import msgspec
import pytest

from relayd.validation import BULK, OFF, Rules, parse_rules


def test_off_accepts_everything_and_bulk_refuses_whatever_fails():
    assert set(msgspec.structs.astuple(OFF)) == {"accept"}
    assert set(msgspec.structs.astuple(BULK)) == {"refuse"}
    assert (parse_rules("off"), parse_rules("bulk")) == (OFF, BULK)


def test_a_table_says_what_differs_from_bulk_in_toml_as_in_json():
    wanted = Rules("refuse", "drop", "refuse", "accept", "refuse", "refuse")
    assert parse_rules(tomllib.loads('v = { role = "accept", typo = "drop" }')["v"]) == wanted
    assert parse_rules(json.loads('{"role": "accept", "typo": "drop"}')) == wanted
    assert parse_rules({}) == BULK


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("strict", '\'strict\' is not a validation: write "off", "bulk" or a table such as { role = "accept" }'),
        (True, "True is not a validation"),
        (["bulk"], "is not a validation"),
        ({"rolle": "drop"}, r'there is no check \'rolle\' \(did you mean "role"\?\): write syntax, typo,'),
        ({"role": "allow"}, 'role is \'allow\': write "accept", "refuse" or "drop"'),
        ({"role": ["drop"]}, r"role is \['drop'\]"),
    ],
)
def test_what_is_no_rule_is_refused_in_words(value, words):
    with pytest.raises(ValueError, match=words):
        parse_rules(value)
