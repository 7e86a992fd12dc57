"""The directory's drained sources."""

import sqlite3

import pytest

from relayd.directory import Directory, Drain
from relayd.directory.store import UPGRADES
from relayd.errors import InputError

NOW = 1_700_000_000.5


def opened(tmp_path) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call())


def test_a_drain_says_who_and_why_and_outlives_a_restart(tmp_path):
    directory = opened(tmp_path)
    told: list[int] = []
    directory.drains.changed = lambda: told.append(len(directory.drains.all()))
    row = directory.drains.drain("t1", reason="moving", by="anna", now=NOW).result(10)
    assert row == Drain("t1", "moving", "anna", NOW) == directory.drains.get("t1")
    directory.close()
    directory = opened(tmp_path)
    assert directory.drains.all() == [row] and told == [1]
    assert directory.drains.resume("t1").result(10) == row
    assert directory.drains.get("t1") is None
    directory.close()
    directory = opened(tmp_path)
    assert directory.drains.all() == []
    directory.close()


def test_a_second_drain_replaces_who_and_why(tmp_path):
    directory = opened(tmp_path)
    for by in ("anna", "boris"):
        directory.drains.drain("t1", reason=f"{by} says so", by=by, now=NOW).result(10)
    assert directory.drains.all() == [Drain("t1", "boris says so", "boris", NOW)]
    directory.close()


def test_what_is_not_drained_cannot_be_resumed(tmp_path):
    directory = opened(tmp_path)
    with pytest.raises(InputError, match="'t1' is not drained"):
        directory.drains.resume("t1").result(10)
    directory.close()


def test_a_file_of_the_version_before_has_nothing_drained(tmp_path):
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    db.executescript("; ".join(UPGRADES[version] for version in range(5)) + "; PRAGMA user_version = 5")
    db.close()
    directory = opened(tmp_path)
    assert directory.drains.all() == []
    directory.close()
