"""Reputation: who is found, who is not, and what becomes of them."""

from concurrent.futures import Future
from math import inf

import msgspec
import pytest

from relayd.envelope import Recipient
from relayd.reputation import BY, Key, Reputation, Rules, Standing, Turn, Who, bearing, read
from relayd.reputation.reputation import PACE, SAVE
from relayd.reputation.rules import DEFAULTS, parse_rule
from relayd.reputation.standing import judged
from relayd.shaping.limits import Rate

DAY = 86400.0
NOW = 19_000 * DAY + 12 * 3600.0
WHO: Who = ("t1", "gmail", "crm", "shop.example", "login1", "news@shop.example")
ACCOUNT, CLIENT, LOGIN = ("account", "crm"), ("client", "crm/shop.example"), ("connection", "login1")
DOMAIN, SOURCE = ("domain", "shop.example"), ("source", "t1/gmail")


class Disk:
    """What is kept, and the turns that were told; writes are done when the test says so if they are ``held``."""

    def __init__(self) -> None:
        self.rows: dict[Key, bytes] = {}
        self.turns: list[Turn] = []
        self.writes: list[int] = []
        self.held: list[Future[None]] | None = None

    def keep(self, rows: list[Standing], gone: list[Key]) -> "Future[None]":
        self.writes.append(len(rows))
        for key in gone:
            self.rows.pop(key, None)
        self.rows |= {at.key: msgspec.json.encode(at) for at in rows}
        done: Future[None] = Future()
        if self.held is None:
            done.set_result(None)
        else:
            self.held.append(done)
        return done

    def start(self, rules: Rules | None = None, most: int = 50_000) -> Reputation:
        """As after a restart."""
        stored = [msgspec.json.decode(row, type=Standing) for row in self.rows.values()]
        made = Reputation(stored, self.keep, lambda account: (account,), most)
        made.configure(rules or Rules())
        made.changed = self.turns.append
        return made


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def reputation(disk: Disk) -> Reputation:
    return disk.start()


def send(reputation: Reputation, now: float, good: int, bad: int = 0, what: str = "unknown", who: Who = WHO) -> None:
    reputation.event(who, "received", now, good + bad)
    reputation.event(who, "delivered", now, good)
    if bad:
        reputation.event(who, what, now, bad)  # type: ignore[arg-type]
    reputation.tick(now)


def at(reputation: Reputation, key: Key, now: float = NOW) -> Standing:
    shown = reputation.show(key, now)
    assert shown
    return shown[0]


def record(reputation: Reputation, days: int, good: int, bad: int, who: Who = WHO) -> None:
    """So many days before NOW on which all was as usual."""
    for day in range(days, 0, -1):
        send(reputation, NOW - day * DAY, good, bad, who=who)


# What a refusal counts as.


@pytest.mark.parametrize(
    ("cls", "permanent", "blame", "counts"),
    [
        ("recipient_unknown", True, "", "unknown"),
        ("mailbox_disabled", True, "", "unknown"),
        ("recipient_unknown", False, "", "deferred"),
        ("mailbox_full", True, "", "failed"),
        ("content_spam", False, "", "spam"),
        ("ip_blocked", True, "ip", "blocked"),
        ("reputation", False, "", "blocked"),
        ("reputation", True, "sender", "spam"),
        ("greylist", False, "", None),
        ("", False, "", "deferred"),
        ("", True, "", "failed"),
    ],
)
def test_a_refusal_counts_by_its_class_and_whom_it_is_to_blame_on(cls, permanent, blame, counts):
    assert bearing(cls, permanent, blame) == counts


# Steps.


def test_what_nobody_minds_slows_nobody(reputation, disk):
    for minute in range(600):
        send(reputation, NOW + 60 * minute, 100, 2)
    assert not disk.turns and reputation.share(*ACCOUNT) == 1.0 and not reputation.held(WHO)


def test_too_many_unknown_recipients_slow_all_who_are_behind_them_with_the_reason_in_words(reputation, disk):
    send(reputation, NOW, 259, 41)
    why = "41 of 300 recipients of the last hour do not exist (14 %; 8 % allowed)"
    assert {turn.key: (turn.step, turn.acts) for turn in disk.turns} == {
        ACCOUNT: ("slow", "slow"),
        CLIENT: ("slow", "slow"),
        LOGIN: ("slow", "slow"),
        DOMAIN: ("slow", "good"),
    }
    assert {turn.why for turn in disk.turns} == {why}
    assert disk.turns[-1].words == f"domain:shop.example is slowed (only reported: good is as far as it goes): {why}"


def test_a_share_that_chance_explains_slows_nobody(reputation, disk):
    send(reputation, NOW, 91, 9)
    assert not disk.turns


def test_fewer_than_the_volume_are_no_share(reputation, disk):
    send(reputation, NOW, 0, 99)
    assert not disk.turns
    send(reputation, NOW, 0, 1)
    assert disk.turns


def test_a_trickle_is_judged_by_its_day(reputation, disk):
    for hour in range(20):
        send(reputation, NOW + 3600 * hour, 14, 6)
    assert disk.turns[0].why.endswith("of the last day do not exist (30 %; 15 % allowed)")


def test_who_is_new_and_extreme_is_blocked_at_once_and_only_as_far_as_its_kind_goes(reputation, disk):
    send(reputation, NOW, 40, 160)
    assert {turn.key: (turn.step, turn.acts) for turn in disk.turns} == {
        ACCOUNT: ("block", "slow"),
        CLIENT: ("block", "hold"),
        LOGIN: ("block", "block"),
        DOMAIN: ("block", "good"),
    }
    assert reputation.blocked(WHO).startswith("connection:login1 is blocked by reputation: 160 of 200 recipients")
    assert reputation.held(WHO).startswith("client:crm/shop.example is held for review")
    assert not reputation.blocked(("", "", "crm", "other.example", "login2", "a@other.example"))


def test_steps_are_an_hour_apart_and_each_needs_what_came_since_the_last(reputation, disk):
    send(reputation, NOW, 70, 30)
    assert at(reputation, CLIENT).step == 1
    send(reputation, NOW + 600, 70, 30)
    assert at(reputation, CLIENT).step == 1, "within the hour"
    reputation.tick(NOW + PACE)
    assert at(reputation, CLIENT).step == 1, "nothing bad came now"
    send(reputation, NOW + PACE + 1, 70, 30)
    assert at(reputation, CLIENT).step == 2


def test_a_source_that_a_provider_blocks_says_nothing_of_the_accounts_that_send_by_it(reputation, disk):
    send(reputation, NOW, 300, 300, "blocked")
    assert [(turn.key, turn.acts) for turn in disk.turns] == [(SOURCE, "slow")]
    assert reputation.of_source("t1", "gmail") == 0.25 and reputation.of_source("t1", "yahoo") == 1.0


@pytest.mark.parametrize(("what", "bad"), [("spam", 30), ("complaint", 10), ("suppressed", 150), ("trap", 4)])
def test_each_signal_has_its_share(reputation, disk, what, bad):
    send(reputation, NOW, 300, bad, what)
    assert CLIENT in {turn.key for turn in disk.turns}


def test_what_a_trap_gets_counts_whatever_its_case(reputation, disk):
    reputation.traps = frozenset({"old.box@provider.example"})
    reputation.received(WHO, [Recipient("a@x.example"), Recipient("Old.Box@Provider.Example")], NOW)
    assert reputation.show(CLIENT, NOW)[1]["hour"] == {"received": 2, "trap": 1, "shares": {"trap": 0.5}}


# A good record.


def test_one_bad_hour_slows_a_good_record_at_most(reputation, disk):
    record(reputation, 20, 9_900, 100)
    for minute in range(60):
        send(reputation, NOW + 60 * minute, 15, 15)
    assert {turn.acts for turn in disk.turns} <= {"good", "slow"}
    assert "with its record" in disk.turns[0].why


def test_a_good_record_lends_evidence(disk):
    send(disk.start(), NOW, 270, 60)
    assert disk.turns
    disk.turns.clear()
    known = disk.start()
    record(known, 20, 9_900, 100)
    send(known, NOW, 270, 60)
    assert not disk.turns


def test_the_bad_day_itself_lends_nothing(reputation, disk):
    send(reputation, NOW, 5_000)
    send(reputation, NOW + 2 * 3600, 140, 160)
    assert disk.turns[0].step == "block"


@pytest.mark.parametrize(("bad", "lends"), [(10, True), (70, True), (90, False)])
def test_a_record_lends_only_if_it_is_good(bad, lends):
    counts = [259, 0, 41, *[0] * 8]
    past = Standing("client", "crm/a", past=[1000 - bad, 0, bad, *[0] * 8])
    found = judged(past, DEFAULTS["client"], counts, counts)
    assert found and ("with its record" in found.words) == found.known == lends


def test_the_past_fades():
    standing = Standing("client", "crm/a")
    standing.count([(0, 1000)], NOW)
    standing.count([(0, 1)], NOW + DAY)
    assert standing.past[0] == 950
    standing.count([(0, 1)], NOW + 15 * DAY)
    assert 460 < standing.past[0] < 475 and standing.today[0] == 1


# Release.


def test_a_step_is_kept_while_there_is_any_sign_and_goes_back_after_a_clean_time(reputation, disk):
    send(reputation, NOW, 80, 40)
    assert reputation.share(*CLIENT) == 0.25
    for minute in range(0, 120, 10):
        send(reputation, NOW + 60 * minute, 40, 8)
    assert reputation.share(*CLIENT) == 0.25
    quiet = at(reputation, CLIENT).seen
    reputation.tick(quiet + 7199)
    assert reputation.share(*CLIENT) == 0.25
    reputation.tick(quiet + 7200)
    assert reputation.share(*CLIENT) == 1.0
    assert at(reputation, CLIENT).why.startswith("clean for 2h; before: 40 of 120")


def test_a_hold_goes_back_by_steps_and_a_block_stays(reputation, disk):
    send(reputation, NOW, 40, 160)
    reputation.tick(NOW + 30 * DAY)
    assert at(reputation, LOGIN).step == 3
    easing = disk.start(Rules(block_for=DAY))
    steps = []
    for hour in range(80):
        easing.tick(NOW + 3600 * hour)
        steps.append(at(easing, LOGIN).step)
    assert [steps.index(step) for step in (3, 2, 1, 0)] == [0, 24, 48, 50]


def test_who_is_released_is_judged_by_what_comes_from_then_on(reputation, disk):
    send(reputation, NOW, 40, 160)
    reputation.put(LOGIN, "good", "the list was cleaned", "ops", NOW + 60)
    assert not reputation.blocked(WHO)
    disk.turns.clear()
    for minute in range(2, 60):
        send(reputation, NOW + 60 * minute, 99, 1)
    assert LOGIN not in {turn.key for turn in disk.turns}
    assert reputation.show(LOGIN, NOW + 3000)[1]["hour"]["unknown"] > 160, "what was counted stays to be seen"


def test_what_an_operator_decides_holds_whatever_is_counted_until_he_or_its_time_releases(reputation, disk):
    reputation.put(ACCOUNT, "hold", "looks like phishing", "ops", NOW, NOW + 4 * 3600)
    assert reputation.account_held("crm") == "account:crm is held for review by ops: looks like phishing"
    assert reputation.share(*ACCOUNT) == 0.0 and not reputation.paces(WHO)
    send(reputation, NOW + 60, 0, 1000)
    assert at(reputation, ACCOUNT).step == 2
    reputation.tick(NOW + 4 * 3600)
    assert not reputation.account_held("crm")
    reputation.put(DOMAIN, "block", "phishing", "ops", NOW)
    reputation.tick(NOW + 365 * DAY)
    assert "phishing" in reputation.blocked(("", "", "any", "", "", "x@shop.example"))


# What being slowed means.


def test_who_is_slowed_keeps_a_share_of_its_last_hour_in_and_out(reputation, disk):
    send(reputation, NOW, 8_000, 2_000)
    assert dict(reputation.paces(WHO))["client:crm/shop.example"] == Rate(2500, 3600.0, 208)
    (layer,) = reputation.layers("crm")
    assert layer.account.rate == Rate(2500, 3600.0) and layer.name == "reputation of account crm"
    assert not reputation.layers("other")
    send(reputation, NOW, 80, 40, who=("", "", "small", "", "", ""))
    assert reputation.paces(("", "", "small", "", "", ""))[0][1].count == 60


# Modes and reloads.


def test_a_relay_that_only_reports_judges_and_holds_nobody(disk):
    reputation = disk.start(Rules(mode="report"))
    send(reputation, NOW, 40, 160)
    assert {turn.acts for turn in disk.turns} == {"good"} and disk.turns[0].step == "block"
    assert not reputation.blocked(WHO) and not reputation.held(WHO) and not reputation.paces(WHO)
    reputation.configure(Rules())
    assert reputation.blocked(WHO)
    reputation.configure(Rules(mode="report"))
    assert not reputation.blocked(WHO)


def test_a_relay_that_is_off_counts_nothing(disk):
    reputation = disk.start(Rules(mode="off"))
    send(reputation, NOW, 0, 1000)
    assert len(reputation) == 0


# Restarts and the disk.


def test_a_restart_forgives_nobody_and_forgets_no_record(disk):
    reputation = disk.start()
    record(reputation, 3, 900, 10)
    send(reputation, NOW, 40, 400)
    before = {key: msgspec.structs.astuple(at(reputation, key)) for key in (ACCOUNT, CLIENT, LOGIN, DOMAIN)}
    assert reputation.stop().done()
    again = disk.start()
    assert {key: msgspec.structs.astuple(at(again, key)) for key in before} == before
    assert again.held(WHO) == reputation.held(WHO) and again.paces(WHO) == reputation.paces(WHO)


def test_turns_are_written_at_once_and_counts_within_seconds_in_one_write(reputation, disk):
    send(reputation, NOW, 100)
    disk.writes.clear()
    send(reputation, NOW + 1, 100)
    assert not disk.writes
    send(reputation, NOW + 2, 0, 300)
    assert disk.writes == [4]
    send(reputation, NOW + SAVE, 100)
    assert len(disk.writes) == 2


def test_one_write_at_a_time_and_one_that_fails_is_tried_again(reputation, disk):
    disk.held = []
    send(reputation, NOW, 100)
    send(reputation, NOW + SAVE, 100)
    assert len(disk.held) == 1
    disk.held[0].set_exception(OSError("disk I/O error"))
    assert reputation.fault == "reputation cannot be written: disk I/O error"
    reputation.tick(NOW + 2 * SAVE)
    disk.held[1].set_result(None)
    assert not reputation.fault and disk.writes[1] == 5


def test_subjects_are_bounded_and_who_is_held_back_is_never_forgotten(disk):
    reputation = disk.start(most=100)
    send(reputation, NOW, 40, 160)
    for n in range(1000):
        send(reputation, NOW + n, 1, who=("", "", f"a{n}", f"c{n}", f"l{n}", f"x@d{n}.example"))
    assert len(reputation) == 100 and reputation.blocked(WHO)
    reputation.tick(NOW + 2000)
    reputation.stop()
    assert len(disk.rows) <= 100 and LOGIN in disk.rows


def test_where_everybody_is_held_nobody_new_is_counted(disk):
    reputation = disk.start(most=4)
    for n in range(4):
        reputation.put(("domain", f"d{n}.example"), "block", "phishing", "ops", NOW)
    send(reputation, NOW, 100)
    assert len(reputation) == 4
    with pytest.raises(ValueError, match="release one"):
        reputation.put(("domain", "d9.example"), "block", "phishing", "ops", NOW)


def test_an_account_answers_for_those_below_it_and_is_no_client_of_its_own(disk):
    reputation = Reputation((), disk.keep, lambda account: ("sub", "crm") if account == "sub" else (account,))
    reputation.configure(Rules())
    send(reputation, NOW, 10, who=("", "", "sub", "sub", "login", ""))
    assert {at.key for at in reputation.all()} == {("account", "sub"), ("account", "crm"), ("connection", "login")}
    reputation.put(ACCOUNT, "hold", "review", "ops", NOW)
    assert reputation.account_held("sub") and not reputation.account_held("other")


def test_a_clock_that_is_set_back_loses_nothing_and_releases_nobody(reputation, disk):
    send(reputation, NOW, 40, 160)
    send(reputation, NOW - 10 * DAY, 100)
    assert reputation.blocked(WHO)
    assert reputation.show(LOGIN, NOW - 10 * DAY)[1]["hour"]["delivered"] == 140


def test_rows_of_before_a_counter_was_added_are_read(disk):
    old = msgspec.json.decode(b'{"kind":"account","name":"crm","today":[1],"past":[2,3]}', type=Standing)
    assert old.today[0] == 1 and len(old.today) == len(old.past) == len(Standing("a", "b").today)


# Names and tables.


@pytest.mark.parametrize("text", ["account:crm", "client:crm/shop.example", "source:t1/gmail", "domain:a.example"])
def test_a_subject_is_read_as_it_is_shown(text):
    assert ":".join(read(text)) == text


@pytest.mark.parametrize("text", ["crm", "account:", "client:crm", "client:/x", "acount:crm", ""])
def test_what_is_no_subject_is_refused_with_what_to_write(text):
    with pytest.raises(ValueError, match="client:ACCOUNT/CLIENT"):
        read(text)


def test_a_table_says_what_differs_from_the_defaults():
    rule = parse_rule("account")({"act": "hold", "volume": 500, "unknown": [0.1], "spam": []})
    assert (rule.act, rule.volume, rule.unknown, rule.spam) == ("hold", 500, (0.1,), ())
    assert rule.complaint == DEFAULTS["account"].complaint and Rules().block_for == inf


@pytest.mark.parametrize(
    ("kind", "table", "words"),
    [
        ("account", 5, "is no table"),
        ("account", {"unknow": [0.1]}, 'did you mean "unknown"'),
        ("account", {"unknown": [0.3, 0.1]}, "rising"),
        ("account", {"unknown": [0.1, 0.2, 0.3, 0.4]}, "slow, hold and block"),
        ("account", {"unknown": ["8 %"]}, "above 0 and up to 1"),
        ("account", {"unknown": 0.1}, "or \\[\\] for none"),
        ("account", {"unknown": [True]}, "above 0"),
        ("account", {"act": "stop"}, "none of report, slow, hold, block"),
        ("account", {"volume": 0}, "volume: 0 is not a whole number"),
        ("source", {"act": "hold"}, "none of report, slow"),
        ("source", {"blocked": [0.1, 0.2]}, "from which it is slowed"),
    ],
)
def test_a_faulty_table_is_refused_with_its_key(kind, table, words):
    with pytest.raises(ValueError, match=words):
        parse_rule(kind)(table)


def test_who_takes_a_step_is_told(reputation, disk):
    send(reputation, NOW, 40, 160)
    reputation.put(LOGIN, "good", "cleaned", "ops", NOW)
    assert disk.turns[0].by == BY
    assert disk.turns[-1] == Turn(LOGIN, "block", "good", "good", "cleaned", "ops")


def test_many_who_have_something_bad_at_once_are_judged_in_turns_and_none_is_missed(reputation, disk):
    for n in range(1000):
        reputation.event(("", "", f"a{n}", "", "", ""), "delivered", NOW, 100)
        reputation.event(("", "", f"a{n}", "", "", ""), "unknown", NOW, 100)
    reputation.tick(NOW)
    assert len(disk.turns) == 300
    for second in range(1, 4):
        reputation.tick(NOW + second)
    assert len({turn.key for turn in disk.turns}) == 1000
