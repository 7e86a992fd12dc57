"""The directory's suspects and dismissals."""

import sqlite3

from relayd.directory import Directory
from relayd.directory.store import UPGRADES
from relayd.suspicion import Dismissal, Finding, Key, Part

NOW = 1_700_000_000.5


def finding(name: str = "shop", **more: object) -> Finding:
    parts = (Part("new", 30.0, "80% «новые»"),)
    values: dict[str, object] = {"score": 70, "worst": 80, "parts": parts, "leaders": ("l",), "since": NOW, "last": NOW}
    return Finding(Key("crm", "client", name), **(values | more))  # type: ignore[arg-type]


def opened(tmp_path) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call())


def test_findings_and_dismissals_outlive_a_restart_as_they_were(tmp_path):
    directory = opened(tmp_path)
    assert (directory.suspects.findings, directory.suspects.dismissals) == ([], [])
    row = Dismissal("crm", "", "a sale", "anna", NOW, NOW + 60)
    directory.suspects.keep((finding(), finding("Магазин")), ()).result(10)
    directory.suspects.dismiss(row).result(10)
    directory.close()
    again = opened(tmp_path)
    assert sorted(again.suspects.findings, key=lambda found: found.key) == [finding(), finding("Магазин")]
    assert again.suspects.dismissals == [row]
    again.close()


def test_what_goes_on_is_replaced_what_is_over_is_gone_and_dismissals_of_the_past_too(tmp_path):
    directory = opened(tmp_path)
    directory.suspects.keep((finding(), finding("b")), ()).result(10)
    directory.suspects.keep((finding(noticed=NOW),), (finding("b"),)).result(10)
    directory.suspects.dismiss(Dismissal("old", "", "x", "anna", NOW, NOW + 60)).result(10)
    directory.suspects.dismiss(Dismissal("crm", "", "x", "anna", NOW + 61, NOW + 90)).result(10)
    directory.close()
    again = opened(tmp_path)
    assert again.suspects.findings == [finding(noticed=NOW)]
    assert [row.account for row in again.suspects.dismissals] == ["crm"]
    again.close()


def test_a_directory_of_before_is_brought_up_to_date(tmp_path):
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    for version in range(len(UPGRADES) - 1):
        db.executescript(UPGRADES[version])
    db.execute(f"PRAGMA user_version = {len(UPGRADES) - 1}")
    db.close()
    directory = opened(tmp_path)
    directory.suspects.keep((finding(),), ()).result(10)
    directory.close()


def test_who_is_told_is_an_address_with_a_domain_and_can_be_taken_away(tmp_path):
    directory = opened(tmp_path)
    directory.add_account("crm", now=NOW, notices="Abuse@crm.example").result(10)
    directory.close()
    again = opened(tmp_path)
    assert again.account("crm").notices == "Abuse@crm.example"  # type: ignore[union-attr]
    assert again.change_account("crm", notices="").result(10).notices == ""
    again.close()
