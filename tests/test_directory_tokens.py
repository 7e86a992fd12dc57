"""The directory's keys of tokens."""

import sqlite3

from relayd.directory import Directory
from relayd.directory.store import UPGRADES
from relayd.identity import lower_bound
from relayd.returnpath import ACCEPT, Token, Void, make, read

NOW = 1_700_000_000.5
DAY = 86400


def opened(tmp_path, now: float = NOW) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call(), now=now)


def test_the_first_start_makes_a_key_and_the_next_has_the_same(tmp_path):
    directory = opened(tmp_path)
    keys = directory.tokens.keys
    assert len(keys.by_id) == 1 and len(keys.newest.secret) == 32 and keys.newest.made == NOW
    directory.close()
    directory = opened(tmp_path, NOW + DAY)
    assert directory.tokens.keys == keys
    directory.close()


def test_two_relays_have_keys_of_their_own(tmp_path):
    (tmp_path / "b").mkdir()
    one, other = opened(tmp_path), opened(tmp_path / "b")
    token = make("bounce", lower_bound(NOW), one.tokens.keys.newest)
    assert read(token, other.tokens.keys, NOW) is Void.FORGED
    one.close()
    other.close()


def test_after_a_rotation_new_mail_has_a_new_key_and_old_mail_still_comes_back(tmp_path):
    directory = opened(tmp_path)
    old = directory.tokens.keys.newest
    directory.tokens.rotate(NOW + DAY).result(10)
    directory.close()
    directory = opened(tmp_path)
    keys = directory.tokens.keys
    assert keys.newest != old and keys.newest.made == NOW + DAY and keys.get(old.id) == old
    token = make("bounce", lower_bound(NOW), old)
    assert isinstance(read(token, keys, NOW + 2 * DAY), Token)
    directory.close()


def test_a_key_is_deleted_by_the_first_rotation_after_its_last_mail_is_too_old(tmp_path):
    directory = opened(tmp_path)
    tokens = directory.tokens
    first = tokens.keys.newest
    second = tokens.rotate(NOW + 100 * DAY).result(10).newest  # the first served until now
    kept = tokens.rotate(NOW + 100 * DAY + ACCEPT - 1).result(10)
    assert first.id in kept.by_id
    left = tokens.rotate(NOW + 100 * DAY + ACCEPT + 1).result(10)
    assert first.id not in left.by_id and second.id in left.by_id and len(left.by_id) == 3
    directory.close()


def test_a_key_made_while_the_clock_is_back_is_still_the_newest(tmp_path):
    directory = opened(tmp_path)
    old = directory.tokens.keys.newest
    assert directory.tokens.rotate(NOW - 3600).result(10).newest != old
    directory.close()


def test_how_long_tokens_count_is_the_configurations_to_say_and_outlives_a_rotation(tmp_path):
    directory = opened(tmp_path)
    directory.tokens.configure(40 * DAY)
    directory.tokens.rotate(NOW + 1).result(10)
    assert directory.tokens.keys.accept == 40 * DAY
    directory.close()


def test_a_file_of_the_version_before_gets_its_first_key(tmp_path):
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    db.executescript("; ".join(UPGRADES[version] for version in range(6)) + "; PRAGMA user_version = 6")
    db.close()
    directory = opened(tmp_path)
    assert len(directory.tokens.keys.by_id) == 1
    directory.close()
