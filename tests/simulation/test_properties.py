"""Properties of rates: never more than the rate in any window of its period, whatever comes when; and never less."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.shaping.limits import Pace, Rate

NOW = 1_800_000_000.0
PERIODS = st.sampled_from([1.0, 60.0, 3600.0, 86400.0])
RATES = st.builds(Rate, st.integers(1, 200), PERIODS)
# Steps between looks, as parts of the time that one message takes: bursts, exact turns, pauses, and hours of nothing.
STEPS = st.one_of(
    st.just(0.0), st.just(1.0), st.floats(0.0, 0.2), st.floats(0.9, 1.1), st.floats(0.0, 30.0), st.floats(0.0, 1e4)
)
ASKED = st.lists(st.tuples(STEPS, st.integers(1, 5), st.booleans()), min_size=1, max_size=150)
TICK = 1e-3  # seconds that a provider's clock can tell apart


def gone(pace: Pace, asked: list[tuple[float, int, bool]], start: float = NOW) -> list[float]:
    """When messages went, of so many that were tried at each step, urgent ones and others."""
    each, now, times = pace.rate.period / pace.rate.count, start, []
    for step, count, urgent in asked:
        now += step * each
        for _ in range(count):
            if urgent and pace.wait_to_pass(now) <= 0:
                pace.passed(now)
            elif pace.wait_in_line(now) <= 0:
                pace.spend(now)
            else:
                continue
            times.append(now)
    return times


def densest(times: list[float], period: float) -> int:
    most, first = 0, 0
    for last, when in enumerate(times):
        while times[first] <= when - period + TICK:
            first += 1
        most = max(most, last - first + 1)
    return most


@settings(deadline=None)
@given(RATES, ASKED)
def test_no_window_of_the_period_sees_more_than_the_rate(limit: Rate, asked) -> None:
    times = gone(Pace(limit), asked)
    assert densest(times, limit.period) <= limit.count


@settings(deadline=None)
@given(RATES, st.integers(1, 50), ASKED)
def test_a_burst_adds_no_more_than_itself_to_any_window(limit: Rate, burst: int, asked) -> None:
    times = gone(Pace(Rate(limit.count, limit.period, burst)), asked)
    assert densest(times, limit.period) <= limit.count + burst


@settings(deadline=None, max_examples=60)
@given(RATES, st.floats(0.0, 1.0))
def test_who_always_has_something_has_the_whole_rate(limit: Rate, urgent_share: float) -> None:
    """Looked at whenever the last look said."""
    pace, now, count, credit = Pace(limit), NOW, 0, 0.0
    end = NOW + max(limit.period, 400 * limit.period / limit.count)
    while now < end:
        wait = pace.wait_in_line(now)
        credit += urgent_share
        if credit >= 1 and pace.wait_to_pass(now) <= 0:
            credit -= 1
            pace.passed(now)
            count += 1
        elif wait <= 0:
            pace.spend(now)
            count += 1
        else:
            now += wait
    assert count >= 0.95 * math.floor((end - NOW) * limit.count / limit.period)


@settings(deadline=None)
@given(RATES, ASKED, st.floats(1.0, 1e6))
def test_a_clock_that_is_set_back_does_not_stop_the_mail(limit: Rate, asked, back: float) -> None:
    pace, each = Pace(limit), limit.period / limit.count
    times = gone(pace, asked)
    now = (times[-1] if times else NOW) - back
    pace.wait_in_line(now)
    waited = pace.wait_in_line(now)
    assert waited <= 2 * max(limit.period, 2 * each)
