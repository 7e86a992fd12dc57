"""The verbs of webhooks."""

import json
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.control.webhooks import VERBS, moment
from relayd.errors import InputError
from relayd.events import NAMES
from tests.harness import START
from tests.webhook_kit import Desk, answer, running


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with running(tmp_path, monkeypatch) as made:
        yield made


def say(desk: Desk, verb: str, **given: Any) -> Any:
    relay = SimpleNamespace(directory=desk.directory, webhooks=desk.webhooks, now=desk.reactor.seconds)
    told = run(BY_PATH[f"/v1/webhook/{verb}"], relay, given, "anna")  # type: ignore[arg-type]
    if isinstance(told, Coroutine) or hasattr(told, "add_done_callback"):
        told = desk.ask(told)
    desk.reactor.pump()
    return json.loads(json.dumps(told))


def add(desk: Desk, **given: Any) -> Any:
    return say(desk, "add", **{"name": "w", "account": "crm", "url": "http://crm.example/events", **given})


def test_a_secret_is_shown_when_it_is_made_and_never_again(desk: Desk) -> None:
    first = add(desk)["secret"]
    second = say(desk, "rotate", name="w", overlap="1h")["secret"]
    assert first.startswith("whsec_") and second.startswith("whsec_") and first != second
    rest = [say(desk, "show", name="w"), say(desk, "list"), say(desk, "remove", name="w")]
    assert not any(secret[6:] in str(rest) for secret in (first, second))


def test_both_secrets_sign_until_the_overlap_is_over(desk: Desk) -> None:
    add(desk)
    assert say(desk, "rotate", name="w", overlap="1h")["previous_until"] == START + 3600
    desk.events(1)
    desk.reactor.wait(3600)
    desk.events(2)
    assert [len(r.headers["webhook-signature"].split()) for r in desk.server.requests] == [2, 1]


def test_a_webhook_is_made_shown_changed_and_removed(desk: Desk) -> None:
    made = add(desk, event=["bounced", "complained"], batch=50, concurrency=2)
    assert (made["account"], made["events"], made["batch"]) == ("crm", ["bounced", "complained"], 50)
    desk.events(1, kind="Bounce")
    shown = say(desk, "show", name="w")
    assert (shown["state"], shown["sent"], shown["behind"], shown["last_success"]) == ("active", 1, 0, START)
    assert say(desk, "set", name="w", event=["all"], concurrency=1)["events"] == ["all"]
    assert desk.row().events == NAMES
    assert say(desk, "set", name="w", event=["default"])["events"] == ["all but queued"]
    (row,) = say(desk, "list", account="crm")
    assert (row["name"], row["state"], row["url"]) == ("w", "active", "http://crm.example/events")
    assert say(desk, "list", account="other") == []
    say(desk, "remove", name="w")
    assert say(desk, "list") == []


def test_one_that_fails_shows_why_how_often_and_when_it_is_tried_next(desk: Desk) -> None:
    add(desk)
    desk.server.says = answer(500, body=b"Traceback: \x1b[2J")
    desk.events(1)
    desk.reactor.wait(2)
    (row,) = say(desk, "list")
    assert (row["tries"], row["words"], row["behind"], row["last_failure"]) == (1, "it answers 500", 2, START)
    assert START + 2 < row["next_try"] <= START + 5
    assert say(desk, "show", name="w")["answer"] == "Traceback: \\x1b[2J"


def test_it_is_paused_and_resumed_and_both_are_signed(desk: Desk) -> None:
    add(desk)
    row = say(desk, "pause", name="w", reason="it moves")
    assert (row["state"], row["reason"], row["by"], row["since"]) == ("paused", "it moves", "anna", START)
    desk.events(1)
    assert desk.server.requests == []
    assert say(desk, "resume", name="w")["state"] == "active"
    assert len(desk.server.events) == 1


def test_one_that_fails_is_tried_at_once_when_it_is_resumed(desk: Desk) -> None:
    add(desk)
    desk.server.says = answer(500)
    desk.events(1)
    desk.reactor.wait(7200)
    desk.server.says = answer(200)
    say(desk, "resume", name="w")
    assert say(desk, "show", name="w")["sent"] == 1


def test_a_test_tells_what_came_back(desk: Desk) -> None:
    add(desk)
    assert say(desk, "test", name="w")["ok"]
    desk.server.says = answer(302, "Location: /login")
    told = say(desk, "test", name="w")
    assert not told["ok"] and told["words"].startswith("it answers 302, a redirect to /login")
    assert BY_PATH["/v1/webhook/test"].verdict == "ok"


def test_history_is_sent_again_from_a_time_on(desk: Desk) -> None:
    add(desk)
    desk.events(1)
    desk.reactor.wait(7200)
    desk.events(2)
    desk.server.requests.clear()
    assert say(desk, "replay", name="w", since="1h")["replay"]["by"] == "anna"
    assert [event["note"] for event in desk.server.events] == ["2"]
    desk.server.requests.clear()
    say(desk, "replay", name="w", since="3h", until="1h")
    assert [event["note"] for event in desk.server.events] == ["1"]
    assert say(desk, "show", name="w")["replay"]["done"] == desk.reactor.seconds()
    with pytest.raises(InputError, match="sends nothing again"):
        say(desk, "replay", name="w", cancel=True)


@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("add", {"name": "w"}, "there is already a webhook 'w'"),
        ("add", {"account": "cmr"}, "there is no account 'cmr' .did you mean .crm"),
        ("add", {"connection": "login9"}, "crm has no connection 'login9'"),
        ("add", {"event": ["bounce"]}, "there is no event 'bounce' .did you mean .bounced"),
        ("add", {"batch": 1001}, "1001 is not a whole number, 1 to 1000"),
        ("add", {"concurrency": 0}, "0 is not a whole number, 1 to 8"),
        ("add", {"url": "https://10.0.0.1/"}, "10.0.0.1, which is no public address: .webhooks. allow"),
        ("add", {"url": "https://user:pw@crm.example/"}, "must hold no login"),
        ("add", {"url": "ftp://crm.example/"}, "not a URL for webhooks"),
        ("set", {"name": "x"}, "there is no webhook 'x'"),
        ("set", {"name": "w"}, "nothing to set"),
        ("show", {"name": "ww"}, "there is no webhook 'ww' .did you mean .w.."),
        ("pause", {"name": "w"}, "reason: is missing"),
        ("replay", {"name": "w"}, "since: is missing"),
        ("replay", {"name": "w", "since": "soon"}, "'soon' is no time: write 2h, 2026-11-01"),
        ("replay", {"name": "w", "since": "1h", "until": "2h"}, "1h is not before 2h"),
        ("replay", {"name": "w", "since": "2100-01-01"}, "2100-01-01 is not before now"),
        ("replay", {"name": "w", "since": "1h"}, "nothing to send again"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(desk: Desk, verb: str, given: Any, words: str) -> None:
    add(desk)
    if verb == "add":
        given = {"name": "x", "account": "crm", "url": "http://crm.example/", **given}
    with pytest.raises(InputError, match=words):
        say(desk, verb, **given)


def test_a_time_is_a_duration_ago_or_a_date_and_time() -> None:
    assert moment("since", "2h", START) == START - 7200
    assert moment("since", "2026-11-01T08:00Z", START) == moment("since", "2026-11-01T09:00:00+01:00", START)
    assert moment("since", "2026-11-01T08:00Z", START) == 1793520000


def test_what_changes_anything_needs_a_role_and_whose_secrets_it_makes_an_admins() -> None:
    roles = {verb.name.split()[1]: (verb.role, verb.effect) for verb in VERBS}
    assert {name for name, (role, _) in roles.items() if role == "view"} == {"list", "show"}
    assert {name for name, (role, _) in roles.items() if role == "admin"} == {"add", "set", "remove", "rotate"}
    assert all(effect == ("read" if role == "view" else "change") for role, effect in roles.values())
