"""Reception: what becomes of a message's content, and when it counts as received."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from relayd.contentfilter import Question, Settings, Verdict
from relayd.envelope import Steering
from relayd.identity import show
from relayd.message.headers import HEAD_LIMIT
from relayd.message.render import render
from relayd.quotas import Quotas
from relayd.records import decode
from relayd.spool.bodies import HIGH_WATER, INLINE
from tests.reception_kit import HEAD, MAIL, Receiving, load


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Receiving]:
    made = Receiving(tmp_path)
    yield made
    made.close()


@pytest.fixture
def logins(tmp_path: Path) -> Iterator[Receiving]:
    """With a login."""
    made = Receiving(tmp_path, logins=True)
    yield made
    made.close()


# 250 means durable.


def test_the_250_goes_out_when_the_commit_is_done_and_not_before(relay: Receiving):
    client, said = relay.send(HEAD + b"hello")
    assert said == "" and relay.told == []
    relay.commit()
    message = relay.spool.kept[0].message
    assert client.heard.decode() == f"250 2.0.0 queued as {message.id:016x}\r\n"
    assert [d.recipient.address for d in relay.told[0]] == ["b@x.example", "c@y.example"]
    assert (message.head, message.body, message.size) == (HEAD, b"hello\r\n", len(HEAD) + 7)
    assert relay.relay.memory == 0


def test_the_reception_carries_its_record_and_its_part_of_the_ledger(relay: Receiving):
    relay.send(HEAD + b"hello")
    kept = relay.spool.kept[0]
    record = decode(kept.line)
    assert (record.kind, record.account, record.stream, record.connection) == (
        "Reception",
        "crm",
        "bulk",
        "relay:198.51.100.0/24",
    )
    assert record.recipients == ("b@x.example", "c@y.example") and record.message_id == "<1@crm.example>"
    assert [(entry.term, entry.count) for entry in kept.entries] == [("received", 2)]


def test_headers_that_steer_are_kept_with_the_message_and_do_not_go_out_with_it(relay: Receiving):
    relay.send(HEAD[:-2] + b"X-Track-ID: 77\r\nx-relayd-tag: a\r\nX-Relayd-Client: Shop 17\r\n\r\nhello")
    kept = relay.spool.kept[0]
    message, record = kept.message, decode(kept.line)
    assert message.steering == Steering(track_id="77", tags=("a",), client="Shop 17")
    assert render(message, kept.deliveries[0]).endswith(b"\r\n" + HEAD)
    assert (record.track_id, record.tags, record.client, kept.key) == ("77", ("a",), "Shop 17", "")


def test_a_message_that_has_come_before_is_answered_as_it_was_then_and_goes_nowhere(relay: Receiving):
    client, _ = relay.send(HEAD[:-2] + b"X-Relayd-Idempotency-Key: k\r\n\r\nhello")
    assert relay.spool.kept[0].key == "k"
    relay.commit(0x77)
    assert client.heard == b"250 2.0.0 queued as 0000000000000077\r\n"
    assert relay.told == [] and relay.relay.memory == 0


def test_a_client_that_vanishes_before_the_commit_takes_nothing_back(relay: Receiving):
    client, _ = relay.send(HEAD + b"hello")
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.commit()
    assert len(relay.told) == 1 and relay.relay.memory == 0 and relay.factory.sessions == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("disk I/O error"), "451 4.3.0"),
        (sqlite3.OperationalError("database or disk is full"), "452 4.3.1"),
    ],
)
def test_a_commit_that_fails_is_told_and_nothing_is_kept(relay: Receiving, error, said):
    client, _ = relay.send(HEAD + b"x" * 76 + b"\r\n" * INLINE)
    relay.commit(error)
    assert client.heard.decode().startswith(said)
    assert relay.told == [] and relay.files() == [] and relay.relay.memory == 0


def test_a_commit_that_fails_after_the_client_has_vanished_leaves_no_file(relay: Receiving):
    client, _ = relay.send(HEAD + b"x" * 76 + b"\r\n" * INLINE)
    client.transport.abortConnection()
    relay.reactor.pump()
    assert len(relay.files()) == 1
    relay.commit(sqlite3.OperationalError("disk I/O error"))
    assert relay.files() == [] and relay.relay.memory == 0


def test_a_fault_behind_the_commit_does_not_cost_the_client_its_250(relay: Receiving):
    def broken(deliveries: Any) -> None:
        raise RuntimeError("a fault of ours")

    relay.relay.on_received = broken
    client, _ = relay.send(HEAD + b"hello")
    with pytest.raises(RuntimeError):
        relay.commit()
    relay.reactor.pump()
    assert client.heard.startswith(b"250 2.0.0 queued")


# Bodies in files.


def body(size: int) -> bytes:
    return (b"%078d\r\n" % 7) * (size // 80)


def test_a_body_larger_than_memory_should_hold_goes_to_a_file(relay: Receiving):
    content = body(1 << 20)
    client, said = relay.send(HEAD + content)
    (file,) = relay.files()
    assert file.read_bytes() == content + b"\r\n" and said == ""
    message = relay.spool.kept[0].message
    assert message.body is None and message.head == HEAD and message.size == len(HEAD) + len(content) + 2
    relay.commit()
    assert client.heard.startswith(b"250") and relay.files() == [file]


def test_only_the_head_of_such_a_message_is_held_in_memory(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD + body(1 << 20))
    assert relay.relay.memory == len(HEAD)
    client.transport.abortConnection()
    relay.reactor.pump()
    assert relay.relay.memory == 0


def test_a_client_faster_than_the_disk_is_paused_and_read_again_later(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD)
    relay.spool.pool.held = True
    for _ in range(20):
        client.say(body(HIGH_WATER // 4))
    session = client.transport.other
    assert not session.reading and len(client.transport.pending) > HIGH_WATER
    relay.spool.pool.let_go()
    relay.reactor.pump()
    assert session.reading and client.transport.pending == b""
    assert client.say(b"end\r\n.\r\n") == ""
    relay.commit()
    assert client.heard.startswith(b"250")
    assert relay.files()[0].stat().st_size == relay.spool.kept[0].message.size - len(HEAD)


def test_a_client_that_vanishes_amid_a_large_body_leaves_no_file(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD + body(1 << 20))
    assert len(relay.files()) == 1
    client.transport.abortConnection()
    relay.reactor.pump()
    assert relay.files() == [] and relay.spool.kept == []


def test_a_client_that_vanishes_while_the_file_is_finished_leaves_no_file_and_no_message(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    client.say(HEAD + body(1 << 20))
    relay.spool.pool.held = True
    client.say(b"end\r\n.\r\n")
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.spool.pool.let_go()
    relay.reactor.pump()
    assert relay.files() == [] and relay.spool.kept == [] and relay.relay.memory == 0


def test_a_client_that_vanishes_while_the_commit_of_a_file_is_pending_loses_nothing(relay: Receiving):
    client, _ = relay.send(HEAD + body(1 << 20))
    client.transport.abortConnection()
    relay.reactor.pump()
    relay.commit()
    assert len(relay.files()) == 1 and len(relay.told) == 1


def test_a_disk_that_refuses_a_body_file_is_told_to_the_client(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    relay.spool.bodies.directory.rmdir()
    client.say(HEAD + body(1 << 20))
    assert client.say(b".\r\n").startswith("451 4.3.0")
    assert relay.spool.kept == [] and relay.relay.memory == 0
    assert client.say(b"NOOP\r\n").startswith("250")


# What a message must be.


def test_a_header_section_that_never_ends_is_refused_and_not_held(relay: Receiving):
    client = relay.call()
    client.say(MAIL)
    field = b"X-Long: " + b"x" * 900 + b"\r\n"
    for _ in range(HEAD_LIMIT // len(field) + 200):
        client.transport.write(field)
    relay.reactor.pump()
    assert relay.relay.memory <= HEAD_LIMIT + INLINE and relay.files() == []
    assert client.say(b".\r\n").startswith("554 5.3.4")
    assert relay.spool.kept == [] and relay.relay.memory == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Subject: one\r\n\r\nhello", "550 5.6.0"),
        (HEAD[:-2] + b"Received: x\r\n" * 60 + b"\r\nhello", "554 5.4.6"),
        (HEAD[:-2] + b"X-Relayd-Expire: soon\r\n\r\nhello", "550 5.6.0 X-Relayd-Expire: 'soon' is no time: write"),
        ("From: Anna <a@é..example>\r\n\r\nhello".encode(), "550 5.7.1"),
        ("From: Anna <a@é..example>\r\n\r\n".encode() + b"x" * 76 * INLINE, "550 5.7.1"),
    ],
)
def test_a_message_that_policy_refuses_is_recorded_and_the_session_goes_on(relay: Receiving, content, said):
    client, answer = relay.send(content)
    assert answer.startswith(said) and relay.spool.kept == [] and relay.relay.memory == 0
    (record,) = relay.rejections()
    assert (record.kind, record.account, record.recipient) == ("Rejection", "crm", "b@x.example")
    relay.send(HEAD + b"hello", client)
    assert len(relay.spool.kept) == 1


def test_a_recipient_without_a_domain_is_refused_and_the_others_stand(relay: Receiving):
    client = relay.call()
    said = client.say(b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<postmaster>\r\nRCPT TO:<b@x.example>\r\n").splitlines()
    assert [line[:3] for line in said] == ["250", "550", "250"]


# Whose it is, and by which stream it goes.


def test_two_from_fields_are_refused_however_alike(relay: Receiving):
    _, said = relay.send(b"From: a@crm.example\r\nfrom: a@crm.example\r\n\r\nhello")
    assert said == "550 5.6.0 Message rejected: more than one «From» header\r\n" and relay.spool.kept == []


@pytest.mark.parametrize(
    ("head", "client"),
    [
        (b"From: a@Shop.Example\r\n", "shop.example"),
        (b"From: a@shop.example\r\nX-Relayd-Client: Shop 17\r\n", "Shop 17"),
    ],
)
@pytest.mark.parametrize("account", ["crm", "shop"])
def test_the_client_is_the_sub_account_else_what_a_header_says_else_the_domain_of_from(
    logins: Receiving, account, head, client
):
    logins.account("shop", parent="crm")
    logins.connection("mine", account=account, senders=["*"])
    session = logins.logged_in("mine")
    logins.mail(session, "b@x.example")
    logins.content(session, head + b"\r\nhello")
    kept = logins.spool.kept[0]
    expected = "shop" if account == "shop" else client
    assert (kept.message.client, decode(kept.line).client, kept.message.account) == (expected, expected, account)


def test_a_rejection_of_a_sub_account_names_it_as_the_client(logins: Receiving):
    logins.account("shop", parent="crm")
    logins.connection("mine", account="shop")
    logins.mail(logins.logged_in("mine"), sender="a@evil.example")
    (record,) = logins.rejections()
    assert (record.account, record.client, record.connection) == ("shop", "shop", "mine")


@pytest.mark.parametrize(
    ("state", "check", "said"),
    [
        (None, "require", "553 5.1.8 Domain not found"),
        ("failing", "require", "421 4.7.1 Domain not verify"),
        ("verified", "require", ""),
        ("failing", "warn", ""),
        (None, "off", ""),
    ],
)
def test_the_domain_of_from_is_what_the_accounts_check_wants_or_the_message_is_refused(
    relay: Receiving, state, check, said
):
    relay.account(domain_check=check)
    if state:
        row = relay.done(relay.directory.register_domain("shop.example", account="crm", now=1.0))
        relay.done(relay.directory.senders.settle(structs.replace(row, state=state)))
    client = relay.call()
    relay.mail(client, "b@x.example", sender="")  # a null sender says nothing of a domain
    answer = relay.content(client, b"From: a@shop.example\r\n\r\nhello")
    assert answer.startswith(said) and bool(answer) == bool(said)
    assert len(relay.spool.kept) == (not said) and client.closed == said.startswith("421")


@pytest.mark.parametrize("large", [False, True])
def test_a_header_chooses_among_the_connections_streams(logins: Receiving, large):
    logins.change(streams=["transactional", "marketing"])
    client = logins.logged_in()
    body = b"x" * 76 + b"\r\n" * INLINE if large else b"hello"
    for header, stream in [(b"", "transactional"), (b"X-Relayd-Stream: marketing\r\n", "marketing")]:
        logins.mail(client, "b@x.example")
        logins.content(client, HEAD[:-2] + header + b"\r\n" + body)
        kept = logins.spool.kept.pop()
        assert (kept.message.stream, decode(kept.line).stream, kept.entries[0].stream) == (stream,) * 3
        assert kept.deliveries[0].queue == f"crm/{stream}/x.example"
        logins.commit()
    logins.mail(client, "b@x.example")
    said = logins.content(client, HEAD[:-2] + b"X-Relayd-Stream: bulk\r\n\r\n" + body)
    assert said == "550 5.7.1 X-Relayd-Stream: bulk is not one of this login's streams: transactional, marketing\r\n"
    assert logins.spool.kept == [] and logins.relay.memory == 0


# Limits that only the content can tell.


def test_a_client_has_its_own_limits_and_is_put_off_at_the_end_of_the_content_for_the_true_seconds(relay: Receiving):
    relay.account(client_limits={"recipients": "2/min"})
    client = relay.call()
    said = []
    for sender in (b"one", b"one", b"two"):
        relay.mail(client, "b@x.example", "c@x.example")
        said.append(relay.content(client, b"From: a@%b.example\r\n\r\nhello" % sender))
        if not said[-1]:
            relay.commit()
    assert said == ["", "451 4.3.2 Rate limit exceeded, retry after 60 seconds\r\n", ""]
    relay.reactor.wait(60)
    relay.mail(client, "b@x.example", "c@x.example")
    assert relay.content(client, b"From: a@one.example\r\n\r\nhello") == ""
    relay.commit()
    assert [record.note[:3] for record in relay.rejections()] == ["451"] and relay.relay.memory == 0


def test_a_flood_of_client_names_pushes_out_no_limit_of_an_account(relay: Receiving):
    relay.relay.quotas, relay.relay.client_quotas = Quotas(scopes=4), Quotas(scopes=4)
    relay.account(limits={"messages": "6/d"}, client_limits={"messages": "1/d"})
    client = relay.call()
    said = []
    for n in range(7):
        said.append(relay.mail(client, "b@x.example")[0][:3])
        if said[-1] == "250":
            relay.content(client, HEAD[:-2] + b"X-Relayd-Client: %d\r\n\r\nhello" % n)
            relay.commit()
    assert said == ["250"] * 6 + ["451"]


def test_what_a_stream_puts_off_is_not_counted_against_its_client(logins: Receiving):
    logins.account(client_limits={"messages": "2/d"})
    logins.done(logins.directory.set_stream("crm", "marketing", "marketing", {"limits": {"messages": "1/min"}}))
    logins.change(streams=["transactional", "marketing"])
    client = logins.logged_in()
    said = []
    for stream in (b"marketing", b"marketing", b"transactional", b"transactional"):
        logins.mail(client, "b@x.example")
        said.append(logins.content(client, HEAD[:-2] + b"X-Relayd-Stream: %b\r\n\r\nhello" % stream)[:3])
        if not said[-1]:
            logins.commit()
    assert said == ["", "451", "", "451"]


def test_a_sub_account_is_one_client_of_the_account_above_it_whatever_it_says(logins: Receiving):
    logins.account(client_limits={"messages": "1/h"})
    for name in ("shop", "bank"):
        logins.account(name, parent="crm")
        logins.connection(name, account=name)
    said = []
    for login, says in [("shop", b"one"), ("shop", b"two"), ("bank", b"one")]:
        client = logins.logged_in(login)
        logins.mail(client, "b@x.example")
        said.append(logins.content(client, HEAD[:-2] + b"X-Relayd-Client: %b\r\n\r\nhello" % says)[:3])
    assert said == ["", "451", ""]


def test_of_several_streams_the_one_chosen_has_its_limits_asked_at_the_end_of_the_content(logins: Receiving):
    logins.done(logins.directory.set_stream("crm", "marketing", "marketing", {"limits": {"recipients": "2/min"}}))
    logins.change(streams=["transactional", "marketing"])
    client = logins.logged_in()
    said = []
    for stream in (b"marketing", b"marketing", b"transactional"):
        logins.mail(client, "b@x.example", "c@x.example")
        said.append(logins.content(client, HEAD[:-2] + b"X-Relayd-Stream: %b\r\n\r\nhello" % stream))
        if not said[-1]:
            logins.commit()
    assert said == ["", "451 4.3.2 Rate limit exceeded, retry after 60 seconds\r\n", ""]


# A content filter.


class Filter:
    """Is asked; the test answers."""

    def __init__(self) -> None:
        self.settings = Settings("http://127.0.0.1/checkv2", max_size=4 * INLINE)
        self.asked: list[tuple[Question, bytes, bytes]] = []
        self.answer: list[Any] = []
        self.ended = 0

    def check(self, question: Question, head: bytes, body: bytes, done: Any) -> Any:
        self.asked.append((question, head, body))
        self.answer.append(done)
        return self.end

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def filtered(relay: Receiving) -> tuple[Receiving, Filter]:
    made = Filter()
    relay.relay.filter = made  # type: ignore[assignment]
    return relay, made


def test_a_message_waits_for_the_filter_and_is_then_kept_as_it_is(filtered):
    relay, asked = filtered
    client, said = relay.send(HEAD + b"hello")
    assert said == "" and relay.spool.kept == []
    question, head, body = asked.asked[0]
    assert (head, body) == (HEAD, b"hello\r\n")
    assert (question.sender, question.recipients) == ("a@crm.example", ("b@x.example", "c@y.example"))
    assert (question.peer, question.helo, question.user) == ("198.51.100.1", "crm.example", "relay:198.51.100.0/24")
    asked.answer[0](Verdict("take", "the content filter: no action, 0.1 of 15"))
    (kept,) = relay.spool.kept
    assert question.queue_id == show(kept.message.id)
    assert decode(kept.line).note.endswith("; the content filter: no action, 0.1 of 15")
    assert b"X-Spam" not in render(kept.message, kept.deliveries[0])
    relay.commit()
    assert client.heard.startswith(b"250 2.0.0 queued") and relay.relay.memory == 0


def test_a_large_body_is_read_back_for_the_filter_and_one_that_is_too_large_is_not_checked(filtered):
    relay, asked = filtered
    body = b"x" * 78 + b"\r\n"
    relay.send(HEAD + body * (INLINE // 40))
    relay.reactor.until(lambda: asked.asked)
    assert asked.asked[0][2] == body * (INLINE // 40) + b"\r\n"
    asked.answer[0](Verdict("take", ""))
    assert relay.spool.kept.pop().message.body is None
    relay.send(HEAD + body * (INLINE // 16))
    relay.reactor.until(lambda: relay.spool.kept)
    assert len(asked.asked) == 1


def test_marked_mail_goes_out_with_a_field_that_says_so(filtered):
    relay, asked = filtered
    relay.send(HEAD + b"hello")
    asked.answer[0](Verdict("mark", "the content filter: add header, 8 of 15: SPAMMY 8"))
    (kept,) = relay.spool.kept
    assert render(kept.message, kept.deliveries[0]).endswith(b"\r\nX-Spam: Yes\r\n" + HEAD)
    assert "add header, 8 of 15: SPAMMY 8" in decode(kept.line).note


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict("refuse", "reject, 20 of 15: BAD 20"), "550 5.7.1 Message rejected as spam\r\n"),
        (Verdict("refuse", "x", "Go away"), "550 5.7.1 Message rejected as spam: Go away\r\n"),
        (Verdict("defer", "soft reject", "Later"), "451 4.7.1 Message not taken now: Later\r\n"),
        (Verdict("defer", "no answer", answered=False), "451 4.7.1 The content could not be checked, try again later"),
    ],
)
def test_what_the_filter_refuses_is_not_kept_and_its_reasons_are_recorded(filtered, verdict, said):
    relay, asked = filtered
    client, _ = relay.send(HEAD + b"hello")
    asked.answer[0](verdict)
    relay.reactor.pump()
    assert client.heard.decode().startswith(said) and relay.spool.kept == [] and relay.relay.memory == 0
    (record,) = relay.rejections()
    assert record.kind == "Rejection" and record.note.endswith(f"; {verdict.note}")


def test_a_stream_may_go_unchecked(tmp_path):
    made = Receiving(tmp_path, tables="[stream.bulk]\nfilter = false\n")
    made.relay.filter = Filter()  # type: ignore[assignment]
    made.send(HEAD + b"hello")
    assert made.relay.filter.asked == [] and len(made.spool.kept) == 1  # type: ignore[union-attr]
    made.close()


def test_a_message_whose_client_goes_away_asks_the_filter_no_more_and_its_late_answer_keeps_nothing(filtered):
    relay, asked = filtered
    client, _ = relay.send(HEAD + b"hello")
    relay.leave(client)
    assert asked.ended and relay.relay.memory == 0
    asked.answer[0](Verdict("take", ""))
    assert relay.spool.kept == []


def test_messages_sent_ahead_are_answered_in_their_order_and_other_sessions_do_not_wait(filtered):
    relay, asked = filtered
    client = relay.call()
    client.say(b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
    client.say(HEAD + b"one\r\n.\r\n" + MAIL)
    relay.send(HEAD + b"other")
    assert [body for _, _, body in asked.asked] == [b"one\r\n", b"other\r\n"]
    asked.answer[1](Verdict("take", ""))
    assert [kept.message.body for kept in relay.spool.kept] == [b"other\r\n"]
    asked.answer[0](Verdict("refuse", "bad"))
    relay.reactor.pump()
    said = client.heard.decode().splitlines()
    assert said[0].startswith("550 5.7.1 Message rejected") and said[-1].startswith("354")


# What the suspicion is told.


class Told:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **named: self.calls.append((name, (*args, *named.values())))

    def of(self, name: str) -> list[Any]:
        return [args for call, args in self.calls if call == name]


@pytest.fixture
def told(logins: Receiving) -> Told:
    made = Told()
    logins.relay.suspicion = made  # type: ignore[assignment]
    return made


def test_a_message_is_told_of_when_it_is_kept_and_its_content_when_it_is_there(logins, told):
    client = logins.logged_in()
    logins.mail(client, "b@x.example")
    logins.content(client, HEAD[:-2] + b"X-Relayd-Client: shop17\r\n\r\nhello")
    assert [args[:3] + args[4:5] for args in told.of("content")] == [("crm", "shop17", "login", b"hello\r\n")]
    assert told.of("received") == []
    logins.commit()
    ((account, name, login, froms, to, suppressed, faulty, _),) = told.of("received")
    assert (account, name, login, froms) == ("crm", "shop17", "login", ("a@crm.example",))
    assert ([one.address for one in to], suppressed, faulty) == (["b@x.example"], 0, 0)


def test_one_that_came_before_or_could_not_be_kept_is_not_counted(logins, told):
    for outcome in (0x77, sqlite3.OperationalError("disk I/O error")):
        client = logins.logged_in()
        logins.mail(client, "b@x.example")
        logins.content(client)
        logins.commit(outcome)
    assert told.of("received") == []


def test_anothers_name_in_any_place_is_told_of_and_a_fault_in_form_is_not(logins, told):
    client = logins.logged_in()
    logins.mail(client, sender="boss@bank.example")
    for content in (b"From: boss@bank.example\r\n\r\nhi", b"From: a@crm.example\r\nSender: b@bank.example\r\n\r\nhi",
                    b"Subject: no From\r\n\r\nhi"):  # fmt: skip
        logins.mail(client, "b@x.example")
        logins.content(client, content)
    assert [args[:3] for args in told.of("spoofed")] == [("crm", "", "login")] * 3
    assert told.of("content") == []


@pytest.mark.parametrize("several", [False, True])
def test_recipients_that_get_no_copy_are_told_of_once_by_what_kept_them(logins, told, several):
    logins.suppress("all", "stopped@x.example")
    logins.streams.configure(
        load(logins.path, "[stream.bulk]\nvalidation = 'bulk'\n[stream.other]\nvalidation='bulk'\n")
    )
    logins.change(streams=["bulk", "other"] if several else ["bulk"])
    client = logins.logged_in()
    logins.mail(client, "good@x.example", "stopped@x.example", "x@gmial.com", "y@gmial.com")
    logins.content(client)
    logins.commit()
    assert sorted(args[2] for args in told.of("refused")) == [False, True, True]
    ((*_, to, suppressed, faulty, _),) = told.of("received")
    assert (len(to), suppressed, faulty) == (1, 1, 2)
    logins.mail(client, "good@x.example")
    logins.content(client)
    logins.commit()
    assert told.of("received")[1][5:7] == (0, 0)
