"""Live sessions, with clients and with the world: which there are, and ending some.

In: the listeners and the courier, asked when somebody asks; a filter.  Out: JSON-able rows; sessions that end.  The
sessions themselves know nothing of it, and nothing is counted for it as they go.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from relayd import catalogue, notation
from relayd.address import domain_of
from relayd.delivery import Courier
from relayd.delivery.session import PeerSession
from relayd.errors import InputError
from relayd.identity import show
from relayd.listener import ListenerService, Session
from relayd.reply import printable

MOST = 1000  # rows of one answer
SAMPLE = 5  # of what an action hits


class Filter(msgspec.Struct, frozen=True):
    """Which sessions: all that is given has to fit.  ``way``: "in", "out" or "" for both; ``peer``: an address or
    network; ``site``: a provider, or a site as sessions show it; ``account``: and those below it; ``id``: just one."""

    way: str = ""
    peer: str = ""
    login: str = ""
    account: str = ""
    site: str = ""
    source: str = ""
    domain: str = ""
    id: str = ""

    def __bool__(self) -> bool:
        return any(value for name, value in msgspec.structs.asdict(self).items() if name != "way")


class Sessions:
    """See the module.  ``lineage``: an account and those above it; ``wall``: unix seconds."""

    def __init__(
        self,
        listeners: Callable[[], Iterable[ListenerService]],
        courier: Courier,
        lineage: Callable[[str], tuple[str, ...]],
        wall: Callable[[], float],
    ) -> None:
        self._listeners = listeners
        self._courier = courier
        self._lineage = lineage
        self._wall = wall

    def of_clients(self) -> Iterator[tuple[str, Session]]:
        """(listener, session) of all that are open."""
        for listener in self._listeners():
            for session in list(listener.factory.sessions):
                yield str(listener.name), session

    def listed(self, wanted: Filter, limit: int) -> list[dict[str, Any]]:
        """The oldest first."""
        rows = [self._client_row(name, s) for name, s in self.of_clients() if self.fits(s, wanted)]
        rows += [self._peer_row(s) for s in self._courier.sessions if self.fits_peer(s, wanted)]
        return sorted(rows, key=lambda row: row["since"])[: min(limit, MOST)]

    def drop(self, wanted: Filter, who: str, reason: str, *, dry_run: bool) -> dict[str, Any]:
        """Ends those that fit: a client hears it, unless its message is being made durable just now: then first of
        that; with a peer it is broken off, and what was under way is tried again.  Raises InputError."""
        if not wanted:
            raise InputError("id", "say which: a session's id, or a filter such as --peer 198.51.100.7")
        inward = [(name, s) for name, s in self.of_clients() if self.fits(s, wanted) and not s.machine.closed]
        outward = [s for s in self._courier.sessions if self.fits_peer(s, wanted)]
        rows = [self._client_row(name, s) for name, s in inward[:SAMPLE]]
        rows += [self._peer_row(s) for s in outward[:SAMPLE]]
        if wanted.id and not (inward or outward):
            raise InputError("id", f"there is no session {wanted.id}: relayctl session list shows those there are")
        if not dry_run:
            for _, session in inward:
                session.cut(catalogue.ENDED)
            for peer in outward:
                self._courier.drop(peer, f"dropped by {who}: {printable(reason, 200)}")
        return {"dry_run": dry_run, "in": len(inward), "out": len(outward), "sample": rows}

    def fits(self, session: Session, wanted: Filter) -> bool:
        """Whether a client's session does."""
        if wanted.way == "out" or wanted.source or wanted.site or wanted.domain:
            return False
        submitter = getattr(session.state, "submitter", None)
        login = session.login or (submitter.connection if submitter else "")
        return (
            wanted.id in ("", session.id)
            and (not wanted.peer or notation.within(session.peer, (wanted.peer,)))
            and wanted.login in ("", login)
            and (not wanted.account or (submitter is not None and wanted.account in self._lineage(submitter.account)))
        )

    def fits_peer(self, session: PeerSession, wanted: Filter) -> bool:
        """Whether a session with a mail server does; accounts and domains are those of what it has under way."""
        if wanted.way == "in" or wanted.login:
            return False
        deliveries = session.under_way()
        accounts = {name for d in deliveries for name in self._lineage(d.message.account)}
        return (
            wanted.id in ("", f"o{session.name}")
            and (not wanted.peer or notation.within(session.hop.address, (wanted.peer,)))
            and wanted.site in ("", session.site.group, session.site.name)
            and wanted.source in ("", session.path.source)
            and (not wanted.account or wanted.account in accounts)
            and (not wanted.domain or wanted.domain in {domain_of(d.recipient.address) for d in deliveries})
        )

    def _client_row(self, listener: str, session: Session) -> dict[str, Any]:
        submitter = getattr(session.state, "submitter", None)
        return {
            "id": session.id,
            "way": "in",
            "peer": session.peer,
            "login": session.login or (submitter.connection if submitter else ""),
            "account": submitter.account if submitter else "",
            "at": listener,
            "stage": "closing" if session.machine.closed else session.machine.stage,
            "since": self._wall() - (session.factory.now() - session.since),
            "messages": session.number,
            "bytes": session.bytes,
            "tls": session.tls,
            "last": printable(session.machine.verb, 20),
        }

    def _peer_row(self, session: PeerSession) -> dict[str, Any]:
        deliveries = session.under_way()
        first = deliveries[0] if deliveries else None
        return {
            "id": f"o{session.name}",
            "way": "out",
            "peer": session.hop.address,
            "account": first.message.account if first else "",
            "at": session.hop.mx,
            "site": session.site.group,
            "source": session.path.source,
            "stage": session.machine.waiting if session.transport is not None else "connect",
            "since": self._wall() - (self._courier.now() - session.since),
            "messages": session.carried,
            "tls": session.tls,
            "delivery": show(first.id) if first else "",
            "recipient": printable(first.recipient.address) if first else "",
        }
