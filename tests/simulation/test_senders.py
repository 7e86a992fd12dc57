"""Days of two hundred customers who submit, on a clock moved by hand: the bad sender is named, and nobody else."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relayd.envelope import Recipient
from relayd.suspicion import Finding, Key, Settings, Suspicion

START = 1_796_083_200.0  # a midnight, UTC
HOUR, DAY = 3600.0, 86400.0
ACCOUNTS = 200
TEMPLATE = "Your order number %d has left our store and will be with you in two days; thank you for buying at shop %s"
SPAM = "Dear friend %d, you have won the great lottery of this year: claim the whole prize now at http://%s.example/win"
FILLER = " With kind regards from all of us who work here every day to make what you want and bring it to your door."
HEAD = b"From: a@crm.example\r\nSubject: hello\r\n\r\n"


class World:
    """``clients``: 1 to 4 behind each account, each with customers of its own, to whom it writes some mail an hour, one
    in ten of them somebody new."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = START
        self.work: list[Callable[[], None]] = []
        self.suspicion = self.made()
        self.findings: dict[Key, Finding] = {}  # as they began
        self.told: list[Finding] = []
        self.clients = [
            (f"crm{n}", f"shop{n}-{i}", f"login{n}") for n in range(ACCOUNTS) for i in range(self.rng.randint(1, 4))
        ]
        self.customers = {client: self.rng.randint(300, 3000) for client in self.clients}
        self.hourly = {client: self.rng.choice([2, 5, 10, 20]) for client in self.clients}
        self.large = [next(c for c in self.clients if c[0] == f"crm{n}") for n in (10, 20)]
        self.hourly.update(dict.fromkeys(self.large, 200))
        self.strange = 0
        self.beat = 300.0  # seconds between ticks
        self.reads = False  # texts, which teach no habits: their time is saved while those are learnt

    def made(self) -> Suspicion:
        return Suspicion(
            Settings(memory=8 << 20), self.now, submit=self.work.append, post=lambda call: call(), customer=lambda a: a
        )

    def send(self, client: tuple[str, str, str], to: str, text: str, *, faulty: int = 0, frm: str = "") -> None:
        account, name, login = client
        for _ in range(faulty):
            self.suspicion.refused(account, login, faulty=True, now=self.now)
        if self.reads:
            self.suspicion.content(account, name, login, HEAD, text.encode(), self.now)
        self.suspicion.received(
            account, name, login, (frm or f"news@{name}.example",), (Recipient(to),), 0, faulty, self.now
        )

    def customer(self, client: tuple[str, str, str]) -> str:
        return f"c{self.rng.randrange(self.customers[client])}@{client[1]}.example"

    def stranger(self) -> str:
        self.strange += 1
        return f"s{self.strange}@everywhere.example"

    def ordinary(self, client: tuple[str, str, str]) -> None:
        to = self.stranger() if self.rng.random() < 0.1 else self.customer(client)
        self.send(client, to, TEMPLATE % (self.rng.randrange(10**6), client[1]) + FILLER)

    def run(self, hours: float, *extra: tuple[float, float, float, Callable[[], None]]) -> None:
        """The usual traffic, and of each (hour, hours, times an hour, what) so much of that."""
        end = self.now + hours * HOUR
        events: list[tuple[float, Callable[[], None]]] = []
        for client in self.clients:
            for _ in range(round(self.hourly[client] * hours)):
                events.append((self.now + self.rng.random() * hours * HOUR, lambda c=client: self.ordinary(c)))  # type: ignore[misc]
        for begins, lasts, hourly, what in extra:
            first = self.now + begins * HOUR
            events += [(first + n * HOUR / hourly, what) for n in range(round(lasts * hourly))]
        events += [(when, self.tick) for when in self.seconds(end)]
        for when, event in sorted(events, key=lambda row: row[0]):
            self.now = max(self.now, when)
            event()
        self.now = end

    def seconds(self, end: float) -> Iterator[float]:
        when = self.now
        while when < end:
            when += self.beat
            yield when

    def tick(self) -> None:
        while self.work:
            self.work.pop()()
        news = self.suspicion.tick(self.now)
        for finding in news.kept:
            self.findings.setdefault(finding.key, finding)
        self.told += news.tell


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three ordinary days teach."""
    world = World(7)
    for client in world.clients:  # everybody has been written to by everybody before
        for n in range(world.customers[client]):
            world.suspicion._known.seen(client[0], f"c{n}@{client[1]}.example")
    world.run(60)
    assert world.findings == {}
    directory = tmp_path_factory.mktemp("learnt") / "suspicion"
    world.suspicion.save(directory)()
    return directory


@pytest.fixture
def world(learnt: Path) -> World:
    """At ten in the morning of the fourth day, after a restart."""
    made = World(7)
    made.now = START + 58 * HOUR
    made.beat, made.reads = 5.0, True
    made.suspicion = made.made()
    assert made.suspicion.load(learnt, made.now) == ""
    return made


def test_a_client_that_begins_to_spam_is_found_within_minutes_and_named_and_nobody_else_is(world: World) -> None:
    newsletter, bought = world.large
    spammer = next(c for c in world.clients if c[0] == "crm30")
    begins = world.now + HOUR

    def letter() -> None:  # ten times the usual, to people it has written to before
        world.send(newsletter, world.customer(newsletter), "Our news of this week, " + FILLER * 3)

    def imported() -> None:  # a new list, a fifth of it new people
        to = world.stranger() if world.rng.random() < 0.2 else world.customer(bought)
        world.send(bought, to, "Welcome to our list of friends, " + FILLER * 3)

    def spam() -> None:
        text = SPAM % (world.rng.randrange(10**6), f"x{world.rng.randrange(30)}")
        world.send(spammer, world.stranger(), text + FILLER, faulty=world.rng.random() < 0.1)

    world.run(4, (0.0, 3.0, 2000.0, letter), (0.5, 3.0, 2000.0, imported), (1.0, 3.0, 3600.0, spam))
    for client in world.large:  # they were looked at: it was sudden
        assert max(score for _, score, _ in world.suspicion.senders(client[0], world.now, 9)) >= 15
    (finding,) = world.findings.values()
    assert (finding.key.account, finding.key.kind, finding.key.name) == ("crm30", "client", spammer[1])
    assert finding.since - begins < 600 and finding.leaders == ("login30",)
    assert {"volume", "new"} <= {part.name for part in finding.parts}
    assert len(world.told) == 1


def test_one_login_that_sends_under_ever_new_names_is_found_by_its_connection(world: World) -> None:
    account, _, login = next(c for c in world.clients if c[0] == "crm40")
    begins = world.now

    def spam() -> None:
        name = f"front{world.rng.randrange(10**6)}"
        world.send((account, name, login), world.stranger(), SPAM % (1, name), frm=f"sales@{name}.example")

    world.run(1, (0.0, 1.0, 1200.0, spam))
    assert {(key.kind, key.account, key.name) for key in world.findings} == {("connection", account, login)}
    (finding,) = world.findings.values()
    assert finding.since - begins < 900 and "senders" in {part.name for part in finding.parts}


def test_the_same_text_from_stolen_logins_of_several_customers_adds_to_the_score_of_each(world: World) -> None:
    thieves = [next(c for c in world.clients if c[0] == f"crm{n}") for n in (50, 51, 52)]

    def spam() -> None:
        client = world.rng.choice(thieves)
        to = world.stranger() if world.rng.random() < 0.7 else world.customer(client)
        world.send(client, to, SPAM % (world.rng.randrange(10**6), "prize") + FILLER)

    world.run(1, (0.0, 1.0, 3600.0, spam))
    assert {key.account for key in world.findings} == {"crm50", "crm51", "crm52"}
    assert all("texts" in {part.name for part in finding.parts} for finding in world.findings.values())


def test_what_is_told_once_is_not_told_again_on_the_same_day_and_is_over_after_a_rest(world: World) -> None:
    spammer = next(c for c in world.clients if c[0] == "crm60")

    def spam() -> None:
        world.send(spammer, world.stranger(), SPAM % (1, "x") + FILLER, faulty=1)

    world.run(1, (0.0, 1.0, 3600.0, spam))
    world.run(2, (1.0, 1.0, 3600.0, spam))
    assert len(world.told) == 1 and world.suspicion.findings
    world.beat = 300.0
    world.run(10)
    assert not world.suspicion.findings
