"""Entries: values are kept in the form in which they are compared, and what makes no sense is refused by its field."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.errors import InputError
from relayd.suppression.entries import (
    COLUMNS,
    KINDS,
    MAX_EVIDENCE,
    REASONS,
    Entry,
    covering,
    entry,
    from_row,
    normal,
    to_row,
)

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [
        ("Ivan.Petrov@Mail.Example", "address", "ivan.petrov@mail.example"),
        (" ivan@mail.example ", "address", "ivan@mail.example"),
        ('"ivan"@mail.example', "address", "ivan@mail.example"),
        ("Иван@Почта.рф", "address", "иван@xn--80a1acny.xn--p1ai"),
        ("Spam.Example.", "domain", "spam.example"),
        ("@spam.example", "domain", "spam.example"),
        ("почта.рф", "domain", "xn--80a1acny.xn--p1ai"),
        ("ru", "domain", "ru"),
        ("*@*.Spam.example", "pattern", "*@*.spam.example"),
        ("no?reply@*", "pattern", "no?reply@*"),
    ],
)
def test_a_value_is_what_it_looks_like_in_the_form_that_is_compared(value: str, kind: str, kept: str) -> None:
    assert normal(value) == (kind, kept)


def test_an_address_that_looks_like_a_pattern_is_one_if_that_is_said() -> None:
    assert normal("What?@mail.example", "address") == ("address", "what?@mail.example")


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("", None, "is not a host name"),
        ("a b@mail.example", None, "Syntax error"),
        ("ivan@", None, "Address must be"),
        ("postmaster", "address", "no domain"),
        ("spam example", None, "is not a host name"),
        ("a.b.c.d.e.f.example", None, "more than 6 parts"),
        ("*", None, "says too little"),
        ("a?b*cd", None, "says too little"),
        ("*@[10.0.0.1]", None, "is not a pattern"),
        ("*@почта.рф", None, "xn--"),
        ("* @mail.example", None, "is not a pattern"),
        ("*" * 255, None, "up to 254"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(value: str, kind: object, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        normal(value, kind)  # type: ignore[arg-type]
    assert raised.value.field == "value" and str(raised.value).isprintable()


def test_evidence_is_one_bounded_line_that_steers_no_terminal() -> None:
    made = entry("l", "a@b.example", reason="bounce", evidence=" 550\r\nno\x1b[2J such ", added=NOW, by="x\ny" * 60)
    assert made.evidence == r"550 no\x1b[2J such" and made.by.isprintable() and len(made.by) <= 64
    long = entry("l", "a@b.example", reason="bounce", evidence="x" * 5000, added=NOW, by="me")
    assert len(long.evidence) == MAX_EVIDENCE


def test_an_address_is_stopped_by_itself_its_domain_and_those_above() -> None:
    assert covering("a@x.mail.example") == [
        ("address", "a@x.mail.example"),
        ("domain", "x.mail.example"),
        ("domain", "mail.example"),
        ("domain", "example"),
    ]
    assert [value for _, value in covering("a@1.2.3.4.5.6.7.8")][1:3] == ["3.4.5.6.7.8", "4.5.6.7.8"]


def row(**cells: str) -> Entry:
    return from_row("l", {"value": "a@b.example", **cells}, reason="manual", now=NOW, by="me")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-31", 1_801_353_600),
        ("2027-01-31T03:00:00Z", 1_801_364_400),
        ("2027-01-31 03:00:00+03:00", 1_801_353_600),
        ("1801353600", 1_801_353_600),
        ("", 0),
        (" ", 0),
    ],
)
def test_times_are_iso_8601_or_unix_seconds(text: str, seconds: int) -> None:
    assert row(expires=text).expires == seconds


def test_a_row_needs_no_more_than_a_value() -> None:
    assert row() == Entry("l", "address", "a@b.example", "manual", "", NOW, 0, "me")


@pytest.mark.parametrize(
    ("cells", "field", "words"),
    [
        ({"expires": "2020-01-01"}, "expires", "is over already"),
        ({"expires": "1801353600000"}, "expires", "is no time"),
        ({"expires": "-5"}, "expires", "is no time"),
        ({"expires": "9" * 5000}, "expires", "is no time"),
        ({"expires": "soon"}, "expires", "write 2027-01-31T12:00:00Z"),
        ({"added": "1901-01-01"}, "added", "is no time"),
        ({"reason": "spam"}, "reason", "none of unsubscribe, complaint"),
        ({"kind": "mail"}, "kind", "none of address, domain, pattern"),
        ({"resaon": "bounce"}, "resaon", 'did you mean "reason"'),
        ({"value": "no body"}, "value", "is not a host name"),
    ],
)
def test_a_cell_that_makes_no_sense_is_refused_by_its_column(cells: dict[str, str], field: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        row(**cells)
    assert raised.value.field == field


def test_a_row_without_a_value_is_refused() -> None:
    with pytest.raises(InputError, match="value: is missing"):
        from_row("l", {"reason": "bounce"}, reason="manual", now=NOW, by="me")


@given(
    st.sampled_from(["a@b.example", "=1+1@b.example", "b.example", "*@b.example", '"a, b"@c.example']),
    st.sampled_from(REASONS),
    st.text(max_size=600),
    st.one_of(st.just(0), st.integers(NOW + 1, 200_000_000_000)),
    st.integers(1, NOW),
)
def test_what_is_exported_comes_in_as_it_was(value: str, reason: str, evidence: str, expires: int, added: int) -> None:
    made = entry("l", value, reason=reason, evidence=evidence, added=added, expires=expires, by="me")  # type: ignore[arg-type]
    cells = to_row(made)
    assert tuple(cells) == COLUMNS and cells["kind"] in KINDS
    assert from_row("l", cells, reason="manual", now=NOW, by="me") == made
