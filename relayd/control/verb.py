"""What a verb is: its row, its typed arguments, the relay that its handler is given.

``run`` checks the arguments against the row and calls the handler, a plain function ``handler(relay, **arguments)``
that gives a JSON-able value, or an awaitable or future of one, or an awaitable of a future.  InputError, raised at once
or later, is the caller's fault and names the argument.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import msgspec

from relayd import identity, notation
from relayd.backup import Backup, Progress
from relayd.directory import AccountStream, Directory, SenderDomain
from relayd.errors import InputError
from relayd.events import Event
from relayd.exports import Exports
from relayd.feeds import Feeds
from relayd.guard import Guard
from relayd.history import Found, Hit, Query
from relayd.reply import printable
from relayd.reputation import Reputation
from relayd.shaping.reactions import Active, Key, Reactions
from relayd.signing import Keyring
from relayd.statistics import Figures
from relayd.suppression import Suppressions
from relayd.suspicion import Dismissal, Suspicion
from relayd.validation import Lists
from relayd.verification import Subject
from relayd.warmup import Warmup
from relayd.workers import Workers

if TYPE_CHECKING:  # it needs Twisted, and relayctl does not
    from relayd.webhooks.sender import Webhooks

T = TypeVar("T")
Role = Literal["view", "operate", "admin"]
ROLES: tuple[Role, ...] = ("view", "operate", "admin")
Kind = Literal[
    "str", "words", "some", "name", "int", "bool", "id", "duration", "network", "secret", "pem", "text", "list", "row"
]
MOST_SHOWN = 20  # items of an argument that the trail of changes keeps, ...
_LONGEST = 500  # ... and characters of each
MAX_BODY = 64 * 1024  # bytes of a request
EVERY = (1.0, 2.0, 3600.0)  # seconds between looks at an answer that is watched: least, what is meant, most


class Configuration(Protocol):
    """What the verbs need to know of the configuration."""

    @property
    def node(self) -> Any: ...
    @property
    def auth(self) -> Any: ...
    @property
    def source(self) -> Mapping[str, Any]: ...
    @property
    def provider(self) -> Mapping[str, Any]: ...
    @property
    def stream(self) -> Mapping[str, Any]: ...
    @property
    def pool(self) -> Mapping[str, Any]: ...
    @property
    def fallback(self) -> Mapping[str, Any]: ...


class Relay(Protocol):
    """What handlers ask of the running relay (``operations.Operations``).  All values are JSON-able; ids in them are
    text (``identity.show``).

    ``health``: {"ok": bool, "faults": [text, ...], ...}
    ``stream_of``: what holds for a stream of an account;  ``stream_fault``: what is wrong with one, "" if nothing
    ``queues``: [{"account", "stream", "domain", "count", "due": unix seconds, "constraint", "why": text}, ...], largest
    first; all, or an account's
    ``queue_summary``: [{what it is by, "deliveries", "held", and how many by age}, ...], the sum first, largest next
    ``jobs``: what operators do to what is queued (``delivery.Jobs``)
    ``sources``: [{"name", "address": [...], "ehlo", "pools": [...], "state", "why", "by", "listed": [...], "sessions"}]
    ``why``: [{"queue", "constraint", "until": unix seconds, "lifts", "why": text, ...}, ...]; nothing: InputError
    ``explain``: {"domain", "hosts", "site", "provider", "pool", "sources", "limits": [{"scope", "limit", ...}], ...}
    ``figures``: a future of what was counted (``statistics.figures``)
    ``history``: a future of the events that are meant, before a place or the newest
    ``event``: a future of the event at a place, if it is what is meant; None: there is none
    ``inspect``: {"id", "message": {...}, "deliveries": [...], "records": [...]}; unknown id: InputError("id", ...)
    ``lease``: (the account's Lease in the spool, units it paid for mail of today)
    ``book``: done when the directory knows what the spool has charged to the account by now
    ``audit``: {"clean": bool, "days": [...], "odd": [text, ...]}
    ``subject``: what the DNS has to agree with for a sender domain
    ``verify``: the sender domain after a check of it, made now
    ``dismiss``: a future of the dismissal once it is on disk; what it dismisses is over
    ``lift``: the reaction that was ended; unknown id: InputError("id", ...)
    ``replay``: what rules would have done to the recorded replies of so many seconds; faulty texts of rules: InputError
    ``hit``: whom a stop of one {kind: value} would hit; ``hit_by``: one of this ``shaping.reactions.Key``
    ``key_of``: the Key of what somebody names;  ``imposed``: a reaction by hand bears, once it is on disk
    ``live``: rows of live sessions;  ``drop``: {"in": how many were ended, "out", "sample": [...]}
    ``traces``: those that are on or kept;  ``trace``: begins one of sessions that fit a filter
    ``backup``: the last one, if there was one;  ``back_up``: begins one
    ``reload``: {"changed": [text, ...]}; a faulty file: InputError("", its faults); the old configuration stays
    ``domain_faults``: {domain: name of the resolver's fault, "" if the domain takes mail or is routed, ...}
    ``inside``: all rooms of it, for a prompt within the process
    """

    @property
    def config(self) -> Configuration: ...
    @property
    def directory(self) -> Directory: ...
    @property
    def keyring(self) -> Keyring: ...
    @property
    def guard(self) -> Guard: ...
    @property
    def lists(self) -> Lists: ...
    @property
    def suppressions(self) -> Suppressions: ...
    @property
    def suspicion(self) -> Suspicion | None: ...
    @property
    def warmup(self) -> Warmup: ...
    @property
    def reactions(self) -> Reactions: ...
    @property
    def reputation(self) -> Reputation: ...
    @property
    def webhooks(self) -> "Webhooks": ...
    @property
    def feeding(self) -> Feeds: ...
    @property
    def workers(self) -> Workers: ...
    @property
    def exports(self) -> Exports: ...
    @property
    def started(self) -> float: ...
    def now(self) -> float: ...
    def health(self) -> dict[str, Any]: ...
    def stream_of(self, account: str, name: str) -> dict[str, Any]: ...
    def stream_fault(self, row: AccountStream) -> str: ...
    @property
    def jobs(self) -> Any: ...
    def queues(self, limit: int, account: str = "") -> Any: ...
    def queue_summary(self, by: str, limit: int) -> Any: ...
    def sources(self) -> Any: ...
    def why(self, what: str) -> Any: ...
    def explain(self, domain: str, account: str, stream: str) -> Any: ...
    def figures(self, asked: Figures) -> "Future[dict[str, Any]]": ...
    def history(self, query: Query, limit: int, before: Hit | None) -> "Future[Found]": ...
    def event(self, place: Hit, query: Query) -> "Future[Event | None]": ...
    def inspect(self, id: int) -> Any: ...
    def lease(self, account: str) -> Any: ...
    def book(self, account: str) -> Any: ...
    def audit(self) -> Any: ...
    def subject(self, row: SenderDomain) -> Subject: ...
    def verify(self, domain: str) -> Any: ...
    def lift(self, id: int) -> Active: ...
    def dismiss(self, row: Dismissal) -> Any: ...
    def replay(self, rules: list[str], seconds: float) -> Any: ...
    def reload(self) -> Any: ...
    def would_reload(self) -> dict[str, Any]: ...
    async def hit(self, **whom: str) -> dict[str, Any]: ...
    async def hit_by(self, key: Key) -> dict[str, Any]: ...
    async def key_of(self, at: str, source: str, account: str, pool: str, *, everything: bool) -> Key: ...
    async def imposed(self, active: Active) -> None: ...
    @property
    def traces(self) -> Any: ...
    def trace(
        self, wanted: dict[str, str], recipient: str, seconds: float, limit: int, who: str, reason: str
    ) -> dict[str, Any]: ...
    @property
    def backup(self) -> Backup | None: ...
    def back_up(self, directory: str, who: str) -> Progress: ...
    def live(self, limit: int, **filter: str) -> list[dict[str, Any]]: ...
    def drop(self, who: str, reason: str, dry_run: bool, **filter: str) -> dict[str, Any]: ...
    async def domain_faults(self, domains: Iterable[str]) -> dict[str, str]: ...
    @property
    def inside(self) -> Any: ...


class Arg(msgspec.Struct, frozen=True):
    """One argument.  In relayctl a positional one stands bare, others are options; ``repeated`` ones give a list,
    and of a "secret", "pem" or "text" the name of its file is given, of "row" ones that of a CSV file.  What is
    ``noted`` is for the trail of changes: the handler is not given it."""

    name: str
    help: str
    kind: Kind = "str"
    positional: bool = False
    required: bool = False
    repeated: bool = False
    default: str | int | bool | None = None
    choices: tuple[str, ...] = ()
    noted: bool = False


REASON = Arg("reason", "why, for those who wonder later", required=True)
NOTE = Arg("reason", "why, for those who wonder later", noted=True)
NOTED = msgspec.structs.replace(NOTE, required=True)
DRY = Arg("dry_run", "only tell what it would do: exact counts and a sample", "bool", default=False)


class Scope(msgspec.Struct, frozen=True):
    """How a verb is narrowed for a customer, who asks with a token of his account (``scope``).  ``arg`` names the
    argument that says whose the answer is, by an account's name or what else ``of`` it is; "": the answer is the same
    for everybody.  ``hides``: what an answer holds, at any depth, for operators only."""

    arg: str = ""
    of: Literal["account", "connection", "domain", "list", "subject", "plan"] = "account"
    hides: tuple[str, ...] = ()


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as the trail names him; in which role, None is none; a customer's ``account``."""

    name: str
    role: Role | Literal["customer"] | None
    account: str = ""


class Verb(msgspec.Struct, frozen=True, kw_only=True):
    """One row.  ``verdict`` names the boolean of the value that says whether all is well: relayctl exits 1 if it is
    false, and HTTP answers with the status ``unwell``; a ``signed`` handler also takes ``who`` asks.  ``timeout`` is in
    seconds; ``example`` follows "relayctl".  ``scope``: None is not for customers at all; else they may use it,
    whatever its role.

    ``would`` tells what the handler would do and does nothing: it takes the same arguments, and gives a dict or a
    coroutine of one.  What changes something has a reason, and what ``would`` can tell of a dry run (``whole``).

    ``prints``: what relayctl prints of an answer, where that is not simply what it holds.
    ``columns`` are those of a CSV file.  For an argument of rows relayctl reads it, sends it in pieces and adds up the
    answers; else it writes the answer's "rows", and if that has a "next", asks again, ``after`` it.
    ``items`` names the list of the answer that it prints an item a line, and tells the answer's "note" beside it.
    Of a ``file`` the answers are pieces ("data": base64, gzipped): it writes them, and asks on, ``after`` "next".
    What can be followed (``follow``) has "lines" and a "next", and is asked again and again until it is "over"."""

    name: str
    help: str
    handler: Callable[..., Any]
    args: tuple[Arg, ...] = ()
    role: Role = "view"
    effect: Literal["read", "change"] = "read"
    example: str
    scope: Scope | None = None
    signed: bool = False
    would: Callable[..., Any] | None = None
    verdict: str = ""
    unwell: int = 200
    timeout: float = 60.0
    columns: tuple[str, ...] = ()
    prints: Callable[[Any], list[str]] | None = None
    items: str = ""
    file: bool = False
    follow: bool = False

    @property
    def path(self) -> str:
        return "/v1/" + self.name.replace(" ", "/")

    @property
    def method(self) -> str:
        """A query has no room for a file."""
        return "GET" if self.effect == "read" and all(arg.kind != "text" for arg in self.args) else "POST"


def run(verb: Verb, relay: Relay, given: Mapping[str, object], who: str = "") -> Any:
    """The handler's answer to these arguments.  Raises InputError for any that are unknown, missing or malformed."""
    return called(verb, relay, arguments(verb, given), who)


def called(verb: Verb, relay: Relay, given: Mapping[str, Any], who: str) -> Any:
    """The handler's answer to arguments as ``arguments`` gives them; of a dry run, what it would do."""
    noted = {arg.name for arg in verb.args if arg.noted}
    taken = {name: value for name, value in given.items() if name not in noted}
    if verb.would is not None and taken.pop(DRY.name):
        return _tried(verb.would(relay, **taken))
    return verb.handler(relay, **taken, **({"who": who} if verb.signed else {}))


async def _tried(found: Any) -> dict[str, Any]:
    return {"dry_run": True, **(await found if isawaitable(found) else found)}


def whole(verb: Verb) -> Verb:
    """The row with what every one that changes something has: a reason, and where that can be told, a dry run."""
    if verb.effect == "read":
        return verb
    reason = () if any(arg.name == NOTE.name for arg in verb.args) else (NOTE,)
    return msgspec.structs.replace(verb, args=(*verb.args, *reason, *((DRY,) if verb.would else ())))


def changes(verb: Verb, given: Mapping[str, object]) -> bool:
    """Whether something is to be changed by it: a dry run changes nothing."""
    dry = verb.would is not None and str(given.get(DRY.name)).lower() == "true"
    return verb.effect == "change" and not dry


def without_secrets(verb: Verb, given: Mapping[str, object]) -> dict[str, object]:
    """What was given, fit to be shown for ever.  An argument that the verb has not may be a secret's name misspelt."""
    kinds = {arg.name: arg.kind for arg in verb.args}
    return {
        printable(name, _LONGEST): "(secret)" if kinds.get(name, "secret") in ("secret", "pem") else _brief(value)
        for name, value in given.items()
    }


def _brief(value: object) -> object:
    if isinstance(value, list):
        return list(map(_brief, value)) if len(value) <= MOST_SHOWN else f"({len(value)} of them)"
    if isinstance(value, dict):
        return (
            {key: _brief(item) for key, item in value.items()} if len(value) <= MOST_SHOWN else f"({len(value)} keys)"
        )
    return printable(value, _LONGEST) if isinstance(value, str) else value


def arguments(verb: Verb, given: Mapping[str, object]) -> dict[str, Any]:
    """The arguments as the handler takes them, defaults filled in.  Query strings and JSON values both do."""
    names = [arg.name for arg in verb.args]
    for name in (name for name in given if name not in names):
        raise InputError(name, f"{verb.name} has no such argument{notation.nearest(name, names)}")
    tried = DRY in verb.args and _argument(DRY, given.get(DRY.name), needed=False)
    unasked = REASON.name if tried else ""  # nobody will wonder
    return {
        arg.name: _argument(arg, given.get(arg.name), needed=arg.required and arg.name != unasked) for arg in verb.args
    }


def then(future: "Future[T]", shape: Callable[[T], Any]) -> "Future[Any]":
    """A future of what ``shape`` makes of the first one's result; if that is a future too, of its result."""
    shaped: Future[Any] = Future()

    def settle(done: "Future[Any]", shape: Callable[[Any], Any] = shape) -> None:
        try:
            value = shape(done.result())
        except Exception as error:
            shaped.set_exception(error)
        else:
            if isinstance(value, Future):
                value.add_done_callback(lambda done: settle(done, lambda result: result))
            else:
                shaped.set_result(value)

    future.add_done_callback(settle)
    return shaped


def _argument(arg: Arg, value: object, *, needed: bool) -> Any:
    if arg.repeated:
        items = value if isinstance(value, list) else [] if value is None else [value]
        if needed and not items:
            raise InputError(arg.name, f"is missing: {arg.help}")
        return [_parsed(arg, item) for item in items]
    if isinstance(value, list):
        raise InputError(arg.name, "is given more than once")
    if needed and (value is None or (isinstance(value, str) and not value.strip())):
        raise InputError(arg.name, f"is missing: {arg.help}")
    return arg.default if value is None else _parsed(arg, value)


def _parsed(arg: Arg, value: object) -> Any:
    try:
        found = _PARSERS[arg.kind](value)
    except ValueError as error:
        raise InputError(arg.name, str(error)) from None
    if arg.choices and found not in arg.choices:
        raise InputError(arg.name, f"{value!r} is none of {', '.join(arg.choices)}")
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("is not a line of text")
    return value


def _some(value: object) -> str:
    # What narrows: a variable of a script that was never set must not mean everything.
    text = _text(value)
    if not text.strip():
        raise ValueError("is empty: leave it out to mean all")
    return text


def _words(value: object) -> str:
    # What somebody said, to be judged: whatever it is.
    if not isinstance(value, str):
        raise ValueError("is not text")
    return value


def _secret(value: object) -> str:
    # Never shown in the error, whatever it is.
    if not isinstance(value, str) or not 8 <= len(value) <= 1024:
        raise ValueError("must have 8 to 1024 characters")
    return value


def _pem(value: object) -> str:
    # A private key: never shown in the error either.
    if not isinstance(value, str) or not 32 <= len(value) <= 16384:
        raise ValueError("a key file has 32 to 16384 characters")
    return value


def _file_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_BODY:
        raise ValueError(f"is not text of up to {MAX_BODY} characters")
    return value


def _row(value: object) -> dict[str, str]:
    pairs = value.items() if isinstance(value, dict) else ()
    if not pairs or not all(isinstance(name, str) and isinstance(cell, str) for name, cell in pairs):
        raise ValueError("a row is an object of texts by the names of their columns")
    return dict(pairs)


def _whole(value: object) -> int:
    text = str(value) if isinstance(value, int | str) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise ValueError(f"{value!r} is not a whole number")
    return int(text)


def _boolean(value: object) -> bool:
    found = {"true": True, "false": False}.get(str(value).lower())
    if found is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return found


_PARSERS: dict[str, Callable[[object], Any]] = {
    "str": _text,
    "words": _words,
    "some": _some,
    "name": notation.name,
    "int": _whole,
    "bool": _boolean,
    "id": lambda value: identity.read(_text(value)),
    "duration": notation.duration,
    "network": notation.network,
    "secret": _secret,
    "pem": _pem,
    "text": _file_text,
    "list": notation.list_name,
    "row": _row,
}
