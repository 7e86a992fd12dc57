"""The verbs of history."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relayd.control import sheet
from relayd.control.history import COLUMNS, lines
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.errors import InputError
from relayd.identity import show as shown
from relayd.inquiry import Archive
from relayd.records import Feedback
from relayd.statistics import Settings
from tests.fake_relay import NOW, FakeRelay, opened
from tests.history_kit import Kept, identity, message, outcome

AT = int(NOW) - 3600
ONE, TWO = identity(AT), identity(AT + 10)


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[FakeRelay]:
    """A message of crm to two, and one of shop, which is below it; one of other."""
    made = opened(tmp_path)
    for name, more in (("crm", {}), ("shop", {"parent": "crm"}), ("other", {})):
        made.directory.add_account(name, now=NOW, **more).result(10)
    made.directory.add_connection("shop-1", account="shop", password="correct horse", now=NOW).result(10)
    kept = Kept(tmp_path)
    one = message(AT, "ann@x.example", "bob@y.example", track_id="order-7", note="from 203.0.113.7 by ESMTPSA")
    two = message(AT + 10, "cid@x.example", account="shop", connection="shop-1", stream="bulk")
    three = message(AT + 20, "dan@x.example", account="other", connection="other-1")
    kept.segment(
        AT, one, two, outcome("TransientFailure", one, AT + 11, due=AT + 311), outcome("Bounce", one, AT + 12, 1),
        three, outcome("Delivery", one, AT + 311),
    )  # fmt: skip
    kept.segment(
        AT + 400, outcome("Complaint", one, AT + 400, feedback=Feedback("1", "complaint", "valid", reporter="gmail"))
    )
    kept.index()
    kept.close()
    made.archive = Archive(tmp_path, "mx1", Settings, made.now)
    yield made
    made.archive.stop()
    made.close()


def ask(relay: FakeRelay, verb: str, **given: object) -> Any:
    return run(BY_PATH[f"/v1/history/{verb}"], relay, given).result(10)  # type: ignore[arg-type]


def found(relay: FakeRelay, **given: object) -> list[str]:
    return [f"{event['event']} {event['recipient']}" for event in ask(relay, "list", **given)["events"]]


OF_CRM = [
    "complained ann@x.example", "delivered ann@x.example", "bounced bob@y.example", "deferred ann@x.example",
    "queued bob@y.example", "queued ann@x.example",
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "events"),
    [
        ({"account": "crm"}, OF_CRM),
        ({"account": "shop"}, ["queued cid@x.example"]),
        ({"account": "crm", "below": "true", "status": "queued"}, ["queued cid@x.example", *OF_CRM[4:]]),
        ({"account": "crm", "status": ["bounced", "deferred"]}, OF_CRM[2:4]),
        ({"connection": "shop-1"}, ["queued cid@x.example"]),
        ({"account": "crm", "connection": "shop-1"}, []),
        ({"account": "crm", "recipient": "BOB@y.example"}, [OF_CRM[2], OF_CRM[4]]),
        ({"account": "crm", "domain": "y.example"}, [OF_CRM[2], OF_CRM[4]]),
        ({"account": "other", "domain": "y.example"}, []),
        ({"track_id": "order-7", "status": "delivered"}, OF_CRM[1:2]),
        ({"stream": "bulk"}, ["queued cid@x.example"]),
        ({"account": "crm", "since": "3400s"}, OF_CRM[:2]),
        ({"account": "crm", "until": "3590s"}, OF_CRM[4:]),
        ({"account": "crm", "since": "2023-11-15"}, []),
        ({"limit": "2"}, [OF_CRM[0], OF_CRM[1]]),
    ],
)
def test_events_are_listed_the_newest_first_by_what_is_asked(relay, given, events):
    assert found(relay, **given) == events


def test_pages_follow_one_another(relay):
    got, after = [], ""
    while True:
        page = ask(relay, "list", account="crm", limit=4, after=after)
        got += [f"{event['event']} {event['recipient']}" for event in page["events"]]
        if not (after := page["next"]):
            break
    assert got == OF_CRM


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"account": "nobody"}, "account"),
        ({"status": "sunk"}, "status"),
        ({"since": "noon"}, "since"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after": "here"}, "after"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(relay, given, field):
    with pytest.raises(InputError) as refused:
        ask(relay, "list", **given)
    assert refused.value.field == field


def test_a_line_tells_when_what_to_whom_and_what_was_said(relay):
    answer = ask(relay, "list", account="crm", status=["bounced", "deferred", "complained", "queued"], until="3580s")
    first, second = shown(ONE + 1), shown(ONE + 2)
    assert lines({**answer, "next": ""}) == [
        f"2023-11-14 21:13:32  bounced   {second}  bob@y.example  550 so they say",
        f"2023-11-14 21:13:31  deferred  {first}  ann@x.example  451 so they say; next try 2023-11-14 21:18:31",
        f"2023-11-14 21:13:20  queued    {second}  bob@y.example  from 203.0.113.7 by ESMTPSA",
        f"2023-11-14 21:13:20  queued    {first}  ann@x.example  from 203.0.113.7 by ESMTPSA",
    ]


def test_the_lines_say_where_to_go_on(relay):
    answer = ask(relay, "list", account="crm", limit=1)
    assert lines(answer)[-1] == f"there may be more: --after {answer['next']}"
    assert lines({"events": [], "next": ""}) == ["nothing was found"]


def test_nothing_remote_reaches_the_terminal_as_it_is():
    event = {
        "time": "2023-11-14T21:13:32.000Z", "event": "bounced", "recipient": "a\x1b[2J@x.example",
        "attempt": {"stage": "rcpt", "code": 550, "reply": "no\r\n\x1b]0;x\x07 \u202eevil", "mx": "mx\x1b.example"},
        "feedback": {"report": "bounce", "reporter": "\x9b1m"},
    }  # fmt: skip
    for verb in ("list", "show"):
        told = BY_PATH[f"/v1/history/{verb}"].prints({"events": [event], "next": ""})  # type: ignore[misc]
        text = "".join(told)
        assert text.isprintable() and "\u202e" not in text
        assert "no / \\x1b]0;x\\x07" in text


@pytest.mark.parametrize(
    ("id", "events"),
    [
        (shown(ONE), OF_CRM[::-1]),
        (shown(ONE).upper(), OF_CRM[::-1]),
        (shown(ONE + 1), [OF_CRM[n] for n in (5, 3, 1, 0)]),
        (shown(ONE + 2), [OF_CRM[4], OF_CRM[2]]),
        (shown(TWO + 1), ["queued cid@x.example"]),
    ],
)
def test_all_is_shown_of_a_message_or_a_delivery_the_oldest_first(relay, id, events):
    def of(told: dict[str, Any]) -> list[str]:
        return [f"{event['event']} {event['recipient']}" for event in told["events"]]

    assert sorted(of(ask(relay, "show", id=id))) == sorted(events)
    assert of(ask(relay, "show", id=id))[-1] == events[-1]
    assert ask(relay, "show", id=id, account="crm") == ask(relay, "show", id=id)  # shop is below it


def test_an_event_is_shown_by_its_own_id(relay):
    for event in ask(relay, "list")["events"]:
        assert ask(relay, "show", id=event["id"])["events"] == [event]


@pytest.mark.parametrize("id", [shown(ONE), shown(ONE + 1)])
def test_what_is_anothers_is_as_if_it_were_not_there(relay, id):
    said = set()
    event = ask(relay, "list", account="crm")["events"][0]["id"]
    for unknown in (id, event, shown(5), "1764000000-5"):
        with pytest.raises(InputError, match="nothing is known of") as refused:
            ask(relay, "show", id=unknown, account="other")
        said.add(str(refused.value).replace(unknown, "it"))
    assert len(said) == 1


@pytest.mark.parametrize("id", ["x", "f" * 16, "../../etc/passwd", "1764000000-zz"])
def test_what_is_no_id_is_refused(relay, id):
    with pytest.raises(InputError, match="no id"):
        ask(relay, "show", id=id)


def test_shown_events_tell_the_attempt(relay):
    verb = BY_PATH["/v1/history/show"]
    told = verb.prints(ask(relay, "show", id=shown(ONE + 2)))  # type: ignore[misc]
    assert told[-1] == "    at dot with mx.x.example 198.51.100.1:25 by source t1 after 0.5 s"


def test_the_export_is_csv_page_by_page(relay, monkeypatch):
    monkeypatch.setattr("relayd.control.history.MOST", 4)
    out, after, head = io.StringIO(), "", True
    while True:
        answer = ask(relay, "export", account="crm", after=after)
        sheet.write(answer["rows"], COLUMNS, out, head=head)
        head, after = False, answer["next"]
        if not after:
            break
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert [f"{row['event']} {row['recipient']}" for row in rows] == OF_CRM
    assert rows[2]["class"] == "recipient_unknown" and rows[2]["words"] == "550 so they say"
    assert rows[2]["track_id"] == "order-7"


def test_only_so_many_questions_wait_at_a_time(relay, monkeypatch):
    monkeypatch.setattr(Archive, "MOST", 0)
    for verb, given in (("list", {}), ("show", {"id": shown(ONE)})):
        with pytest.raises(InputError, match="ask again in a moment"):
            ask(relay, verb, **given)


def test_answers_are_json(relay):
    assert msgspec.json.decode(msgspec.json.encode(ask(relay, "list")))["events"]
