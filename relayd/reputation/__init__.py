"""Reputation: who sends what nobody wants, found by counting, and held back by steps.

Enter: what became of each recipient, and for whom it was sent.  Leave: the steps (slow, hold, block) at which an
account, a client, a connection or a sender domain stands, and a source at a group of sites, each with its reason.
Floors within: counts < rules < standing < reputation.
"""

from relayd.reputation.counts import COUNTERS, DAY, Counter, Who, bearing
from relayd.reputation.reputation import Reputation, Turn
from relayd.reputation.rules import KINDS, STEPS, Rule, Rules, Step
from relayd.reputation.standing import BY, Key, Standing, named, near, read

__all__ = [
    "BY",
    "COUNTERS",
    "DAY",
    "KINDS",
    "STEPS",
    "Counter",
    "Key",
    "Reputation",
    "Rule",
    "Rules",
    "Standing",
    "Step",
    "Turn",
    "Who",
    "bearing",
    "named",
    "near",
    "read",
]
