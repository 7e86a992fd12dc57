from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.smtp.framing import ChunkReader, DataReader, DotStuffer, dot_stuff

# What matters at borders, more often than chance would have it.
WIRE = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"bc", b"\r\n.", b"\n."]), max_size=14).map(
    b"".join
)
CLEAN = st.lists(st.sampled_from([b"\r\n", b".", b"a", b"bc", b"\r\n.", b".\r\n", b"\r\n.\r\n"]), max_size=14).map(
    b"".join
)
CUTS = st.lists(st.integers(1, 4), max_size=40)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    out = []
    for cut in cuts:
        out.append(data[:cut])
        data = data[cut:]
    return [*out, data]


def read_all(reader: DataReader, parts: list[bytes]) -> tuple[bytes, bool, bytes]:
    """Content, whether the end came, and everything behind it."""
    content, ended, rest = b"", False, b""
    for part in parts:
        if ended:
            rest += part
        else:
            got, ended, rest = reader.feed(part)
            content += got
    return content, ended, rest


def slow_lines(raw: bytes) -> list[tuple[bytes, bytes]]:
    """(line, its end) for each of CRLF, CR and LF, byte by byte."""
    lines, line, i = [], b"", 0
    while i < len(raw):
        end = b"\r\n" if raw[i : i + 2] == b"\r\n" else raw[i : i + 1]
        if end in (b"\r\n", b"\r", b"\n"):
            lines.append((line, end))
            line = b""
        else:
            line += end
        i += len(end)
    return [*lines, (line, b"")]


def slow_content(wire: bytes, bare: str) -> bytes | None:
    """The obvious reading of complete content on the wire; None for a fault."""
    before, out = b"\r\n", b""
    for line, end in slow_lines(wire):
        if end not in (b"\r\n", b"") and bare == "reject":
            return None
        if line.startswith(b"." if before == b"\r\n" else b".."):
            line = line[1:]
        out += line + (b"\r\n" if end else b"")
        before = end
    return out


@given(WIRE, WIRE, CUTS, st.sampled_from(["reject", "normalise"]))
def test_data_reads_as_the_obvious_reader_does_in_any_pieces(
    wire: bytes, behind: bytes, cuts: list[int], bare: Literal["reject", "normalise"]
) -> None:
    stream = wire + b"\r\n.\r\n" + behind
    at = (b"\r\n" + stream).index(b"\r\n.\r\n")
    expected = slow_content(stream[:at], bare)
    reader = DataReader(0, bare)
    content, ended, rest = read_all(reader, pieces(stream, cuts))
    assert ended and rest == stream[at + 3 :]
    if expected is None:
        assert reader.fault == "bare"
    else:
        assert not reader.fault and content == expected and reader.size == len(expected)


@given(WIRE, CUTS)
def test_data_without_its_end_never_ends(wire: bytes, cuts: list[int]) -> None:
    wire = wire.replace(b"\r\n.\r\n", b"")
    if (b"\r\n" + wire).find(b"\r\n.\r\n") < 0:
        assert not read_all(DataReader(0, "normalise"), pieces(wire, cuts))[1]


@given(CLEAN, CUTS)
def test_stuffed_content_comes_back_as_it_was(content: bytes, cuts: list[int]) -> None:
    stuffer = DotStuffer()
    wire = b"".join(map(stuffer.feed, pieces(content, cuts))) + stuffer.finish()
    assert wire == dot_stuff(content) + b".\r\n"
    back, ended, rest = read_all(DataReader(0), [wire])
    assert ended and rest == b""
    assert back == (content if not content or content.endswith(b"\r\n") else content + b"\r\n")


@given(CLEAN)
def test_stuffed_content_holds_no_end(content: bytes) -> None:
    assert b"\r\n.\r\n" not in b"\r\n" + dot_stuff(content)


def test_stuffer_is_ready_for_the_next_message() -> None:
    stuffer = DotStuffer()
    assert stuffer.feed(b".a") + stuffer.finish() == b"..a\r\n.\r\n"
    assert stuffer.feed(b".b\r\n") + stuffer.finish() == b"..b\r\n.\r\n"
    assert stuffer.feed(b"") + stuffer.finish() == b".\r\n"


def test_dot_at_the_very_beginning_ends_an_empty_message() -> None:
    assert DataReader(0).feed(b".\r\nQUIT\r\n") == (b"", True, b"QUIT\r\n")


def test_content_is_given_out_as_it_comes() -> None:
    assert DataReader(0).feed(b"Subject: x\r\n\r\nhel")[0] == b"Subject: x\r\n\r\nhel"


def test_fault_is_remembered_and_the_end_still_found() -> None:
    reader = DataReader(0)
    assert reader.feed(b"good\r\nbad\nworse\r\n") == (b"", False, b"")
    assert reader.fault == "bare"
    assert reader.feed(b"good again\r\n.\r\nX") == (b"", True, b"X")


@pytest.mark.parametrize("bare", ["reject", "normalise"])
def test_nul_is_a_fault(bare: Literal["reject", "normalise"]) -> None:
    reader, chunks = DataReader(0, bare), ChunkReader(0, bare)
    reader.feed(b"a\r\n\0.\r\n")
    chunks.begin(6, True)
    chunks.feed(b"a\r\n\0.\r\n")
    assert reader.fault == chunks.fault == "nul"


def test_limit_counts_content_without_its_dots() -> None:
    for limit, fault in ((5, ""), (4, "size")):
        reader = DataReader(limit)
        reader.feed(b"..ab\r\n.\r\n")
        assert reader.fault == fault


def test_over_the_limit_the_end_is_still_found_and_nothing_is_kept() -> None:
    reader = DataReader(10)
    for _ in range(100):
        assert reader.feed(b"x" * 1000)[0] == b""
    assert reader.feed(b"\r\n.\r\nQUIT") == (b"", True, b"QUIT")


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b"a\n.\r\nb\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\n.\nb\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\n..b\r\n", b"a\r\n.b\r\n"),
        (b"a\n.b\r\n", b"a\r\n.b\r\n"),
        (b"a\rb\r\n", b"a\r\nb\r\n"),
        (b"a\r\r\nb\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\r\n..\nb\r\n", b"a\r\n.\r\nb\r\n"),
    ],
)
def test_bare_ends_become_crlf_and_a_lone_dot_behind_one_is_content(wire: bytes, content: bytes) -> None:
    assert DataReader(0, "normalise").feed(wire + b".\r\n") == (content, True, b"")


@given(WIRE, CUTS, CUTS, st.sampled_from(["reject", "normalise"]))
def test_chunks_are_read_alike_wherever_they_are_cut(
    wire: bytes, sizes: list[int], cuts: list[int], bare: Literal["reject", "normalise"]
) -> None:
    reader, content = ChunkReader(0, bare), b""
    chunks = pieces(wire, sizes)
    for n, chunk in enumerate(chunks):
        reader.begin(len(chunk), last=n == len(chunks) - 1)
        parts = pieces(chunk, cuts)
        for part in parts:
            got, _, rest = reader.feed(part)
            content += got
            assert rest == b""
        assert not reader.hungry
    bare_is_there = any(end in (b"\r", b"\n") for _, end in slow_lines(wire))
    if bare_is_there and bare == "reject":
        assert reader.fault == "bare"
    else:
        assert not reader.fault
        assert content == b"".join(line + (b"\r\n" if end else b"") for line, end in slow_lines(wire))


def test_chunk_takes_its_bytes_and_no_more() -> None:
    reader = ChunkReader(0)
    reader.begin(3, last=False)
    assert reader.feed(b"ab") == (b"ab", False, b"")
    assert reader.feed(b"cQUIT\r\n") == (b"c", True, b"QUIT\r\n")
    reader.begin(0, last=True)
    assert reader.feed(b"QUIT\r\n") == (b"", True, b"QUIT\r\n")


def test_dots_in_chunks_stay() -> None:
    reader = ChunkReader(0)
    reader.begin(10, last=True)
    assert reader.feed(b"a\r\n.\r\n..\r\n")[0] == b"a\r\n.\r\n..\r\n"


def test_chunks_over_the_limit_are_a_fault_but_counted_off() -> None:
    reader = ChunkReader(4)
    reader.begin(6, last=True)
    assert reader.feed(b"abcdefQUIT") == (b"", True, b"QUIT")
    assert reader.fault == "size"
