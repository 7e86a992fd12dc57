"""Statistics: sums by the minute, the hour and the day that agree with a naive count, whatever is killed when."""

import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.errors import InputError
from relayd.history import Fact
from relayd.spool import Checkpoint
from relayd.statistics import Figures, Settings, Statistics, figures, store
from relayd.statistics.store import DAY, HOUR, MINUTE

NOW = 1_764_000_000 // DAY * DAY + 20 * HOUR
NAMES = ("queued", "deferred", "delivered", "bounced", "complained")


def fact(time: float = NOW, event: Any = "delivered", **more: Any) -> Fact:
    own = {"account": "crm", "connection": "crm-1", "stream": "news", "cls": "", "site": "gmail", "source": "t1"}
    own |= {"recipient": "a@x.example", "track_id": "", "delivery": 1, "received": 0.0, **more}
    return Fact(position=0, event=event, time=time, **own)  # type: ignore[arg-type]


class Counting:
    """Counters on disk, with a clock of their own."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path / "statistics.sqlite"
        self.settings = Settings(frozenset({"gmail", "mailru"}), **settings)
        self.now = float(NOW)
        self.at = 0
        self.seen: list[tuple[Any, ...]] = []
        self.open()

    def open(self) -> None:
        self.made = Statistics(self.path, lambda: self.settings, lambda: self.now, lambda *one: self.seen.append(one))

    def add(self, *found: Fact) -> None:
        self.at += 1
        self.made.add(found, Checkpoint("1.jsonl", self.at))

    def flush(self) -> None:
        self.now += 3
        self.made.tend()
        self.now -= 3

    def ask(self, **asked: Any) -> dict[str, Any]:
        self.flush()
        asked = {"since": 0, "until": NOW + 365 * DAY, "step": "total", **asked}
        return figures(self.path, Figures(**asked), self.settings, self.now)

    def counts(self, **asked: Any) -> dict[str, int]:
        found: dict[str, int] = self.ask(**asked)["total"]["counts"]
        return found

    def table(self, name: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(f"SELECT * FROM {name}").fetchall()


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[Counting]:
    made = Counting(tmp_path)
    yield made
    made.made.close()


# Counting.


def test_what_is_counted_is_on_disk_after_a_moment(counting):
    counting.add(fact(), fact())
    assert counting.made.kept == Checkpoint()
    counting.now += 1
    counting.made.tend()
    assert counting.table("senders") == [] and counting.made.kept == Checkpoint()
    counting.now += 2
    counting.made.tend()
    assert counting.made.kept == counting.made.at == Checkpoint("1.jsonl", 1)
    assert counting.counts() == {"delivered": 2}


def test_many_different_sums_do_not_wait(counting, monkeypatch):
    monkeypatch.setattr(store, "_GATHERED", 10)
    counting.add(*(fact(connection=f"c{n}") for n in range(11)))
    assert counting.made.kept == Checkpoint("1.jsonl", 1)


def test_a_clock_that_steps_back_holds_nothing_up(counting):
    counting.add(fact())
    counting.now -= DAY
    counting.made.tend()
    assert counting.made.kept == counting.made.at


def test_a_stop_leaves_nothing_in_memory(counting):
    counting.add(fact())
    counting.made.close()
    counting.open()
    assert counting.made.at == Checkpoint("1.jsonl", 1)
    assert counting.counts() == {"delivered": 1}


def test_after_a_kill_it_is_known_from_where_on_to_count_again(counting):
    counting.add(fact())
    counting.flush()
    counting.add(fact(), fact())
    counting.made._db.close()  # killed: nothing more is written
    counting.open()
    assert counting.made.at == Checkpoint("1.jsonl", 1)
    counting.at = 1
    counting.add(fact(), fact())
    assert counting.counts() == {"delivered": 3}


def test_what_fails_is_not_half_counted(counting, monkeypatch):
    counting.add(fact())
    with closing(sqlite3.connect(counting.path)) as db, db:
        db.execute("CREATE TRIGGER broken BEFORE INSERT ON paths BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(sqlite3.Error, match="no"):
        counting.flush()
    assert counting.table("senders") == counting.table("name") == []
    with closing(sqlite3.connect(counting.path)) as db, db:
        db.execute("DROP TRIGGER broken")
    assert counting.counts() == {"delivered": 1}


def test_the_file_is_nobody_elses_to_read_and_gives_space_back(counting):
    assert counting.path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(counting.path)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_broken_file_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "statistics.sqlite"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(sqlite3.DatabaseError, match=r"statistics.sqlite: .*; move it away"):
        Statistics(path, Settings, lambda: 0.0)


def test_whoever_watches_hears_of_every_event(counting):
    counting.add(
        fact(NOW + 2, received=NOW), fact(NOW + 2, received=NOW, late=True), fact(event="queued", site="", source=""),
        fact(event="bounced", site="mx.x.example", cls="mailbox_full"),
    )  # fmt: skip
    assert counting.seen == [
        ("delivered", "gmail", "t1", "", 2.0),
        ("delivered", "gmail", "t1", "", None),
        ("queued", "", "", "", None),
        ("bounced", "", "t1", "mailbox_full", None),
    ]


def test_providers_are_those_of_the_settings_of_the_moment(counting):
    counting.add(fact(site="yandex"), fact(site=""), fact(site="gmail"))
    assert {row["provider"] for row in counting.ask(by=("provider",))["rows"]} == {"gmail", "(other)", ""}
    counting.settings = Settings(frozenset({"yandex"}))
    counting.add(fact(site="yandex"))
    found = {row["provider"]: row["counts"] for row in counting.ask(by=("provider",))["rows"]}
    assert found["yandex"] == {"delivered": 1}


# Bounds.


@pytest.mark.parametrize(("kind", "events"), [("connection", "queued"), ("site", "delivered")])
def test_of_too_many_different_names_of_a_day_the_rest_is_other(counting, monkeypatch, kind, events):
    monkeypatch.setitem(store.MOST, kind, 3)
    counting.add(*(fact(event=events, **{kind: f"n{n}"}) for n in range(5)))
    counting.flush()
    counting.made.close()
    counting.open()  # it is known which are named
    counting.add(fact(event=events, **{kind: "n5"}), fact(event=events, **{kind: "n0"}))
    counting.add(fact(NOW + DAY, event=events, **{kind: "n5"}))  # another day
    rows = {row[kind]: row["counts"][events] for row in counting.ask(by=(kind,))["rows"]}
    assert rows == {"n0": 2, "n1": 1, "n2": 1, "(other)": 3, "n5": 1}


def test_names_that_were_forgotten_in_memory_are_the_same_on_disk(counting, monkeypatch):
    monkeypatch.setattr(store, "_CACHED", 2)
    for _ in range(3):
        counting.add(*(fact(source=f"t{n}") for n in range(5)))
        counting.flush()
    assert {row["source"]: row["counts"]["delivered"] for row in counting.ask(by=("source",))["rows"]} == {
        f"t{n}": 3 for n in range(5)
    }


def test_what_is_too_old_goes_and_longer_spans_stay(counting):
    counting.add(fact(event="queued"), fact())
    counting.flush()
    for days, spans in ((0, {MINUTE, HOUR, DAY}), (3, {HOUR, DAY}), (92, {DAY}), (1100, set())):
        counting.now = float(NOW + days * DAY)
        counting.made.tend()
        assert {row[0] for row in counting.table("senders")} == {row[0] for row in counting.table("paths")} == spans


def test_what_is_too_old_when_it_comes_is_kept_by_longer_spans_alone(counting):
    counting.add(fact(NOW - 10 * DAY))
    counting.flush()
    assert {row[0] for row in counting.table("senders")} == {HOUR, DAY}
    assert counting.counts() == {"delivered": 1}


def test_it_goes_piece_by_piece_and_the_file_shrinks(counting, monkeypatch):
    monkeypatch.setattr(store, "_PIECE", 100)
    counting.add(*(fact(NOW + 60 * n, connection=f"c{n}", site=f"mx{n}.example") for n in range(1000)))
    counting.flush()
    counting.made._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = counting.path.stat().st_size
    counting.now = float(NOW + 1200 * DAY)
    left = [len(counting.table("senders"))]
    while counting.table("name"):
        counting.made.tend()
        left.append(len(counting.table("senders")))
    assert max(before - after for before, after in pairwise(left)) <= 3 * 100
    assert left[-1] == 0 and not counting.table("paths")
    counting.now += 61
    counting.made.tend()
    counting.made._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert counting.path.stat().st_size < size / 2


# Figures.


def mixed() -> list[Fact]:
    rng = Random(5)
    found = []
    for _ in range(600):
        event = rng.choice(NAMES)
        out = event != "queued"
        found.append(
            fact(
                NOW - rng.randrange(40 * HOUR), event, account=rng.choice(("crm", "shop")),
                connection=rng.choice(("c1", "c2", "c3")), stream=rng.choice(("news", "bulk")),
                site=rng.choice(("gmail", "mailru", "mx.x.example")) if out else "",
                source=rng.choice(("t1", "t2")) if out else "",
                cls=rng.choice(("mailbox_full", "greylist")) if event in ("bounced", "deferred") else "",
            )
        )  # fmt: skip
    return found


def provider(one: Fact) -> str:
    return one.site if one.site in ("gmail", "mailru", "") else "(other)"


def value(one: Fact, by: str) -> str:
    return provider(one) if by == "provider" else str(getattr(one, "cls" if by == "class" else by))


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, lambda one: True),
        ({"accounts": ("crm",)}, lambda one: one.account == "crm"),
        ({"accounts": ("crm", "shop")}, lambda one: True),
        ({"accounts": ("nobody",)}, lambda one: False),
        ({"connection": "c2"}, lambda one: one.connection == "c2"),
        ({"accounts": ("crm",), "stream": "bulk"}, lambda one: (one.account, one.stream) == ("crm", "bulk")),
        ({"provider": "gmail"}, lambda one: one.site == "gmail"),
        ({"provider": "(other)"}, lambda one: one.site == "mx.x.example"),
        ({"site": "mx.x.example"}, lambda one: one.site == "mx.x.example"),
        ({"site": "gmail", "source": "t2"}, lambda one: (one.site, one.source) == ("gmail", "t2")),
        ({"source": "t1", "provider": "mailru"}, lambda one: (one.site, one.source) == ("mailru", "t1")),
        ({"cls": "greylist"}, lambda one: one.cls == "greylist"),
        ({"events": ("bounced", "queued")}, lambda one: one.event in ("bounced", "queued")),
        ({"events": ("bounced",), "source": "t1"}, lambda one: (one.event, one.source) == ("bounced", "t1")),
    ],
)
@pytest.mark.parametrize("step", ["total", "day", "hour", "minute"])
def test_figures_are_of_what_is_asked(counting, asked, meant, step):
    all_of_them = mixed()
    counting.add(*all_of_them)
    since = NOW - 40 * HOUR
    assert counting.counts(**asked, since=since, step=step) == Counter(one.event for one in all_of_them if meant(one))


@pytest.mark.parametrize(
    "by",
    [
        ("event",), ("class",), ("account",), ("connection",), ("stream",), ("provider",), ("site",), ("source",),
        ("account", "stream"), ("provider", "event"), ("site", "source"), ("event", "class"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", ["total", "hour"])
def test_figures_are_grouped_by_what_is_asked(counting, by, step):
    all_of_them = mixed()
    counting.add(*all_of_them)
    of_paths = {"site", "source"} & set(by)
    naive: dict[tuple[Any, ...], Counter[str]] = {}
    for one in all_of_them:
        if one.source or not of_paths:  # what went nowhere has no path
            key = (0 if step == "total" else one.time // HOUR * HOUR, *(value(one, name) for name in by))
            naive.setdefault(key, Counter())[one.event] += 1
    answer = counting.ask(by=by, step=step, since=NOW - 40 * HOUR)
    got = {(row.get("time", 0), *(row[name] for name in by)): row["counts"] for row in answer["rows"]}
    assert got == naive
    times = [row.get("time", 0) for row in answer["rows"]]
    assert times == sorted(times)


FACTS = st.builds(
    fact,
    st.integers(NOW - 3 * HOUR, NOW).map(float),
    st.sampled_from(NAMES),
    account=st.sampled_from(["crm", "shop", ""]),
    connection=st.sampled_from(["c1", "c2", "c3", "c4"]),
    site=st.sampled_from(["gmail", "mx.x.example", "mx.y.example", "mx.z.example", ""]),
    cls=st.sampled_from(["", "greylist"]),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(FACTS, max_size=30),
    st.lists(st.integers(1, 9) | st.sampled_from(["a moment", "a kill", "a restart"]), max_size=12),
    st.integers(NOW - 4 * HOUR, NOW),
    st.sampled_from([MINUTE, 17 * MINUTE, HOUR, 5 * HOUR]),
)
def test_sums_over_any_period_are_those_of_a_naive_count(tmp_path_factory, told, steps, since, length):
    """Whatever happens while what was told is read: some of it, a moment, a kill, a restart."""
    counting = Counting(tmp_path_factory.mktemp("statistics"))

    def read(count: int) -> None:
        start = counting.made.at.offset
        counting.made.add(told[start : start + count], Checkpoint("1.jsonl", min(len(told), start + count)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(store.MOST, "connection", 2)
        patch.setitem(store.MOST, "site", 2)
        for step in steps:
            if isinstance(step, int):
                read(step)
            elif step == "a moment":
                counting.flush()
            else:
                (counting.made.close if step == "a restart" else counting.made._db.close)()
                counting.open()
        read(len(told))
        counting.made.close()
    until = since + length
    for name, span in (("minute", MINUTE), ("hour", HOUR), ("day", DAY)):
        first, last = since // span * span, -(-until // span) * span
        within = [one for one in told if first <= one.time < last]
        period: dict[str, Any] = {"step": name, "since": since, "until": until}
        assert _counts(counting, **period) == Counter(one.event for one in within)
        assert _counts(counting, **period, by=("site",)) == Counter(one.event for one in within if one.source)
    whole = [_counts(counting, step=step, since=NOW - 4 * HOUR, until=NOW + 60) for step in ("minute", "hour", "day")]
    assert whole == [Counter(one.event for one in told)] * 3


def _counts(counting: Counting, **asked: Any) -> dict[str, int]:
    found: dict[str, int] = figures(counting.path, Figures(**asked), counting.settings, counting.now)["total"]["counts"]
    return found


@pytest.mark.parametrize(
    ("since", "until", "step", "had"),
    [
        (NOW - HOUR, NOW, "minute", "minute"),
        (NOW - 5 * DAY, NOW, "minute", "hour"),  # minutes are not kept so long
        (NOW - 5 * DAY, NOW, "hour", "hour"),
        (NOW - 100 * DAY, NOW, "minute", "day"),
        (NOW - 100 * DAY, NOW, "hour", "day"),
        (NOW - 5 * DAY, NOW, "day", "day"),
        (NOW - 5000 * DAY, NOW, "day", "day"),
    ],
)
def test_a_step_that_is_not_kept_so_long_becomes_a_longer_one(counting, since, until, step, had):
    counting.add(fact(NOW - MINUTE))
    answer = counting.ask(since=since, until=until, step=step)
    assert answer["step"] == had
    assert answer["since"] <= since and until <= answer["until"]
    assert answer["total"]["counts"] == {"delivered": 1}


@pytest.mark.parametrize(
    ("since", "until", "rounded"),
    [
        (NOW - 60 * MINUTE + 1, NOW - 1, MINUTE),
        (NOW - DAY + 1, NOW - 1, MINUTE),
        (NOW - 2 * DAY + 1, NOW - 1, HOUR),
        (NOW - 40 * DAY + 1, NOW - 1, DAY),
        (NOW // DAY * DAY, NOW // DAY * DAY + DAY, DAY),  # exactly a day
        (NOW - 3 * HOUR, NOW, HOUR),  # exactly hours
    ],
)
def test_a_total_is_of_the_period_but_for_a_small_part(counting, since, until, rounded):
    answer = counting.ask(since=since, until=until)
    assert (answer["since"], answer["until"]) == (since // rounded * rounded, -(-until // rounded) * rounded)


def test_rates_are_in_per_cent(counting):
    counting.add(*[fact()] * 90, *[fact(event="bounced")] * 10, *[fact(event="deferred")] * 25)
    counting.add(fact(event="complained"), fact(event="queued"))
    rates = counting.ask()["total"]["rates"]
    assert rates == {"delivered": 90.0, "bounced": 10.0, "deferred": 20.0, "complained": 1.11}


def test_without_anything_there_are_no_rates(counting):
    assert counting.ask() == {
        "step": "total", "since": 0, "until": counting.ask()["until"], "rows": [], "total": {"counts": {}, "rates": {}}
    }  # fmt: skip


def test_how_long_deliveries_took_is_told_by_whom_and_where_to(counting):
    counting.add(*(fact(NOW + 0.5, received=NOW) for _ in range(90)))
    counting.add(*(fact(NOW + 100, received=NOW, site="mailru") for _ in range(10)))
    counting.add(fact(NOW + 9, event="bounced", received=NOW), fact(NOW + 9e5, received=NOW, late=True))
    answer = counting.ask(since=NOW, until=NOW + DAY)
    assert answer["total"]["seconds"] == {"mean": 10.4, "median": 1.0, "p95": 300.0}
    rows = counting.ask(since=NOW, until=NOW + DAY, by=("provider",), step="day")["rows"]
    assert {row["provider"]: row["seconds"]["median"] for row in rows} == {"gmail": 1.0, "mailru": 300.0}
    assert "seconds" not in counting.ask(since=NOW, until=NOW + DAY, by=("connection",))["total"]
    assert "seconds" not in counting.ask(since=NOW, until=NOW + DAY, cls="greylist")["total"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"accounts": ("crm",), "source": "t1"}, "source"),
        ({"accounts": ("crm",), "by": ("site",)}, "site"),
        ({"connection": "c", "by": ("source",)}, "source"),
        ({"site": "gmail", "by": ("stream",)}, "site"),
        ({"source": "t1", "by": ("provider",)}, "by"),
        ({"site": "gmail", "provider": "mailru"}, "provider"),
        ({"since": NOW, "until": NOW}, "since"),
    ],
)
def test_what_is_not_counted_together_is_refused(counting, asked, field):
    """A customer's question, which always names his account, never comes to be one of everybody's."""
    with pytest.raises(InputError) as refused:
        counting.ask(**asked)
    assert refused.value.field == field


def test_too_long_an_answer_is_refused(counting, monkeypatch):
    monkeypatch.setattr(sys.modules["relayd.statistics.figures"], "MOST", 5)
    counting.add(*(fact(NOW - 60 * n) for n in range(6)))
    with pytest.raises(InputError, match="longer step"):
        counting.ask(step="minute", since=NOW - DAY)


def test_before_anything_is_counted_the_question_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing is counted yet"):
        figures(tmp_path / "none.sqlite", Figures(since=0, until=1), Settings(), 1.0)


def test_an_event_costs_little(tmp_path):
    rng = Random(1)
    facts = [
        fact(NOW + n // 500, rng.choice(NAMES), connection=f"c{n % 20}", site=rng.choice(("gmail", "mailru")))
        for n in range(20_000)
    ]  # fmt: skip

    def spent(directory: Path) -> float:
        directory.mkdir()
        counting = Counting(directory)
        counting.made._observe = None
        began = time.process_time()
        for n in range(10):
            for start in range(0, len(facts), 500):
                counting.made.add(facts[start : start + 500], Checkpoint("1.jsonl", n * len(facts) + start + 1))
                counting.now += 0.05  # 10,000 events a second
                counting.made.tend()
        counting.made.close()
        return (time.process_time() - began) / (10 * len(facts))

    # Once is enough, and others may use the machine meanwhile.
    assert any(spent(tmp_path / str(n)) < 10e-6 for n in range(3))
