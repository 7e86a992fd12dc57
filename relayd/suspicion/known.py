"""Recipients that an account has written to: a Bloom filter of all accounts, of one size whatever comes.

In: account and address.  Out: whether the account has had it before; one in thirty new ones is taken for known.
It rolls: what is full becomes the previous one, which still answers, and a fresh one is begun; so an address is
forgotten that was not written to while two filled up.  ``save`` may run in a thread beside everything else.
"""

import os
from collections.abc import Iterator
from hashlib import blake2b
from mmap import MAP_PRIVATE, mmap
from pathlib import Path

_BITS = 10  # of the filter for each address
_EMPTY = bytes(1 << 16)  # of such pieces, those with nothing in them are neither written nor read into memory


class Known:
    """``size``: bytes, of both together."""

    def __init__(self, size: int) -> None:
        self._words = max(1, size // 16)
        self._most = self._words * 64 // _BITS
        self._now, self._before = self._fresh(), self._fresh()
        self.count = 0  # of addresses in the one that fills

    def _fresh(self) -> memoryview:
        # Memory is taken as it fills; that of a shared mapping would be by reading it, too.
        return memoryview(mmap(-1, self._words * 8, MAP_PRIVATE)).cast("Q")

    def seen(self, account: str, address: str) -> bool:
        """Notes it; True if it was known."""
        digest = int.from_bytes(blake2b(f"{account}\0{address}".lower().encode(), digest_size=8).digest())
        # One word holds all bits of an address: one look at memory instead of four.
        mask = 1 << (digest & 63) | 1 << (digest >> 6 & 63) | 1 << (digest >> 12 & 63) | 1 << (digest >> 18 & 63)
        place = (digest >> 24) % self._words
        word = self._now[place]
        if word & mask == mask:
            return True
        known = self._before[place] & mask == mask
        if self.count >= self._most:
            self._before, self._now, self.count = self._now, self._fresh(), 0
            word = 0
        self._now[place] = word | mask
        self.count += 1
        return known

    def save(self, path: Path) -> None:
        """Raises OSError."""
        new = path.with_suffix(".new")
        head = b"%d %d\n" % (self._words, self.count)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(head)
            for piece in (*_pieces(self._now), *_pieces(self._before)):
                if bytes(piece) != _EMPTY[: len(piece)]:
                    file.write(piece)
                else:
                    file.seek(len(piece), os.SEEK_CUR)  # a hole
            file.truncate()
        new.replace(path)

    def load(self, path: Path) -> bool:
        """Whether what was saved could be taken up; one of another size cannot.  Raises OSError."""
        with open(path, "rb") as file:
            head = file.readline(64).split()
            if len(head) != 2 or not all(map(bytes.isdigit, head)) or int(head[0]) != self._words:
                return False
            now, before = self._fresh(), self._fresh()
            for piece in (*_pieces(now), *_pieces(before)):
                read = file.read(len(piece))
                if len(read) < len(piece):
                    return False
                if read != _EMPTY[: len(read)]:
                    piece[:] = read
        self._now, self._before, self.count = now, before, int(head[1])
        return True


def _pieces(part: memoryview) -> Iterator[memoryview]:
    whole = part.cast("B")
    return (whole[at : at + len(_EMPTY)] for at in range(0, len(whole), len(_EMPTY)))
