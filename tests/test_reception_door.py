"""Reception: what the door of a relay listener lets in, from whom, as whom, and how much."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from relayd.directory import Verdict
from relayd.directory.passwords import hash_password
from relayd.reception import relay as shared
from tests.reception_kit import HEAD, Receiving
from tests.test_listener import Client


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


# Who may.


def test_strangers_are_turned_away_at_once(relay: Receiving):
    client = relay.call("203.0.113.9")
    assert client.heard.startswith(b"554 5.7.1") and client.closed
    assert relay.rejections()[0].note.endswith("(from 203.0.113.9)")


def test_a_login_sends_for_its_account_and_as_its_senders_only(logins: Receiving):
    client = logins.logged_in()
    assert client.heard.startswith(b"235")
    assert client.say(b"MAIL FROM:<a@other.example>\r\n").startswith("553 5.7.1")
    assert logins.rejections()[0].sender == "a@other.example"
    logins.send(HEAD + b"hello", client)
    message = logins.spool.kept[0].message
    assert (message.account, message.connection, message.stream) == ("crm", "login", "bulk")
    assert b"with ESMTPSA" in message.edits.prepend


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"state": "inactive"}, "535 5.7.8 Connection not activated"),
        ({"state": "blocked", "reason": "spam\r"}, "535 5.7.8 Connection blocked: spam"),
        ({"clients": ("203.0.113.0/24",)}, "535 5.7.8 This login may not be used from your address"),
    ],
)
def test_what_a_login_may_not_is_said_and_recorded(logins: Receiving, fields, said):
    logins.change(**fields)
    client = logins.logged_in()
    assert client.heard.decode().startswith(said) and client.heard.count(b"\r\n") == 1
    assert logins.rejections()[0].sender == "login"
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("530")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.WRONG, b"535 5.7.8 Incorrect login or password\r\n"),
        (Verdict.BUSY, b"454 4.7.0 Too many login attempts\r\n"),
        (Verdict.UNSURE, b"454 4.7.0 Temporary authentication failure\r\n"),
    ],
)
def test_a_password_that_is_wrong_or_cannot_be_checked_now(logins: Receiving, verdict, said):
    logins.verdict = verdict
    client = logins.logged_in()
    logins.reactor.wait(1)
    assert client.heard == said and logins.checked == [("login", "198.51.100.1")]
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("530")


def test_a_login_of_a_suspended_account_is_told_no_more_than_a_wrong_password(logins: Receiving):
    logins.account(state="suspended")
    client = logins.logged_in()
    logins.reactor.wait(1)
    assert client.heard == b"535 5.7.8 Incorrect login or password\r\n"


def test_a_login_blocked_in_mid_session_ends_with_421_at_the_next_mail(logins: Receiving):
    client = logins.logged_in()
    logins.change(state="blocked")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("421 4.7.0") and client.closed


def test_an_account_suspended_in_mid_session_takes_no_more_mail(relay: Receiving):
    client = relay.call()
    relay.account(state="suspended")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("450 4.7.1") and not client.closed


# Guessers.


@pytest.fixture
def doors(logins: Receiving) -> Receiving:
    """With a login, of which every password is wrong."""
    logins.verdict = Verdict.WRONG
    return logins


def guess(relay: Receiving, client: Client) -> float:
    """Tries a password; gives the seconds until the answer."""
    client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
    waited = 0.0
    while not client.heard:
        relay.reactor.advance(0.25)
        relay.reactor.pump()
        waited += 0.25
        assert waited < 60
    return waited


TOO_MANY = b"454 4.7.0 Too many login attempts\r\n"


def test_each_failed_login_is_answered_later_and_then_refused_unlooked_at(doors: Receiving):
    client = doors.call()
    assert [guess(doors, client) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert client.heard == b"535 5.7.8 Incorrect login or password\r\n"
    doors.relay.verifier = None  # type: ignore[assignment]  # nobody asks it
    assert guess(doors, client) == 10.0 and client.heard == TOO_MANY
    assert guess(doors, doors.call()) > 0


def test_the_right_password_is_refused_while_locked_and_let_in_afterwards(doors: Receiving):
    client = doors.call()
    for _ in range(6):
        guess(doors, client)
    doors.verdict = Verdict.RIGHT
    again = doors.call()
    guess(doors, again)
    assert again.heard == TOO_MANY
    doors.reactor.wait(30)
    assert guess(doors, doors.call()) == 0


def test_who_logged_in_before_is_not_locked_by_those_who_guess_at_his_login(doors: Receiving):
    doors.verdict = Verdict.RIGHT
    guess(doors, doors.call("198.51.100.1"))
    for n in range(101):
        doors.relay.guard.failed(f"10.0.0.{n}", "login", doors.reactor.seconds())
    strange, own = doors.call("203.0.113.9"), doors.call("198.51.100.1")
    guess(doors, strange)
    guess(doors, own)
    assert strange.heard == TOO_MANY and own.heard.startswith(b"235")


def test_a_refusal_that_tells_of_no_wrong_password_is_not_counted(doors: Receiving):
    doors.verdict = Verdict.RIGHT
    doors.change(state="inactive")
    client = doors.call()
    assert [guess(doors, client) for _ in range(7)] == [0.0] * 7
    assert client.heard == b"535 5.7.8 Connection not activated\r\n"
    doors.verdict = Verdict.BUSY
    assert [guess(doors, client) for _ in range(7)] == [0.0] * 7 and client.heard == TOO_MANY
    assert doors.relay.guard.failures(doors.reactor.seconds(), 9) == []


def test_a_guesser_who_does_not_wait_for_his_answer_leaves_nothing_behind(doors: Receiving):
    for _ in range(5):
        client = doors.call()
        client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")
        client.transport.abortConnection()
        doors.reactor.pump()
    assert doors.factory.sessions == {} and len(doors.reactor.getDelayedCalls()) == 5
    doors.reactor.wait(11)
    assert doors.reactor.getDelayedCalls() == []
    assert guess(doors, doors.call()) == 10.0  # he is counted all the same


def test_commands_behind_a_failed_login_wait_for_its_answer(doors: Receiving):
    client = doors.call()
    assert client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\nNOOP\r\n") == ""
    doors.reactor.wait(1)
    assert [line[:3] for line in client.heard.splitlines()] == [b"535", b"250"]


def test_no_more_answers_are_held_back_at_once_than_there_may_be(doors: Receiving, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared, "HELD", 3)
    clients = [doors.call(f"10.0.0.{n}") for n in range(5)]
    said = [client.say(b"AUTH PLAIN AGxvZ2luAHB3\r\n")[:3] for client in clients]
    assert said == ["", "", "", "535", "535"]
    doors.reactor.wait(11)
    assert all(client.heard.startswith(b"535") for client in clients)
    assert doors.call().say(b"AUTH PLAIN AGxvZ2luAHB3\r\n") == ""


# What changes while a session is open.

SENDS = b"MAIL FROM:<a@crm.example>\r\n"


@pytest.mark.parametrize("parent", [False, True])
def test_a_suspended_account_takes_no_mail_and_its_sub_accounts_do_not_either(relay: Receiving, parent):
    if parent:
        relay.account("agency")
        relay.account(parent="agency")
    client = relay.call()
    assert client.say(SENDS + b"RSET\r\n").startswith("250")
    relay.account("agency" if parent else "crm", state="suspended")
    for late in (client, client, relay.call()):  # who calls later is told no more
        assert late.say(SENDS) == "450 4.7.1 The account is suspended\r\n" and not late.closed
    relay.account("agency" if parent else "crm", state="active")
    assert client.say(SENDS).startswith("250")
    assert {(record.account, record.sender) for record in relay.rejections()} == {("crm", "a@crm.example")}


def test_a_login_below_a_suspended_account_is_told_no_more_than_a_wrong_password(logins: Receiving):
    logins.account("agency", state="suspended")
    logins.account(parent="agency")
    client = logins.logged_in()
    logins.reactor.wait(1)
    assert client.heard == b"535 5.7.8 Incorrect login or password\r\n"


@pytest.mark.parametrize("change", [{"state": "blocked"}, {"state": "inactive"}, {"clients": ["203.0.113.0/24"]}, None])
def test_a_login_that_may_not_any_more_ends_at_its_next_mail(logins: Receiving, change):
    client = logins.logged_in()
    assert client.say(SENDS + b"RCPT TO:<b@x.example>\r\n").count("250") == 2
    if change:
        logins.change(**change)
    else:
        logins.done(logins.directory.remove_connection("login"))
    assert "354" in client.say(b"DATA\r\n")  # what was begun is finished
    client.say(HEAD + b"\r\n.\r\n")
    logins.commit()
    assert client.heard.startswith(b"250")
    assert client.say(SENDS) == "421 4.7.0 The connection is not active any more\r\n" and client.closed


def test_a_session_ends_with_its_password_but_not_because_that_is_hashed_anew(logins: Receiving):
    client = logins.logged_in()
    old = logins.directory.connection("login")
    logins.done(logins.directory.renew_hash("login", old.password, hash_password("pw")))
    assert client.say(SENDS).startswith("250") and client.say(b"RSET\r\n").startswith("250")
    logins.done(logins.directory.set_password("login"))
    assert client.say(SENDS) == "421 4.7.0 The connection is not active any more\r\n" and client.closed


def test_a_session_does_not_go_on_as_another_connection_of_the_same_name(logins: Receiving):
    client = logins.logged_in()
    logins.done(logins.directory.remove_connection("login"))
    logins.reactor.wait(1)
    logins.connection("login")
    assert client.say(SENDS).startswith("421 4.7.0") and client.closed


def test_other_senders_streams_and_limits_hold_for_the_next_mail(logins: Receiving):
    client = logins.logged_in()
    assert client.say(SENDS + b"RSET\r\n").startswith("250")
    logins.change(senders=["@shop.example"])
    assert client.say(SENDS).startswith("553 5.7.1 Sender <a@crm.example>")
    logins.change(senders=["@crm.example"], streams=["marketing"], limits={"recipients": "1/h"})
    assert (
        logins.mail(client, "b@x.example", "c@y.example")[2]
        == "451 4.3.2 Rate limit exceeded, retry after 3600 seconds"
    )
    logins.content(client)
    assert logins.spool.kept[0].message.stream == "marketing"


# Sessions at once.


def scopes(relay: Receiving) -> dict[str, int]:
    return dict(relay.relay.sessions)


@pytest.mark.parametrize("of", ["connection", "account", "parent"])
def test_more_sessions_at_once_than_there_may_be_are_refused_until_one_ends(logins: Receiving, of):
    logins.account("agency")
    logins.account(parent="agency")
    if of == "connection":
        logins.change(sessions=1)
    else:
        logins.account("crm" if of == "account" else "agency", sessions=1)
    first = logins.logged_in()
    what = "connection" if of == "connection" else "account"
    second = logins.logged_in()
    assert second.heard == b"421 4.7.0 Too many sessions of this %b\r\n" % what.encode() and second.closed
    assert logins.rejections()[0].sender == "login"
    first.say(b"QUIT\r\n")
    third = logins.logged_in()
    assert third.heard.startswith(b"235")
    assert scopes(logins) == {"connection login": 1, "account crm": 1, "account agency": 1}
    logins.leave(third)
    assert scopes(logins) == {}


def test_a_client_that_goes_while_its_password_is_checked_is_not_counted_for_ever(logins: Receiving):
    logins.checking = []
    logins.leave(logins.logged_in())
    logins.checking.pop()()
    assert scopes(logins) == {} and logins.factory.sessions == {}


def test_what_a_session_is_counted_as_is_counted_back_whatever_changes_meanwhile(logins: Receiving):
    client = logins.logged_in()
    logins.account("agency")
    logins.account(parent="agency")
    assert client.say(SENDS).startswith("250")
    logins.leave(client)
    assert scopes(logins) == {}


# Sender domains.


def registered(relay: Receiving, domain: str, state: str, account: str = "crm") -> None:
    row = relay.done(relay.directory.register_domain(domain, account=account, now=1.0))
    relay.done(relay.directory.senders.settle(msgspec.structs.replace(row, state=state)))


@pytest.mark.parametrize(
    ("state", "check", "said"),
    [
        (None, "require", "553 5.1.8 Domain not found"),
        ("unverified", "require", "421 4.7.1 Domain not verify"),
        ("failing", "require", "421 4.7.1 Domain not verify"),
        ("verified", "require", "250"),
        (None, "warn", "250"),
        ("failing", "warn", "250"),
        (None, "off", "250"),
    ],
)
@pytest.mark.parametrize("owner", ["crm", "agency"])
def test_the_senders_domain_is_what_the_accounts_check_wants_or_the_mail_is_refused(
    relay: Receiving, owner, state, check, said
):
    relay.account("agency")
    relay.account(parent="agency", domain_check=check)
    if state:
        registered(relay, "crm.example", state, owner)
    client = relay.call()
    assert client.say(SENDS).startswith(said) and client.closed == said.startswith("421")


def test_a_domain_that_another_account_registered_is_not_found(relay: Receiving):
    relay.account("stranger")
    registered(relay, "crm.example", "verified", "stranger")
    relay.account(domain_check="require")
    assert relay.call().say(SENDS).startswith("553 5.1.8 Domain not found")


def test_a_verified_domain_counts_for_those_below_it_and_the_null_sender_needs_none(relay: Receiving):
    registered(relay, "crm.example", "verified")
    relay.account(domain_check="require")
    client = relay.call()
    assert client.say(b"MAIL FROM:<a@news.crm.example>\r\nRSET\r\n").startswith("250")
    assert client.say(b"MAIL FROM:<>\r\n").startswith("250")


# Limits.


def limited(relay: Receiving, whose: str, limits: dict[str, str]) -> None:
    relay.account("agency")
    relay.account(parent="agency")
    if whose == "connection":
        relay.change(limits=limits)
    elif whose == "stream":
        relay.done(relay.directory.set_stream("crm", "bulk", "bulk", {"limits": limits}))
    else:
        relay.account(whose, limits=limits)


WHOSE = ["connection", "crm", "agency", "stream"]


@pytest.mark.parametrize("whose", WHOSE)
def test_a_message_too_many_is_put_off_for_the_true_seconds(logins: Receiving, whose):
    limited(logins, whose, {"messages": "2/min"})
    client = logins.logged_in()
    said = [client.say(SENDS + b"RSET\r\n").splitlines()[0] for _ in range(3)]
    assert said[2] == "451 4.3.2 Rate limit exceeded, retry after 30 seconds" and said[0][:3] == said[1][:3] == "250"
    logins.reactor.wait(29)
    assert client.say(SENDS) == "451 4.3.2 Rate limit exceeded, retry after 1 seconds\r\n"
    logins.reactor.wait(1)
    assert client.say(SENDS).startswith("250")
    assert [record.sender for record in logins.rejections()] == ["a@crm.example"] * 2


@pytest.mark.parametrize("whose", WHOSE)
def test_a_recipient_too_many_is_put_off_and_the_others_stand(logins: Receiving, whose):
    limited(logins, whose, {"recipients": "2/min"})
    client = logins.logged_in()
    said = logins.mail(client, "b@x.example", "c@x.example", "d@x.example")
    assert [line[:3] for line in said] == ["250", "250", "250", "451"] and "after 30 seconds" in said[3]
    assert logins.rejections()[0].recipient == "d@x.example"
    logins.content(client)
    assert len(logins.spool.kept[0].deliveries) == 2
    logins.commit()
    logins.reactor.wait(30)
    assert logins.mail(client, "d@x.example")[1].startswith("250")


def test_connections_of_an_account_share_its_limits_and_another_account_has_its_own(logins: Receiving):
    logins.account("other")
    logins.account(limits={"messages": "1/h"})
    logins.connection("second")
    logins.connection("stranger", account="other")
    said = [logins.logged_in(login).say(SENDS)[:3] for login in ("login", "second", "stranger")]
    assert said == ["250", "451", "250"]
