"""The filter: whatever was put in is suspect until it is taken out, little else is, and four bytes hold it."""

import sys
from array import array

from hypothesis import given
from hypothesis import strategies as st

from relayd.suppression.filter import BUCKETS, Filter, mark


def test_marks_are_for_good_because_they_lie_in_databases() -> None:
    assert mark(1, "ivan@mail.example") == 12787169032035
    assert mark(70_000, "mail.example") == 9899254896349


def test_a_value_is_suspect_on_its_own_list_only() -> None:
    filter = Filter()
    filter.add(mark(1, "a@b.example"))
    assert filter.may_hold([3, 1], ["x", "a@b.example"])
    assert not filter.may_hold([2, 3], ["a@b.example"]) and not filter.may_hold([1], ["b.example"])
    assert not filter.may_hold([], ["a@b.example"]) and not filter.may_hold([1], [])


def test_of_two_entries_with_one_mark_the_other_stays_when_one_goes() -> None:
    filter = Filter()
    for _ in range(2):
        filter.add(mark(1, "a@b.example"))
    filter.discard(mark(1, "a@b.example"))
    assert filter.may_hold([1], ["a@b.example"])
    filter.discard(mark(1, "a@b.example"))
    assert not filter.may_hold([1], ["a@b.example"]) and len(filter) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.sampled_from("abcdefgh"))))
def test_it_knows_what_a_list_of_all_would_know(steps: list[tuple[bool, int, str]]) -> None:
    filter, held = Filter(), list[tuple[int, str]]()
    for comes, id, value in steps:
        if comes:
            held.append((id, value))
            filter.add(mark(id, value))
        elif (id, value) in held:
            held.remove((id, value))
            filter.discard(mark(id, value))
    for id in range(1, 4):
        for value in "abcdefgh":
            assert filter.may_hold([id], [value]) == ((id, value) in held)
    assert len(filter) == len(held)


def test_an_entry_takes_little_more_than_four_bytes_and_strangers_pass() -> None:
    marks = sorted(mark(1, f"user{n}@mail.example") for n in range(400_000))
    buckets = [array("I") for _ in range(BUCKETS)]
    for found in marks:
        buckets[found >> 32].append(found & 0xFFFFFFFF)
    filter = Filter(buckets)
    for n in range(20_000):
        filter.add(mark(1, f"late{n}@mail.example"))
    assert all(filter.may_hold([1], [f"user{n}@mail.example"]) for n in range(0, 400_000, 17))
    assert sum(map(sys.getsizeof, filter._buckets)) < 420_000 * 6
    assert sum(filter.may_hold([1, 2], [f"stranger{n}@mail.example"]) for n in range(50_000)) <= 1
