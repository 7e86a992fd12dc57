"""The filter in front of the disk: a mark of 44 bits for every (list, address or domain) that has an entry.

In: list ids and values.  Out: "certainly not there" or "ask the disk", in microseconds.  A mark is there once for each
entry that has it, so what is taken out never hides another entry whose mark is the same.

The first 12 bits choose a bucket, the other 32 lie in it, sorted: 4 bytes an entry, and a wrong "ask the disk" for one
value in some hundred thousand among 10 million entries.  Marks are kept in the database too, so they never change.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from hashlib import blake2b

BUCKETS = 4096
LOW = 0xFFFFFFFF
_BITS = 44
_SPREAD = 0x9E3779B97F5  # odd, so that no two lists shift marks alike


def mark(list_id: int, value: str) -> int:
    return _hashed(value) ^ _shift(list_id)


def _hashed(value: str) -> int:
    return int.from_bytes(blake2b(value.encode(), digest_size=8).digest()) >> 64 - _BITS


def _shift(list_id: int) -> int:
    return list_id * _SPREAD & (1 << _BITS) - 1


class Filter:
    """The marks.  ``buckets`` come sorted."""

    def __init__(self, buckets: "Iterable[array[int]]" = ()) -> None:
        self._buckets = list(buckets) or [array("I") for _ in range(BUCKETS)]

    def __len__(self) -> int:
        return sum(map(len, self._buckets))

    def may_hold(self, lists: Sequence[int], values: Iterable[str]) -> bool:
        """Whether one of the values may be on one of the lists."""
        buckets, shifts = self._buckets, [_shift(list_id) for list_id in lists]
        for value in values:
            hashed = _hashed(value)
            for shift in shifts:
                found = hashed ^ shift
                bucket, low = buckets[found >> 32], found & LOW
                at = bisect_left(bucket, low)
                if at < len(bucket) and bucket[at] == low:
                    return True
        return False

    def add(self, found: int) -> None:
        insort(self._buckets[found >> 32], found & LOW)

    def discard(self, found: int) -> None:
        bucket, low = self._buckets[found >> 32], found & LOW
        at = bisect_left(bucket, low)
        if at < len(bucket) and bucket[at] == low:
            del bucket[at]
