"""xtext, the encoding of DSN parameters."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.smtp import xtext


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("", ""), ("a@b.example", "a@b.example"), ("a+b=c d", "a+2Bb+3Dc+20d"), ("\t", "+09"), ("é", "+C3+A9")],
)
def test_text_is_encoded(text: str, encoded: str) -> None:
    assert xtext.encode(text) == encoded


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_what_was_encoded_is_decoded(text: str) -> None:
    encoded = xtext.encode(text)
    assert xtext.decode(encoded) == text
    assert re.fullmatch("[!-<>-~]*", encoded)  # one word of a command line, and no "="


@pytest.mark.parametrize(
    "wrong", ["a b", "a=b", "+", "+4", "+zz", "+2b", "é", "a+0D+0Ab", "+00", "+7F", "+FF", "a\r\n"]
)
def test_what_is_not_xtext_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError):
        xtext.decode(wrong)
