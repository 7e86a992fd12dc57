"""What is noted of a session reads well, and has no secret in it."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.reply import Reply
from relayd.smtp.client import ClientSession, ClientSettings
from relayd.smtp.events import (
    AuthProposed,
    MailProposed,
    MessageEnded,
    MessageStarted,
    RecipientProposed,
    ServerSettings,
)
from relayd.smtp.server import ServerSession
from relayd.smtp.watched import WatchedSession, described, lines, masked, own
from tests.test_smtp_client import BANNER, GO, PIPELINED, PLAIN, mail, say

SECRET = "s3cret-pässword"


def watched() -> tuple[WatchedSession, list]:
    machine = ServerSession(ServerSettings("mx.example", auth=True), secure=True)
    machine.__class__ = WatchedSession
    assert isinstance(machine, WatchedSession)
    log: list = []
    machine.watch(log)
    machine.greet()
    machine.data_to_send()
    return machine, log


def talk(machine: ServerSession, data: bytes, refuse: bool = False) -> None:
    """Says yes to everything, or no to logins."""
    machine.receive_data(data)
    while (event := machine.next_event()) is not None:
        if isinstance(event, AuthProposed) and refuse:
            machine.refuse(Reply(535, "5.7.8", "no"))
        elif isinstance(event, MessageEnded):
            machine.accept(Reply(250, "2.0.0", "taken"))
        elif isinstance(event, AuthProposed | MailProposed | RecipientProposed | MessageStarted):
            machine.accept()
    machine.data_to_send()


def text(log: list) -> str:
    return "\n".join(lines(log, 0.0))


def forms(secret: str) -> list[str]:
    """A secret as it may go over the wire."""
    raw = secret.encode()
    plain = b64encode(b"\0login\0" + raw).decode()
    return [secret, b64encode(raw).decode(), plain]


# With two signs that no command or reply has: what else is said may well have a short word of somebody's password.
secrets = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=4, max_size=38).map("§~{}".format)


@given(secrets, st.sampled_from(["PLAIN", "PLAIN later", "LOGIN", "LOGIN first"]), st.booleans(), st.booleans())
def test_no_way_to_log_in_shows_the_password(secret, how, refuse, too_late):
    machine, log = watched()
    talk(machine, b"EHLO c.example\r\n")
    plain = b64encode(b"\0login\0" + secret.encode())
    login, word = b64encode(b"login"), b64encode(secret.encode())
    talk(
        machine,
        {
            "PLAIN": b"AUTH PLAIN " + plain,
            "PLAIN later": b"auth plain\r\n" + plain,
            "LOGIN": b"AUTH LOGIN\r\n" + login + b"\r\n" + word,
            "LOGIN first": b"Auth Login " + login + b"\r\n" + word,
        }[how]
        + b"\r\n",
        refuse,
    )
    if too_late:
        talk(machine, word + b"\r\n" + plain + b"\r\n" + b"AUTH " + word + b"\r\n")
    shown = text(log)
    assert "C: AUTH (secret)" in shown
    assert not [form for form in forms(secret) if form in shown]


@given(st.binary(max_size=200))
def test_a_line_that_is_no_command_is_never_shown(line):
    shown = masked(line)
    verb = line.split(None, 1)[0].upper() if line.split() else b""
    known = {b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA", b"BDAT", b"RSET", b"NOOP", b"QUIT", b"VRFY", b"EXPN", b"HELP"}
    known |= {b"STARTTLS", b"GET", b"POST", b"PUT", b"HEAD", b"PATCH", b"OPTIONS", b"CONNECT"}
    if verb not in known:
        assert shown in (b"AUTH (secret)", b"(no command, %d bytes)" % len(line))


def test_a_content_is_told_by_its_size_and_fields_and_never_shown():
    machine, log = watched()
    talk(machine, b"EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
    talk(machine, b"Subject: hidden\r\nTo: b@x.example,\r\n c@x.example\r\n\r\nhidden too\r\n.\r\n")
    shown = text(log)
    assert "content of 63 bytes; header fields: Subject 17, To 32" in shown and "hidden" not in shown
    assert "S: 250 2.0.0 taken" in shown and "C: RCPT TO:<b@x.example>" in shown


def test_a_session_that_is_watched_no_more_notes_nothing_and_goes_on():
    machine, log = watched()
    talk(machine, b"EHLO c.example\r\n")
    machine.__class__ = ServerSession
    before = len(log)
    talk(machine, b"NOOP\r\n")
    assert len(log) == before and machine.verb == "NOOP"


def test_what_a_peer_says_is_safe_for_a_terminal():
    assert lines([("rcpt", Reply(550, "5.1.1", "\x1b[2Jgo\u202e away"))], 0.0) == [
        "S: 550 5.1.1 \\x1b[2Jgo\\x202e away"
    ]
    assert lines([b"NOOP \x07\xff\r\n"], 0.0) == ["C: NOOP \\x07\\xff"]
    assert described(b"X-\x1b[2J: 1\r\nFrom: a\r\n\r\n", 30) == "content of 30 bytes"


@pytest.mark.parametrize("offers", [PIPELINED, PLAIN], ids=["pipelining", "one by one"])
def test_a_failed_transaction_is_told_with_how_the_session_began_and_without_the_others(offers):
    machine = ClientSession(ClientSettings(ehlo="relay.example"))
    say(machine, b"")
    say(machine, BANNER)
    say(machine, offers)
    for to, answers in (
        ("other1@site.example", [GO, b"250 ok <other1@site.example>\r\n"]),
        ("mine@site.example", [b"250 ok\r\n550 5.1.1 no mine\r\n503 no\r\n"]),
    ):
        machine.send(mail(to=to))
        if offers is PIPELINED:
            machine.data_to_send()
            for answer in answers:
                say(machine, answer)
        else:
            for answer in answers:
                for line in answer.splitlines(keepends=True)[: 2 if b"550" in answer else None]:
                    machine.data_to_send()
                    say(machine, line)
    told = lines(own(machine.log, "mine@site.example"), 0.0)
    assert told[:2] == ["S: 220 mx.example ESMTP", "C: EHLO relay.example"]
    assert "C: MAIL FROM:<a@crm.example>" in told and "S: 550 5.1.1 no mine" in told
    assert "other1" not in "\n".join(told)


def test_with_pipelining_the_answer_to_the_one_before_is_left_out():
    machine = ClientSession(ClientSettings(ehlo="relay.example"))
    say(machine, b"")
    say(machine, BANNER)
    say(machine, PIPELINED)
    for to in ("before@site.example", "mine@site.example"):
        machine.send(mail(to=to))
    machine.data_to_send()
    say(machine, GO)  # the next group goes out with the dot
    say(machine, b"552 before@site.example is full\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    machine.send(mail(to="after@site.example"))
    machine.data_to_send()
    say(machine, b"554 mine is spam\r\n250 ok\r\n550 after@site.example is unknown\r\n")
    told = "\n".join(lines(own(machine.log, "mine@site.example"), 0.0))
    assert "S: 554 mine is spam" in told and "RCPT TO:<mine@site.example>" in told
    assert "before" not in told and "after" not in told


def test_of_a_session_whose_beginning_is_forgotten_nobody_elses_answers_are_told():
    machine = ClientSession(ClientSettings(ehlo="relay.example"))
    say(machine, b"")
    say(machine, BANNER)
    say(machine, PIPELINED)
    for number in range(20):
        machine.send(mail(to=f"other{number}@site.example"))
        machine.data_to_send()
        say(machine, GO)
        say(machine, b"250 other%d is glad\r\n" % number)
    assert len(machine.log) == machine.log.maxlen
    assert own(machine.log, "mine@site.example") == []


def test_a_clients_password_is_noted_by_neither_mechanism():
    for offer in (b"AUTH PLAIN", b"AUTH LOGIN"):
        settings = ClientSettings(ehlo="r.example", secure=True, login="login", password=SECRET)
        machine = ClientSession(settings)
        say(machine, b"")
        say(machine, BANNER)
        say(machine, b"250-mx.example\r\n250 " + offer + b"\r\n")
        for _ in range(2):
            say(machine, b"334 \r\n")
        told = "\n".join(lines(machine.log, 0.0))
        assert "AUTH (secret)" in told and not [form for form in forms(SECRET) if form in told]


def test_a_long_reply_is_noted_in_part():
    machine = ClientSession(ClientSettings(ehlo="relay.example"))
    say(machine, b"".join(b"220-%s\r\n" % (b"x" * 500) for _ in range(50)) + b"220 mx\r\n")
    assert len(machine.log[0][1].text) <= 1000
