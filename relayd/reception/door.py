"""The door: who may submit, as whom, how much, and to whom; what it lets in, an ``Intake`` takes."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import msgspec

from relayd import catalogue, submission
from relayd.address import domain_of
from relayd.directory import SubmissionConnection, Verdict
from relayd.envelope import Envelope, Recipient
from relayd.listener import Receiver, Session
from relayd.quotas import Limits, wants
from relayd.reception.intake import Intake
from relayd.reception.relay import Desk, Relay, who
from relayd.reception.screen import Held
from relayd.reply import Reply, printable
from relayd.smtp import events
from relayd.smtp.server import ServerSettings
from relayd.submission import Submitter


class Allowed(msgspec.Struct, frozen=True):
    """A named client network of a relay listener."""

    net: str
    account: str
    stream: str


class RelayDoor:
    """Takes mail from connections that logged in, or, where ``allowed`` is given, from named client IPs alone."""

    def __init__(self, relay: Relay, settings: ServerSettings, allowed: tuple[Allowed, ...]) -> None:
        self.relay = relay
        self.settings = settings
        self._allowed = [(ip_network(a.net, strict=False), a) for a in allowed]
        self.open = bool(allowed)

    def connected(self, session: Session) -> Reply | None:
        health = self.relay.health
        if health.stopping or health.spool_fault or self.relay.directory.blocks.draining:
            return catalogue.UNAVAILABLE
        if refusal := self.relay.refuse_address(session):
            return refusal
        if not self.open:
            return None
        allowed = self._named(session)
        if allowed is None:
            return self.relay.reject(session, catalogue.STRANGER, "", "")
        session.state = Desk(self._client(allowed))
        return None

    def barred(self, session: Session) -> Reply | None:
        """The last word for a session of somebody who is blocked: he hears it at once, and not with his next message.
        An account that is only suspended may be resumed soon: its sessions stay, and hear so when they send."""
        if refusal := self.relay.barred_address(session):
            return refusal
        refusal = self._barred(session) if session.state is not None else None
        if refusal is not catalogue.SUSPENDED:
            return refusal
        directory, account = self.relay.directory, session.state.submitter.account
        blocked = directory.blocks.of_account(directory.lineage(account))
        held = self.relay.reputation.blocked(("", "", account, "", "", ""))
        return catalogue.SUSPENDED_NOW if blocked or held else None

    def _named(self, session: Session) -> Allowed | None:
        address = ip_address(session.peer)
        return next((allowed for net, allowed in self._allowed if address in net), None)

    def disconnected(self, session: Session) -> None:
        if session.state is not None:
            self.relay.sessions.subtract(session.state.counted)
            for scope in session.state.counted:
                if self.relay.sessions[scope] <= 0:
                    del self.relay.sessions[scope]

    def authenticate(
        self, session: Session, proposal: events.AuthProposed, answer: Callable[[Reply | None], None]
    ) -> None:
        relay, ip, login = self.relay, session.peer, proposal.login

        def refuse(refusal: Reply, seconds: float) -> None:
            relay.reject(session, refusal, login, "")
            relay.hold_back(seconds, lambda: answer(refusal))

        def checked(verdict: Verdict) -> None:
            refusal = self._judge(session, login, verdict)
            if refusal is None:
                relay.guard.succeeded(ip, login, relay.now())
                answer(None)
            else:
                guessed = refusal is catalogue.BAD_LOGIN
                refuse(refusal, relay.guard.failed(ip, login, relay.now()) if guessed else 0.0)

        if wait := relay.guard.refuse(ip, login, relay.now()):
            refuse(catalogue.TOO_MANY_LOGINS, min(wait, relay.guard.settings.longest_delay))
        else:
            relay.verifier.check(login, proposal.password, checked, ip)

    def _judge(self, session: Session, login: str, verdict: Verdict) -> Reply | None:
        """What a login may do, once its password is known to be right."""
        if verdict is Verdict.BUSY:
            return catalogue.TOO_MANY_LOGINS
        if verdict is Verdict.UNSURE:
            return catalogue.UNSURE
        connection = self.relay.directory.connection(login)
        if verdict is Verdict.WRONG or connection is None or not self._active(connection.account):
            return catalogue.BAD_LOGIN
        if connection.state == "inactive":
            return catalogue.NOT_ACTIVATED
        block = self.relay.directory.blocks.connections.get(login)
        if connection.state == "blocked" or block:
            reason = printable(block.reason if block else connection.reason, 100)
            return catalogue.BLOCKED(f": {reason}" if reason else "")
        if not connection.may_connect_from(session.peer):
            return catalogue.NOT_FROM_HERE
        return self._seat(session, connection)

    def _seat(self, session: Session, connection: SubmissionConnection) -> Reply | None:
        """One more session of the connection and of its accounts, if they may have it."""
        if session.machine.closed:
            return None  # it went away while its password was checked: nobody would count it back
        directory, sessions = self.relay.directory, self.relay.sessions
        rows = [row for name in directory.lineage(connection.account) if (row := directory.account(name))]
        limits = [(f"connection {connection.login}", connection.sessions)]
        limits += [(f"account {row.name}", row.sessions) for row in rows]
        for scope, most in limits:
            if most and sessions[scope] >= most:
                return catalogue.TOO_MANY_SESSIONS(scope.partition(" ")[0])
        desk = session.state = Desk(self._login(connection), connection.secret)
        desk.counted = tuple(scope for scope, _ in limits)
        sessions.update(desk.counted)
        return None

    # Who submits.

    def _active(self, account: str) -> bool:
        """The account and all above it."""
        directory = self.relay.directory
        if directory.blocks.accounts and directory.blocks.of_account(directory.lineage(account)):
            return False
        rows = map(directory.account, directory.lineage(account))
        active = all(row is not None and row.state == "active" for row in rows)
        return active and not self.relay.reputation.blocked(("", "", account, "", "", ""))

    def _login(self, connection: SubmissionConnection) -> Submitter:
        may = connection.may_send_as
        return self._submitter(connection.login, connection.account, connection.streams, may, connection.limits)

    def _client(self, allowed: Allowed) -> Submitter:
        return self._submitter(f"relay:{allowed.net}", allowed.account, (allowed.stream,), _anyone, Limits())

    def _submitter(
        self, name: str, account: str, streams: tuple[str, ...], may_send_as: Callable[[str], bool], limits: Limits
    ) -> Submitter:
        """All that a session has to know of who submits, as the directory has it now."""
        relay, directory = self.relay, self.relay.directory
        streams = relay.streams.named(account, streams)
        rows = [row for owner in directory.lineage(account) if (row := directory.account(owner))]
        scopes = [(f"connection {name}", limits), *((f"account {row.name}", row.limits) for row in rows)]
        if len(streams) == 1:
            scopes.append((f"stream {account}/{streams[0]}", relay.streams.incoming(account, streams[0]).limits))
        own = directory.account(account)
        return Submitter(
            connection=name,
            account=account,
            streams=streams,
            may_send_as=may_send_as,
            client=account if own and own.parent else "",
            domain_check=own.domain_check if own else "off",
            payer=relay.payer(account),
            per_message=wants(scopes, messages=1),
            per_recipient=wants(scopes, recipients=1),
            client_limits=rows[-1].client_limits if rows else Limits(),
        )

    def _renewed(self, session: Session) -> Reply | None:
        """What has changed since the session began holds for its next message: a login blocked, another password, an
        account suspended, another limit."""
        desk, directory = session.state, self.relay.directory
        if desk.version == directory.version:
            return None
        if refusal := self._barred(session):
            return refusal
        if session.login:
            connection = directory.connection(session.login)
            if connection is None or connection.secret != desk.secret:
                return catalogue.NOT_ACTIVE
            desk.submitter = self._login(connection)
        elif allowed := self._named(session):
            desk.submitter = self._client(allowed)
        desk.version = directory.version
        return None

    def _barred(self, session: Session) -> Reply | None:
        """Whether who submits may do so no more."""
        submitter, directory = session.state.submitter, self.relay.directory
        if not self._active(submitter.account):
            return catalogue.SUSPENDED
        if submitter.connection in directory.blocks.connections or self.relay.reputation.blocked(who(submitter)):
            return catalogue.NOT_ACTIVE
        if session.login:
            connection = directory.connection(session.login)
            if connection is None or connection.state != "active" or not connection.may_connect_from(session.peer):
                return catalogue.NOT_ACTIVE
        return None

    # The transaction.

    def mail(self, session: Session, proposal: events.MailProposed) -> Reply | None:
        relay = self.relay
        refusal = relay.unfit() or (catalogue.UNAVAILABLE if relay.directory.blocks.draining else None)
        if refusal is not None:
            return refusal
        refusal = self._renewed(session)
        if refusal is not None:
            return relay.reject(session, refusal, proposal.sender, "")
        desk = session.state
        desk.dropped = {}
        desk.suppressed = desk.faulty = 0
        submitter, sender = desk.submitter, proposal.sender
        refusal = submission.refuse_sender(submitter, sender)
        if refusal is not None and relay.suspicion is not None:
            relay.suspicion.spoofed(submitter.account, submitter.client, submitter.connection, relay.now())
        if refusal is None and sender and submitter.domain_check == "require":
            refusal = submission.refuse_domain(relay.directory.senders.state(submitter.account, domain_of(sender)))
        if refusal is None and submitter.per_message:
            exceeded = relay.quotas.take(submitter.per_message, relay.now())
            refusal = catalogue.RATE(exceeded.seconds) if exceeded else None
        return relay.reject(session, refusal, sender, "") if refusal else None

    def recipient(self, session: Session, recipient: Recipient, answer: Callable[[Reply | None], None]) -> None:
        submitter = session.state.submitter
        refusal = submission.refuse_recipient(recipient)
        if refusal is None and self.relay.directory.blocks.domains:
            refusal = self._refuse_blocked(domain_of(recipient.address))
        if refusal is not None:
            answer(self.relay.reject(session, refusal, "", recipient.address))
        elif len(submitter.streams) > 1:  # which one is only known when the content is there
            self._screened(session, recipient, None, answer)
        else:
            stream = submitter.streams[0]
            self.relay.screen.check(
                self.relay.streams.incoming(submitter.account, stream),
                self.relay.streams.lists(submitter.account, stream, submitter.connection),
                recipient.address,
                lambda held: self._screened(session, recipient, held, answer),
            )

    def _refuse_blocked(self, domain: str) -> Reply | None:
        return catalogue.DOMAIN_BLOCKED(domain) if self.relay.directory.blocks.of_domain(domain) else None

    def _screened(
        self, session: Session, recipient: Recipient, held: Held | None, answer: Callable[[Reply | None], None]
    ) -> None:
        relay, desk = self.relay, session.state
        if held is not None and held.reply.permanent:
            relay.reputation.event(who(desk.submitter), "suppressed", relay.now())
        if held is not None:
            relay.note_held(desk, held)
        refusal = held.reply if held and not held.drop else None
        if refusal is None and desk.submitter.per_recipient:
            exceeded = relay.quotas.take(desk.submitter.per_recipient, relay.now())
            refusal = catalogue.RATE(exceeded.seconds) if exceeded else None
        if refusal is not None:
            answer(relay.reject(session, refusal, "", recipient.address))
            return
        if held is not None:
            desk.dropped[recipient.address] = held
        answer(None)

    def begin(self, session: Session, envelope: Envelope) -> Receiver | Reply:
        relay = self.relay
        refusal = relay.unfit()
        if refusal is not None:
            return refusal
        payer = session.state.submitter.payer
        reserved = relay.purse.reserve(payer, len(envelope.recipients), relay.now()) if payer else None
        if reserved is False:
            return relay.reject(session, catalogue.NO_BALANCE, envelope.sender, envelope.recipients[0].address)
        return Intake(relay, session, envelope, reserved=bool(reserved))


def _anyone(address: str) -> bool:
    return True
