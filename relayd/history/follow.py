"""Following events from place to place, the oldest first, so that nothing is missed: what webhooks go by.

In: a query and the place behind which one is.  Out: places, and how far one is now.  For any thread, and in few calls:
beside a busy main thread each may cost a switch.
"""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from relayd.history.facts import MANY
from relayd.history.find import Hit, Query, segments_of, terms_of
from relayd.history.index import index_path


class Followed(msgspec.Struct, frozen=True):
    """What lies behind a place: ``hits``, and ``to``, before which nothing else is.  ``more``: perhaps, behind that;
    ``oldest``: the time of the first hits, 0.0 without any."""

    hits: list[Hit]
    to: Hit
    more: bool = False
    oldest: float = 0.0


def follow(
    records: Path, query: Query, after: Hit, limit: int, *, until: Hit | None = None, lane: tuple[int, int] = (0, 1)
) -> Followed:
    """For those who go on from place to place and must miss nothing: never beyond what is indexed without a gap.

    ``until``: the last place that is looked at; ``lane`` (i, n): only deliveries that leave i when divided by n.  All
    rows behind the place are looked at in their order, once: ``to`` is behind them, found or not.
    """
    found: list[Hit] = []
    to, oldest = after, 0.0
    for name in sorted(name for name in os.listdir(records) if name.endswith(".jsonl") and name >= after.segment):
        if until is not None and name > until.segment:
            break
        above = after.position if name == after.segment else -1
        seen = _behind(records / name, query, above, limit - len(found), until, lane)
        if seen is None:
            return Followed(found, to, oldest=oldest)
        positions, first, top, sealed = seen
        found += (Hit(name, position) for position in positions)
        oldest = oldest or first
        if len(found) >= limit:
            return Followed(found, found[-1], True, oldest)
        to = max(to, Hit(name, top))
        if not sealed:
            return Followed(found, to, oldest=oldest)
    return Followed(found, max(to, until) if until is not None else to, oldest=oldest)


def _behind(
    segment: Path, query: Query, above: int, limit: int, until: Hit | None, lane: tuple[int, int]
) -> tuple[list[int], float, int, bool] | None:
    """(positions, the first's time, the last position that is indexed or wanted, whether the segment is indexed to its
    end); None if it is not indexed yet."""
    try:
        db = sqlite3.connect(f"{index_path(segment).absolute().as_uri()}?mode=ro", uri=True)
        with closing(db):
            read, sealed = db.execute("SELECT read, sealed FROM state").fetchone()
            top = (read << MANY) - 1
            if until is not None and until.segment == segment.name and until.position <= top:
                top, sealed = until.position, True
            terms = terms_of(db, query, "+")  # a list of all that is whose would have to be sorted each time
            if terms is None:
                return [], 0.0, top, bool(sealed)
            text, values = terms
            if lane[1] > 1:
                text += " AND delivery % ? = ?"
                values += (lane[1], lane[0])
            rows = f"SELECT position, time FROM event WHERE position > ? AND position <= ? {text} ORDER BY 1 LIMIT ?"
            positions, first = db.execute(
                f"SELECT json_group_array(position), min(time) FROM ({rows})", (above, top, *values, limit)
            ).fetchone()
            return sorted(json.loads(positions)), (first or 0) / 1000, top, bool(sealed)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "unable to open" in str(error):
            return None  # it is just being made, or went meanwhile
        raise


def begin(records: Path, moment: float) -> Hit:
    """The place before the first event of a moment or later, as far as is indexed.  Raises OSError, sqlite3.Error."""
    place = Hit("", 0)
    for segment in segments_of(records, Query(since=moment)):
        db = sqlite3.connect(f"{index_path(segment).absolute().as_uri()}?mode=ro", uri=True)
        with closing(db):
            query = "SELECT position FROM event WHERE time >= ? ORDER BY position LIMIT 1"
            row = db.execute(query, (int(moment * 1000),)).fetchone()
            if row is not None:
                return Hit(segment.name, row[0] - 1)
            place = Hit(segment.name, (db.execute("SELECT read FROM state").fetchone()[0] << MANY) - 1)
    return place
