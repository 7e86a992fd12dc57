"""The verbs of reputation."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Queue
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.ctl import rendered
from relayd.directory import Change
from relayd.errors import InputError
from relayd.reputation import Who
from tests.fake_relay import NOW, FakeRelay, opened
from tests.reception_kit import SSHA

SHOP: Who = ("t1", "gmail", "crm", "shop.example", "login1", "news@shop.example")
posted: Queue[Callable[[], None]] = Queue()


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    made = opened(tmp_path, posted.put)
    finish(made.directory.ensure_account("crm", now=NOW))
    finish(made.directory.add_connection("login1", account="crm", hash=SSHA, now=NOW))
    yield made
    made.close()


def finish(answer: Any) -> Any:
    while isinstance(answer, Future) and not answer.done():
        posted.get(timeout=10)()
    return answer.result() if isinstance(answer, Future) else answer


def say(relay: FakeRelay, verb: str, **given: object) -> Any:
    return finish(run(BY_PATH[f"/v1/reputation/{verb}"], relay, given, "ops"))  # type: ignore[arg-type]


def send(relay: FakeRelay, good: int, bad: int, who: Who = SHOP, now: float = NOW) -> None:
    relay.reputation.event(who, "delivered", now, good)
    relay.reputation.event(who, "unknown", now, bad)
    relay.reputation.tick(now)


def test_the_list_has_the_worst_first_and_nobody_who_stands_well(relay):
    send(relay, 990, 10, ("", "", "good", "", "", ""))
    send(relay, 100, 100)
    rows = say(relay, "list")
    assert {(row["subject"], row["step"], row["acts"]) for row in rows} == {
        ("account:crm", "block", "slow"),
        ("client:crm/shop.example", "block", "hold"),
        ("connection:login1", "block", "block"),
        ("domain:shop.example", "block", "good"),
    }
    assert rows[0]["why"] == "100 of 200 recipients of the last hour do not exist (50 %; 30 % allowed)"
    (row,) = say(relay, "list", kind="client")
    assert (row["by"], row["pace"], row["since"], row["until"]) == ("reputation", 60, NOW, None)
    assert "client:crm/shop.example" in "\n".join(rendered(rows))


def test_the_list_of_all_has_who_is_nearest_to_what_is_allowed_behind_them(relay):
    for name, bad in (("far", 10), ("near", 60), ("clean", 0)):
        send(relay, 1000 - bad, bad, ("", "", name, "", "", ""))
    send(relay, 100, 100)
    rows = say(relay, "list", kind="account", worst=True)
    assert [(row["subject"], row["near"]) for row in rows] == [
        ("account:crm", 6.25),
        ("account:near", 0.75),
        ("account:far", 0.12),
        ("account:clean", 0.0),
    ]
    assert len(say(relay, "list", worst=True, limit=2)) == 2


def test_what_a_client_calls_itself_does_no_harm_on_a_terminal(relay):
    send(relay, 100, 100, ("", "", "crm", "a\x1b[2Jb", "", ""))
    (row,) = say(relay, "list", kind="client")
    assert "\x1b" not in row["subject"]


def test_a_subject_is_shown_with_its_counts_shares_record_and_changes(relay):
    send(relay, 9_900, 100, now=NOW - 86400)
    send(relay, 160, 40)
    change = Change(NOW, "reputation", "reputation slow", {"subject": "connection:login1", "reason": "why"}, "done")
    finish(relay.directory.note(change))
    shown = say(relay, "show", subject="connection:login1")
    assert shown["hour"] == {"delivered": 160, "unknown": 40, "shares": {"unknown": 0.2}}
    assert shown["day"] == shown["hour"]
    assert shown["past"]["shares"] == {"unknown": 0.01} and shown["past"]["delivered"] == 9405
    assert shown["share"] == 1.0 and shown["step"] == "good"
    assert shown["changes"] == [
        {
            "time": NOW,
            "who": "reputation",
            "verb": "reputation slow",
            "subject": "connection:login1",
            "reason": "why",
            "result": "done",
        }
    ]


def test_an_operator_holds_blocks_and_releases(relay):
    held = say(relay, "hold", subject="client:crm/shop.example", reason="phishing?", **{"for": "4h"})
    assert (held["step"], held["acts"], held["by"], held["until"]) == ("hold", "hold", "ops", NOW + 4 * 3600)
    assert relay.reputation.held(SHOP) == "client:crm/shop.example is held for review by ops: phishing?"
    blocked = say(relay, "block", subject="domain:shop.example", reason="phishing")
    assert blocked["step"] == "block" and blocked["until"] is None
    for subject in ("client:crm/shop.example", "domain:shop.example"):
        assert say(relay, "release", subject=subject, reason="was none")["step"] == "good"
    assert not relay.reputation.held(SHOP)
    with pytest.raises(InputError, match="is not held back: relayctl reputation list shows who is"):
        say(relay, "release", subject="domain:shop.example", reason="again")


@pytest.mark.parametrize(
    ("verb", "subject", "words"),
    [
        ("show", "crm", "is not account:NAME, client:ACCOUNT/CLIENT"),
        ("show", "account:nobody", "nothing is known of account:nobody"),
        ("hold", "account:cmr", "there is no account 'cmr' \\(did you mean \"crm\""),
        ("hold", "client:cmr/a", "there is no account 'cmr'"),
        ("hold", "connection:login2", 'did you mean "login1"'),
        ("block", "source:t1/gmail", "relayctl source drain takes it out of use"),
        ("hold", "acount:crm", 'did you mean "account"'),
    ],
)
def test_a_subject_that_cannot_be_meant_is_refused(relay, verb, subject, words):
    more = {} if verb == "show" else {"reason": "why"}
    with pytest.raises(InputError, match=words) as raised:
        say(relay, verb, subject=subject, **more)
    assert raised.value.field == "subject"


def test_activating_a_connection_lets_its_reputation_go(relay):
    send(relay, 100, 100)
    assert relay.reputation.share("connection", "login1") == 0.0
    finish(run(BY_PATH["/v1/connection/activate"], relay, {"login": "login1"}, "ops"))  # type: ignore[arg-type]
    assert relay.reputation.share("connection", "login1") == 1.0
