"""Figures to read: medians, ratios, percentiles, and the table of what was measured against what must be reached."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Comparison:
    """One row of both systems: a rate for each round (messages a second), and what else was seen of each."""

    key: str
    work: str
    postfix: tuple[float, ...]
    relayd: tuple[float, ...]
    must: float = 0.0
    goal: float = 0.0
    cpu: tuple[float, float] = (0.0, 0.0)
    memory: tuple[float, float] = (0.0, 0.0)
    note: str = ""
    valid: bool = True

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: neighbours in time, so that the machine's moods cancel out."""
        return ratio(self.relayd, self.postfix)

    @property
    def met(self) -> bool:
        return self.valid and self.ratio >= self.must


@dataclass(frozen=True)
class Line:
    """One figure of relayd's alone, or several in words; ``met`` is None where nothing must be reached."""

    key: str
    work: str
    figure: str
    must: str = ""
    met: bool | None = None
    values: dict[str, float] = field(default_factory=dict)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the pairs' ratios.  Raises ValueError if they are not pairs."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many per cent of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def rendered(comparisons: Sequence[Comparison], lines: Sequence[Line]) -> str:
    """All of it as text."""
    head = ("row", "work", "Postfix", "relayd", "ratio", "must", "goal", "CPU us/message", "memory MB", "")
    rows = [head, *map(_cells, comparisons)]
    parts = [_columns(rows)] if comparisons else []
    if lines:
        parts.append(_columns([("row", "work", "figure", "must", ""), *map(_line_cells, lines)]))
    return "\n\n".join(parts)


def _cells(row: Comparison) -> tuple[str, ...]:
    verdict = "" if not row.must else "met" if row.met else "MISSED"
    return (
        row.key,
        row.work,
        f"{median(row.postfix):,.0f}/s",
        f"{median(row.relayd):,.0f}/s",
        f"{row.ratio:.2f}",
        f"{row.must:.1f}" if row.must else "",
        f"{row.goal:.1f}" if row.goal else "",
        f"{row.cpu[0]:,.0f} : {row.cpu[1]:,.0f}",
        f"{row.memory[0]:,.0f} : {row.memory[1]:,.0f}",
        "; ".join(filter(None, (verdict, row.note))),
    )


def _line_cells(line: Line) -> tuple[str, ...]:
    verdict = "" if line.met is None else "met" if line.met else "MISSED"
    return (line.key, line.work, line.figure, line.must, verdict)


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
