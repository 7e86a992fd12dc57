"""How many values were no larger than each bound."""

from math import inf

from relayd.histogram import Histogram


def test_a_value_counts_at_every_bound_that_is_no_smaller():
    found = Histogram((1.0, 5.0))
    for value in (0.5, 1.0, 3.0, 99.0):
        found.add(value)
    assert found.steps() == [(1.0, 2), (5.0, 3), (inf, 4)]
    assert found.sum == 103.5


def test_a_copy_stays_as_it_was():
    found = Histogram((1.0,))
    found.add(0.5)
    before = found.copy()
    found.add(7.0)
    assert before.steps() == [(1.0, 1), (inf, 1)] and before.sum == 0.5
