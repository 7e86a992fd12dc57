"""Notices to customers: what they should know, as a record and as a mail of our own.

In: an account, and what it should know.  Out: a record, which goes by all feeds; with it, by our own queue, a message
to the address that the account, or the nearest above it, wants notices at.  What cannot be kept is said in the log: a
notice stops nothing.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.logger import Logger

from relayd.delivery.generated import REPORTER, generated, message_id_of
from relayd.delivery.routing import words
from relayd.directory import Directory
from relayd.envelope import Delivery
from relayd.identity import Identities
from relayd.message.notice import notice
from relayd.records import Record, encode
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

    def tell(
        self,
        account: str,
        subject: str,
        lines: list[str],
        note: str,
        now: float,
        *,
        connection: str = "",
        client: str = "",
    ) -> None:
        """``note`` is the whole of it in one line; ``connection`` and ``client``: of whom it is."""
        told = Record("Notice", now, account=account, connection=connection, client=client, note=note)
        rows = filter(None, map(self._directory.account, self._directory.lineage(account)))
        to = next((row.notices for row in rows if row.notices), "")
        if not to:
            self._spool.keep_records(encode(told), (), self._kept)
            return
        identity = self._identities.block(now, 1)
        message_id = message_id_of(identity, self._node)
        mail = generated(
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
            self._kept(outcome)
            if not isinstance(outcome, Exception):
                self._received(mail.deliveries)

        self._spool.receive(msgspec.structs.replace(mail, line=encode(told) + mail.line), kept)

    def _kept(self, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            self.log.error("A notice was not kept: {fault}", fault=words(outcome))
