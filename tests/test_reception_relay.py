"""Reception: what the doors of a node share: its condition, the records of rejections, and who pays for mail."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.reception import relay as shared
from tests.reception_kit import HEAD, MAIL, Receiving
from tests.test_listener import Client


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Receiving]:
    made = Receiving(tmp_path)
    yield made
    made.close()


# What the node can take.


@pytest.mark.parametrize("fault", ["spool_fault", "stopping"])
def test_a_node_that_cannot_keep_mail_takes_none(relay: Receiving, fault):
    client = relay.call()
    setattr(relay.health, fault, "it is so")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("421") and client.closed
    assert relay.call().heard.startswith(b"421")


def test_a_disk_that_is_nearly_full_takes_no_mail_until_it_is_not(relay: Receiving):
    client = relay.call()
    relay.health.space_fault = "only 1 MB free"
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("452 4.3.1")
    relay.health.space_fault = ""
    assert relay.send(HEAD + b"hello", client)[1] == ""


def test_more_content_at_once_than_memory_may_hold_is_put_off(relay: Receiving, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "MEMORY", 100)
    first, second = relay.call(), relay.call()
    first.say(MAIL)
    first.say(HEAD + b"x" * 200)
    assert second.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("451 4.3.2")
    first.transport.abortConnection()
    relay.reactor.pump()
    assert second.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("250")


def test_strangers_beyond_the_limit_of_a_second_are_counted_and_not_kept(relay, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "STRANGERS", 3)
    for n in range(10):
        relay.call(f"203.0.113.{n}")
    assert len(relay.rejections()) == 3
    (_, entries) = relay.spool.records[0]
    assert sum(entry.count for entry in entries) == 10 and {entry.term for entry in entries} == {"rejected"}
    relay.call("203.0.113.1")
    assert len(relay.rejections()) == 4


def test_rejections_of_one_account_keep_out_neither_those_of_another_nor_of_strangers(
    relay, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shared, "STRANGERS", 2)
    monkeypatch.setattr(shared, "NEIGHBOURS", 3)
    client = relay.call()
    client.say(b"MAIL FROM:<a@crm.example>\r\n" + b"RCPT TO:<postmaster>\r\n" * 10)
    for n in range(10):
        relay.call(f"203.0.113.{n}")
    told = [record.account for record in relay.rejections()]
    assert told == ["crm"] * 3 + [""] * 2


def test_a_second_without_rejections_writes_nothing(relay: Receiving):
    relay.relay.flush_rejections()
    assert relay.spool.records == []


# Who pays.

DROPS = """
[stream.bulk]
validation = { typo = "drop", domain = "accept" }
[stream.marketing]
validation = { typo = "drop", domain = "accept" }
[stream.transactional]
"""


@pytest.fixture
def paid(tmp_path: Path) -> Iterator[Receiving]:
    """With logins, a real spool, and 10 units that belong to the account."""
    made = Receiving(tmp_path, logins=True, tables=DROPS, real=True)
    made.give(10)
    yield made
    made.close()


def message(*fields: bytes) -> bytes:
    return HEAD[:-2] + b"".join(field + b"\r\n" for field in fields) + b"\r\nhello"


def sent(relay: Receiving, client: Client, *to: str, content: bytes = HEAD + b"hello") -> str:
    """The first words of the answer to the content."""
    relay.mail(client, *to)
    return relay.content(client, content)[:9]


def settled(relay: Receiving, account: str = "crm") -> int:
    """Units used; nothing is promised to anybody any more, and all books are right."""
    used = relay.balance(account).used
    assert relay.reserved(account) == 0
    relay.terms()
    return used


@pytest.mark.parametrize("known", [False, True])
def test_each_recipient_costs_a_unit_and_mail_is_refused_when_they_are_used_up(paid: Receiving, known):
    client = paid.logged_in()
    if known:  # the lease is there; else it has to be asked for while the content comes in
        assert sent(paid, client, "a@x.example") == "250 2.0.0"
    rest = [f"r{n}@x.example" for n in range(9 if known else 10)]
    assert sent(paid, client, *rest) == "250 2.0.0"
    assert sent(paid, client, "b@x.example") == "450 4.7.1"
    assert settled(paid) == 10
    paid.give(1)
    assert sent(paid, client, "b@x.example") == "250 2.0.0" and settled(paid) == 11
    assert paid.terms()["received"] == 11


@pytest.mark.parametrize("known", [False, True])
def test_a_message_for_more_than_there_is_left_costs_nothing(paid: Receiving, known):
    client = paid.logged_in()
    if known:
        sent(paid, client, "a@x.example")
    paid.mail(client, *(f"r{n}@x.example" for n in range(11)))
    assert paid.content(client) == "450 4.7.1 Balance not enough"
    assert settled(paid) == known
    assert sent(paid, client, "a@x.example") == "250 2.0.0" and settled(paid) == known + 1


@pytest.mark.parametrize("known", [False, True])
def test_what_policy_refuses_at_its_end_costs_nothing(paid: Receiving, known):
    client = paid.logged_in()
    if known:
        sent(paid, client, "a@x.example")
    assert sent(paid, client, "b@x.example", content=b"Subject: no From\r\n\r\nhello") == "550 5.6.0"
    assert settled(paid) == known


@pytest.mark.parametrize("known", [False, True])
def test_refused_and_dropped_recipients_cost_nothing(paid: Receiving, known):
    paid.suppress("marketing", "b@x.example", reason="unsubscribe")
    paid.change(streams=["transactional", "marketing"])
    client = paid.logged_in()
    if known:
        sent(paid, client, "a@x.example")
    by = message(b"X-Relayd-Stream: marketing")
    assert sent(paid, client, "a@x.example", "b@x.example", "ivan@gmial.com", content=by) == "250 2.0.0"
    assert settled(paid) == known + 1
    assert sent(paid, client, "ivan@gmial.com", content=by) == "250 2.0.0"  # all dropped
    assert sent(paid, client, "b@x.example", content=by) == "550 5.7.1"  # none left
    assert settled(paid) == known + 1


def test_recipients_that_one_stream_drops_cost_nothing(paid: Receiving):
    client = paid.logged_in()
    assert sent(paid, client, "a@x.example", "ivan@gmial.com") == "250 2.0.0"
    assert sent(paid, client, "ivan@gmial.com", "petr@gmial.com") == "250 2.0.0" and settled(paid) == 1


def test_a_message_that_has_come_before_is_paid_for_once(paid: Receiving):
    client, once = paid.logged_in(), message(b"X-Relayd-Idempotency-Key: k")
    answers = set()
    for _ in range(3):
        paid.mail(client, "a@x.example", "b@x.example")
        answers.add(paid.content(client, once))
    assert len(answers) == 1 and answers.pop().startswith("250 2.0.0 queued as ")
    assert settled(paid) == 2 and paid.terms()["received"] == 2


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("at", ["amid", "asked"])
def test_a_client_that_vanishes_before_its_message_is_kept_pays_nothing(paid: Receiving, known, at):
    client = paid.logged_in()
    if known:
        sent(paid, client, "a@x.example")
    paid.mail(client, "b@x.example", "c@x.example")
    client.say(b"DATA\r\n")
    client.transport.write(HEAD + b"hel")
    if known or at == "asked":
        paid.reactor.until(lambda: paid.reserved() == 2)  # the answer of the purse is there
    paid.leave(client)
    paid.rest()
    assert settled(paid) == known


def test_a_transaction_that_the_disk_refuses_costs_nothing(paid: Receiving):
    client = paid.logged_in()
    sent(paid, client, "a@x.example")
    keep = paid.spool.receive
    paid.spool.receive = lambda reception, done: done(sqlite3.OperationalError("disk I/O error"))
    assert sent(paid, client, "a@x.example", "b@x.example") == "451 4.3.0"
    paid.spool.receive = keep
    assert settled(paid) == 1 and sent(paid, client, "a@x.example") == "250 2.0.0" and settled(paid) == 2


def test_a_balance_that_cannot_be_looked_up_is_no_balance_used_up(paid: Receiving):
    client = paid.logged_in()
    settle = paid.spool.settle_leases
    paid.spool.settle_leases = lambda rows, done: done(sqlite3.OperationalError("disk I/O error"))
    assert sent(paid, client, "a@x.example") == "451 4.3.0"
    paid.spool.settle_leases = settle
    assert sent(paid, client, "a@x.example") == "250 2.0.0" and settled(paid) == 1


def test_the_nearest_account_above_that_has_a_balance_pays(paid: Receiving):
    paid.account("shop", parent="crm")
    paid.account("kiosk", parent="shop")
    paid.account("free")
    for name in ("kiosk", "free"):
        paid.connection(name, account=name)
    kiosk = paid.logged_in("kiosk")
    assert sent(paid, kiosk, "a@x.example") == sent(paid, paid.logged_in("free"), "a@x.example") == "250 2.0.0"
    assert settled(paid) == 1
    paid.give(5, "shop")
    assert sent(paid, kiosk, "a@x.example", "b@x.example") == "250 2.0.0"  # of the same session
    assert settled(paid) == 1 and settled(paid, "shop") == 2
