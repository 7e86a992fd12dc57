"""When a delivery is tried again: the schedule of a stream, jittered, within its life; and what a server's reply says
of the right time.  A server that greylists wants the same source again after a while (RFC 6647); one that names a time
is believed within bounds.
"""

import random
import re

import msgspec

from relayd.envelope import UNSTEERED, Steering
from relayd.message.steering import ends
from relayd.message.window import stored


class Schedule(msgspec.Struct, frozen=True):
    """``waits``: seconds before the 2nd, 3rd ... attempt, the last repeating; ``expire``: seconds a delivery lives;
    ``greylist``: the wait when a server greylists and names no time."""

    waits: tuple[float, ...] = (300, 600, 1200, 2400, 3600, 7200, 14400)
    expire: float = 3 * 86400
    greylist: float = 300


JITTER = 0.15  # so that what failed together does not come back together
HINT = (30.0, 4 * 3600.0)  # the least and the longest wait that a reply is believed to ask for
_GREYLISTED = 4  # attempts in a row for which a greylisting server is believed; then the schedule holds

_GREYLIST = re.compile(r"gr[ea]y\W?list|postgrey|milter-greylist", re.IGNORECASE)
_TIME = re.compile(
    r"(?:again|retry|wait|come back|later|try|greylist\w*|deferred)\D{0,40}?\b(\d{1,5})\s*(s\b|sec|m\b|min|h\b|hour)",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"(?:again|retry|wait|try)\D{0,40}?\b(\d{1,2}):(\d{2}):(\d{2})\b", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def next_try(
    schedule: Schedule,
    attempts: int,
    received: float,
    now: float,
    rng: random.Random,
    said: str = "",
    steering: Steering = UNSTEERED,
    wait: float = 0.0,
) -> float | None:
    """When the attempt after ``attempts`` failed ones is due, or None when the life of the delivery is over, or its
    window opens no more in its life.  ``said`` is the reply of the last one; ``wait``: what is right for it if it names
    no time itself, 0 for what the schedule says.

    The last attempt falls on the end of that life, so a delivery never expires with its last wait unused.  (Only where
    that end is the sender's own, nothing is sent then: it is when the delivery expires at the latest.)"""
    end = ends(steering, received, schedule.expire)
    if now >= end:
        return None
    asked = wait_asked(said) if said else None
    if asked is None and wait:
        asked = wait
    if asked is not None:
        wait = min(max(asked, HINT[0]), HINT[1]) * rng.uniform(1.0, 1 + JITTER)  # never before the time named
    elif greylisted(said) and attempts <= _GREYLISTED:
        wait = schedule.greylist * rng.uniform(1.0, 1 + JITTER)
    else:
        wait = schedule.waits[min(attempts, len(schedule.waits)) - 1] * rng.uniform(1 - JITTER, 1 + JITTER)
    due = min(now + wait, end)
    if steering.window:
        due = stored(steering.window).next_open(due)
    return due if due <= end else None


def greylisted(said: str) -> bool:
    """Whether a reply says that the server greylists."""
    return _GREYLIST.search(said) is not None


def wait_asked(said: str) -> float | None:
    """Seconds that a reply asks to wait: "try again in 300 seconds", "retry in 00:05:00", "greylisted for 5 min"."""
    if match := _CLOCK.search(said):
        return int(match[1]) * 3600.0 + int(match[2]) * 60 + int(match[3])
    match = _TIME.search(said)
    return int(match[1]) * float(_SECONDS[match[2][0].lower()]) if match else None
