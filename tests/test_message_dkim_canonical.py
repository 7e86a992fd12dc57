import base64
from hashlib import sha256
from itertools import pairwise

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st

from relayd.message.dkim import BodyHash
from relayd.message.dkim.canonical import SIGNED, Canonicalization, chosen

PIECES = [b" ", b"\t", b"\r\n", b"\r", b"\n", b"a", b"b.", b"  ", b" \r\n", b"\r\n\r\n", b"\r\n\t\r\n", b"\xff", b"\0"]
BODIES = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join) | st.binary()
BOTH = pytest.mark.parametrize("form", ["simple", "relaxed"])


def hashed(form: Canonicalization, *chunks: bytes) -> bytes:
    hashing = BodyHash(form)
    for chunk in chunks:
        hashing.feed(chunk)
    return hashing.digest()


def cut(body: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(borders)]


def as_dkimpy(form: Canonicalization, body: bytes) -> bytes:
    """With the final CRLF that a body has once it was sent."""
    sent = body if not body or body.endswith(b"\r\n") else body + b"\r\n"
    canonical: bytes = (Relaxed if form == "relaxed" else Simple).canonicalize_body(sent)
    return sha256(canonical).digest()


@BOTH
@given(body=BODIES, places=st.lists(st.integers(0, 500), max_size=12))
def test_any_body_in_any_chunks_hashes_as_dkimpy_has_it(form: Canonicalization, body: bytes, places: list[int]) -> None:
    assert hashed(form, *cut(body, places)) == as_dkimpy(form, body)


@BOTH
@given(body=BODIES)
def test_octet_by_octet_is_the_same_as_at_once(form: Canonicalization, body: bytes) -> None:
    assert hashed(form, *(body[i : i + 1] for i in range(len(body)))) == hashed(form, body)


@BOTH
@given(first=BODIES, rest=BODIES)
def test_a_digest_taken_on_the_way_changes_nothing(form: Canonicalization, first: bytes, rest: bytes) -> None:
    hashing = BodyHash(form)
    hashing.feed(first)
    assert hashing.digest() == hashed(form, first)
    hashing.feed(rest)
    assert hashing.digest() == hashed(form, first + rest)


@pytest.mark.parametrize(
    ("form", "digest"),
    [
        ("simple", "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="),
        ("relaxed", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="),
    ],
)
@pytest.mark.parametrize("chunks", [[], [b""], [b"\r\n"], [b"\r\n\r", b"\n\r\n"]])
def test_a_body_of_empty_lines_is_the_empty_body_of_rfc_6376(
    form: Canonicalization, digest: str, chunks: list[bytes]
) -> None:
    assert hashed(form, *chunks) == base64.b64decode(digest)


CASES: list[tuple[Canonicalization, bytes, bytes]] = [
    ("relaxed", b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
    ("simple", b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n"),
    ("relaxed", b"no end", b"no end\r\n"),
    ("relaxed", b"no end \t", b"no end\r\n"),
    ("simple", b"no end ", b"no end \r\n"),
    ("relaxed", b"x\r\n \t\r\n\t\r\n", b"x\r\n"),
    ("simple", b"x\r\n \r\n\r\n", b"x\r\n \r\n"),
    ("relaxed", b" \t \r\n", b""),
    ("relaxed", b"\r\n\r\nx", b"\r\n\r\nx\r\n"),
    ("relaxed", b"a \r b \n\r\n\r\n", b"a \r b \n\r\n"),
    ("simple", b"a\r", b"a\r\r\n"),
    ("relaxed", b"a\r\n \r", b"a\r\n \r\r\n"),
    ("simple", b"\n\r\n\r\n", b"\n\r\n"),
    ("simple", b"\r\r\n\r\n", b"\r\r\n"),
]


@pytest.mark.parametrize(("form", "body", "canonical"), CASES)
def test_the_canonical_body_is(form: Canonicalization, body: bytes, canonical: bytes) -> None:
    for at in range(len(body) + 1):
        assert hashed(form, body[:at], body[at:]) == sha256(canonical).digest()


@BOTH
def test_empty_lines_in_great_number_count_once_something_follows(form: Canonicalization) -> None:
    lines = b"\r\n" * 10_001
    assert hashed(form, b"x", lines, lines, b"y", b"z") == sha256(b"x" + lines + lines + b"yz\r\n").digest()
    assert hashed(form, b"x", lines, lines) == sha256(b"x\r\n").digest()
    assert hashed(form, lines, b"\r") == sha256(lines + b"\r\r\n").digest()


@BOTH
def test_what_is_held_back_does_not_grow_with_the_white_space_that_comes(form: Canonicalization) -> None:
    hashing = BodyHash(form)
    for chunk in (b" " * 5000, b"\r\n" * 5000, b"\t" * 5000, b" \r"):
        hashing.feed(chunk)
        assert len(hashing._tail) <= 2


def test_relaxed_fields_are_unfolded_compressed_and_stripped() -> None:
    head = b"SUBJECT \t:\t a  \t b\r\n\t c \r\n \r\nfrom:x@a.example\r\n\r\n"
    assert chosen(head, "relaxed")[1] == b"from:x@a.example\r\nsubject:a b c\r\n"


def test_simple_fields_stay_as_they_are() -> None:
    head = b"SUBJECT :\t a  b\r\n\t c \r\nfrom:x@a.example\r\n\r\n"
    assert chosen(head, "simple")[1] == b"from:x@a.example\r\nSUBJECT :\t a  b\r\n\t c \r\n"


@BOTH
def test_instances_of_a_field_are_taken_from_the_bottom_up(form: Canonicalization) -> None:
    names, data = chosen(b"cc:1\r\nfrom:f\r\ncc:2\r\nCC:3\r\n\r\n".lower(), form)
    assert data == b"from:f\r\ncc:3\r\ncc:2\r\ncc:1\r\n"
    assert b":cc:cc:cc:" in names


def names_of(head: bytes) -> list[bytes]:
    return chosen(head, "relaxed")[0].replace(b"\r\n ", b"").split(b":")


def test_guarded_fields_are_named_once_more_than_they_are_there() -> None:
    here = b"".join(b"%b: x\r\n" % name for name, _ in SIGNED)
    for head, count in ((b"\r\n", 0), (here + b"\r\n", 1), (here + here + b"\r\n", 2)):
        names = names_of(head)
        assert {name: names.count(name) for name, _ in SIGNED} == {name: count + more for name, more in SIGNED}


def test_what_is_no_field_and_fields_that_change_on_the_way_are_not_signed() -> None:
    head = b"Return-Path: <a@b.example>\r\nReceived: x\r\nfrom\r\nX-Other: y\r\nBcc: z\r\n\r\n"
    assert chosen(head, "relaxed")[1] == b""


@pytest.mark.parametrize("times", [1, 7, 300])
def test_names_are_folded_into_lines(times: int) -> None:
    head = b"To: x\r\nContent-Transfer-Encoding: x\r\nReferences: x\r\n" * times
    lines = (b" h=" + chosen(head, "relaxed")[0] + b";").split(b"\r\n")
    assert max(map(len, lines)) <= 78
    assert all(line.startswith(b" ") for line in lines)
    assert names_of(head).count(b"references") == times
