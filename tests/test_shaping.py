"""Limits: what a rate means, and that it is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.shaping.limits import Pace, Rate, rate


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("100/s", Rate(100, 1.0)),
        ("20/min", Rate(20, 60.0)),
        ("20 / M", Rate(20, 60.0)),
        ("5000/h", Rate(5000, 3600.0)),
        ("7/day", Rate(7, 86400.0)),
    ],
)
def test_a_rate_is_read(text: str, meant: Rate) -> None:
    assert rate(text) == meant


@pytest.mark.parametrize("text", ["", "100", "0/s", "-1/s", "1/fortnight", "1.5/s", "many/s", 5, None])
def test_what_is_no_rate_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="write "):
        rate(text)


def test_a_rate_is_shown_as_it_is_written() -> None:
    assert [str(rate(text)) for text in ("100/s", "20/min", "5/h", "3/d")] == ["100/s", "20/m", "5/h", "3/d"]


@given(
    st.builds(Rate, st.integers(1, 500), st.sampled_from([1.0, 60.0, 3600.0])),
    st.lists(st.floats(0.0, 5.0), min_size=1, max_size=200),
)
def test_no_window_sees_more_than_the_rate_and_a_second_s_worth(limit: Rate, steps: list[float]) -> None:
    pace, now, gone = Pace(limit), 0.0, []
    for step in steps:
        now += step
        for _ in range(3):
            if not pace.wait(now):
                pace.spend(now)
                gone.append(now)
    each = limit.period / limit.count
    for i, start in enumerate(gone):
        for j in range(i, len(gone)):
            assert j - i + 1 <= (gone[j] - start) / each + max(1.0, 1.0 / each) + 1e-6


@given(st.builds(Rate, st.integers(1, 500), st.sampled_from([1.0, 60.0, 3600.0])))
def test_who_waits_as_long_as_told_may_go(limit: Rate) -> None:
    pace, now = Pace(limit), 0.0
    for _ in range(20):
        now += pace.wait(now)
        assert pace.wait(now) < 1e-6
        pace.spend(now)
