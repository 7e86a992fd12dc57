"""Validation: what bulk streams are spared: misspelt, throw-away, unread and impossible addresses, and dead domains."""

from relayd.validation.checks import REPLIES, check, dead_finding, domain_finding
from relayd.validation.lists import Lists, read_lists, read_traps
from relayd.validation.rules import BULK, OFF, Check, Finding, Rules, Verdict, parse_rules

__all__ = [
    "BULK",
    "OFF",
    "REPLIES",
    "Check",
    "Finding",
    "Lists",
    "Rules",
    "Verdict",
    "check",
    "dead_finding",
    "domain_finding",
    "parse_rules",
    "read_lists",
    "read_traps",
]
