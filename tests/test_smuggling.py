"""The published SMTP smuggling sequences (CVE-2023-51764, -51765, -51766, CVE-2024-27305, -27938 and their kin), in and
out: what some server took for the end of data, with a second transaction behind it, must give one message or none."""

from itertools import product
from typing import Literal

import pytest

from relayd.reply import Reply
from relayd.smtp.framing import dot_stuff
from relayd.smtp.server import (
    BodyChunk,
    MailProposed,
    MessageAborted,
    MessageEnded,
    Quit,
    ServerSession,
    ServerSettings,
)

ENDS = (b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\n", b"\r\n\0", b"\0\r\n", b"\n\0", b"\r\0\n", b"")
KINDS = {before + b"." + after for before, after in product(ENDS, ENDS)}
ODD = {b"\r\n..\r\n.\r", b"\n.\r\n.\r", b"\r\n .\r\n", b"\r\n.\t\r\n", b"\x85.\x85"}
# A sequence that holds CRLF.CRLF is the end, for everyone.
SEQUENCES = sorted(sequence for sequence in KINDS | ODD if b"\r\n.\r\n" not in sequence)
SMUGGLED = b"MAIL FROM:<evil@victim.example>\r\nRCPT TO:<you@victim.example>\r\nDATA\r\nSubject: 2\r\n\r\nsmuggled\r\n"
Bare = Literal["reject", "normalise"]


class Seen:
    def __init__(self) -> None:
        self.senders: list[str] = []
        self.content = b""
        self.taken = 0
        self.aborted = 0
        self.quit = False


def run(stream: list[bytes], bare: Bare) -> Seen:
    session, seen = ServerSession(ServerSettings("mx.example", bare=bare), secure=True), Seen()
    session.greet()
    for data in stream:
        session.receive_data(data)
        while (event := session.next_event()) is not None:
            match event:
                case MessageEnded():
                    seen.taken += 1
                    session.accept(Reply(250, "2.0.0", "queued"))
                case BodyChunk():
                    seen.content += event.data
                case MessageAborted():
                    seen.aborted += 1
                case Quit():
                    seen.quit = True
                case MailProposed():
                    seen.senders.append(event.sender)
                    session.accept()
                case _ if session.stage == "answer":
                    session.accept()
    return seen


def check(seen: Seen, bare: Bare, smuggles: bool) -> None:
    assert seen.senders == ["a@crm.example"]
    assert seen.taken + seen.aborted == 1
    assert seen.quit
    if smuggles and bare == "reject":
        assert seen.aborted == 1
    if seen.taken:
        clean = dot_stuff(seen.content)
        assert b"\r\n.\r\n" not in b"\r\n" + clean
        outside_crlf = clean.replace(b"\r\n", b"")
        assert not set(outside_crlf) & set(b"\r\n\0")


def has_bare(raw: bytes) -> bool:
    return bool(set(raw.replace(b"\r\n", b"")) & set(b"\r\n\0"))


HELLO = b"EHLO crm.example\r\nMAIL FROM:<a@crm.example>\r\nRCPT TO:<b@there.example>\r\n"


@pytest.mark.parametrize("bare", ["reject", "normalise"])
@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
def test_sequence_in_data_ends_nothing(sequence: bytes, bare: Bare) -> None:
    content = b"Subject: 1\r\n\r\nhello" + sequence + SMUGGLED
    whole = content + b".\r\nQUIT\r\n"
    for cut in range(len(content) - len(SMUGGLED) - len(sequence) - 3, len(content) - len(SMUGGLED) + 4):
        check(run([HELLO, b"DATA\r\n", whole[:cut], whole[cut:]], bare), bare, has_bare(content))
    check(run([HELLO, b"DATA\r\n", *(whole[i : i + 1] for i in range(len(whole)))], bare), bare, has_bare(content))


@pytest.mark.parametrize("bare", ["reject", "normalise"])
@pytest.mark.parametrize("sequence", [*SEQUENCES, b"\r\n.\r\n"], ids=repr)
def test_sequence_in_chunks_ends_nothing(sequence: bytes, bare: Bare) -> None:
    content = b"Subject: 1\r\n\r\nhello" + sequence + SMUGGLED
    for border in range(len(content) - len(SMUGGLED) - len(sequence) - 1, len(content) - len(SMUGGLED) + 2):
        stream = HELLO + b"BDAT %d\r\n" % border + content[:border]
        stream += b"BDAT %d LAST\r\n" % (len(content) - border) + content[border:] + b"QUIT\r\n"
        check(run([stream], bare), bare, has_bare(content))
        check(run([stream[i : i + 1] for i in range(len(stream))], bare), bare, has_bare(content))


@pytest.mark.parametrize("sequence", SEQUENCES, ids=repr)
def test_sequence_that_came_in_as_content_goes_out_as_content(sequence: bytes) -> None:
    seen = run([HELLO, b"DATA\r\n", b"x" + sequence + b"y\r\n.\r\nQUIT\r\n"], "normalise")
    if seen.taken:
        again = run([HELLO, b"DATA\r\n", dot_stuff(seen.content) + b".\r\nQUIT\r\n"], "reject")
        assert (again.taken, again.content) == (1, seen.content)
    else:
        assert b"\0" in sequence


@pytest.mark.parametrize(
    "line", [b"NOOP\nMAIL FROM:<evil@victim.example>\r\n", b"NOOP\rMAIL FROM:<evil@victim.example>\r\n"]
)
def test_command_hidden_behind_a_bare_end_is_not_obeyed(line: bytes) -> None:
    assert run([b"EHLO crm.example\r\n", line, b"QUIT\r\n"], "reject").senders == []


def test_content_sent_without_waiting_is_not_obeyed_when_data_is_refused() -> None:
    stream = b"EHLO crm.example\r\nDATA\r\n" + SMUGGLED + b".\r\n"
    assert run([stream], "reject").senders == []


@pytest.mark.parametrize(
    "command", [b"BDAT x\r\n", b"BDAT 99\n", b"BDAT\r\n", b"BDAT -1\r\n", b"BDAT 5" + b" " * 5000 + b"\r\n"]
)
def test_chunk_of_unknown_size_ends_the_session(command: bytes) -> None:
    assert run([HELLO + command + SMUGGLED], "reject").senders == ["a@crm.example"]
