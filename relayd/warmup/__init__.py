"""Warm-up: how much a new source may send to each group of sites a day, until it is known there."""

from relayd.warmup.plan import Plan
from relayd.warmup.standing import DAY, Standing, state, upcoming
from relayd.warmup.warmup import Keep, Outcome, Warmup

__all__ = ["DAY", "Keep", "Outcome", "Plan", "Standing", "Warmup", "state", "upcoming"]
