"""The watch: signals at submission, per client, connection and account, and who is under suspicion by them.

In: what is received and refused, at times; texts are read in a thread, a sample of each client's.  Out: findings that
began, went on or are over, and those of which the customer is to be told now.  One that is explained by a narrower one
is not made: where a client is named, its account is not.  A finding lasts until its sender has been calm for a while;
it stops nobody.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from zlib import crc32

import msgspec

from relayd.envelope import Recipient
from relayd.identity import DAY
from relayd.suspicion.findings import Dismissal, Finding, Key, Kind
from relayd.suspicion.habits import (
    FAULTY,
    RECIPIENTS,
    SHARED,
    SPOOFED,
    SUPPRESSED,
    TEXTS,
    Habits,
    Usual,
)
from relayd.suspicion.known import Known
from relayd.suspicion.score import Part, parts, total
from relayd.suspicion.text import LIMIT, Text, bit, examine
from relayd.suspicion.texts import Texts

SENDERS = 10_000  # clients whose habits are kept, and as many connections and accounts
FINDINGS = 1000
READS = 10.0  # seconds between texts of one client that are read,
_REST = 3.5e-6  # and for each byte until the next of anybody: reading takes a fiftieth of that time
_READING = 32  # texts that wait to be read
_ASKED = 200  # recipients of one message that may be looked up
_SAMPLE = 4  # one recipient in so many, always the same ones, is looked up: shares are of many
_WAITING = 500  # senders, or recipients to look up, that wait for the next second
_EVERY = 10.0  # seconds between judgements
_AT_ONCE = 500  # judged at one tick
_TOLD = 3  # leaders that a finding names
_SECONDARY: dict[Kind, int] = {"client": 0, "connection": 1, "account": 2}

Posted = Callable[[Callable[[], None]], object]


class Settings(msgspec.Struct, frozen=True):
    """``threshold``: the score from which a sender is under suspicion; ``calm``: below which it is not any more, after
    ``rest`` seconds; ``memory``: bytes for what is known of recipients."""

    threshold: int = 60
    calm: int = 30
    rest: float = 6 * 3600.0
    memory: int = 32 << 20


class News(msgspec.Struct, frozen=True):
    """What a tick brought.  Those to ``tell`` are among the ``kept``."""

    kept: tuple[Finding, ...] = ()
    over: tuple[Finding, ...] = ()
    tell: tuple[Finding, ...] = ()


class _Came:
    """What came of one sender since the last second: adding it up costs a message a tenth of counting it."""

    __slots__ = ("asked", "faulty", "froms", "recipients", "suppressed")

    def __init__(self) -> None:
        self.recipients = self.suppressed = self.faulty = 0
        self.froms: set[str] = set()
        self.asked: list[str] = []


class _Saved(msgspec.Struct, array_like=True):
    born: float
    habits: list[tuple[Key, Usual]]


class Suspicion:
    """``submit`` runs a function in a thread, ``post`` brings one back; ``customer(account)``: the account at the top
    of those above it."""

    def __init__(
        self,
        settings: Settings,
        now: float,
        *,
        submit: Posted,
        post: Posted,
        customer: Callable[[str], str],
        findings: Iterable[Finding] = (),
        dismissals: Iterable[Dismissal] = (),
    ) -> None:
        self.settings = settings
        self.fault = ""
        self.findings = {finding.key: finding for finding in findings}
        self.dismissals = {(row.account, row.client): row for row in dismissals}
        self._submit = submit
        self._post = post
        self._customer = customer
        self._born = now
        self._known = Known(settings.memory)
        self._texts = Texts()
        self._clients: OrderedDict[Key, Habits] = OrderedDict()  # named as senders like: they push out no account
        self._others: OrderedDict[Key, Habits] = OrderedDict()
        self._came: dict[tuple[str, str, str], _Came] = {}
        self._asking = 0  # recipients in it, ...
        self._latest = now  # ... and when the last of it came
        self._stirred: dict[Key, None] = {}
        self._judging: list[Key] = []
        self._next = now
        self._reading = 0
        self._rested = now  # when the next text may be read

    # Signals.

    def received(
        self,
        account: str,
        client: str,
        connection: str,
        froms: tuple[str, ...],
        recipients: tuple[Recipient, ...],
        suppressed: int,
        faulty: int,
        now: float,
    ) -> None:
        """A message was taken for these recipients; ``suppressed`` and ``faulty``: of the same message, those that get
        no copy, of whom ``refused`` was told before."""
        self._latest = now
        who = (account, client, connection)
        came = self._came.get(who)
        if came is None:
            came = self._came[who] = _Came()
        came.recipients += len(recipients)
        came.suppressed += suppressed
        came.faulty += faulty
        came.froms.update(froms)
        for recipient in recipients[:_ASKED]:
            if not crc32(recipient.address.lower().encode()) % _SAMPLE:
                came.asked.append(recipient.address)
                self._asking += 1
        if len(self._came) >= _WAITING or self._asking >= _WAITING:
            self._count()

    def _count(self) -> None:
        """Adds what came to its senders."""
        waiting, self._came, self._asking = self._came, {}, 0
        now = self._latest
        for who, came in waiting.items():
            asked, new = len(came.asked), 0
            for address in came.asked:
                new += not self._known.seen(who[0], address)
            senders = 0
            for address in came.froms:
                senders |= bit(address.encode())
            keys = _keys(*who)
            for key in keys:
                habits = self._habits(key, now)
                habits.counts[RECIPIENTS] += came.recipients
                habits.news(asked, new)
                habits.senders |= senders
                habits.lead(who[2] if key.kind == "client" else who[1], came.recipients)
            counts = self._habits(keys[0], now).counts
            counts[SUPPRESSED] += came.suppressed
            counts[FAULTY] += came.faulty

    def refused(self, account: str, connection: str, *, faulty: bool, now: float) -> None:
        """A recipient gets no copy, because of a stop-list, or of what its address is."""
        for key in _keys(account, "", connection)[1:]:
            self._habits(key, now).counts[FAULTY if faulty else SUPPRESSED] += 1

    def spoofed(self, account: str, client: str, connection: str, now: float) -> None:
        """Mail in another's name was refused; ``client`` "" where it is not known."""
        for key in _keys(account, client, connection)[0 if client else 1 :]:
            self._habits(key, now).counts[SPOOFED] += 1

    def content(self, account: str, client: str, connection: str, head: bytes, body: bytes, now: float) -> None:
        """What a message says, or the beginning of it.  Mostly it is not looked at."""
        if 0 < self._rested - now < READS or self._reading >= _READING:
            return
        keys = _keys(account, client, connection)
        known = self._clients.get(keys[0])
        if known is not None and abs(now - known.read) < READS:
            return
        self._habits(keys[0], now).read = now
        head, body = head[:LIMIT], body[:LIMIT]
        self._rested = now + (len(head) + len(body)) * _REST
        self._reading += 1

        def read() -> None:
            try:
                text = examine(head, body)
            except Exception as error:  # it never raises; were it to, the thread must not die of it
                fault = f"a text could not be read: {error!r}"
                self._post(lambda: self._unread(fault))
            else:
                self._post(lambda: self._read(keys, text, now))

        self._submit(read)

    def _unread(self, fault: str) -> None:
        self._reading -= 1
        self.fault = fault

    def _read(self, keys: tuple[Key, ...], text: Text, now: float) -> None:
        self._reading -= 1
        shared = bool(text.sketch) and self._texts.shared(text.sketch, self._customer(keys[0].account), now)
        for key in keys:
            habits = self._habits(key, now)
            habits.links |= text.links
            if text.sketch:
                habits.counts[TEXTS] += 1
                habits.counts[SHARED] += shared

    def _habits(self, key: Key, now: float, usual: Usual | None = None) -> Habits:
        table = self._clients if key.kind == "client" else self._others
        habits = table.get(key)
        if habits is None:
            if len(table) >= SENDERS:
                table.popitem(last=False)
            habits = table[key] = Habits(now, usual)
            habits.suspected = key in self.findings
        else:
            table.move_to_end(key)
            habits.turn(now)
        self._stirred[key] = None
        return habits

    # Judgement.

    def tick(self, now: float) -> News:
        """Call about once a second."""
        self._count()
        if not self._judging and abs(now - self._next) >= _EVERY:
            self._next = now
            # The narrower first: it explains the wider.
            keys = self._stirred.keys() | self.findings.keys()
            self._judging = sorted(keys, key=lambda key: -_SECONDARY[key.kind])
            self._stirred.clear()
        kept, over, tell = [], [], []
        for _ in range(min(_AT_ONCE, len(self._judging))):
            key = self._judging.pop()
            before = self.findings.get(key)
            after = self._judge(key, before, now)
            if after is None:
                if before is not None:
                    over.append(self._end(key))
                continue
            self.findings[key] = after
            if before is None or after.noticed != before.noticed:
                kept.append(after)
            if after.noticed == now:
                tell.append(after)
        return News(tuple(kept), tuple(over), tuple(tell))

    def _of(self, key: Key) -> Habits | None:
        return (self._clients if key.kind == "client" else self._others).get(key)

    def _end(self, key: Key) -> Finding:
        habits = self._of(key)
        if habits is not None:
            habits.suspected = False
        return self.findings.pop(key)

    def _judge(self, key: Key, before: Finding | None, now: float) -> Finding | None:
        """The finding that there is now."""
        habits = self._of(key)
        if habits is None:
            habits = self._habits(key, now)  # of before a restart
        habits.turn(now)
        explained = self._explained(key)
        habits.suspected = explained or before is not None
        grown = now - self._born >= DAY
        found = parts(habits, judge_rise=grown, judge_new=habits.usual.days > 0)
        score = total(found)
        bad = score >= self.settings.threshold
        if before is None:
            if not bad or explained or len(self.findings) >= FINDINGS or self._excused(key, habits, now):
                return None
            habits.suspected = True
            return Finding(key, score, score, found, self._leaders(habits), now, now, now)
        last = now if score >= self.settings.calm else before.last
        if now - last >= self.settings.rest:
            return None
        noticed = now if bad and now - before.noticed >= DAY else before.noticed
        worse = {"worst": score, "parts": found, "leaders": self._leaders(habits)} if score >= before.worst else {}
        return msgspec.structs.replace(before, score=score, last=last, noticed=noticed, **worse)

    def _leaders(self, habits: Habits) -> tuple[str, ...]:
        """Those that matter, the first first."""
        sent = habits.leaders
        most = max(sent.values(), default=0.0)
        return tuple(sorted((name for name in sent if sent[name] > most / 4), key=lambda name: -sent[name])[:_TOLD])

    def _excused(self, key: Key, habits: Habits, now: float) -> bool:
        """Whether it is dismissed, or the client that most of it is from."""
        first = () if key.kind == "client" else self._leaders(habits)[:1]
        return any(self.dismissed(one, now) for one in (key, *(Key(key.account, "client", name) for name in first)))

    def _explained(self, key: Key) -> bool:
        """Whether a narrower finding of the same account says it already."""
        rank = _SECONDARY[key.kind]
        return any(
            _SECONDARY[other.kind] < rank and other.account == key.account and key.name in ("", *finding.leaders)
            for other, finding in self.findings.items()
        )

    # What operators say.

    def dismissed(self, key: Key, now: float) -> bool:
        rows = (self.dismissals.get((key.account, name)) for name in ("", key.name if key.kind == "client" else ""))
        return any(row is not None and now < row.until for row in rows)

    def dismiss(self, row: Dismissal) -> tuple[Finding, ...]:
        """Gives the findings that are over by it."""
        self.dismissals = {key: known for key, known in self.dismissals.items() if known.until > row.since}
        self.dismissals[row.account, row.client] = row
        return tuple(self._end(key) for key in list(self.findings) if self.dismissed(key, row.since))

    def senders(self, account: str, now: float, limit: int) -> list[tuple[Key, int, tuple[Part, ...]]]:
        """Of an account, itself and those behind it that anything speaks against: score and its parts, worst first."""
        self._count()
        rows = []
        for table in (self._clients, self._others):
            for key, habits in table.items():
                if key.account == account:
                    habits.turn(now)
                    found = parts(habits, judge_rise=now - self._born >= DAY, judge_new=habits.usual.days > 0)
                    if found:
                        rows.append((key, total(found), found))
        return sorted(rows, key=lambda row: (-row[1], row[0]))[:limit]

    # On disk: what is lost with it, is learnt again.

    def save(self, directory: Path) -> Callable[[], None]:
        """What writes habits and recipients of now; to be run in a thread.  It raises OSError."""
        self._count()
        tables = (*self._clients.items(), *self._others.items())
        saved = msgspec.msgpack.encode(_Saved(self._born, [(key, habits.usual) for key, habits in tables]))

        def write() -> None:
            directory.mkdir(mode=0o700, exist_ok=True)
            new = directory / "habits.new"
            new.write_bytes(saved)
            new.replace(directory / "habits")
            self._known.save(directory / "recipients")

        return write

    def load(self, directory: Path, now: float) -> str:
        """Takes up what was saved; gives in words what could not be, "" for nothing."""
        try:
            saved = msgspec.msgpack.decode((directory / "habits").read_bytes(), type=_Saved)
            whole = self._known.load(directory / "recipients")
        except FileNotFoundError:
            return ""
        except (OSError, msgspec.DecodeError) as error:
            return f"what was learnt of senders cannot be read, it is learnt anew: {error}"
        self._born = saved.born
        for key, usual in saved.habits:
            self._habits(key, now, usual)
        self._stirred.clear()
        if not whole:
            for habits in (*self._clients.values(), *self._others.values()):
                habits.usual.days = 0
            return "the recipients that accounts have written to before are learnt anew"
        return ""


def _keys(account: str, client: str, connection: str) -> tuple[Key, Key, Key]:
    """The narrowest first."""
    return Key(account, "client", client), Key(account, "connection", connection), Key(account, "account", "")
