"""The verb of figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.control.statistics import lines
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.ctl import parser
from relayd.errors import InputError
from relayd.inquiry import Archive
from relayd.spool import Checkpoint
from relayd.statistics import Settings, Statistics
from tests.fake_relay import NOW, FakeRelay, opened
from tests.test_statistics import fact

HOUR = 3600.0


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[FakeRelay]:
    """The account crm and shop below it have sent some, and other."""
    made = opened(tmp_path)
    for name, more in (("crm", {}), ("shop", {"parent": "crm"}), ("other", {})):
        made.directory.add_account(name, now=NOW, **more).result(10)
    made.directory.add_connection("shop-1", account="shop", password="correct horse", now=NOW).result(10)
    counted = Statistics(tmp_path / "statistics.sqlite", settings, made.now)
    crm, shop, other = ({"account": name, "connection": f"{name}-1"} for name in ("crm", "shop", "other"))
    facts = [
        *[fact(NOW - HOUR, **crm, received=NOW - HOUR - 1)] * 97,
        *[fact(NOW - HOUR, "bounced", **crm, cls="recipient_unknown")] * 3,
        *[fact(NOW - HOUR, "queued", **crm, site="", source="")] * 100,
        fact(NOW - 30 * HOUR, **crm),
        *[fact(NOW - HOUR, **shop, stream="bulk", site="mx.x.example")] * 5,
        fact(NOW - HOUR, **other, source="t2"),
    ]
    counted.add(facts, Checkpoint("1.jsonl", 1))
    counted.close()
    made.archive = Archive(tmp_path, "mx1", settings, made.now)
    yield made
    made.archive.stop()
    made.close()


def settings() -> Settings:
    return Settings(frozenset({"gmail"}))


def show(relay: FakeRelay, **given: object) -> Any:
    return run(BY_PATH["/v1/stats/show"], relay, given).result(10)  # type: ignore[arg-type]


def table(relay: FakeRelay, command: str) -> list[str]:
    """What relayctl prints of it."""
    options = parser().parse_args(["stats", "show", *command.split()])
    given = {arg.name: getattr(options, arg.name) for arg in options.verb.args}
    answer = run(options.verb, relay, {name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    return list(options.verb.prints(answer.result(10)))


@pytest.mark.parametrize(
    ("given", "delivered"),
    [
        ({}, 103),
        ({"account": "crm"}, 97),
        ({"account": "crm", "below": "true"}, 102),
        ({"account": "crm", "since": "3d"}, 98),
        ({"account": "crm", "since": "3d", "until": "24h"}, 1),
        ({"connection": "shop-1"}, 5),
        ({"account": "crm", "connection": "shop-1"}, 0),
        ({"stream": "bulk"}, 5),
        ({"provider": "gmail"}, 98),
        ({"provider": "gmail", "account": "crm"}, 97),
        ({"site": "mx.x.example"}, 5),
        ({"source": "t2"}, 1),
        ({"event": ["bounced", "queued"]}, 0),
    ],
)
def test_figures_are_of_whom_and_when_is_asked(relay, given, delivered):
    assert show(relay, **given)["total"]["counts"].get("delivered", 0) == delivered


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ({"since": "2h"}, "minute"),
        ({}, "hour"),
        ({"since": "30d"}, "day"),
        ({"since": "30d", "step": "hour"}, "hour"),
        ({"by": "stream"}, "total"),
        ({"by": "stream", "step": "day"}, "day"),
    ],
)
def test_a_step_that_suits_is_taken(relay, given, step):
    assert show(relay, **given)["step"] == step


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"account": "nobody"}, "account"),
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-13-01"}, "until"),
        ({"since": "1h", "until": "2h"}, "since"),
        ({"by": ["stream", "class", "event"]}, "by"),
        ({"by": "weather"}, "by"),
        ({"event": "sunk"}, "event"),
        ({"account": "crm", "source": "t1"}, "source"),
        ({"account": "crm", "by": "site"}, "site"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(relay, given, field):
    with pytest.raises(InputError) as refused:
        show(relay, **given)
    assert refused.value.field == field


def test_the_table_has_a_row_for_each_step_with_rates_and_a_sum(relay):
    assert table(relay, "--account crm --since 36h --step hour") == [
        "2023-11-13 10:00 to 2023-11-14 23:00 UTC, by the hour",
        "TIME              QUEUED  DELIVERED  DELIV%  DEFER%  BOUNCE%  COMPL%",
        "2023-11-13 16:00       0          1  100.00    0.00     0.00    0.00",
        "2023-11-14 21:00     100         97   97.00    0.00     3.00    0.00",
        "TOTAL                100         98   97.03    0.00     2.97    0.00",
        "half of the deliveries took less than 1s from reception on, 95 % less than 1s",
    ]


def test_the_table_of_events_has_counts(relay):
    assert table(relay, "--account crm --since 24h --by event") == [
        "2023-11-13 22:00 to 2023-11-14 23:00 UTC",
        "EVENT      COUNT",
        "queued       100",
        "delivered     97",
        "bounced        3",
        "TOTAL        200",
    ]


def test_the_table_of_classes_has_counts_and_no_rates(relay):
    """Of some events alone there is no share."""
    expected = ["CLASS              BOUNCED", "recipient_unknown        3"]
    assert table(relay, "--account crm --by class --event bounced --event deferred")[1:] == expected
    assert show(relay, account="crm", by="class", event="bounced")["rows"][0]["rates"] == {}


def test_where_there_is_nothing_it_says_so(relay):
    assert table(relay, "--account crm --since 20m") == [
        "nothing was counted from 2023-11-14 21:53 to 2023-11-14 22:14 UTC"
    ]


def test_the_table_keeps_to_80_columns_and_nothing_steers_the_terminal():
    counts = {"queued": 12_345_678, "delivered": 12_000_000, "bounced": 999}
    rates = {"delivered": 100.0, "deferred": 100.0, "bounced": 100.0, "complained": 100.0}
    rows = [{"time": NOW, "counts": counts, "rates": rates}]
    total = {"counts": counts, "rates": rates}
    answer = {"step": "hour", "since": NOW, "until": NOW + 1, "rows": rows, "total": total}
    assert max(map(len, lines(answer))) <= 80
    evil = [{"site": "mx\x1b[2J.example", "counts": {}, "rates": {}}]
    assert not any("\x1b" in line for line in lines({**answer, "rows": evil}))
