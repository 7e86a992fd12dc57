"""Suppression lists: whom the relay, an account or a connection must not mail, and why."""

from relayd.suppression.entries import COLUMNS, KINDS, REASONS, Entry, Kind, Reason, entry, to_row
from relayd.suppression.store import MAX_PAGE, Page, Refusal, SuppressionList, Suppressions, Tally

__all__ = [
    "COLUMNS",
    "KINDS",
    "MAX_PAGE",
    "REASONS",
    "Entry",
    "Kind",
    "Page",
    "Reason",
    "Refusal",
    "SuppressionList",
    "Suppressions",
    "Tally",
    "entry",
    "to_row",
]
