"""Suspicion: bad senders, found by what they submit."""

from relayd.suspicion.findings import Dismissal, Finding, Key
from relayd.suspicion.score import Part
from relayd.suspicion.watch import News, Settings, Suspicion

__all__ = ["Dismissal", "Finding", "Key", "News", "Part", "Settings", "Suspicion"]
