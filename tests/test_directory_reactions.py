"""The directory's reactions."""

import sqlite3

from relayd.directory import Directory
from relayd.directory.store import UPGRADES
from relayd.reply import Reply
from relayd.shaping.limits import Rate
from relayd.shaping.reactions import Active, Said
from relayd.shaping.rules import Ceiling

NOW = 1_700_000_000.5


def active(id: int, **more: object) -> Active:
    values: dict[str, object] = {
        "rule": "x",
        "action": "limit",
        "source": "t1",
        "group": "gmail",
        "since": NOW,
        "until": NOW + 60,
        "returns_until": NOW + 90,
        "forgotten": NOW + 120,
        "limits": Ceiling(Rate(20, 60.0, 5), 2),
        "reply": Said(Reply(421, "4.7.0", "slow\ndown «сейчас»"), "rcpt", NOW, "mx.a.example", "a.example", "19a5"),
    }
    return Active(id=id, **(values | more))  # type: ignore[arg-type]


def opened(tmp_path) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call())


def test_reactions_outlive_a_restart_as_they_were(tmp_path):
    directory = opened(tmp_path)
    assert directory.reactions.before == []
    one, two = active(1), active(2, action="suspend", account="crm", step=3, move=False)
    directory.reactions.keep((two, one), ()).result(10)
    directory.close()
    directory = opened(tmp_path)
    assert directory.reactions.before == [one, two]
    on = active(1, step=1)
    directory.reactions.keep((on, active(3)), (two, active(9))).result(10)
    directory.close()
    directory = opened(tmp_path)
    assert directory.reactions.before == [on, active(3)]
    directory.close()


def test_a_reaction_is_nothing_that_sessions_have_to_look_at_again_for(tmp_path):
    directory = opened(tmp_path)
    before = directory.version
    directory.reactions.keep((active(1),), ()).result(10)
    assert directory.version == before
    directory.close()


def test_a_file_of_the_version_before_has_none(tmp_path):
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    db.executescript("; ".join(UPGRADES[version] for version in range(6)) + "; PRAGMA user_version = 6")
    db.close()
    directory = opened(tmp_path)
    assert directory.reactions.before == []
    directory.close()
