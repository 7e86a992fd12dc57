"""Sender domains in the directory: whose they are, what state they are in, and how checks move it."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import msgspec
import pytest

from relayd.directory import Directory, SenderDomain, judged
from relayd.directory.senders import AGAIN, DAILY, GRACE, LATE, SOON
from relayd.directory.store import UPGRADES
from relayd.errors import InputError
from relayd.message.dkim import to_pem
from relayd.verification import Finding, Publish
from tests.dkim_kit import ed25519
from tests.test_directory_domains import now

NOW = 1_700_000_000.0
PEM = to_pem(ed25519().private)
DAY = 86400.0

PASS = (Finding("dkim", "pass", "well"),)
FAIL = (Finding("spf", "fail", "no record", (Publish("crm.example", "TXT", "v=spf1 -all"),)),)
UNKNOWN = (Finding("spf", "unknown", "no answer"),)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    opened = Directory(tmp_path / "directory.sqlite", now)
    for account in ("crm", "other"):
        opened.add_account(account, now=NOW).result(10)
    yield opened
    opened.close()


def register(directory: Directory, domain: str = "crm.example", account: str = "crm") -> SenderDomain:
    return directory.register_domain(domain, account=account, now=NOW).result(10)


def settle(directory: Directory, findings=PASS, at: float = NOW, domain: str = "crm.example") -> SenderDomain | None:
    row = directory.senders.get(domain)
    assert row is not None
    return directory.senders.settle(judged(row, findings, at, random.Random(1))).result(10)


# Registrations


def test_a_registered_domain_is_unverified_and_due_at_once(directory):
    row = register(directory, "CRM.Example.")
    assert (row.domain, row.account, row.state, row.since, row.created) == (
        "crm.example",
        "crm",
        "unverified",
        NOW,
        NOW,
    )
    assert directory.senders.due(0.0, lambda row: True, 9) == [row]
    assert directory.senders.state("crm", "crm.example") == "unverified"


def test_what_is_not_registered_has_no_state(directory):
    register(directory)
    for account, domain in [
        ("crm", "a.example"),
        ("crm", "example"),
        ("crm", "xcrm.example"),
        ("crm", ""),
        ("other", "crm.example"),
    ]:
        assert directory.senders.state(account, domain) is None


def test_a_subdomain_is_covered_by_the_nearest_registration_of_its_account(directory):
    register(directory)
    register(directory, "news.crm.example")
    settle(directory, domain="news.crm.example")
    assert directory.senders.state("crm", "x.news.crm.example") == "verified"
    assert directory.senders.state("crm", "shop.crm.example") == "unverified"


def test_a_registration_of_another_account_covers_nobody_else(directory):
    register(directory)
    register(directory, "news.crm.example", "other")
    assert directory.senders.covering("crm", "news.crm.example").domain == "crm.example"
    assert directory.senders.covering("other", "news.crm.example").domain == "news.crm.example"
    assert directory.senders.covering("other", "crm.example") is None


def test_the_first_account_that_registers_a_domain_has_it(directory):
    first = register(directory)
    assert register(directory) == first
    for refused in (
        lambda: register(directory, account="other"),
        lambda: directory.add_domain_key("crm.example", account="other", now=NOW, pem=PEM).result(10),
    ):
        with pytest.raises(InputError, match="is registered by the account crm") as raised:
            refused()
        assert raised.value.field == "name"
    assert directory.senders.all() == [first] and directory.all_domain_keys() == []


def test_an_account_may_use_the_domains_of_those_above_it(directory, monkeypatch):
    register(directory)
    monkeypatch.setattr(directory.senders, "_lineage", lambda account: (account, "crm"))
    monkeypatch.setattr(directory, "lineage", lambda account: (account, "crm"))
    assert directory.senders.state("other", "news.crm.example") == "unverified"
    assert directory.add_domain_key("crm.example", account="other", now=NOW, pem=PEM).result(10).account == "other"
    assert directory.senders.get("crm.example").account == "crm"


@pytest.mark.parametrize(
    ("field", "domain", "account"),
    [
        ("name", "example", "crm"),
        ("name", "a b.example", "crm"),
        ("name", "", "crm"),
        ("account", "a.example", "nobody"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(directory, field, domain, account):
    with pytest.raises(InputError) as raised:
        register(directory, domain, account)
    assert raised.value.field == field and directory.senders.all() == []


def test_a_key_registers_its_domain(directory):
    directory.add_domain_key("crm.example", account="crm", now=NOW, pem=PEM).result(10)
    assert directory.senders.state("crm", "crm.example") == "unverified"


def test_a_key_that_comes_or_goes_has_the_domain_checked_and_keeps_its_state(directory):
    register(directory)
    for change in (
        lambda: directory.add_domain_key("crm.example", account="crm", now=NOW, pem=PEM),
        lambda: directory.remove_domain_key("crm.example"),
    ):
        assert settle(directory).due > NOW
        change().result(10)
        row = directory.senders.get("crm.example")
        assert (row.state, row.due, row.findings) == ("verified", 0.0, PASS)


def test_a_removed_domain_takes_its_keys_along(directory):
    for selector in ("s1", "s2"):
        directory.add_domain_key("crm.example", account="crm", now=NOW, pem=PEM, selector=selector).result(10)
    assert directory.remove_domain("CRM.example").result(10).domain == "crm.example"
    assert directory.senders.all() == [] and directory.all_domain_keys() == []
    with pytest.raises(InputError, match=r"the domain crm.example is not registered"):
        directory.remove_domain("crm.example").result(10)


def test_registrations_and_findings_are_there_after_a_restart(directory, tmp_path):
    register(directory)
    kept = settle(directory, FAIL)
    directory.close()
    again = Directory(tmp_path / "directory.sqlite", now)
    assert again.senders.all() == [kept]
    again.close()


def test_what_had_keys_before_there_were_registrations_is_registered(tmp_path):
    db = sqlite3.connect(tmp_path / "old.sqlite")
    db.executescript(f"{UPGRADES[0]}; {UPGRADES[1]}; PRAGMA user_version = 2")
    with db:
        db.execute("INSERT INTO accounts VALUES ('crm', 'active', 'off', 1), ('other', 'active', 'off', 1)")
        for account, selector, created in (("crm", "s1", NOW), ("other", "s9", NOW + 1)):
            row = ("crm.example", account, selector, PEM, "rsa", 2048, created)
            db.execute("INSERT INTO domains VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    db.close()
    again = Directory(tmp_path / "old.sqlite", now)
    assert again.senders.all() == [SenderDomain("crm.example", "crm", since=NOW, created=NOW)]
    again.close()


def test_what_was_removed_during_its_check_stays_removed(directory):
    register(directory)
    row = directory.senders.get("crm.example")
    directory.remove_domain("crm.example").result(10)
    assert directory.senders.settle(judged(row, PASS, NOW, random.Random(1))).result(10) is None
    directory.register_domain("crm.example", account="other", now=NOW + 1).result(10)
    assert directory.senders.settle(judged(row, PASS, NOW, random.Random(1))).result(10) is None
    assert directory.senders.state("other", "crm.example") == "unverified"


def test_only_what_is_due_and_wanted_is_given_the_longest_overdue_first(directory):
    for n in (3, 1, 2):
        register(directory, f"{n}.example")
        directory.senders.keep(msgspec.structs.replace(directory.senders.get(f"{n}.example"), due=NOW + n))
    found = directory.senders.due(NOW + 2, lambda row: True, 9)
    assert [row.domain for row in found] == ["1.example", "2.example"]
    assert directory.senders.due(NOW + 9, lambda row: row.domain != "1.example", 1) == found[1:]


def test_a_state_is_told_in_microseconds_among_many_domains(directory):
    for n in range(20_000):
        directory.senders.keep(SenderDomain(f"d{n}.example", "crm", "verified"))
    state = directory.senders.state
    best = min(_timed(lambda: state("crm", "a.b.d777.example")) for _ in range(5))
    assert best < 20e-6


def _timed(call, times: int = 1000) -> float:
    began = perf_counter()
    for _ in range(times):
        call()
    return (perf_counter() - began) / times


# Checks and states


def after(row: SenderDomain, *checks: tuple[float, tuple[Finding, ...]]) -> SenderDomain:
    for at, findings in checks:
        row = judged(row, findings, at, random.Random(1))
    return row


NEW = SenderDomain("crm.example", "crm", since=NOW, created=NOW)
VERIFIED = after(NEW, (NOW, PASS))


def test_what_passes_is_verified_at_once_and_checked_daily():
    assert (VERIFIED.state, VERIFIED.since, VERIFIED.checked) == ("verified", NOW, NOW)
    assert 0.9 * DAILY <= VERIFIED.due - NOW <= 1.1 * DAILY


@pytest.mark.parametrize(("age", "wait"), [(0, SOON), (600, SOON), (3600, 900), (DAY, LATE), (90 * DAY, LATE)])
def test_what_is_not_verified_yet_is_checked_less_and_less_often(age, wait):
    row = after(NEW, (NOW + age, FAIL))
    assert (row.state, row.since) == ("unverified", NOW)
    assert 0.9 * wait <= row.due - row.checked <= 1.1 * wait


def test_a_verified_domain_that_fails_stays_verified_for_a_day_and_is_checked_hourly():
    row = after(VERIFIED, (NOW + DAY, FAIL))
    assert (row.state, row.doubt, row.since, row.findings) == ("verified", NOW + DAY, NOW, FAIL)
    assert 0.9 * AGAIN <= row.due - row.checked <= 1.1 * AGAIN
    row = after(row, (NOW + DAY + GRACE - 1, FAIL))
    assert (row.state, row.doubt) == ("verified", NOW + DAY)
    row = after(row, (NOW + DAY + GRACE, FAIL))
    assert (row.state, row.doubt, row.since) == ("failing", 0.0, NOW + DAY + GRACE)


def test_one_check_that_passes_ends_the_doubt():
    row = after(VERIFIED, (NOW + DAY, FAIL), (NOW + DAY + 3600, PASS), (NOW + DAY + GRACE, FAIL))
    assert (row.state, row.doubt) == ("verified", NOW + DAY + GRACE)


def test_failing_again_and_again_by_hand_within_a_minute_changes_nothing():
    row = after(VERIFIED, *((NOW + n, FAIL) for n in range(60)))
    assert row.state == "verified"


def test_an_unanswered_check_changes_no_state_however_often_and_is_repeated_within_hours():
    row = after(VERIFIED, *((NOW + n * DAY, UNKNOWN) for n in range(1, 30)))
    assert (row.state, row.doubt, row.since) == ("verified", 0.0, NOW)
    assert row.due - row.checked <= 1.1 * AGAIN
    assert after(NEW, (NOW, UNKNOWN)).state == "unverified"


def test_an_unanswered_check_neither_ends_a_doubt_nor_hurries_it():
    row = after(VERIFIED, (NOW + DAY, FAIL), (NOW + DAY + GRACE, UNKNOWN))
    assert (row.state, row.doubt) == ("verified", NOW + DAY)


def test_a_failing_domain_is_verified_again_by_one_check_that_passes():
    failing = after(VERIFIED, (NOW + DAY, FAIL), (NOW + DAY + GRACE, FAIL))
    assert failing.state == "failing"
    assert after(failing, (failing.due, FAIL)).state == "failing"
    assert after(failing, (failing.due, PASS)).state == "verified"


def test_why_is_the_first_thing_that_is_wrong():
    warned = (Finding("dmarc", "warn", "none"), *UNKNOWN, *FAIL, Finding("return path", "fail", "no MX"))
    assert after(NEW, (NOW, warned)).why == "no record"
    assert after(NEW, (NOW, warned[:2])).why == "no answer"
    assert after(NEW, (NOW, warned[:1])).why == ""
