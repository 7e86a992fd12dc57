"""Recipients that an account has written to: a Bloom filter of all accounts, of one size whatever comes.

In: account and address.  Out: whether the account has had it before; one in thirty new ones is taken for known.
It rolls: what is full becomes the previous one, which still answers, and a fresh one is begun; so an address is
forgotten that was not written to while two filled up.  ``save`` may run in a thread beside everything else.
"""

import os
from hashlib import blake2b
from mmap import mmap
from pathlib import Path

_BITS = 10  # of the filter for each address


class Known:
    """``size``: bytes, of both together."""

    def __init__(self, size: int) -> None:
        self._words = max(1, size // 16)
        self._most = self._words * 64 // _BITS
        self._now, self._before = self._fresh(), self._fresh()
        self.count = 0  # of addresses in the one that fills

    def _fresh(self) -> memoryview:
        return memoryview(mmap(-1, self._words * 8)).cast("Q")  # memory is taken as it fills

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
            file.writelines((head, self._now, self._before))
        new.replace(path)

    def load(self, path: Path) -> bool:
        """Whether what was saved could be taken up; one of another size cannot.  Raises OSError."""
        with open(path, "rb") as file:
            head = file.readline(64).split()
            if len(head) != 2 or not all(map(bytes.isdigit, head)) or int(head[0]) != self._words:
                return False
            whole = all(file.readinto(part.cast("B")) == part.nbytes for part in (self._now, self._before))
        if whole:
            self.count = int(head[1])
        else:
            self._now, self._before = self._fresh(), self._fresh()
        return whole
