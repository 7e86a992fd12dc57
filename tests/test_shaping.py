"""Limits: what a rate means, and that it is kept whatever comes when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.shaping.limits import KEPT, Bucket, Pace, Rate, rate

NOW = 1_800_000_000.0
TINY = 1e-6  # seconds: what unix time in a float can be wrong by, and a little more

RATES = st.builds(Rate, st.integers(1, 5000), st.sampled_from([1.0, 60.0, 3600.0, 86400.0]))
STEPS = st.one_of(st.just(0.0), st.floats(0.0, 0.1), st.floats(0.0, 20.0), st.floats(0.0, 100_000.0))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("100/s", Rate(100, 1.0)),
        ("20/min", Rate(20, 60.0)),
        ("20 / M", Rate(20, 60.0)),
        ("5000/h", Rate(5000, 3600.0)),
        ("7/day", Rate(7, 86400.0)),
        ("1000/h burst 50", Rate(1000, 3600.0, 50)),
        ("1000/h  Burst 50", Rate(1000, 3600.0, 50)),
    ],
)
def test_a_rate_is_read(text: str, meant: Rate) -> None:
    assert rate(text) == meant


@pytest.mark.parametrize(
    "text", ["", "100", "0/s", "-1/s", "1/fortnight", "1.5/s", "many/s", "5/s burst", "5/s burst 0", "٥/s", 5, None]
)
def test_what_is_no_rate_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="write "):
        rate(text)


def test_a_rate_is_shown_as_it_is_written() -> None:
    written = ["100/s", "20/m", "5/h", "3/d", "1000/h burst 50"]
    assert [str(rate(text)) for text in written] == written


@given(
    st.builds(Rate, st.integers(1, 500), st.sampled_from([1.0, 60.0, 3600.0])),
    st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200),
)
def test_no_stretch_of_the_period_sees_more_than_the_count_not_by_one(limit: Rate, steps: list[float]) -> None:
    pace, now, gone, passed = Pace(limit), NOW, [], []
    for step in steps:
        now += step
        for _ in range(3):
            if not pace.wait_to_pass(now):
                pace.passed(now)
                passed.append(now)
            elif not pace.wait_in_line(now):
                pace.spend(now)
            else:
                continue
            gone.append(now)
    for end in gone:
        assert sum(end - limit.period < moment <= end for moment in gone) <= limit.count
    for i, start in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= (passed[j] - start) * limit.count / limit.period * KEPT + 2


@given(st.integers(1, 5000), st.sampled_from([1.0, 60.0, 3600.0]))
def test_a_rate_that_is_always_wanted_is_used_within_a_twentieth(count: int, period: float) -> None:
    pace, now, gone = Pace(Rate(count, period)), NOW, 0
    while now < NOW + 20 * period and gone < 3000:
        now += pace.wait_in_line(now)
        pace.spend(now)
        gone += 1
    assert gone >= 0.95 * (now - NOW) * count / period


@given(st.builds(Rate, st.integers(1, 500), st.sampled_from([1.0, 60.0, 3600.0])))
def test_who_waits_as_long_as_told_may_go(limit: Rate) -> None:
    pace, now = Pace(limit), 0.0
    for _ in range(20):
        now += pace.wait(now)
        assert pace.wait(now) < 1e-6
        pace.spend(now)


def test_a_path_has_a_burst_only_where_one_is_named() -> None:
    even, burst = Pace(rate("20/m")), Pace(rate("20/m burst 3"))
    for pace, at_once in ((even, 1), (burst, 3)):
        for _ in range(at_once):
            assert pace.wait(NOW) == 0
            pace.spend(NOW)
        assert pace.wait(NOW) == pytest.approx(3.0)


@pytest.mark.parametrize("text", ["1/s", "7/s", "100/s", "60/m burst 10"])
def test_mail_that_passes_all_the_time_has_its_share_and_the_line_the_rest(text: str) -> None:
    limit = rate(text)
    pace, line, passed = Pace(limit), 0, 0
    for step in range(200_000):
        now = NOW + step / 200
        if not pace.wait_to_pass(now):
            pace.passed(now)
            passed += 1
        elif not pace.wait_in_line(now):
            pace.spend(now)
            line += 1
    whole = 1000 * limit.count / limit.period
    assert passed == pytest.approx(whole * KEPT, rel=0.1)
    assert line + passed == pytest.approx(whole, rel=0.05)


# Buckets: several at once.


def spent(bucket: Bucket, asked: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Asks for so many after each step; gives what went when."""
    now, gone = NOW, []
    for step, count in asked:
        now += step
        if not bucket.wait(now, count):
            bucket.spend(now, count)
            gone.append((now, count))
    return gone


def kept_within(gone: list[tuple[float, int]], each: float, deep: float) -> None:
    """Fails if any window saw more than the bucket's depth and what flowed in, both in seconds."""
    for i, (start, _) in enumerate(gone):
        total = 0
        for end, count in gone[i:]:
            total += count
            assert total * each <= deep + end - start + TINY * len(gone)


@given(RATES, st.integers(1, 5000), st.data())
def test_no_window_sees_more_than_the_burst_and_the_rate(limit: Rate, burst: int, data: st.DataObject) -> None:
    asked = data.draw(st.lists(st.tuples(STEPS, st.integers(1, burst)), max_size=60))
    each = limit.period / limit.count
    kept_within(spent(Bucket(limit, burst), asked), each, burst * each)


@given(RATES, st.integers(1, 50), st.lists(st.tuples(STEPS, st.integers(1, 500)), max_size=60))
def test_more_than_the_burst_at_once_is_paid_for_afterwards(limit: Rate, burst: int, asked) -> None:
    each = limit.period / limit.count
    gone = spent(Bucket(limit, burst), asked)
    assert not asked or gone[0][1] == asked[0][1]  # a full bucket takes any number
    kept_within(gone, each, max([burst, *(count for _, count in gone)]) * each)


def test_a_number_larger_than_the_burst_goes_when_the_bucket_is_full() -> None:
    bucket = Bucket(rate("60/m"), 10)
    bucket.spend(NOW, 4)
    assert bucket.wait(NOW, 500) == pytest.approx(4.0) and bucket.left(NOW) == 6
    bucket.spend(NOW + 4, 500)
    assert bucket.left(NOW + 4) == 0
    assert bucket.wait(NOW + 4) == pytest.approx(491.0)


@given(RATES, st.integers(1, 1000), st.lists(st.tuples(STEPS, st.integers(1, 2000)), min_size=1, max_size=40))
def test_who_waits_as_long_as_told_is_let_through_and_not_a_microsecond_earlier(limit, burst, asked) -> None:
    bucket, now = Bucket(limit, burst), NOW
    for step, count in asked:
        now += step
        wait = bucket.wait(now, count)
        if wait > 2e-6:
            assert bucket.wait(now + wait - 1e-6, count) > 0
            now += wait
        assert bucket.wait(now, count) == 0
        bucket.spend(now, count)


@given(
    RATES,
    st.integers(1, 100),
    st.lists(st.tuples(st.one_of(STEPS, st.floats(-100_000.0, 0.0)), st.integers(1, 100)), max_size=60),
)
def test_a_clock_that_is_set_back_neither_locks_nor_lets_more_through(limit, burst, asked) -> None:
    bucket, now, true, gone = Bucket(limit, burst), NOW, NOW, []
    for step, count in asked:
        before = bucket.wait(now, count)
        now += step
        true += max(step, 0.0)
        if step < 0:
            assert bucket.wait(now, count) == pytest.approx(before, abs=TINY)
        if not bucket.wait(now, count):
            bucket.spend(now, count)
            gone.append((true, count))
    each = limit.period / limit.count
    kept_within(gone, each, max([burst, *(count for _, count in gone)]) * each + TINY * len(asked))


def test_what_was_refilled_meanwhile_is_not_given_back_a_second_time() -> None:
    bucket = Bucket(rate("60/m"), 10)
    bucket.spend(NOW, 10)
    bucket.spend(NOW + 10, 4)
    bucket.give_back(NOW, NOW + 10, 10)
    assert bucket.left(NOW + 10) == 6
    bucket.give_back(NOW + 10, NOW + 11, 4)
    assert bucket.left(NOW + 11) == 10


@given(RATES, st.integers(1, 50), st.lists(st.tuples(STEPS, st.integers(1, 50), st.booleans()), max_size=60))
def test_giving_back_late_brings_nobody_above_the_rate(limit: Rate, burst: int, asked) -> None:
    bucket, now, held, kept = Bucket(limit, burst), NOW, [], []
    for step, count, keep in asked:
        now += step
        count = min(count, burst)
        if not keep and held:
            bucket.give_back(held[0][0], now, held.pop(0)[1])
        if not bucket.wait(now, count):
            bucket.spend(now, count)
            (kept if keep else held).append((now, count))
    each = limit.period / limit.count
    kept_within(kept, each, burst * each)


@given(RATES, st.integers(1, 50), st.integers(1, 500), st.integers(1, 50))
def test_what_is_given_back_at_once_was_never_taken(limit: Rate, burst: int, count: int, before: int) -> None:
    bucket = Bucket(limit, burst)
    bucket.spend(NOW, before)
    wait = bucket.wait(NOW)
    bucket.spend(NOW, count)
    bucket.give_back(NOW, NOW, count)
    assert bucket.wait(NOW) == pytest.approx(wait, abs=TINY)


def test_what_is_left_is_what_can_be_taken() -> None:
    bucket = Bucket(rate("1000/h"), 1000)
    assert (bucket.left(NOW), bucket.fills(NOW)) == (1000, 0.0)
    bucket.spend(NOW, 1)
    assert (bucket.left(NOW), bucket.fills(NOW)) == (999, pytest.approx(3.6))
    assert bucket.wait(NOW, 999) == 0 and bucket.wait(NOW, 1000) > 0
