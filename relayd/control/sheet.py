"""Tables as CSV files: read from whoever made them, written for whatever opens them.

In: lines of text and the names of the columns.  Out: rows by column, with their line numbers; and back.  A spreadsheet
takes cells that begin with = + - @ for formulas: they are written with ' before them, which is taken off in reading.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TextIO

from relayd import notation
from relayd.reply import printable

# Any number of ' before them, so that a cell that has ' there of its own comes back as it was.
_FORMULA = re.compile(r"'*[=+@\t\r-]")
_GUARDED = re.compile(r"'+[=+@\t\r-]")


def read(lines: Iterable[str], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, filled cells) of each row.  Cells are in the order of the columns, or in that of a first row that
    names them, where "address" will do for the first column.  They are parted by commas or semicolons.

    Raises ValueError with the line number.
    """
    lines = iter(lines)
    first = next(lines, "").removeprefix("\ufeff")
    delimiter = ";" if first.count(";") > first.count(",") else ","
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    names: Sequence[str] = ()
    try:
        for found in reader:
            cells = [_plain(cell.strip()) for cell in found]
            while cells and not cells[-1]:
                cells.pop()
            if not cells:
                continue
            if not names:
                head = _head(cells, columns)
                names = head or columns
                if head:
                    continue
            if len(cells) > len(names):
                raise ValueError(f"{len(cells)} cells are more than the columns {', '.join(names)}")
            yield reader.line_num, {name: cell for name, cell in zip(names, cells, strict=False) if cell}
    except (csv.Error, ValueError) as error:
        raise ValueError(f"line {reader.line_num or 1}: {error}") from None


def _head(cells: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns that a first row names; none if it is a row like the others."""
    names = [columns[0] if cell.lower() == "address" else cell.lower() for cell in cells]
    if columns[0] not in names or any(set(name) & set("@.*?") for name in names):
        return []
    for name in names:
        if name not in columns:
            near = notation.nearest(name, columns)
            raise ValueError(f"there is no column {printable(name, 40)!r}{near}; there are {', '.join(columns)}")
    return names


def write(rows: Iterable[Mapping[str, str]], columns: Sequence[str], out: TextIO, *, head: bool) -> None:
    """Writes rows, with ``head`` below the names of the columns; what could steer a terminal as \\xNN."""
    writer = csv.writer(out, lineterminator="\n")
    if head:
        writer.writerow(columns)
    writer.writerows([_guarded(printable(row[name])) for name in columns] for row in rows)


def _guarded(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _plain(cell: str) -> str:
    return cell[1:] if _GUARDED.match(cell) else cell
