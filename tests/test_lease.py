"""Totals of units in two stores: what is left of them, and when they contradict each other."""

import pytest

from relayd.lease import Lease, odd

KNOWN = Lease(granted=100, charged=40, refunded=5, returned=20)


def test_what_is_left_came_in_and_did_not_go() -> None:
    assert KNOWN.left == 45 and Lease().left == 0


@pytest.mark.parametrize(
    ("before", "spool", "after"),
    [
        ({}, {}, {}),
        ({"crm": KNOWN}, {"crm": KNOWN}, {"crm": KNOWN}),
        ({"crm": KNOWN}, {"crm": Lease(100, 60, 7, 20)}, {"crm": KNOWN}),  # not booked yet
        ({"crm": KNOWN}, {"crm": KNOWN}, {"crm": Lease(200, 40, 5, 20)}),  # granted, not there yet
        ({}, {"crm": KNOWN}, {"crm": KNOWN}),
    ],
)
def test_a_store_may_be_behind_with_what_the_other_one_did(before, spool, after) -> None:
    assert odd(before, spool, after) == []


@pytest.mark.parametrize(
    ("spool", "words"),
    [
        (Lease(101, 40, 5, 20), "payer crm: 101 units granted, but the other store knows of 100"),
        (Lease(100, 39, 5, 20), "payer crm: 40 units charged, but the other store knows of 39"),
        (Lease(100, 40, 4, 20), "payer crm: 5 units refunded, but the other store knows of 4"),
        (Lease(100, 40, 5, 19), "payer crm: 20 units returned, but the other store knows of 19"),
    ],
)
def test_units_that_one_store_cannot_have_from_the_other_are_named(spool, words) -> None:
    assert odd({"crm": KNOWN}, {"crm": spool}, {"crm": KNOWN}) == [words]
