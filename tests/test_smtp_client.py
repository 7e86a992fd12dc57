"""The client machine in conversation: what the peer says, what we write, what the shell learns."""

from base64 import b64encode

import pytest

from relayd.envelope import Recipient
from relayd.reply import Reply
from relayd.smtp.client import (
    BodyWanted,
    ClientSession,
    ClientSettings,
    Event,
    Finished,
    Ready,
    Returned,
    SessionEnded,
    StartTLS,
    Transaction,
)

BANNER = b"220 mx.example ESMTP\r\n"
EHLO = b"EHLO relay.example\r\n"
PIPELINED = b"250-mx.example\r\n250 PIPELINING\r\n"
PLAIN = b"250 mx.example\r\n"
MAIL = b"MAIL FROM:<a@crm.example>\r\n"
RCPT = b"RCPT TO:<b@site.example>\r\n"
GROUP = MAIL + RCPT + b"DATA\r\n"
GO = b"250 ok\r\n250 ok\r\n354 go\r\n"
OK = Reply(250, "", "ok")
CONTENT = b"Subject: x\r\n\r\nhello\r\n"


def mail(content: bytes | None = CONTENT, to: str = "b@site.example") -> Transaction:
    return Transaction("a@crm.example", Recipient(to), content=content)


def session(**settings: object) -> ClientSession:
    return ClientSession(ClientSettings(ehlo="relay.example", **settings))  # type: ignore[arg-type]


def events(machine: ClientSession) -> list[Event]:
    return list(iter(machine.next_event, None))


def say(machine: ClientSession, received: bytes) -> tuple[bytes, list[Event]]:
    """What the peer says; what we write and what the shell learns from it."""
    machine.receive_data(received)
    learnt = events(machine)
    return machine.data_to_send(), learnt


def ready(offer: bytes = PIPELINED, **settings: object) -> ClientSession:
    machine = session(**settings)
    assert say(machine, BANNER) == (EHLO, [])
    sent, (event,) = say(machine, offer)
    assert sent == b"" and isinstance(event, Ready)
    return machine


def started(machine: ClientSession, *transactions: Transaction) -> bytes:
    for transaction in transactions:
        machine.send(transaction)
    return machine.data_to_send()


# Greeting


def test_ready_after_banner_and_ehlo() -> None:
    machine = session()
    assert machine.stage == "banner" and not machine.can_take_next
    assert say(machine, b"220-mx.example\r\n220-no spam\r\n220 please\r\n") == (EHLO, [])
    assert machine.stage == "ehlo"
    sent, learnt = say(machine, PIPELINED)
    assert (sent, learnt) == (b"", [Ready(machine.capabilities)])
    assert machine.idle and machine.can_take_next and machine.capabilities.pipelining
    assert machine.deadline_kind == "idle"


@pytest.mark.parametrize("code", [421, 450, 554])
def test_banner_that_is_no_welcome_ends_the_session(code: int) -> None:
    machine = session()
    sent, learnt = say(machine, b"%d go away\r\n" % code)
    assert learnt == [SessionEnded("banner", Reply(code, "", "go away"), "", True)]
    assert sent == (b"" if code == 421 else b"QUIT\r\n")
    assert machine.ended and not machine.can_take_next


def test_ehlo_refused_for_good_falls_back_to_helo() -> None:
    machine = session()
    say(machine, BANNER)
    assert say(machine, b"502 what?\r\n") == (b"HELO relay.example\r\n", [])
    assert machine.stage == "ehlo"
    _, learnt = say(machine, b"250 mx.example\r\n")
    assert learnt == [Ready(machine.capabilities)]
    assert machine.capabilities.name == "mx.example" and machine.capabilities.size == -1


def test_ehlo_refused_for_now_ends_the_session() -> None:
    machine = session()
    say(machine, BANNER)
    assert say(machine, b"451 later\r\n") == (b"QUIT\r\n", [SessionEnded("ehlo", Reply(451, "", "later"), "", True)])


def test_ehlo_and_helo_refused_ends_the_session() -> None:
    machine = session()
    say(machine, BANNER)
    say(machine, b"500 no\r\n")
    _, learnt = say(machine, b"550 no\r\n")
    assert learnt == [SessionEnded("ehlo", Reply(550, "", "no"), "", True)]


def test_name_with_line_end_is_no_ehlo_name() -> None:
    with pytest.raises(ValueError):
        session_name = "relay.example\r\nMAIL FROM:<x@y>"
        ClientSession(ClientSettings(ehlo=session_name))


# STARTTLS

OFFERS_TLS = b"250-mx.example\r\n250-STARTTLS\r\n250 PIPELINING\r\n"


def test_starttls_is_used_where_offered_and_ehlo_said_again() -> None:
    machine = session()
    say(machine, BANNER)
    assert say(machine, OFFERS_TLS) == (b"STARTTLS\r\n", [])
    assert machine.stage == "starttls"
    assert say(machine, b"220 go\r\n") == (b"", [StartTLS()])
    assert machine.stage == "tls" and not machine.secure
    machine.tls_started()
    assert machine.secure and machine.data_to_send() == EHLO
    _, learnt = say(machine, PLAIN)
    assert learnt == [Ready(machine.capabilities)]
    assert not machine.capabilities.pipelining  # what was offered in clear is forgotten


@pytest.mark.parametrize("cut", [0, 5, 1000])
def test_response_injected_behind_starttls_is_dropped(cut: int) -> None:
    machine = session()
    say(machine, BANNER)
    say(machine, OFFERS_TLS)
    injected = b"250-evil.example\r\n250-AUTH PLAIN\r\n250 SIZE 1\r\n250 half a li"
    assert say(machine, b"220 go\r\n" + injected[:cut]) == (b"", [StartTLS()])
    assert say(machine, injected[cut:]) == (b"", [])
    machine.tls_started()
    assert machine.data_to_send() == EHLO
    assert events(machine) == []
    say(machine, PLAIN)
    assert machine.capabilities.name == "mx.example" and machine.capabilities.auth == ()


@pytest.mark.parametrize("code", [454, 501])
def test_opportunistic_tls_goes_on_in_clear_when_refused(code: int) -> None:
    machine = session()
    say(machine, BANNER)
    say(machine, OFFERS_TLS)
    assert say(machine, b"%d no\r\n" % code) == (b"", [Ready(machine.capabilities)])
    assert not machine.secure


@pytest.mark.parametrize("mode", ["encrypt", "verify"])
@pytest.mark.parametrize("code", [454, 501])
def test_required_tls_refused_ends_the_session(mode: str, code: int) -> None:
    machine = session(starttls=mode)
    say(machine, BANNER)
    say(machine, OFFERS_TLS)
    sent, learnt = say(machine, b"%d no\r\n" % code)
    assert learnt == [SessionEnded("starttls", Reply(code, "", "no"), "the peer refused STARTTLS", True)]
    assert sent == b"QUIT\r\n"


@pytest.mark.parametrize("mode", ["encrypt", "verify"])
def test_required_tls_not_offered_ends_the_session(mode: str) -> None:
    machine = session(starttls=mode)
    say(machine, BANNER)
    _, learnt = say(machine, PLAIN)
    assert learnt == [SessionEnded("starttls", None, "the peer does not offer STARTTLS", True)]


def test_required_tls_is_not_given_up_by_the_fallback_to_helo() -> None:
    machine = session(starttls="encrypt")
    say(machine, BANNER)
    say(machine, b"502 no\r\n")
    _, (event,) = say(machine, PLAIN)
    assert isinstance(event, SessionEnded) and event.stage == "starttls"


@pytest.mark.parametrize("settings", [{"starttls": "off"}, {"secure": True}, {"secure": True, "starttls": "encrypt"}])
def test_starttls_is_not_said_when_off_or_needless(settings: dict[str, object]) -> None:
    machine = session(**settings)
    say(machine, BANNER)
    assert say(machine, OFFERS_TLS) == (b"", [Ready(machine.capabilities)])


def test_failed_handshake_is_a_fault_at_stage_tls() -> None:
    machine = session()
    say(machine, BANNER)
    say(machine, OFFERS_TLS)
    say(machine, b"220 go\r\n")
    machine.abort("handshake failed")
    assert events(machine) == [SessionEnded("tls", None, "handshake failed", True)]


# AUTH

LOGIN = {"login": "crm", "password": "sesame", "secure": True}


def test_auth_plain_is_preferred_and_goes_in_one_line() -> None:
    machine = session(**LOGIN)
    say(machine, BANNER)
    sent, _ = say(machine, b"250-mx\r\n250 AUTH LOGIN PLAIN\r\n")
    assert sent == b"AUTH PLAIN " + b64encode(b"\0crm\0sesame") + b"\r\n"
    assert machine.stage == "auth"
    assert say(machine, b"235 welcome\r\n") == (b"", [Ready(machine.capabilities)])


@pytest.mark.parametrize("offer", [b"AUTH LOGIN", b"AUTH=LOGIN", b"auth login cram-md5"])
def test_auth_login_answers_both_prompts(offer: bytes) -> None:
    machine = session(**LOGIN)
    say(machine, BANNER)
    assert say(machine, b"250-mx\r\n250 " + offer + b"\r\n") == (b"AUTH LOGIN\r\n", [])
    assert say(machine, b"334 VXNlcm5hbWU6\r\n") == (b64encode(b"crm") + b"\r\n", [])
    assert say(machine, b"334 UGFzc3dvcmQ6\r\n") == (b64encode(b"sesame") + b"\r\n", [])
    assert say(machine, b"235 welcome\r\n") == (b"", [Ready(machine.capabilities)])


@pytest.mark.parametrize("code", [454, 535])
def test_auth_refused_ends_the_session(code: int) -> None:
    machine = session(**LOGIN)
    say(machine, BANNER)
    say(machine, b"250-mx\r\n250 AUTH PLAIN\r\n")
    assert say(machine, b"%d no\r\n" % code)[1] == [SessionEnded("auth", Reply(code, "", "no"), "", True)]


def test_endless_auth_prompts_break_the_session() -> None:
    machine = session(**LOGIN)
    say(machine, BANNER)
    say(machine, b"250-mx\r\n250 AUTH PLAIN\r\n")
    _, (event,) = say(machine, b"334 more\r\n")
    assert isinstance(event, SessionEnded) and event.stage == "auth" and event.fault and event.error


def test_password_is_never_said_in_clear() -> None:
    machine = session(login="crm", password="sesame")
    say(machine, BANNER)
    sent, (event,) = say(machine, b"250-mx\r\n250 AUTH PLAIN LOGIN\r\n")
    assert isinstance(event, SessionEnded) and event.stage == "auth"
    assert sent == b"QUIT\r\n"


def test_password_is_said_in_clear_only_when_the_settings_allow_it() -> None:
    machine = session(login="crm", password="sesame", auth_without_tls=True)
    say(machine, BANNER)
    assert say(machine, b"250-mx\r\n250 AUTH PLAIN\r\n")[0].startswith(b"AUTH PLAIN ")


def test_no_common_mechanism_ends_the_session() -> None:
    machine = session(**LOGIN)
    say(machine, BANNER)
    _, (event,) = say(machine, b"250-mx\r\n250 AUTH GSSAPI\r\n")
    assert isinstance(event, SessionEnded) and event.stage == "auth"


def test_nul_in_the_password_is_refused_before_the_session_begins() -> None:
    with pytest.raises(ValueError):
        session(login="crm", password="a\0b")


# One transaction


def test_pipelined_transaction_goes_in_one_group_and_content_with_its_dot_in_one_write() -> None:
    machine = ready()
    assert started(machine, mail()) == GROUP
    assert machine.stage == "mail" and not machine.idle
    assert say(machine, GO) == (CONTENT + b".\r\n", [])
    assert machine.stage == machine.deadline_kind == "dot"
    assert say(machine, b"250 2.0.0 queued as 1\r\n") == (
        b"",
        [Finished(mail(), "dot", Reply(250, "2.0.0", "queued as 1"))],
    )
    assert machine.idle


def test_without_pipelining_each_command_awaits_its_reply() -> None:
    machine = ready(PLAIN)
    assert started(machine, mail()) == MAIL
    assert say(machine, b"250 ok\r\n") == (RCPT, [])
    assert machine.stage == "rcpt"
    assert say(machine, b"250 ok\r\n") == (b"DATA\r\n", [])
    assert machine.stage == "data"
    assert say(machine, b"354 go\r\n") == (CONTENT + b".\r\n", [])
    assert say(machine, b"250 ok\r\n") == (b"", [Finished(mail(), "dot", OK)])


def test_pipelining_switched_off_in_the_settings_is_not_used() -> None:
    assert started(ready(pipelining=False), mail()) == MAIL


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.\r\n.b\r\n", b"a\r\n..\r\n..b\r\n.\r\n"),
        (b"no end", b"no end\r\n.\r\n"),
        (b"a\r\n.", b"a\r\n..\r\n.\r\n"),
    ],
)
def test_content_is_dot_stuffed_and_ended(content: bytes, wire: bytes) -> None:
    machine = ready()
    started(machine, mail(content))
    assert say(machine, GO) == (wire, [])


def test_streamed_content_is_asked_for_and_dot_stuffed_across_pieces() -> None:
    machine = ready()
    started(machine, mail(None))
    assert say(machine, GO) == (b"", [BodyWanted(mail(None))])
    assert (machine.stage, machine.deadline_kind) == ("data", "body")
    for piece in (b"a\r", b"\n", b".b\r\n.", b"c"):
        machine.body(piece)
    assert machine.data_to_send() == b"a\r\n..b\r\n..c"
    machine.end_body()
    assert machine.data_to_send() == b"\r\n.\r\n"
    assert machine.stage == "dot"
    assert say(machine, b"250 ok\r\n")[1] == [Finished(mail(None), "dot", OK)]


def test_refusal_before_streamed_content_is_complete_ends_the_session_with_it() -> None:
    machine = ready()
    started(machine, mail(None))
    say(machine, GO)
    machine.body(b"half")
    machine.data_to_send()
    reply = Reply(552, "5.3.4", "too big")
    sent, learnt = say(machine, b"552 5.3.4 too big\r\n")
    assert learnt == [Finished(mail(None), "data", reply), SessionEnded("data", reply)]
    machine.body(b"more")
    machine.end_body()
    assert sent == machine.data_to_send() == b""  # above all no dot, which would complete half a message


def test_acceptance_before_streamed_content_is_complete_is_not_believed() -> None:
    machine = ready()
    started(machine, mail(None))
    say(machine, GO)
    _, (finished, ended) = say(machine, b"250 ok\r\n")
    assert isinstance(finished, Finished) and finished.reply is None and finished.error and not finished.unknown
    assert isinstance(ended, SessionEnded) and ended.fault


def test_mail_with_a_line_end_in_an_address_is_refused_to_the_caller() -> None:
    machine = ready()
    with pytest.raises(ValueError):
        machine.send(mail(to="b@site.example>\r\nRCPT TO:<c@site.example"))
    assert machine.data_to_send() == b"" and machine.idle


def test_send_is_refused_to_the_caller_when_two_are_under_way_or_before_ready() -> None:
    machine = ready()
    started(machine, mail(), mail())
    assert not machine.can_take_next
    with pytest.raises(RuntimeError):
        machine.send(mail())
    with pytest.raises(RuntimeError):
        session().send(mail())


# Refusals: each stage, each class, pipelined and not

REFUSALS = [(stage, code) for stage in ("mail", "rcpt", "data", "dot") for code in (450, 550, 499, 599)]


@pytest.mark.parametrize(("stage", "code"), REFUSALS)
def test_refusal_without_pipelining_ends_only_that_transaction(stage: str, code: int) -> None:
    machine = ready(PLAIN)
    started(machine, mail())
    for step, positive in (("mail", 250), ("rcpt", 250), ("data", 354), ("dot", 250)):
        sent, learnt = say(machine, b"%d answer\r\n" % (code if step == stage else positive))
        if step == stage:
            break
    assert (sent, learnt) == (b"", [Finished(mail(), stage, Reply(code, "", "answer"))])  # type: ignore[arg-type]
    assert machine.idle
    # A refused RCPT or DATA leaves the transaction open.
    if stage in ("rcpt", "data"):
        assert started(machine, mail()) == b"RSET\r\n"
        assert machine.stage == "rset"
        assert say(machine, b"250 ok\r\n") == (MAIL, [])
    else:
        assert started(machine, mail()) == MAIL


@pytest.mark.parametrize(
    ("replies", "stage", "code", "reset"),
    [
        (b"450 no\r\n503 no mail\r\n503 no rcpt\r\n", "mail", 450, b""),
        (b"250 ok\r\n550 no\r\n554 no rcpt\r\n", "rcpt", 550, b"RSET\r\n"),
        (b"250 ok\r\n450 no\r\n503 no rcpt\r\n", "rcpt", 450, b"RSET\r\n"),
        (b"250 ok\r\n250 ok\r\n451 no\r\n", "data", 451, b"RSET\r\n"),
        (b"250 ok\r\n250 ok\r\n550 no\r\n", "data", 550, b"RSET\r\n"),
    ],
)
def test_first_refusal_in_a_group_decides_and_the_others_are_read(
    replies: bytes, stage: str, code: int, reset: bytes
) -> None:
    machine = ready()
    started(machine, mail())
    assert say(machine, replies) == (b"", [Finished(mail(), stage, Reply(code, "", "no"))])  # type: ignore[arg-type]
    assert machine.idle
    assert started(machine, mail()) == reset + GROUP
    _, learnt = say(machine, b"250 reset\r\n" * bool(reset) + GO)
    assert learnt == [] and machine.stage == "dot"


@pytest.mark.parametrize("answer", [b"250 ok\r\n", b"554 no valid recipients\r\n", b"451 hm\r\n"])
def test_data_accepted_without_a_recipient_gets_a_lone_dot_whose_reply_decides_nothing(answer: bytes) -> None:
    machine = ready()
    started(machine, mail())
    assert say(machine, b"250 ok\r\n550 5.1.1 who?\r\n354 go\r\n") == (b".\r\n", [])
    assert say(machine, answer) == (b"", [Finished(mail(), "rcpt", Reply(550, "5.1.1", "who?"))])
    assert started(machine, mail()) == GROUP  # the dot closed the transaction: no RSET


def test_no_lone_dot_where_it_would_send_the_recipient_an_empty_message() -> None:
    machine = ready()
    started(machine, mail())
    sent, (finished, ended) = say(machine, b"550 no\r\n250 ok\r\n354 go\r\n")
    assert sent == b""
    assert finished == Finished(mail(), "mail", Reply(550, "", "no"))
    assert isinstance(ended, SessionEnded) and ended.fault


def test_content_is_never_sent_to_a_refused_recipient() -> None:
    machine = ready()
    started(machine, mail(None))
    assert say(machine, b"250 ok\r\n450 later\r\n354 go\r\n") == (b".\r\n", [])


@pytest.mark.parametrize(
    ("offer", "replies"),
    [
        (PIPELINED, b"354 go\r\n"),
        (PIPELINED, b"250 ok\r\n354 go\r\n"),
        (PIPELINED, b"250 ok\r\n250 ok\r\n250 ok\r\n"),
        (PLAIN, b"334 more\r\n"),
    ],
)
def test_positive_reply_of_the_wrong_class_breaks_the_session(offer: bytes, replies: bytes) -> None:
    machine = ready(offer)
    started(machine, mail())
    _, (finished, ended) = say(machine, replies)
    assert isinstance(finished, Finished) and finished.reply is None and finished.error and not finished.unknown
    assert isinstance(ended, SessionEnded) and ended.fault and ended.error == finished.error


# Two transactions

SECOND = Transaction("a@crm.example", Recipient("c@site.example"), content=b"two\r\n")
SECOND_GROUP = GROUP.replace(b"b@site", b"c@site")


def test_next_group_goes_in_the_same_write_behind_the_dot() -> None:
    machine = ready()
    assert started(machine, mail(), SECOND) == GROUP
    assert say(machine, GO) == (CONTENT + b".\r\n" + SECOND_GROUP, [])
    assert say(machine, b"250 ok\r\n" + GO) == (b"two\r\n.\r\n", [Finished(mail(), "dot", OK)])
    assert say(machine, b"250 ok\r\n") == (b"", [Finished(SECOND, "dot", OK)])


def test_next_group_goes_at_once_when_the_dot_is_out_already() -> None:
    machine = ready()
    started(machine, mail())
    say(machine, GO)
    assert started(machine, SECOND) == SECOND_GROUP


def test_next_group_goes_behind_a_streamed_end() -> None:
    machine = ready()
    started(machine, mail(None), SECOND)
    say(machine, GO)
    machine.body(b"x\r\n")
    machine.end_body()
    assert machine.data_to_send() == b"x\r\n.\r\n" + SECOND_GROUP


def test_next_group_goes_behind_a_lone_dot() -> None:
    machine = ready()
    started(machine, mail(), SECOND)
    assert say(machine, b"250 ok\r\n550 no\r\n354 go\r\n") == (b".\r\n" + SECOND_GROUP, [])


def test_next_group_follows_a_refused_recipient_behind_rset() -> None:
    machine = ready()
    started(machine, mail(), SECOND)
    sent, (finished,) = say(machine, b"250 ok\r\n550 no\r\n503 no\r\n")
    assert sent == b"RSET\r\n" + SECOND_GROUP and isinstance(finished, Finished) and finished.stage == "rcpt"
    assert say(machine, b"250 ok\r\n" + GO) == (b"two\r\n.\r\n", [])


def test_rset_is_said_once() -> None:
    machine = ready()
    started(machine, mail())
    say(machine, b"250 ok\r\n550 no\r\n503 no\r\n")
    assert started(machine, mail(), SECOND) == b"RSET\r\n" + GROUP
    assert say(machine, b"250 ok\r\n" + GO) == (CONTENT + b".\r\n" + SECOND_GROUP, [])


def test_content_refused_does_not_touch_the_next_transaction() -> None:
    machine = ready()
    started(machine, mail(), SECOND)
    say(machine, GO)
    sent, learnt = say(machine, b"554 spam\r\n" + GO)
    assert (sent, learnt) == (b"two\r\n.\r\n", [Finished(mail(), "dot", Reply(554, "", "spam"))])


def test_without_pipelining_the_next_transaction_waits_for_the_first() -> None:
    machine = ready(PLAIN)
    assert started(machine, mail(), SECOND) == MAIL
    say(machine, b"250 ok\r\n")
    say(machine, b"250 ok\r\n")
    assert say(machine, b"354 go\r\n") == (CONTENT + b".\r\n", [])
    assert say(machine, b"250 ok\r\n") == (MAIL, [Finished(mail(), "dot", OK)])


def test_a_session_takes_a_third_once_the_first_is_done() -> None:
    machine = ready()
    started(machine, mail(), SECOND)
    say(machine, GO)
    say(machine, b"250 ok\r\n")
    assert machine.can_take_next
    assert started(machine, mail()) == b""
    assert say(machine, GO)[0] == b"two\r\n.\r\n" + GROUP


# The end: 421, closed, aborted, broken, at every place

# What the peer has said when it happens, the stage, whether the final dot had been written.
PLACES = [
    (PIPELINED, b"", "mail", False),
    (PIPELINED, b"250 ok\r\n", "rcpt", False),
    (PIPELINED, b"250 ok\r\n250 ok\r\n", "data", False),
    (PIPELINED, GO, "dot", True),
    (PLAIN, b"", "mail", False),
    (PLAIN, b"250 ok\r\n", "rcpt", False),
    (PLAIN, b"250 ok\r\n|250 ok\r\n", "data", False),
    (PLAIN, b"250 ok\r\n|250 ok\r\n|354 go\r\n", "dot", True),
]


def brought_to(offer: bytes, said: bytes) -> ClientSession:
    machine = ready(offer)
    started(machine, mail(), SECOND)
    for piece in said.split(b"|"):
        assert say(machine, piece)[1] == []
    return machine


@pytest.mark.parametrize(("offer", "said", "stage", "dotted"), PLACES)
def test_421_goes_to_the_transaction_it_answers_and_the_next_is_handed_back(
    offer: bytes, said: bytes, stage: str, dotted: bool
) -> None:
    machine = brought_to(offer, said)
    reply = Reply(421, "4.7.0", "enough")
    sent, learnt = say(machine, b"421 4.7.0 enough\r\n250 what follows is not read\r\n")
    assert learnt == [Finished(mail(), stage, reply), Returned(SECOND), SessionEnded(stage, reply)]  # type: ignore[arg-type]
    assert sent == b"" and machine.ended


@pytest.mark.parametrize(("offer", "said", "stage", "dotted"), PLACES)
def test_lost_connection_is_unknown_only_after_the_final_dot(
    offer: bytes, said: bytes, stage: str, dotted: bool
) -> None:
    machine = brought_to(offer, said)
    machine.eof()
    finished, returned, ended = events(machine)
    error = "the peer closed the connection"
    assert finished == Finished(mail(), stage, None, dotted, error)  # type: ignore[arg-type]
    assert returned == Returned(SECOND)
    assert ended == SessionEnded(stage, None, error, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("offer", "said", "stage", "dotted"), PLACES)
@pytest.mark.parametrize(
    "garbage", [b"nonsense\r\n", b"250-a\r\n550 b\r\n", b"99 x\r\n", b"\0" * 3000, b"250-\r\n" * 200]
)
def test_broken_answer_is_unknown_only_after_the_final_dot(
    offer: bytes, said: bytes, stage: str, dotted: bool, garbage: bytes
) -> None:
    machine = brought_to(offer, said)
    _, (finished, returned, ended) = say(machine, garbage)
    assert isinstance(finished, Finished) and isinstance(ended, SessionEnded) and returned == Returned(SECOND)
    assert (finished.stage, finished.reply, finished.unknown) == (stage, None, dotted)
    assert finished.error and ended.error == finished.error and ended.fault


@pytest.mark.parametrize(("offer", "said", "stage", "dotted"), PLACES)
def test_time_out_is_reported_in_its_own_words(offer: bytes, said: bytes, stage: str, dotted: bool) -> None:
    machine = brought_to(offer, said)
    machine.abort("no answer in 300 s")
    finished, _, ended = events(machine)
    assert finished == Finished(mail(), stage, None, dotted, "no answer in 300 s")  # type: ignore[arg-type]
    assert ended == SessionEnded(stage, None, "no answer in 300 s", True)  # type: ignore[arg-type]


def test_answer_cut_in_the_middle_after_the_dot_is_unknown() -> None:
    machine = brought_to(PIPELINED, GO)
    say(machine, b"250-2.0.0 queu")
    machine.eof()
    finished = events(machine)[0]
    assert isinstance(finished, Finished) and finished.unknown


def test_lost_while_content_streams_is_an_error_not_unknown() -> None:
    machine = ready()
    started(machine, mail(None))
    say(machine, GO)
    machine.body(b"half a mess")
    machine.data_to_send()
    machine.eof()
    finished = events(machine)[0]
    assert isinstance(finished, Finished) and not finished.unknown and finished.stage == "data"


def test_dot_that_never_left_is_not_unknown() -> None:
    machine = ready()
    started(machine, mail())
    machine.receive_data(GO)  # the content is ready, and not taken
    machine.eof()
    finished = events(machine)[0]
    assert isinstance(finished, Finished) and not finished.unknown and machine.data_to_send() == b""


def test_acceptance_that_comes_before_the_content_left_is_not_believed() -> None:
    machine = ready()
    started(machine, mail())
    sent, (finished, ended) = say(machine, GO + b"250 delivered\r\n")
    assert isinstance(finished, Finished) and finished.reply is None and not finished.unknown
    assert isinstance(ended, SessionEnded) and ended.fault and sent == b""


def test_refusal_stands_when_the_connection_is_lost_behind_it() -> None:
    machine = ready()
    started(machine, mail())
    say(machine, b"250 ok\r\n550 no\r\n")
    machine.eof()
    finished, ended = events(machine)
    assert finished == Finished(mail(), "rcpt", Reply(550, "", "no"))
    assert isinstance(ended, SessionEnded) and ended.stage == "data"


def test_refusal_stands_when_421_answers_the_lone_dot() -> None:
    machine = ready()
    started(machine, mail())
    say(machine, b"250 ok\r\n550 no\r\n354 go\r\n")
    _, learnt = say(machine, b"421 bye\r\n")
    assert learnt == [Finished(mail(), "rcpt", Reply(550, "", "no")), SessionEnded("dot", Reply(421, "", "bye"))]


def test_421_behind_an_acceptance_hands_the_waiting_transaction_back() -> None:
    machine = brought_to(PLAIN, b"250 ok\r\n|250 ok\r\n|354 go\r\n")
    _, learnt = say(machine, b"250 ok\r\n421 enough\r\n")
    assert learnt == [Finished(mail(), "dot", OK), Returned(SECOND), SessionEnded("mail", Reply(421, "", "enough"))]


@pytest.mark.parametrize("offer", [PIPELINED, PLAIN])
@pytest.mark.parametrize("answer", [b"421 bye\r\n", b"500 what?\r\n", b"garbage\r\n", b""])
def test_trouble_at_rset_is_not_the_next_transactions_fault(offer: bytes, answer: bytes) -> None:
    machine = ready(offer)
    started(machine, mail())
    for piece in (b"250 ok\r\n", b"550 no\r\n") if offer == PLAIN else (b"250 ok\r\n550 no\r\n503 no\r\n",):
        say(machine, piece)
    assert started(machine, SECOND).startswith(b"RSET\r\n")
    machine.receive_data(answer)
    machine.eof()
    returned, ended = events(machine)
    assert returned == Returned(SECOND)
    assert isinstance(ended, SessionEnded) and ended.stage == "rset"


@pytest.mark.parametrize("waiting", ["banner", "ehlo", "starttls", "tls", "auth"])
def test_peer_that_closes_before_ready_is_at_fault(waiting: str) -> None:
    machine = session(login="crm", password="sesame")
    steps = [BANNER, OFFERS_TLS, b"220 go\r\n", None, b"250-mx\r\n250 AUTH PLAIN\r\n"]
    for step in steps:
        if machine.stage == waiting:
            break
        machine.tls_started() if step is None else say(machine, step)
        machine.data_to_send()
    events(machine)
    assert machine.stage == waiting
    machine.eof()
    assert events(machine) == [SessionEnded(waiting, None, "the peer closed the connection", True)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("received", "reply"), [(b"421 idle too long\r\n", Reply(421, "", "idle too long")), (b"", None)]
)
def test_end_while_idle_is_nobodys_fault(received: bytes, reply: Reply | None) -> None:
    machine = ready()
    machine.receive_data(received)
    machine.eof()
    (ended,) = events(machine)
    assert isinstance(ended, SessionEnded) and (ended.reply, ended.fault) == (reply, False)


@pytest.mark.parametrize("stray", [b"250 ok\r\n", b"451 hm\r\n", b"354 go\r\n"])
def test_reply_to_nothing_breaks_the_session(stray: bytes) -> None:
    machine = ready()
    _, (ended,) = say(machine, stray)
    assert isinstance(ended, SessionEnded) and ended.fault and "was not asked" in ended.error


def test_reply_to_nothing_behind_an_acceptance_does_not_undo_it() -> None:
    machine = brought_to(PLAIN, b"250 ok\r\n|250 ok\r\n|354 go\r\n")
    _, (finished, returned, ended) = say(machine, b"250 ok\r\n250 ok again\r\n")
    assert finished == Finished(mail(), "dot", OK)
    assert returned == Returned(SECOND)
    assert isinstance(ended, SessionEnded) and ended.fault


def test_session_ended_is_said_once() -> None:
    machine = ready()
    machine.eof()
    machine.eof()
    machine.abort("again")
    machine.receive_data(b"421 bye\r\n")
    machine.quit()
    assert len(events(machine)) == 1 and machine.data_to_send() == b""


# QUIT


def test_quit_when_idle_ends_the_session_in_order() -> None:
    machine = ready()
    machine.quit()
    assert machine.data_to_send() == b"QUIT\r\n"
    assert machine.deadline_kind == "quit" and not machine.can_take_next and not machine.idle
    assert say(machine, b"221 bye\r\n") == (b"", [SessionEnded("rset", Reply(221, "", "bye"))])


def test_quit_waits_for_the_transactions_under_way() -> None:
    machine = ready()
    started(machine, mail(), SECOND)
    machine.quit()
    assert machine.data_to_send() == b""
    say(machine, GO)
    say(machine, b"250 ok\r\n" + GO)
    assert say(machine, b"250 ok\r\n")[0] == b"QUIT\r\n"


def test_quit_before_ready_is_said_when_ready() -> None:
    machine = session()
    machine.quit()
    say(machine, BANNER)
    sent, learnt = say(machine, PIPELINED)
    assert sent == b"QUIT\r\n" and isinstance(learnt[0], Ready) and not machine.can_take_next


@pytest.mark.parametrize("answer", [b"", b"500 what?\r\n", b"421 bye\r\n"])
def test_however_a_peer_answers_quit_it_is_not_at_fault(answer: bytes) -> None:
    machine = ready()
    machine.quit()
    machine.data_to_send()
    machine.receive_data(answer)
    machine.eof()
    (ended,) = events(machine)
    assert isinstance(ended, SessionEnded) and not ended.fault
