"""The reply reader: what a peer may answer, cut anywhere, and what it may not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.reply import Reply, parsed
from relayd.smtp.replies import ReplyFault, ReplyReader

MAX_LINE, MAX_LINES, MAX_BYTES = 80, 10, 400


def reader() -> ReplyReader:
    return ReplyReader(MAX_LINE, MAX_LINES, MAX_BYTES)


def read(*pieces: bytes) -> list[Reply]:
    machine, replies = reader(), []
    for piece in pieces:
        machine.feed(piece)
        while reply := machine.next():
            replies.append(reply)
    return replies


@pytest.mark.parametrize(
    ("received", "reply"),
    [
        (b"250 ok\r\n", Reply(250, "", "ok")),
        (b"250 2.1.0 ok\r\n", Reply(250, "2.1.0", "ok")),
        (b"250 ok\n", Reply(250, "", "ok")),
        (b"250\r\n", Reply(250)),
        (b"250 \r\n", Reply(250)),
        (b"250-a\r\n250 b\r\n", Reply(250, "", "a\nb")),
        (b"250-a\r\n250\r\n", Reply(250, "", "a\n")),
        (b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", Reply(550, "5.1.1", "no\nsuch user")),
        (b"554 \x1b[2Jgone\r\n", Reply(554, "", "\\x1b[2Jgone")),
        (b"554 \xff\xfe\r\n", Reply(554, "", "\\xff\\xfe")),
    ],
)
def test_reply_is_read(received: bytes, reply: Reply) -> None:
    assert read(received) == [reply]


@pytest.mark.parametrize(
    "received",
    [
        b"\r\n",
        b"25\r\n",
        b"abc hello\r\n",
        b"150 not in SMTP\r\n",
        b"650 out of range\r\n",
        b"2500 four digits\r\n",
        b"250_ok\r\n",
        b" 250 ok\r\n",
        "٢٥٠ ok\r\n".encode(),
        b"250-a\r\n251 b\r\n",
        b"250-a\r\n250-b\r\n550 c\r\n",
        b"250-a\r\nb\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"250 " + b"x" * MAX_LINE,
        b"\0" * (MAX_LINE + 1),
        b"250-x\r\n" * (MAX_LINES + 1),
        (b"250-" + b"x" * 70 + b"\r\n") * 6,
    ],
)
def test_what_is_no_reply_or_has_no_end_is_a_fault(received: bytes) -> None:
    with pytest.raises(ReplyFault):
        read(received)
    with pytest.raises(ReplyFault):
        read(*(bytes([byte]) for byte in received))


def test_replies_before_a_fault_are_read() -> None:
    machine = reader()
    machine.feed(b"250 ok\r\n550 no\r\ngarbage\r\n")
    assert [machine.next(), machine.next()] == [Reply(250, "", "ok"), Reply(550, "", "no")]
    with pytest.raises(ReplyFault) as caught:
        machine.next()
    assert "garbage" in str(caught.value)


def test_fault_shows_no_raw_control_characters() -> None:
    with pytest.raises(ReplyFault) as caught:
        read(b"\x1b]0;owned\x07\r\n")
    assert str(caught.value).isprintable()


def test_lines_of_finished_replies_do_not_count_against_the_next() -> None:
    two = b"250-" + b"x" * 60 + b"\r\n250 y\r\n"
    assert len(read(two * 20)) == 20


def test_cleared_reader_knows_nothing_of_what_came_before() -> None:
    machine = reader()
    machine.feed(b"250-half\r\n250-a re")
    assert machine.next() is None
    machine.clear()
    machine.feed(b"550 new\r\n")
    assert machine.next() == Reply(550, "", "new")


TEXTS = st.lists(
    st.binary(max_size=30).filter(lambda raw: b"\n" not in raw and not raw.endswith(b"\r")), min_size=1, max_size=5
)
REPLIES = st.lists(st.tuples(st.integers(200, 599), TEXTS), min_size=1, max_size=6)


@given(REPLIES, st.data())
def test_any_replies_in_any_pieces_are_read_as_they_were_said(
    said: list[tuple[int, list[bytes]]], data: st.DataObject
) -> None:
    wire = b""
    for code, texts in said:
        for text in texts[:-1]:
            wire += b"%d-%b\r\n" % (code, text)
        wire += b"%d %b\r\n" % (code, texts[-1])
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=10)))
    pieces = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert read(*pieces) == [parsed(code, texts) for code, texts in said]


@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from([b"250-", b"250 ok\r\n", b"\n", b"550-x\r\n"]))))
def test_garbage_never_grows_what_is_held(pieces: list[bytes]) -> None:
    machine = reader()
    try:
        for piece in pieces:
            machine.feed(piece)
            while machine.next():
                pass
            assert len(machine._buffer) <= MAX_LINE
            assert len(machine._lines) <= MAX_LINES and sum(map(len, machine._lines)) <= MAX_BYTES
    except ReplyFault as fault:
        assert str(fault).isprintable()
