"""What the scheduler keeps in memory: eligible queues, the sites they go to and the paths that lead there."""

from relayd.envelope import Delivery, queue_parts
from relayd.queue.ready import ReadyQueue
from relayd.shaping.limits import Limits, Pace


class Path:
    """A source towards a site: where sessions, their limits and the site's health live.  ``cap`` is how many sessions
    the site was seen to bear when it refused one more, believed until ``cap_until``; ``paced_until`` is when the rate
    lets the next delivery go."""

    __slots__ = (
        "cap",
        "cap_until",
        "failures",
        "idle",
        "limits",
        "opening",
        "pace",
        "paced_until",
        "ready",
        "reason",
        "rest_until",
        "sessions",
        "site",
        "source",
    )

    def __init__(self, source: str, site: str, limits: Limits) -> None:
        self.source = source
        self.site = site
        self.paced_until = 0.0
        self.limit(limits)
        self.ready = ReadyQueue()
        self.sessions = 0  # open ones, those being opened included
        self.opening = 0
        self.idle = 0
        self.failures = 0
        self.rest_until = 0.0
        self.reason = ""
        self.cap = 0
        self.cap_until = 0.0

    def limit(self, limits: Limits) -> None:
        """Limits from now on."""
        self.limits = limits
        self.pace = Pace(limits.rate) if limits.rate else None

    @property
    def at_work(self) -> int:
        """How many sessions have something under way, or are about to end."""
        return self.sessions - self.opening - self.idle


class Site:
    """A destination as its provider runs it: the queues that go there and the paths they may take.  ``hosts``: the
    names of its mail hosts, by preference."""

    __slots__ = ("hosts", "limits", "name", "paths", "queues")

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.hosts: tuple[str, ...] = ()
        self.paths: dict[str, Path] = {}  # by source
        self.queues: dict[str, None] = {}  # names, in the order they came

    def resting(self, now: float) -> set[str]:
        """Sources whose path rests."""
        return {source for source, path in self.paths.items() if path.rest_until > now}

    @property
    def failing(self) -> bool:
        return any(path.failures for path in self.paths.values())


class Queue:
    """An eligible scheduled queue.  ``more``: the spool may hold due deliveries that are not in memory."""

    __slots__ = (
        "account",
        "again",
        "domain",
        "failures",
        "gone",
        "lane",
        "lingering",
        "loaded",
        "look",
        "more",
        "name",
        "pulling",
        "reason",
        "rest_until",
        "routing",
        "site",
        "site_until",
        "starved",
        "stream",
        "waiting",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.account, self.stream, self.domain = queue_parts(name)
        self.lane = f"{self.account}/{self.stream}"
        self.loaded: set[int] = set()
        self.waiting: list[Delivery] = []  # in memory, but without a path yet
        self.more = False
        self.pulling = False
        self.again = False  # something came while a pull was under way
        self.gone: set[int] = set()  # what left memory while a pull was under way: it may still have read the row
        self.look = 0.0
        self.routing = False
        self.starved = False
        self.lingering = False
        self.site: Site | None = None
        self.site_until = 0.0
        self.failures = 0
        self.rest_until = 0.0
        self.reason = ""
