"""Reception: recipients that are kept from mail, by stop-lists, by what their addresses are, by their domains' DNS."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.records import decode
from relayd.resolver import LookupFailed, NoMail, NoSuchDomain
from tests.reception_kit import HEAD, Receiving
from tests.test_listener import Client

Opened = Callable[..., Receiving]
LISTED = "550 5.7.1 Email receiver unsubscribe or complaint"
BULK = "[stream.bulk]\nvalidation = {}\n[stream.marketing]\nvalidation = {}\n[stream.transactional]\n"
DROPS = '{ typo = "drop", dead = "drop", domain = "accept" }'


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Makes one listener, with logins."""
    made: list[Receiving] = []

    def make(**more: Any) -> Receiving:
        made.append(Receiving(tmp_path, logins=True, **more))
        return made[0]

    yield make
    made[0].close()


def several(relay: Receiving) -> Client:
    """A session of a login with two streams: which one is said by the content."""
    relay.change(streams=["transactional", "marketing"])
    return relay.logged_in()


def by(stream: str) -> bytes:
    return HEAD[:-2] + b"X-Relayd-Stream: %b\r\n\r\nhello" % stream.encode()


def told(relay: Receiving) -> list[tuple[str, str]]:
    """(kind, recipients) of what was kept with the last reception."""
    lines = relay.spool.kept[-1].line.splitlines()
    return [(record.kind, record.recipient or " ".join(record.recipients)) for record in map(decode, lines)]


# One stream: the answer is RCPT's.


def test_a_recipient_on_a_stop_list_is_refused_and_only_he(opened: Opened):
    relay = opened()
    relay.suppress("all", "b@x.example")
    client = relay.logged_in()
    said = relay.mail(client, "B@x.example", "c@x.example")
    assert said[1] == LISTED and said[2].startswith("250")
    relay.content(client)
    assert told(relay) == [("Reception", "c@x.example")]
    (record,) = relay.rejections()
    assert (record.kind, record.recipient, record.stream) == ("Rejection", "B@x.example", "bulk")


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("all", True),
        ("bulk", True),
        ("marketing", False),
        ("account:crm/bulk", True),
        ("account:agency/all", True),
        ("account:stranger/all", False),
        ("connection:login/all", True),
        ("connection:login/own", True),
        ("account:crm/own", True),
        ("connection:other/own", False),
    ],
)
def test_mail_is_held_against_the_lists_of_its_stream_and_connection_whoever_owns_them(opened: Opened, name, stops):
    relay = opened()
    relay.account("agency")
    relay.account(parent="agency")
    relay.change(lists=["own"])
    relay.suppress(name, "b@x.example")
    assert (relay.mail(relay.logged_in(), "b@x.example")[1] == LISTED) is stops


@pytest.mark.parametrize("several_streams", [False, True])
def test_a_marketing_unsubscribe_never_stops_a_transactional_message(opened: Opened, several_streams):
    relay = opened()
    for owner in ("", "account:crm/", "connection:login/"):
        relay.suppress(f"{owner}marketing", "b@x.example", reason="unsubscribe")
    relay.change(streams=["transactional", "marketing"] if several_streams else ["transactional"])
    client = relay.logged_in()
    assert relay.mail(client, "b@x.example")[1].startswith("250")
    assert relay.content(client, by("transactional")) == "" and told(relay) == [("Reception", "b@x.example")]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("full", "553 5.2.2 Recipient has exceeded mailbox limit"),
        ("bounce", LISTED),
        ("complaint", LISTED),
    ],
)
def test_a_full_mailbox_is_told_from_an_unsubscribe(opened: Opened, reason, said):
    relay = opened()
    relay.suppress("all", "b@x.example", reason=reason)
    assert relay.mail(relay.logged_in(), "b@x.example")[1] == said


def test_an_entry_that_is_over_stops_nobody(opened: Opened):
    relay = opened()
    relay.suppress("all", "b@x.example", expires=relay.reactor.seconds() + 60)
    client = relay.logged_in()
    assert relay.mail(client, "b@x.example")[1] == LISTED
    client.say(b"RSET\r\n")
    relay.reactor.wait(61)
    assert relay.mail(client, "b@x.example")[1].startswith("250")


def broken(relay: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of the lists cannot be read."""

    def fail(*args: Any) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    relay.suppress("all", "listed@x.example")
    monkeypatch.setattr("relayd.suppression.disk.find", fail)


def test_a_look_up_that_fails_puts_the_recipient_off_and_no_other(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    relay = opened()
    broken(relay, monkeypatch)
    said = relay.mail(relay.logged_in(), "listed@x.example", "c@x.example")
    assert said[1].startswith("451 4.3.0 The stop-lists could not be read") and said[2].startswith("250")


def test_a_look_up_that_fails_after_the_content_puts_the_message_off(opened: Opened, monkeypatch: pytest.MonkeyPatch):
    relay = opened()
    broken(relay, monkeypatch)
    client = several(relay)
    relay.mail(client, "listed@x.example", "c@x.example")
    assert relay.content(client).startswith("451 4.3.0 The stop-lists could not be read")
    assert relay.spool.kept == [] and relay.relay.memory == 0


@pytest.mark.parametrize("after_content", [False, True])
def test_a_session_that_goes_away_while_a_look_up_is_under_way_does_no_harm(opened: Opened, after_content):
    relay = opened()
    relay.suppress("all", "b@x.example")
    client = several(relay) if after_content else relay.logged_in()
    if after_content:
        relay.mail(client, "b@x.example", "c@x.example")
        client.say(b"DATA\r\n")
    answers: list[Callable[[], None]] = []
    asked = relay.suppressions.look_up

    def later(lists: Any, address: str, now: float, done: Any) -> None:
        asked(lists, address, now, lambda found: answers.append(lambda: done(found)))

    relay.suppressions.look_up = later  # type: ignore[method-assign]
    if after_content:
        client.transport.write(HEAD + b"hello\r\n.\r\n")
    else:
        client.transport.write(b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<b@x.example>\r\n")
    relay.reactor.until(lambda: answers)
    relay.leave(client)
    for answer in answers:
        answer()
    relay.reactor.pump()
    assert relay.spool.kept == [] and relay.relay.memory == 0 and relay.relay.sessions == {}
    assert relay.factory.sessions == {}


# Several streams: the answer is that of the content.


def test_of_several_streams_refused_recipients_are_records_and_the_others_get_their_copy(opened: Opened):
    relay = opened()
    relay.suppress("marketing", "b@x.example", reason="unsubscribe")
    client = several(relay)
    said = relay.mail(client, "a@x.example", "b@x.example", "c@x.example")
    assert [line[:3] for line in said] == ["250"] * 4
    relay.content(client, by("marketing"))
    assert told(relay) == [("Reception", "a@x.example c@x.example b@x.example"), ("Suppression", "b@x.example")]
    kept = relay.spool.kept[0]
    assert [delivery.recipient.address for delivery in kept.deliveries] == ["a@x.example", "c@x.example"]
    assert [(entry.term, entry.count) for entry in kept.entries] == [("received", 3), ("suppressed", 1)]
    suppression = decode(kept.line.splitlines()[1])
    assert suppression.note == LISTED and int(suppression.delivery, 16) == kept.message.id + 3
    relay.commit()
    assert client.heard.startswith(b"250 2.0.0 queued")


def test_where_none_is_left_the_content_is_refused_and_nothing_stored(opened: Opened):
    relay = opened()
    relay.suppress("marketing", "x.example", reason="unsubscribe")
    client = several(relay)
    relay.mail(client, "a@x.example", "b@x.example")
    assert relay.content(client, by("marketing")) == LISTED + "\r\n"
    assert relay.spool.kept == [] and relay.files() == [] and relay.relay.memory == 0
    assert [record.kind for record in relay.rejections()] == ["Rejection"]


# Validation.


@pytest.mark.parametrize("validation", ["off", "bulk"])
def test_addresses_are_validated_where_the_stream_says_so(opened: Opened, validation):
    relay = opened(tables=BULK.format(f'"{validation}"', '"off"'))
    relay.names.domains["x.example"] = [("mx", ("203.0.113.1",))]
    said = relay.mail(relay.logged_in(), "ivan@gmial.com", "noreply@x.example", "ivan@x.example")
    taken = ["250"] * 3 if validation == "off" else ["550", "550", "250"]
    assert [line[:3] for line in said[1:]] == taken
    if validation == "bulk":
        assert "looks like a misspelling of gmail.com" in said[1] and relay.names.asked == ["x.example"]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([("mx", ("203.0.113.1",))], "250"),
        (NoSuchDomain("x.example"), "550"),
        (NoMail("x.example"), "556"),
        (LookupFailed("x.example"), "250"),
        (RuntimeError("a fault of ours"), "250"),
    ],
)
def test_a_domain_that_takes_no_mail_is_refused_and_trouble_with_the_dns_refuses_nobody(opened: Opened, found, code):
    relay = opened(tables=BULK.format('"bulk"', '"bulk"'))
    relay.names.domains["x.example"] = found
    assert relay.mail(relay.logged_in(), "ivan@x.example")[1].startswith(code)


def test_an_address_known_to_be_dead_is_what_the_stream_says_of_such(opened: Opened):
    relay = opened(tables=BULK.format('"bulk"', '"off"'))
    relay.suppress("all", "b@x.example", reason="bounce")
    said = relay.mail(relay.logged_in(), "b@x.example")
    assert said[1] == "550 5.1.1 b@x.example is known to take no mail any more"


@pytest.mark.parametrize("after_content", [False, True])
def test_a_recipient_to_be_dropped_is_taken_and_gets_a_record_instead_of_mail(opened: Opened, after_content):
    relay = opened(tables=BULK.format(DROPS, DROPS))
    client = several(relay) if after_content else relay.logged_in()
    assert [line[:3] for line in relay.mail(client, "ivan@gmial.com", "b@x.example")] == ["250"] * 3
    relay.content(client, by("marketing" if after_content else "bulk"))
    assert told(relay) == [("Reception", "b@x.example ivan@gmial.com"), ("Drop", "ivan@gmial.com")]
    assert [(entry.term, entry.count) for entry in relay.spool.kept[0].entries] == [("received", 2), ("dropped", 1)]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("after_content", [False, True])
def test_a_message_of_which_all_are_dropped_is_taken_and_is_its_records_only(opened: Opened, after_content, large):
    relay = opened(tables=BULK.format(DROPS, DROPS))
    relay.relay.flush_rejections()
    client = several(relay) if after_content else relay.logged_in()
    relay.mail(client, "ivan@gmial.com")
    message = by("marketing" if after_content else "bulk") + (b"x" * 70 + b"\r\n") * (4000 if large else 0)
    assert relay.content(client, message) == "" and relay.spool.kept == []
    relay.commit()
    assert client.heard.startswith(b"250 2.0.0 queued") and relay.told == []
    (lines, entries) = relay.spool.records[-1]
    assert [record.kind for record in map(decode, lines.splitlines())] == ["Reception", "Drop"]
    assert [(entry.term, entry.count) for entry in entries] == [("received", 1), ("dropped", 1)]
    assert relay.files() == [] and relay.relay.memory == 0


def test_what_was_dropped_of_one_message_is_not_dropped_of_the_next(opened: Opened):
    relay = opened(tables=BULK.format(DROPS, DROPS))
    client = relay.logged_in()
    relay.mail(client, "ivan@gmial.com", "b@x.example")
    client.say(b"RSET\r\n")
    relay.lists = type(relay.lists)({}, relay.lists.roles, relay.lists.disposable)
    relay.mail(client, "ivan@gmial.com")
    relay.content(client)
    assert told(relay) == [("Reception", "ivan@gmial.com")]


# The books.


@pytest.mark.parametrize("after_content", [False, True])
def test_everything_that_came_in_is_accounted_for_whatever_kept_it_from_going_on(opened: Opened, after_content):
    relay = opened(tables=BULK.format(DROPS, DROPS), real=True)
    for name in ("bulk", "marketing"):
        relay.suppress(name, "b@x.example", reason="unsubscribe")
    client = several(relay) if after_content else relay.logged_in()
    stream = "marketing" if after_content else "bulk"
    answers = []
    for to in [("b@x.example", "c@x.example", "ivan@gmial.com"), ("ivan@gmial.com",), ("b@x.example",)]:
        relay.mail(client, *to)
        answers.append(relay.content(client, by(stream))[:3])
        client.say(b"RSET\r\n")
    assert answers == ["250", "250", "550" if after_content else "554"]
    received = {"received": 4, "queued": 1, "dropped": 2, "suppressed": 1, "rejected": 1}
    at_rcpt = {"received": 3, "queued": 1, "dropped": 2, "rejected": 2}
    assert relay.terms() == (received if after_content else at_rcpt)
