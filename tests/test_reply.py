import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.reply import Reply, parsed, printable


def test_every_line_carries_both_codes() -> None:
    assert Reply(250, "2.1.0", "one\ntwo").encode() == b"250-2.1.0 one\r\n250 2.1.0 two\r\n"


def test_a_reply_without_an_enhanced_code_is_plain() -> None:
    assert Reply(354, "", "go on").encode() == b"354 go on\r\n"


def test_the_first_digit_says_what_it_means() -> None:
    assert (Reply(250).positive, Reply(250).transient, Reply(250).permanent) == (True, False, False)
    assert (Reply(451).positive, Reply(451).transient, Reply(451).permanent) == (False, True, False)
    assert (Reply(554).positive, Reply(554).transient, Reply(554).permanent) == (False, False, True)


def test_the_enhanced_code_is_taken_off_every_line() -> None:
    assert parsed(550, [b"5.1.1 no such", b"5.1.1 user"]) == Reply(550, "5.1.1", "no such\nuser")


def test_an_enhanced_code_of_another_class_is_only_text() -> None:
    assert parsed(450, [b"5.1.1 no"]) == Reply(450, "", "5.1.1 no")


@pytest.mark.parametrize("line", ["5.1.\u0661 x", "5.1.1x", "5.1", "5.1.1234 x", "5..1 x"])
def test_what_only_looks_like_an_enhanced_code_is_text(line: str) -> None:
    assert parsed(550, [line.encode()]) == Reply(550, "", line)


def test_a_line_that_is_only_an_enhanced_code() -> None:
    assert parsed(250, [b"2.0.0"]) == Reply(250, "2.0.0", "")


def test_a_bare_line_feed_in_a_line_begins_no_other_line() -> None:
    assert parsed(250, [b"one\ntwo"]).text == "one\\x0atwo"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b[2J", "\\x1b[2J"),
        (b"a\rb", "a\\x0db"),
        (b"\x00\x7f", "\\x00\\x7f"),
        ("\u202e".encode(), "\\x202e"),
        ("\u061c\u200f".encode(), "\\x61c\\x200f"),
        (b"\xff", "\\xff"),
        ("größe 日本".encode(), "größe 日本"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\xd800"),
    ],
)
def test_nothing_that_moves_a_terminal_is_printable(raw: bytes | str, shown: str) -> None:
    assert printable(raw) == shown


@given(st.one_of(st.binary(), st.text()), st.integers(1, 50))
def test_printable_is_bounded_and_can_be_encoded(raw: bytes | str, limit: int) -> None:
    text = printable(raw, limit)
    assert len(text) <= limit
    assert all(c in "\t\n" or ord(c) >= 0x20 for c in text)
    text.encode()


def test_a_reply_is_shown_in_one_line() -> None:
    assert str(Reply(550, "5.7.1", "no\nreally")) == "550 5.7.1 no / really"
