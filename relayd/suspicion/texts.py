"""Texts of late, and whose they are: what several customers send nearly word for word is known here.

In: sketches (``text.examine``), the customer of each.  Out: whether another one has sent nearly the same lately.
Bounded: the text that was seen longest ago goes first.
"""

from collections import OrderedDict

from relayd.suspicion.text import alike

TEXTS = 2000
CUSTOMERS = 8  # remembered of a text
LATELY = 6 * 3600.0  # seconds
_ENTRIES = 4  # of a sketch's hashes by which it is found: of texts that are alike, one in a thousand is missed


class Texts:
    """See the module."""

    def __init__(self, most: int = TEXTS) -> None:
        self._most = most
        self._customers: OrderedDict[tuple[int, ...], dict[str, float]] = OrderedDict()  # when each sent it last
        self._index: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._customers)

    def shared(self, sketch: tuple[int, ...], customer: str, now: float) -> bool:
        """Notes it; True if another customer has sent it lately."""
        known = self._find(sketch)
        if known is None:
            self._add(sketch)
            known = sketch
        self._customers.move_to_end(known)
        senders = self._customers[known]
        if customer in senders or len(senders) < CUSTOMERS:
            senders[customer] = now
        return any(name != customer and now - last < LATELY for name, last in senders.items())

    def _find(self, sketch: tuple[int, ...]) -> tuple[int, ...] | None:
        candidates = filter(None, map(self._index.get, sketch[:_ENTRIES]))
        return next((known for known in candidates if alike(known, sketch)), None)

    def _add(self, sketch: tuple[int, ...]) -> None:
        if len(self._customers) >= self._most:
            oldest, _ = self._customers.popitem(last=False)
            for value in oldest[:_ENTRIES]:
                if self._index.get(value) == oldest:
                    del self._index[value]
        self._customers[sketch] = {}
        self._index.update(dict.fromkeys(sketch[:_ENTRIES], sketch))
