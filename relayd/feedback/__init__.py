"""What comes back: bounces, delays, complaints and automatic replies, read from the bytes of a message."""

from relayd.feedback.explain import Judged, explain, judged
from relayd.feedback.reader import read
from relayd.feedback.report import Clue, Complaint, Kind, Recipient, Report

__all__ = ["Clue", "Complaint", "Judged", "Kind", "Recipient", "Report", "explain", "judged", "read"]
