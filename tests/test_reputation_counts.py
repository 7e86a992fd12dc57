"""The windows of reputation: what they sum is what a list of everything would give; and what an event costs."""

from array import array
from sys import getsizeof

from hypothesis import given
from hypothesis import strategies as st

from relayd.reputation.counts import BUCKETS, DAY, HOUR, N, Window

START = 1_700_000_000.0
STEPS = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 400), st.floats(0, 5000), st.floats(0, 200_000)),
        st.integers(0, N - 1),
        st.integers(1, 1000),
    ),
    max_size=60,
)


@given(st.sampled_from([HOUR, DAY]), STEPS, st.floats(0, 100_000), st.one_of(st.none(), st.floats(0, 200_000)))
def test_a_window_sums_what_a_list_of_everything_would(seconds, steps, later, ago):
    window, everything, now = Window(seconds), [], START
    for wait, counter, count in steps:
        now += wait
        window.add([(counter, count)], now)
        everything.append((now, counter, count))
    now += later
    since = now - ago if ago is not None else 0.0
    wide = BUCKETS[seconds]
    expected = [0] * N
    for when, counter, count in everything:
        if when // wide > now // wide - seconds // wide and (not since or when // wide > since // wide):
            expected[counter] += count
    assert window.sums(now, since) == expected


def test_what_came_within_the_window_less_a_bucket_is_always_in_it_and_what_is_older_never():
    for seconds in (HOUR, DAY):
        for offset in range(0, BUCKETS[seconds], 100):
            window, now = Window(seconds), START + offset
            window.add([(0, 1)], now)
            assert window.sums(now + seconds - BUCKETS[seconds])[0] == 1
            assert window.sums(now + seconds)[0] == 0


def test_a_clock_that_is_set_back_counts_into_the_last_bucket():
    window = Window(HOUR)
    window.add([(0, 1)], START)
    window.add([(0, 1)], START - 10 * DAY)
    assert window.sums(START)[0] == window.sums(START - 10 * DAY)[0] == 2


def test_the_windows_of_a_subject_take_less_than_two_kilobytes():
    cells = sum(seconds // wide for seconds, wide in BUCKETS.items()) * N
    assert getsizeof(array("I", bytes(4 * cells))) < 2048
