"""Reputation in a whole node: what is counted on the way, and what comes in and goes out for whom it holds back."""

import email
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.logger import capturedLogs, formatEvent

from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.delivery.courier import HELD
from relayd.echoes import Event
from relayd.reputation import Rules, Who
from tests.reception_kit import HEAD, SSHA, Receiving
from tests.test_service import CONFIG, Running

RELAY = "relay:198.51.100.0/24"
CRM: Who = ("", "", "crm", "crm.example", RELAY, "a@crm.example")


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    made = Running(tmp_path)
    yield made
    if not made.node.health.stopping:
        made.stop()
    sys.setswitchinterval(interval)


def counted(relay: Running, kind: str, name: str) -> dict[str, int]:
    shown = relay.node.reputation.show((kind, name), relay.node.now())
    assert shown
    return shown[1]["hour"]


def spam(relay: Running, who: Who) -> None:
    """Half of what somebody sent had nobody to go to."""
    reputation, now = relay.node.reputation, relay.node.now()
    reputation.event(who, "delivered", now, 100)
    reputation.event(who, "unknown", now, 100)
    reputation.tick(now)


def put(relay: Running, verb: str, subject: str, **given: object) -> None:
    answer = run(
        BY_PATH[f"/v1/reputation/{verb}"], relay.node.operations, {"subject": subject, "reason": "why", **given}, "ops"
    )
    relay.reactor.until(answer.done)
    answer.result()


def queued(relay: Running) -> int:
    return sum(row["count"] for row in relay.asked(relay.node.operations.queues(10)))


# Counting.


def test_what_goes_out_counts_for_everybody_behind_it(relay: Running):
    relay.send()
    relay.reactor.until(lambda: relay.node.courier.scheduler.memory.loaded == 0)
    assert counted(relay, "account", "crm") == {"delivered": 1, "received": 1}
    for kind, name in (("client", "crm/crm.example"), ("connection", RELAY), ("domain", "crm.example")):
        assert counted(relay, kind, name) == {"delivered": 1, "received": 1}
    (source,) = relay.node.reputation.all("source")
    assert source.name.startswith("s1/") and source.today[0] == 1


@pytest.mark.parametrize(
    ("reply", "counter"),
    [
        ("550 5.1.1 no such user", "unknown"),
        ("552 5.3.4 message too big", "failed"),
        ("550 5.7.1 your address is blocked", "blocked"),
        ("450 4.2.1 later", "deferred"),
    ],
)
def test_a_refusal_counts_as_what_it_says(relay: Running, reply: str, counter: str):
    relay.mx.says["RCPT"] = reply
    relay.send()
    relay.reactor.until(lambda: relay.node.courier.scheduler.memory.loaded == 0)
    assert counted(relay, "account", "crm")[counter] == 1


def test_a_report_to_the_sender_counts_for_nobody(relay: Running):
    relay.mx.says["RCPT"] = "550 5.1.1 no such user"
    relay.send()
    relay.later(1, lambda: sum(relay.node.courier.outcomes.totals.values()) >= 2)
    assert counted(relay, "account", "crm")["unknown"] == 1


def test_a_connection_with_too_many_unknown_recipients_blocks_itself_and_an_operator_activates_it(relay: Running):
    node = relay.node
    added = node.directory.add_connection("login1", account="crm", hash=SSHA, now=node.now())
    relay.reactor.until(added.done)
    spam(relay, ("s1", "x", "crm", "shop", "login1", "a@shop.example"))
    relay.reactor.until(lambda: node.directory.connection("login1").state == "blocked")
    row = node.directory.connection("login1")
    assert (row.by, row.reason) == (
        "reputation",
        "100 of 200 recipients of the last hour do not exist (50 %; 30 % allowed)",
    )
    trail = node.directory.changes(10, "connection:login1")
    relay.reactor.until(trail.done)
    (change,) = trail.result()
    assert (change.who, change.verb, change.result) == ("reputation", "reputation block", "done")
    activated = run(BY_PATH["/v1/connection/activate"], node, {"login": "login1"}, "ops")
    relay.reactor.until(activated.done)
    assert node.directory.connection("login1").state == "active" and node.reputation.share("connection", "login1") == 1


def test_releasing_a_connection_activates_it_but_not_one_that_an_operator_blocked(relay: Running):
    node = relay.node
    for login in ("login1", "login2"):
        relay.reactor.until(node.directory.add_connection(login, account="crm", hash=SSHA, now=node.now()).done)
        put(relay, "block", f"connection:{login}")
        relay.reactor.until(lambda login=login: node.directory.connection(login).state == "blocked")
    done = run(BY_PATH["/v1/connection/block"], node, {"login": "login2", "reason": "stolen"}, "ops")
    relay.reactor.until(done.done)
    for login in ("login1", "login2"):
        put(relay, "release", f"connection:{login}")
    relay.reactor.until(lambda: node.directory.connection("login1").state == "active")
    assert node.directory.connection("login2").state == "blocked"


def test_mail_of_an_account_that_is_held_waits_and_says_why_and_goes_when_it_is_released(relay: Running):
    put(relay, "hold", "account:crm")
    assert relay.send().startswith("250")
    relay.reactor.wait(3600)
    assert not relay.mx.got and queued(relay) == 1
    (row,) = relay.asked(relay.node.operations.queues(10))
    assert row["why"] == "account:crm is held for review by ops: why"
    put(relay, "release", "account:crm")
    relay.later(0, lambda: relay.mx.got)


def test_a_hold_outlives_a_restart_and_loses_nothing(relay: Running, tmp_path: Path):
    put(relay, "hold", "account:crm", **{"for": "2h"})
    relay.send()
    relay.stop()
    again = Running(tmp_path)
    try:
        again.reactor.wait(3000)
        assert not again.mx.got and queued(again) == 1
        again.later(4300, lambda: again.mx.got)
        assert again.asked(again.node.operations.audit())["clean"]
    finally:
        again.stop()


def test_mail_of_a_client_that_is_held_waits_beside_that_of_others_in_the_same_queue(relay: Running):
    put(relay, "hold", "client:crm/crm.example")
    relay.send()
    client = relay.call()
    client.say(b"MAIL FROM:<a@other.example>\r\nRCPT TO:<c@x.example>\r\nDATA\r\n")
    client.say(b"From: a@other.example\r\n\r\nhello\r\n.\r\n")
    relay.reactor.until(lambda: relay.mx.got)
    relay.reactor.wait(3600)
    assert [recipient for _, recipient, _ in relay.mx.got] == ["c@x.example"] and queued(relay) == 1
    put(relay, "release", "client:crm/crm.example")
    relay.later(HELD, lambda: len(relay.mx.got) == 2)


def test_an_account_that_is_blocked_is_answered_like_a_suspended_one(relay: Running):
    client = relay.call()
    put(relay, "block", "account:crm")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("450 4.7.1 The account is suspended")


def test_a_client_network_that_is_blocked_is_refused(relay: Running):
    client = relay.call()
    put(relay, "block", f"connection:{RELAY}")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("421 4.7.0 The connection is not active")


def test_a_sender_domain_that_is_blocked_is_refused_with_the_reason(relay: Running):
    put(relay, "block", "domain:crm.example")
    assert relay.send() == "550 5.7.1 Message refused: domain:crm.example is blocked by ops: why\r\n"


def test_an_account_that_is_slowed_has_that_as_a_limit_of_what_goes_out(relay: Running):
    spam(relay, CRM)
    (layer,) = relay.node.streams.scheduling("crm", "bulk").layers
    assert (layer.name, str(layer.account.rate)) == ("reputation of account crm", "60/h")
    put(relay, "release", "account:crm")
    assert not relay.node.streams.scheduling("crm", "bulk").layers


def test_a_source_that_is_slowed_has_a_quarter_of_its_sessions_towards_that_group_until_it_is_clean(relay: Running):
    relay.send()
    relay.reactor.until(lambda: relay.mx.got)
    (path,) = [path for site in relay.node.scheduler.sites.values() for path in site.paths.values()]
    group = next(iter(relay.node.scheduler.sites.values())).group
    assert path.meter.limits.connections == 20
    reputation, now = relay.node.reputation, relay.node.now()
    who = ("s1", group, "", "", "", "")
    reputation.event(who, "delivered", now, 300)
    reputation.event(who, "blocked", now, 300)
    reputation.tick(now)
    assert path.meter.limits.connections == 5
    relay.node.reputation.tick(now + 7200)
    assert path.meter.limits.connections == 20


def test_a_reload_to_reports_only_lets_go_what_was_held(relay: Running):
    spam(relay, ("", "", "other", "crm.example", RELAY, ""))
    assert relay.call().say(b"MAIL FROM:<a@crm.example>\r\n").startswith("421")
    relay.path.write_text(CONFIG + '[reputation]\nmode = "report"\n')
    assert relay.node.reload()["changed"] == ["reputation"]
    assert relay.call().say(b"MAIL FROM:<a@crm.example>\r\n").startswith("250")


def test_what_is_done_is_in_the_log_and_the_owner_is_told(relay: Running, monkeypatch: pytest.MonkeyPatch):
    with capturedLogs() as logs:
        spam(relay, CRM)
    lines = [formatEvent(event) for event in logs]
    assert "client:crm/crm.example is blocked (only reported: hold is as far as it goes): 100 of 200" in str(lines)


def test_the_owner_of_who_is_held_back_is_told_by_mail_that_is_not_held_itself(relay: Running):
    changed = relay.node.directory.change_account("crm", notices="abuse@notices.example")
    relay.reactor.until(changed.done)
    spam(relay, CRM)
    relay.later(2, lambda: len(relay.mx.got) >= 2)
    told = [email.message_from_bytes(content) for _, to, content in relay.mx.got if to == "abuse@notices.example"]
    assert [notice["Subject"] for notice in told] == ["account:crm: block", "client:crm/crm.example: block"]
    assert "100 of 200" in str(told[0].get_payload())


# At the door.


def test_recipients_that_are_kept_from_mail_count_and_so_do_refusals(tmp_path: Path):
    receiving = Receiving(tmp_path, logins=True)
    receiving.relay.reputation.configure(Rules())
    receiving.suppress("bulk", "gone@x.example")
    client = receiving.logged_in()
    answers = receiving.mail(client, "gone@x.example", "b@x.example")
    assert answers[1].startswith("550") and receiving.content(client) == ""
    hour = receiving.relay.reputation.show(("connection", "login"), receiving.reactor.seconds())
    assert hour and {key: hour[1]["hour"][key] for key in ("received", "suppressed", "refused")} == {
        "received": 1,
        "suppressed": 1,
        "refused": 1,
    }
    receiving.close()


def test_who_is_slowed_hands_in_no_more_than_its_pace(tmp_path: Path):
    receiving = Receiving(tmp_path, logins=True)
    reputation, now = receiving.relay.reputation, receiving.reactor.seconds()
    reputation.configure(Rules())
    who: Who = ("", "", "crm", "crm.example", "login", "")
    reputation.event(who, "delivered", now, 80)
    reputation.event(who, "unknown", now, 40)
    reputation.tick(now)
    said = []
    client = receiving.logged_in()
    for _ in range(6):
        receiving.mail(client, "b@x.example")
        said.append(receiving.content(client, HEAD + b"hello") or "taken")
        for done in receiving.spool.done:
            done(None)
        receiving.spool.done.clear()
        client.heard = b""
    assert said[:5] == ["taken"] * 5
    assert said[5].startswith("451 4.3.2 Rate limit exceeded, retry after")
    receiving.close()


@pytest.mark.parametrize(
    ("kind", "cls", "counter"), [("complaint", "unknown", "complaint"), ("bounced", "recipient_unknown", "unknown")]
)
def test_what_comes_back_late_counts_against_who_sent_it(relay: Running, kind: Any, cls: Any, counter: str):
    event = Event(kind, relay.node.now(), 7, "b@x.example", "crm", "relay", "shop", "bulk", "crm.example", cls=cls)
    relay.node.consequences.heard(event)
    assert relay.node.reputation.show(("account", "crm"), relay.node.now()) is None
    relay.node.consequences.heard(msgspec.structs.replace(event, late=True))
    assert counted(relay, "account", "crm")[counter] == counted(relay, "domain", "crm.example")[counter] == 1
