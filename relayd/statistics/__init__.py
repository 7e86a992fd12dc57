"""Statistics: how many events there were, by whom and to where, by the minute, the hour and the day."""

from relayd.statistics.figures import BY, STEPS, Figures, figures
from relayd.statistics.store import Observer, Settings, Statistics

__all__ = ["BY", "STEPS", "Figures", "Observer", "Settings", "Statistics", "figures"]
