"""Health: whether the relay is fit to take mail, and what its operators should know besides.

In: faults of the rooms that mail cannot do without, as they come and go; what other rooms warn of, asked when somebody
asks.  Out: what reception goes by, what ``/readyz`` and ``relayctl health`` answer, the line that systemd shows, and a
line in the log whenever a fault begins or ends.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.logger import Logger

from relayd.directory import Directory
from relayd.spool import Spool
from relayd.watchdog import Heart

_STALLED = 15.0  # seconds without a sign of life from the writer


class Health:
    """Each fault is "" while all is well, else the reason in words.  ``min_free()``: bytes that have to be free where
    the spool lies.  The rooms are asked for when they are needed: it is there before they are."""

    log = Logger()

    def __init__(
        self,
        heart: Heart,
        spool: Callable[[], Spool],
        directory: Callable[[], Directory],
        min_free: Callable[[], int],
    ) -> None:
        self._heart = heart
        self._spool = spool
        self._directory = directory
        self._min_free = min_free
        self._warners: tuple[Callable[[], Iterable[str]], ...] = ()
        self.started = 0.0
        self.stopping = False
        self.free = 0  # bytes where the spool lies
        self.spool_fault = ""
        self.space_fault = ""
        self.balance_fault = ""
        self.history_fault = ""
        self.export_fault = ""
        self.reload_fault = ""

    # What rooms say.

    def spool_said(self, fault: str | None) -> None:
        """What has broken down stays so, whatever else says meanwhile that all is well."""
        fault = self._spool().writer.broken or fault
        if (fault or "") != self.spool_fault:
            self.log.error("{what}", what=fault or "The spool can be written again")
        self.spool_fault = fault or ""

    def balances_said(self, fault: str | None) -> None:
        self.log.error("{what}", what=fault or "Balances can be asked for again")
        self.balance_fault = fault or ""

    def history_said(self, fault: str) -> None:
        if fault != self.history_fault:
            self.log.error("{what}", what=fault or "History and statistics go on")
        self.history_fault = fault

    def exports_said(self, fault: str) -> None:
        if fault and fault != self.export_fault:
            self.log.error("{what}", what=fault)
        self.export_fault = fault

    def ask(self, *warners: Callable[[], Iterable[str]]) -> None:
        """Whom to ask for warnings; an empty one is none."""
        self._warners = warners

    def tick(self) -> None:
        """Call about once a second."""
        try:
            free = self.free = self._spool().free_bytes()
            short = free < self._min_free()
            fault = (
                f"only {free >> 20} MB are free where the spool lies, [node] min_free asks for more" if short else ""
            )
        except OSError as error:
            fault = f"the spool's disk cannot be asked for its free space: {error}"
        if bool(fault) != bool(self.space_fault):
            self.log.warn("{what}", what=fault or "There is enough space for the spool again")
        self.space_fault = fault
        if self._spool().writer.broken:
            self.spool_said(None)

    # What is asked.

    def report(self) -> dict[str, Any]:
        """{"ok": bool, "faults": [text, ...], "warnings": [text, ...]}: mail goes on beside what is warned of."""
        faults = [self.spool_fault, self.space_fault, self.balance_fault, self._writer_fault()]
        if not self._spool().mover.is_alive():
            faults.append("the spool's mover has broken down, restart relayd")
        if self.stopping:
            faults.append("relayd is stopping")
        if draining := self._directory().blocks.draining:
            faults.append(f"relayd takes no new mail, {draining.by} drains it: {draining.reason}")
        warnings = [self._heart.warning()]
        warnings += [warning for warner in self._warners for warning in warner()]
        if self.reload_fault:
            warnings.append(f"the last reload failed: {self.reload_fault}")
        found = list(filter(None, faults))
        return {"ok": not found, "faults": found, "warnings": list(filter(None, warnings))}

    def unready(self) -> dict[str, str]:
        """Each reason not to take mail, in words or ""."""
        return {
            "not_started": "" if self.started else "relayd is starting",
            "stopping": "relayd is stopping" if self.stopping else "",
            "spool_fault": self.spool_fault,
            "space_short": self.space_fault,
            "writer_dead": self._spool().writer.broken or self._writer_fault(),
        }

    def status(self, totals: Mapping[str, int]) -> str:
        """A line for who looks at the process: what it is at, and how many deliveries became of what."""
        faults = self.report()["faults"]
        return "; ".join(
            (
                "stopping" if self.stopping else faults[0] if faults else "taking mail",
                f"{totals['delivered']} delivered, {totals['transient']} deferred, {totals['permanent']} bounced",
            )
        )

    def _writer_fault(self) -> str:
        writer = self._spool().writer
        if writer.broken:
            return ""  # that is the spool's fault, and told as such
        silent = not writer.is_alive() or time.monotonic() - writer.beat > _STALLED
        return "the spool's writer shows no sign of life" if silent else ""
