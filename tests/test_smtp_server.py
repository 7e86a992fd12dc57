from base64 import b64encode
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.envelope import Envelope, Recipient
from relayd.reply import Reply
from relayd.smtp.auth import plain_initial
from relayd.smtp.server import (
    AuthProposed,
    BodyChunk,
    Event,
    Hello,
    MailProposed,
    MessageAborted,
    MessageEnded,
    MessageStarted,
    Question,
    Quit,
    RecipientProposed,
    ServerSession,
    ServerSettings,
    StartTLS,
    TransactionReset,
)

QUEUED = Reply(250, "2.0.0", "queued as 1")
NO = Reply(550, "5.7.1", "No")
MAIL = b"MAIL FROM:<a@b.example>\r\n"
RCPT = b"RCPT TO:<c@d.example>\r\n"


class Peer:
    """A client of one session, and the policy behind it: yes to everything but what ``no`` names."""

    def __init__(
        self, *, secure: bool = True, hello: bool = True, no: dict[type, Reply] | None = None, **settings: Any
    ):
        self.session = ServerSession(ServerSettings("mx.example", **settings), secure=secure)
        self.no = no or {}
        self.events: list[Event] = []
        self.session.greet()
        assert self.session.data_to_send().startswith(b"220 mx.example ESMTP")
        if hello:
            self.say(b"EHLO crm.example\r\n")
            self.events.clear()

    def say(self, *pieces: bytes) -> bytes:
        for data in pieces:
            self.session.receive_data(data)
            while (event := self.session.next_event()) is not None:
                self.events.append(event)
                if isinstance(event, Question):
                    self._answer(event)
        return self.session.data_to_send()

    def _answer(self, event: Question) -> None:
        if type(event) in self.no:
            self.session.refuse(self.no[type(event)])
        else:
            self.session.accept(QUEUED if isinstance(event, MessageEnded) else None)

    def codes(self, *pieces: bytes) -> str:
        """The replies' codes and enhanced codes, one after the other, of last lines only."""
        lines = [line for line in self.say(*pieces).decode().split("\r\n")[:-1] if line[3] == " "]
        return ", ".join(
            " ".join(line.split(" ")[: 2 if line[4:5].isdigit() and line[5:6] == "." else 1]) for line in lines
        )

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def content(self) -> bytes:
        return b"".join(chunk.data for chunk in self.of(BodyChunk))


# Sessions.


def test_a_message_passes_from_banner_to_goodbye() -> None:
    peer = Peer(hello=False, service="relayd")
    assert peer.codes(b"EHLO crm.example\r\n") == "250"
    assert peer.codes(MAIL, RCPT, b"DATA\r\n") == "250 2.1.0, 250 2.1.5, 354"
    assert peer.say(b"Subject: x\r\n\r\n..hi\r\n.\r\n") == b"250 2.0.0 queued as 1\r\n"
    assert peer.codes(b"QUIT\r\n") == "221 2.0.0"
    envelope = Envelope("a@b.example", (Recipient("c@d.example"),))
    assert peer.events == [
        Hello("crm.example", True),
        MailProposed("a@b.example"),
        RecipientProposed(Recipient("c@d.example")),
        MessageStarted(envelope),
        BodyChunk(b"Subject: x\r\n\r\n.hi\r\n"),
        MessageEnded(19),
        Quit(),
    ]
    assert peer.session.closed


WHOLE = (
    b"EHLO crm.example\r\n"
    + MAIL
    + RCPT
    + b"DATA\r\nSubject: 1\r\n\r\n..x\r\n.\r\nRSET\r\n"
    + MAIL
    + RCPT
    + b"BDAT 5\r\na\r\nb"
    b"cBDAT 5 LAST\r\n\r\n.\r\n" + b"MAIL FROM:<>\r\nNOOP x\r\nfoo\r\nQUIT\r\n"
)


@given(st.lists(st.integers(1, len(WHOLE)), max_size=12))
def test_pieces_make_no_difference(cuts: list[int]) -> None:
    borders = [0, *sorted(cuts), len(WHOLE)]
    cut, whole = Peer(hello=False), Peer(hello=False)
    replies = cut.say(*(WHOLE[a:b] for a, b in pairwise(borders)))
    assert replies == whole.say(WHOLE)
    assert cut.content == whole.content
    assert [e for e in cut.events if not isinstance(e, BodyChunk)] == [
        e for e in whole.events if not isinstance(e, BodyChunk)
    ]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60), st.sampled_from([MAIL, RCPT, b"DATA\r\n", b"BDAT 3\r\n", b"RSET\r\n", b".\r\n"])
        )
    )
)
def test_no_bytes_make_it_stumble(pieces: list[bytes]) -> None:
    peer = Peer(max_errors=5)
    for data in pieces:
        out = peer.say(data)
        assert out == b"" or out.endswith(b"\r\n")
        assert peer.session.backlog <= 4096


def test_nothing_is_parsed_while_a_question_is_open() -> None:
    session = ServerSession(ServerSettings("mx.example"), secure=True)
    session.greet()
    session.receive_data(b"EHLO x\r\n" + MAIL + RCPT)
    assert isinstance(session.next_event(), Hello)
    assert isinstance(session.next_event(), MailProposed)
    assert session.next_event() is None
    assert session.stage == "answer" and session.backlog == len(RCPT)
    session.refuse(NO)
    assert session.next_event() is None
    assert session.data_to_send().endswith(b"550 5.7.1 No\r\n503 5.5.1 Say MAIL first\r\n")


def test_answer_without_a_question_is_our_own_fault() -> None:
    peer = Peer()
    for answer in (peer.session.accept, lambda: peer.session.refuse(NO)):
        with pytest.raises(RuntimeError):
            answer()


def test_stage_says_what_is_waited_for() -> None:
    session = ServerSession(ServerSettings("mx.example", auth=True), secure=True)
    assert session.stage == "banner"
    peer = Peer(auth=True)
    assert peer.session.stage == "command"
    peer.say(b"AUTH LOGIN\r\n")
    assert peer.session.stage == "auth"
    peer.say(b"*\r\n", MAIL, RCPT, b"DATA\r\n")
    assert peer.session.stage == "data"
    peer.say(b".\r\n", MAIL, RCPT, b"BDAT 3\r\na")
    assert peer.session.stage == "data"


def test_client_that_speaks_before_the_banner_is_sent_away() -> None:
    session = ServerSession(ServerSettings("mx.example"), secure=True)
    session.receive_data(b"EHLO x\r\n")
    assert session.next_event() is None
    session.greet()
    assert session.data_to_send().startswith(b"554 5.5.0 ") and session.closed


def test_shell_may_close_at_any_time() -> None:
    peer = Peer()
    peer.say(MAIL, RCPT, b"DATA\r\nabc")
    peer.session.close(Reply(421, "4.3.2", "Shutting down"))
    assert peer.session.data_to_send() == b"421 4.3.2 Shutting down\r\n"
    assert peer.session.closed and peer.say(b"more\r\n.\r\n") == b""


def test_closing_takes_back_the_question_that_was_not_seen_yet() -> None:
    session = ServerSession(ServerSettings("mx.example"), secure=True)
    peer = Peer()
    session = peer.session
    peer.say(MAIL, RCPT, b"DATA\r\n")
    session.receive_data(b"abc\r\n.\r\n")
    assert isinstance(session.next_event(), BodyChunk)
    session.close(Reply(421, "4.3.1", "Disk full"))
    assert session.next_event() is None


@pytest.mark.parametrize("kind", [MailProposed, RecipientProposed, MessageStarted, MessageEnded])
def test_refusal_with_421_ends_the_session(kind: type) -> None:
    peer = Peer(no={kind: Reply(421, "4.3.2", "Later")})
    assert peer.codes(MAIL + RCPT + b"DATA\r\n", b".\r\n").endswith("421 4.3.2")
    assert peer.session.closed


# Greeting.


def test_extensions_are_those_that_hold() -> None:
    lines = Peer(hello=False, max_size=1000).say(b"ehlo x\r\n").decode().split("\r\n")
    assert [line[4:] for line in lines[1:-1]] == [
        "PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN", "CHUNKING", "HELP",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("auth", "starttls", "secure", "offered"),
    [
        (True, False, True, {"AUTH PLAIN LOGIN"}),
        (True, True, False, {"STARTTLS"}),
        (True, True, True, {"AUTH PLAIN LOGIN"}),
        (False, False, False, set()),
    ],
)
def test_auth_is_offered_within_tls_only(auth: bool, starttls: bool, secure: bool, offered: set[str]) -> None:
    words = Peer(hello=False, auth=auth, starttls=starttls, secure=secure).say(b"EHLO x\r\n").decode()
    assert {line[4:] for line in words.split("\r\n")} & {"STARTTLS", "AUTH PLAIN LOGIN"} == offered


def test_helo_gets_one_line() -> None:
    peer = Peer(hello=False)
    assert peer.say(b"HELO  old.example \r\n") == b"250 mx.example\r\n"
    assert peer.events == [Hello("old.example", False)]


def test_hello_name_is_safe_to_show() -> None:
    peer = Peer(hello=False)
    peer.say(b"EHLO \x1b[31mx" + b"y" * 1000 + b"\r\n")
    (hello,) = peer.events
    assert isinstance(hello, Hello) and hello.name.isprintable() and len(hello.name) <= 255


def test_hello_name_may_be_in_any_code_page_and_other_commands_may_not() -> None:
    peer = Peer(hello=False)
    assert peer.codes("EHLO Касса\r\n".encode("cp1251")) == "250"
    assert peer.events == [Hello("\ufffd" * 5, True)]
    assert peer.codes("MAIL FROM:<касса@b.example>\r\n".encode("cp1251")) == "500 5.5.2"


def test_ehlo_within_a_transaction_resets_it() -> None:
    peer = Peer()
    peer.say(MAIL, b"EHLO x\r\n")
    assert peer.events[1:] == [TransactionReset(), Hello("x", True)]
    assert peer.codes(RCPT) == "503 5.5.1"


# Commands: what they answer in which state.

MORE: list[tuple[bytes, str]] = [
    (b"NOOP\r\n", "250 2.0.0"),
    (b"NoOp anything\r\n", "250 2.0.0"),
    (b"  noop\t\r\n", "250 2.0.0"),
    (b"RSET\r\n", "250 2.0.0"),
    (b"RSET x\r\n", "501 5.5.4"),
    (b"HELP\r\n", "214 2.0.0"),
    (b"HELP MAIL\r\n", "214 2.0.0"),
    (b"VRFY someone\r\n", "252 2.5.2"),
    (b"VRFY\r\n", "501 5.5.4"),
    (b"EXPN list\r\n", "502 5.5.1"),
    (b"EHLO\r\n", "501 5.5.4"),
    (b"HELO\r\n", "501 5.5.4"),
    (b"QUIT now\r\n", "501 5.5.4"),
    (b"FOO\r\n", "500 5.5.1"),
    (b"\r\n", "500 5.5.1"),
    (b"\xff\xfe\r\n", "500 5.5.2"),
    (b"NOOP a\0b\r\n", "500 5.5.2"),
    (b"DATA\r\n", "503 5.5.1"),
    (b"DATA x\r\n", "501 5.5.4"),
    (RCPT, "503 5.5.1"),
    (b"STARTTLS\r\n", "503 5.5.1"),
    (b"AUTH PLAIN\r\n", "502 5.5.1"),
    (b"MAIL\r\n", "501 5.5.4"),
    (b"MAIL TO:<a@b.example>\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example\r\n", "501 5.1.7"),
    (b"MAIL FROM:<a@[192.0.2.1]>\r\n", "501 5.1.7"),
    (b"MAIL FROM:<postmaster>\r\n", "501 5.1.7"),
    ("MAIL FROM:<é@b.example>\r\n".encode(), "553 5.6.7"),
    ("MAIL FROM:<é@b.example> SMTPUTF8\r\n".encode(), "250 2.1.0"),
    (b"MAIL FROM:<>\r\n", "250 2.1.0"),
    (b"mail from: <a@b.example>\r\n", "250 2.1.0"),
    (b"MAIL FROM : a@b.example  size=5\r\n", "250 2.1.0"),
    (b"MAIL FROM:<a@b.example> SIZE=1000\r\n", "250 2.1.0"),
    (b"MAIL FROM:<a@b.example> SIZE=1001\r\n", "552 5.3.4"),
    (b"MAIL FROM:<a@b.example> SIZE=\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> SIZE=-1\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> SIZE=1 SIZE=1\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> BODY=7bit\r\n", "250 2.1.0"),
    (b"MAIL FROM:<a@b.example> BODY=BINARYMIME\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> SMTPUTF8=1\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> RET=SOME\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> ENVID=a+0D+0Ab\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> ENVID=" + b"x" * 101 + b"\r\n", "501 5.5.4"),
    (b"MAIL FROM:<a@b.example> AUTH=<>\r\n", "555 5.5.4"),
    (b"MAIL FROM:<a@b.example> FOO=1\r\n", "555 5.5.4"),
]


@pytest.mark.parametrize(("line", "codes"), MORE, ids=lambda value: repr(value)[:50])
def test_command_outside_a_transaction(line: bytes, codes: str) -> None:
    assert Peer(max_size=1000).codes(line) == codes


@pytest.mark.parametrize(
    ("line", "codes"),
    [
        (MAIL, "503 5.5.1"),
        (b"DATA\r\n", "554 5.5.1"),
        (RCPT, "250 2.1.5"),
        (b"rcpt to: c@d.example\r\n", "250 2.1.5"),
        (b"RCPT TO:<postmaster>\r\n", "250 2.1.5"),
        (b"RCPT TO:<>\r\n", "501 5.1.3"),
        (b"RCPT TO:<c@[192.0.2.1]>\r\n", "501 5.1.3"),
        (b"RCPT FROM:<c@d.example>\r\n", "501 5.5.4"),
        ("RCPT TO:<é@d.example>\r\n".encode(), "553 5.6.7"),
        (b"RCPT TO:<c@d.example> NOTIFY=success,DELAY\r\n", "250 2.1.5"),
        (b"RCPT TO:<c@d.example> NOTIFY=NEVER,DELAY\r\n", "501 5.5.4"),
        (b"RCPT TO:<c@d.example> NOTIFY=\r\n", "501 5.5.4"),
        (b"RCPT TO:<c@d.example> ORCPT=rfc822\r\n", "501 5.5.4"),
        (b"RCPT TO:<c@d.example> ORCPT=rfc822;a+zz\r\n", "501 5.5.4"),
        (b"RCPT TO:<c@d.example> SIZE=1\r\n", "555 5.5.4"),
    ],
)
def test_command_behind_mail(line: bytes, codes: str) -> None:
    peer = Peer()
    peer.say(MAIL)
    assert peer.codes(line) == codes


def test_mail_before_hello_is_out_of_sequence() -> None:
    assert Peer(hello=False).codes(MAIL) == "503 5.5.1"


def test_parameters_reach_the_envelope() -> None:
    peer = Peer(auth=True)
    peer.say(b"MAIL FROM:<a@b.example> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=hdrs ENVID=a+2Bb AUTH=<>\r\n")
    peer.say("RCPT TO:<é@d.example> NOTIFY=failure,delay ORCPT=rfc822;x+40y\r\n".encode(), b"DATA\r\n")
    (started,) = peer.of(MessageStarted)
    recipient = Recipient("é@d.example", "FAILURE,DELAY", "rfc822;x@y")
    assert started.envelope == Envelope("a@b.example", (recipient,), True, True, "HDRS", "a+b", 7)


def test_rset_forgets_the_transaction() -> None:
    peer = Peer()
    assert peer.codes(MAIL, RCPT, b"RSET\r\n", b"DATA\r\n") == "250 2.1.0, 250 2.1.5, 250 2.0.0, 503 5.5.1"
    assert peer.events[-1] == TransactionReset()


def test_refused_recipient_is_not_in_the_envelope() -> None:
    peer = Peer()
    peer.say(MAIL, RCPT)
    peer.no = {RecipientProposed: NO}
    assert peer.codes(b"RCPT TO:<bad@d.example>\r\n", b"DATA\r\n") == "550 5.7.1, 354"
    assert peer.of(MessageStarted)[0].envelope.recipients == (Recipient("c@d.example"),)


def test_browser_is_sent_away_at_once() -> None:
    peer = Peer(hello=False)
    assert peer.codes(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\n" + MAIL) == "421 4.7.0"
    assert peer.session.closed and peer.events == []


# Limits.


def test_recipients_beyond_the_limit_are_told_to_come_later() -> None:
    peer = Peer(max_recipients=2)
    assert peer.codes(MAIL, RCPT, RCPT, RCPT, b"DATA\r\n") == "250 2.1.0, 250 2.1.5, 250 2.1.5, 452 4.5.3, 354"


def test_errors_beyond_the_limit_end_the_session() -> None:
    peer = Peer(max_errors=2)
    assert peer.codes(b"A\r\nB\r\nC\r\nNOOP\r\n") == "500 5.5.1, 500 5.5.1, 500 5.5.1, 421 4.7.0"
    assert peer.session.closed


def test_refused_recipients_are_no_errors_of_the_session() -> None:
    peer = Peer(max_errors=2, max_commands_without_progress=5, max_recipients=500, no={RecipientProposed: NO})
    peer.say(MAIL, RCPT * 400)
    peer.no = {}
    assert peer.codes(RCPT) == "250 2.1.5"


def test_recipients_cannot_be_tried_without_end() -> None:
    peer = Peer(max_commands_without_progress=5, max_recipients=10, no={RecipientProposed: NO})
    assert peer.codes(MAIL, RCPT * 20).endswith("421 4.7.0")


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"RSET\r\n", MAIL + b"RSET\r\n", b"EHLO x\r\n", b"VRFY x\r\n"])
def test_commands_without_a_message_have_an_end(line: bytes) -> None:
    assert Peer(max_commands_without_progress=9).codes(line * 10).endswith("421 4.7.0")


def test_empty_chunks_have_an_end() -> None:
    peer = Peer(max_commands_without_progress=9)
    assert peer.codes(MAIL, RCPT, b"BDAT 0\r\n" * 20).endswith("421 4.7.0")


def test_each_message_begins_the_count_anew() -> None:
    peer = Peer(max_commands_without_progress=4)
    for _ in range(5):
        assert peer.codes(MAIL + RCPT + b"NOOP\r\nDATA\r\n", b"x\r\n.\r\n").endswith("354, 250 2.0.0")


def test_messages_beyond_the_limit_need_another_connection() -> None:
    peer = Peer(max_messages=1)
    peer.say(MAIL + RCPT + b"DATA\r\n", b".\r\n")
    assert peer.codes(MAIL) == "421 4.7.0"
    assert peer.session.closed


@pytest.mark.parametrize("ending", [b"", b"\r\n"])
def test_line_too_long_is_refused_once_and_not_kept(ending: bytes) -> None:
    peer = Peer(line_limit=100)
    assert peer.codes(b"NOOP " + b"x" * 100 + ending) == "500 5.5.2"
    if not ending:
        for _ in range(50):
            assert peer.say(b"y" * 1000) == b"" and peer.session.backlog <= 1
        assert peer.say(b"\r", b"\n") == b""
    assert peer.codes(b"NOOP\r\n") == "250 2.0.0"


def test_bare_lf_and_cr_in_commands_are_refused() -> None:
    peer = Peer(max_errors=100)
    assert peer.codes(b"NOOP\nRSET\r\nNOOP\r\n") == "500 5.5.2, 500 5.5.2, 250 2.0.0"
    assert peer.codes(b"NOOP\rRSET\r\nNOOP\r\n") == "500 5.5.2, 250 2.0.0"
    assert peer.session.errors == 3


def test_client_with_bare_lf_only_is_answered_at_each_line() -> None:
    assert Peer(hello=False).codes(b"EHLO x\n", b"MAIL FROM:<a@b.example>\n") == "500 5.5.2, 500 5.5.2"


def test_normalising_listener_bears_with_bare_lf_in_commands() -> None:
    peer = Peer(bare="normalise")
    assert peer.codes(b"NOOP\nRSET\r\n") == "250 2.0.0, 250 2.0.0"


# Content.


def test_content_is_streamed() -> None:
    peer = Peer()
    peer.say(MAIL, RCPT, b"DATA\r\n", b"one\r\n", b"two\r\n", b".\r\n")
    assert [chunk.data for chunk in peer.of(BodyChunk)] != [b"one\r\ntwo\r\n"]
    assert peer.content == b"one\r\ntwo\r\n"


def test_refused_data_leaves_the_transaction_open() -> None:
    peer = Peer(no={MessageStarted: Reply(451, "4.3.1", "Later")})
    assert peer.codes(MAIL, RCPT, b"DATA\r\n", MAIL) == "250 2.1.0, 250 2.1.5, 451 4.3.1, 503 5.5.1"


def test_refused_message_ends_the_transaction() -> None:
    peer = Peer(no={MessageEnded: NO})
    assert peer.codes(MAIL + RCPT + b"DATA\r\n", b"x\r\n.\r\n", MAIL).endswith("354, 550 5.7.1, 250 2.1.0")


@pytest.mark.parametrize(
    ("content", "codes"), [(b"a\nb\r\n", "550 5.6.0"), (b"a\0b\r\n", "550 5.6.0"), (b"x" * 20 + b"\r\n", "552 5.3.4")]
)
def test_faulty_content_is_refused_at_its_end_and_told_at_once(content: bytes, codes: str) -> None:
    peer = Peer(max_size=10)
    peer.say(MAIL, RCPT, b"DATA\r\n")
    assert peer.say(content) == b""
    assert len(peer.of(MessageAborted)) == 1
    assert peer.codes(b"more\r\n.\r\n", MAIL) == f"{codes}, 250 2.1.0"
    assert not peer.of(MessageEnded) and len(peer.of(MessageAborted)) == 1


def test_a_taken_message_needs_its_reply() -> None:
    session = Peer().session
    session.receive_data(MAIL + RCPT + b"DATA\r\n.\r\n")
    for _ in range(3):
        session.next_event()
        session.accept()
    assert isinstance(session.next_event(), MessageEnded)
    with pytest.raises(RuntimeError):
        session.accept()


def test_chunks_may_be_pipelined_with_the_transaction() -> None:
    peer = Peer()
    codes = peer.codes(MAIL + RCPT + b"BDAT 3\r\na\r\nbdat 4  last\r\n.\r\nbNOOP\r\n")
    assert codes == "250 2.1.0, 250 2.1.5, 250 2.0.0, 250 2.0.0, 250 2.0.0"
    assert peer.content == b"a\r\n.\r\nb"


def test_chunks_one_by_one() -> None:
    peer = Peer()
    peer.say(MAIL, RCPT)
    assert peer.codes(b"BDAT 4\r\na\r\n.") == "250 2.0.0"
    assert peer.codes(b"BDAT 4\r\n\r\nb\r") == "250 2.0.0"
    assert peer.codes(b"BDAT 1\r\n\n") == "250 2.0.0"
    assert peer.say(b"BDAT 0 LAST\r\n") == b"250 2.0.0 queued as 1\r\n"
    assert peer.content == b"a\r\n.\r\nb\r\n" and peer.of(MessageEnded) == [MessageEnded(9)]
    assert len(peer.of(MessageStarted)) == 1


def test_data_and_chunks_do_not_mix() -> None:
    peer = Peer()
    peer.say(MAIL, RCPT, b"BDAT 1\r\na")
    assert peer.codes(b"DATA\r\n", RCPT, b"BDAT 1 LAST\r\nb") == "503 5.5.1, 503 5.5.1, 250 2.0.0"


def test_rset_between_chunks_drops_the_message() -> None:
    peer = Peer()
    assert peer.codes(MAIL, RCPT, b"BDAT 1\r\na", b"RSET\r\n", MAIL).endswith("250 2.0.0, 250 2.0.0, 250 2.1.0")
    assert TransactionReset() in peer.events


def test_refused_chunks_are_counted_off_and_each_is_answered() -> None:
    peer = Peer(no={MessageStarted: NO})
    codes = peer.codes(MAIL + RCPT + b"BDAT 6\r\nRSET\r\nBDAT 6 LAST\r\nQUIT\r\n" + MAIL)
    assert codes == "250 2.1.0, 250 2.1.5, 550 5.7.1, 550 5.7.1, 250 2.1.0"
    assert not peer.content


@pytest.mark.parametrize("before", [b"", MAIL])
def test_chunk_out_of_sequence_is_counted_off(before: bytes) -> None:
    peer = Peer()
    assert peer.codes(before + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n").endswith("503 5.5.1, 250 2.0.0")
    assert not peer.session.closed


def test_faulty_chunk_is_refused_in_every_chunk_of_the_message() -> None:
    peer = Peer()
    peer.say(MAIL, RCPT)
    assert peer.codes(b"BDAT 3\r\na\nb", b"BDAT 1\r\nc", b"BDAT 0 LAST\r\n", MAIL) == (
        "550 5.6.0, 550 5.6.0, 550 5.6.0, 250 2.1.0"
    )
    assert len(peer.of(MessageAborted)) == 1


@pytest.mark.parametrize("command", [b"BDAT\r\n", b"BDAT x\r\n", b"BDAT 1 FIRST\r\n", b"BDAT 1\nx\r\n"])
def test_chunk_of_unknown_size_ends_the_session(command: bytes) -> None:
    peer = Peer()
    assert peer.codes(MAIL + RCPT + command + RCPT).endswith("421 4.5.0")
    assert peer.session.closed


# TLS and authentication.

SUBMISSION = {"auth": True, "auth_required": True, "starttls": True}


def test_submission_wants_tls_then_a_login() -> None:
    peer = Peer(secure=False, **SUBMISSION)
    assert peer.codes(MAIL) == "530 5.7.0"
    assert peer.codes(b"AUTH PLAIN " + plain_initial("crm", "x") + b"\r\n") == "538 5.7.11"
    assert peer.codes(b"STARTTLS x\r\n", b"STARTTLS\r\n") == "501 5.5.4, 220 2.0.0"
    assert peer.events[-1] == StartTLS()
    peer.session.tls_started()
    assert peer.codes(MAIL, b"EHLO x\r\n", MAIL, b"STARTTLS\r\n") == "503 5.5.1, 250, 530 5.7.0, 503 5.5.1"
    assert peer.codes(b"AUTH PLAIN " + plain_initial("crm", "x") + b"\r\n", MAIL) == "235 2.7.0, 250 2.1.0"
    assert peer.session.login == "crm"


@pytest.mark.parametrize("cut", [0, 4, 10])
def test_commands_injected_behind_starttls_are_dropped(cut: int) -> None:
    peer = Peer(secure=False, starttls=True)
    line = b"STARTTLS\r\n" + MAIL
    assert peer.codes(line[:cut], line[cut:], RCPT) == "220 2.0.0"
    peer.session.tls_started()
    assert peer.codes(b"EHLO x\r\n") == "250"
    assert not peer.of(MailProposed)


def test_starttls_forgets_a_transaction() -> None:
    peer = Peer(secure=False, starttls=True)
    peer.say(MAIL, b"STARTTLS\r\n")
    assert peer.events[-2:] == [TransactionReset(), StartTLS()]


def test_starttls_before_hello_or_where_not_offered() -> None:
    assert Peer(hello=False, secure=False, starttls=True).codes(b"STARTTLS\r\n") == "503 5.5.1"
    assert Peer(secure=False).codes(b"STARTTLS\r\n") == "502 5.5.1"


def test_tls_that_nobody_asked_for_is_our_own_fault() -> None:
    with pytest.raises(RuntimeError):
        Peer(secure=False, starttls=True).session.tls_started()


def login_steps(peer: Peer) -> None:
    assert peer.say(b"auth login\r\n") == b"334 VXNlcm5hbWU6\r\n"
    assert peer.say(b64encode(b"crm") + b"\r\n") == b"334 UGFzc3dvcmQ6\r\n"
    assert peer.codes(b64encode(b"secret") + b"\r\n") == "235 2.7.0"


def login_initial(peer: Peer) -> None:
    assert peer.say(b"AUTH LOGIN " + b64encode(b"crm") + b"\r\n") == b"334 UGFzc3dvcmQ6\r\n"
    assert peer.codes(b64encode(b"secret") + b"\r\n") == "235 2.7.0"


def plain_steps(peer: Peer) -> None:
    assert peer.say(b"AUTH PLAIN\r\n") == b"334 \r\n"
    assert peer.codes(plain_initial("crm", "secret") + b"\r\n") == "235 2.7.0"


def plain_at_once(peer: Peer) -> None:
    assert peer.codes(b"AUTH PLAIN  " + plain_initial("crm", "secret") + b"\r\n") == "235 2.7.0"


@pytest.mark.parametrize("way", [login_steps, login_initial, plain_steps, plain_at_once])
def test_login_is_proposed_and_said_only_once(way: Callable[[Peer], None]) -> None:
    peer = Peer(auth=True, auth_required=True)
    way(peer)
    (proposed,) = peer.of(AuthProposed)
    assert (proposed.login, proposed.password) == ("crm", "secret")
    assert peer.codes(b"AUTH LOGIN\r\n", MAIL) == "503 5.5.1, 250 2.1.0"


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        (b"AUTH PLAIN\r\n*\r\n", "334, 501 5.7.0"),
        (b"AUTH PLAIN !!!\r\n", "501 5.5.2"),
        (b"AUTH PLAIN =\r\n", "501 5.5.2"),
        (b"AUTH LOGIN\r\n!!!\r\n", "334, 501 5.5.2"),
        (b"AUTH CRAM-MD5\r\n", "504 5.5.4"),
        (b"AUTH\r\n", "501 5.5.4"),
        (b"AUTH PLAIN " + b64encode(b"root\0crm\0x") + b"\r\n", "535 5.7.8"),
        (b"AUTH LOGIN\r\nQUIT\nNOOP\r\n", "334, 500 5.5.2, 500 5.5.2"),
    ],
)
def test_failed_authentication(lines: bytes, codes: str) -> None:
    peer = Peer(auth=True, auth_required=True)
    assert peer.codes(lines) == codes
    assert peer.codes(b"NOOP\r\n", MAIL) == "250 2.0.0, 530 5.7.0"


def test_refused_login_is_an_error_and_may_be_tried_again() -> None:
    peer = Peer(auth=True, auth_required=True, max_errors=1, no={AuthProposed: Reply(535, "5.7.8", "No")})
    line = b"AUTH PLAIN " + plain_initial("crm", "x") + b"\r\n"
    assert peer.codes(line, MAIL.replace(b"MAIL", b"NOOP")) == "535 5.7.8, 250 2.0.0"
    assert peer.codes(line) == "535 5.7.8, 421 4.7.0"


def test_auth_within_a_transaction_or_before_hello_is_out_of_sequence() -> None:
    peer = Peer(auth=True)
    assert peer.codes(MAIL, b"AUTH LOGIN\r\n") == "250 2.1.0, 503 5.5.1"
    assert Peer(auth=True, hello=False).codes(b"AUTH LOGIN\r\n") == "503 5.5.1"


def test_auth_lines_may_be_longer_than_others() -> None:
    peer = Peer(auth=True, line_limit=512)
    assert peer.codes(b"AUTH PLAIN " + plain_initial("crm", "x" * 1000) + b"\r\n") == "235 2.7.0"
    assert Peer(auth=True, line_limit=512).codes(b"AUTH PLAIN " + b"x" * 13000) == "500 5.5.2"
