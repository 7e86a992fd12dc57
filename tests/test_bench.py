"""The benchmark's own arithmetic: its command line, ratios, table, what it reads out of strace and sinks."""

import argparse
import io
import os
import sys
from contextlib import redirect_stderr
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as command
from bench import durability, processes, regress, table
from bench.rows import FULL, ROWS, SHORT
from bench.sink import TIMING, Counts, Session, Sink


def comparison(**more: object) -> table.Comparison:
    values = {"key": "1", "work": "4 KB", "postfix": (100.0, 200.0, 400.0), "relayd": (300.0, 800.0, 1600.0)}
    return table.Comparison(**{**values, **more})  # type: ignore[arg-type]


# The command line.


def test_without_arguments_all_rows_are_measured_in_full() -> None:
    given_ = command.arguments([])
    assert (given_.short, given_.rows, given_.rounds) == (False, list(ROWS), 0)


def test_rows_come_in_the_tables_order_whatever_was_typed() -> None:
    assert command.arguments(["--short", "--rows", "d,4,1"]).rows == ["1", "4", "D"]


def test_an_unknown_row_is_refused_and_the_known_ones_are_named() -> None:
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit):
        command.arguments(["--rows", "1,77"])
    assert "there is no row 77: rows are 1, 2, 3" in said.getvalue()


def test_regress_wants_a_revision() -> None:
    plain = {"rules": 0, "domains": 0, "feeds": False}
    assert regress.arguments(["HEAD~1"]) == argparse.Namespace(rev="HEAD~1", pairs=7, count=3000, **plain)
    with redirect_stderr(io.StringIO()), pytest.raises(SystemExit):
        regress.arguments([])


def test_the_full_form_measures_the_sizes_that_are_promised() -> None:
    assert FULL.backlogs == (100_000, 1_000_000)
    assert (FULL.start, FULL.marketing) == (1_000_000, 500_000)
    assert SHORT.count < FULL.count


# Medians, ratios, percentiles.


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians() -> None:
    assert table.ratio((300.0, 800.0, 1600.0), (100.0, 200.0, 400.0)) == 4.0
    assert table.ratio((1.0, 30.0, 2.0), (1.0, 10.0, 4.0)) == 1.0


def test_rounds_that_are_no_pairs_have_no_ratio() -> None:
    with pytest.raises(ValueError):
        table.ratio((1.0, 2.0), (1.0,))


@pytest.mark.parametrize(("percent", "expected"), [(50, 50.0), (99, 99.0), (100, 100.0), (0, 1.0)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: float) -> None:
    assert table.percentile([float(n) for n in range(100, 0, -1)], percent) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_so_many_per_cent_do_not_exceed_the_percentile(values: list[float], percent: int) -> None:
    found = table.percentile(values, percent)
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


# The table.


def test_a_row_says_whether_its_bar_is_met() -> None:
    assert comparison(must=4.0).met
    assert not comparison(must=4.1).met


def test_a_row_whose_signatures_are_missing_is_missed_at_any_speed() -> None:
    assert not comparison(must=1.0, valid=False).met


def test_the_table_shows_medians_ratio_bar_and_verdict() -> None:
    line = table.rendered([comparison(must=5.0, goal=7.0, cpu=(2000.0, 500.0), note="unsigned")], []).splitlines()[1]
    assert " ".join(line.split()) == "1 4 KB 200/s 800/s 4.00 5.0 7.0 2,000 : 500 0 : 0 MISSED; unsigned"


def test_a_row_without_a_bar_has_no_verdict() -> None:
    text = table.rendered([comparison()], [table.Line("5", "TLS", "356 sessions/s")])
    assert "met" not in text and "MISSED" not in text
    assert "356 sessions/s" in text


def test_columns_stand_below_each_other() -> None:
    text = table.rendered([], [table.Line("7", "short", "1"), table.Line("8", "somewhat longer", "22")])
    assert len({line.index(figure) for line, figure in zip(text.splitlines()[1:], ("1", "22"), strict=True)}) == 1


# What strace says.

WRITE = '11 pwritev(7</s/landing/1>, [{iov_base="..token..", iov_len=9}], 1, 0) = 9'
SYNC = "11 fdatasync(7</s/landing/1>) = 0"
BEGUN, ENDED = "11 fdatasync(7</s/landing/1> <unfinished ...>", "11 <... fdatasync resumed>) = 0"
COMMIT = "11 fdatasync(9</s/spool.sqlite-wal>) = 0"
REPLY = '10 sendto(20<socket:[1]>, "250 2.0.0 queued as 1\\r\\n", 23, 0, NULL, 0) = 23'


def test_written_synced_committed_replied_is_recognised() -> None:
    assert durability.order(["10 write(1, 2) = 1", WRITE, SYNC, COMMIT, REPLY], "token") == {
        "replied": 4,
        "written": 1,
        "synced": 2,
        "committed": 3,
    }


def test_a_reply_before_the_commit_shows() -> None:
    seen = durability.order([WRITE, SYNC, REPLY, COMMIT], "token")
    assert seen["replied"] < seen["committed"]


def test_a_commit_before_the_contents_are_synced_does_not_count() -> None:
    assert "committed" not in durability.order([WRITE, COMMIT, SYNC, REPLY], "token")


def test_a_sync_counts_when_it_has_ended_not_when_it_began() -> None:
    assert durability.order([WRITE, BEGUN, REPLY, ENDED], "token")["synced"] == 3
    assert durability.order([WRITE, BEGUN, ENDED, REPLY], "token")["synced"] == 2


def test_a_sync_that_began_before_the_write_proves_nothing() -> None:
    assert "synced" not in durability.order([BEGUN, WRITE, ENDED, REPLY], "token")


def test_a_sync_that_failed_proves_nothing() -> None:
    failed = "11 fdatasync(7</s/landing/1>) = -1 EIO (Input/output error)"
    assert "synced" not in durability.order([WRITE, failed, REPLY], "token")


def test_a_sync_of_another_file_proves_nothing() -> None:
    other = "11 fdatasync(9</s/records/1.jsonl>) = 0"
    assert "synced" not in durability.order([WRITE, other, REPLY], "token")


# The sink.


def talk(sink: Sink, *parts: bytes) -> bytes:
    session = Session(sink)
    return b"".join(session.received(part, 5.0) for part in parts)


def mail(number: int, sender: bytes = b"a@b.example") -> bytes:
    content = b"From: <a@b.example>\r\nX-Bench: %d\r\n\r\nbody\r\n.\r\n" % number
    return b"MAIL FROM:<%s>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n%s" % (sender, content)


@given(st.lists(st.integers(1, 200), max_size=4))
def test_the_sink_takes_mail_in_pieces_of_any_size(cuts: list[int]) -> None:
    whole = b"EHLO x\r\n" + mail(1) + mail(2) + b"QUIT\r\n"
    edges = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    sink = Sink()
    said = talk(sink, *(whole[one:other] for one, other in pairwise(edges)))
    assert sink.totals == [2, 0, 0, 0]
    assert said.count(b"250 2.0.0 taken") == 2 and said.endswith(b"221 2.0.0 bye\r\n")


def test_one_in_a_hundred_is_refused_for_now_and_one_for_good() -> None:
    sink = Sink(refuse=100)
    session = Session(sink)
    for _ in range(200):
        asked = session.received(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n", 5.0)
        if b"354" in asked:
            session.received(b"x: y\r\n\r\n.\r\n", 5.0)
    assert sink.totals == [196, 2, 2, 0]


def test_reports_are_counted_apart_and_never_refused() -> None:
    sink = Sink(refuse=3)
    talk(sink, *(mail(n, b"") for n in range(5)))
    assert sink.totals == [0, 0, 0, 5]


def test_a_numbered_message_leaves_its_number_and_its_time(tmp_path: Path) -> None:
    talk(Sink(times=tmp_path / "times"), mail(7), mail(8))
    assert list(TIMING.iter_unpack((tmp_path / "times").read_bytes())) == [(7, 5.0), (8, 5.0)]


def test_counts_are_seen_by_who_maps_the_same_file(tmp_path: Path) -> None:
    writer, reader = Counts(tmp_path / "counts"), Counts(tmp_path / "counts")
    writer.put(10, 2, 1, 4)
    assert reader.get() == (10, 2, 1, 4)
    assert reader.settled() == 13


# Processes.


def test_a_process_ends_with_its_block_and_its_cpu_is_counted(tmp_path: Path) -> None:
    spin = "import time\nwhile time.process_time() < 0.1: pass\nprint('done', flush=True)\ntime.sleep(60)"
    with processes.running([sys.executable, "-c", spin], tmp_path / "log") as process:
        processes.until(lambda: b"done" in (tmp_path / "log").read_bytes(), 20, "it spins")
        assert 80_000 <= processes.cpu(process.pid) < 5_000_000
        assert process.pid in processes.family(os.getpid())
        assert processes.peak(process.pid) > 1
    assert process.poll() is not None


def test_what_does_not_come_is_named() -> None:
    with pytest.raises(processes.Failed, match="the moon: not within 0 s"):
        processes.until(lambda: False, 0, "the moon", step=0)
