import time
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.address import AddressError, domain_of
from relayd.message.headers import addresses, fields, split, survey, unfold, without

HEAD = (
    b"From: A <a@x.example>\r\nTo: b@y.example,\r\n\tc@z.example\r\n"
    b"BCC: d@w.example\r\n e@v.example\r\nSubject: s\r\n\r\n"
)


def test_split_keeps_the_empty_line_with_the_head() -> None:
    assert split(b"A: 1\r\n\r\nbody\r\n\r\nmore") == (b"A: 1\r\n\r\n", b"body\r\n\r\nmore")


def test_a_message_that_begins_with_an_empty_line_has_no_fields() -> None:
    assert split(b"\r\nbody") == (b"\r\n", b"body")


def test_a_message_of_fields_only_has_no_body() -> None:
    assert split(b"A: 1\r\n") == (b"A: 1\r\n", b"")


@pytest.mark.parametrize("content", [b"just text\r\n\r\nA: 1\r\n", b" folded: x\r\n\r\n", b": x\r\n", b"", b"text"])
def test_a_message_that_does_not_begin_with_a_field_is_all_body(content: bytes) -> None:
    assert split(content) == (b"", content)


@given(st.binary() | st.lists(st.sampled_from([b"A: b", b"\r\n", b" x", b":", b"\n", b"."])).map(b"".join))
def test_split_loses_nothing(content: bytes) -> None:
    assert b"".join(split(content)) == content


def test_fields_come_in_order_with_their_folds() -> None:
    assert [name for name, _ in fields(HEAD)] == [b"From", b"To", b"BCC", b"Subject"]
    assert fields(HEAD)[1][1] == b" b@y.example,\r\n\tc@z.example"


def test_a_dropped_field_goes_with_its_folds_and_nothing_else_changes() -> None:
    assert without(HEAD, ("bcc",)) == HEAD.replace(b"BCC: d@w.example\r\n e@v.example\r\n", b"")


def test_dropping_the_last_field_leaves_the_empty_line() -> None:
    assert without(b"Bcc: x\r\n\r\n", ("bcc",)) == b"\r\n"


def test_a_name_is_dropped_only_whole() -> None:
    head = b"Bcc-Note: x\r\nX-Bcc: y\r\n\r\n"
    assert without(head, ("bcc",)) == head


@given(st.lists(st.tuples(st.sampled_from(["A", "B", "bCc"]), st.text("xy \t:", max_size=9))))
def test_without_drops_just_what_was_named(made: list[tuple[str, str]]) -> None:
    head = "".join(f"{n}: {v}\r\n" for n, v in made).encode() + b"\r\n"
    kept = "".join(f"{n}: {v}\r\n" for n, v in made if n != "bCc").encode() + b"\r\n"
    assert without(head, ("bcc",)) == kept


def test_survey_reads_what_submission_wants() -> None:
    head = b"Received: 1\r\nRECEIVED: 2\r\nFrom: a@x.example, B <b@x.example>\r\nMessage-Id:\r\n <1@x>\r\n"
    found = survey(head)
    assert found.received == 2
    assert found.froms == ("a@x.example", "b@x.example")
    assert (found.message_id, found.steering) == ("<1@x>", ())
    assert b"message-id" in found.names


def test_survey_hands_on_the_headers_that_steer_as_they_are() -> None:
    head = b"X-Track-ID: 1\r\nX-Mailer: m\r\nx-relayd-TAG :\r\n a\r\nX-Relayd-Tag: b\r\nX-Relayd-What: c\r\n\r\n"
    assert survey(head).steering == (
        (b"x-track-id", b" 1"),
        (b"x-relayd-tag", b"\r\n a"),
        (b"x-relayd-tag", b" b"),
        (b"x-relayd-what", b" c"),
    )


def test_from_fields_are_counted_and_the_first_is_read() -> None:
    found = survey(b"From: a@x.example\r\nfrom : b@y.example\r\n\r\n")
    assert (found.froms, found.from_fields) == (("a@x.example",), 2)


def test_a_second_sender_field_counts_as_one_that_cannot_be_read() -> None:
    assert survey(b"Sender: a@x.example\r\nSENDER: b@y.example\r\n\r\n").senders == ("a@x.example", "")


@pytest.mark.parametrize("value", [b" " * 8000 + b"\x01", b" " * 8000 + b'"' * 100, b"a@" * 4000])
def test_a_header_section_full_of_hostile_address_lists_is_read_in_no_time(value: bytes) -> None:
    head = b"".join(name + value + b"\r\n" for name in (b"From:", b"Sender:") for _ in range(30)) + b"\r\n"
    before = time.process_time()
    survey(head)
    assert time.process_time() - before < 0.5  # as one field each; field by field it was seconds


def test_what_goes_into_records_cannot_move_a_terminal() -> None:
    assert survey(b"Message-ID: <\x1b[2J@x>\r\n\r\n").message_id == "<\\x1b[2J@x>"


def test_what_is_long_is_cut() -> None:
    assert len(survey(b"Message-ID: " + b"m" * 5000 + b"\r\n\r\n").message_id) == 998


@pytest.mark.parametrize("value", [b"", b"  ", b"(" * 5000, b"a@x.example, " * 10000])
def test_an_address_list_that_cannot_be_read_is_there_but_nobody(value: bytes) -> None:
    assert addresses(value) == [""]


@given(st.binary(max_size=300))
def test_any_bytes_can_be_surveyed(head: bytes) -> None:
    survey(b"From: " + head)


@pytest.mark.parametrize(
    "head", [b"A" * 500_000, b"A:" + b"\r\n x" * 120_000, b"A: b\n" * 100_000, b"A:" + b"\r" * 400_000]
)
def test_a_hostile_head_is_read_in_no_time(head: bytes) -> None:
    began = time.process_time()
    survey(head)
    without(head, ("bcc",))
    assert time.process_time() - began < 2


_PIECES = st.sampled_from(
    [
        "a@b.example",
        "<a@b.example>",
        "Foo",
        '"Foo, Bar"',
        " ",
        "\t",
        ",",
        "(c)",
        ".",
        "=?utf-8?q?x?=",
        "я",
        "<",
        ">",
        "@",
        "'",
    ]
)


@given(st.lists(_PIECES, max_size=8).map("".join))
def test_the_quick_way_to_read_one_address_agrees_with_the_library(value: str) -> None:
    def known(address: str) -> str:
        try:
            domain_of(address)
        except AddressError:
            return ""  # as the docstring says: one that cannot be read
        return address

    assert addresses(value.encode()) == ([known(a) for _, a in getaddresses([unfold(value.encode())])] or [""])


def test_a_hostile_address_field_takes_no_time() -> None:
    began = time.process_time()
    addresses(b" " * 4000 + b"x" + b" \t" * 2000)
    addresses(b"a." * 4000)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("domain", ["-m\u00fcnchen-.example", "\u00e9..example", "\u2028x.example", "x\u202e.example"])
def test_an_author_whose_domain_is_none_is_there_but_nobody(domain: str) -> None:
    assert addresses(f" Anna <anna@{domain}>".encode()) == [""]
