"""The directory's tokens of the control API."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.directory import Directory
from relayd.directory.store import _STEPS, UPGRADES
from relayd.errors import InputError

NOW = 1_700_000_000.5


def opened(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call(), ["crm"], NOW)


@pytest.fixture
def directory(tmp_path) -> Iterator[Directory]:
    made = opened(tmp_path)
    yield made
    made.close()


def test_a_token_is_known_by_its_text_and_outlives_a_restart(tmp_path):
    directory = opened(tmp_path)
    given = {"account": "crm", "networks": ["198.51.100.0/24"], "note": "their dashboard", "expires": NOW + 60}
    made = directory.api_tokens.add("crm-1", "customer", now=NOW, by="anna", **given).result(10)
    other = directory.api_tokens.add("night", "operate", now=NOW, by="anna").result(10)
    assert directory.api_tokens.read(made.text) == (made.token, True)
    assert made.text != other.text and len(made.text) == 67
    directory.close()
    directory = opened(tmp_path)
    assert directory.api_tokens.all() == [made.token, other.token]
    assert directory.api_tokens.read(made.text) == (made.token, True)
    directory.close()


def test_only_the_whole_text_proves_anything(directory):
    made, other = (directory.api_tokens.add(name, "view", now=NOW, by="anna").result(10) for name in "ab")
    read = directory.api_tokens.read
    changed = made.text[:-1] + ("A" if made.text[-1] != "A" else "B")
    swapped = made.text[:24] + other.text[24:]
    assert read(changed) == read(swapped) == (made.token, False)
    unknown = "relayd_" + "0" * 16 + "_" + "A" * 43
    for text in ("", "x", made.text + "=", made.text + "\n", made.text.upper(), made.text[24:], unknown, "é" * 67):
        assert read(text) == (None, False)


def test_no_secret_is_on_disk(tmp_path):
    directory = opened(tmp_path)
    made = directory.api_tokens.add("a", "view", now=NOW, by="anna").result(10)
    directory.close()
    secret = made.text.rpartition("_")[2].encode() if made.text.count("_") == 2 else made.text[24:].encode()
    assert secret[-20:] not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_a_revoked_token_is_nobodys_at_once_and_its_name_is_free(tmp_path):
    directory = opened(tmp_path)
    made = directory.api_tokens.add("a", "view", now=NOW, by="anna").result(10)
    assert directory.api_tokens.revoke("a").result(10) == made.token
    assert directory.api_tokens.read(made.text) == (None, False)
    fresh = directory.api_tokens.add("a", "view", now=NOW, by="anna").result(10)
    directory.close()
    directory = opened(tmp_path)
    assert directory.api_tokens.read(made.text) == (None, False) and directory.api_tokens.read(fresh.text)[1]
    directory.close()


@pytest.mark.parametrize(
    ("name", "more", "field", "words"),
    [
        ("a b", {}, "name", "is not a name"),
        ("taken", {}, "name", "already a token"),
        ("a", {"account": "crn"}, "account", "no account 'crn'"),
        ("a", {"networks": ["10.1.2.3/8"]}, "network", "behind its prefix"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(directory, name, more, field, words):
    directory.api_tokens.add("taken", "view", now=NOW, by="anna").result(10)
    with pytest.raises(InputError, match=words) as raised:
        directory.api_tokens.add(name, "customer", now=NOW, by="anna", **more).result(10)
    assert raised.value.field == field and len(directory.api_tokens.all()) == 1


def test_a_token_that_is_not_there_is_not_revoked_and_the_nearest_is_named(directory):
    directory.api_tokens.add("dashboard", "view", now=NOW, by="anna").result(10)
    with pytest.raises(InputError, match=r"no token 'dashbord' \(did you mean .dashboard"):
        directory.api_tokens.revoke("dashbord").result(10)


def test_expiry_and_networks(directory):
    row = directory.api_tokens.add("a", "view", now=NOW, by="", expires=NOW + 5, networks=["10.0.0.0/8"]).result(10)
    assert not row.token.over(NOW + 4.9) and row.token.over(NOW + 5)
    assert row.token.may_come_from("10.9.9.9") and not row.token.may_come_from("192.0.2.1")
    assert not row.token.may_come_from("a socket")
    free = directory.api_tokens.add("b", "view", now=NOW, by="").result(10)
    assert not free.token.over(NOW * 2) and free.token.may_come_from("192.0.2.1")


def test_use_is_written_once_a_minute_and_raises_no_version(tmp_path):
    directory = opened(tmp_path)
    token = directory.api_tokens.add("a", "view", now=NOW, by="anna").result(10).token
    version = directory.version
    first = directory.api_tokens.touch(token, "192.0.2.1", NOW + 1)
    assert directory.api_tokens.touch(token, "192.0.2.2", NOW + 60) is None
    first.result(10)
    directory.api_tokens.touch(token, "192.0.2.3", NOW + 61).result(10)
    (row,) = directory.api_tokens.all()
    assert (row.used, row.used_from) == (NOW + 61, "192.0.2.3") and directory.version == version
    directory.api_tokens.revoke("a").result(10)
    assert directory.api_tokens.touch(token, "192.0.2.3", NOW + 999) is None
    directory.close()
    directory = opened(tmp_path)
    assert directory.api_tokens.all() == []
    directory.close()


def test_a_use_that_was_under_way_brings_no_revoked_token_back(directory):
    token = directory.api_tokens.add("a", "view", now=NOW, by="anna").result(10).token
    revoked, used = directory.api_tokens.revoke("a"), directory.api_tokens.touch(token, "192.0.2.1", NOW)
    revoked.result(10)
    if used is not None:
        used.result(10)
    assert directory.api_tokens.all() == []


def test_a_file_of_the_version_before_has_no_tokens(tmp_path):
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    last = _STEPS.index("apitokens")
    db.executescript("; ".join(UPGRADES[version] for version in range(last)) + f"; PRAGMA user_version = {last}")
    db.close()
    directory = opened(tmp_path)
    assert directory.api_tokens.all() == []
    directory.close()
