"""What is remembered of single hosts: which ones did not answer lately, and whose TLS is broken.

Enter: how connections went.  Leave: the order in which a site's addresses are tried (by preference, equal ones by lot,
those that did not answer lately last: one dead host among four slows nobody), and whether one is talked to in clear.
RFC 5321 section 5.1, RFC 7435.
"""

import random
from collections.abc import Callable, Iterable

from relayd.delivery.routing import Hop, Level, Policy

DEAD = 300.0  # seconds for which a host that did not answer is tried only after the others
CLEAR = 86400.0  # seconds for which a host whose TLS is broken is talked to in clear, where policy is `may`
_KEPT = 20_000  # hosts remembered


class Hosts:
    """Memory of addresses; ``now`` is reactor seconds."""

    def __init__(self, rng: random.Random, now: Callable[[], float]) -> None:
        self._rng = rng
        self._now = now
        self._dead: dict[str, float] = {}
        self._clear: dict[str, float] = {}

    def order(self, hops: Iterable[Hop]) -> list[Hop]:
        """The order in which to try them."""
        now = self._now()
        return sorted(hops, key=lambda h: (self._dead.get(h.address, 0.0) > now, h.preference, self._rng.random()))

    def silent(self, hop: Hop) -> None:
        """It did not answer."""
        _remember(self._dead, hop.address, self._now() + DEAD)

    def answered(self, hop: Hop) -> None:
        self._dead.pop(hop.address, None)

    def broke_tls(self, hop: Hop) -> None:
        """The handshake failed."""
        _remember(self._clear, hop.address, self._now() + CLEAR)

    def tls(self, policy: Policy, hop: Hop) -> Level:
        """What the policy comes to with this host: `may` is `off` where TLS was seen to fail."""
        broken = policy.tls == "may" and self._clear.get(hop.address, 0.0) > self._now()
        return "off" if broken else policy.tls


def _remember(memory: dict[str, float], address: str, until: float) -> None:
    memory.pop(address, None)
    memory[address] = until
    if len(memory) > _KEPT:
        del memory[next(iter(memory))]
