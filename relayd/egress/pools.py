"""Pools of weighted sources, and which source a delivery goes by.

Enter: the configured sources and pools, and what the machine says of their addresses.  Leave: the source for a delivery
of a pool: the one of its last attempt while that can be used (greylisting wants the same again), else the next by
smooth weighted round robin, which honours weights exactly over any short run.  While a pool has none that can be used
there, its overflow's are.
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
    """All sources and pools.  Sources that cannot be used, and why: ``out_of_use`` by the machine, ``drained`` by
    somebody's wish.  ``overflow``: pool to pool; one that is somebody's overflow has none.  ``refuges``: sources that
    reactions move deliveries of any pool to, which then stay with them."""

    def __init__(
        self, sources: dict[str, Source], pools: dict[str, dict[str, int]], overflow: dict[str, str] | None = None
    ) -> None:
        self.sources = sources
        self.pools = pools
        self.overflow = overflow or {}
        self.refuges: set[str] = set()
        self.out_of_use: dict[str, str] = {}
        self.drained: dict[str, str] = {}
        self._credit: dict[str, dict[str, int]] = {name: dict.fromkeys(weights, 0) for name, weights in pools.items()}

    def choose(self, pool: str, last: str, avoid: set[str], *, peek: bool = False) -> str | None:
        """The source for a delivery of ``pool`` last sent by ``last`` ("" if never), or None while there is none.
        ``peek`` only asks: it gives one that could be used and takes no turn."""
        weights = self.pools.get(pool)
        if weights is None:
            return None
        if (last in weights or last in self.refuges) and self._usable(last, avoid):
            return last
        usable = {s: w for s, w in weights.items() if self._usable(s, avoid)}
        if not usable and pool in self.overflow:
            return self.choose(self.overflow[pool], last, avoid, peek=peek)
        if peek or len(usable) < 2:
            return next(iter(usable), None)
        credit = self._credit[pool]
        for source, weight in usable.items():
            credit[source] += weight
        best = max(usable, key=credit.__getitem__)
        credit[best] -= sum(usable.values())
        return best

    def _usable(self, source: str, avoid: set[str]) -> bool:
        return not (source in self.out_of_use or source in self.drained or source in avoid)

    def known(self, pool: str) -> bool:
        return pool in self.pools

    def explain(self, pool: str) -> str:
        """Why no source of a pool and its overflow can be used, in words."""
        faults = {**{name: f"drained, {why}" for name, why in self.drained.items()}, **self.out_of_use}
        told = "; ".join(f"{name}: {faults[name]}" for name in self.pools.get(pool, ()) if name in faults)
        lack = f"no source of pool {pool!r} can be used" + (f": {told}" if told else "")
        return f"{lack}; overflow: {self.explain(self.overflow[pool])}" if pool in self.overflow else lack

    def sources_of(self, pool: str) -> set[str]:
        """Those by which a delivery of the pool may have gone."""
        return {*self.pools.get(pool, ()), *self.pools.get(self.overflow.get(pool, ""), ()), *self.refuges}

    def having(self, source: str) -> list[str]:
        """The pools that have a source."""
        return [name for name, weights in self.pools.items() if source in weights]

    def overflow_of(self, pool: str, source: str) -> str:
        """The overflow of a pool by which it has a source, "" for one of its own."""
        return "" if source in self.pools.get(pool, ()) else self.overflow.get(pool, "")
