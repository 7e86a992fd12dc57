from collections import Counter

from relayd.envelope import Delivery
from relayd.queue.ready import ReadyQueue, weight_of
from tests.spool_kit import Mail

MAIL = Mail()


def delivery(lane: str = "x") -> Delivery:
    return MAIL.reception(account=lane).deliveries[0]


def lane_of(taken: Delivery | None) -> str:
    assert taken is not None
    return taken.message.account


def test_one_lane_is_first_in_first_out() -> None:
    ready = ReadyQueue()
    mail = [delivery() for _ in range(5)]
    for d in mail:
        ready.push("x", 1.0, d)
    assert len(ready) == 5
    assert [ready.pop() for _ in range(6)] == [*mail, None]
    assert len(ready) == 0


def test_weights_are_honoured_between_lanes() -> None:
    ready = ReadyQueue()
    for lane, weight in (("slow", 1.0), ("quick", 4.0)):
        for _ in range(100):
            ready.push(lane, weight, delivery(lane))
    assert Counter(lane_of(ready.pop()) for _ in range(100)) == {"quick": 80, "slow": 20}


def test_ten_more_of_priority_is_twice_the_share() -> None:
    assert weight_of(60) == 2 * weight_of(50)


def test_a_flood_of_one_account_delays_only_itself() -> None:
    ready = ReadyQueue()
    for _ in range(1000):
        ready.push("flood", 1.0, delivery("flood"))
    for _ in range(500):
        ready.pop()
    ready.push("small", 1.0, delivery("small"))
    assert "small" in {lane_of(ready.pop()) for _ in range(2)}


def test_a_lane_refilled_after_each_delivery_does_not_starve_the_others() -> None:
    ready = ReadyQueue()
    for _ in range(100):
        ready.push("deep", 1.0, delivery("deep"))
    taken: Counter[str] = Counter()
    ready.push("trickle", 1.0, delivery("trickle"))
    for _ in range(100):
        lane = lane_of(ready.pop())
        taken[lane] += 1
        if lane == "trickle":
            ready.push("trickle", 1.0, delivery("trickle"))
    assert 45 <= taken["deep"] <= 55


def test_idle_time_is_not_saved_up() -> None:
    ready = ReadyQueue()
    ready.push("idle", 1.0, delivery("idle"))
    ready.pop()
    for _ in range(200):
        ready.push("busy", 1.0, delivery("busy"))
    for _ in range(100):
        ready.pop()
    for _ in range(50):
        ready.push("idle", 1.0, delivery("idle"))
    assert 9 <= Counter(lane_of(ready.pop()) for _ in range(20))["idle"] <= 11


def test_what_was_handed_back_goes_before_the_rest_of_its_lane() -> None:
    ready = ReadyQueue()
    first, second, third = delivery(), delivery(), delivery()
    ready.push("x", 1.0, first)
    ready.push("x", 1.0, second)
    taken = ready.pop()
    assert taken is first
    ready.push("x", 1.0, third)
    ready.push("x", 1.0, taken, first=True)
    assert [ready.pop(), ready.pop(), ready.pop()] == [first, second, third]


def test_clear_takes_everything_and_leaves_a_queue_that_works() -> None:
    ready = ReadyQueue()
    mail = [delivery(lane) for lane in "aabbc"]
    for d in mail:
        ready.push(d.message.account, 1.0, d)
    assert sorted(d.id for d in ready.clear()) == sorted(d.id for d in mail)
    assert len(ready) == 0
    assert ready.pop() is None
    ready.push("a", 1.0, mail[0])
    assert ready.pop() is mail[0]
