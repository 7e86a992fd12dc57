"""The verbs of warm-up."""

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from queue import Queue
from typing import Any

import msgspec
import pytest

from relayd.config import Source
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.ctl import rendered
from relayd.errors import InputError
from relayd.warmup import Plan
from tests.fake_relay import NOW, FakeRelay, opened

PLAN = Plan(caps=(50, 100, 200), caps_for={"gmail": (20, 40)})
posted: Queue[Callable[[], None]] = Queue()


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path, posted.put)
    sources = {"t1": Source(ehlo="t1.example"), "t8": Source(warmup="slow"), "t9": Source(warmup="slow")}
    made.config = msgspec.structs.replace(made.config, source=sources, warmup={"slow": PLAN})
    made.warmup.configure(made.config.warming())
    yield made
    made.close()


def say(relay: FakeRelay, verb: str, **given: object) -> Any:
    answer = run(BY_PATH[f"/v1/warmup/{verb}"], relay, given)  # type: ignore[arg-type]
    while isinstance(answer, Future) and not answer.done():
        posted.get(timeout=10)()
    return answer.result() if isinstance(answer, Future) else answer


def send(relay: FakeRelay, group: str, count: int, *outcomes: Any) -> None:
    for _ in range(count):
        while relay.warmup.may("t9", group, NOW, NOW):
            posted.get(timeout=10)()
        relay.warmup.spend("t9", group, NOW)
    for outcome in outcomes:
        relay.warmup.outcome("t9", group, outcome, NOW)


def test_the_list_has_what_is_held_first_and_what_is_warm_last(relay):
    send(relay, "yahoo", 30, *["delivered"] * 29, "deferred")
    send(relay, "gmail", 20, *["delivered"] * 15, *["deferred"] * 5)
    say(relay, "set", source="t9", group="orange", day=9)
    rows = say(relay, "list")
    assert [(row["source"], row.get("group"), row["state"]) for row in rows] == [
        ("t8", None, "nothing sent yet"),
        ("t9", "gmail", "will be held: 5 of 20 were deferred, more than 10 %"),
        ("t9", "yahoo", "advancing"),
        ("t9", "orange", "warm"),
    ]
    yahoo, orange = rows[2:]
    assert [yahoo[key] for key in ("day", "of", "cap", "sent", "deferred", "tomorrow")] == [
        1,
        3,
        50,
        30,
        0.0333,
        "day 2",
    ]
    assert [orange[key] for key in ("day", "of", "cap")] == [None, 3, None]
    assert say(relay, "list", limit=1) == rows[:2]
    assert len(rendered(rows)) == 5


def test_the_plan_is_shown_day_by_day_with_the_groups_that_have_their_own(relay):
    send(relay, "gmail", 3)
    send(relay, "yahoo", 4)
    shown = say(relay, "show", source="t9")
    assert shown["plan"] == "slow"
    assert shown["caps"] == [
        {"day": 1, "cap": 50, "gmail": 20},
        {"day": 2, "cap": 100, "gmail": 40},
        {"day": 3, "cap": 200, "gmail": None},
    ]
    assert [(row["group"], row["cap"], row["sent"]) for row in shown["groups"]] == [("yahoo", 50, 4), ("gmail", 20, 3)]
    assert say(relay, "show", source="t9", limit=1)["groups"] == shown["groups"][:1]


def test_a_source_is_put_at_a_day_which_is_on_disk_when_it_is_said_to_be(relay, tmp_path):
    send(relay, "gmail", 3)
    row = say(relay, "set", source="t9", group="gmail", day=2)
    assert (row["day"], row["cap"], row["sent"]) == (2, 40, 3)
    with closing(sqlite3.connect(tmp_path / "directory.sqlite")) as db:
        assert db.execute("SELECT day FROM warmups").fetchall() == [(2,)]


@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("show", {"source": "t7"}, "source: no source 't7' is in warm-up .did you mean .t"),
        ("show", {"source": "t1"}, "no source 't1' is in warm-up"),
        ("set", {"source": "t1", "group": "gmail", "day": 1}, "no source 't1' is in warm-up"),
        ("set", {"source": "t9", "group": "gmail", "day": 0}, "day: the first day is 1"),
        ("set", {"source": "t9", "group": "gmail", "day": -1}, "day: .* is not a whole number"),
        ("set", {"source": "t9", "group": "gmail"}, "day: is missing"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(relay, verb, given, words):
    with pytest.raises(InputError, match=words):
        say(relay, verb, **given)


def test_only_operators_move_a_source():
    assert [BY_PATH[f"/v1/warmup/{verb}"].role for verb in ("list", "show", "set")] == ["view", "view", "operate"]
