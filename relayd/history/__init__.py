"""History: what became of every message, found by whose it was, whom it went to, and when."""

from relayd.history.facts import Fact, facts
from relayd.history.find import Found, Hit, Query, event_at, find, lines, trace
from relayd.history.follow import Followed, begin, follow
from relayd.history.index import Index, index_path
from relayd.history.indexer import Indexer

__all__ = [
    "Fact",
    "Followed",
    "Found",
    "Hit",
    "Index",
    "Indexer",
    "Query",
    "begin",
    "event_at",
    "facts",
    "find",
    "follow",
    "index_path",
    "lines",
    "trace",
]
