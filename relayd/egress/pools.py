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
    """All sources and pools.  Sources that cannot be used, and why: ``out_of_use`` by the machine, ``drained`` by
    somebody's wish."""

    def __init__(self, sources: dict[str, Source], pools: dict[str, dict[str, int]]) -> None:
        self.sources = sources
        self.pools = pools
        self.out_of_use: dict[str, str] = {}
        self.drained: dict[str, str] = {}
        self._credit: dict[str, dict[str, int]] = {name: dict.fromkeys(weights, 0) for name, weights in pools.items()}

    def choose(self, pool: str, last: str, avoid: set[str], *, peek: bool = False) -> str | None:
        """The source for a delivery of ``pool`` last sent by ``last`` ("" if never), or None while there is none.
        ``peek`` only asks: it gives one that could be used and takes no turn."""
        weights = self.pools.get(pool)
        if weights is None:
            return None
        if last in weights and self._usable(last, avoid):
            return last
        usable = {s: w for s, w in weights.items() if self._usable(s, avoid)}
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

    def explain(self, pool: str) -> str:
        """Why no source of a pool can be used, in words."""
        faults = {**{name: f"drained, {why}" for name, why in self.drained.items()}, **self.out_of_use}
        told = "; ".join(f"{name}: {faults[name]}" for name in self.pools.get(pool, ()) if name in faults)
        return f"no source of pool {pool!r} can be used" + (f": {told}" if told else "")
