"""The verbs of senders under suspicion."""

from collections.abc import Iterator
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.envelope import Recipient
from relayd.errors import InputError
from relayd.suspicion import Settings, Suspicion
from tests.fake_relay import NOW, FakeRelay, opened

DAY = 86400.0


@pytest.fixture
def relay(tmp_path) -> Iterator[FakeRelay]:
    """The client "shop" of crm is under suspicion."""
    made = opened(tmp_path)
    for name in ("crm", "other"):
        made.directory.add_account(name, now=NOW).result(10)
    made.suspicion = Suspicion(
        Settings(memory=1 << 16),
        NOW - 30 * DAY,
        submit=lambda call: call(),
        post=lambda call: call(),
        customer=lambda account: account,
    )
    to = tuple(Recipient(f"a{n}@x.example") for n in range(600))
    made.suspicion.received("crm", "shop", "login", ("a@crm.example",), to, 0, 300, NOW)
    made.suspicion.tick(NOW)
    yield made
    made.close()


def say(relay: FakeRelay, verb: str, **given: object) -> Any:
    answer = run(BY_PATH[f"/v1/suspects/{verb}"], relay, given, "anna")  # type: ignore[arg-type]
    return answer.result(10) if hasattr(answer, "result") else answer


def test_a_suspect_is_listed_with_what_speaks_against_it(relay):
    (row,) = say(relay, "list")
    why = row.pop("why")
    assert row == {
        "account": "crm", "kind": "client", "name": "shop", "score": 70, "worst": 70, "since": NOW,
        "by": ["login"],
    }  # fmt: skip
    assert why.startswith("600 recipients in 15 minutes, 0 is the most that is usual; 33% of the recipients have")


def test_an_account_is_shown_with_its_parts_and_all_that_counts_against_those_behind_it(relay):
    told = say(relay, "show", account="crm")
    (suspect,) = told["suspects"]
    assert (suspect["told"], told["dismissed"]) == (NOW, [])
    parts = [(row["kind"], row["name"], row["score"], row["part"], row["points"]) for row in told["signals"]]
    assert parts[:2] == [("client", "shop", 70, "volume", 40), ("client", "shop", 70, "faulty", 30)]
    assert parts[2:] == [("account", "", 40, "volume", 40), ("connection", "login", 40, "volume", 40)]
    assert told["signals"][0]["why"] in suspect["why"]
    assert say(relay, "show", account="other") == {"account": "other", "suspects": [], "signals": [], "dismissed": []}


def test_who_is_dismissed_is_gone_by_whom_why_and_until_when_is_shown(relay):
    row = {"account": "crm", "client": "shop", "reason": "a sale", "by": "anna", "since": NOW, "until": NOW + 3 * DAY}
    given = {"account": "crm", "client": "shop", "reason": "a sale", "for": "3d"}
    assert say(relay, "dismiss", **given) == row
    assert say(relay, "list") == [] and say(relay, "show", account="crm")["dismissed"] == [row]
    assert say(relay, "dismiss", account="crm", reason="known")["until"] == NOW + 7 * DAY
    assert (
        relay.directory.suspects._worker.run(
            lambda db: db.execute("SELECT count(*) FROM dismissals").fetchone()[0], lambda count: count
        ).result(10)
        == 2
    )


@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("show", {"account": "cmr"}, "there is no account 'cmr' .did you mean .crm"),
        ("dismiss", {"account": "cmr", "reason": "x"}, "there is no account 'cmr'"),
        ("dismiss", {"account": "crm"}, "reason: is missing"),
        ("dismiss", {"account": "crm", "reason": "x", "for": "soon"}, "for: "),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(relay, verb, given, words):
    with pytest.raises(InputError, match=words):
        say(relay, verb, **given)


def test_where_nobody_is_suspected_it_says_so(relay):
    relay.suspicion = None
    for verb, given in (("list", {}), ("show", {"account": "crm"}), ("dismiss", {"account": "crm", "reason": "x"})):
        with pytest.raises(InputError, match="enabled = false"):
            say(relay, verb, **given)


def test_only_operators_dismiss_and_it_is_signed():
    verb = BY_PATH["/v1/suspects/dismiss"]
    assert (verb.role, verb.effect, verb.signed) == ("operate", "change", True)
