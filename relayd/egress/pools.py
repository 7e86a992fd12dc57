"""Pools of weighted sources, and which source a delivery goes by.

Enter: the configured sources and pools, and what the machine says of their addresses.  Leave: the source for a delivery
of a pool: the one of its last attempt while that can be used (greylisting wants the same again), else the next by
smooth weighted round robin, which honours weights exactly over any short run.
"""

import msgspec


class Source(msgspec.Struct, frozen=True):
    """``addresses``: one per family at most; none means the system's choice."""

    name: str
    addresses: tuple[str, ...] = ()
    ehlo: str = ""

    def address(self, peer: str) -> str | None:
        """The address to bind to reach ``peer``: "" for the system's choice, None if the family is missing."""
        if not self.addresses:
            return ""
        return next((a for a in self.addresses if (":" in a) == (":" in peer)), None)


class Pools:
    """All sources and pools.  A source can be taken out of use, with a reason, and put back."""

    def __init__(self, sources: dict[str, Source], pools: dict[str, dict[str, int]]) -> None:
        self.sources = sources
        self.pools = pools
        self.out_of_use: dict[str, str] = {}
        self._credit: dict[str, dict[str, int]] = {name: dict.fromkeys(weights, 0) for name, weights in pools.items()}

    def choose(self, pool: str, last: str, avoid: set[str], *, peek: bool = False) -> str | None:
        """The source for a delivery of ``pool`` last sent by ``last`` ("" if never), or None while there is none.
        ``peek`` only asks: it gives one that could be used and takes no turn."""
        weights = self.pools.get(pool)
        if weights is None:
            return None
        if last in weights and last not in self.out_of_use and last not in avoid:
            return last
        if not avoid and not self.out_of_use and len(weights) == 1:
            return next(iter(weights))
        usable = {s: w for s, w in weights.items() if s not in self.out_of_use and s not in avoid}
        if peek or not usable:
            return next(iter(usable), None)
        credit = self._credit[pool]
        for source, weight in usable.items():
            credit[source] += weight
        best = max(usable, key=credit.__getitem__)
        credit[best] -= sum(usable.values())
        return best
