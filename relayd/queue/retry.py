"""When a delivery is tried again: the schedule of a stream, jittered, within its life."""

import random

import msgspec


class Schedule(msgspec.Struct, frozen=True):
    """``waits``: seconds before the 2nd, 3rd ... attempt, the last repeating; ``expire``: seconds a delivery lives."""

    waits: tuple[float, ...] = (300, 600, 1200, 2400, 3600, 7200, 14400)
    expire: float = 3 * 86400


JITTER = 0.15  # so that what failed together does not come back together


def next_try(schedule: Schedule, attempts: int, received: float, now: float, rng: random.Random) -> float | None:
    """When the attempt after ``attempts`` failed ones is due, or None when the life of the delivery is over.

    The last attempt falls on the end of that life, so a delivery never expires with its last wait unused."""
    end = received + schedule.expire
    if now >= end:
        return None
    wait = schedule.waits[min(attempts, len(schedule.waits)) - 1] if attempts else 0.0
    return min(now + wait * rng.uniform(1 - JITTER, 1 + JITTER), end)
