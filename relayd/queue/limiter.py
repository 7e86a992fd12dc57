"""The limiter: every limit of a start, taken together or not at all.

Enter: who wants to start what, a delivery on a path or a session of one.  Leave: it starts and all its meters know, or
the meter that refuses and for how long.  Which meters a start has follows from the site's terms and from the stream's
layers; they are made when first asked for and shared by all that is in their scope.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from weakref import WeakValueDictionary

import msgspec

from relayd.envelope import Delivery
from relayd.notation import patterns
from relayd.queue.meter import Counts, Meter
from relayd.queue.state import Path, Site, Stream
from relayd.shaping.limits import NONE, Layer, Limits
from relayd.shaping.reactions import Active, Reactions, share

SOON = 0.001  # seconds: of those who find a line
COOLING = 10_000  # meters without a path that are kept before those that know nothing are forgotten


Meters = tuple[Meter[Path], ...]


class Refusal(NamedTuple):
    """Who holds a start longest; ``wait``: seconds, without end where a connection has to come free."""

    meter: Meter[Path]
    wait: float


class Limiter:
    """See the module.  Limits of single paths are kept by the path's own meter; the others live as long as a path has
    them, and then until they know nothing that a new one would not."""

    def __init__(self, reactions: Reactions) -> None:
        self._reactions = reactions
        self._meters: WeakValueDictionary[str, Meter[Path]] = WeakValueDictionary()
        self._cooling: dict[str, Meter[Path]] = {}
        self._most = COOLING
        self._held: dict[int, Meters] = {}  # by delivery, of those that count deliveries under way
        self.used = False  # whether there is any limit but those of paths

    # Which meters.

    def equip(self, path: Path, site: Site, pools: list[str], reactions: Sequence[Active], now: float) -> None:
        """Gives a path the meters of the site's terms and of the reactions that bear on it, sessions counted in;
        ``pools``: those its source is in."""
        self.let_go(path, now)
        limits = site.terms.limits
        slowed = [reaction for reaction in reactions if reaction.action == "limit" and now < reaction.until]
        self.used = self.used or bool(site.terms.layers or limits.bytes or slowed)
        part = min((share(reaction, now) for reaction in reactions), default=1.0)
        path.meter.limit(msgspec.structs.replace(limits, bytes=None).part(part))
        shared = [
            self._meter(f"{scope} {name} in {layer.name}", limits)
            for layer in site.terms.layers
            for scope, names, limits in (("source", [path.source], layer.source), ("pool", pools, layer.pool))
            if limits is not NONE
            for name in names
        ]
        path.slowed = tuple(self._meter(f"the reaction {r.rule} ({r.id})", _ceiling(r)) for r in slowed)
        shared += path.slowed
        for meter in path.meters:
            meter.used -= path.sessions
            for paths in (meter.idle, *meter.hungry):
                paths.pop(path, None)
        path.meters = (path.meter, *shared)
        for meter in path.meters:
            meter.used += path.sessions
            if path.idle:
                meter.idle[path] = None
        path.starts.clear()

    def starts(self, path: Path, site: Site, lane: str, stream: Stream, pool: str, now: float) -> Meters:
        """The meters that a start of a lane's delivery has to pass."""
        known = path.starts.get(lane)
        if known is None or known[0] is not stream:
            account = lane.partition("/")[0]
            found = (
                *self._slowed(site, account, now),
                *self._starts(path, site, stream.account or account, pool, stream.layers),
            )
            known = path.starts[lane] = (stream, found)
        return known[1]

    def _slowed(self, site: Site, account: str, now: float) -> Iterator[Meter[Path]]:
        """Meters of the reactions by which an account is held to a limit at the site."""
        for reaction in self._reactions.holds("", site.group, account, now):
            if reaction.account and reaction.action == "limit" and now < reaction.until:
                meter = self._meter(f"the reaction {reaction.rule} ({reaction.id})", _ceiling(reaction), "deliveries")
                meter.ends_at = reaction.until
                yield meter

    def _starts(self, path: Path, site: Site, owner: str, pool: str, own: tuple[Layer, ...]) -> Iterator[Meter[Path]]:
        yield from path.slowed
        if site.terms.limits.bytes:
            yield self._meter(f"mail to {path.meter.name}", Limits(bytes=site.terms.limits.bytes))
        for layer in site.terms.layers:
            if layer.source is not NONE:
                yield self._meter(f"source {path.source} in {layer.name}", layer.source)
            if layer.pool is not NONE:
                yield self._meter(f"pool {pool} in {layer.name}", layer.pool)
            if layer.account is not NONE:
                yield self._meter(f"account {owner} in {layer.name}", layer.account, "deliveries")
        for layer in own:
            if layer.at and layer.at not in (site.terms.group, *patterns(next(iter(site.hosts), ""))):
                continue
            where = (
                ("", layer.account),
                (f" by pool {pool}", layer.pool),
                (f" by source {path.source}", layer.source),
                (f" to {site.name} by source {path.source}", layer.path),
            )
            for words, limits in where:
                if limits is not NONE:
                    yield self._meter(layer.name + words, limits, "deliveries")

    def _meter(self, name: str, limits: Limits, counts: Counts = "sessions") -> Meter[Path]:
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = Meter(name, limits, counts)
        elif meter.limits is not limits:
            meter.limit(limits)
        return meter

    def let_go(self, path: Path, now: float) -> None:
        """The path is about to be forgotten, or to have other meters; what its meters know is not."""
        self._cool({*path.meters[1:], *(meter for _, meters in path.starts.values() for meter in meters)}, now)

    def renew(self, path: Path, lane: str, now: float) -> None:
        """The meters of the lane's starts are others from now on."""
        _, meters = path.starts.pop(lane, (None, ()))
        self._cool(meters, now)

    def _cool(self, meters: Iterable[Meter[Path]], now: float) -> None:
        for meter in meters:
            if not meter.knows_nothing(now):
                self._cooling[meter.name] = meter
        if len(self._cooling) > self._most:
            self._cooling = {name: meter for name, meter in self._cooling.items() if not meter.knows_nothing(now)}
            self._most = max(COOLING, 2 * len(self._cooling))

    # Starts.

    def refused(
        self,
        meters: Meters,
        now: float,
        size: int,
        place: tuple[Path, str],
        *,
        urgent: bool,
        called: bool,
    ) -> Refusal | None:
        """Whether a delivery may start by all of them; if not, who holds it longest.  ``called``: it has waited in line
        and may go before those who still do, as priority mail may."""
        found = None
        longest = 0.0
        for meter in meters:
            wait = meter.wait(now, size, urgent=urgent)
            if not (urgent or meter.line.lets(place, called=called)):
                wait = max(wait, SOON)
            if wait > longest:
                longest, found = wait, meter
        return Refusal(found, longest) if found else None

    def start(self, delivery: Delivery, meters: Meters, now: float, size: int, *, urgent: bool) -> None:
        """It starts."""
        for meter in meters:
            meter.spend(now, size, urgent=urgent)
        held = tuple(meter for meter in meters if meter.counts == "deliveries" and meter.limits.connections)
        if held:
            self._held[delivery.id] = held
            for meter in held:
                meter.used += 1

    def ended(self, delivery: Delivery) -> Meters:
        """It is under way no more.  Gives the meters that have room for another now."""
        held = self._held.pop(delivery.id, ())
        for meter in held:
            meter.used -= 1
        return held


def _ceiling(reaction: Active) -> Limits:
    ceiling = reaction.limits
    return Limits(ceiling.connections, ceiling.rate, ceiling.connection_rate)
