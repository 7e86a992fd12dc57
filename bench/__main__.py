"""``make bench``: relayd beside Postfix, row by row, interleaved; prints a table, writes .bench/last.json.

Exit code 0: every bar that was measured is met; 1: one is missed, or a row did not come to its end; 2: cannot run here.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import tools
from bench.processes import Failed
from bench.relay import ROOT
from bench.rows import FULL, ROWS, SHORT, Bench, Result
from bench.table import Comparison, Line, rendered

WORK = ROOT / ".bench"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line: ``short``, ``rows`` (keys in the table's order), ``rounds`` (0: as the form has it)."""
    listed = "\n".join(f"  {key}  {title}" for key, (title, _) in ROWS.items())
    parser = argparse.ArgumentParser(
        "make bench ARGS=...",
        description="Measures relayd beside Postfix on this machine.",
        epilog=f"rows:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--short", action="store_true", help="less of everything: under 3 minutes")
    parser.add_argument("--rows", type=_rows, default=list(ROWS), help="only these, such as 1,4,D")
    parser.add_argument("--rounds", type=int, default=0, help="interleaved rounds of each comparison")
    return parser.parse_args(argv)


def _rows(text: str) -> list[str]:
    wanted = text.upper().split(",")
    if unknown := [key for key in wanted if key not in ROWS]:
        raise argparse.ArgumentTypeError(f"there is no row {unknown[0]}: rows are {', '.join(ROWS)}")
    return [key for key in ROWS if key in wanted]


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A directory for this run on the checkout's disk, gone at the end, whatever ends the run.  Raises
    KeyboardInterrupt inside at SIGINT, SIGTERM or SIGHUP; a second one does not disturb the cleaning."""

    def stop(*_: Any) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, stop)
    WORK.mkdir(exist_ok=True)
    (WORK / ".gitignore").write_text("*\n")
    home = WORK / f"run{os.getpid()}"
    home.mkdir()
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    given = arguments()
    scale = SHORT if given.short else FULL
    if given.rounds:
        scale = dataclasses.replace(scale, rounds=given.rounds)
    try:
        unpacked = tools.prepare(WORK)
        for name in tools.make_users():
            print(f"made the system user or group {name}: Postfix does not start without")
        with workplace() as home:
            return _measured(Bench(unpacked, home, scale), given)
    except tools.Unavailable as fault:
        print(f"make bench: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: everything that was started is ended", file=sys.stderr)
        return 130


def _measured(bench: Bench, given: argparse.Namespace) -> int:
    results: list[Result] = []
    faults: list[str] = []
    for key in given.rows:
        title, measure = ROWS[key]
        print(f"row {key}: {title}", flush=True)
        begun = time.monotonic()
        try:
            results += measure(bench)
        except Exception as fault:
            # The other rows' minutes are not to be lost with this one.
            told = str(fault) if isinstance(fault, Failed) else repr(fault)
            faults.append(f"row {key}: {told}")
            print(f"  {told}", file=sys.stderr)
        print(f"  {time.monotonic() - begun:.0f} s", flush=True)
    comparisons = [row for row in results if isinstance(row, Comparison)]
    lines = [row for row in results if isinstance(row, Line)]
    print("\n" + rendered(comparisons, lines))
    _write(given, comparisons, lines, faults)
    bad = [row for row in comparisons if row.must and not row.met] + [row for row in lines if row.met is False]
    return 1 if bad or faults else 0


def _write(given: argparse.Namespace, comparisons: list[Comparison], lines: list[Line], faults: list[str]) -> None:
    told = {
        "time": time.time(),
        "form": "short" if given.short else "full",
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "comparisons": [{**dataclasses.asdict(row), "ratio": row.ratio, "met": row.met} for row in comparisons],
        "lines": [dataclasses.asdict(row) for row in lines],
        "faults": faults,
    }
    (WORK / "last.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
