"""Recordings of manholes: on file before anything is run, for their owner alone, and bounded."""

import stat
from pathlib import Path

import pytest

from relayd.ssh import recording
from relayd.ssh.recording import Recording

NOW = 1_800_000_000.0


def test_what_is_typed_and_shown_is_on_file_line_by_line_and_escaped(tmp_path: Path):
    made = Recording(tmp_path / "manhole", "anna", NOW)
    made.about("ssh:anna from 192.0.2.1", NOW)
    made.line("print('a\x1b[2J')", NOW + 1)
    assert made.path.read_text().endswith("2027-01-15T08:00:01Z > print('a\\x1b[2J')\n")  # before it is closed
    made.output("one\ntwo\n", NOW + 2)
    made.output("\n", NOW + 2)
    made.close()
    assert made.path.read_text().splitlines() == [
        "2027-01-15T08:00:00Z = ssh:anna from 192.0.2.1",
        "2027-01-15T08:00:01Z > print('a\\x1b[2J')",
        "2027-01-15T08:00:02Z < one",
        "2027-01-15T08:00:02Z < two",
    ]
    assert made.typed == 1
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700


def test_of_what_one_statement_shows_the_beginning_is_kept(tmp_path: Path):
    made = Recording(tmp_path, "anna", NOW)
    for _ in range(2):
        made.line("x", NOW)
        for _ in range(5):
            made.output("y" * (recording.SHOWN // 2), NOW)
    text = made.path.read_text()
    assert text.count("y") == 2 * recording.SHOWN and text.count("(the rest is not kept)") == 2


def test_a_full_recording_says_so(tmp_path: Path):
    made = Recording(tmp_path, "anna", NOW)
    with pytest.raises(OSError, match="is full"):
        for _ in range(recording.SIZE):
            made.line("x" * 1000, NOW)
    assert made.path.stat().st_size <= recording.SIZE


def test_the_oldest_recordings_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recording, "FILES", 3)
    paths = [Recording(tmp_path, "anna", NOW + i).path for i in range(5)]
    assert sorted(tmp_path.iterdir()) == paths[2:]


def test_two_sessions_of_one_second_have_their_own_files(tmp_path: Path):
    assert Recording(tmp_path, "anna", NOW).path != Recording(tmp_path, "anna", NOW).path
