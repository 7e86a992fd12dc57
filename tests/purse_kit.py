"""A till: real spool, real directory and the purse between them, with an intake that does with units what reception
does, and a plug that can be pulled at every step between the two stores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from relayd.directory import Directory
from relayd.directory.plans import Balance, Plan
from relayd.envelope import Delivery
from relayd.lease import Charge, Lease
from relayd.purse import Purse
from relayd.spool import Departure, Reception, Spool
from tests.spool_kit import NOW, Mail, Main

PREPAID = Plan("prepaid")


class Till:
    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.now = NOW
        self.mail = Mail()
        self.faults: list[str | None] = []
        self.open()

    def open(self) -> None:
        self.main = Main()
        self.spool = Spool(self.path, self.main.post, self.main.faults.append)
        self.directory = Directory(self.path / "directory.sqlite", self.main.post, ["crm", "other"], NOW)
        self.balances = self.directory.balances
        self.calls = 0  # of one store, made by the purse
        self.pull: tuple[int, bool] | None = None  # the plug: before or behind (True) the commit of which call
        self.spool.settle_leases = self._plugged(self.spool.settle_leases)  # type: ignore[method-assign]
        self.balances.settle = self._plugged(self.balances.settle)  # type: ignore[method-assign]
        self.purse = Purse(self.balances, self.spool, self.faults.append)
        self.purse.start(self.now)

    def _plugged(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(what: Any, other: Any) -> Any:
            self.calls += 1
            at, behind = self.pull or (self.calls + 1, False)
            if self.calls < at:
                return call(what, other)
            if self.calls == at and behind:
                call(what, (lambda _: None) if callable(other) else other)  # the answer reaches nobody
            return _Silence()

        return made

    @property
    def out(self) -> bool:
        """Whether the plug is pulled."""
        return self.pull is not None and self.calls >= self.pull[0]

    def crash(self) -> None:
        """Ends without a word, and starts again."""
        self.close()
        self.open()
        self.rest()

    def stop(self) -> None:
        """Ends as a relay does."""
        self.main.answer(lambda done: self.purse.stop(self.now, lambda: done(True)))
        self.close()

    def close(self) -> None:
        self.spool.mover.stop()
        while self.spool.mover.is_alive():
            self.main.drain()
            self.spool.mover.join(0.01)
        self.spool.stop()
        self.directory.close()

    def rest(self) -> None:
        """Until the purse asks for nothing more, or the plug is pulled."""
        self.main.until(lambda: self.out or not (self.purse._round or self.purse._asked))

    def done(self, future: Any) -> Any:
        self.main.until(future.done)
        return future.result()

    # The directory's side.

    def give(self, units: int, account: str = "crm", plan: Plan = PREPAID) -> None:
        """A plan, and so many units on top."""
        if self.balances.plan(plan.name) is None:
            self.done(self.balances.add_plan(plan))
        if self.balances.balance(account) is None:
            self.done(self.balances.set_plan(account, plan.name, now=self.now, by="test"))
        if units:
            self.done(self.balances.credit(account, units, now=self.now, by="test"))

    def balance(self, account: str = "crm") -> Balance:
        found = self.balances.balance(account)
        assert found
        return found

    def book(self, account: str = "crm") -> Balance:
        """The balance, once the directory knows what the spool knows."""
        self.main.answer(self.purse.want, account, 0, self.now)
        return self.balance(account)

    def lease(self, account: str = "crm") -> Lease:
        return self.today(account)[0]

    def today(self, account: str = "crm") -> tuple[Lease, int]:
        return self.main.answer(self.spool.lease_today, account, int(self.now // 86400))

    # The spool's side.

    def asked(self, units: int, account: str = "crm") -> bool | None:
        """Reserves, asking the directory if need be; nothing is answered behind a pulled plug."""
        answer = self.purse.reserve(account, units, self.now)
        if answer is not None:
            return answer
        got: list[bool | None] = []
        self.purse.want(account, units, self.now, got.append)
        self.main.until(lambda: got or self.out)
        return got[0] if got else None

    def accept(self, recipients: int = 1, account: str = "crm") -> tuple[Delivery, ...]:
        """A message as reception takes it; nothing if the payer may not."""
        if not self.asked(recipients, account):
            return ()
        self.mail.now = self.now
        reception = self.reception(recipients, account)
        error = self._kept(reception)
        (self.purse.release if error else self.purse.spent)(account, recipients)
        return () if error else reception.deliveries

    def reception(self, recipients: int = 1, account: str = "crm") -> Reception:
        made = self.mail.reception(*["x.example"] * recipients, account=account)
        return Reception(made.message, made.deliveries, made.line, made.entries, Charge(account, recipients))

    def _kept(self, reception: Reception) -> Exception | None:
        got: list[Any] = []
        self.spool.receive(reception, got.append)
        self.main.until(lambda: got)
        return got[0]

    def cancel(self, delivery: Delivery, account: str = "crm") -> None:
        """It leaves untried, and its unit goes back."""
        line, entries = self.mail.told("Cancellation", delivery)
        self.main.answer(self.spool.depart, Departure(delivery, line, entries, None, Charge(account, 1)))

    # The proof.

    def faults_found(self) -> list[str]:
        """Whatever the audits find."""
        return self.main.answer(self.spool.audit).faults + self.done(self.balances.audit())

    def received(self, account: str = "crm") -> int:
        lines = self.main.answer(self.spool.audit).lines
        return sum(line.terms.get("received", 0) for line in lines if line.account == account)


class _Silence:
    """A future that is never done."""

    def add_done_callback(self, call: Any) -> None:
        pass
