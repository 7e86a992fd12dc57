"""What operators stop, in a whole node on a clock: what is cut, what waits, and what goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.control.verbs import BY_PATH
from relayd.directory import Block
from relayd.errors import InputError
from tests.reception_kit import HEAD, Receiving
from tests.stops_kit import Stopping, running
from tests.test_service import MAIL, MESSAGE


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopping]:
    yield from running(tmp_path, monkeypatch)


def test_a_block_ends_by_itself_when_its_time_is_over(relay: Stopping):
    relay.say("block/add", kind="ip", value="198.51.100.0/24", **{"for": "60s"})
    assert relay.call().heard == b"421 4.7.1 Your address is blocked for now\r\n"
    relay.say("block/add", kind="ip", value="198.51.100.1")
    assert relay.call().heard == b"554 5.7.1 Your address is blocked\r\n"
    relay.say("block/remove", kind="ip", value="198.51.100.1")
    assert relay.call().closed
    relay.reactor.wait(61)
    assert relay.node.directory.blocks.all() == []
    assert relay.send().startswith("250 ")


def test_a_message_that_is_being_made_durable_is_answered_before_its_session_is_cut(tmp_path: Path):
    receiving = Receiving(tmp_path)
    client, heard = receiving.send(HEAD + b"hello")
    session = receiving.session(client)
    assert heard == "" and receiving.door.barred(session) is None
    receiving.done(receiving.directory.blocks.add(Block("account", "crm", "spam", "anna", 0.0)))
    word = receiving.door.barred(session)
    assert word is not None
    session.cut(word)
    receiving.reactor.pump()
    assert client.heard == b"" and not client.closed
    receiving.commit()
    first, last = client.heard.decode().splitlines()
    assert first.startswith("250 2.0.0 queued") and last == "421 4.7.1 The account is suspended" and client.closed
    receiving.close()


def test_what_is_queued_of_a_blocked_account_waits_and_goes_when_it_is_unblocked(relay: Stopping):
    relay.say("shaping/suspend", all=True)
    relay.submit()
    relay.submit(port=2526)
    hit = relay.say("block/add", kind="account", value="crm", dry_run=True)
    assert (hit["queued"], hit["sessions"]) == (1, 1)
    assert hit["sample"]["queues"] == [{"queue": "crm/bulk/x.example", "count": 1}]
    relay.say("block/add", kind="account", value="crm")
    relay.say("shaping/resume", all=True)
    relay.later(1, lambda: len(relay.mx.got) == 1)
    assert "account crm is blocked by anna: a test" in relay.why("x.example")
    relay.say("block/remove", kind="account", value="crm")
    relay.later(1, lambda: len(relay.mx.got) == 2)


def test_mail_of_a_blocked_connection_that_is_queued_waits(relay: Stopping):
    relay.say("shaping/suspend", all=True)
    relay.submit()
    name = "relay:198.51.100.0/24"
    hit = relay.say("block/add", kind="connection", value=name, dry_run=True)
    assert hit["queued"] == 1 and hit["connections"] == 1
    relay.say("block/add", kind="connection", value=name)
    relay.say("shaping/resume", all=True)
    relay.reactor.wait(5)
    assert relay.mx.got == []
    relay.say("block/remove", kind="connection", value=name)
    relay.later(900, lambda: relay.mx.got)


def test_a_blocked_domain_holds_its_own_mail_and_no_other_of_the_same_account_and_site(relay: Stopping):
    relay.say("shaping/suspend", all=True)
    for to in ("b@x.example", "b@z.example"):
        relay.submit(to)
    relay.say("block/add", kind="domain", value="z.example")
    relay.say("shaping/resume", all=True)
    relay.later(1, lambda: relay.mx.got)
    relay.reactor.wait(5)
    assert [to for _, to, _ in relay.mx.got] == ["b@x.example"]
    client = relay.call()
    client.say(b"MAIL FROM:<a@crm.example>\r\n")
    assert client.say(b"RCPT TO:<b@Z.example>\r\n").startswith("550 5.7.1 Mail to z.example")
    assert relay.say("block/check", value="x@z.example")["blocked"]
    relay.say("block/remove", kind="domain", value="z.example")
    relay.later(1, lambda: len(relay.mx.got) == 2)


def test_a_suspended_pool_holds_its_mail_and_its_sources_serve_other_pools(relay: Stopping):
    relay.say("shaping/suspend", pool="one")
    relay.submit()
    relay.submit(port=2526)
    relay.submit(port=2526)
    relay.later(1, lambda: len(relay.mx.got) == 2)
    assert {source for _, source in relay.reactor.dialled} == {"127.0.0.11", "127.0.0.12"}
    assert "pool one is suspended until it is lifted by anna: a test" in relay.why("x.example")
    assert relay.say("shaping/resume", pool="one", dry_run=True)["queued"] == 1
    relay.say("shaping/resume", pool="one")
    relay.later(1, lambda: len(relay.mx.got) == 3)


def test_a_suspended_site_holds_its_mail_only_survives_a_restart_and_ends_by_itself(relay: Stopping, tmp_path: Path):
    relay.say("block/add", kind="site", value="y.example", **{"for": "1h"})
    relay.submit("b@y.example")
    relay.submit()
    relay.later(1, lambda: relay.mx.got)
    assert [(row["kind"], row["value"]) for row in relay.say("block/list")] == [("site", "203.0.113.2:25")]
    assert relay.other.got == []
    relay.stop()
    again = Stopping(tmp_path)
    again.later(1, lambda: "suspended for another" in again.why("y.example"))
    assert again.other.got == []
    again.later(3600, lambda: again.other.got)
    assert again.node.reactions.all() == []
    again.stop()


def test_a_suspended_account_holds_those_below_it_too(relay: Stopping):
    relay.reactor.until(relay.node.directory.change_account("shop", parent="crm").done)
    relay.say("shaping/suspend", account="crm")
    relay.submit(port=2526)
    relay.reactor.wait(3)
    assert relay.mx.got == [] and "account crm is suspended" in relay.why("x.example")
    relay.say("shaping/resume", account="crm")
    relay.later(1, lambda: relay.mx.got)


def test_a_limit_by_hand_holds_for_its_time(relay: Stopping):
    relay.say("shaping/limit", at="x.example", rate="1/h", **{"for": "2h"})
    for _ in range(3):
        relay.submit()
    relay.reactor.wait(60)
    assert len(relay.mx.got) <= 1
    assert "limit by hand" in relay.why("x.example") or "in line" in relay.why("x.example")
    relay.later(2 * 3600, lambda: len(relay.mx.got) == 3)


def test_a_blocked_source_gives_its_mail_to_others_and_its_idle_sessions_end(relay: Stopping):
    for _ in range(2):
        relay.submit(port=2526)
    relay.reactor.until(lambda: len(relay.mx.got) == 2)
    assert len(relay.mx.sessions) == 2
    relay.say("block/add", kind="source", value="s2")
    assert len(relay.mx.sessions) == 1
    assert [(row["state"], row["by"]) for row in relay.node.operations.sources()] == [
        ("in use", ""),
        ("blocked", "anna"),
    ]
    for _ in range(3):
        relay.submit(port=2526)
    relay.reactor.until(lambda: len(relay.mx.got) == 5)
    assert relay.reactor.dialled[2:] in ([], [("203.0.113.1", "127.0.0.11")])


def test_a_dry_run_counts_and_changes_nothing(relay: Stopping):
    client = relay.call()
    hit = relay.say("block/add", kind="ip", value="198.51.100.1", dry_run=True)
    assert (hit["sessions"], hit["queued"], hit["sample"]["sessions"][0]["peer"]) == (1, 0, "198.51.100.1")
    assert relay.say("drain/on", dry_run=True)["sessions"] == 1
    assert relay.say("shaping/suspend", at="x.example", dry_run=True)["dry_run"]
    assert not client.closed and relay.node.directory.blocks.all() == [] and relay.node.reactions.all() == []


def test_who_submits_is_counted_before_he_is_stopped_and_what_is_queued_is_not_meant(relay: Stopping):
    relay.say("shaping/suspend", all=True)
    relay.submit()
    client = relay.call()
    hit = relay.say("account/suspend", name="crm", dry_run=True)
    assert hit == {
        "dry_run": True,
        "sessions": 2,
        "connections": 0,
        "sample": {"sessions": hit["sample"]["sessions"], "connections": []},
    }
    assert [row["account"] for row in hit["sample"]["sessions"]] == ["crm", "crm"] and not client.closed
    assert relay.node.directory.account("crm").state == "active"


def test_a_drain_of_a_source_tells_which_pools_have_no_other(relay: Stopping):
    for source, alone in (("s1", ["one"]), ("s2", [])):
        assert relay.say("source/drain", name=source, dry_run=True)["pools_of_it_alone"] == alone
    assert [row["state"] for row in relay.node.operations.sources()] == ["in use", "in use"]
    relay.say("source/drain", name="s2")
    assert relay.say("source/drain", name="s1", dry_run=True)["pools_of_it_alone"] == ["one", "two"]
    with pytest.raises(InputError, match="no source 's3'"):
        relay.say("source/drain", name="s3", dry_run=True)


@pytest.mark.parametrize(
    ("subject", "queued"), [("account:crm", "queued"), ("domain:crm.example", "deliveries"), ("domain:x", "deliveries")]
)
def test_a_hold_tells_how_much_is_queued_for_whom_it_holds(relay: Stopping, subject: str, queued: str):
    relay.say("shaping/suspend", all=True)
    relay.submit()
    assert relay.say("reputation/hold", subject=subject, dry_run=True)[queued] == (0 if subject == "domain:x" else 1)
    assert relay.node.reputation.all(bad=True) == []


def test_what_a_login_submitted_is_held_by_its_name(relay: Stopping):
    relay.say("shaping/suspend", all=True)
    relay.submit()
    assert relay.say("queue/hold", connection="elsewhere", dry_run=True)["deliveries"] == 0
    assert relay.say("queue/hold", connection="relay:198.51.100.0/24", dry_run=True)["deliveries"] == 1


def test_a_reaction_is_lifted_after_a_look_at_what_it_holds(relay: Stopping):
    relay.say("shaping/suspend", at="x.example")
    relay.submit()
    (active,) = relay.node.reactions.all()
    dry = relay.say("shaping/lift", id=active.id, dry_run=True)
    assert (dry["lifts"][0]["reply"], dry["queued"]) == ("a test", 1) and relay.node.reactions.all()
    with pytest.raises(InputError, match="there is no reaction 99"):
        relay.say("shaping/lift", id=99, dry_run=True)


def test_a_reload_is_tried_before_it_is_done(relay: Stopping, tmp_path: Path):
    file = tmp_path / "relayd.toml"
    assert relay.say("config/reload", dry_run=True) == {"dry_run": True, "changed": []}
    file.write_text(file.read_text().replace('pool = "two"', 'pool = "one"'))
    assert relay.say("config/reload", dry_run=True)["changed"] == ["stream"]
    assert relay.node.config.stream["other"].pool == "two"
    file.write_text(file.read_text().replace('pool = "one"', 'pool = "onc"'))
    with pytest.raises(InputError, match="onc"):
        relay.say("config/reload", dry_run=True)
    assert relay.node.health.reload_fault == ""


def test_a_drain_is_told_and_finishes_the_message_that_is_coming_in(relay: Stopping):
    client = relay.call()
    client.say(MAIL)
    relay.say("drain/on")
    assert relay.node.health.report()["faults"] == ["relayd takes no new mail, anna drains it: a test"]
    client.say(MESSAGE)
    relay.reactor.until(lambda: client.heard)
    assert client.heard.startswith(b"250 ")
    assert client.say(MAIL).startswith("421 4.4.5")
    assert relay.call().heard.startswith(b"421 4.4.5")
    relay.say("drain/off")
    assert relay.node.health.report()["ok"] and relay.send().startswith("250 ")


@pytest.mark.parametrize(
    ("verb", "given", "words"),
    [
        ("block/add", {"kind": "account", "value": "crn"}, "no account 'crn' .did you mean .crm"),
        ("block/add", {"kind": "source", "value": "s3"}, "no source 's3'"),
        ("block/remove", {"kind": "account", "value": "crm"}, "is not blocked"),
        ("shaping/suspend", {}, "say what: --at SITE"),
        ("shaping/suspend", {"all": True, "pool": "one"}, "leave out the rest"),
        ("shaping/suspend", {"pool": "one", "account": "crm"}, "cannot be given together"),
        ("shaping/limit", {"at": "x.example"}, "say how much is allowed"),
        ("shaping/resume", {"at": "x.example"}, "nothing is imposed on this by hand"),
        ("drain/off", {}, "is not draining"),
        ("session/drop", {}, "say which"),
        ("session/drop", {"id": "i99999"}, "there is no session i99999"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do(relay: Stopping, verb: str, given: Any, words: str):
    with pytest.raises(InputError, match=words):
        relay.say(verb, **given)


def test_every_verb_that_stops_somebody_is_signed_and_has_a_dry_run():
    for name in ("block/add", "drain/on", "shaping/suspend", "shaping/limit", "session/drop"):
        verb = BY_PATH[f"/v1/{name}"]
        assert verb.signed and verb.role == "operate" and verb.effect == "change"
        assert {"reason", "dry_run"} <= {arg.name for arg in verb.args}
        assert next(arg for arg in verb.args if arg.name == "reason").required


def test_a_suspended_accounts_sessions_stay_and_go_on_when_it_is_resumed_one_of_bad_repute_is_cut(relay: Stopping):
    client = relay.call()
    relay.say("account/suspend", name="crm")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("450 4.7.1") and not client.closed
    relay.say("account/resume", name="crm")
    assert client.say(b"MAIL FROM:<a@crm.example>\r\n").startswith("250 ")
    relay.say("reputation/block", subject="account:crm")
    assert client.closed and client.heard.endswith(b"421 4.7.1 The account is suspended\r\n")
