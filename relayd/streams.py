"""Streams as they hold for each account: a template of the configuration, with what the account says differently.

In: the configuration, the directory's rows.  Out: for an account and the name that its mail goes by, one value from
which reception, scheduler, outcomes and signing read what is theirs.  Values are made once and kept until a reload or a
change of the directory.
"""

from collections.abc import Callable, Iterator

import msgspec

from relayd import config
from relayd.config import Config
from relayd.delivery.generated import REPORTER
from relayd.delivery.outcomes import Life, Rules
from relayd.directory import Account, AccountStream, Directory
from relayd.echoes import Event
from relayd.envelope import Message
from relayd.errors import InputError
from relayd.notation import show_duration
from relayd.queue.retry import Schedule
from relayd.queue.state import Stream as Scheduling
from relayd.quotas import show_limits
from relayd.shaping.limits import Layer
from relayd.submission import Stream, list_names
from relayd.suppression import Finding, finding
from relayd.suppression.policy import shown as shown_policy
from relayd.tables import overridden

_RISKS = ("low", "normal", "high")


class Resolved(msgspec.Struct, frozen=True):
    """One stream of one account.  ``settings`` are all its keys, defaults included; ``bounces`` and ``feeds`` the full
    names of the lists that take up bounces, and complaints and unsubscribes."""

    settings: config.Stream
    bounces: str
    feeds: str
    incoming: Stream
    scheduling: Scheduling
    rules: Rules


class Streams:
    """See the module.  ``slowed``: the limits of an account for its reputation; they hold from the directory's next
    version on."""

    def __init__(self, directory: Directory, loaded: Config) -> None:
        self._directory = directory
        self.slowed: Callable[[str], tuple[Layer, ...]] = lambda account: ()
        self.configure(loaded)

    def configure(self, loaded: Config) -> None:
        """What holds from now on."""
        self._config = loaded
        self._known: dict[tuple[str, str], Resolved] = {}
        self._lists: dict[tuple[str, str, str], tuple[str, ...]] = {}
        self._version = self._directory.version

    def of(self, account: str, name: str) -> Resolved:
        """A name that nobody knows any more is the default stream: its mail must go somehow."""
        if self._version != self._directory.version:
            self._known.clear()
            self._lists.clear()
            self._version = self._directory.version
        key = (account, name)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._resolved(account, name)
        return found

    def incoming(self, account: str, name: str) -> Stream:
        return self.of(account, name).incoming

    def scheduling(self, account: str, name: str) -> Scheduling:
        return self.of(account, name).scheduling

    def rules(self, account: str, name: str) -> Rules:
        return self.of(account, name).rules

    def defers(self, account: str, name: str) -> bool:
        """Whether mail waits rather than goes without a signature of its From domain."""
        return self.of(account, name).incoming.defers

    def lists(self, account: str, stream: str, login: str) -> tuple[str, ...]:
        """The full names of the suppression lists that mail of a connection by this stream is held against."""
        found = self.of(account, stream)
        key = (account, stream, login)
        names = self._lists.get(key)
        if names is None:
            connection = self._directory.connection(login)
            short = (*found.incoming.lists, *(connection.lists if connection else ()))
            names = self._lists[key] = list_names(short, self._directory.lineage(account), login)
        return names

    def lists_of(self, message: Message) -> tuple[str, ...]:
        """The suppression lists that stop a message; a report to its sender is stopped by none."""
        if message.connection == REPORTER:
            return ()
        return self.lists(message.account, message.stream, message.connection)

    def finding(self, event: Event) -> Finding | None:
        """What an event says against its recipient, by the stream's policy."""
        found = self.of(event.account, event.stream)
        return finding(found.settings.suppress, event, found.bounces, found.feeds)

    def bounces(self, account: str, stream: str) -> str:
        """The full name of the suppression list that takes up bounces."""
        return self.of(account, stream).bounces

    def named(self, account: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """A connection's streams that there are; the default stream if there are none."""
        known = tuple(n for n in names if n in self._config.stream or self._directory.stream(account, n))
        return known or (self._config.node.default_stream,)

    def fault(self, row: AccountStream) -> str:
        """Why an account's stream cannot be used as it is, "" if it can."""
        try:
            merged = self._merged(row)
        except InputError as error:
            return error.text
        pools = {merged.pool, *merged.risk_pools.values(), *merged.pool_for.values()}
        if merged.unsubscribe == "header" and not self._config.feedback.domain:
            return "its unsubscribe needs [feedback] domain"
        if merged.feeds == "all":
            return "its feeds is all, which stops every stream: name a list of its own"
        if merged.fallback and merged.fallback not in self._config.fallback:
            return f"there is no fallback {merged.fallback!r}"
        return next((f"there is no pool {pool!r}" for pool in pools if pool not in self._config.pool), "")

    def lives(self) -> Iterator[Life]:
        """How long mail lives: of every stream the longest that it does for anybody, or one account's look would take
        another's mail too early; then the shorter lives of accounts, with those below them."""
        longest = {name: stream.expire for name, stream in self._config.stream.items()}
        rows = [(row, self.of(row.account, row.name).settings.expire) for row in self._directory.streams()]
        for row, expire in rows:
            longest[row.name] = max(expire, longest.get(row.name, 0.0))
        for name, expire in longest.items():
            yield Life("*", name, expire)
        yield Life("*", "*", max(longest.values()))  # of streams that were taken away
        names: dict[str, list[str]] = {}
        for row, expire in rows:
            if expire < longest[row.name]:
                names.setdefault(row.account, []).append(row.name)
        for account in self._directory.accounts() if names else ():
            owners = self._directory.lineage(account.name)
            for name in dict.fromkeys(name for owner in owners for name in names.get(owner, ())):
                yield Life(account.name, name, self.of(account.name, name).settings.expire)

    def _merged(self, row: AccountStream) -> config.Stream:
        template = self._config.stream.get(row.template)
        if template is None:
            raise InputError("template", f"its template {row.template!r} is not in the configuration any more")
        return overridden(template, row.overrides)

    def _resolved(self, account: str, name: str) -> Resolved:
        own = self._directory.stream(account, name)
        template = own.template if own else self._config.stream_named(name)
        settings = self._config.stream[self._config.stream_named(template)]
        if own and not self.fault(own):
            settings = self._merged(own)
        lists = settings.lists or (template, "all")
        feeds = settings.feeds or next((name for name in lists if name != "all"), template)
        lists = tuple(dict.fromkeys((*lists, feeds)))
        bounces = settings.suppress.list or ("all" if "all" in lists else lists[0])
        return Resolved(
            settings,
            f"account:{account}/{bounces}",
            f"account:{account}/{feeds}",
            Stream(
                name,
                settings.validation,
                lists,
                settings.limits,
                settings.unsigned == "defer",
                settings.unsubscribe == "header",
                settings.filter,
            ),
            self._scheduling(account, settings),
            Rules(
                Schedule(settings.schedule, settings.expire, self._config.retry.greylist),
                settings.reports,
                settings.fallback,
                settings.fallback_after,
            ),
        )

    def _scheduling(self, account: str, settings: config.Stream) -> Scheduling:
        """The pool by risk, the stream's own class, else the worst of the account and those above it; by domain where
        no class has a pool.  The turn is the customer's, whoever of its clients sends."""
        rows = [row for name in self._directory.lineage(account) if (row := self._directory.account(name))]
        risk = settings.risk
        if risk == "normal":
            risk = max((row.risk for row in rows), key=_RISKS.index, default="normal")
        pool = settings.risk_pools.get(risk)
        pools = {} if pool else settings.pool_for
        customer = rows[-1] if rows else Account(account)
        layers = tuple(layer for row in rows for layer in (*row.shaping, *self.slowed(row.name)))
        return Scheduling(pool or settings.pool, settings.priority, pools, customer.name, customer.weight, layers)


def shown(found: Resolved) -> dict[str, object]:
    """For operators: all keys, and what follows from them."""
    rows = msgspec.structs.asdict(found.settings)
    return {
        **rows,
        "schedule": [show_duration(wait) for wait in found.settings.schedule],
        "expire": show_duration(found.settings.expire),
        "suppress": shown_policy(found.settings.suppress, found.bounces.rpartition("/")[2]),
        "feeds": found.feeds.rpartition("/")[2],
        "pool": found.scheduling.pool,
        "pool_for": found.scheduling.pools,
        "lists": found.incoming.lists,
        "limits": show_limits(found.settings.limits),
    }
