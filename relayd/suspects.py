"""Suspects: keeps the suspicion going, and tells what it finds.

In: the clock, once a second.  Out: findings in the log and on disk, a notice to the customer by our own queue, at most
one for each finding and day; what was learnt is written every hour and at the end.  Nothing of it is authoritative:
what cannot be written is said, and learnt again.
"""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from relayd.directory import Directory
from relayd.message.trace import date
from relayd.notices import Notices
from relayd.signing import Crew
from relayd.suspicion import Dismissal, Finding, Settings, Suspicion

_SAVED = 3600.0  # seconds between writings


class Suspects:
    """``where``: the directory for what was learnt."""

    log = Logger()

    def __init__(
        self,
        settings: Settings,
        where: Path,
        directory: Directory,
        notices: Notices,
        node: str,
        post: Callable[[Callable[[], None]], Any],
        now: float,
    ) -> None:
        self._where = where
        self._directory = directory
        self._notices = notices
        self._node = node
        self._post = post
        self._crew = Crew(1, "suspicion")
        stored = directory.suspects
        self.suspicion = Suspicion(
            settings,
            now,
            submit=self._crew.submit,
            post=post,
            customer=lambda account: directory.lineage(account)[-1],
            findings=stored.findings,
            dismissals=stored.dismissals,
        )
        self.fault = self.suspicion.load(where, now)
        if self.fault:
            self.log.warn("Suspicion: {what}", what=self.fault)
        self._save_next = now + _SAVED

    def tick(self, now: float) -> None:
        """Call about once a second."""
        news = self.suspicion.tick(now)
        for finding in news.kept:
            self.log.warn("Under suspicion: {what}", what=finding.words())
        for finding in news.over:
            self.log.info("No longer under suspicion: {whom}", whom=str(finding.key))
        self._keep(news.kept, news.over)
        for finding in news.tell:
            key, lines = finding.key, _lines(finding, self._node)
            whom = {key.kind: key.name} if key.kind != "account" else {}
            note = f"under suspicion: {finding.words()}"
            self._notices.tell(key.account, f"Suspicious mail from {key}", lines, note, now, **whom)
        if abs(now - self._save_next) > _SAVED or now >= self._save_next:
            self._save_next = now + _SAVED
            self._save()

    def dismiss(self, row: Dismissal) -> "Future[Dismissal]":
        """Its findings are over at once."""
        self._keep((), self.suspicion.dismiss(row))
        return self._directory.suspects.dismiss(row)

    def stop(self) -> None:
        """Writes what was learnt.  Blocks."""
        self._save()
        self._crew.stop()

    def _keep(self, kept: tuple[Finding, ...], over: tuple[Finding, ...]) -> None:
        def done(written: "Future[None]") -> None:
            if fault := written.exception():
                self.log.error("Findings are not on disk: {fault}", fault=str(fault))

        if kept or over:
            self._directory.suspects.keep(kept, over).add_done_callback(done)

    def _save(self) -> None:
        write = self.suspicion.save(self._where)

        def work() -> None:
            fault = ""
            try:
                write()
            except OSError as error:
                fault = f"what was learnt of senders cannot be written: {error}"
            self._post(lambda: self._saved(fault))

        self._crew.submit(work)

    def _saved(self, fault: str) -> None:
        if fault and fault != self.fault:
            self.log.error("Suspicion: {what}", what=fault)
        self.fault = fault


_WHOM = {"client": "by the connection", "connection": "mostly the client", "account": "mostly the client"}


def _lines(finding: Finding, node: str) -> list[str]:
    key = finding.key
    told = [("account", key.account), (key.kind, key.name), (_WHOM[key.kind], ", ".join(finding.leaders))]
    told += [("since", date(finding.since)), ("score", f"{finding.score} of 100")]
    return [
        f"What is submitted to {node} in your name looks like the mail of somebody who should not send:",
        "",
        *(f"  {name + ':':20} {value}" for name, value in told if value),
        "",
        "What speaks against it:",
        "",
        *(f"  - {part.words}" for part in finding.parts),
        "",
        "This alone holds back nothing. If you know of it and it is as it should be, tell us. If not, stop this",
        "sender, change the password of its connection, and ask where its addresses are from: providers that get",
        "such mail soon refuse all that comes from you.",
    ]
