"""What the scheduler decides and the shell performs."""

import msgspec

from relayd.envelope import Delivery
from relayd.queue.state import Path


class Poll(msgspec.Struct, frozen=True):
    """Ask the spool for queues due behind ``after``; answer with ``polled``."""

    after: tuple[float, str]
    limit: int


class Pull(msgspec.Struct, frozen=True):
    """Ask the spool for due deliveries of a queue; answer with ``pulled``."""

    queue: str
    limit: int
    but: list[int]


class Settle(msgspec.Struct, frozen=True):
    """Have the spool write the queue's true next due time; answer with ``settled``."""

    queue: str


class Route(msgspec.Struct, frozen=True):
    """Find the site of a queue's domain; answer with ``routed`` or ``unroutable``."""

    queue: str
    domain: str


class Work(msgspec.Struct, frozen=True):
    """The path has deliveries ready: use an idle session, or open one if ``open`` says so."""

    path: Path
    open: bool


class PutOff(msgspec.Struct, frozen=True):
    """Have the spool keep the delivery until then: it was not tried."""

    delivery: Delivery
    due: float


class Retire(msgspec.Struct, frozen=True):
    """End an idle session of the path: others want one and may not have more."""

    path: Path


Decision = PutOff | Retire | Poll | Pull | Settle | Route | Work
