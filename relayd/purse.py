"""The purse: what each payer may still send, known on the main thread, so that a recipient is paid for in microseconds.

Enter: payers and units.  Leave: yes, no, or "the directory must be asked", which this room then does.

Units come from the directory to the spool in leases, ahead of their use; the Reception transaction debits them there.
Here is only what of a lease is not yet promised to anybody.  Asking is done in rounds, one at a time, for all payers
that want something:

1. the spool gives back what is to return, and tells its leases;
2. the directory books that, and grants more;
3. the spool raises its leases to what was granted.

Each step is one transaction and each may be the last before a crash: the totals that are told (``relayd.lease``) make
good what is missing at the next start, when every lease returns whole before anything is granted.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from math import inf
from typing import NamedTuple

from relayd.directory import Balances
from relayd.directory.balances import Grant, Want
from relayd.lease import Lease
from relayd.spool import Spool
from relayd.spool.leases import ALL

AHEAD = 20.0  # seconds of traffic in a lease; at half of it more is asked for
LEAST, MOST = 100, 1_000_000  # units asked for at once
IDLE = 300.0  # seconds after which a lease that nobody uses returns
SWEEP = 30.0  # seconds between looks for those
AGAIN = 10.0  # seconds for which "used up" is believed: refunds come in unannounced
PATIENCE = 20.0  # seconds that somebody waits for an answer
TOGETHER = 500  # payers in one round

Done = Callable[[bool | None], None]


class _Waiter(NamedTuple):
    units: int
    until: float
    round: int  # that was under way when it came
    done: Done


class _Pocket:
    """A payer's lease in memory.  ``left`` is free, ``reserved`` promised and not yet in the spool; ``there`` is what
    the directory had behind it when it was asked, which holds until ``until`` at the latest."""

    __slots__ = ("asked", "came", "last", "left", "mark", "reserved", "there", "until", "used", "waiting")

    def __init__(self) -> None:
        self.came: int | None = None  # all that ever came into the lease; None: nobody has looked yet
        self.left = self.reserved = self.there = 0
        self.mark = 0  # with fewer units left more is asked for
        self.until = self.asked = self.last = 0.0
        self.used = 0  # since it was asked for
        self.waiting: list[_Waiter] = []

    def take(self, units: int, now: float) -> None:
        self.left -= units
        self.reserved += units
        self.used += units
        self.last = now if units else self.last

    @property
    def needed(self) -> int:
        return sum(waiter.units for waiter in self.waiting)

    def idle(self, now: float) -> bool:
        return now >= self.last + IDLE and not self.needed

    def wanted(self, now: float) -> int:
        """Units for the time ahead, by what was used since the last time."""
        return min(MOST, max(LEAST, int(self.used / max(0.1, now - self.asked) * AHEAD)))

    def told(self, lease: Lease) -> None:
        """The lease as it is in the spool: what came in since the last look is free."""
        came = lease.granted + lease.refunded
        self.left += 0 if self.came is None else came - self.came
        self.came = came


class Purse:
    """See the module.  For the main thread.  ``fault(text | None)`` is called when the stores cannot be asked, and when
    they can again."""

    def __init__(self, balances: Balances, spool: Spool, fault: Callable[[str | None], None]) -> None:
        self._balances = balances
        self._spool = spool
        self._fault = fault
        self._pockets: dict[str, _Pocket] = {}
        self._asked: dict[str, None] = {}  # who wants a round, in order
        self._round: dict[str, int] = {}  # who is in the one under way, and what each gives back
        self._grants: dict[str, Grant] = {}  # and gets
        self._number = 0
        self._now = self._swept = 0.0
        self._failing = False
        self._stopping = False
        self._stopped: Callable[[], None] | None = None
        balances.changed = self._changed

    def start(self, now: float) -> None:
        """Returns what the last run left; nothing is granted before."""
        self._ask(self._balances.leases, now)

    def stop(self, now: float, done: Callable[[], None]) -> None:
        """Returns all that is not promised, then calls ``done``.  Nothing can be reserved from now on."""
        self._stopping, self._stopped = True, done
        self._ask([payer for payer, pocket in self._pockets.items() if pocket.left or pocket.waiting], now)

    def reserve(self, payer: str, units: int, now: float) -> bool | None:
        """True: they are promised to the caller, who will say ``spent`` or ``release``.  False: the balance is used up.
        None: that is not known here, ``want`` them.  The payer has a balance."""
        pocket = self._pockets.get(payer)
        if pocket is None or now >= pocket.until:
            return None
        if units <= pocket.left:
            pocket.take(units, now)
            if pocket.left < pocket.mark:
                pocket.mark = 0
                self._ask((payer,), now)
            return True
        return None if units <= pocket.left + pocket.there or now >= pocket.asked + AGAIN else False

    def want(self, payer: str, units: int, now: float, done: Done) -> None:
        """Asks first, then reserves.  ``done(None)``: it could not be found out.  No units: done when the directory
        knows all that the spool knows by now."""
        if self._stopping:
            done(None)
            return
        self._pocket(payer).waiting.append(_Waiter(units, now + PATIENCE, self._number, done))
        self._ask((payer,), now)

    def release(self, payer: str, units: int) -> None:
        """They are not needed after all."""
        pocket = self._pockets[payer]
        pocket.reserved -= units
        pocket.left += units

    def spent(self, payer: str, units: int) -> None:
        """The reception that was charged for them is on disk."""
        self._pockets[payer].reserved -= units

    def tick(self, now: float) -> None:
        """Call about once a second."""
        late: list[Done] = []
        for payer in {*self._asked, *self._round}:
            waiting = self._pocket(payer).waiting
            while waiting and waiting[0].until <= now:
                late.append(waiting.pop(0).done)
        if now >= self._swept + SWEEP and not self._round:
            self._swept = now
            self._ask([payer for payer, pocket in self._pockets.items() if pocket.left and pocket.idle(now)], now)
            for payer in [payer for payer, pocket in self._pockets.items() if pocket.idle(now)]:
                if not (self._pockets[payer].reserved or payer in self._round or payer in self._asked):
                    del self._pockets[payer]
        _answer([(done, None) for done in late])

    def _changed(self, payer: str) -> None:
        """Somebody has changed the balance: what is known of it, or just on its way, does not hold."""
        self._grants.pop(payer, None)
        if pocket := self._pockets.get(payer):
            pocket.until = 0.0

    def _pocket(self, payer: str) -> _Pocket:
        pocket = self._pockets.get(payer)
        if pocket is None:
            pocket = self._pockets[payer] = _Pocket()
        return pocket

    def _ask(self, payers: Iterable[str], now: float) -> None:
        self._now = now
        self._asked.update(dict.fromkeys(payers))
        if not self._round:
            self._next_round()

    def _next_round(self) -> None:
        self._number += 1
        for payer in list(self._asked)[:TOGETHER]:
            del self._asked[payer]
            self._round[payer] = self._back(self._pocket(payer))
        if self._round:
            granted = {payer: self._balances.leases.get(payer, _NOTHING).granted for payer in self._round}
            rows = [(payer, granted[payer], back) for payer, back in self._round.items()]
            self._spool.settle_leases(rows, self._told)
        elif self._stopped:
            done, self._stopped = self._stopped, None
            done()

    def _back(self, pocket: _Pocket) -> int:
        """Units that the lease is to give back: a new period or plan begins with a new lease.  Until there is one,
        nobody is told that nothing is left."""
        if pocket.came is None:
            return ALL
        if self._stopping or self._now >= pocket.until or pocket.idle(self._now):
            back, pocket.left, pocket.until = pocket.left, 0, 0.0
            return back
        return 0

    def _told(self, leases: dict[str, Lease] | Exception) -> None:
        """The spool has given back."""
        if isinstance(leases, Exception):
            for payer, back in self._round.items():
                if self._pockets[payer].came is not None:
                    self._pockets[payer].left += back
            self._end(leases)
            return
        wants = []
        for payer, lease in leases.items():
            pocket = self._pockets[payer]
            pocket.told(lease)
            quiet = self._stopping or pocket.idle(self._now)
            wants.append(Want(payer, lease, *((0, 0) if quiet else (pocket.needed, pocket.wanted(self._now)))))
        self._balances.settle(wants, self._now).add_done_callback(self._granted)

    def _granted(self, settled: "Future[list[Grant]]") -> None:
        """The directory has booked and granted."""
        if error := settled.exception():
            self._end(error)
            return
        self._grants = {grant.account: grant for grant in settled.result()}
        self._spool.settle_leases([(grant.account, grant.granted, 0) for grant in settled.result()], self._leased)

    def _leased(self, leases: dict[str, Lease] | Exception) -> None:
        """The spool has what was granted."""
        if isinstance(leases, Exception):
            self._end(leases)
            return
        for payer, lease in leases.items():
            pocket = self._pockets[payer]
            pocket.told(lease)
            pocket.asked, pocket.used = self._now, 0
            if grant := self._grants.get(payer):
                pocket.there, pocket.until = grant.there, inf if grant.until is None else grant.until
                pocket.mark = pocket.left // 2 if grant.there else 0
        self._end(None)

    def _end(self, error: BaseException | None) -> None:
        """The round is over: who waited is answered, who came meanwhile has his."""
        payers, self._round, self._grants = list(self._round), {}, {}
        if bool(error) != self._failing:
            self._failing = bool(error)
            self._fault(f"balances cannot be asked for: {error}" if error else None)
        answers: list[tuple[Done, bool | None]] = []
        for payer in payers:
            pocket = self._pockets[payer]
            while pocket.waiting and pocket.waiting[0].round < self._number:
                units, done = pocket.waiting[0].units, pocket.waiting[0].done
                if error or self._stopping:
                    answer = None
                elif units <= pocket.left:
                    pocket.take(units, self._now)
                    answer = True
                elif units <= pocket.left + pocket.there or self._now >= pocket.until:
                    self._asked[payer] = None
                    break
                else:
                    answer = False
                pocket.waiting.pop(0)
                answers.append((done, answer))
            if self._stopping and pocket.left and not error:
                self._asked[payer] = None
        self._next_round()
        _answer(answers)


def _answer(answers: list[tuple[Done, bool | None]]) -> None:
    """One that fails keeps no other from being answered."""
    faults = []
    for done, answer in answers:
        try:
            done(answer)
        except Exception as fault:
            faults.append(fault)
    if faults:
        raise ExceptionGroup("after asking for units", faults)


_NOTHING = Lease()
