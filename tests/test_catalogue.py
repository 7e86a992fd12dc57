"""One table holds what relayd says of itself, and the documents show it as it is."""

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from relayd import catalogue
from relayd.catalogue import TABLE, Said
from relayd.reply import Reply

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "relayd").rglob("*.py"))
# The sandbox is somebody else's server; what delivery says of a broken look-up goes into records and reports.
OTHERS = ("catalogue.py", "sandbox.py", "delivery/courier.py")

ENTRIES = {name: value for name, value in vars(catalogue).items() if isinstance(value, Said | Reply)}
ROWS = [said for replies in TABLE.values() for said in replies]


def trees(skip: tuple[str, ...]) -> dict[str, ast.Module]:
    return {name: tree for name, tree in all_trees().items() if name not in skip}


@cache
def all_trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(ROOT / "relayd")): ast.parse(path.read_text("utf-8")) for path in FILES}


def test_no_other_file_makes_a_reply_of_its_own() -> None:
    made = [
        f"{name}:{node.lineno}"
        for name, tree in trees(OTHERS).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Reply"
        if any(isinstance(given, ast.Constant) for given in node.args[:1])
        or any(given.arg == "code" for given in node.keywords)
    ]
    assert made == []


def test_every_entry_is_said_somewhere() -> None:
    said = {
        node.attr
        for tree in trees(("catalogue.py",)).values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "catalogue"
    }
    assert set(ENTRIES) - said == set()


def test_every_row_of_the_table_has_a_name() -> None:
    assert Counter((e.code, e.enhanced, e.text) for e in ENTRIES.values()) == Counter(
        (row.code, row.enhanced, row.text) for row in ROWS
    )


@pytest.mark.parametrize("said", ROWS, ids=lambda said: f"{said.code} {said.text[:40]}")
def test_a_row_is_fit_to_be_sent(said: Said) -> None:
    assert said.when and "|" not in said.text + said.when + said.advice
    assert said.text.isascii() or "«From»" in said.text
    assert not said.enhanced or said.enhanced[0] == str(said.code)[0]
    # RFC 2034 section 4: all but the banner, the answer to EHLO and HELO, and 3yz carry one.
    assert said.enhanced or said.code in (220, 250, 334, 354)
    assert len(said.text) < 450  # with its words no line is longer than RFC 5321 section 4.5.3.1.5 allows


def test_from_goes_out_as_utf_8() -> None:
    expected = "550 5.6.0 Message rejected: Missing required «From» header\r\n".encode()
    assert catalogue.NO_FROM.encode() == expected and b"\xc2\xabFrom\xc2\xbb" in expected


def test_words_that_hold_braces_are_said_as_they_are() -> None:
    assert catalogue.SENDER_NOT_ALLOWED("{0}@x.example").text == "Sender <{0}@x.example> is not allowed for this login"


def test_the_page_of_replies_is_up_to_date() -> None:
    assert (ROOT / "docs" / "replies.md").read_text("utf-8") == catalogue.page(), "make docs writes it anew"
