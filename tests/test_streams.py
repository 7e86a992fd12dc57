"""Streams as they hold for accounts: a template, what the account says differently, and what follows from both."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd import config
from relayd.delivery.outcomes import Life
from relayd.directory import AccountStream, Directory
from relayd.queue.retry import Schedule
from relayd.quotas import parse_limits
from relayd.streams import Streams, shown
from relayd.validation import BULK, OFF
from tests.reception_kit import load

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86400.0
TABLES = """
[source.s1]
[pool.fast]
sources = { s1 = 1 }
[pool.slow]
sources = { s1 = 1 }
[pool.risky]
sources = { s1 = 1 }
[stream.transactional]
pool = "fast"
priority = 90
expire = "1h"
[stream.marketing]
pool = "slow"
risk_pools = { high = "risky", low = "fast" }
validation = "bulk"
unsigned = "defer"
expire = "2d"
lists = ["unsubscribed", "all"]
limits = { messages = "10/s" }
[retry]
schedule = ["5m"]
greylist = "7m"
"""


class Kept:
    """A directory whose changes are done at once, with the account crm, and its streams."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = Directory(path / "directory.sqlite", lambda call: call(), ["crm"], NOW)
        self.streams = Streams(self.directory, load(path, TABLES))

    def account(self, name: str, **fields: Any) -> None:
        if self.directory.account(name):
            self.directory.change_account(name, **fields).result(10)
        else:
            self.directory.add_account(name, now=NOW, **fields).result(10)

    def set(self, name: str, template: str, account: str = "crm", **overrides: Any) -> AccountStream:
        made = self.directory.set_stream(account, name, template, overrides).result(10)
        assert isinstance(made, AccountStream)
        return made

    def reload(self, change: Callable[[str], str]) -> config.Config:
        loaded = load(self.path, change(TABLES))
        self.streams.configure(loaded)
        return loaded


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.directory.close()


def test_a_configured_stream_holds_for_every_account_as_it_is(kept: Kept):
    found = kept.streams.of("crm", "marketing")
    assert (found.scheduling.pool, found.scheduling.priority) == ("slow", 50)
    assert found.rules.schedule == Schedule((300.0,), 2 * DAY, 420.0) and found.rules.reports == "sender"
    incoming = found.incoming
    assert (incoming.name, incoming.validation, incoming.lists) == ("marketing", BULK, ("unsubscribed", "all"))
    assert incoming.limits == parse_limits({"messages": "10/s"}) and incoming.defers
    assert kept.streams.of("nobody", "marketing").settings == found.settings
    assert not kept.streams.defers("crm", "transactional") and kept.streams.defers("crm", "marketing")


def test_an_account_s_own_stream_is_its_template_with_what_it_says_differently(kept: Kept):
    kept.set("news", "marketing", priority=10, validation="off", expire="3h", reports="none", limits={})
    found = kept.streams.of("crm", "news")
    assert (found.scheduling.pool, found.scheduling.priority, found.incoming.validation) == ("slow", 10, OFF)
    assert (found.rules.schedule.expire, found.rules.reports, found.incoming.name) == (3 * HOUR, "none", "news")
    assert found.incoming.limits == parse_limits({}) and found.incoming.lists == ("unsubscribed", "all")
    assert kept.streams.of("crm", "marketing").scheduling.priority == 50


def test_a_stream_s_pools_by_domain_hold_and_are_shown_unless_a_class_of_risk_has_a_pool(kept: Kept):
    kept.set("news", "marketing", pool_for={"*.RU": "fast", "gmail.com": "risky"})
    found = kept.streams.scheduling("crm", "news")
    assert [found.pool_for(domain, ()) for domain in ("x.ru", "gmail.com", "x.example")] == ["fast", "risky", "slow"]
    assert shown(kept.streams.of("crm", "news"))["pool_for"] == {"*.ru": "fast", "gmail.com": "risky"}
    kept.account("crm", risk="high")
    risky = kept.streams.scheduling("crm", "news")
    assert risky.pool_for("x.ru", ()) == "risky" and risky.all_pools() == {"risky"}


def test_the_turn_of_a_client_s_mail_is_its_customer_s(kept: Kept):
    kept.account("crm", weight=4)
    kept.account("shop", parent="crm")
    turns = [kept.streams.scheduling(account, "marketing") for account in ("crm", "shop", "gone")]
    assert [(turn.account, turn.weight) for turn in turns] == [("crm", 4), ("crm", 4), ("gone", 1)]
    kept.account("crm", weight=1)
    assert kept.streams.scheduling("shop", "marketing").weight == 1


def test_a_configured_name_may_be_an_account_s_own_and_only_its(kept: Kept):
    kept.set("transactional", "transactional", priority=1)
    priorities = [kept.streams.scheduling(account, "transactional").priority for account in ("crm", "other")]
    assert priorities == [1, 90]


def test_a_sub_account_has_the_streams_of_those_above_it_unless_it_has_its_own(kept: Kept):
    kept.account("shop", parent="crm")
    kept.set("news", "marketing", priority=10)
    assert kept.streams.scheduling("shop", "news").priority == 10
    kept.set("news", "marketing", "shop", priority=20)
    assert [kept.streams.scheduling(account, "news").priority for account in ("shop", "crm")] == [20, 10]


def test_a_name_that_nobody_knows_is_the_default_stream(kept: Kept):
    found = kept.streams.of("crm", "gone")
    assert found.settings == kept.streams.of("crm", "transactional").settings and found.incoming.name == "gone"


def test_a_connection_has_the_streams_of_its_that_there_are_or_the_default_one(kept: Kept):
    kept.set("news", "marketing")
    assert kept.streams.named("crm", ("gone", "news", "marketing")) == ("news", "marketing")
    assert kept.streams.named("other", ("news",)) == ("transactional",) == kept.streams.named("crm", ())


@pytest.mark.parametrize(
    ("template", "overrides", "fault"),
    [
        ("marketing", {}, ""),
        ("marketing", {"pool": "fast", "risk_pools": {"high": "slow"}}, ""),
        ("gone", {}, "its template 'gone' is not in the configuration any more"),
        ("marketing", {"pool": "gone"}, "there is no pool 'gone'"),
        ("marketing", {"risk_pools": {"low": "gone"}}, "there is no pool 'gone'"),
        ("marketing", {"pool_for": {"*.ru": "gone"}}, "there is no pool 'gone'"),
        ("marketing", {"fallback": "gone"}, "there is no fallback 'gone'"),
        ("marketing", {"prioritty": 1}, "unknown key 'prioritty' (did you mean \"priority\"?)"),
        ("marketing", {"priority": 101}, "priority: 101 is not a whole number, 0 to 100"),
        ("marketing", {"reports": "all"}, "reports: 'all' is none of sender, none"),
    ],
)
def test_what_is_wrong_with_a_stream_is_told_and_then_its_template_holds(kept: Kept, template, overrides, fault):
    row = kept.set("news", template, **overrides)
    assert kept.streams.fault(row) == fault
    if fault:
        default = "transactional" if template == "gone" else "marketing"
        assert kept.streams.of("crm", "news").settings == kept.streams.of("crm", default).settings


# Pools by risk.


@pytest.mark.parametrize(
    ("agency", "crm", "stream", "pool"),
    [
        ("normal", "normal", None, "slow"),
        ("normal", "high", None, "risky"),
        ("high", "low", None, "risky"),
        ("low", "low", None, "fast"),
        ("normal", "low", None, "slow"),
        ("high", "high", "low", "fast"),
        ("low", "low", "high", "risky"),
    ],
)
def test_the_pool_is_that_of_the_stream_s_own_risk_or_of_the_worst_account_s(kept: Kept, agency, crm, stream, pool):
    kept.account("agency", risk=agency)
    kept.account("crm", parent="agency", risk=crm)
    if stream:
        kept.set("marketing", "marketing", risk=stream)
    assert kept.streams.scheduling("crm", "marketing").pool == pool
    assert kept.streams.scheduling("crm", "transactional").pool == "fast"  # has no pools by risk


# Lists.


def test_lists_are_those_of_the_stream_and_the_connection_whoever_owns_them(kept: Kept):
    kept.account("agency")
    kept.account("crm", parent="agency")
    kept.directory.add_connection("login", account="crm", now=NOW, external=True, lists=["own", "all"]).result(10)
    owners = ["{}", "account:crm/{}", "account:agency/{}", "connection:login/{}"]
    expected = [owner.format(name) for name in ("unsubscribed", "all", "own") for owner in owners]
    assert list(kept.streams.lists("crm", "marketing", "login")) == expected


def test_a_stream_without_lists_has_the_one_called_like_its_template_and_all(kept: Kept):
    kept.set("receipts", "transactional")
    assert kept.streams.lists("crm", "receipts", "nobody")[::3] == ("transactional", "all")


# How long mail lives.


def lives(kept: Kept) -> dict[tuple[str, str], float]:
    found = list(kept.streams.lives())
    assert all(isinstance(life, Life) for life in found)
    told = {(life.account, life.stream): life.expire for life in found}
    assert len(told) == len(found)
    return told


ALL = {("*", "transactional"): HOUR, ("*", "marketing"): 2 * DAY}


def test_mail_lives_as_long_as_its_stream_says_and_that_of_streams_that_are_gone_as_any(kept: Kept):
    assert lives(kept) == ALL | {("*", "*"): 2 * DAY}


def test_an_account_s_longer_life_is_not_cut_by_its_template_s(kept: Kept):
    kept.set("marketing", "marketing", expire="5d")
    assert lives(kept) == ALL | {("*", "marketing"): 5 * DAY, ("*", "*"): 5 * DAY}


def test_an_account_s_shorter_life_is_its_own_and_that_of_those_below_it(kept: Kept):
    for name, parent in (("shop", "crm"), ("kiosk", "shop"), ("other", "")):
        kept.account(name, parent=parent)
    kept.set("marketing", "marketing", expire="1d")
    kept.set("marketing", "marketing", "kiosk", expire="3h")
    own = {("crm", "marketing"): DAY, ("shop", "marketing"): DAY, ("kiosk", "marketing"): 3 * HOUR}
    assert lives(kept) == ALL | own | {("*", "*"): 2 * DAY}


def test_a_name_of_an_account_s_own_has_its_life_for_those_below_it_too(kept: Kept):
    kept.account("shop", parent="crm")
    kept.set("news", "marketing", expire="4h")
    assert lives(kept) == ALL | {("*", "news"): 4 * HOUR, ("*", "*"): 2 * DAY}
    kept.set("news", "marketing", "shop", expire="6h")
    assert lives(kept)["*", "news"] == 6 * HOUR and lives(kept)["crm", "news"] == 4 * HOUR


# What changes.


def test_what_was_made_is_kept_until_the_directory_changes(kept: Kept):
    first = kept.streams.of("crm", "news"), kept.streams.lists("crm", "news", "login")
    assert kept.streams.of("crm", "news") is first[0] and kept.streams.lists("crm", "news", "login") is first[1]
    kept.set("news", "marketing")
    assert kept.streams.scheduling("crm", "news").pool == "slow"
    assert kept.streams.lists("crm", "news", "login")[0] == "unsubscribed"
    kept.account("crm", risk="high")
    assert kept.streams.scheduling("crm", "news").pool == "risky"
    kept.directory.remove_stream("crm", "news").result(10)
    assert kept.streams.scheduling("crm", "news").pool == "fast"
    kept.directory.add_connection("login", account="crm", now=NOW, external=True, lists=["vip"]).result(10)
    assert "connection:login/vip" in kept.streams.lists("crm", "news", "login")


def test_a_reload_holds_for_streams_made_of_what_it_changed(kept: Kept):
    kept.set("news", "marketing", priority=10)
    assert kept.streams.of("crm", "news").scheduling.pool == "slow"
    kept.reload(lambda tables: tables.replace('pool = "slow"', 'pool = "fast"').replace('"unsubscribed"', '"gone"'))
    assert kept.streams.of("crm", "news").scheduling.pool == "fast"
    assert kept.streams.lists("crm", "news", "login")[0] == "gone"
    kept.reload(lambda tables: tables.replace("[stream.marketing]", "[stream.letters]"))
    assert kept.streams.of("crm", "news").settings == kept.streams.of("crm", "transactional").settings
    assert kept.streams.fault(kept.directory.streams()[0]).startswith("its template 'marketing'")


def test_all_that_holds_is_shown(kept: Kept):
    kept.account("crm", risk="high")
    told = shown(kept.streams.of("crm", "marketing"))
    assert (told["pool"], told["lists"], told["limits"]) == ("risky", ("unsubscribed", "all"), {"messages": ["10/s"]})
    assert set(told) == set(config.Stream.__struct_fields__)
