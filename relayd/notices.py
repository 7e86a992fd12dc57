"""Notices to customers: a mail of our own, by our own queue.

In: an account, and what it should know.  Out: a message to the address that the account, or the nearest above it,
wants notices at; nothing where none does.  What cannot be kept is said in the log: a notice stops nothing.
"""

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from relayd.delivery.generated import REPORTER, generated, message_id_of
from relayd.delivery.routing import words
from relayd.directory import Directory
from relayd.envelope import Delivery
from relayd.identity import Identities
from relayd.message.notice import notice
from relayd.spool import Spool


class Notices:
    """``stream()``: what notices go by; ``received`` takes their deliveries when they are on disk."""

    log = Logger()

    def __init__(
        self,
        directory: Directory,
        spool: Spool,
        identities: Identities,
        node: str,
        stream: Callable[[], str],
        received: Callable[[tuple[Delivery, ...]], None],
    ) -> None:
        self._directory = directory
        self._spool = spool
        self._identities = identities
        self._node = node
        self._stream = stream
        self._received = received

    def tell(self, account: str, subject: str, lines: list[str], note: str, now: float) -> None:
        """``note`` stands in the message's record."""
        rows = filter(None, map(self._directory.account, self._directory.lineage(account)))
        to = next((row.notices for row in rows if row.notices), "")
        if not to:
            return
        identity = self._identities.block(now, 1)
        message_id = message_id_of(identity, self._node)
        reception = generated(
            notice(node=self._node, message_id=message_id, now=now, to=to, subject=subject, lines=lines),
            identity=identity,
            message_id=message_id,
            now=now,
            account=REPORTER,  # nobody's: what holds the account's mail back must not hold back word of it
            stream=self._stream(),
            to=to,
            note=f"notice: {note}",
            smtputf8=not to.isascii(),
        )

        def kept(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                self.log.error("A notice was not kept: {fault}", fault=words(outcome))
            else:
                self._received(reception.deliveries)

        self._spool.receive(reception, kept)
