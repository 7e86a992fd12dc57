"""Reputation on a real disk; and twenty-four hours of two hundred accounts in seconds, one of whom spams."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

import msgspec
import pytest

from relayd.directory import Directory
from relayd.directory.store import UPGRADES
from relayd.reputation import Reputation, Rules, Standing, Turn, Who

DAY = 86400
MIDNIGHT = 19_000.0 * DAY


def opened(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call())


def stored(tmp_path: Path) -> list[tuple[object, ...]]:
    directory = opened(tmp_path)
    directory.close()
    return sorted(msgspec.structs.astuple(at) for at in directory.reputations.stored)


def test_rows_come_back_as_they_were_replaced_and_removed(tmp_path):
    rows = [
        Standing("client", "crm/it's; \u00e9x\u00e4mple", 2, 'why "so"\n', "ops", MIDNIGHT, 1.5, 2.5, 3.5, 60, 19_000),
        Standing("account", "crm", past=[1, 2**40]),
    ]
    directory = opened(tmp_path)
    directory.reputations.keep(rows, []).result(10)
    directory.close()
    assert stored(tmp_path) == sorted(map(msgspec.structs.astuple, rows))
    directory = opened(tmp_path)
    newer = Standing("account", "crm", step=1)
    directory.reputations.keep([newer], [rows[0].key, ("account", "none")]).result(10)
    directory.close()
    assert stored(tmp_path) == [msgspec.structs.astuple(newer)]


def test_counting_is_nothing_that_sessions_have_to_look_at_again_for(tmp_path):
    directory = opened(tmp_path)
    before = directory.version
    directory.reputations.keep([Standing("account", "crm")], []).result(10)
    assert directory.version == before
    directory.close()


def test_a_file_of_the_version_before_has_no_reputation(tmp_path):
    before = list(UPGRADES.values()).index(next(text for text in UPGRADES.values() if "TABLE reputations" in text))
    db = sqlite3.connect(tmp_path / "directory.sqlite")
    db.executescript("; ".join(list(UPGRADES.values())[:before]) + f"; PRAGMA user_version = {before}")
    db.close()
    assert stored(tmp_path) == []


def test_a_disk_that_refuses_is_told(tmp_path):
    directory = opened(tmp_path)
    with directory._worker._db as db:
        db.execute("DROP TABLE reputations")
    with pytest.raises(sqlite3.Error):
        directory.reputations.keep([Standing("account", "crm")], []).result(10)
    directory.close()


# Twenty-four hours.  Recipients of the good accounts are known for ten days; NEW came today, HUGE has many, BAD_HOUR
# mails an old list for an hour.  SPAMMER begins at five with addresses of which two in five do not exist; relayd is
# started anew an hour later.

ACCOUNTS = 200
HUGE, BAD_HOUR, NEW, SPAMMER = 0, 1, 198, 199
BEGINS, RESTARTS = 5 * 60, 6 * 60  # minutes
EVERY = 5  # minutes between the batches of one account


def who(account: int) -> Who:
    return "t1", "gmail", f"a{account}", f"c{account}.example", f"l{account}", f"news@c{account}.example"


class World:
    """``turns``: (minute, turn); ``sent``: what went out, by account."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dice = random.Random(7)
        self.turns: list[tuple[int, Turn]] = []
        self.sent = dict.fromkeys(range(ACCOUNTS), 0)
        self.minute = 0
        self.hourly = {account: self.dice.choice([10, 50, 200, 1000, 5000]) for account in range(ACCOUNTS)}
        self.hourly |= {HUGE: 100_000, BAD_HOUR: 2000, NEW: 300}
        self.unknown = {account: self.dice.choice([0.002, 0.01, 0.02, 0.03]) for account in range(ACCOUNTS)}
        self.unknown |= {HUGE: 0.02, NEW: 0.05}
        self.start()

    def start(self) -> None:
        self.posted: Queue[Callable[[], None]] = Queue()
        self.directory = Directory(self.path, self.posted.put)
        self.reputation = Reputation(self.directory.reputations.stored, self.directory.reputations.keep)
        self.reputation.configure(Rules())
        self.reputation.changed = lambda turn: self.turns.append((self.minute, turn))

    def stop(self) -> None:
        stopped = self.reputation.stop()
        while not stopped.done():
            self.posted.get(timeout=10)()
        self.directory.close()

    def send(self, account: int, count: int, share: float, now: float) -> None:
        bad = sum(self.dice.random() < share for _ in range(min(count, 500))) * count // max(1, min(count, 500))
        for what, recipients in (("received", count), ("unknown", bad), ("delivered", count - bad)):
            if recipients:
                self.reputation.event(who(account), what, now, recipients)  # type: ignore[arg-type]
        self.sent[account] += count

    def ten_days(self) -> None:
        for day in range(10, 0, -1):
            now = MIDNIGHT - day * DAY
            for account in range(ACCOUNTS - 2):
                self.send(account, 24 * self.hourly[account], self.unknown[account], now)
            self.tick(now)

    def tick(self, now: float) -> None:
        self.reputation.tick(now)
        try:
            while True:
                self.posted.get_nowait()()
        except Empty:
            pass

    def day(self) -> None:
        for self.minute in range(24 * 60):
            now = MIDNIGHT + 60 * self.minute
            if self.minute == RESTARTS:
                self.stop()
                self.start()
            for account in range(self.minute % EVERY, ACCOUNTS - 1, EVERY):
                bad_hour = account == BAD_HOUR and 600 <= self.minute < 660
                share = 0.2 if bad_hour else self.unknown[account]
                batch = self.hourly[account] * EVERY / 60 * self.reputation.share("account", f"a{account}")
                self.send(account, int(batch + self.dice.random()), share, now)
            spams = self.minute >= BEGINS and not self.reputation.blocked(who(SPAMMER))
            if spams:
                self.send(SPAMMER, 100, 0.4, now)
            self.tick(now + 30)

    def acts(self, account: int) -> set[str]:
        """What was done to anybody of an account."""
        mine = {f"a{account}", f"a{account}/c{account}.example", f"l{account}", f"c{account}.example"}
        return {turn.acts for _, turn in self.turns if turn.key[1] in mine} - {"good"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world") / "directory.sqlite")
    made.ten_days()
    assert not made.turns
    made.sent = dict.fromkeys(range(ACCOUNTS), 0)
    made.day()
    yield made
    made.stop()


def test_the_spammer_is_found_and_blocked_within_minutes_by_its_connection(world):
    found = [(minute, turn.acts) for minute, turn in world.turns if turn.key == ("connection", f"l{SPAMMER}")]
    assert found[0][0] - BEGINS <= 2 and found[-1][1] == "block" and found[-1][0] - BEGINS <= 5
    assert world.sent[SPAMMER] <= 600


def test_the_spammer_stays_blocked_across_the_restart_and_its_client_is_held(world):
    assert "connection:l199 is blocked by reputation" in world.reputation.blocked(who(SPAMMER))
    assert world.acts(SPAMMER) == {"slow", "hold", "block"}
    assert not [minute for minute, turn in world.turns if minute > RESTARTS and turn.key[1] == f"l{SPAMMER}"]


def test_no_good_account_is_held_or_blocked(world):
    for account in range(ACCOUNTS - 1):
        assert world.acts(account) <= ({"slow"} if account == BAD_HOUR else set()), account


def test_a_good_account_with_one_bad_hour_is_slowed_and_let_go_on_the_same_day(world):
    key = ("account", f"a{BAD_HOUR}")
    turns = [(minute, turn.step) for minute, turn in world.turns if turn.key == key]
    assert [step for _, step in turns] == ["slow", "good"]
    (slowed, _), (released, _) = turns
    assert 600 <= slowed < 660 and released - slowed < 240


def test_whoever_did_nothing_keeps_his_pace(world):
    for account in set(range(ACCOUNTS - 1)) - {BAD_HOUR}:
        assert world.sent[account] > 0.9 * 24 * world.hourly[account] - 50
