"""The verbs of reactions."""

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.control.verb import MAX_BODY, run
from relayd.control.verbs import BY_PATH
from relayd.errors import InputError
from relayd.shaping.rules import Rules, Seen, parse
from tests.fake_relay import NOW, FakeRelay, opened


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path)
    rules = [
        parse("slower", {"codes": "421", "action": "limit", "rate": "20/min", "for": "30m"}),
        parse("rest", {"codes": "421", "text": "rest", "action": "suspend", "for": "1h"}),
    ]
    made.reactions.reconfigure(Rules(rules))
    for at, text in ((-1900.0, "please rest"), (-60.0, "slow"), (-50.0, "slow")):
        reply = Seen(
            "gmail", "gmail", "gmail.com", "t1", "crm", "mx.g.example", "dot", 421, "4.7.0", text, NOW + at, "19a"
        )
        made.reactions.seen(reply)
    yield made
    made.close()


def say(relay: FakeRelay, verb: str, **given: object) -> Any:
    return run(BY_PATH[f"/v1/shaping/{verb}"], relay, given, "anna")  # type: ignore[arg-type]


def test_reactions_show_the_rule_the_very_reply_and_when_each_ends(relay):
    slower, rest = say(relay, "reactions")
    assert slower == {
        "id": 1,
        "rule": "slower",
        "action": "limit to 20/m",
        "source": "t1",
        "at": "gmail",
        "account": "",
        "state": "holds",
        "since": NOW - 1900,
        "until": NOW - 60 + 3600,
        "returns_until": NOW - 60 + 3600,
        "times": 2,
        "replies": 1,
        "time": NOW - 60,
        "delivery": "19a",
        "stage": "dot",
        "host": "mx.g.example",
        "reply": "421 4.7.0 slow",
    }
    assert (rest["rule"], rest["action"], rest["state"], rest["until"]) == ("rest", "suspend", "holds", NOW + 1700)
    assert (rest["returns_until"], rest["reply"]) == (NOW + 3500, "421 4.7.0 please rest")


def test_a_reaction_is_lifted_by_its_number(relay):
    assert say(relay, "lift", id="2")["rule"] == "rest"
    assert [row["rule"] for row in say(relay, "reactions")] == ["slower"]
    with pytest.raises(InputError, match="there is no reaction 2"):
        say(relay, "lift", id=2)


def test_only_operators_lift():
    verb = BY_PATH["/v1/shaping/lift"]
    assert (verb.role, verb.effect) == ("operate", "change")


def test_a_replay_takes_texts_of_rules_and_goes_a_day_back(relay):
    say(relay, "replay")
    say(relay, "replay", rules=["[reaction.x]\n", "[provider.y]\n"], since="6h")
    assert relay.replayed == [([], 86400), (["[reaction.x]\n", "[provider.y]\n"], 21600)]


def test_a_replay_is_asked_with_a_body_for_a_file_has_no_room_in_a_query():
    verb = BY_PATH["/v1/shaping/replay"]
    assert (verb.method, verb.effect, verb.role) == ("POST", "read", "view")


def test_a_file_of_rules_is_text_of_bounded_length(relay):
    with pytest.raises(InputError, match="rules: is not text of up to"):
        say(relay, "replay", rules=["x" * (MAX_BODY + 1)])
    with pytest.raises(InputError, match="rules: is not text"):
        say(relay, "replay", rules=[3])
