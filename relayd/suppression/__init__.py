"""Suppression lists: whom the relay, an account or a connection must not mail, and why."""

from relayd.suppression.entries import COLUMNS, KINDS, REASONS, Entry, Kind, Reason, entry, to_row
from relayd.suppression.policy import Policy, finding, parse_policy
from relayd.suppression.store import MAX_PAGE, Page, Refusal, SuppressionList, Suppressions, Tally
from relayd.suppression.strikes import Finding, Lesson

__all__ = [
    "COLUMNS",
    "KINDS",
    "MAX_PAGE",
    "REASONS",
    "Entry",
    "Finding",
    "Kind",
    "Lesson",
    "Page",
    "Policy",
    "Reason",
    "Refusal",
    "SuppressionList",
    "Suppressions",
    "Tally",
    "entry",
    "finding",
    "parse_policy",
    "to_row",
]
