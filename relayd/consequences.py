"""Consequences: what the world says of what we sent, and what follows from it at once.

In: every failed attempt and all that came back later, reactions that begin and end, turns of reputation, sources in
warm-up that may send more, limits that accounts are given.  Out: addresses learnt and forgiven, a scheduler that knows
what may start now, connections blocked and released, notices to customers, the trail.  What one room finds out bears on
the others by way of here: none of them knows another.
"""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from twisted.logger import Logger

from relayd.delivery import Courier
from relayd.directory import Change, Directory
from relayd.echoes import Event
from relayd.envelope import Delivery
from relayd.notices import Notices
from relayd.reputation import BY, Reputation, Turn, named
from relayd.shaping.reactions import Active
from relayd.stops import Stops
from relayd.streams import Streams
from relayd.suppression import Lesson, Suppressions
from relayd.warmup import Warmup


class Consequences:
    """See the module.  ``node``: our name, in notices."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        directory: Directory,
        courier: Courier,
        streams: Streams,
        suppressions: Suppressions,
        warmup: Warmup,
        reputation: Reputation,
        stops: Stops,
        notices: Notices,
        node: str,
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._directory = directory
        self._courier = courier
        self._scheduler = courier.scheduler
        self._streams = streams
        self._suppressions = suppressions
        self._warmup = warmup
        self._reputation = reputation
        self._stops = stops
        self._notices = notices
        self._node = node
        self._now = now
        courier.reacted = self.reacted
        courier.delivered = self._redeem
        courier.outcomes.heard = self.heard
        directory.shaped = self._relimited
        reputation.changed = self._turned
        warmup.woken = self._warmed

    # What the world says.

    def heard(self, event: Event) -> None:
        """Every failed attempt, and all that came back later and counts, passes by here."""
        finding = None if event.late else self._streams.finding(event)  # what came back late has been learnt from
        if finding is not None:
            self._suppressions.learn(Lesson(finding), event.time)
        if event.late:
            self._hold_against(event)

    def _hold_against(self, event: Event) -> None:
        """What comes back late is nobody's outcome any more, and counts against who sent it all the same."""
        nobody = event.kind == "bounced" and event.cls == "recipient_unknown"
        if event.kind == "complaint" or nobody:
            who = (event.source, event.group, event.account, event.client, event.connection, f"@{event.domain}")
            self._reputation.event(who, "unknown" if nobody else "complaint", event.time)
        if event.kind == "complaint" and self._warmup.plan_of(event.source):
            self._warmup.outcome(event.source, event.group, "complaint", event.time)

    def _redeem(self, delivery: Delivery) -> None:
        """A success of somebody against whom something was said."""
        message = delivery.message
        self._suppressions.redeem(self._streams.bounces(message.account, message.stream), delivery.recipient.address)

    # What may start from now on.

    def reacted(self, began: tuple[Active, ...], ended: tuple[Active, ...]) -> None:
        """Reactions began or gave way: from now on they bear on what goes out."""
        now = self._now()
        for reaction in began:
            self.log.warn("{whom}: {what}", whom=reaction.whom, what=reaction.words(now))
        self.keep_reactions(began, ended)
        self._scheduler.restraints.reshaped((*began, *ended), now)

    def keep_reactions(self, began: tuple[Active, ...], ended: tuple[Active, ...]) -> None:
        """Those that began or went on and those that ended, to the directory: after a restart they hold still."""
        if not (began or ended):
            return

        def kept(done: "Future[None]") -> None:
            if fault := done.exception():
                self.log.error("Reactions are not on disk: {fault}", fault=str(fault))

        self._directory.reactions.keep(began, ended).add_done_callback(kept)

    def _relimited(self) -> None:
        """An account's own limits have changed."""
        self._scheduler.restraints.relimited(self._now())
        self._courier.perform()

    def _warmed(self, places: list[tuple[str, str]]) -> None:
        """Sources in warm-up may send more to these groups."""
        self._scheduler.restraints.warmed(places, self._now())
        self._reactor.callLater(0, self._courier.perform)

    # What reputation says of somebody.

    def _turned(self, turn: Turn) -> None:
        """Somebody is held back, or no more: from now on it bears on what comes in and goes out."""
        kind, name = turn.key
        self.log.warn("{what}", what=turn.words)
        if turn.by == BY:
            done = "done" if turn.acts == turn.step else "reported"
            what = {"subject": named(turn.key), "reason": turn.why}
            self._kept(self._directory.note(Change(self._now(), BY, f"reputation {turn.step}", what, done)))
        account = self._owner(kind, name)
        if account and (turn.acts != "good" or turn.step == "good"):
            self._tell(account, turn)
        self._directory.version += 1  # what sessions and streams know of it is not true any more
        self._stops.look()
        if kind == "connection":
            self._heed_connection(name, turn)
        elif kind == "source":
            source, _, group = name.partition("/")
            self._scheduler.restraints.reshape(source, group, self._now())
        elif kind == "account":
            below = {row.name for row in self._directory.accounts() if name in self._directory.lineage(row.name)}
            self._scheduler.restraints.restrain(below, self._now())
        self._reactor.callLater(0, self._courier.perform)

    def _heed_connection(self, login: str, turn: Turn) -> None:
        """A connection that reputation blocks is blocked for everybody to see, and active again when it is released."""
        row = self._directory.connection(login)
        if row is None:
            return
        if turn.acts == "block" and row.state == "active":
            blocked = self._directory.change_connection(login, state="blocked", reason=turn.why, by=BY)
            self._kept(blocked)
        elif turn.acts != "block" and row.state == "blocked" and row.by == BY:
            self._kept(self._directory.change_connection(login, state="active", reason="", by=turn.by))

    def _kept(self, done: "Future[Any]") -> None:
        def kept(done: "Future[Any]") -> None:
            if fault := done.exception():
                self.log.error("What reputation changed is not on disk: {fault}", fault=str(fault))

        done.add_done_callback(kept)

    def _owner(self, kind: str, name: str) -> str:
        """The account that a subject is, or belongs to; "" for those that are nobody's."""
        if kind == "connection":
            row = self._directory.connection(name)
            return row.account if row else ""
        return name.partition("/")[0] if kind in ("account", "client") else ""

    def _tell(self, account: str, turn: Turn) -> None:
        whom = named(turn.key)
        lines = [f"What {self._node} sends in your name is judged by what becomes of it.", "", f"  {turn.words}"]
        if turn.step != "good":
            lines += ["", "It is held back less by itself when what it sends is clean again."]
        kind, name = turn.key
        of = {"connection": name} if kind == "connection" else {"client": name.partition("/")[2]}
        self._notices.tell(account, f"{whom}: {turn.step}", lines, turn.words, self._now(), **of)
