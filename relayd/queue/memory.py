"""Memory for deliveries: how many of a queue may be in it, and whose queue is read next when there is room.

Enter: deliveries loaded and gone, queues that want more.  Leave: how many more a queue may have; the next in line.
Whatever blocks a site, or the mail of an account, blocks no other: a site has a part of memory at most, and when it is
full who has much of it waits before who has little.  Queues wait in line by accounts, which take turns.
"""

from collections.abc import Collection

from relayd.envelope import Delivery
from relayd.queue.state import Queue, Share, Waiting

PULL = 64  # deliveries of one queue in memory
LOADED = 20_000  # deliveries in memory, all together ...
LOADED_BYTES = 128 << 20  # ... and what their bodies take
PART = 4  # of which one site has at most this part, and an account that has more is the first to wait
RESERVE = 4  # a queue may have these even when memory is full (so many times): nobody is shut out
PULLS = 8  # pulls under way: what they bring is bounded, and the spool reads one after the other anyhow
PROBE = 4  # deliveries pulled for a path that failed lately
TWICE = 2  # how often full memory may be for who has a large part of it; for others, and for new mail, once more each


class Memory:
    """See the module.  ``coming``: deliveries that pulls under way may bring."""

    def __init__(self) -> None:
        self.loaded = 0
        self.bytes = 0
        self.coming = 0
        self.pulls = 0
        self._accounts: dict[str, Share] = {}
        self.waiting = Waiting()

    def full(self, times: int = 1) -> bool:
        return self.loaded + self.coming >= LOADED * times or self.bytes >= LOADED_BYTES * times

    def room(self, queue: Queue, *, urgent: bool, new: bool = False) -> int:
        """How many more of a queue may be in it; ``urgent``: it is priority mail; ``new``: for mail just received."""
        if not urgent and self.crowds(queue):
            return 0
        if self.full():
            share = self._accounts.get(queue.account)
            most = 0 if self.full(TWICE + new + (urgent or share is None or not _over(share))) else RESERVE
        elif queue.failures or (queue.site is not None and queue.site.failing):
            most = PROBE
        else:
            most = PULL
        return most - len(queue.loaded)

    @property
    def busy(self) -> bool:
        """Whether as many pulls are under way as may be."""
        return self.pulls >= PULLS

    def crowds(self, queue: Queue) -> bool:
        """Whether the queue's site has used up its part."""
        return queue.site is not None and _over(queue.site.share)

    def overflows(self, queue: Queue) -> bool:
        """Whether it has more than pulls under way can have brought: what was loaded before the site was known."""
        return queue.site is not None and _over(queue.site.share, PULLS * PULL)

    def add(self, queue: Queue, delivery: Delivery) -> None:
        queue.loaded.add(delivery.id)
        self._count(queue, 1, bytes_of(delivery))

    def remove(self, queue: Queue, delivery: Delivery) -> None:
        queue.loaded.discard(delivery.id)
        self._count(queue, -1, -bytes_of(delivery))

    def keep(self, queue: Queue, ids: Collection[int]) -> None:
        """These are in somebody's hands without being here: what of the queue is loaded counts them."""
        queue.loaded.update(ids)
        self._count(queue, len(ids), 0)

    def let_go(self, queue: Queue, ids: Collection[int]) -> None:
        queue.loaded.difference_update(ids)
        self._count(queue, -len(ids), 0)

    def _count(self, queue: Queue, many: int, size: int) -> None:
        self.loaded += many
        self.bytes += size
        queue.bytes += size
        if queue.site is not None:
            queue.site.share.add(many, size)
        share = self._accounts.get(queue.account) or self._accounts.setdefault(queue.account, Share())
        share.add(many, size)
        if not share.loaded:
            del self._accounts[queue.account]

    def wait(self, queue: Queue) -> None:
        """The queue wants more and may not have it now."""
        waiting = queue.site.share.waiting if queue.site is not None and self.crowds(queue) else self.waiting
        waiting.join(queue)


def _over(share: Share, by: int = 0) -> bool:
    """Whether it is a part that nobody should have, by so many deliveries."""
    return (share.loaded - by) * PART >= LOADED or share.bytes * PART >= LOADED_BYTES * (2 if by else 1)


def bytes_of(delivery: Delivery) -> int:
    return len(delivery.message.head) + len(delivery.message.body or b"")
