import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.identity import Identities, day_of, lower_bound, read, received_at, show


def test_identities_sort_by_time_of_reception() -> None:
    ids = Identities()
    first, second = ids.block(1000.0, 3), ids.block(1000.001, 1)
    assert first < first + 3 < second
    assert received_at(second) == 1000.001


@given(st.lists(st.tuples(st.floats(0, 4e9), st.integers(1, 1000)), min_size=2))
def test_blocks_never_overlap_whatever_the_clock_does(steps: list[tuple[float, int]]) -> None:
    ids, last = Identities(), 0
    for now, recipients in steps:
        block = ids.block(now, recipients)
        assert block > last
        last = block + recipients


def test_a_clock_that_steps_back_across_a_restart_repeats_nothing() -> None:
    before = Identities().block(2000.0, 5) + 5
    assert Identities(before).block(1000.0, 1) > before


@given(st.integers(0, 2**20), st.integers(1, 5000))
def test_all_deliveries_of_a_message_belong_to_the_day_of_the_message(left: int, recipients: int) -> None:
    midnight = lower_bound(86400 * 20000)
    block = Identities(midnight - 1 - left).block(0.0, recipients)
    assert day_of(block) == day_of(block + recipients)


def test_the_day_is_of_the_reception() -> None:
    assert day_of(Identities().block(86400 * 20000 - 0.001, 1)) == 19999
    assert day_of(Identities().block(86400 * 20000, 1)) == 20000


def test_lower_bound_parts_what_came_before_from_what_came_after() -> None:
    assert Identities().block(99.999, 1) + 1 < lower_bound(100.0) <= Identities().block(100.0, 1)


@given(st.integers(1, 2**62 - 1))
def test_what_is_shown_can_be_read(identity: int) -> None:
    assert len(show(identity)) == 16
    assert read(show(identity)) == read(show(identity).upper()) == identity


@pytest.mark.parametrize("text", ["", "xyz", "4" + "0" * 15, "0" * 17, "-1", "0x10", " 1", "\u0661", "1_0"])
def test_what_is_no_id_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not a message or delivery id"):
        read(text)
