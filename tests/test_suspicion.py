"""The suspicion: what counts against a sender and how much, who is named, for how long, and what is bounded."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from relayd.envelope import Recipient
from relayd.suspicion import Dismissal, Key, Settings, Suspicion, watch
from relayd.suspicion import habits as module
from relayd.suspicion.habits import LEADERS, RECIPIENTS, SHARED, SPOOFED, WINDOW, Habits, Usual
from relayd.suspicion.score import parts, total
from relayd.suspicion.texts import CUSTOMERS, LATELY, Texts

NOON = 1_796_126_400.0
DAY = 86400.0
CLIENT = ("crm", "shop", "login")
WORDS = " ".join(f"{a}{b}ing" for a in "bcdfghklmnprstvw" for b in "aeiou")


class Watched:
    """A suspicion that has been there for weeks; ``work`` are the texts that wait to be read."""

    def __init__(self, **settings: Any) -> None:
        self.work: list[Callable[[], None]] = []
        self.now = NOON
        self.made = self.opened(NOON - 30 * DAY, **settings)

    def opened(self, since: float, **more: Any) -> Suspicion:
        settings = {key: more.pop(key) for key in ("threshold", "calm", "rest") if key in more}
        return Suspicion(
            Settings(memory=1 << 16, **settings),
            since,
            submit=self.work.append,
            post=lambda call: call(),
            customer=lambda account: account.partition("-")[0],
            **more,
        )

    def sends(
        self, count: int, client: tuple[str, str, str] = CLIENT, froms: tuple[str, ...] = ("a@x.example",)
    ) -> None:
        for n in range(count):
            self.made.received(*client, froms, (Recipient(f"to{n}@x.example"),), 0, 0, self.now)

    def refused(self, count: int, client: tuple[str, str, str] = CLIENT) -> None:
        """Faulty ones, each with a message of the client's."""
        for _ in range(count):
            self.made.refused(client[0], client[2], faulty=True, now=self.now)
        self.made.received(*client, (), (), 0, count, self.now)

    def ticks(self, seconds: float = 10.0) -> Any:
        """What a tick brings after so long."""
        self.now += seconds
        return self.made.tick(self.now)

    def spams(self, client: tuple[str, str, str] = CLIENT) -> Any:
        self.sends(600, client)
        self.refused(300, client)
        return self.ticks()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def names(news: Any) -> list[str]:
    return [str(finding.key) for finding in news]


# The score.


def habits(**counts: float) -> Habits:
    made = Habits(NOON, Usual(NOON - 30 * DAY, recipients=40, links=5, senders=2, new=0.1, days=20))
    for name, value in counts.items():
        made.counts[getattr(module, name.upper())] = value
    return made


def score(made: Habits) -> dict[str, int]:
    return {part.name: round(part.points) for part in parts(made, judge_rise=True, judge_new=True)}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"recipients": 150}, {}),  # three times what nobody is asked about
        ({"recipients": 500}, {"volume": 40}),
        ({"recipients": 500, "asked": 500, "new": 100}, {"volume": 40}),  # a fifth of an imported list
        ({"asked": 100, "new": 95}, {"new": 30}),
        ({"asked": 20, "new": 20}, {}),  # a share of few says nothing
        ({"recipients": 70, "suppressed": 30}, {"suppressed": 25}),
        ({"recipients": 70, "faulty": 30}, {"faulty": 30}),
        ({"recipients": 98, "faulty": 2}, {}),
        ({"spoofed": 20}, {"spoofing": 25}),
        ({"spoofed": 2}, {}),
        ({"texts": 10, "shared": 9}, {"texts": 25}),
        ({"texts": 2, "shared": 2}, {}),
    ],
)
def test_what_counts_and_how_much(counts: dict[str, float], expected: dict[str, int]) -> None:
    assert score(habits(**counts)) == expected


def test_links_and_senders_count_against_what_is_usual() -> None:
    made = habits()
    made.links, made.senders = (1 << 180) - 1, (1 << 100) - 1
    assert score(made) == {"senders": 25, "links": 15}
    made.usual.links, made.usual.senders = 100, 50  # bits of a bitmap of 512 that are set, by 222 and 111
    assert score(made) == {}


def test_no_part_alone_makes_a_suspect_and_the_sum_ends_at_100() -> None:
    everything = {"recipients": 600.0, "asked": 600.0, "new": 600.0, "faulty": 600.0, "suppressed": 600.0}
    found = parts(habits(**everything, spoofed=60, texts=10, shared=10), judge_rise=True, judge_new=True)
    assert max(part.points for part in found) < Settings().threshold
    assert total(found) == 100


def test_every_part_is_told_with_its_numbers() -> None:
    found = parts(habits(recipients=1240, asked=100, new=85, spoofed=20), judge_rise=True, judge_new=True)
    assert [part.words for part in found] == [
        "1,240 recipients in 15 minutes, 40 is the most that is usual",
        "85% of the recipients were never written to before, 10% is usual",
        "20 times in 15 minutes it tried to send in another's name",
    ]


# Habits.


def test_counts_fade_and_the_days_most_becomes_usual_when_the_day_is_over() -> None:
    made = Habits(NOON)
    made.counts[RECIPIENTS] = 1000.0
    made.turn(NOON + WINDOW)
    assert 360 < made.counts[RECIPIENTS] < 375 and made.usual.recipients == 0
    made.turn(NOON + DAY)
    assert made.usual.recipients == 1000
    made.turn(NOON + 15 * DAY)
    assert 490 < made.usual.recipients < 520


def test_a_day_under_suspicion_teaches_nothing() -> None:
    made = Habits(NOON)
    made.counts[RECIPIENTS] = 1000.0
    made.suspected = True
    made.turn(NOON + DAY)
    assert made.usual.recipients == 0


def test_what_share_of_recipients_is_new_is_learnt_from_the_second_day_on() -> None:
    made = Habits(NOON)
    made.news(100, 100)
    made.turn(NOON + DAY)
    assert made.usual.days == 0
    made.news(100, 20)
    made.turn(NOON + 2 * DAY)
    assert (made.usual.days, made.usual.new) == (1, 0.2)


def test_a_clock_that_steps_back_changes_nothing() -> None:
    made = Habits(NOON)
    made.counts[RECIPIENTS] = 1000.0
    made.turn(NOON - DAY)
    assert made.counts[RECIPIENTS] == 1000.0


def test_leaders_are_few_and_the_greatest_is_among_them() -> None:
    made = Habits(NOON)
    for n in range(2000):
        made.lead("much" if n % 3 == 0 else f"little{n}", 1)
    assert len(made.leaders) <= LEADERS and max(made.leaders, key=lambda name: made.leaders[name]) == "much"


# Texts of several customers.


def test_a_text_is_shared_if_another_customer_has_sent_nearly_the_same_lately() -> None:
    texts = Texts()
    one, two = tuple(range(32)), (*range(1, 32), 99)
    assert not texts.shared(one, "a", NOON) and not texts.shared(one, "a", NOON)
    assert texts.shared(two, "b", NOON + 60) and texts.shared(one, "a", NOON + 61)
    assert not texts.shared(two, "b", NOON + 61 + LATELY)


def test_texts_and_their_customers_are_bounded() -> None:
    texts = Texts(10)
    for n in range(100):
        texts.shared(tuple(range(n * 100, n * 100 + 32)), "a", NOON)
        texts.shared(tuple(range(32)), f"customer{n}", NOON)  # one that everybody sends stays
    assert len(texts) == 10 and len(texts._index) <= 40
    assert max(map(len, texts._customers.values())) == CUSTOMERS


# Who is named.


def test_the_narrowest_is_named_once_with_its_connection(watched: Watched) -> None:
    news = watched.spams()
    assert names(news.kept) == names(news.tell) == ["client shop of account crm"]
    assert news.kept[0].leaders == ("login",)
    assert news.kept[0].words().startswith("client shop of account crm by connection login scores 70: ")
    assert watched.ticks().kept == ()


def test_many_clients_that_are_little_each_are_found_by_the_connection_they_come_by(watched: Watched) -> None:
    for n in range(100):
        watched.sends(6, ("crm", f"c{n}", "login"), (f"a@c{n}.example",))
    watched.refused(50)
    news = watched.ticks()
    assert names(news.kept) == ["connection login of account crm"]


def test_refusals_alone_name_the_connection_for_the_client_is_not_known(watched: Watched) -> None:
    for n in range(300):
        watched.made.refused("crm", "login", faulty=bool(n % 2), now=watched.now)
    for _ in range(30):
        watched.made.spoofed("crm", "", "login", watched.now)
    assert names(watched.ticks().kept) == ["connection login of account crm"]


def test_spoofing_counts_against_the_client_where_it_is_known(watched: Watched) -> None:
    watched.made.spoofed("crm", "shop", "login", watched.now)
    found = (*watched.made._clients.values(), *watched.made._others.values())
    assert [habits.counts[SPOOFED] for habits in found] == [1, 1, 1]


def test_a_relay_that_is_new_itself_calls_nothing_sudden(watched: Watched) -> None:
    watched.made = watched.opened(NOON)
    assert watched.spams().kept == ()


def test_a_client_under_suspicion_teaches_its_connection_and_account_nothing_either(watched: Watched) -> None:
    watched.sends(30)
    watched.ticks(DAY)
    assert names(watched.spams().kept) == ["client shop of account crm"]
    watched.ticks(DAY)
    watched.sends(1)
    usual = {key.kind: habits.usual.recipients for key, habits in watched.made._others.items()}
    assert 25 < usual["account"] < 31 and 25 < usual["connection"] < 31


# How long.


def test_a_finding_lasts_until_its_sender_was_calm_for_a_while(watched: Watched) -> None:
    watched.spams()
    assert watched.ticks(3 * 3600).over == ()
    assert next(iter(watched.made.findings.values())).score < 30
    watched.spams()
    assert watched.ticks(5 * 3600).over == ()  # it was not calm all the time
    assert names(watched.ticks(2 * 3600).over) == ["client shop of account crm"]


def test_the_customer_is_told_again_on_the_next_day_if_it_goes_on(watched: Watched) -> None:
    assert len(watched.spams().tell) == 1
    told = [len(watched.spams().tell) for _ in range(24) if watched.ticks(3590)]
    assert sum(told) == 1 and told[-1] == 1


def test_what_is_dismissed_is_over_and_is_not_found_until_the_time_is_up(watched: Watched) -> None:
    watched.spams()
    row = Dismissal("crm", "shop", "a sale", "anna", watched.now, watched.now + 1000)
    assert names(watched.made.dismiss(row)) == ["client shop of account crm"]
    assert names(watched.spams().kept) == []  # nor the connection that it comes by, nor its account
    watched.ticks(1000)
    assert "client shop of account crm" in names(watched.spams().kept)


def test_a_dismissed_account_is_let_off_with_all_behind_it_and_no_other_is(watched: Watched) -> None:
    watched.made.dismiss(Dismissal("crm", "", "known", "anna", watched.now, watched.now + 1000))
    assert watched.spams().kept == ()
    assert names(watched.spams(("other", "shop", "login")).kept) == ["client shop of account other"]


def test_what_an_operator_sees_of_an_account_is_its_own_worst_first(watched: Watched) -> None:
    watched.spams()
    watched.spams(("other", "shop", "login"))
    rows = watched.made.senders("crm", watched.now, 2)
    assert [str(key) for key, _, _ in rows] == ["account crm", "client shop of account crm"]
    assert rows[0][1] >= rows[1][1] >= 60


# Texts.


def test_texts_are_read_in_the_thread_few_of_each_client_and_few_at_once(watched: Watched) -> None:
    for n in range(100):
        watched.made.content("crm", "shop", "login", b"\r\n", b"x", watched.now + n * 0.01)
    assert len(watched.work) == 1
    for n in range(100):
        watched.made.content("crm", f"shop{n}", "login", b"\r\n", b"x", watched.now + 1 + n * 0.01)
    assert len(watched.work) == watch._READING


def test_after_a_long_text_others_wait_their_share_of_time(watched: Watched) -> None:
    watched.made.content("crm", "a", "login", b"\r\n", b"x" * 10**6, watched.now)
    watched.made.content("crm", "b", "login", b"\r\n", b"x", watched.now + 0.2)
    watched.made.content("crm", "c", "login", b"\r\n", b"x", watched.now + 0.3)
    assert len(watched.work) == 2


def test_a_text_that_cannot_be_read_stops_nothing_and_is_told(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(head: bytes, body: bytes) -> Any:
        raise RuntimeError("odd")

    monkeypatch.setattr(watch, "examine", broken)
    watched.made.content("crm", "a", "login", b"\r\n", b"x", watched.now)
    watched.work.pop()()
    assert "odd" in watched.made.fault and watched.made._reading == 0


def test_texts_of_one_customers_accounts_are_not_shared_with_another(watched: Watched) -> None:
    for n, account in enumerate(("big-1", "big-2", "small")):
        watched.made.content(account, "c", "login", b"\r\n", WORDS.encode(), watched.now + n)
        watched.work.pop()()
    shared = {key.account: h.counts[SHARED] for key, h in watched.made._clients.items()}
    assert shared == {"big-1": 0, "big-2": 0, "small": 1}


# Bounds, and the disk.


def test_clients_with_ever_new_names_push_out_no_account_and_no_more_are_kept(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SENDERS", 50)
    watched.sends(1, ("other", "c", "l"))
    for n in range(500):
        watched.sends(1, ("crm", f"c{n}", "login"))
    assert len(watched.made._clients) == 50
    assert Key("other", "account", "") in watched.made._others


def test_a_message_to_many_is_looked_up_by_a_sample(watched: Watched) -> None:
    asked: list[str] = []
    watched.made._known = SimpleNamespace(seen=lambda account, address: bool(asked.append(address)))  # type: ignore[assignment]
    to = tuple(Recipient(f"a{n}@x.example") for n in range(10_000))
    watched.made.received(*CLIENT, (), to, 0, 0, watched.now)
    watched.ticks()
    assert 40 <= len(asked) <= 60
    assert watched.made._clients[Key("crm", "client", "shop")].counts[RECIPIENTS] == 10_000


def test_a_recipient_that_is_looked_up_once_is_looked_up_always_whatever_its_case(watched: Watched) -> None:
    asked: list[str] = []
    watched.made._known = SimpleNamespace(seen=lambda account, address: bool(asked.append(address.lower())))  # type: ignore[assignment]
    for n in range(100):
        watched.made.received(*CLIENT, (), (Recipient(f"a{n}@x.example"),), 0, 0, watched.now)
    watched.ticks()
    first, asked[:] = asked[:], []
    for n in range(100):
        watched.made.received(*CLIENT, (), (Recipient(f"A{n}@X.example"),), 0, 0, watched.now)
    watched.ticks()
    assert asked == first and 10 < len(asked) < 40


def test_what_came_is_counted_for_the_time_when_it_came(watched: Watched) -> None:
    watched.sends(500)
    watched.ticks(WINDOW)
    assert 180 < watched.made._clients[Key("crm", "client", "shop")].counts[RECIPIENTS] < 190


def test_habits_outlive_a_restart_and_findings_and_dismissals_are_taken_up(watched: Watched, tmp_path: Any) -> None:
    watched.sends(500, ("other", "c", "l"))
    watched.ticks(DAY)
    watched.sends(1, ("other", "c", "l"))
    watched.spams()
    watched.made.save(tmp_path / "suspicion")()
    findings = list(watched.made.findings.values())
    again = watched.opened(watched.now, findings=findings)
    assert again.load(tmp_path / "suspicion", watched.now) == ""
    assert again._clients[Key("other", "client", "c")].usual.recipients == 500
    assert again._clients[Key("crm", "client", "shop")].suspected and again._born == watched.made._born
    watched.made = again
    assert names(watched.ticks(7 * 3600).over) == ["client shop of account crm"]


def test_without_files_all_is_learnt_anew_and_damaged_ones_are_told(watched: Watched, tmp_path: Any) -> None:
    assert watched.made.load(tmp_path / "none", NOON) == ""
    watched.made.save(tmp_path)()
    (tmp_path / "habits").write_bytes(b"\x93")
    assert "learnt anew" in watched.made.load(tmp_path, NOON)
    watched.made.save(tmp_path)()
    (tmp_path / "recipients").write_bytes(b"1 1\n")
    assert "recipients" in watched.made.load(tmp_path, NOON)
