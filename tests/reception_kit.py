"""A relay listener in memory: real directory, streams, quotas, purse and suppression lists; the clock is moved by hand,
passwords are what the test says they are, and the spool is a held-back one or a real one."""

import sqlite3
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from relayd import config
from relayd.directory import Directory, Verdict
from relayd.directory.plans import Balance, Plan
from relayd.guard import Guard
from relayd.identity import Identities
from relayd.lease import Lease, odd
from relayd.listener import Limits, Session, SMTPServerFactory
from relayd.purse import Purse
from relayd.reception import Allowed, Relay, RelayDoor, Screen
from relayd.records import Record, decode
from relayd.smtp.events import ServerSettings
from relayd.spool import Reception, Spool
from relayd.spool.bodies import Bodies
from relayd.streams import Streams
from relayd.suppression import Reason, Suppressions, entry
from relayd.validation import read_lists
from tests.harness import Names, Reactor, pair
from tests.spool_kit import find_records
from tests.test_listener import Client

MAIL = b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<c@y.example>\r\nDATA\r\n"
HEAD = b"From: a@crm.example\r\nMessage-ID: <1@crm.example>\r\nDate: now\r\n\r\n"
NODE = """
[node]
name = "mx1.relay.example"
spool = "spool"
control = "control.sock"
"""
STREAMS = """
[stream.bulk]
[stream.marketing]
[stream.transactional]
"""
SSHA = "{SSHA}PTggDCOUPEVj5h7bZjhxfKWQBpey47nF"  # an imported hash costs no scrypt
PREPAID = Plan("prepaid")


def load(directory: Path, tables: str = STREAMS) -> config.Config:
    """The configuration that a file with these tables gives."""
    (directory / "relayd.toml").write_text(NODE + tables)
    return config.load(directory / "relayd.toml")


class Pool:
    """A thread pool whose work waits while it is ``held``."""

    def __init__(self, reactor: Reactor) -> None:
        self.held = False
        self.waiting: list[Callable[[], None]] = []
        self._post = reactor.callFromThread

    def submit(self, work: Callable[[], None]) -> None:
        if self.held:
            self.waiting.append(work)
        else:
            self._post(work)

    def let_go(self) -> None:
        self.held = False
        while self.waiting:
            self._post(self.waiting.pop(0))


class HeldSpool:
    """Takes receptions; their ``done`` is the test's to call."""

    last_identity = 0

    def __init__(self, directory: Path, reactor: Reactor) -> None:
        self.pool = Pool(reactor)
        self.bodies = Bodies(directory / "bodies", self.pool, reactor.callFromThread)  # type: ignore[arg-type]
        self.kept: list[Reception] = []
        self.done: list[Callable[[Any], None]] = []
        self.records: list[tuple[bytes, list[Any]]] = []

    def receive(self, kept: Reception, done: Callable[[Any], None]) -> None:
        self.kept.append(kept)
        self.done.append(done)

    def keep_records(self, lines: bytes, entries: Any, done: Callable[[Any], None] | None = None) -> None:
        self.records.append((lines, list(entries)))
        if done:
            self.done.append(done)


class Receiving:
    """A relay listener for 198.51.100.0/24 (account crm, stream bulk), or one with logins: "login" of account crm, who
    may send as @crm.example.  ``real``: with a spool on disk, a purse that is kept going, and audits."""

    def __init__(
        self, directory: Path, *, logins: bool = False, tables: str = STREAMS, real: bool = False, **settings: Any
    ) -> None:
        self.path = directory
        self.reactor = Reactor()
        post = self.reactor.callFromThread
        self.faults: list[Any] = []
        self.spool: Any = Spool(directory, post, self.faults.append) if real else HeldSpool(directory, self.reactor)
        self.directory = Directory(directory / "directory.sqlite", post, ["crm"], self.reactor.seconds())
        self.suppressions = Suppressions(directory / "suppression.sqlite", post)
        self.reactor.until(lambda: self.suppressions.ready)
        self.streams = Streams(self.directory, load(directory, tables))
        self.names = Names()
        self.lists = read_lists({})
        self.verdict = Verdict.RIGHT
        self.checked: list[tuple[str, str]] = []
        self.checking: list[Callable[[], None]] | None = None  # passwords whose check is held back
        self.health = SimpleNamespace(spool_fault="", space_fault="", stopping=False)
        self.purse = Purse(self.directory.balances, self.spool, self.faults.append)
        self.purse.start(self.reactor.seconds())
        self.relay = Relay(
            "mx1.relay.example",
            self.spool,
            self.directory,
            SimpleNamespace(check=self._check),  # type: ignore[arg-type]
            self.health,
            Identities(self.spool.last_identity),
            self.reactor.seconds,
            self.streams,
            Screen(
                self.suppressions,
                lambda: self.lists,
                self.names,
                lambda domain: False,
                self.reactor.seconds,  # type: ignore[arg-type]
            ),
            self.purse,
            guard=Guard(),
            later=self.reactor.callLater,
        )
        self.told: list[Any] = []
        self.relay.on_received = self.told.append
        if logins:
            self.connection("login")
        allowed = () if logins else (Allowed("198.51.100.0/24", "crm", "bulk"),)
        made = ServerSettings("mx1.relay.example", auth=logins, auth_required=logins, **settings)
        self.door = RelayDoor(self.relay, made, allowed)
        self.factory = SMTPServerFactory(self.reactor, self.door, Limits(), None, secure=logins)

    def close(self) -> None:
        if isinstance(self.spool, Spool):
            self.spool.mover.stop()
            while self.spool.mover.is_alive():
                self.reactor.pump()
                self.spool.mover.join(0.01)
            self.spool.stop()
        self.directory.close()
        self.suppressions.close()

    def _check(self, login: str, password: str, done: Callable[[Verdict], None], client: str) -> None:
        self.checked.append((login, client))
        if self.checking is None:
            done(self.verdict)
        else:
            self.checking.append(lambda: done(self.verdict))

    # Tenancy.

    def done(self, future: Any) -> Any:
        """What a change gave."""
        self.reactor.until(future.done)
        return future.result()

    def connection(self, login: str = "login", **fields: Any) -> Any:
        """A new one, of account crm."""
        fields = {"account": "crm", "senders": ["@crm.example"], "hash": SSHA, **fields}
        return self.done(self.directory.add_connection(login, now=self.reactor.seconds(), **fields))

    def change(self, **fields: Any) -> None:
        """Of the connection "login"."""
        self.done(self.directory.change_connection("login", **fields))

    def account(self, name: str = "crm", **fields: Any) -> None:
        """Makes or changes one; without domain check unless said."""
        if self.directory.account(name):
            self.done(self.directory.change_account(name, **fields))
        else:
            fields = {"domain_check": "off", **fields}
            self.done(self.directory.add_account(name, now=self.reactor.seconds(), **fields))

    def suppress(self, list: str, *values: str, reason: Reason = "manual", **more: Any) -> None:
        self.done(self.suppressions.add_list(list, now=self.reactor.seconds()))
        now = self.reactor.seconds()
        made = [entry(list, value, reason=reason, added=now, by="test", **more) for value in values]
        self.done(self.suppressions.add(made))

    def give(self, units: int, account: str = "crm", plan: Plan = PREPAID) -> None:
        """A plan, and so many units on top."""
        balances, now = self.directory.balances, self.reactor.seconds()
        if balances.plan(plan.name) is None:
            self.done(balances.add_plan(plan))
        if balances.balance(account) is None:
            self.done(balances.set_plan(account, plan.name, now=now, by="test"))
        self.done(balances.credit(account, units, now=now, by="test"))

    # Sessions.

    def call(self, ip: str = "198.51.100.1") -> Client:
        theirs, ours = pair(self.reactor, ip, "127.0.0.1", 2525)
        client, session = Client(self.reactor), self.factory.buildProtocol(None)
        theirs.protocol, ours.protocol = client, session
        client.makeConnection(theirs)
        session.makeConnection(ours)
        self.reactor.pump()
        if client.heard.startswith(b"220"):
            client.say(b"EHLO crm.example\r\n")
        return client

    def logged_in(self, login: str = "login", ip: str = "198.51.100.1") -> Client:
        client = self.call(ip)
        token = b"\0%b\0pw" % login.encode()
        client.say(b"AUTH PLAIN " + b64encode(token) + b"\r\n")
        return client

    def session(self, client: Client) -> Session:
        found: Session = client.transport.other.protocol
        return found

    def ask(self, client: Client, data: bytes, lines: int = 1) -> list[str]:
        """Says it and waits for so many lines of answers, whoever has to be asked for them."""
        client.say(data)
        self.reactor.until(lambda: client.heard.count(b"\r\n") >= lines or client.closed)
        return client.heard.decode().splitlines()

    def mail(self, client: Client, *to: str, sender: str = "a@crm.example") -> list[str]:
        """MAIL and a RCPT for each recipient."""
        lines = [b"MAIL FROM:<%b>" % sender.encode(), *(b"RCPT TO:<%b>" % one.encode() for one in to)]
        return self.ask(client, b"\r\n".join(lines) + b"\r\n", len(lines))

    def content(self, client: Client, content: bytes = HEAD + b"hello") -> str:
        """DATA and a message; gives the answer, "" while it waits for a held spool."""
        begun = self.ask(client, b"DATA\r\n")
        if not begun[0].startswith("354"):
            client.say(b"RSET\r\n")
            return begun[0]
        if isinstance(self.spool, Spool):
            return self.ask(client, content + b"\r\n.\r\n")[0]
        before = len(self.spool.done)
        client.say(content + b"\r\n.\r\n")
        self.reactor.until(lambda: client.heard or client.closed or len(self.spool.done) > before)
        return client.heard.decode()

    def send(self, content: bytes, client: Client | None = None) -> tuple[Client, str]:
        client = client or self.call()
        assert "354" in client.say(MAIL)
        return client, client.say(content + b"\r\n.\r\n")

    def leave(self, client: Client) -> None:
        """Cuts the connection."""
        client.transport.abortConnection()
        self.reactor.pump()

    # What became of it.

    def commit(self, outcome: sqlite3.Error | int | None = None) -> None:
        self.spool.done.pop(0)(outcome)
        self.reactor.pump()

    def files(self) -> list[Path]:
        return list(self.spool.bodies.directory.iterdir())

    def rejections(self) -> list[Record]:
        self.relay.flush_rejections()
        return [decode(line) for lines, _ in self.spool.records for line in lines.splitlines()]

    # With a real spool.

    def answer(self, ask: Callable[..., Any], *args: Any) -> Any:
        """The answer of a call that takes ``done`` last."""
        got: list[Any] = []
        ask(*args, got.append)
        self.reactor.until(lambda: got)
        assert not isinstance(got[0], Exception), got[0]
        return got[0]

    def rest(self) -> None:
        """Until the purse asks for nothing more."""
        self.reactor.until(lambda: not (self.purse._round or self.purse._asked))

    def balance(self, account: str = "crm") -> Balance:
        """Once the directory knows what the spool knows."""
        self.answer(self.purse.want, account, 0, self.reactor.seconds())
        found = self.directory.balances.balance(account)
        assert found
        return found

    def reserved(self, account: str = "crm") -> int:
        """Units that are promised to messages under way."""
        pocket = self.purse._pockets.get(account)
        return pocket.reserved if pocket else 0

    def terms(self) -> dict[str, int]:
        """All terms of the ledger, in sum, after a clean audit."""
        self.rest()
        self.relay.flush_rejections()
        self.answer(self.spool.writer.submit, lambda connection: True)
        before: dict[str, Lease] = dict(self.directory.balances.leases)
        audit = self.answer(self.spool.audit)
        odds = odd(before, audit.leases, self.directory.balances.leases)
        assert audit.faults + odds + self.done(self.directory.balances.audit()) == []
        sums: dict[str, int] = {}
        for line in audit.lines:
            for term, count in {**line.terms, "queued": line.queued}.items():
                if count:
                    sums[term] = sums.get(term, 0) + count
        return sums

    def records(self) -> list[Record]:
        """All, in the order in which they were kept."""
        lines = self.answer(find_records, self.spool, b"")
        return sorted(map(decode, lines), key=lambda record: (record.time, record.delivery))
