"""Delivery windows, held against a clock that looks at every minute."""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, reset_tzpath

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relayd.message.window import parse, stored

try:
    ZoneInfo("Europe/Berlin")
    ZONES = ["UTC", "+05:30", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]
except ZoneInfoNotFoundError:  # pragma: no cover
    ZONES = ["UTC", "+05:30"]
named = pytest.mark.skipif(len(ZONES) == 2, reason="this machine has no time zone data")

DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def zone_of(name: str) -> timezone | ZoneInfo:
    return {"UTC": UTC, "+05:30": timezone(timedelta(hours=5.5))}.get(name) or ZoneInfo(name)


# The oracle: (days, first minute, minute behind the last) of the week's spans, looked up on the wall clock.

Span = tuple[list[int], int, int]


def written(spans: list[Span], zone: str) -> str:
    def clock(minute: int) -> str:
        return f"{minute // 60:02d}:{minute % 60:02d}"

    return ";".join(f"{','.join(DAYS[d] for d in days)} {clock(a)}-{clock(b)}" for days, a, b in spans) + f" {zone}"


def seen_open(spans: list[Span], zone: str, moment: float) -> bool:
    local = datetime.fromtimestamp(moment // 1, zone_of(zone))  # it would round, at last into the next minute
    minute, day = local.hour * 60 + local.minute, local.weekday()
    for days, first, end in spans:
        if first < end and day in days and first <= minute < end:
            return True
        if end < first and ((day in days and minute >= first) or ((day - 1) % 7 in days and minute < end)):
            return True
    return False


def minutes(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low // 5, high // 5).map(lambda n: n * 5)


@st.composite
def weeks(draw: st.DrawFn) -> list[Span]:
    spans = []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(minutes(0, 1435) | minutes(60, 240))
        end = draw(minutes(5, 1440) | minutes(60, 240))
        assume(first != end)
        spans.append((draw(st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True)), first, end))
    return spans


# Days on which one of the zones turns its clock, and any other.
NEAR_A_TURN = st.sampled_from(
    ["2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-04-05", "2026-10-04", "2026-02-15", "2026-03-22"]
).flatmap(lambda day: st.floats(-3 * 86400, 2 * 86400).map(lambda more: at(f"{day}T00:00:00+00:00") + more))
MOMENTS = NEAR_A_TURN | st.floats(at("2024-01-01T00:00:00+00:00"), at("2034-01-01T00:00:00+00:00"))


@settings(max_examples=150, deadline=None)
@given(weeks(), st.sampled_from(ZONES), MOMENTS)
def test_a_window_opens_when_a_clock_that_is_looked_at_each_minute_says_so(
    spans: list[Span], zone: str, moment: float
) -> None:
    window = parse(written(spans, zone))
    assert window.is_open(moment) is seen_open(spans, zone, moment)
    opens = window.next_open(moment)
    if seen_open(spans, zone, moment):
        assert opens == moment
        return
    minute = moment // 60 * 60 + 60
    while not seen_open(spans, zone, minute):
        minute += 60
    assert opens == minute


@given(weeks(), st.sampled_from(ZONES), MOMENTS)
def test_when_it_opens_it_is_open(spans: list[Span], zone: str, moment: float) -> None:
    window = parse(written(spans, zone))
    assert window.is_open(window.next_open(moment))


@named
def test_a_week_whose_only_opening_the_clock_skips_is_waited_out_in_no_time() -> None:
    window = parse("Sun 02:15-02:45 Europe/Berlin")
    began = time.process_time()
    assert window.next_open(at("2026-03-23T00:00:00+01:00")) == at("2026-04-05T02:15:00+02:00")
    assert time.process_time() - began < 0.1


@named
def test_a_clock_put_forward_into_a_span_opens_it() -> None:
    window = parse("02:30-05:00 Europe/Berlin")
    assert window.next_open(at("2026-03-29T01:10:00+01:00")) == at("2026-03-29T03:00:00+02:00")


@named
def test_a_clock_put_back_opens_a_span_twice() -> None:
    window = parse("02:10-02:20 Europe/Berlin")
    assert window.next_open(at("2026-10-25T01:00:00+02:00")) == at("2026-10-25T02:10:00+02:00")
    assert window.next_open(at("2026-10-25T02:20:00+02:00")) == at("2026-10-25T02:10:00+01:00")


@pytest.mark.parametrize(
    ("text", "moment", "opens"),
    [
        ("Mon-Fri 09:00-18:00", "2026-07-03T18:00:00+00:00", "2026-07-06T09:00:00+00:00"),
        ("09:00-21:00", "2026-07-03T22:00:00+00:00", "2026-07-04T09:00:00+00:00"),
        ("09:00-21:00 +03:00", "2026-07-03T05:00:00+00:00", "2026-07-03T06:00:00+00:00"),
        ("09:00-21:00 -03:30", "2026-07-03T05:00:00+00:00", "2026-07-03T12:30:00+00:00"),
        ("22:00-06:00", "2026-07-03T06:00:00+00:00", "2026-07-03T22:00:00+00:00"),
        ("Sun 22:00-06:00", "2026-07-06T05:59:59+00:00", "2026-07-06T05:59:59+00:00"),
        ("Sat-Mon 10:00-11:00", "2026-07-07T00:00:00+00:00", "2026-07-11T10:00:00+00:00"),
        ("Mon 09:00-10:00; Wed 12:00-24:00 UTC", "2026-07-06T10:00:00+00:00", "2026-07-08T12:00:00+00:00"),
        ("mon , WED 09:00 - 10:00", "2026-07-06T10:00:00+00:00", "2026-07-08T09:00:00+00:00"),
        ("Fri00:00-24:00", "2026-07-06T10:00:00+00:00", "2026-07-10T00:00:00+00:00"),
    ],
)
def test_windows_as_senders_write_them(text: str, moment: str, opens: str) -> None:
    assert parse(text).next_open(at(moment)) == at(opens)


@named
def test_one_zone_holds_for_all_of_a_window() -> None:
    window = parse("Mon 09:00-10:00; Tue 09:00-10:00 Europe/Berlin")
    assert window.next_open(at("2026-07-06T00:00:00+02:00")) == at("2026-07-06T09:00:00+02:00")
    with pytest.raises(ValueError, match="one time zone, not 'Europe/Berlin' and 'UTC'"):
        parse("Mon 09:00-10:00 Europe/Berlin; Tue 09:00-10:00 UTC")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no window: write"),
        ("always", "is no window: write"),
        ("Mon-Fri 9-18", "is no window: write"),
        ("Mon-Fri 09:00-18:00;", "'' is no window"),
        ("Moon 09:00-18:00", "'Moon' is no day"),
        ("Mon- 09:00-18:00", "'Mon-' is no day"),
        ("Mon-Tue-Wed 09:00-18:00", "is no day"),
        (", 09:00-18:00", "is no window"),
        ("Mon, 09:00-18:00", "'' is no day"),
        ("09:00-25:00", "'25:00' is no time of day"),
        ("09:60-10:00", "'09:60' is no time of day"),
        ("24:00-10:00", "no time at all"),
        ("09:00-09:00", 'for whole days write "00:00-24:00"'),
        ("09:00-10:00 Mars/Olympus", "'Mars/Olympus' is no time zone known here"),
        ("09:00-10:00 +3", "an offset such as"),
        ("09:00-10:00 +15:00", "is no time zone"),
        ("09:00-10:00 ../../etc/passwd", "is no time zone"),
        ("09:00-10:00 Europe", "is no time zone"),
        ("09:00-10:00 " + "A" * 300, "is no time zone"),
    ],
)
def test_what_is_no_window_is_told_with_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


@given(st.text("MonTueFriSat,-; 0123456789:+Z/EuropBln", max_size=40))
def test_any_text_is_a_window_or_a_sentence(text: str) -> None:
    try:
        window = parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert window.is_open(window.next_open(0.0))


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No zone data anywhere."""
    monkeypatch.setitem(sys.modules, "tzdata", None)
    reset_tzpath(to=[])
    for cache in (ZoneInfo.clear_cache, parse.cache_clear, stored.cache_clear):
        cache()
    yield
    reset_tzpath()
    for cache in (ZoneInfo.clear_cache, parse.cache_clear, stored.cache_clear):
        cache()


def test_on_a_machine_without_zone_data_offsets_work_and_names_are_told_so(bare_machine: None) -> None:
    assert parse("09:00-21:00 +03:00").is_open(at("2026-07-03T06:00:00+00:00"))
    with pytest.raises(ValueError, match=r"an offset such as \+03:00"):
        parse("09:00-21:00 Europe/Berlin")


def test_a_window_in_the_spool_whose_zone_is_gone_holds_nothing_back(bare_machine: None) -> None:
    assert stored("09:00-10:00 Europe/Berlin").next_open(5.5) == 5.5
