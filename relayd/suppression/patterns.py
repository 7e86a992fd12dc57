"""The patterns of one list, sieved: which addresses may match one, without trying them all.

A pattern is a glob: ``*`` stands for any characters or none, ``?`` for one.  What stands between them must be in the
address, so each pattern lies under three characters in a row of it, the rarest among the list's patterns, and is looked
at only where the address has these three.  An address that passes may still match none: SQL's GLOB has the last word.
"""

import re

_WILD = re.compile(r"[*?]+")
_CROWD = 64  # patterns under the same three characters from which on the disk is asked without a look at each


def runs(glob: str) -> tuple[str, ...]:
    """What stands between the wildcards, the longest first."""
    return tuple(sorted(filter(None, _WILD.split(glob)), key=len, reverse=True))


def grams(text: str) -> set[str]:
    """Each three characters in a row."""
    return {text[i : i + 3] for i in range(len(text) - 2)}


class Patterns:
    """The globs of one list; each has three characters in a row that are no wildcards."""

    def __init__(self) -> None:
        self._gram: dict[str, str] = {}
        self._under: dict[str, dict[str, tuple[str, ...]]] = {}

    def __len__(self) -> int:
        return len(self._gram)

    def add(self, glob: str) -> None:
        between = runs(glob)
        # min of a sorted list: the same patterns lie the same way each time.
        possible = sorted(gram for run in between for gram in grams(run))
        gram = self._gram.setdefault(glob, min(possible, key=lambda gram: len(self._under.get(gram, ()))))
        self._under.setdefault(gram, {})[glob] = between

    def discard(self, glob: str) -> None:
        gram = self._gram.pop(glob, None)
        if gram is not None:
            del self._under[gram][glob]
            if not self._under[gram]:
                del self._under[gram]

    def may_match(self, address: str, found: set[str]) -> bool:
        """Whether one may match the folded address, whose ``grams`` are ``found``."""
        for gram in found & self._under.keys():
            here = self._under[gram]
            if len(here) > _CROWD or any(all(run in address for run in between) for between in here.values()):
                return True
        return False
