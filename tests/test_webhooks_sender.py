"""The sender of webhooks on a clock: what customers' servers get, and what becomes of those that do not take it."""

import gc
import json
import random
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs

import relayd
from relayd.errors import InputError
from relayd.events import NAMES
from relayd.history import Hit, index_path
from relayd.tls import trust
from relayd.webclient import LONGEST as LONGEST_ANSWER
from relayd.webhooks.lanes import AT_ONCE, PROBES
from relayd.webhooks.post import Settings
from relayd.webhooks.sender import DRAIN, LOOK, NOBODY
from relayd.webhooks.signature import shown, sign
from tests.harness import START
from tests.webhook_kit import ADDRESS, OK, SECRET, AtOnce, Desk, Server, answer, running

DAY = 86400.0


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with running(tmp_path, monkeypatch) as made:
        yield made


def notes(server: Server) -> list[int]:
    return [int(event["note"]) for event in server.events]


# What is posted.


def test_events_are_posted_in_order_and_signed(desk: Desk) -> None:
    desk.add()
    desk.events(1, 2)
    desk.events(3)
    first, second = desk.server.requests
    assert [event["delivery"] for event in desk.server.events] == [f"{n:016x}" for n in (1, 2, 3)]
    assert first.line == "POST /events HTTP/1.1" and json.loads(first.body)["v"] == 1
    assert first.headers["host"] == "crm.example" and first.headers["content-type"] == "application/json"
    assert first.headers["user-agent"] == f"relayd/{relayd.__version__}"
    for request in (first, second):
        id, time = request.headers["webhook-id"], int(request.headers["webhook-timestamp"])
        assert request.headers["webhook-signature"] == sign((SECRET,), id, time, request.body)
        assert time == int(desk.reactor.seconds())
    assert first.channel is second.channel  # the connection is kept


def test_without_a_filter_all_but_queued_are_posted_and_with_one_only_these(desk: Desk) -> None:
    desk.names["all.example"] = desk.names["some.example"] = (ADDRESS,)
    desk.add()
    desk.add("all", url="http://all.example/", events=NAMES)
    desk.add("some", url="http://some.example/", events=("bounced", "queued"))
    for kind in ("Reception", "TransientFailure", "Delivery", "Bounce"):
        desk.events(1, kind=kind)
    got: dict[str, list[str]] = {}
    for request in desk.server.requests:
        got.setdefault(request.headers["host"], []).extend(event["event"] for event in request.events)
    assert got == {
        "crm.example": ["deferred", "delivered", "bounced"],
        "all.example": ["queued", "deferred", "delivered", "bounced"],
        "some.example": ["queued", "bounced"],
    }


def test_a_webhook_is_of_an_account_and_those_below_it_or_of_one_connection(desk: Desk) -> None:
    desk.account("shop", parent="crm")
    desk.account("other")
    desk.add()
    desk.add("one", url="http://crm.example/one", connection="login2")
    for account, connection in (("crm", "login1"), ("shop", "login2"), ("other", "login3")):
        desk.events(1, account=account, connection=connection)
    desk.account("late", parent="shop")
    desk.events(1, account="late", connection="login4")
    got = [(request.line.split()[1], event["account"]) for request in desk.server.requests for event in request.events]
    assert sorted(got) == [("/events", "crm"), ("/events", "late"), ("/events", "shop"), ("/one", "shop")]


def test_a_new_webhook_begins_with_what_comes_from_now_on(desk: Desk) -> None:
    desk.events(1, 2, 3)
    desk.add()
    desk.events(4)
    assert notes(desk.server) == [4]


def test_batches_are_as_large_as_asked_for_and_no_larger(desk: Desk) -> None:
    desk.add(batch=10)
    desk.events(*range(1, 36))
    assert [len(request.events) for request in desk.server.requests] == [10, 10, 10, 5]
    assert notes(desk.server) == list(range(1, 36))


def test_lanes_post_beside_one_another_and_a_delivery_keeps_to_its_own(desk: Desk) -> None:
    desk.add(concurrency=4, batch=5)
    desk.server.says = b""
    desk.records([desk.event(n % 40 + 1) for n in range(1, 401)])
    waiting = list(desk.server.requests)
    assert len(waiting) == 4
    rng = random.Random(3)
    while waiting:
        waiting.pop(rng.randrange(len(waiting))).channel.say(OK)
        before = len(desk.server.requests)
        desk.reactor.pump()
        waiting += desk.server.requests[before:]
        assert len(waiting) <= 4
    by_delivery: dict[str, list[int]] = {}
    for event in desk.server.events:
        by_delivery.setdefault(event["delivery"], []).append(int(event["note"]))
    assert sorted(chain(*by_delivery.values())) == list(range(1, 401))
    assert all(order == sorted(order) for order in by_delivery.values())


def test_events_of_no_delivery_are_the_first_lanes(desk: Desk) -> None:
    desk.add(concurrency=3)
    desk.events(0, 0, kind="Rejection")
    assert notes(desk.server) == [1, 2]


def test_other_lanes_lose_nothing_and_what_they_repeat_has_the_same_ids(desk: Desk) -> None:
    desk.add(batch=7)
    desk.server.says = lambda request: OK if len(desk.server.requests) < 4 else b""
    desk.events(*range(1, 61))
    for lanes in (3, 8, 2):
        desk.server.says = OK
        desk.change(concurrency=lanes)
        desk.events(*range(1, 20))
        desk.reactor.wait(1)
    seen: dict[int, str] = {}
    for event in desk.server.events:
        assert seen.setdefault(int(event["note"]), event["id"]) == event["id"]
    assert sorted(seen) == list(range(1, 60 + 3 * 19 + 1))


# What fails.


def test_a_batch_that_failed_comes_again_as_it_was(desk: Desk) -> None:
    desk.add()
    desk.server.says = answer(500)
    desk.events(1, 2)
    desk.events(3, 4)
    desk.reactor.wait(5)
    first, again = desk.server.requests
    assert (first.body, first.headers["webhook-id"]) == (again.body, again.headers["webhook-id"])
    assert first.headers["webhook-timestamp"] != again.headers["webhook-timestamp"]
    desk.server.says = OK
    desk.reactor.wait(10)
    assert notes(desk.server) == [1, 2, 1, 2, 1, 2, 3, 4]
    assert desk.shown()["tries"] == 0 and desk.shown()["words"] == ""


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (answer(500), "it answers 500"),
        (answer(404), "it answers 404"),
        (answer(301, "Location: http://crm.example/elsewhere"), "a redirect to http://crm.example/elsewhere"),
        (None, "Connection was closed cleanly"),
        (b"", "it does not answer within 10 s"),
        (b"HTTP/1.1 20", "it does not answer within 10 s"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "wrong number of parts"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-More: yes\r\n" * (5 * LONGEST_ANSWER // 13), "its answer has no end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (5 * LONGEST_ANSWER // 25), "its answer has no end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", ""),
    ],
    ids=["500", "404", "redirect", "closed", "hung", "half", "ssh", "head", "continue", "nonsense"],
)
def test_anything_but_a_success_is_a_failure_and_said_in_words(desk: Desk, says: Any, words: str) -> None:
    desk.add()
    desk.server.says = says
    desk.events(1)
    desk.reactor.wait(11)
    told = desk.shown()
    assert words in told["words"] and told["tries"] >= 1 and told["last_success"] is None
    assert told["next_try"] > desk.reactor.seconds() and told["behind"] == 11
    assert len(desk.server.sessions) <= 1 and {r.line for r in desk.server.requests} == {"POST /events HTTP/1.1"}
    desk.server.says = OK
    desk.reactor.wait(30)
    assert desk.shown()["tries"] == 0 and desk.shown()["sent"] == 1


def test_a_server_that_refuses_connections_or_swallows_them_is_a_failure(desk: Desk) -> None:
    desk.add()
    desk.server.open = 0
    desk.events(1)
    assert "refused" in desk.shown()["words"]
    desk.server.open = None
    desk.reactor.wait(16)
    assert desk.shown()["tries"] == 2 and "timeout" in desk.shown()["words"]
    desk.server.open = 1000
    desk.reactor.wait(30)
    assert desk.shown()["sent"] == 1


@pytest.mark.parametrize("body", [b"x" * (3 * LONGEST_ANSWER), b"a little"], ids=["huge", "endless"])
def test_once_the_status_is_there_its_body_may_be_what_it_likes(desk: Desk, body: bytes) -> None:
    desk.add()
    desk.server.says = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n\x1b[2J" + body
    desk.events(1)
    desk.reactor.wait(3)
    told = desk.shown()
    assert (told["sent"], told["tries"]) == (1, 0)
    assert told["answer"].startswith("\\x1b[2J") and len(told["answer"]) <= 2048
    assert desk.server.sessions == []  # who knows what else would come


def test_a_pause_that_is_asked_for_is_kept_up_to_an_hour(desk: Desk) -> None:
    desk.add()
    for asked, kept in (("600", 600), ("86400", 3600)):
        desk.server.says = answer(503, f"Retry-After: {asked}")
        desk.events(1)
        desk.reactor.wait(kept - 1)
        assert len(desk.server.requests) == 1
        desk.server.says = OK
        desk.reactor.wait(1)
        assert len(desk.server.requests) == 2
        desk.server.requests.clear()


def test_one_that_is_gone_is_paused_at_once_and_its_owner_told(desk: Desk) -> None:
    desk.add()
    desk.server.says = answer(410)
    desk.events(1)
    assert (desk.row().state, desk.row().by) == ("paused", "relayd")
    ((account, subject, lines),) = desk.told
    assert (account, subject) == ("crm", "the webhook w is paused") and "410 Gone" in " ".join(lines)
    desk.events(2)
    desk.reactor.wait(2 * DAY)
    assert len(desk.server.requests) == 1 and len(desk.told) == 1
    assert "is paused: it answers 410" in desk.webhooks.warnings()[0]
    desk.server.says = OK
    desk.ask(desk.webhooks.resume(desk.row(), "anna"))
    desk.reactor.wait(1)
    assert notes(desk.server) == [1, 1, 2]


def test_after_an_hour_of_failures_its_owner_is_told_and_after_three_days_it_is_parked(desk: Desk) -> None:
    desk.add(url="http://crm.example/events?token=secret")
    desk.server.says = answer(500)
    desk.events(1)
    desk.reactor.wait(3500)
    assert desk.told == [] and desk.webhooks.warnings() == []
    desk.reactor.wait(1000)
    ((account, subject, lines),) = desk.told
    assert (account, subject) == ("crm", "the webhook w fails") and "secret" not in " ".join(lines)
    assert desk.webhooks.warnings()[0].startswith("webhook w has failed for 1h")
    desk.reactor.wait(3 * DAY - 6000)
    assert desk.row().state == "active"
    desk.reactor.wait(3000)
    row, tried = desk.row(), len(desk.server.requests)
    assert (row.state, row.by) == ("parked", "relayd")
    assert row.reason == "nothing but failures for 3d, the last: it answers 500"
    assert [subject for _, subject, _ in desk.told] == ["the webhook w fails", "the webhook w is parked"]
    assert "webhook w is parked" in desk.webhooks.warnings()[0]
    gaps = [later - before for before, later in pairwise(when(desk))]
    assert max(gaps) <= 900.5 and min(gaps[12:]) >= 450
    desk.events(2)
    desk.reactor.wait(10 * DAY)
    assert len(desk.server.requests) == tried and desk.held[-1] == NOBODY


def when(desk: Desk) -> list[int]:
    return [int(request.headers["webhook-timestamp"]) for request in desk.server.requests]


def test_a_parked_one_goes_on_where_it_stood_when_it_is_resumed(desk: Desk) -> None:
    parked(desk)
    desk.events(4, 5)
    row, gone = desk.ask(desk.webhooks.resume(desk.row(), "anna"))
    desk.reactor.pump()
    assert (row.state, row.by, row.reason, gone) == ("active", "anna", "", False)
    assert notes(desk.server) == [1, 2, 3, 4, 5]
    assert desk.webhooks.warnings() == []


def test_a_parked_one_whose_records_are_gone_says_so_when_it_is_resumed(desk: Desk) -> None:
    parked(desk)
    old = desk.home / "records" / f"{int(START):010d}.jsonl"
    desk.segment(int(desk.reactor.seconds()))
    desk.events(4, 5)
    index_path(old).unlink()
    old.unlink()
    _, gone = desk.ask(desk.webhooks.resume(desk.row(), "anna"))
    desk.reactor.pump()
    assert gone and notes(desk.server) == [4, 5]


def test_a_parked_one_goes_on_from_a_time_when_that_is_asked_for(desk: Desk) -> None:
    parked(desk)
    desk.reactor.wait(3600)
    desk.events(4, 5)
    since = desk.reactor.seconds() - 60
    with pytest.raises(InputError, match="resume it first"):
        desk.ask(desk.webhooks.replay(desk.row(), since, since + 1, "anna"))
    desk.ask(desk.webhooks.replay(desk.row(), since, 0.0, "anna"))
    desk.reactor.pump()
    desk.events(6)
    assert notes(desk.server) == [4, 5, 6] and desk.row().state == "active"


def parked(desk: Desk) -> None:
    """Three events wait."""
    desk.add()
    desk.server.says = answer(500)
    desk.events(1, 2, 3)
    desk.reactor.wait(3 * DAY + 1000)
    assert desk.row().state == "parked"
    desk.server.requests.clear()
    desk.server.says = OK


def test_a_server_dead_for_a_day_costs_no_memory_and_no_work_for_each_event(desk: Desk) -> None:
    desk.add(concurrency=2)
    desk.server.says = answer(500)
    desk.events(1, 2)
    desk.reactor.wait(3600)
    assert isinstance(desk.webhooks._readers, AtOnce)
    asked, tried = desk.webhooks._readers.count, len(desk.server.requests)
    desk.server.requests = requests = Counted()  # type: ignore[assignment]
    objects = measured()
    for _ in range(24 * 60):
        desk.reactor.wait(60)
        desk.records([desk.event(1), desk.event(2)], quiet=True)
        for _ in range(50):
            desk.webhooks.came({("crm", "login1")})
    assert measured() - objects < 300
    lanes, longest = 2, 900
    assert lanes * DAY / longest <= requests.count <= 2 * lanes * DAY / longest
    assert desk.webhooks._readers.count - asked <= requests.count + 4 and tried < 60
    desk.server.requests, desk.server.says = [], OK
    desk.reactor.wait(900)
    assert len(desk.server.events) == 2 + 2 * 24 * 60


class Counted(list[Any]):
    """Keeps nothing."""

    count = 0

    def append(self, item: Any) -> None:
        self.count += 1


def measured() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_servers_that_hang_take_no_more_than_their_share_and_others_wait_for_none_of_them(desk: Desk) -> None:
    for n in range(3 * AT_ONCE):
        address = f"203.0.113.{n + 20}"
        desk.reactor.hosts[address] = Server(says=b"")  # type: ignore[assignment]
        desk.add(f"hangs{n}", url=f"http://{address}/")
    desk.webhooks.configure(Settings(allow=("203.0.113.0/24",)), trust(""))
    desk.events(1)
    desk.reactor.wait(10 * 3 * AT_ONCE / (AT_ONCE - PROBES) + 1)  # all of them are known by now
    desk.add("well")
    for n in range(20):
        before = desk.reactor.seconds()
        desk.events(2)
        assert len(desk.server.requests) == n + 1 and desk.reactor.seconds() == before
        desk.reactor.wait(7)
        assert desk.webhooks._turns._busy <= PROBES


# Addresses.


def test_the_connection_goes_to_the_address_that_was_checked_and_no_name_is_looked_up_again(desk: Desk) -> None:
    desk.add()
    desk.events(1)
    assert desk.asked == ["crm.example"] and [address for address, _ in desk.reactor.dialled] == [ADDRESS]


def test_a_name_that_leads_inside_a_moment_later_leads_nowhere(desk: Desk) -> None:
    """DNS rebinding: each answer is for one connection, and each is checked."""
    inside = Server()
    desk.reactor.hosts["169.254.169.254"] = desk.reactor.hosts["127.0.0.1"] = inside  # type: ignore[assignment]
    desk.add()
    desk.events(1)
    desk.reactor.wait(60)  # the connection is kept no more
    for addresses in (("169.254.169.254",), (ADDRESS, "127.0.0.1")):
        desk.names["crm.example"] = addresses
        desk.events(2)
        desk.reactor.wait(30)
        assert "which is no public address: [webhooks] allow may name it" in desk.shown()["words"]
    assert inside.requests == [] and {address for address, _ in desk.reactor.dialled} == {ADDRESS}
    desk.names["crm.example"] = (ADDRESS,)
    desk.reactor.wait(900)
    assert notes(desk.server) == [1, 2, 3]


def test_an_address_or_localhost_in_the_url_is_checked_as_well(desk: Desk) -> None:
    for url, words in (
        ("http://127.0.0.1/", "127.0.0.1, which is no public"),
        ("http://localhost/", "127.0.0.1, which is no public"),
        ("https://[::1]:8443/", "::1, which is no public"),
        ("http://8.8.8.8/", "in clear"),
    ):
        with pytest.raises(InputError, match=words.replace(".", r"\.")):
            desk.ask(desk.webhooks.judged(url))
        desk.add("x", url=url)
        desk.events(1)
        assert words in desk.shown("x")["words"] and desk.reactor.dialled == []
        desk.ask(desk.directory.webhooks.remove("x"))
    assert desk.asked == []


def test_the_next_address_of_a_host_is_tried_when_the_first_does_not_answer(desk: Desk) -> None:
    desk.webhooks.configure(Settings(allow=("203.0.113.0/24",)), trust(""))
    desk.names["crm.example"] = ("203.0.113.77", ADDRESS)
    desk.reactor.hosts["203.0.113.77"] = Server(open=None)  # type: ignore[assignment]
    desk.add()
    desk.events(1)
    desk.reactor.wait(6)
    assert notes(desk.server) == [1] and desk.shown()["tries"] == 0


# Sending again.


def test_history_is_sent_again_beside_what_comes_and_shows_how_far_it_is(desk: Desk) -> None:
    desk.add(batch=2)
    desk.events(1, 2, 3)
    desk.reactor.wait(3600)
    desk.events(4, 5, 6)
    ids = {event["note"]: event["id"] for event in desk.server.events}
    desk.server.requests.clear()
    desk.server.says = b""
    desk.ask(desk.webhooks.replay(desk.row(), desk.reactor.seconds() - 7200, 0.0, "anna"))
    desk.events(7)
    told = desk.shown()["replay"]
    assert (told["by"], told["sent"], told["done"]) == ("anna", 0, None)
    desk.server.says = OK
    for request in list(desk.server.requests):
        request.channel.say(OK)
    desk.reactor.wait(1)
    again = [event for event in desk.server.events if event["note"] != "7"]
    assert [int(event["note"]) for event in again] == [1, 2, 3, 4, 5, 6]
    assert {event["note"]: event["id"] for event in again} == ids
    assert notes(desk.server).count(7) == 1
    assert (desk.shown()["replay"]["sent"], desk.shown()["replay"]["done"]) == (6, desk.reactor.seconds() - 1)


def test_a_part_of_history_is_sent_again(desk: Desk) -> None:
    desk.add()
    for n in range(1, 6):
        desk.events(n)
        desk.reactor.wait(100)
    desk.server.requests.clear()
    desk.ask(desk.webhooks.replay(desk.row(), START + 100, START + 300, "anna"))
    desk.reactor.wait(1)
    assert notes(desk.server) == [2, 3]


def test_sending_again_goes_on_after_a_crash_and_can_be_ended(desk: Desk) -> None:
    desk.add(batch=1)
    desk.events(1, 2, 3, 4)
    desk.server.requests.clear()
    desk.server.says = lambda request: OK if len(desk.server.requests) < 3 else b""
    desk.ask(desk.webhooks.replay(desk.row(), START - 1, 0.0, "anna"))
    desk.reactor.pump()
    desk.crash()
    desk.server.says = OK
    desk.start()
    assert notes(desk.server) == [1, 2, 3, 3, 4]
    desk.server.says = b""
    desk.ask(desk.webhooks.replay(desk.row(), START - 1, 0.0, "anna"))
    desk.webhooks.cancel_replay(desk.row())
    desk.server.requests.clear()
    desk.reactor.wait(DAY)
    assert desk.server.requests == [] and desk.shown()["replay"] is None
    with pytest.raises(InputError, match="sends nothing again"):
        desk.webhooks.cancel_replay(desk.row())


def test_what_is_still_to_be_sent_is_not_sent_again(desk: Desk) -> None:
    desk.add()
    desk.server.says = answer(500)
    desk.events(1, 2)
    with pytest.raises(InputError, match="nothing to send again"):
        desk.ask(desk.webhooks.replay(desk.row(), START - 60, 0.0, "anna"))


# Restarts.


def test_a_crash_repeats_at_most_what_was_under_way_with_the_same_ids(desk: Desk) -> None:
    desk.add(batch=2)
    desk.server.says = lambda request: OK if len(desk.server.requests) < 3 else b""
    desk.events(*range(1, 8))
    desk.reactor.pump()
    desk.crash()
    desk.server.says = OK
    desk.start()
    assert notes(desk.server) == [1, 2, 3, 4, 5, 6, 5, 6, 7]
    assert desk.server.requests[2].body == desk.server.requests[3].body


def test_a_stop_waits_a_moment_for_an_answer_and_no_longer(desk: Desk) -> None:
    desk.add(batch=2)
    desk.server.says = b""
    desk.events(1, 2, 3)
    stopped = desk.webhooks.stopService()
    desk.reactor.wait(1)
    assert not stopped.called
    desk.server.requests[0].channel.say(OK)
    desk.reactor.until(lambda: stopped.called)
    desk.directory.close()
    desk.start()
    desk.reactor.pump()
    assert notes(desk.server) == [1, 2, 3]
    before = desk.reactor.seconds()
    stopped = desk.webhooks.stopService()
    desk.reactor.wait(DRAIN)
    desk.reactor.until(lambda: stopped.called)
    assert desk.reactor.seconds() - before == DRAIN
    desk.directory.close()
    desk.server.says = OK
    desk.start()
    assert notes(desk.server) == [1, 2, 3, 3]


def test_failures_go_on_counting_after_a_restart(desk: Desk) -> None:
    desk.add()
    desk.server.says = answer(500)
    desk.events(1)
    desk.reactor.wait(2 * DAY)
    desk.stop()
    desk.reactor.rightNow += 5 * DAY  # nobody tried
    desk.start()
    desk.reactor.wait(DAY - 3600)
    assert desk.row().state == "active"
    desk.reactor.wait(3600)
    assert desk.row().state == "parked"


def test_a_webhook_made_again_by_the_same_name_begins_anew(desk: Desk) -> None:
    desk.add()
    desk.server.says = answer(500)
    desk.events(1)
    desk.ask(desk.directory.webhooks.remove("w"))
    desk.reactor.wait(10)
    desk.server.requests.clear()
    desk.server.says = OK
    desk.add()
    desk.events(2)
    desk.stop()
    desk.start()
    desk.events(3)
    assert notes(desk.server) == [2, 3]


# Changes.


def test_a_paused_one_posts_nothing_and_goes_on_where_it_stood(desk: Desk) -> None:
    desk.add()
    desk.events(1)
    desk.change(state="paused", reason="it moves")
    desk.events(2, 3)
    desk.reactor.wait(DAY)
    assert notes(desk.server) == [1]
    desk.ask(desk.webhooks.resume(desk.row(), "anna"))
    desk.reactor.pump()
    assert notes(desk.server) == [1, 2, 3]


def test_another_url_is_tried_at_once(desk: Desk) -> None:
    desk.add(url="http://crm.example/wrong")
    desk.server.says = lambda request: OK if "/right" in request.line else answer(404)
    desk.events(1)
    desk.reactor.wait(3600)
    desk.change(url="http://crm.example/right")
    assert desk.shown()["sent"] == 1 and desk.shown()["tries"] == 0


def test_while_secrets_overlap_both_sign(desk: Desk) -> None:
    desk.add(previous=b"p" * 32, previous_until=desk.reactor.seconds() + 60)
    desk.events(1)
    desk.reactor.wait(60)
    desk.events(2)
    signatures = [request.headers["webhook-signature"].split() for request in desk.server.requests]
    assert [len(one) for one in signatures] == [2, 1]


def test_a_test_is_posted_at_once_and_tells_what_came_back(desk: Desk) -> None:
    desk.add(state="paused")
    desk.server.says = answer(200, body=b"hello\x1b")
    told = desk.ask(desk.webhooks.test(desk.row()))
    assert (told["ok"], told["status"], told["answer"], told["words"]) == (True, 200, "hello\\x1b", "")
    (event,) = desk.server.events
    assert (event["event"], event["id"], event["account"]) == ("test", told["id"], "crm")
    desk.server.says = answer(500)
    assert desk.ask(desk.webhooks.test(desk.row()))["words"] == "it answers 500"
    desk.server.open = 0
    desk.reactor.wait(10)  # the connection is kept no more
    told = desk.ask(desk.webhooks.test(desk.row()))
    assert not told["ok"] and "refused" in told["words"]
    assert desk.shown()["sent"] == 0


# Records.


def test_segments_stay_as_long_as_an_active_one_needs_them(desk: Desk) -> None:
    first, second = f"{int(START):010d}.jsonl", f"{int(START) + 100:010d}.jsonl"
    assert desk.held == [NOBODY]
    desk.add()
    desk.server.says = answer(500)
    desk.events(1)
    desk.segment(int(START) + 100)
    desk.events(2)
    desk.reactor.wait(3600)
    assert desk.held == [NOBODY, first]
    desk.server.says = OK
    desk.reactor.wait(900)
    assert desk.held == [NOBODY, first, second]
    desk.ask(desk.directory.webhooks.remove("w"))
    desk.reactor.pump()
    assert desk.held == [NOBODY, first, second, NOBODY]


def test_one_for_which_nothing_comes_moves_on_all_the_same(desk: Desk) -> None:
    desk.add(events=("complained",))
    desk.segment(int(START) + 100)
    desk.events(1)
    desk.reactor.wait(LOOK + 60)
    assert desk.held[-1] == f"{int(START) + 100:010d}.jsonl" and desk.server.requests == []
    assert desk.webhooks._endpoints["w"].standing.places[0].hit > Hit(desk.held[-1], 0)


def test_a_history_that_cannot_be_read_is_said_and_looked_at_again(desk: Desk) -> None:
    desk.add()
    path = desk.home / "records" / f"{int(START):010d}.jsonl"
    desk.records([desk.event(1)], quiet=True)
    whole = path.read_bytes()
    path.write_bytes(b"{" * len(whole))
    desk.webhooks.came({("crm", "login1")})
    desk.reactor.pump()
    assert "webhook w stands still, the history cannot be read" in desk.webhooks.warnings()[0]
    desk.reactor.wait(3 * DAY + 3600)
    assert desk.row().state == "active" and desk.told == [] and desk.server.requests == []
    path.write_bytes(whole)
    desk.reactor.wait(60)
    assert notes(desk.server) == [1] and desk.webhooks.warnings() == []


def test_secrets_are_shown_nowhere(desk: Desk) -> None:
    desk.add()
    assert shown(SECRET) not in str(desk.shown())
    assert (desk.home / "directory.sqlite").stat().st_mode & 0o077 == 0


def test_a_fault_of_our_own_is_logged_and_the_lane_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.add()
    monkeypatch.setattr(desk.webhooks._postman, "post", lambda *args: 1 / 0)
    with capturedLogs() as logged:
        desk.events(1)
    assert [e["log_failure"].type for e in logged if "log_failure" in e] == [ZeroDivisionError]
    monkeypatch.undo()
    desk.reactor.wait(60)
    assert notes(desk.server) == [1] and desk.webhooks._turns._busy == 0
