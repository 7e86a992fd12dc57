from collections import Counter

import pytest

from relayd.egress.pools import Pools, Source


def pools(**weights: int) -> Pools:
    return Pools({name: Source(name) for name in weights}, {"p": weights})


def test_weights_are_honoured_exactly_over_a_short_run() -> None:
    p = pools(a=5, b=3, c=1)
    assert Counter(p.choose("p", "", set()) for _ in range(9)) == {"a": 5, "b": 3, "c": 1}


def test_turns_are_spread_not_bunched() -> None:
    p = pools(a=2, b=2)
    assert [p.choose("p", "", set()) for _ in range(4)] == ["a", "b", "a", "b"]


def test_a_retry_goes_by_the_source_of_its_last_attempt() -> None:
    p = pools(a=9, b=1)
    assert all(p.choose("p", "b", set()) == "b" for _ in range(20))


@pytest.mark.parametrize("last", ["b", "gone", ""])
def test_a_retry_whose_source_cannot_be_used_goes_by_another(last: str) -> None:
    p = pools(a=1, b=1)
    p.out_of_use["b"] = "its address is not on this machine"
    assert p.choose("p", last, set()) == "a"


def test_a_drained_source_takes_nothing_and_a_retry_leaves_it() -> None:
    p = pools(a=1, b=1)
    p.drained["b"] = "moving (anna)"
    assert [p.choose("p", last, set()) for last in ("b", "", "", "")] == ["a"] * 4
    assert p.choose("p", "b", {"a"}, peek=True) is None


def test_why_none_can_be_used_names_each_source_of_the_pool() -> None:
    p = pools(a=1, b=1)
    p.drained = {"b": "moving (anna)", "other": "of another pool"}
    p.out_of_use["a"] = "address 192.0.2.1 is not on this machine"
    told = "a: address 192.0.2.1 is not on this machine; b: drained, moving (anna)"
    assert p.explain("p") == f"no source of pool 'p' can be used: {told}"
    assert p.explain("nowhere") == "no source of pool 'nowhere' can be used"


def overflowing() -> Pools:
    sources = {name: Source(name) for name in ("a", "b", "y", "z")}
    return Pools(sources, {"p": {"a": 1, "b": 1}, "spare": {"y": 2, "z": 1}}, {"p": "spare"})


def test_the_overflow_is_used_by_its_weights_while_no_own_source_can_be() -> None:
    p = overflowing()
    assert {p.choose("p", "", {"a"}) for _ in range(4)} == {"b"}
    p.drained["a"] = "moving (anna)"
    assert Counter(p.choose("p", "", {"b"}) for _ in range(6)) == {"y": 4, "z": 2}
    assert p.choose("p", "", {"b"}, peek=True) in {"y", "z"}


def test_a_retry_keeps_its_overflow_source_until_an_own_one_can_be_used() -> None:
    p = overflowing()
    p.out_of_use = {"a": "gone", "b": "gone"}
    assert {p.choose("p", "z", set()) for _ in range(6)} == {"z"}
    p.out_of_use.clear()
    assert p.choose("p", "z", set()) in {"a", "b"}


def test_with_neither_own_nor_overflow_source_both_pools_are_explained() -> None:
    p = overflowing()
    p.out_of_use = dict.fromkeys(("a", "b", "y", "z"), "gone")
    assert p.choose("p", "", set()) is None
    own, spare = "no source of pool 'p' can be used: a: gone; b: gone", "no source of pool 'spare' can be used"
    assert p.explain("p") == f"{own}; overflow: {spare}: y: gone; z: gone"


def test_a_source_is_of_the_overflow_only_for_the_pool_that_has_it_not() -> None:
    p = overflowing()
    assert [p.overflow_of(*of) for of in (("p", "a"), ("p", "y"), ("spare", "y"))] == ["", "spare", ""]


def test_a_source_to_avoid_is_not_chosen_even_for_a_retry() -> None:
    assert pools(a=1, b=1).choose("p", "a", {"a"}) == "b"


def test_none_is_given_while_no_source_can_be_used() -> None:
    p = pools(a=1, b=1)
    p.out_of_use["a"] = "gone"
    assert p.choose("p", "a", {"b"}) is None
    assert p.choose("p", "a", {"b"}, peek=True) is None
    assert p.choose("nowhere", "", set()) is None


def test_a_pool_of_one_source_out_of_use_has_none() -> None:
    p = pools(a=1)
    p.out_of_use["a"] = "gone"
    assert p.choose("p", "", set()) is None
    del p.out_of_use["a"]
    assert p.choose("p", "", set()) == "a"


def test_asking_takes_no_turn() -> None:
    p = pools(a=1, b=1, c=1)
    chosen = []
    for _ in range(20):
        assert p.choose("p", "", {"c"}, peek=True) in {"a", "b"}
        chosen.append(p.choose("p", "", {"c"}))
    assert Counter(chosen) == {"a": 10, "b": 10}


def test_a_source_put_back_does_not_make_up_for_lost_turns() -> None:
    p = pools(a=1, b=1)
    p.out_of_use["b"] = "gone"
    for _ in range(100):
        assert p.choose("p", "", set()) == "a"
    del p.out_of_use["b"]
    assert Counter(p.choose("p", "", set()) for _ in range(10)) == {"a": 5, "b": 5}


def test_the_address_is_of_the_family_of_the_peer() -> None:
    both = Source("a", ("192.0.2.1", "2001:db8::1"))
    assert both.address("198.51.100.7") == "192.0.2.1"
    assert both.address("2001:db8::7") == "2001:db8::1"
    assert Source("a", ("192.0.2.1",)).address("2001:db8::7") is None
    assert Source("a").address("2001:db8::7") == ""
