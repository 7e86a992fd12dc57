"""What becomes of mail that came back: real spool, suppression lists and streams; reports of our own writing."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.classify import shipped
from relayd.config import load
from relayd.delivery.outcomes import Outcomes
from relayd.delivery.outcomes import Settings as OutcomeSettings
from relayd.directory import Directory
from relayd.echoes import Event
from relayd.envelope import Delivery, Envelope, Recipient
from relayd.identity import Identities, lower_bound, show
from relayd.mailroom import Mailroom, _opened, _record
from relayd.outcome import Evidence
from relayd.reception import Returned
from relayd.records import Record, decode, encode
from relayd.returnpath import Key, Keys, Role, Token, make
from relayd.spool import Reception, Spool
from relayd.streams import Streams
from relayd.suppression import Suppressions
from tests.spool_kit import NOW, Mail, Main, find_records

DOMAIN = "bounce.relay.example"
NODE = '[node]\nname = "mx1.relay.example"\nspool = "spool"\ncontrol = "c.sock"\n'
HEAD = "From: MAILER-DAEMON@x.example\nSubject: Undelivered\nContent-Type: multipart/report; boundary=b\n\n--b\n"
STATUS = "Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.x.example\n\n"
FAILED = "Final-Recipient: rfc822; {}\nAction: failed\nStatus: {}\nDiagnostic-Code: smtp; {}\n\n"
ARF = "From: fbl@x.example\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n"


def bounce(*rows: tuple[str, str, str]) -> str:
    return HEAD + STATUS + "".join(FAILED.format(*row) for row in rows) + "--b--\n"


def complaint(kind: str = "abuse", original: str = "Subject: x") -> str:
    report = f"Content-Type: message/feedback-report\n\nFeedback-Type: {kind}\nUser-Agent: x/1\nVersion: 1\n\n"
    return f"{ARF}{report}--b\nContent-Type: message/rfc822\n\n{original}\n\nhello\n--b--\n"


UNKNOWN = bounce(("r1@x.example", "5.1.1", "550 5.1.1 user unknown"))


class Room:
    """A mailroom with all it works on; one message of the stream "news" to two recipients has been received."""

    def __init__(self, path: Path, stream: str = 'reports = "none"') -> None:
        (path / "relayd.toml").write_text(f"{NODE}[stream.news]\n{stream}\n")
        self.main, self.mail = Main(), Mail()
        post = self.main.post
        self.spool = Spool(path / "spool", post, lambda fault: None)
        loaded = load(path / "relayd.toml")
        self.directory = Directory(path / "directory.sqlite", post, {"crm"}, NOW)
        self.main.until(lambda: self.directory.account("crm"))
        self.suppressions = Suppressions(path / "suppression.sqlite", post)
        self.streams = Streams(self.directory, loaded)
        self.heard: list[Event] = []
        self.generated: list[Any] = []
        outcomes: Any = Outcomes.__new__(Outcomes)
        outcomes.identities = Identities(lower_bound(NOW + 50))
        outcomes.settings = OutcomeSettings("mx1.relay.example", self.streams.rules, self.streams.lives)
        self.room = Mailroom(
            self.spool,
            self.suppressions,
            outcomes,
            lambda: self.directory.tokens.keys,
            shipped,
            self.streams.finding,
            lambda host: f"group of {host}",
            self.heard.append,
            self.generated.append,
            lambda: NOW + 60,
            post,
        )
        self.one, self.two = self.receive().deliveries
        self.came = 0

    def receive(self, **told: Any) -> Reception:
        made = self.mail.reception("x.example", "y.example")
        record = decode(made.line)
        to = tuple(delivery.recipient.address for delivery in made.deliveries)
        told = {"connection": "login", "sender": "a@crm.example", "client": "shop", "recipients": to, **told}
        fields = {name: getattr(record, name) for name in record.__struct_fields__}
        kept = Reception(made.message, made.deliveries, encode(Record(**{**fields, **told})), made.entries)
        self.main.answer(self.spool.receive, kept)
        return kept

    def leave(self, delivery: Delivery) -> None:
        seen = Evidence(stage="dot", source="s1", mx="mx.x.example")
        record = Record("Delivery", NOW + 1, show(delivery.message.id), show(delivery.id), evidence=seen)
        self.main.answer(self.spool.keep_records, encode(record), ())

    def back(self, content: str, *targets: Token | Role) -> Record:
        """Keeps a message for these targets; gives its record, which is there when it is kept."""
        self.came += 1
        to = tuple(Recipient(f"{target}@{DOMAIN}") for target in targets or ("abuse",))
        raw = content.replace("\n", "\r\n").encode()
        envelope = Envelope("", to)
        id = lower_bound(NOW + 60 + self.came)
        returned = Returned(id, NOW + 60, "192.0.2.9", "mx.x.example", envelope, targets, raw, len(raw))
        before = len(self.records())
        assert self.main.answer(lambda done: self.room.keep(returned, lambda fault: done(fault or "kept"))) == "kept"
        (record,) = [one for one in self.records()[before:] if one.feedback]
        return record

    def records(self) -> list[Record]:
        return [decode(line) for line in self.main.answer(find_records, self.spool, b'"kind"')]

    def token(self, delivery: Any = None, purpose: Any = "bounce") -> Token:
        return Token(purpose, (delivery or self.one).id, 60.0)

    def entries(self) -> list[tuple[str, str, str]]:
        found = []
        for known in self.suppressions.lists():
            future = self.suppressions.page(known.list)
            self.main.until(future.done)
            found += [(entry.list, entry.value, entry.reason) for entry in future.result().entries]
        return found

    def close(self) -> None:
        self.room.stop()
        stopped: list[bool] = []

        def stop() -> None:  # its threads want to be heard meanwhile
            self.spool.stop()
            self.main.post(stopped.append, True)

        Thread(target=stop).start()
        self.main.until(lambda: stopped)
        self.suppressions.close()
        self.directory.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.close()


def test_a_bounce_is_recorded_for_its_delivery_with_what_it_means(room: Room):
    record = room.back(UNKNOWN, room.token())
    assert (record.kind, record.recipient, record.account, record.client) == (
        "OutOfBand",
        "r1@x.example",
        "crm",
        "shop",
    )
    assert record.evidence and (record.evidence.cls, record.evidence.stage) == ("recipient_unknown", "report")
    assert str(record.evidence.reply) == "550 5.1.1 user unknown"
    back = record.feedback
    assert back and (back.report, back.token, back.peer, back.repeated) == ("bounce", "valid", "192.0.2.9", False)
    assert room.entries() == [("account:crm/all", "r1@x.example", "bounce")]
    (event,) = room.heard
    assert (event.kind, event.late, event.connection, event.domain) == ("bounced", True, "login", "crm.example")
    assert event.cls == "recipient_unknown" and event.delivery == room.one.id


def test_an_event_says_by_what_its_delivery_had_left_where_that_was_soon(room: Room):
    room.leave(room.two)
    for delivery in (room.one, room.two):
        room.back(complaint(), room.token(delivery))
    assert [(event.source, event.group) for event in room.heard] == [("", ""), ("s1", "group of mx.x.example")]


def test_a_bounce_is_of_the_recipient_of_its_token_whoever_it_names(room: Room):
    report = bounce(("forwarded@z.example", "5.1.1", "550 5.1.1 user unknown"))
    record = room.back(report, room.token(room.two))
    assert record.recipient == "r2@y.example" and record.feedback and record.feedback.recipient == "forwarded@z.example"
    assert room.entries() == [("account:crm/all", "r2@y.example", "bounce")]


def test_a_bounce_that_names_several_others_says_nothing_against_anybody(room: Room):
    row = ("5.1.1", "550 5.1.1 user unknown")
    room.back(bounce(("p@z.example", *row), ("q@z.example", *row)), room.token())
    assert room.entries() == [] and room.heard == []
    room.back(bounce(("p@z.example", *row), ("r2@y.example", *row)), room.token(room.two))
    assert room.entries() == [("account:crm/all", "r2@y.example", "bounce")]


@pytest.mark.parametrize(
    ("content", "report"),
    [
        (
            "From: r1@x.example\nSubject: Out of office\nAuto-Submitted: auto-replied\n\nUser unknown 550 5.1.1\n",
            "auto-reply",
        ),
        (bounce(("r1@x.example", "4.4.1", "timed out")).replace("Action: failed", "Action: delayed"), "delay"),
        (bounce(("r1@x.example", "2.0.0", "ok")).replace("Action: failed", "Action: delivered"), "success"),
        ("From: someone@x.example\nSubject: hello\n\n550 5.1.1 user unknown\n", "other"),
        ("", "other"),
    ],
)
def test_what_is_neither_failure_nor_complaint_is_recorded_and_changes_nothing(room: Room, content: str, report: str):
    record = room.back(content, room.token())
    assert record.kind == "OutOfBand" and record.feedback and record.feedback.report == report
    assert room.entries() == [] and room.heard == []


@pytest.mark.parametrize(
    ("content", "purpose", "kind"),
    [
        (complaint(), "bounce", "Complaint"),
        (complaint("opt-out"), "bounce", "Unsubscribe"),
        (complaint("not-spam"), "bounce", "OutOfBand"),
        (complaint("auth-failure"), "bounce", "OutOfBand"),
        ("From: r1@x.example\nSubject: unsubscribe\n\n", "bounce", "Unsubscribe"),
        ("From: r1@x.example\nSubject: ciao\n\n", "unsubscribe", "Unsubscribe"),
        ("From: r1@x.example\nAuto-Submitted: auto-generated\nSubject: x\n\n", "unsubscribe", "Unsubscribe"),
        (UNKNOWN, "unsubscribe", "OutOfBand"),
    ],
)
def test_complaints_and_unsubscribes_go_to_the_streams_own_list(room: Room, content: str, purpose: str, kind: str):
    assert room.back(content, room.token(purpose=purpose)).kind == kind
    feeds = [("account:crm/news", "r1@x.example", kind.lower())]
    bounces = [("account:crm/all", "r1@x.example", "bounce")] if content is UNKNOWN else []
    assert room.entries() == (feeds if kind != "OutOfBand" else bounces)


def test_a_token_within_a_complaint_is_as_good_as_one_it_came_to(room: Room):
    token = make("bounce", room.two.id, room.directory.tokens.keys.newest)
    record = room.back(complaint(original=f"X-Return-Token: {token}\nTo: redacted"), Role("fbl"))
    assert (record.kind, record.recipient) == ("Complaint", "r2@y.example")
    assert room.entries() == [("account:crm/news", "r2@y.example", "complaint")]


@pytest.mark.parametrize("state", ["none", "forged", "expired"])
def test_without_a_token_that_counts_a_report_is_recorded_and_changes_nothing(room: Room, state: str):
    key = room.directory.tokens.keys.newest
    old = make("bounce", lower_bound(NOW - 70 * 86400) + 1, key)
    text = {"none": "x", "forged": "b" * 33, "expired": old}[state]
    for content in (complaint(original=f"X-Return-Token: {text}"), UNKNOWN + f"\nReturn-Path: <{text}@x.example>\n"):
        record = room.back(content, Role("abuse"))
        assert record.feedback and record.feedback.token == state
        assert (record.account, record.delivery, record.message) == ("", "", "")
    assert room.entries() == [] and room.heard == []


def test_a_token_of_a_delivery_without_a_record_changes_nothing(room: Room):
    record = room.back(UNKNOWN, Token("bounce", lower_bound(NOW + 3), 1.0))
    assert record.account == "" and "no record" in record.note
    assert room.entries() == [] and room.heard == []


def test_each_kind_counts_once_of_a_delivery_and_of_another_again(room: Room):
    disabled = bounce(("r1@x.example", "5.2.1", "550 5.2.1 mailbox disabled"))
    repeated = [room.back(disabled, room.token()).feedback for _ in range(4)]
    assert [back and back.repeated for back in repeated] == [False, True, True, True]
    assert room.entries() == [] and len(room.heard) == 1
    assert not (room.back(complaint(), room.token()).feedback or Any).repeated
    assert [event.kind for event in room.heard] == ["bounced", "complaint"]


def test_a_message_to_several_tokens_counts_for_each(room: Room):
    room.came += 1
    raw = complaint().encode()
    to = (Recipient(f"x@{DOMAIN}"),)
    returned = Returned(
        lower_bound(NOW + 99),
        NOW + 60,
        "192.0.2.9",
        "x",
        Envelope("", to),
        (room.token(), room.token(room.two)),
        raw,
        9,
    )
    room.main.answer(lambda done: room.room.keep(returned, lambda fault: done(fault or "kept")))
    assert [value for _, value, _ in room.entries()] == ["r1@x.example", "r2@y.example"]


def test_a_failure_is_passed_on_to_the_sender_of_a_stream_that_wants_it_once(tmp_path: Path):
    room = Room(tmp_path, 'reports = "sender"')
    room.back(UNKNOWN, room.token())
    room.back(UNKNOWN, room.token())
    ((answer,),) = room.generated
    assert answer.recipient.address == "a@crm.example" and answer.message.connection == "relayd"
    assert b"user unknown" in answer.message.body and b"r1@x.example" in answer.message.body
    kinds = [record.kind for record in room.records()]
    assert kinds == ["Reception", "OutOfBand", "Reception", "OutOfBand"]
    assert room.main.answer(room.spool.audit).clean
    room.close()


def test_who_wants_no_report_of_failures_gets_none(tmp_path: Path):
    room = Room(tmp_path, 'reports = "sender"')
    quiet = room.receive(quiet=("r1@x.example",))
    assert room.back(UNKNOWN, room.token(quiet.deliveries[0])).kind == "OutOfBand"
    room.close()
    assert room.generated == []


def test_what_the_disk_refuses_is_not_promised(room: Room):
    room.suppressions._writer._db.execute("PRAGMA query_only = ON")
    raw = UNKNOWN.encode()
    returned = Returned(1, NOW, "192.0.2.9", "x", Envelope("", (Recipient("x@y"),)), (room.token(),), raw, len(raw))
    faults: list[Exception | None] = []
    room.room.keep(returned, faults.append)
    room.main.until(lambda: faults)
    assert "readonly" in str(faults[0])
    assert [record.kind for record in room.records()] == ["Reception"]


@given(st.binary(max_size=400), st.sampled_from(["", "From: x\r\n\r\n", UNKNOWN, complaint()]))
def test_whatever_is_written_to_a_token_can_be_read(noise: bytes, start: str):
    key = Key(1, b"k" * 32, 0.0)
    raw = start.encode() + noise
    for targets in ((Token("bounce", 5, 1.0),), (Role("abuse"),)):
        envelope = Envelope("", (Recipient("x@y.example"),))
        returned = Returned(1, NOW, "192.0.2.9", "x", envelope, targets, raw, len(raw))
        opened = _opened(returned, Keys({1: key}, key), shipped(), NOW)
        assert (opened.state == "valid") == (len(opened.tokens) == 1) == opened.addressed
        for kind in ("OutOfBand", "Complaint", "Unsubscribe"):
            assert decode(encode(_record(returned, opened, kind, None))).kind == kind
