"""Statistics: how many events there were, by whom and to where, by the minute, the hour and the day."""

from relayd.statistics.store import Statistics

__all__ = ["Statistics"]
