"""Ready queues: whose turn it is, of accounts, of their streams, and of priority mail."""

from collections import Counter, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.envelope import Delivery
from relayd.queue.ready import AFRESH, ROW, ReadyQueue
from tests.spool_kit import Mail

MAIL = Mail()


def delivery(account: str = "x", stream: str = "news") -> Delivery:
    return MAIL.reception(account=account, stream=stream).deliveries[0]


def fill(ready: ReadyQueue, account: str, count: int = 1, weight: float = 1, stream: str = "news", priority: int = 50):
    """Pushes so many; gives them."""
    made = [delivery(account, stream) for _ in range(count)]
    for d in made:
        ready.push(account, weight, f"{account}/{stream}", priority, d)
    return made


def taken(ready: ReadyQueue, count: int, *, urgent: bool = False) -> list[Delivery]:
    found = [ready.pop(urgent=urgent) for _ in range(count)]
    return [d for d in found if d is not None]


def accounts(deliveries: list[Delivery]) -> Counter[str]:
    return Counter(d.message.account for d in deliveries)


def streams(deliveries: list[Delivery]) -> Counter[str]:
    return Counter(d.message.stream for d in deliveries)


def test_one_lane_is_first_in_first_out() -> None:
    ready = ReadyQueue()
    mail = fill(ready, "x", 5)
    assert len(ready) == 5
    assert [ready.pop() for _ in range(6)] == [*mail, None]
    assert len(ready) == 0


# Accounts.


def test_accounts_share_by_their_weights() -> None:
    ready = ReadyQueue()
    fill(ready, "small", 100)
    fill(ready, "large", 100, weight=4)
    assert accounts(taken(ready, 100)) == {"large": 80, "small": 20}


def test_another_weight_holds_from_the_next_delivery_on() -> None:
    ready = ReadyQueue()
    fill(ready, "x", 100)
    fill(ready, "y", 100)
    taken(ready, 20)
    fill(ready, "x", weight=3)
    assert accounts(taken(ready, 80))["x"] in range(59, 62)


def test_fifty_accounts_of_very_different_backlog_share_alike() -> None:
    ready = ReadyQueue()
    for n in range(50):
        fill(ready, f"a{n}", 20 + 40 * n)
    shares = accounts(taken(ready, 1000))
    assert len(shares) == 50 and max(shares.values()) - min(shares.values()) <= 1


def test_streams_however_many_give_an_account_no_larger_share() -> None:
    ready = ReadyQueue()
    for n in range(5):
        fill(ready, "many", 50, stream=f"s{n}", priority=10 * n + 55)
    fill(ready, "one", 50, priority=0)
    assert accounts(taken(ready, 100)) == {"many": 50, "one": 50}


def test_a_flood_of_one_account_delays_only_itself() -> None:
    ready = ReadyQueue()
    fill(ready, "flood", 1000, stream="urgent", priority=100)
    taken(ready, 500)
    fill(ready, "small", priority=0)
    assert "small" in accounts(taken(ready, 2))


def test_an_account_refilled_after_each_delivery_does_not_starve_the_others() -> None:
    ready = ReadyQueue()
    fill(ready, "deep", 100)
    fill(ready, "trickle")
    shares: Counter[str] = Counter()
    for _ in range(100):
        (one,) = taken(ready, 1)
        shares[one.message.account] += 1
        if one.message.account == "trickle":
            fill(ready, "trickle")
    assert 45 <= shares["deep"] <= 55


def test_idle_time_is_not_saved_up() -> None:
    ready = ReadyQueue()
    fill(ready, "idle")
    taken(ready, 1)
    fill(ready, "busy", 200)
    taken(ready, 100)
    fill(ready, "idle", 50)
    assert 9 <= accounts(taken(ready, 20))["idle"] <= 11


WEIGHTS = {"a": 1, "b": 1, "c": 2, "d": 5}
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([*WEIGHTS]), st.sampled_from([10, 50, 60, 80, 95]), st.integers(0, 12), st.integers(0, 9)
    ),
    max_size=80,
)


@settings(deadline=None)
@given(EVENTS)
def test_between_accounts_that_have_something_shares_never_part_by_more_than_a_delivery_of_each(events) -> None:
    """Whatever comes when: while two accounts both have something all along, what each has had by its weight differs by
    no more than one delivery of each."""
    ready = ReadyQueue()
    waiting: Counter[str] = Counter()
    service: dict[str, float] = defaultdict(float)
    base: dict[tuple[str, str], float] = {}  # the difference when both began to have something
    for account, priority, come, go in events:
        fill(ready, account, come, WEIGHTS[account], f"s{priority}", priority)
        waiting[account] += come
        for pair in [(a, b) for a in WEIGHTS for b in WEIGHTS if a < b and waiting[a] and waiting[b]]:
            base.setdefault(pair, service[pair[0]] - service[pair[1]])
        for one in taken(ready, go):
            name = one.message.account
            waiting[name] -= 1
            service[name] += 1 / WEIGHTS[name]
            base = {pair: at for pair, at in base.items() if waiting[pair[0]] and waiting[pair[1]]}
            for (a, b), at in base.items():
                assert abs(service[a] - service[b] - at) <= 1 / WEIGHTS[a] + 1 / WEIGHTS[b] + 1e-9


@settings(deadline=None)
@given(EVENTS, st.lists(st.booleans(), min_size=1, max_size=30))
def test_nothing_is_lost_and_a_stream_keeps_its_order_whatever_is_handed_back(events, turns) -> None:
    ready = ReadyQueue()
    lanes: dict[tuple[str, str], deque[int]] = defaultdict(deque)
    count = 0
    for account, priority, come, go in events:
        for d in fill(ready, account, come, 1, f"s{priority}", priority):
            lanes[account, d.message.stream].append(d.id)
        count += come
        for turn in range(go):
            urgent = turns[(count + turn) % len(turns)]
            one = ready.pop(urgent=urgent)
            if one is None:
                assert not (ready.urgent if urgent else count)
                continue
            lane = lanes[one.message.account, one.message.stream]
            assert lane[0] == one.id and (not urgent or int(one.message.stream[1:]) >= 80)
            if turn % 3 == 0:
                lane_name, level = f"{one.message.account}/{one.message.stream}", int(one.message.stream[1:])
                ready.push(one.message.account, 1, lane_name, level, one, first=True)
            else:
                lane.popleft()
                count -= 1
        assert len(ready) == count
        assert ready.urgent == any(ids for (_, s), ids in lanes.items() if int(s[1:]) >= 80)
    assert len(ready.clear()) == count and not ready.urgent and ready.pop() is None


# Priority.


def test_ten_more_of_priority_is_twice_the_share_of_an_account_s_streams() -> None:
    ready = ReadyQueue()
    fill(ready, "x", 100, stream="slow", priority=50)
    fill(ready, "x", 100, stream="quick", priority=60)
    assert streams(taken(ready, 90)) == {"quick": 60, "slow": 30}


def test_priority_mail_goes_before_the_rest_of_its_account() -> None:
    ready = ReadyQueue()
    fill(ready, "x", 100, stream="news", priority=79)
    taken(ready, 50)
    urgent = fill(ready, "x", 5, stream="urgent", priority=80)
    assert taken(ready, 5) == urgent


def test_a_flood_of_priority_mail_does_not_stop_the_rest_of_its_account() -> None:
    ready = ReadyQueue()
    fill(ready, "x", 10, stream="news", priority=0)
    fill(ready, "x", 200, stream="urgent", priority=100)
    assert streams(taken(ready, 10 * (ROW + 1))) == {"urgent": 10 * ROW, "news": 10}


def test_what_is_kept_for_priority_mail_goes_round_the_accounts_that_have_some_and_costs_no_turn() -> None:
    ready = ReadyQueue()
    fill(ready, "bulk", 100)
    for account, count in (("a", 30), ("b", 3), ("c", 30)):
        fill(ready, account, count, stream="urgent", priority=90)
    assert [d.message.account for d in taken(ready, 11, urgent=True)] == [*"abcabcabcac"]
    assert accounts(taken(ready, 30)) == {"bulk": 10, "a": 10, "c": 10}
    assert len(taken(ready, 100, urgent=True)) == 63 - 11 - 20
    assert not ready.urgent and len(ready) == 90


# The rest.


def test_what_was_handed_back_goes_before_the_rest_of_its_lane() -> None:
    ready = ReadyQueue()
    first, second = fill(ready, "x", 2)
    assert ready.pop() is first
    (third,) = fill(ready, "x")
    ready.push("x", 1, "x/news", 50, first, first=True)
    assert taken(ready, 3) == [first, second, third]


@pytest.mark.parametrize("urgent", [True, False])
def test_accounts_that_have_nothing_left_are_forgotten(urgent: bool) -> None:
    ready = ReadyQueue()
    for n in range(1000):
        fill(ready, f"a{n}", priority=90)
        taken(ready, 1, urgent=urgent)
    assert len(ready._accounts.members) <= AFRESH


def test_clear_takes_everything_and_leaves_a_queue_that_works() -> None:
    ready = ReadyQueue()
    mail = [d for account in "aabbc" for d in fill(ready, account, priority=95 if account == "b" else 5)]
    assert sorted(d.id for d in ready.clear()) == sorted(d.id for d in mail)
    assert len(ready) == 0
    assert ready.pop() is None and ready.pop(urgent=True) is None
    assert fill(ready, "a") == taken(ready, 1)


@pytest.mark.parametrize("parked", [False, True])
def test_some_of_a_lane_are_taken_out_and_the_rest_keeps_its_order(parked: bool) -> None:
    ready = ReadyQueue()
    mine, other = fill(ready, "x", 5), fill(ready, "y", 2)
    if parked:
        owner, lane = ready.head() or pytest.fail("it is empty")
        ready.park(owner, lane, 50)
    out = {mine[1].id, mine[3].id, other[0].id}
    assert ready.of_lane("x", "x/news") == mine
    assert ready.take_out("x", "x/news", out) == [mine[1], mine[3]]
    assert ready.of_lane("x", "x/news") == [mine[0], mine[2], mine[4]]
    ready.call_all()
    assert len(ready) == 5
    assert [d for d in taken(ready, 9) if d in mine] == [mine[0], mine[2], mine[4]]


def test_priority_mail_that_is_taken_out_is_nobodys_turn_any_more() -> None:
    ready = ReadyQueue()
    urgent, rest = fill(ready, "x", 2, stream="urgent", priority=90), fill(ready, "x", 1)
    assert ready.take_out("x", "x/urgent", {d.id for d in urgent}) == urgent
    assert (ready.urgent, len(ready)) == (False, 1)
    assert taken(ready, 3, urgent=True) == []
    assert taken(ready, 3) == rest


def test_a_parked_lane_of_which_all_is_taken_out_waits_no_more() -> None:
    ready = ReadyQueue()
    mine = fill(ready, "x", 2)
    owner, lane = ready.head() or pytest.fail("it is empty")
    ready.park(owner, lane, 50)
    assert ready.take_out("x", "x/news", {d.id for d in mine}) == mine
    assert not ready.parked("x/news")
