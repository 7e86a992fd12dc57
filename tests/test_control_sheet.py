"""Tables as CSV: whatever made the file, its rows are found with their lines; no cell is a formula to a spreadsheet."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.control import sheet

COLUMNS = ("value", "reason", "evidence")


def read(text: str) -> list[tuple[int, dict[str, str]]]:
    return list(sheet.read(io.StringIO(text, newline=""), COLUMNS))


def write(*rows: dict[str, str], head: bool = True) -> str:
    out = io.StringIO()
    sheet.write(rows, COLUMNS, out, head=head)
    return out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "a@b.example,bounce,550 no such user\nc.example\n",
        "value,reason,evidence\na@b.example,bounce,550 no such user\nc.example,,\n",
        "Evidence,Address,REASON\r\n550 no such user,a@b.example,bounce\r\n,c.example,\r\n",
        '\ufeff"value";"reason";"evidence"\r\n"a@b.example";"bounce";"550 no such user"\r\n"c.example";"";""\r\n',
        "a@b.example , bounce, 550 no such user ,,,\n\n,,\nc.example",
    ],
    ids=["no head", "head", "head in another order", "what a spreadsheet saves", "untidy"],
)
def test_rows_are_read_whoever_made_the_file(text: str) -> None:
    rows = [{"value": "a@b.example", "reason": "bounce", "evidence": "550 no such user"}, {"value": "c.example"}]
    assert [row for _, row in read(text)] == rows


def test_lines_are_those_of_the_file() -> None:
    found = read('address,evidence\na@b.example,"two\nlines"\n\nc@d.example,x\n')
    assert found == [
        (3, {"value": "a@b.example", "evidence": "two\nlines"}),
        (5, {"value": "c@d.example", "evidence": "x"}),
    ]


def test_a_row_whose_cells_are_named_like_columns_is_no_head() -> None:
    assert read("address@value.example,value\n") == [(1, {"value": "address@value.example", "reason": "value"})]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "value,resaon\na@b.example,x\n",
            "line 1: there is no column 'resaon' (did you mean \"reason\"?); there are value,",
        ),
        ("a@b.example\na,b,c,d\n", "line 2: 4 cells are more than the columns value, reason, evidence"),
        ('a@b.example\n"a"b\n', "line 2: "),
        ('a@b.example\n"a', "line 2: unexpected end of data"),
        ("x" * 200_000, "line 1: field larger than"),
    ],
)
def test_what_is_no_table_is_refused_with_the_line(text: str, words: str) -> None:
    with pytest.raises(ValueError) as raised:
        read(text)
    assert words in str(raised.value)


def test_an_empty_file_has_no_rows() -> None:
    assert read("") == read("\n\n") == read("value\n") == []


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "'=", "''+"])
def test_a_cell_that_a_spreadsheet_would_compute_is_quoted(start: str) -> None:
    cell = f'{start}HYPERLINK("http://evil.example")'
    text = write({"value": f"{start}x@b.example", "reason": "", "evidence": cell}, head=False)
    assert [found[0] for found in next(csv.reader([text])) if found] == ["'", "'"]
    assert read(text) == [(1, {"value": f"{start}x@b.example", "evidence": cell})]


def test_no_cell_steers_a_terminal() -> None:
    assert write({"value": "a@b.example", "reason": "\x1b[2J", "evidence": "x"}) == (
        "value,reason,evidence\na@b.example,\\x1b[2J,x\n"
    )


_cells = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12).map(str.strip)
_row = st.fixed_dictionaries({"value": _cells.filter(bool), "reason": _cells, "evidence": _cells})


@given(st.lists(_row))
def test_what_is_written_is_read_again(rows: list[dict[str, str]]) -> None:
    assert [row for _, row in read(write(*rows))] == [
        {name: cell for name, cell in row.items() if cell} for row in rows
    ]


@given(st.text())
def test_any_text_is_rows_or_a_value_error(text: str) -> None:
    try:
        found = read(text)
    except ValueError:
        return
    assert all(set(row) <= set(COLUMNS) and all(row.values()) for _, row in found)
