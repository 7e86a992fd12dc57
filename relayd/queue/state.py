"""What the scheduler keeps in memory: eligible queues, the sites they go to and the paths that lead there."""

from collections import OrderedDict, deque

import msgspec

from relayd.envelope import Delivery, queue_parts
from relayd.notation import patterns
from relayd.queue.meter import Meter
from relayd.queue.ready import ReadyQueue
from relayd.shaping.limits import Layer, Terms

WINDOW = 5  # sessions a path begins with
_GENERAL = Terms()


class Stream(msgspec.Struct, frozen=True):
    """What the scheduler needs to know of a stream.  ``pools``: of domains, ``*.suffix`` for those below one, that have
    a pool of their own; ``account``: whose turn its mail takes, "" for its own; ``weight``: of that account;
    ``layers``: the limits of its account and those above it."""

    pool: str = "default"
    priority: int = 50
    pools: dict[str, str] = {}
    account: str = ""
    weight: float = 1.0
    layers: tuple[Layer, ...] = ()

    def pool_for(self, domain: str, hosts: tuple[str, ...]) -> str:
        """By the longest match on the domain, else on its mail hosts, the preferred one first."""
        if self.pools:
            for name in (domain, *hosts):
                for pattern in patterns(name):
                    if pattern in self.pools:
                        return self.pools[pattern]
        return self.pool

    def all_pools(self) -> set[str]:
        """Those its mail may leave by."""
        return {self.pool, *self.pools.values()}


class Path:
    """A source towards a site: where sessions, their limits and the site's health live.

    ``window`` is how many sessions the site is known to bear: it grows by one with each delivery that it takes, and
    when it refuses a session, or a delivery for the moment, it is what there was besides, until ``window_until`` at
    least.  ``paced_until`` is when a limit lets the next delivery go, ``rest_until`` when the path may be used again at
    all, ``stays``: what has gone by it waits for that; ``capped_until``: until when warm-up has mail look for another.
    ``meters``: those that count its sessions, its own first; ``slowed``: those of reactions among them, which are
    others from ``review_at`` on; ``starts``: by lane, those that a start passes, with the stream they were made for.
    """

    __slots__ = (
        "capped_until",
        "failures",
        "idle",
        "meter",
        "meters",
        "opening",
        "paced_until",
        "ready",
        "reason",
        "rest_until",
        "review_at",
        "sessions",
        "site",
        "slowed",
        "source",
        "starts",
        "stays",
        "window",
        "window_until",
    )

    def __init__(self, source: str, site: str, terms: Terms = _GENERAL) -> None:
        self.source = source
        self.site = site
        self.meter: Meter[Path] = Meter(f"{site} by source {source}", terms.limits)
        self.meters: tuple[Meter[Path], ...] = (self.meter,)
        self.slowed: tuple[Meter[Path], ...] = ()
        self.starts: dict[str, tuple[Stream, tuple[Meter[Path], ...]]] = {}
        self.stays = False
        self.capped_until = 0.0
        self.review_at = 0.0
        self.paced_until = 0.0
        self.ready = ReadyQueue()
        self.sessions = 0  # open ones, those being opened included
        self.opening = 0
        self.idle = 0
        self.failures = 0
        self.rest_until = 0.0
        self.reason = ""
        self.window = WINDOW
        self.window_until = 0.0

    @property
    def at_work(self) -> int:
        """How many sessions have something under way, or are about to end."""
        return self.sessions - self.opening - self.idle

    def waits(self, lane: str) -> bool:
        """Whether it is parked."""
        return self.ready.parked(lane)

    def pushed_back(self, working: int, until: float) -> None:
        """The site bears no more than so many sessions for now."""
        self.window = max(1, working)
        self.window_until = until

    def taken(self, now: float) -> None:
        """The site has taken a delivery."""
        if self.window < self.meter.limits.connections and now >= self.window_until:
            self.window += 1


class Waiting:
    """Queues that want more, by their accounts in turn."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, deque[Queue]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def join(self, queue: "Queue") -> None:
        if not queue.starved:
            queue.starved = True
            self._accounts.setdefault(queue.account, deque()).append(queue)

    def next(self) -> "Queue":
        """There must be one."""
        account, waiting = self._accounts.popitem(last=False)
        queue = waiting.popleft()
        queue.starved = False
        if waiting:
            self._accounts[account] = waiting
        return queue

    def __len__(self) -> int:
        """How many accounts wait."""
        return len(self._accounts)


class Share:
    """What one site, or one account, has of it.  ``waiting``: a site's queues that want more."""

    __slots__ = ("bytes", "loaded", "waiting")

    def __init__(self) -> None:
        self.loaded = 0
        self.bytes = 0
        self.waiting = Waiting()

    def add(self, many: int, size: int) -> None:
        self.loaded += many
        self.bytes += size


class Site:
    """A destination as its provider runs it: the queues that go there and the paths they may take.  ``hosts``: the
    names of its mail hosts, by preference; ``doubtful``: its terms are of before a reload."""

    __slots__ = ("doubtful", "hosts", "name", "paths", "queues", "share", "terms")

    def __init__(self, name: str, terms: Terms) -> None:
        self.name = name
        self.terms = terms
        self.doubtful = False
        self.hosts: tuple[str, ...] = ()
        self.paths: dict[str, Path] = {}  # by source
        self.queues: dict[str, None] = {}  # names, in the order they came
        self.share = Share()

    @property
    def group(self) -> str:
        """What adaptive state goes by: its provider, or itself."""
        return self.terms.group or self.name

    def resting(self, now: float) -> set[str]:
        """Sources whose path rests."""
        return {source for source, path in self.paths.items() if path.rest_until > now}

    def capped(self, now: float) -> set[str]:
        """Sources that have sent there what they may today."""
        return {source for source, path in self.paths.items() if path.capped_until > now}

    @property
    def failing(self) -> bool:
        return any(path.failures or path.rest_until or path.capped_until for path in self.paths.values())


class Queue:
    """An eligible scheduled queue.  ``more``: the spool may hold due deliveries that are not in memory.  Until
    ``rest_until`` it is not read, for the ``reason`` given; ``held``: that is not for a fault of the DNS.  ``pool``:
    the one that its mail was moved to, "" for its stream's own."""

    __slots__ = (
        "account",
        "again",
        "bytes",
        "domain",
        "failures",
        "gone",
        "held",
        "lane",
        "lingering",
        "loaded",
        "look",
        "more",
        "name",
        "pool",
        "pulling",
        "reason",
        "rest_until",
        "routing",
        "site",
        "site_until",
        "starved",
        "strayed",
        "stream",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.account, self.stream, self.domain, self.pool = queue_parts(name)
        self.lane = f"{self.account}/{self.stream}" + (f" by {self.pool}" if self.pool else "")
        self.loaded: set[int] = set()
        self.bytes = 0  # of what is loaded
        self.waiting: list[Delivery] = []  # in memory, but without a path yet
        self.more = False
        self.pulling = False
        self.again = False  # something came while a pull was under way
        self.gone: set[int] = set()  # what left memory while a pull was under way: it may still have read the row
        self.look = 0.0
        self.routing = False
        self.starved = False
        self.strayed = False  # it has left a site that may still have deliveries of it
        self.lingering = False
        self.site: Site | None = None
        self.site_until = 0.0
        self.failures = 0
        self.rest_until = 0.0
        self.reason = ""
        self.held = False
