"""Suppression lists: who must not be mailed, by named lists, in a SQLite file of their own.

``suspects`` is asked on the main thread for every recipient and attempt: memory only, microseconds.  False is certain.
True means that the disk has to be asked: ``look_up``, in a thread, all that was asked meanwhile in one go.  Lists are
known by their full names (``notation.list_name``); one that does not exist is empty, one made later counts at once.

Changes run one after the other on a thread of their own, and an entry is in the filter before its future is done.  The
first of these jobs fills the filter from the file, so that there is no copy to go stale; until then all is suspect.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec

from relayd import notation
from relayd.address import AddressError, folded, parse_address
from relayd.database import Post, Worker, opened, reading
from relayd.errors import InputError
from relayd.suppression import disk, strikes
from relayd.suppression.entries import Entry, Kind, Reason, covering, from_row, normal
from relayd.suppression.filter import Filter
from relayd.suppression.patterns import Patterns, grams
from relayd.suppression.strikes import Learnt, Lesson

Done = Callable[[Entry | Exception | None], None]
_Question = tuple[disk.Probe, dict[int, str], Done]

MAX_PAGE = 1000
_SWEEP = 1000  # entries that a sweep deletes at most
_QUESTIONS = 200  # that one job answers at most
_FAULTS = 10  # of an import that are told
_SCRIPTS = [(Path(__file__).parent / file).read_text("utf-8") for file in ("schema.sql", "strikes.sql")]


class SuppressionList(msgspec.Struct, frozen=True):
    """A list by its full name, with its number of entries, patterns among them.  ``created`` is unix seconds."""

    list: str
    entries: int
    patterns: int
    created: int


class Refusal(msgspec.Struct, frozen=True):
    """A row that was not taken, by its place among those given (from 0), and why."""

    row: int
    error: str


class Tally(msgspec.Struct, frozen=True):
    """What became of rows: new ones, those that took another's place, those that gave way to one that lasts longer,
    those that make no sense, of which the first are named."""

    added: int
    replaced: int
    kept: int
    refused: int = 0
    faults: tuple[Refusal, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """A part of a list.  ``next`` is what to ask for to read on, "" at the end."""

    entries: list[Entry]
    next: str


class _Known:
    """What memory holds of a list."""

    def __init__(self, id: int, name: str, created: int, entries: int) -> None:
        self.id = id
        self.name = name
        self.created = created
        self.entries = entries
        self.patterns = Patterns()

    def shown(self) -> SuppressionList:
        return SuppressionList(self.name, self.entries, len(self.patterns), self.created)


class Suppressions:
    """The open lists.  Everything is for the main thread; changes and long reads give a Future that ends there.

    Changes raise InputError at once for a malformed argument; the Future fails with InputError for what only the
    database knows, and with sqlite3.Error when the disk refuses.  ``fault`` says what the chores that nobody waits for
    ran into, "" if all is well.  ``struck`` are addresses against which something was said that may yet be taken back;
    ``remember`` is for how many seconds after its reception a delivery is heard of.
    """

    def __init__(self, path: str | Path, post: Post) -> None:
        self.fault = ""
        self.remember = 60 * 86400.0
        db = opened(path, _SCRIPTS)
        self.struck = strikes.struck(db)
        self._lessons: list[tuple[Lesson, Future[bool]]] = []
        self._learning = False
        self._lists = {row[1]: _Known(*row) for row in disk.lists(db)}
        self._by_id = {known.id: known for known in self._lists.values()}
        self._filter: Filter | None = None
        self._questions: list[_Question] = []
        self._asking = False
        self._writer = Worker(db, post, "suppression")
        self._reader = Worker(reading(path), post, "suppressed")
        self._loading = reading(path)
        self._chore = self._watched(self._load())

    def close(self) -> None:
        """Finishes the changes under way and closes the file.  Their futures are done if ``post`` still works."""
        if not self.ready:
            self._loading.interrupt()
        self._writer.close()
        self._reader.close()
        self._loading.close()

    # The check.

    @property
    def ready(self) -> bool:
        """Whether the filter is filled; until then every list with entries is suspect."""
        return self._filter is not None

    def suspects(self, lists: Iterable[str], address: str) -> bool:
        """Whether one of the lists, by their full names, may stop the address.  False is certain, and memory's answer
        in any case.  Raises AddressError for what is no address."""
        known = self._named(lists)
        return bool(known) and (self._filter is None or self._passes(self._filter, known, folded(address)))

    def look_up(self, lists: Iterable[str], address: str, now: float, done: Done) -> None:
        """Calls ``done``, on the spot or later on the main thread, with the entry that stops the address, of several
        the one that lasts longest; with None if there is none; with the error if the disk could not be asked.  ``done``
        must not raise."""
        known = self._named(lists)
        if not known:
            return done(None)
        self._questions.append((self._probe(known, address, now), {one.id: one.name for one in known}, done))
        if not self._asking:
            self._ask()

    def _named(self, lists: Iterable[str]) -> list[_Known]:
        return [known for name in lists if (known := self._lists.get(name)) and known.entries]

    def _passes(self, filter: Filter, known: Sequence[_Known], address: str) -> bool:
        if filter.may_hold([one.id for one in known], [value for _, value in covering(address)]):
            return True
        sieves = [one.patterns for one in known if one.patterns]
        found = grams(address) if sieves else set()
        return any(patterns.may_match(address, found) for patterns in sieves)

    def _probe(self, known: Sequence[_Known], address: str, now: float) -> disk.Probe:
        address = folded(address)
        sieved = (one.id for one in known if one.patterns or not self.ready)
        return disk.Probe(tuple(one.id for one in known), tuple(sieved), address, covering(address), now)

    def _ask(self) -> None:
        """Asks what is waiting to be asked, in one job."""
        asked, self._questions = self._questions[:_QUESTIONS], self._questions[_QUESTIONS:]
        self._asking = bool(asked)
        if asked:
            probes = [probe for probe, _, _ in asked]
            answer = self._reader.run(lambda db: disk.find(db, probes), lambda found: found)
            answer.add_done_callback(lambda answer: self._answered(asked, answer))

    def _answered(self, asked: list[_Question], answer: "Future[list[list[disk.Row]]]") -> None:
        self._ask()
        error = answer.exception()
        for n, (_, names, done) in enumerate(asked):
            if isinstance(error, Exception):
                done(error)
            else:
                entries = [row.entry(names[row.list]) for row in answer.result()[n]]
                done(max(entries, key=lambda entry: entry.lasting, default=None))

    # Lists.

    def lists(self) -> list[SuppressionList]:
        """By name."""
        return [self._lists[name].shown() for name in sorted(self._lists)]

    def add_list(self, name: str, *, now: float) -> "Future[SuppressionList]":
        """The list of this full name, made if there is none."""
        try:
            notation.list_name(name)
        except ValueError as error:
            raise InputError("list", str(error)) from None

        def keep(row: tuple[int, str, int, int]) -> SuppressionList:
            if name not in self._lists:
                self._lists[name] = self._by_id[row[0]] = _Known(*row)
            return self._lists[name].shown()

        return self._writer.run(lambda db: disk.add_list(db, name, int(now)), keep)

    def remove_list(self, name: str) -> "Future[SuppressionList]":
        """Gives what was removed; from then on it stops nobody."""
        self._known(name)
        return self._writer.run(lambda db: disk.remove_list(db, name), self._forget)

    def remove_owner(self, kind: str, owner: str) -> "Future[list[SuppressionList]]":
        """Removes all lists of an "account" or a "connection"; gives them."""
        return self._writer.run(
            lambda db: disk.remove_lists_of(db, f"{kind}:{owner}"), lambda ids: [self._forget(id) for id in ids]
        )

    def _known(self, name: str) -> _Known:
        known = self._lists.get(name)
        if known is None:
            # Among the same owner's only: others' are not his to know.
            owner = notation.list_owner(name)
            near = notation.nearest(name, (other for other in self._lists if notation.list_owner(other) == owner))
            near = near or f": make it with list add {name}"
            raise InputError("list", f"there is no list {name!r}{near}")
        return known

    def _forget(self, id: int) -> SuppressionList:
        known = self._by_id.pop(id)
        del self._lists[known.name]
        return known.shown()

    # Entries.

    def add(self, entries: Sequence[Entry]) -> "Future[Tally]":
        """Adds entries (made by ``entry``) to lists that exist, all or none.  Where there is one already, the one that
        lasts longer stays, of equals the later."""

        def job(db: sqlite3.Connection) -> disk.Written:
            written = disk.put(db, entries)
            if written.surplus:
                raise InputError("value", _full(written.surplus[0]))
            return written

        return self._writer.run(job, lambda written: self._kept(written, []))

    def add_rows(
        self, name: str, rows: Sequence[Mapping[str, str]], *, reason: Reason, now: float, by: str
    ) -> "Future[Tally]":
        """Adds rows as ``from_row`` takes them, a thousand or so at a time; those that make no sense are told."""
        self._known(name)

        def job(db: sqlite3.Connection) -> tuple[disk.Written, list[Refusal]]:
            entries, faults = [], []
            places: dict[Entry, int] = {}
            for place, row in enumerate(rows):
                try:
                    entries.append(from_row(name, row, reason=reason, now=now, by=by))
                    places[entries[-1]] = place
                except InputError as error:
                    faults.append(Refusal(place, str(error)))
            written = disk.put(db, entries)
            faults += [Refusal(places[entry], _full(entry)) for entry in written.surplus]
            return written, sorted(faults, key=lambda fault: fault.row)

        return self._writer.run(job, lambda result: self._kept(*result))

    def remove(self, name: str, value: str, kind: Kind | None = None) -> "Future[Entry]":
        """Gives what was removed."""
        self._known(name)
        form, normalised = normal(value, kind)

        def swap(removed: tuple[disk.Key, Entry]) -> Entry:
            self._went([removed[0]])
            return removed[1]

        return self._writer.run(lambda db: disk.remove(db, name, form, normalised), swap)

    # What is learnt from outcomes and from what comes back.

    def learn(self, lesson: Lesson, now: float) -> "Future[bool]":
        """Does what follows from it, with all that comes meanwhile in one go; gives whether it was new."""
        future: Future[bool] = Future()
        self._lessons.append((lesson, future))
        if lesson.finding and not lesson.finding.late and len(self.struck) < strikes.STRUCK:
            self.struck.add(lesson.finding.entry.value)
        if not self._learning:
            self._learn(now)
        return future

    def _learn(self, now: float) -> None:
        asked, self._lessons = self._lessons[:_QUESTIONS], self._lessons[_QUESTIONS:]
        self._learning = bool(asked)
        if asked:
            lessons = [lesson for lesson, _ in asked]
            learnt = self._writer.run(lambda db: strikes.learn(db, lessons, int(now)), self._learnt)
            learnt.add_done_callback(lambda done: self._told(asked, done, now))

    def _learnt(self, learnt: Learnt) -> list[bool]:
        for row in learnt.lists:
            if row[1] not in self._lists:
                self._lists[row[1]] = self._by_id[row[0]] = _Known(*row)
        self._came(learnt.written.added)
        return learnt.fresh

    def _told(self, asked: list[tuple[Lesson, "Future[bool]"]], done: "Future[list[bool]]", now: float) -> None:
        self._learn(now)
        error = done.exception()
        self.fault = f"suppression lists: {error}" if error else ""
        for n, (_, future) in enumerate(asked):
            if error:
                future.set_exception(error)
            else:
                future.set_result(done.result()[n])

    def redeem(self, name: str, address: str) -> "Future[int]":
        """A delivery to one of those that are ``struck``: takes back what was said against it for this list, unless it
        lasts; gives how many entries went."""
        value = folded(address)

        def swap(redeemed: tuple[list[disk.Key], bool]) -> int:
            keys, left = redeemed
            if not left:
                self.struck.discard(value)
            return self._went(keys)

        return self._writer.run(lambda db: strikes.redeem(db, name, value), swap)

    def search(self, address: str, *, now: float) -> "Future[list[Entry]]":
        """The entries of all lists that stop the address."""
        try:
            address = parse_address(address)
        except AddressError as error:
            raise InputError("address", error.text) from None
        known = self._named(name for name in sorted(self._lists) if self.suspects((name,), address))
        probe = self._probe(known, address, now)
        names = {one.id: one.name for one in known}
        return self._reader.run(
            lambda db: disk.find(db, [probe])[0], lambda rows: [row.entry(names[row.list]) for row in rows]
        )

    def page(self, name: str, *, prefix: str = "", after: str = "", limit: int = MAX_PAGE) -> "Future[Page]":
        """Entries of a list in the order of their values: those that begin with a prefix, after a page's ``next``."""
        known, most = self._known(name), min(max(limit, 1), MAX_PAGE)
        kind, _, value = after.partition(" ")

        def swap(rows: list[disk.Row]) -> Page:
            more = f"{rows[-1].kind} {rows[-1].value}" if len(rows) == most else ""
            return Page([row.entry(name) for row in rows], more)

        return self._reader.run(lambda db: disk.page(db, known.id, prefix.lower(), (value, kind), most), swap)

    def _kept(self, written: disk.Written, faults: list[Refusal]) -> Tally:
        self._came(written.added)
        return Tally(len(written.added), written.replaced, written.kept, len(faults), tuple(faults[:_FAULTS]))

    def _came(self, keys: Iterable[disk.Key]) -> None:
        for key in keys:
            if key.mark is not None and self._filter is not None:
                self._filter.add(key.mark)
            if known := self._by_id.get(key.list):
                known.entries += 1
                if key.mark is None and self.ready:
                    known.patterns.add(key.value)

    def _went(self, keys: Sequence[disk.Key]) -> int:
        for key in keys:
            if key.mark is not None and self._filter is not None:
                self._filter.discard(key.mark)
            if known := self._by_id.get(key.list):
                known.entries -= 1
                known.patterns.discard(key.value)
        return len(keys)

    # Chores.

    def sweep(self, now: float) -> "Future[int]":
        """Deletes some of what is over, or of lists removed, and gives how many; to be called every second or so.  If
        the filter could not be filled at the start, tries that again."""
        if self._chore.done():
            self._chore = self._watched(self._swept(now) if self.ready else self._load())
        return self._chore

    def _swept(self, now: float) -> "Future[int]":
        remembered = self.remember

        def job(db: sqlite3.Connection) -> list[disk.Key]:
            strikes.sweep(db, now, remembered)
            return disk.sweep(db, now, _SWEEP)

        return self._writer.run(job, self._went)

    def _load(self) -> "Future[int]":
        """Fills the filter.  On the writer's thread, so that what is changed meanwhile comes after it."""

        def job(_: sqlite3.Connection) -> tuple[Filter, dict[int, Patterns]]:
            return Filter(disk.marks(self._loading)), disk.patterns(self._loading)

        def swap(loaded: tuple[Filter, dict[int, Patterns]]) -> int:
            self._filter, patterns = loaded
            for id, known in self._by_id.items():
                known.patterns = patterns.get(id, known.patterns)
            return 0

        return self._writer.run(job, swap)

    def _watched(self, chore: "Future[int]") -> "Future[int]":
        def look(done: "Future[int]") -> None:
            error = done.exception()
            self.fault = f"suppression lists: {error}" if error else ""

        chore.add_done_callback(look)
        return chore


def _full(entry: Entry) -> str:
    return f"the list {entry.list} has {disk.MAX_PATTERNS} patterns, which is the most"
