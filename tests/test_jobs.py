"""Jobs in a whole relay: a real spool, real threads, a scripted mail server, and time that is moved by hand."""

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.control.queue import shown
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.delivery import jobs as room
from relayd.envelope import Delivery
from relayd.errors import InputError
from relayd.identity import show
from relayd.spool import actions
from relayd.spool.selection import Page
from tests.harness import HANG, START, Host, Server
from tests.spool_kit import Mail
from tests.test_service import CONFIG, Running

TABLES = """
[source.s2]
address = "127.0.0.12"
ehlo = "s2.relay.example"
[pool.default]
sources = { s1 = 1 }
[pool.spare]
sources = { s2 = 1 }
[fallback.big]
via = "203.0.113.9:25"
[queue]
recycle = "1h"
[retry]
schedule = ["5m"]
expire = "2h"
"""


class Desk(Running):
    """A relay at whose queue somebody acts."""

    def __init__(self, directory: Path) -> None:
        path = directory / "relayd.toml"
        if not path.exists():
            path.write_text(CONFIG + TABLES)
        super().__init__(directory)
        self.big = self.reactor.hosts["203.0.113.9"] = Host()
        self.mail = Mail(START)
        self.mail._ids = self.node.courier.outcomes.identities
        self.pause = 0.002

    def put(self, *domains: str, later: float = 0.0, to_scheduler: bool = True, **more: Any) -> list[Delivery]:
        """Receives a message."""
        self.mail.now = self.reactor.rightNow
        made = self.mail.reception(*domains, stream="bulk", due=self.mail.now + later, **more)
        done: list[Any] = []
        self.node.spool.receive(made, done.append)
        self.reactor.until(lambda: done)
        if to_scheduler:
            self.node.courier.received(made.deliveries)
        self.reactor.pump()
        return list(made.deliveries)

    def fill(self, many: int, domain: str = "x.example", later: float = 0.0) -> None:
        for _ in range(many // 50):
            self.put(*[domain] * 50, later=later, to_scheduler=False)

    def say(self, verb: str, **given: Any) -> Any:
        """The answer of a verb, which somebody called anna asks."""
        row = BY_PATH["/v1/" + verb.replace(" ", "/")]
        if row.effect == "change" and "reason" in [arg.name for arg in row.args]:
            given.setdefault("reason", "because")
        answer = run(row, self.node.operations, given, "anna")
        if hasattr(answer, "result"):
            self.reactor.until(answer.done)
            return answer.result()
        found = self.asked(answer)
        if isinstance(found, Failure):
            found.raiseException()
        return found

    def ended(self, job: int) -> Any:
        """The job at its end."""
        for _ in range(2000):
            found = self.say("job show", id=job)
            if found["state"] != "running":
                return found
            written: list[Any] = []  # the disk, which knows nothing of this time, has had its turn
            self.node.spool.change(lambda connection: True, written.append)
            self.reactor.until(lambda written=written: written)
            self.reactor.wait(0.1)
        raise AssertionError("the job does not end")

    def interrupted(self, verb: str, **given: Any) -> Any:
        """A job that has done something, and has not ended."""
        patience, room.PATIENCE = room.PATIENCE, 0.0
        job = self.say(verb, **given)
        room.PATIENCE, self.pause = patience, 0.0
        while True:
            found = self.say("job show", id=job["job"])
            assert found["state"] == "running"
            if found["done"]:
                return found
            self.reactor.wait(0.002)

    def asked(self, answer: Any) -> Any:
        """The answer; jobs pause between their steps, so time goes on where threads have nothing to say."""
        found: list[Any] = []
        Deferred.fromCoroutine(answer).addBoth(found.append)
        for _ in range(20_000):
            if found:
                return found[0]
            try:
                self.reactor._one(0.002)
            except Empty:
                self.reactor.wait(self.pause)
        raise AssertionError("it is not answered")

    def act(self, verb: str, **given: Any) -> Any:
        return self.ended(self.say(verb, **given)["job"])

    def rows(self, **given: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.say("queue deliveries", limit=1000, **given)["deliveries"]
        return found

    def audited(self) -> None:
        found = self.asked(self.node.operations.audit())
        assert found["odd"] == [], "\n".join(found["odd"])

    def queued(self) -> int:
        return sum(day["queued"] for day in self.asked(self.node.operations.audit())["days"])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    made = Desk(tmp_path)
    yield made
    if not made.node.health.stopping:
        made.stop()
    sys.setswitchinterval(interval)


def started_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    desk.stop()
    return Desk(desk.path.parent)


def refuse_all(desk: Desk) -> None:
    desk.mx.says["RCPT"] = "451 4.7.1 Greylisted, try later"


def test_what_is_held_does_not_go_and_does_not_expire_and_goes_when_it_is_released(desk: Desk) -> None:
    (delivery,) = desk.put("x.example", later=60)
    job = desk.act("queue hold", account="crm")
    assert (job["state"], job["done"], job["under_way"], job["who"]) == ("done", 1, 0, "anna")
    desk.reactor.wait(3 * 3600)  # more than its life
    assert desk.mx.got == []
    inspected = desk.say("inspect", id=show(delivery.id))
    assert inspected["message"]["headers"] == ["Subject: hello"]
    told = inspected["deliveries"][0]
    assert (told["queue"], told["due"]) == ("crm/bulk/x.example", None)
    assert told["why"] == f"it is held by anna: because (job {job['job']}); relayctl queue release lets it go"
    assert "held by anna" in desk.say("why", what=show(delivery.id))[0]["why"]
    assert desk.say("queue list")[0]["why"].startswith("all of it is held")
    assert desk.act("queue release", id=[show(delivery.id)])["done"] == 1
    desk.later(1, lambda: desk.mx.got)
    desk.later(0, lambda: not desk.rows())
    desk.audited()


def test_what_is_ready_is_taken_back_and_what_is_under_way_is_left_to_end(desk: Desk) -> None:
    desk.mx.says["RCPT"] = HANG
    (going,) = desk.put("x.example")
    desk.reactor.until(lambda: desk.node.courier.carrying(going.id) and desk.mx.seen[0]._stuck)
    desk.mx.open = 1
    waiting = [desk.put("x.example")[0] for _ in range(3)]
    dry = desk.say("queue hold", all=True, dry_run=True)
    assert (dry["deliveries"], dry["under_way"]) == (3, 1)
    job = desk.act("queue hold", all=True)
    assert (job["done"], job["under_way"]) == (3, 1)
    desk.mx.says.pop("RCPT")
    desk.mx.open = 1000
    for server in desk.mx.seen:
        if server._stuck:
            server.wake()
    desk.later(1, lambda: len(desk.mx.got) == 1)
    desk.reactor.wait(900)
    assert len(desk.mx.got) == 1
    assert [row["id"] for row in desk.rows(state="held")] == [show(d.id) for d in waiting]
    desk.act("queue release", all=True)
    desk.later(1, lambda: len(desk.mx.got) == 4)
    desk.later(0, lambda: not desk.rows())
    assert desk.node.scheduler.memory.loaded == 0
    desk.audited()


def test_a_retry_goes_at_once_also_where_the_path_rests(desk: Desk) -> None:
    refuse_all(desk)
    desk.put("x.example")
    desk.later(0, lambda: desk.rows() and desk.rows()[0]["attempts"] == 1)
    desk.mx.says.clear()
    assert desk.act("queue retry", reply="greylisted")["done"] == 1
    desk.later(1, lambda: len(desk.mx.got) == 1)
    desk.mx.open = 0
    for server in list(desk.mx.sessions):
        server.transport.loseConnection()
    desk.reactor.wait(6)
    desk.put("x.example")
    desk.reactor.pump()
    later = desk.put("x.example")
    desk.reactor.wait(10)
    assert "rests" in desk.say("queue list")[0]["why"]
    desk.mx.open = 1000
    job = desk.act("queue retry", domain="x.example")
    assert job["done"] + job["due_already"] == 2
    desk.later(0, lambda: len(desk.mx.got) == 3)
    assert later


def test_moved_mail_goes_by_the_other_pool_also_at_its_next_try(desk: Desk) -> None:
    refuse_all(desk)
    desk.put("x.example")
    desk.later(0, lambda: desk.rows() and desk.rows()[0]["attempts"] == 1)
    with pytest.raises(InputError, match='did you mean "spare"'):
        desk.say("queue move", all=True, pool="spair")
    assert desk.act("queue move", domain="x.example", pool="spare")["done"] == 1
    assert desk.say("queue summary", by="pool")[1]["pool"] == "spare"
    desk.later(310, lambda: desk.rows()[0]["attempts"] == 2)
    assert (desk.rows()[0]["pool"], desk.reactor.dialled[-1][1]) == ("spare", "127.0.0.12")
    desk.mx.says.clear()
    desk.later(320, lambda: desk.mx.got)
    assert desk.reactor.dialled[-1][1] == "127.0.0.12"
    desk.later(0, lambda: not desk.rows())
    desk.audited()


def test_what_is_overdue_and_moved_or_restored_goes_at_once(desk: Desk) -> None:
    desk.mx.open = 0
    desk.put("x.example")
    desk.later(0, lambda: desk.rows()[0]["attempts"] == 1)
    desk.fill(50)
    desk.later(1, lambda: "rests" in desk.say("queue list")[0]["why"])
    desk.put("z.example", to_scheduler=False)
    desk.later(1, lambda: "crm/bulk/z.example" in desk.node.scheduler.queues)  # the walk is past all these
    job = desk.act("queue cancel", all=True)
    undone = desk.ended(desk.say("job undo", id=job["job"])["job"])
    assert job["done"] == undone["done"] == 52
    began = desk.reactor.rightNow
    assert desk.act("queue move", all=True, fallback="big")["done"] == 52
    desk.later(0, lambda: len(desk.big.got) == 51)
    assert desk.reactor.rightNow - began < 10
    desk.audited()


def test_a_move_to_a_fallback_holds_for_later_tries_and_home_takes_it_back(desk: Desk) -> None:
    desk.big.says["RCPT"] = "451 4.2.0 later"
    desk.put("x.example", later=60)
    job = desk.act("queue move", all=True, fallback="big")
    desk.later(61, lambda: desk.rows()[0]["attempts"] == 1)
    assert (desk.rows()[0]["domain"], desk.mx.seen) == ("fallback:big", [])
    assert desk.say("job undo", id=job["job"])["done"] == 0  # it was tried since
    assert desk.act("queue move", domain="fallback:big", home=True)["done"] == 1
    desk.later(320, lambda: desk.mx.got)


def test_a_cancelled_delivery_has_left_and_comes_back_as_it_was(desk: Desk) -> None:
    (first, second) = desk.put("x.example", "y.example", later=60)
    job = desk.act("queue cancel", recipient="*@x.example")
    assert (job["done"], job["undo_until"]) == (1, job["ended"] + 3600)
    assert [row["id"] for row in desk.rows()] == [show(second.id)]
    told = desk.say("inspect", id=show(first.id))["deliveries"]
    assert [row["state"] for row in told] == ["cancelled", "queued"]
    assert "cancelled by anna: because" in told[0]["why"]
    desk.audited()
    undone = desk.say("job undo", id=job["job"])
    assert (undone["done"], undone["undoes"]) == (1, job["job"])
    desk.audited()
    desk.later(60, lambda: len(desk.mx.got) == 2)
    desk.later(0, lambda: not desk.rows())
    desk.audited()
    trail = desk.say("change list", limit=10)
    assert ("anna", "queue cancel", "done", 1) in [
        (c["who"], c["verb"], c["result"], c["arguments"].get("done")) for c in trail
    ]
    with pytest.raises(InputError, match="do again what that did"):
        desk.say("job undo", id=undone["job"])


def test_what_was_cancelled_is_dropped_with_its_body_when_its_time_is_over(desk: Desk) -> None:
    desk.put("x.example", later=60)
    job = desk.act("queue cancel", all=True)
    desk.reactor.wait(3700)
    contents: list[Any] = []

    def gone() -> bool:
        contents.clear()
        desk.node.spool.read(lambda c: c.execute("SELECT count(*) FROM message").fetchone()[0], contents.append)
        desk.reactor.until(lambda: contents)
        return bool(contents == [0])

    desk.later(0, gone)
    with pytest.raises(InputError, match="can be undone no more"):
        desk.say("job undo", id=job["job"])
    desk.audited()


def test_senders_are_told_of_a_cancel_only_if_that_is_asked_for(desk: Desk) -> None:
    desk.put("x.example", later=60)
    desk.act("queue cancel", all=True)
    desk.reactor.wait(5)
    assert desk.mx.got == []
    desk.put("x.example", later=60)
    assert desk.act("queue cancel", all=True, notify=True)["done"] == 1
    desk.later(1, lambda: desk.mx.got)
    sender, recipient, content = desk.mx.got[0]
    assert (sender, recipient) == ("", "a@sender.example")
    assert b"operator has cancelled it" in content
    desk.later(0, lambda: not desk.rows())
    desk.audited()


def test_a_dry_run_says_exactly_what_would_be_done_and_does_nothing(desk: Desk) -> None:
    desk.fill(150, "x.example", later=60)
    desk.fill(50, "y.example", later=60)
    before = desk.rows()
    dry = desk.say("queue cancel", recipient="*@x.example", dry_run=True)
    assert (dry["deliveries"], dry["in_queues"], len(dry["sample"])) == (150, 1, 10)
    assert dry["queues"] == [{"queue": "crm/bulk/x.example", "deliveries": 150}]
    assert desk.rows() == before
    assert desk.say("job list") == []
    assert desk.act("queue cancel", recipient="*@x.example")["done"] == 150


@pytest.mark.parametrize("action", ["hold", "cancel", "retry"])
def test_an_attempt_that_ended_between_the_look_and_the_change_keeps_nobody_from_it(
    desk: Desk, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = desk.put("x.example", "x.example", later=60)
    read, looks = room.by_ids, []

    def behind(*given: Any, **more: Any) -> Page:
        """The first look sees one of them as it was an attempt ago."""
        page = read(*given, **more)
        looks.append(page)
        if len(looks) > 1:
            return page
        return Page(
            [r if r.id == first.id else replace(r, attempts=r.attempts + 1) for r in page.found], page.seen, None
        )

    monkeypatch.setattr(room, "by_ids", behind)
    job = desk.act(f"queue {action}", id=[show(first.id), show(second.id)])
    assert (job["done"], len(looks)) == (2, 2)


def test_an_undoing_tells_how_many_it_would_bring_back(desk: Desk) -> None:
    desk.fill(50, "x.example", later=60)
    for action in ("hold", "cancel"):
        job = desk.act(f"queue {action}", recipient="*@x.example")
        dry = desk.say("job undo", id=job["job"], dry_run=True)
        assert (dry["undoes"], dry["deliveries"], len(dry["sample"])) == (action, 50, 10)
    assert len(desk.say("job list")) == 2
    assert desk.say("job undo", id=1, dry_run=True)["deliveries"] == 0  # the second job has had them since


@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("queue hold", {}, "say which deliveries"),
        ("queue hold", {"all": True, "account": "crm"}, "narrows it"),
        ("queue hold", {"all": True, "reason": " "}, "reason: is missing"),
        ("queue hold", {"recipient": "x.example"}, r"neither an address nor \*@"),
        ("queue move", {"all": True}, "say where to"),
        ("queue move", {"all": True, "pool": "spare", "home": True}, "say where to"),
        ("job show", {"id": 7}, "there is no job 7"),
        ("job undo", {"id": 7}, "there is no job 7"),
        ("queue deliveries", {"after": "x"}, "next"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(desk: Desk, verb: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        desk.say(verb, **given)


def test_a_long_list_is_read_in_pages(desk: Desk) -> None:
    desk.fill(100, "x.example", later=60)
    desk.fill(100, "y.example", later=60)
    seen: list[str] = []
    after = ""
    while True:
        page = desk.say("queue deliveries", limit=30, after=after)
        seen += [row["id"] for row in page["deliveries"]]
        after = page["next"]
        if not after:
            break
        assert len(page["deliveries"]) == 30
    assert len(seen) == len(set(seen)) == 200


def test_a_site_is_its_queues_whether_they_are_in_memory_or_not(desk: Desk) -> None:
    desk.put("x.example", "y.example", later=60)
    site = desk.say("queue summary", by="site")[1]
    assert (site["site"], site["deliveries"], site["held"]) == ("203.0.113.1:25", 2, 0)
    assert desk.act("queue hold", site="203.0.113.1:25", domain="y.example")["done"] == 1
    assert desk.say("queue hold", site="elsewhere", dry_run=True)["deliveries"] == 0
    desk.reactor.wait(30)
    assert desk.say("queue summary", by="domain", limit=1)[0]["held"] == 1
    assert [row["domain"] for row in desk.say("queue summary", by="domain")] == ["all", "x.example", "y.example"]


def test_a_site_narrows_ids_too(desk: Desk) -> None:
    ids = [show(delivery.id) for delivery in desk.put("x.example", "y.example", later=60)]
    assert desk.say("queue hold", id=ids, site="elsewhere", dry_run=True)["deliveries"] == 0
    assert desk.act("queue cancel", id=ids, site="elsewhere")["done"] == 0
    assert desk.act("queue hold", id=ids, site="203.0.113.1:25")["done"] == 2
    assert desk.say("queue deliveries", id=ids, site="elsewhere")["deliveries"] == []


@pytest.mark.parametrize(
    "field", ["connection", "domain", "site", "recipient", "sender", "client", "track_id", "tag", "reply"]
)
def test_a_filter_that_says_nothing_is_refused_instead_of_meaning_all(desk: Desk, field: str) -> None:
    desk.put("x.example", later=60)
    for empty in ("", " "):
        with pytest.raises(InputError, match=f"{field}: is empty"):
            desk.say("queue cancel", account="crm", **{field: empty})


def test_a_job_goes_on_after_a_restart_where_it_was(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCANNED", 100)
    desk.fill(1000, later=86400)
    job = desk.interrupted("queue cancel", all=True)
    again = started_again(desk, monkeypatch)
    try:
        again.audited()
        ended = again.ended(job["job"])
        assert (ended["state"], ended["done"], again.queued()) == ("done", 1000, 0)
        again.audited()
        undone = again.ended(again.say("job undo", id=job["job"])["job"])
        assert (undone["done"], again.queued()) == (1000, 1000)
        again.audited()
    finally:
        again.stop()


def test_a_job_that_is_ended_stays_where_it_is_and_can_be_undone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCANNED", 100)
    desk.fill(1000, later=86400)
    job = desk.interrupted("queue hold", all=True)
    with pytest.raises(InputError, match="still runs"):
        desk.say("job undo", id=job["job"])
    stopped = desk.say("job cancel", id=job["job"])
    assert stopped["state"] == "stopped"
    for dry_run in (False, True):
        with pytest.raises(InputError, match="has ended already"):
            desk.say("job cancel", id=job["job"], dry_run=dry_run)
    assert 0 < stopped["done"] < 1000
    desk.pause = 0.002
    desk.reactor.wait(5)
    assert len(desk.rows(state="held")) == stopped["done"]
    assert desk.ended(desk.say("job undo", id=job["job"])["job"])["done"] == stopped["done"]
    assert desk.rows(state="held") == []


def test_what_stops_mail_goes_before_what_does_not(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCANNED", 100)
    desk.fill(1000, later=86400)
    desk.mx.open = 0
    retry = desk.interrupted("queue retry", all=True)
    desk.pause = 0.002
    held = desk.ended(desk.say("queue hold", all=True)["job"])
    assert desk.say("job show", id=retry["job"])["state"] == "running"
    assert held["done"] + held["under_way"] == 1000
    assert desk.ended(retry["job"])["state"] == "done"
    assert len(desk.rows(state="held")) == held["done"]
    desk.audited()


def test_mail_that_comes_while_a_job_runs_is_not_its_business(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCANNED", 100)
    desk.fill(300, later=86400)
    job = desk.interrupted("queue cancel", all=True)
    (new,) = desk.put("x.example", later=86400)
    desk.pause = 0.002
    assert desk.ended(job["job"])["done"] == 300
    assert [row["id"] for row in desk.rows()] == [show(new.id)]


def test_a_step_that_fails_is_tried_again_and_a_job_that_cannot_go_on_says_why(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.put("x.example", later=86400)
    faults = [2]
    hold = actions.hold

    def failing(*args: Any) -> Callable[..., Any]:
        faults[0] -= 1
        if faults[0] >= 0:
            raise OSError("the disk is tired")
        return hold(*args)

    monkeypatch.setattr(actions, "hold", failing)
    assert desk.act("queue hold", all=True)["done"] == 1
    desk.act("queue release", all=True)
    faults[0] = 99
    job = desk.act("queue hold", all=True)
    assert (job["state"], job["fault"]) == ("failed", "the disk is tired")
    assert desk.node.scheduler.memory.loaded == 0


def test_a_greylisted_flood_with_actions_in_between_keeps_the_books(desk: Desk) -> None:
    """Outcomes, retries, holds, moves, cancels and their undoing, while mail comes and goes."""
    turn = [0]

    def moody(server: Server, line: str) -> str:
        turn[0] += 1
        return ("250 ok", "451 4.7.1 later", "550 5.1.1 nobody")[turn[0] % 3]

    desk.mx.says["RCPT"] = moody
    begun = []
    for n in range(12):
        for _ in range(3):
            desk.put("x.example", "y.example", "z.example")
        verb, given = [
            ("queue hold", {"domain": "x.example"}),
            ("queue cancel", {"attempts": 1}),
            ("queue move", {"domain": "y.example", "pool": "spare"}),
            ("queue retry", {"all": True}),
            ("queue release", {"all": True}),
            ("queue cancel", {"domain": "z.example"}),
        ][n % 6]
        begun.append(desk.act(verb, **given)["job"])
        desk.reactor.wait(40)
        if n % 4 == 3:
            desk.ended(desk.say("job undo", id=begun[-2])["job"])
        desk.audited()
    desk.act("queue release", all=True)
    desk.mx.says.clear()
    desk.later(700, lambda: not desk.rows())
    assert desk.node.scheduler.memory.loaded == 0
    desk.audited()


def test_a_job_is_told_of_with_the_first_of_many_ids() -> None:
    from relayd.spool.actions import Job
    from relayd.spool.selection import Cursor, Filter

    job = Job(
        1, "hold", "anna", "x", Filter(ids=tuple(range(30))), "", False, None, 9, START, 30, 0, 0, 0, 0,
        Cursor(), "running", "", 0.0, 0.0, False,
    )  # fmt: skip
    said = shown(job)["filter"]
    assert (len(said["ids"]), said["ids_in_all"]) == (20, 30)
