"""The door for what comes back to addresses that we gave out: bounces, complaints, unsubscribes.  It relays nothing.

In: sessions of anybody.  Out, through ``keep``: each message with what its addresses name; the 250 goes out when
``keep`` says that it is on disk.  Whoever has a token may write to it, from any sender or none: it is the token that
proves something, and what the message says is for its reader to weigh.  A report may bring back all of what it is
about, megabytes that nobody needs: of each message ``KEPT`` bytes are kept, and the rest is read and forgotten.
"""

from collections.abc import Callable, Container

import msgspec

from relayd import catalogue
from relayd.envelope import Envelope, Recipient
from relayd.guard import counted_as
from relayd.identity import show
from relayd.listener import Receiver, Session
from relayd.quotas import Limits, Quotas, wants
from relayd.reception.relay import Relay
from relayd.reply import Reply
from relayd.returnpath import Keys, Role, Token, Void, addressed
from relayd.shaping.limits import rate
from relayd.smtp import events
from relayd.smtp.server import ServerSettings

KEPT = 1 << 20
MEMORY = 32 << 20  # bytes of all that is being taken: what anybody sends must not fill the memory that mail needs
PACE = Limits(messages=(rate("1000/min"),))  # of one client's address: a large provider has many

Target = Token | Role

_REFUSALS = {
    Void.STRANGE: catalogue.RELAYS_NOTHING,
    Void.FORGED: catalogue.NO_RETURN,
    Void.EXPIRED: catalogue.RETURN_EXPIRED,
}


class Returned(msgspec.Struct, frozen=True):
    """A message that came back: ``targets`` are what its recipients name, ``content`` its beginning, ``size`` all that
    there was of it; ``helo`` is what the client at ``peer`` calls itself."""

    id: int
    time: float
    peer: str
    helo: str
    envelope: Envelope
    targets: tuple[Target, ...]
    content: bytes
    size: int


Keep = Callable[[Returned, Callable[[Exception | None], None]], None]


class ReturnsDoor:
    """``keys`` and ``ours`` give what holds now: the keys of tokens and the domains of our return paths.  ``keep`` is
    to make a message durable and then call back, with why it could not if it could not."""

    def __init__(
        self,
        relay: Relay,
        settings: ServerSettings,
        keys: Callable[[], Keys],
        ours: Callable[[], Container[str]],
        keep: Keep,
    ) -> None:
        self.relay = relay
        self.settings = settings
        self.keep = keep
        self.memory = 0
        self._keys = keys
        self._ours = ours
        self._quotas = Quotas()

    def connected(self, session: Session) -> Reply | None:
        health = self.relay.health
        if health.stopping or health.spool_fault:
            return catalogue.UNAVAILABLE
        return self.relay.refuse_address(session)

    def barred(self, session: Session) -> Reply | None:
        return self.relay.barred_address(session)

    def disconnected(self, session: Session) -> None:
        pass

    def authenticate(
        self, session: Session, proposal: events.AuthProposed, answer: Callable[[Reply | None], None]
    ) -> None:
        answer(catalogue.NO_AUTH)

    def mail(self, session: Session, proposal: events.MailProposed) -> Reply | None:
        relay = self.relay
        if refusal := relay.unfit():
            return refusal
        exceeded = self._quotas.take(wants([(counted_as(session.peer), PACE)], messages=1), relay.now())
        if exceeded is None:
            return None
        return relay.reject(session, catalogue.RATE(exceeded.seconds), proposal.sender, "")

    def recipient(self, session: Session, recipient: Recipient, answer: Callable[[Reply | None], None]) -> None:
        target = self.target(recipient.address)
        refusal = _REFUSALS[target] if isinstance(target, Void) else None
        answer(self.relay.reject(session, refusal, "", recipient.address) if refusal else None)

    def begin(self, session: Session, envelope: Envelope) -> Receiver | Reply:
        return self.relay.unfit() or Taking(self, session, envelope)

    def target(self, address: str) -> Target | Void:
        """What a recipient's address names."""
        return addressed(address, self._ours(), self._keys(), self.relay.now())


class Taking:
    """One message on its way to ``keep``."""

    def __init__(self, door: ReturnsDoor, session: Session, envelope: Envelope) -> None:
        self._door = door
        self._session = session
        self._envelope = envelope
        self._pieces: list[bytes] = []
        self._held = 0
        self._crowded = False
        self.promised = False  # the keeper has it: no lost session can take it back

    def write(self, chunk: bytes) -> None:
        piece = chunk[: KEPT - self._held]
        if self._crowded or not piece:
            return
        if self._door.memory + len(piece) > MEMORY:
            self._crowded = True
            self._release()
            return
        self._pieces.append(piece)
        self._held += len(piece)
        self._door.memory += len(piece)

    def end(self, size: int, answer: Callable[[Reply], None]) -> None:
        if self._crowded:
            answer(catalogue.NO_MEMORY)
            return
        relay, session = self._door.relay, self._session
        now = relay.now()
        # Each was one at RCPT; a token may have expired since, and then the message is not for it.
        targets = [self._door.target(recipient.address) for recipient in self._envelope.recipients]
        named = tuple(target for target in targets if not isinstance(target, Void))
        identity, content = relay.identities.block(now, 0), b"".join(self._pieces)
        self._pieces.clear()
        returned = Returned(identity, now, session.peer, session.helo, self._envelope, named, content, size)

        def kept(fault: Exception | None) -> None:
            self._release()
            answer(catalogue.SPOOL_FAILED if fault else catalogue.TAKEN_BACK(show(identity)))

        self.promised = True
        self._door.keep(returned, kept)

    def abort(self) -> None:
        """Nothing will come of it, unless the keeper has it."""
        if not self.promised:
            self._release()

    def _release(self) -> None:
        self._pieces.clear()
        self._door.memory -= self._held
        self._held = 0
