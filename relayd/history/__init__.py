"""History: what became of every message, found by whose it was, whom it went to, and when."""

from relayd.history.facts import Fact, facts
from relayd.history.find import Found, Hit, Query, event_at, find, places, trace
from relayd.history.index import Index, index_path
from relayd.history.indexer import Indexer

__all__ = [
    "Fact",
    "Found",
    "Hit",
    "Index",
    "Indexer",
    "Query",
    "event_at",
    "facts",
    "find",
    "index_path",
    "places",
    "trace",
]
