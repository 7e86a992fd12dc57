"""The courier: what becomes of deliveries, towards scripted mail servers, without sockets or real time."""

from collections import Counter
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from relayd.delivery.outcomes import UNANSWERED, Rules
from relayd.delivery.routing import Policy, Router, StaticRoute
from relayd.delivery.session import Timeouts
from relayd.egress.pools import Pools, Source
from relayd.identity import show
from relayd.queue.reasons import why
from relayd.queue.retry import Schedule
from relayd.queue.state import Stream
from relayd.records import decode, encode
from relayd.resolver import LookupFailed, NoSuchDomain
from relayd.shaping import rules
from relayd.shaping.limits import rate
from relayd.suppression import entry
from relayd.warmup import Plan, Warmup
from tests.harness import CLOSE, HANG, START, Delivering, Host, Server, outcome_settings


def once(*answers: str):
    """A script that gives these answers in turn, then the last for ever."""
    left = list(answers)

    def say(server: Server, line: str) -> str:
        return left.pop(0) if len(left) > 1 else left[0]

    return say


# The straight way.


def test_a_delivery_arrives_with_its_record_and_leaves_the_spool():
    relay = Delivering()
    (delivery,) = relay.send(content=b"hello\r\n.dot\r\n")
    assert relay.mx.got == [("a@crm.example", "b@x.example", b"Subject: one\r\n\r\nhello\r\n..dot\r\n")]
    assert relay.spool.rows == {} and relay.spool.kinds() == ["Delivery"]
    seen = relay.evidence
    assert (seen.stage, seen.source, seen.mx, seen.peer) == ("dot", "s1", "mx1.x.example", "203.0.113.1:25")
    assert seen.local == "192.0.2.1:40000" and seen.reply.code == 250 and seen.nth == 1
    assert relay.courier.outcomes.totals["delivered"] == 1
    assert delivery.id not in relay.scheduler.queues[delivery.queue].loaded


def test_the_session_is_bound_to_its_source_and_says_its_name():
    relay = Delivering(sources={"s1": "192.0.2.1", "s2": "192.0.2.2"})
    relay.send(2)
    assert {bind for _, bind in relay.reactor.dialled} == {"192.0.2.1", "192.0.2.2"}
    said = {server.transport.there[0]: server.heard[0] for server in relay.mx.seen}
    assert said == {"192.0.2.1": "EHLO s1.relay.example", "192.0.2.2": "EHLO s2.relay.example"}


def test_nothing_leaves_memory_before_its_outcome_is_durable():
    relay = Delivering()
    relay.spool.disk = False
    (delivery,) = relay.send()
    assert relay.mx.got and delivery.id in relay.scheduler.queues[delivery.queue].loaded
    relay.wait(700)  # the walk starts over: the row is read again, and not sent again
    assert len(relay.mx.got) == 1
    relay.spool.flush()
    relay.wait(2)
    assert relay.spool.kinds() == ["Delivery"] and relay.scheduler.memory.loaded == 0


def test_a_spool_that_cannot_be_read_is_asked_again_later():
    relay = Delivering()
    relay.spool.fault = OSError("disk gone")
    relay.delivery()
    relay.wait(5)
    assert relay.mx.got == []
    relay.spool.fault = None
    relay.wait(30)
    assert len(relay.mx.got) == 1


# Sessions kept and reused.


def test_an_idle_session_is_used_again_within_its_time_and_closed_after():
    relay = Delivering()
    relay.send()
    relay.wait(3)
    relay.send()
    assert len(relay.mx.seen) == 1 and len(relay.mx.got) == 2
    relay.wait(8)
    assert relay.mx.sessions == [] and relay.mx.seen[0].heard[-1] == "QUIT"
    relay.send()
    assert len(relay.mx.seen) == 2


def test_the_next_transaction_goes_along_with_the_last_dot():
    relay = Delivering(limit=1)
    relay.send(3)
    together = [read for read in relay.mx.seen[0].reads if b"\r\n.\r\nMAIL FROM" in read]
    assert len(together) == 2 and all(read.endswith(b"DATA\r\n") for read in together)
    assert len(relay.mx.seen) == 1 and len(relay.mx.got) == 3


def test_a_peer_without_pipelining_gets_one_command_at_a_time():
    relay = Delivering(limit=1)
    relay.mx.offers = ("8BITMIME",)
    relay.send(2)
    assert len(relay.mx.got) == 2
    assert all(read.count(b"\r\n") == 1 for read in relay.mx.seen[0].reads if read[:4] in (b"MAIL", b"RCPT", b"DATA"))


def test_a_session_carries_no_more_than_it_may():
    relay = Delivering(limit=1, deliveries_per_session=2)
    relay.send(5)
    assert len(relay.mx.got) == 5 and len(relay.mx.seen) == 3
    carried = [sum(line.startswith("MAIL") for line in server.heard) for server in relay.mx.seen]
    assert carried == [2, 2, 1]


def test_evidence_counts_the_deliveries_of_a_session():
    relay = Delivering(limit=1)
    relay.send(3)
    assert [record.evidence.nth for record in relay.spool.records] == [1, 2, 3]


def test_a_kept_session_that_the_peer_closed_costs_no_attempt():
    relay = Delivering()
    relay.send()
    relay.mx.seen[0].host.says["MAIL"] = lambda server, line: CLOSE if server is relay.mx.seen[0] else "250 ok"
    relay.send()
    assert relay.spool.kinds() == ["Delivery", "Delivery"]
    assert relay.spool.records[-1].attempts == 1 and len(relay.mx.seen) == 2


def test_a_peer_that_hangs_up_at_the_first_mail_costs_an_attempt_even_with_the_next_delivery_at_hand():
    relay = Delivering(limit=1)
    relay.mx.says["MAIL"] = CLOSE
    relay.send(2)
    assert relay.spool.kinds() == ["TransientFailure", "TransientFailure"]
    assert relay.evidence.stage == "mail"
    assert len(relay.mx.seen) == 2


def test_a_peer_that_says_goodbye_behind_its_ehlo_is_not_called_again_at_once():
    relay = Delivering()
    relay.mx.says["EHLO"] = "250 mx.example\r\n421 4.3.2 too busy"
    relay.send(3)
    relay.wait(30)
    assert len(relay.reactor.dialled) == 3
    assert relay.spool.kinds() == ["TransientFailure"] * 3
    assert relay.evidence.reply.code == 421


def test_a_delivery_waits_for_no_busy_session_while_others_may_be_opened():
    relay = Delivering(limit=4)
    relay.send()
    relay.mx.says["MAIL"] = HANG
    made = relay.send(8)
    assert len(relay.mx.sessions) == 3
    assert "all 3 sessions" in why(relay.scheduler, made[0].queue, relay.reactor.seconds())


def test_priority_mail_is_not_put_behind_what_a_session_has_under_way_while_another_is_being_opened():
    relay = Delivering(limit=4)
    relay.mx.says["RCPT"] = HANG
    relay.send()
    (bulk,) = relay.mx.sessions
    relay.mx.says["BANNER"] = HANG
    relay.send(to="urgent@x.example", stream="urgent")
    del relay.mx.says["RCPT"]
    relay.mx.says["DOT"] = lambda server, line: HANG if server is bulk else "250 ok"
    bulk.wake()
    relay.reactor.pump()
    del relay.mx.says["BANNER"]
    relay.mx.sessions[-1].wake()
    relay.reactor.pump()
    assert relay.spool.kinds() == ["Delivery"] and len(relay.mx.sessions) == 2


def test_mail_leaves_by_the_pool_that_its_stream_has_for_the_site_s_hosts():
    relay = Delivering(sources={"s1": "192.0.2.1", "s2": "192.0.2.2"}, weights={"s1": 1})
    relay.pools.pools["abroad"] = {"s2": 1}
    relay.scheduler.streams = lambda account, name: Stream(pools={"*.y.example": "abroad"})
    relay.host("y.example", "203.0.113.9")
    relay.send()
    assert relay.evidence.source == "s1"
    relay.send(to="b@y.example")
    assert (relay.evidence.source, relay.evidence.mx) == ("s2", "mx9.y.example")


def test_priority_mail_passes_bulk_mail_that_a_slow_server_keeps_every_session_busy_with():
    relay = Delivering(limit=4)
    relay.mx.says["RCPT"] = lambda server, line: "250 ok" if "urgent@" in line else HANG
    relay.send(500)
    assert len(relay.mx.sessions) == 3
    for _ in range(60):
        (urgent,) = relay.send(to="urgent@x.example", stream="urgent")
        assert urgent.id not in relay.spool.rows and relay.spool.kinds()[-1] == "Delivery"
        relay.wait(1)
    assert len(relay.mx.sessions) == 4 and len(relay.spool.rows) == 500


def test_priority_mail_passes_bulk_mail_that_waits_for_the_rate_of_its_path():
    relay = Delivering(rate=rate("10/s"))
    relay.send(500)
    for second in range(1, 20):
        (urgent,) = relay.send(to="urgent@x.example", stream="urgent")
        relay.wait(0.11)
        assert urgent.id not in relay.spool.rows
        relay.wait(0.89)
        assert 10 * second - 1 <= len(relay.spool.kinds()) <= 1 + 10 * second  # no more than the rate, and no less


# What a peer answers.


def test_a_transient_refusal_is_tried_again_by_the_schedule_with_the_same_source():
    relay = Delivering(sources={"s1": "192.0.2.1", "s2": "192.0.2.2"})
    relay.mx.says["RCPT"] = "451 4.7.1 greylisted"
    (delivery,) = relay.send()
    first = relay.evidence.source
    row = relay.spool.rows[delivery.id]
    assert relay.spool.kinds() == ["TransientFailure"]
    assert row.attempts == 1 and row.source == first and row.last == "rcpt: 451 4.7.1 greylisted"
    assert 255 <= row.due - relay.reactor.seconds() <= 345
    del relay.mx.says["RCPT"]
    relay.wait(360)
    assert relay.spool.kinds() == ["TransientFailure", "Delivery"]
    assert relay.evidence.source == first and relay.spool.records[-1].attempts == 2


def test_a_permanent_refusal_ends_only_that_recipient():
    relay = Delivering(limit=1)
    relay.mx.says["RCPT"] = lambda server, line: "550 5.1.1 nobody" if "nobody@" in line else "250 ok"
    relay.send()
    relay.send(to="nobody@x.example")
    relay.send()
    assert relay.spool.kinds() == ["Delivery", "Bounce", "Delivery"] and relay.spool.rows == {}
    assert relay.spool.records[1].evidence.reply.text == "nobody"


@pytest.mark.parametrize(
    ("said", "kind", "cls"),
    [
        ("550 5.7.1 Your IP address is on the Spamhaus blocklist", "TransientFailure", "ip_blocked"),
        ("554 5.7.1 This message looks like spam", "Bounce", "content_spam"),
        ("550 5.1.1 blocked: your IP address has a poor reputation", "TransientFailure", "reputation"),
        ("450 4.1.1 user unknown", "TransientFailure", "recipient_unknown"),
    ],
)
def test_a_refusal_is_kept_or_bounced_by_what_it_means_and_its_record_says_so(said, kind, cls):
    relay = Delivering()
    relay.mx.says["RCPT"] = said
    (delivery,) = relay.send()
    assert relay.spool.kinds() == [kind] and relay.evidence.cls == cls
    assert decode(encode(relay.spool.records[0])).evidence == relay.evidence
    assert b'"class":' in encode(relay.spool.records[0])
    assert (delivery.id in relay.spool.rows) == (kind == "TransientFailure")


def test_a_rule_of_reactions_goes_before_what_a_refusal_means():
    rule = rules.parse("known", {"text": "blocklist", "action": "bounce"})
    relay = Delivering()
    relay.scheduler.restraints.reactions.reconfigure(rules.Rules([rule]))
    relay.mx.says["RCPT"] = "550 5.7.1 Your IP address is on a blocklist"
    relay.send()
    assert relay.spool.kinds() == ["Bounce"] and relay.evidence.cls == "ip_blocked"


def test_a_refusal_for_our_address_takes_sessions_from_its_path():
    relay = Delivering()
    relay.mx.says["RCPT"] = "550 5.7.1 Your IP address is on a blocklist"
    relay.send(4)
    (path,) = relay.scheduler.sites["mx1.x.example"].paths.values()
    assert path.window < 4


def test_a_domain_that_is_not_there_has_a_class_too():
    relay = Delivering()
    relay.names.domains["gone.example"] = NoSuchDomain("gone.example")
    relay.send(to="a@gone.example")
    assert relay.spool.kinds() == ["Bounce"] and relay.evidence.cls == "domain_unknown"


def test_a_refusal_of_the_content_is_told_with_its_stage():
    relay = Delivering()
    relay.mx.says["DOT"] = "554 5.7.1 spam"
    relay.send()
    assert relay.spool.kinds() == ["Bounce"] and relay.evidence.stage == "dot"


def test_a_connection_lost_after_the_final_dot_is_unknown_and_tried_again():
    relay = Delivering()
    relay.mx.says["DOT"] = CLOSE
    (delivery,) = relay.send()
    assert relay.spool.kinds() == ["Unknown"] and relay.spool.rows[delivery.id].attempts == 1
    del relay.mx.says["DOT"]
    relay.wait(400)
    assert relay.spool.kinds() == ["Unknown", "Delivery"]


def test_a_421_takes_the_delivery_under_way_and_gives_back_the_next():
    relay = Delivering(limit=1)
    relay.mx.says["MAIL"] = once("421 4.3.2 closing", "250 ok")
    relay.send(2)
    assert relay.spool.kinds() == ["TransientFailure", "Delivery"]
    assert [record.attempts for record in relay.spool.records] == [1, 1]


@pytest.mark.parametrize(
    ("offers", "more", "words"),
    [
        (("SIZE 10",), {}, "the server takes at most 10"),
        (("PIPELINING",), {"smtputf8": True}, "SMTPUTF8"),
    ],
)
def test_what_the_peer_cannot_take_is_a_permanent_failure_with_words(offers, more, words):
    relay = Delivering()
    relay.mx.offers = offers
    relay.send(**more)
    assert relay.spool.kinds() == ["Bounce"] and words in relay.evidence.error
    assert not any(line.startswith("MAIL") for line in relay.mx.seen[0].heard)


# Connecting.


def test_a_host_that_refuses_is_passed_over_for_the_next():
    relay = Delivering()
    relay.mx.open = 0
    second = relay.host("x.example", "203.0.113.2")
    relay.send()
    assert [host for host, _ in relay.reactor.dialled] == ["203.0.113.1", "203.0.113.2"]
    assert len(second.got) == 1 and relay.evidence.peer == "203.0.113.2:25"


@pytest.mark.parametrize("banner", ["421 4.3.2 busy", "554 5.7.1 no", CLOSE, "nonsense"])
def test_a_host_that_greets_with_a_refusal_is_passed_over_for_the_next(banner):
    relay = Delivering()
    relay.mx.says["BANNER"] = banner
    second = relay.host("x.example", "203.0.113.2")
    relay.send()
    assert len(second.got) == 1 and relay.spool.kinds() == ["Delivery"]


def test_a_banner_of_554_everywhere_rests_the_path_and_bounces_nothing():
    relay = Delivering()
    relay.mx.says["BANNER"] = "554 5.7.1 your address is blocked"
    (delivery,) = relay.send()
    assert relay.spool.kinds() == ["TransientFailure"]
    (path,) = relay.scheduler.sites["mx1.x.example"].paths.values()
    assert path.failures == 1 and "your address is blocked" in path.reason
    assert relay.spool.rows[delivery.id].attempts == 1


def test_a_site_that_refuses_everywhere_rests_and_what_is_on_disk_waits_untouched():
    relay = Delivering(limit=1)
    relay.mx.open = 0
    made = relay.send(2)
    assert relay.spool.kinds() == ["TransientFailure"] * 2
    assert relay.evidence.stage == "connect" and "refused" in relay.evidence.error.lower()
    later = relay.delivery()
    relay.courier.received((later,))
    relay.wait(40)
    assert len(relay.reactor.dialled) == 1 and relay.spool.rows[later.id].attempts == 0
    assert "rests, next try in" in why(relay.scheduler, made[0].queue, relay.reactor.seconds())
    relay.mx.open = 1000
    relay.wait(40)
    assert len(relay.mx.got) == 1 and later.id not in relay.spool.rows


def test_a_path_that_failed_is_tried_with_one_session_first():
    relay = Delivering()
    relay.mx.open = 0
    relay.send()
    for _ in range(30):
        relay.delivery()
    relay.mx.open = None
    relay.reactor.dialled.clear()
    relay.wait(75)
    assert len(relay.reactor.dialled) == 1


def test_a_site_that_refuses_one_more_connection_is_capped_and_not_rested():
    relay = Delivering(limit=5)
    relay.mx.open = 2
    relay.mx.says["MAIL"] = HANG
    relay.send(5, stream="urgent")
    assert len(relay.mx.sessions) == 2 and relay.spool.records == []
    (path,) = relay.scheduler.sites["mx1.x.example"].paths.values()
    assert path.rest_until == 0 and path.window == 2
    relay.mx.says["MAIL"] = "250 ok"
    for server in list(relay.mx.sessions):
        server.wake()
    relay.reactor.pump()
    relay.wait(2)
    assert relay.mx.open == 2 and relay.spool.kinds() == ["Delivery"] * 5


def test_a_source_that_is_not_on_the_machine_hands_its_deliveries_to_another():
    relay = Delivering(sources={"s1": "192.0.2.1", "s2": "192.0.2.2"})
    relay.reactor.missing.add("192.0.2.1")
    relay.send(4)
    assert relay.spool.kinds() == ["Delivery"] * 4
    assert {record.evidence.source for record in relay.spool.records} == {"s2"}
    assert [record.attempts for record in relay.spool.records] == [1] * 4
    assert "s1" in relay.pools.out_of_use


def test_a_drained_source_ends_what_it_carries_and_hands_on_the_rest():
    relay = Delivering(sources={"s1": "192.0.2.1", "s2": "192.0.2.2"}, limit=1)
    relay.mx.says["DOT"] = HANG
    made = relay.send(8)
    assert len(relay.mx.got) == 2 and relay.spool.records == []
    (session,) = (one for one in relay.courier.sessions if one.path.source == "s1")
    carried = {show(delivery.id) for delivery in made if session.carries(delivery.id)}
    relay.pools.drained["s1"] = "moving (anna)"
    relay.scheduler.source_gone("s1", relay.reactor.seconds())
    relay.mx.says["DOT"] = "250 2.0.0 taken"
    for server in list(relay.mx.sessions):
        server.wake()
    relay.reactor.pump()
    relay.send(4)
    assert relay.spool.kinds() == ["Delivery"] * 12 and not relay.spool.rows
    assert {record.delivery for record in relay.spool.records if record.evidence.source == "s1"} == carried
    relay.wait(30)
    assert not relay.courier.sessions


def test_a_retry_of_a_source_drained_meanwhile_goes_by_another():
    relay = Delivering(sources={"s1": "192.0.2.1", "s2": "192.0.2.2"})
    relay.mx.says["RCPT"] = "450 4.2.1 later"
    relay.send()
    first = relay.evidence.source
    relay.pools.drained[first] = "moving (anna)"
    relay.scheduler.source_gone(first, relay.reactor.seconds())
    del relay.mx.says["RCPT"]
    relay.wait(400)
    assert relay.spool.kinds() == ["TransientFailure", "Delivery"]
    assert {first, relay.evidence.source} == {"s1", "s2"}


def test_a_delivery_that_was_looked_up_while_its_source_was_drained_goes_by_another():
    relay = Delivering(sources={"s1": "192.0.2.1", "s2": "192.0.2.2"})
    answers = []
    relay.courier.suppressions = SimpleNamespace(
        suspects=lambda lists, address: True, look_up=lambda lists, address, now, done: answers.append(done)
    )
    relay.send()
    (first,) = {name for name, path in relay.scheduler.sites["mx1.x.example"].paths.items() if path.sessions}
    relay.pools.drained[first] = "moving (anna)"
    relay.scheduler.source_gone(first, relay.reactor.seconds())
    answers.pop()(None)
    relay.reactor.pump()
    assert relay.spool.kinds() == ["Delivery"] and relay.evidence.source != first


def falling_back(after: int) -> Delivering:
    """A relay whose mail goes to 203.0.113.9 when it has failed so often."""
    rules = Rules(Schedule((300.0, 600.0), 86400.0), "none", "spare", after)
    relay = Delivering(rules={"bulk": rules})
    relay.reactor.hosts["203.0.113.9"] = Host()
    hops = {"fallback:spare": StaticRoute("203.0.113.9", 25)}
    relay.courier.router = Router(relay.names, hops.get, 25, lambda *of: Policy(), relay.reactor.seconds)  # type: ignore[arg-type]
    return relay


@pytest.mark.parametrize("said", [{"RCPT": "450 4.2.1 later"}, {"BANNER": "421 4.3.2 busy"}])
def test_what_failed_so_often_goes_by_the_fallback_and_the_evidence_shows_it(said: dict[str, str]):
    relay = falling_back(2)
    relay.mx.says.update(said)
    (delivery,) = relay.send()
    relay.wait(1000)
    assert relay.spool.kinds() == ["TransientFailure", "TransientFailure", "Delivery"] and not relay.spool.rows
    assert [record.evidence.mx for record in relay.spool.records] == ["mx1.x.example"] * 2 + ["203.0.113.9"]
    second, last = relay.spool.records[1:]
    assert last.time - second.time < 30 and last.delivery == show(delivery.id)


def test_what_the_dns_does_not_answer_for_goes_by_the_fallback_too():
    relay = falling_back(1)
    relay.names.domains["x.example"] = LookupFailed("no server answered")
    relay.send()
    relay.wait(60)
    assert relay.spool.kinds() == ["TransientFailure", "Delivery"]


def test_what_is_refused_for_good_never_goes_by_the_fallback():
    relay = falling_back(1)
    relay.mx.says["RCPT"] = "550 5.1.1 no such user"
    relay.send()
    relay.wait(60)
    assert relay.spool.kinds() == ["Bounce"] and not relay.reactor.hosts["203.0.113.9"].seen


def test_all_mail_of_a_fallback_that_is_configured_no_more_goes_by_its_own_domains_at_once():
    relay = falling_back(1)
    relay.mx.says["RCPT"] = "450 4.2.1 later"
    relay.send(200)
    relay.courier.router = relay.router
    del relay.mx.says["RCPT"]
    relay.courier.outcomes.settings = outcome_settings({"bulk": Rules(Schedule((300.0, 600.0), 86400.0), "none")})
    relay.wait(60)
    assert Counter(relay.spool.kinds()) == {"TransientFailure": 400, "Delivery": 200} and not relay.spool.rows
    assert "[fallback.spare] is not in the configuration" in relay.spool.records[200].evidence.words()


def test_a_pool_without_any_source_holds_its_mail_and_says_so():
    relay = Delivering()
    relay.reactor.missing.add("192.0.2.1")
    (delivery,) = relay.send()
    assert relay.spool.records == []
    assert "no source of pool 'default'" in why(relay.scheduler, delivery.queue, relay.reactor.seconds())
    relay.reactor.missing.clear()
    relay.pools.out_of_use.clear()
    relay.wait(15)
    assert relay.spool.kinds() == ["Delivery"]


def test_a_site_of_a_family_that_the_source_lacks_is_told_as_such():
    relay = Delivering()
    relay.host("six.example", "2001:db8::1")
    relay.send(to="b@six.example")
    assert relay.spool.kinds() == ["TransientFailure"] and relay.reactor.dialled == []
    assert "family" in relay.evidence.error


# DNS.


def test_a_domain_that_does_not_exist_bounces():
    relay = Delivering()
    relay.names.domains["no.example"] = NoSuchDomain("no such domain")
    relay.send(2, to="b@no.example")
    assert relay.spool.kinds() == ["Bounce", "Bounce"] and relay.evidence.stage == "dns"
    assert relay.evidence.reply.enhanced == "5.1.2"


def test_a_domain_that_cannot_be_looked_up_now_rests():
    relay = Delivering()
    relay.names.domains["x.example"] = LookupFailed("no nameserver answers")
    first, second = relay.send(), relay.delivery()
    relay.courier.received((second,))
    relay.wait(30)
    assert relay.spool.kinds() == ["TransientFailure"] and relay.spool.rows[second.id].attempts == 0
    assert relay.names.asked == ["x.example"]
    assert "cannot be looked up" in why(relay.scheduler, first[0].queue, relay.reactor.seconds())
    relay.names.domains["x.example"] = [("mx1.x.example", ("203.0.113.1",))]
    relay.wait(40)
    assert relay.spool.kinds() == ["TransientFailure", "Delivery"]


def test_a_fault_of_ours_in_a_look_up_leaves_no_queue_waiting_for_ever():
    relay = Delivering()
    del relay.names.domains["x.example"]  # KeyError
    relay.send()
    assert relay.spool.kinds() == ["TransientFailure"] and relay.evidence.reply.code == 451


# TLS.


def test_a_failed_handshake_goes_on_in_clear_with_the_same_host_where_tls_may_fail():
    relay = Delivering()
    relay.mx.offers += ("STARTTLS",)
    relay.mx.handshake = CLOSE
    relay.send()
    assert relay.spool.kinds() == ["Delivery"] and relay.spool.records[0].attempts == 1
    assert len(relay.mx.seen) == 2 and "STARTTLS" not in relay.mx.seen[1].heard
    relay.wait(10)
    relay.send()
    assert "STARTTLS" not in relay.mx.seen[2].heard


@pytest.mark.parametrize("policy", ["encrypt", "verify"])
def test_a_failed_handshake_is_a_transient_failure_where_tls_must_be(policy):
    relay = Delivering(tls=policy)
    relay.mx.offers += ("STARTTLS",)
    relay.mx.handshake = CLOSE
    relay.send()
    assert relay.spool.kinds() == ["TransientFailure"] and relay.evidence.stage == "tls"
    assert relay.mx.got == []


def test_a_host_without_starttls_gets_nothing_where_tls_must_be():
    relay = Delivering(tls="encrypt")
    relay.send()
    assert relay.spool.kinds() == ["TransientFailure"] and relay.evidence.stage == "starttls"
    assert not any(line.startswith("MAIL") for line in relay.mx.seen[0].heard)


def test_hosts_remembered_as_unable_to_do_tls_are_forgotten_in_time():
    relay = Delivering()
    relay.mx.offers += ("STARTTLS",)
    relay.mx.handshake = CLOSE
    relay.send()
    relay.reactor.advance(86401)
    relay.reactor.pump()
    relay.send()
    assert "STARTTLS" in relay.mx.seen[-2].heard


# Time-outs.

_TIMES = Timeouts(
    banner=10, ehlo=11, helo=12, starttls=13, tls=14, auth=15, rset=17, mail=18, rcpt=19, data=20, body=21, dot=22
)
_STAGES = {
    "BANNER": ("banner", 10),
    "EHLO": ("ehlo", 11),
    "HELO": ("ehlo", 12),
    "STARTTLS": ("starttls", 13),
    "TLS": ("tls", 14),
    "MAIL": ("mail", 18),
    "RCPT": ("rcpt", 19),
    "DATA": ("data", 20),
    "DOT": ("dot", 22),
}


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("silent", _STAGES)
def test_every_stage_has_its_time_out_and_tells_where_it_was(silent, pipelining):
    stage, seconds = _STAGES[silent]
    relay = Delivering(timeouts=_TIMES, tls="encrypt" if silent == "TLS" else "may")
    relay.mx.offers = ("PIPELINING",) if pipelining else ()
    if silent in ("STARTTLS", "TLS"):
        relay.mx.offers += ("STARTTLS",)
    if silent == "HELO":
        relay.mx.says["EHLO"] = "502 what?"
    if silent == "TLS":
        relay.mx.handshake = HANG
    relay.mx.says[silent] = HANG
    relay.send()
    relay.wait(seconds - 1)
    assert relay.spool.records == []
    relay.wait(3)
    assert relay.spool.kinds() == ["Unknown" if silent == "DOT" else "TransientFailure"]
    assert relay.evidence.stage == stage and f"no answer within {seconds} s" in relay.evidence.error
    assert relay.mx.sessions == []


@pytest.mark.parametrize("silent", ["BANNER", "EHLO", "MAIL", "DOT"])
def test_a_peer_that_drips_bytes_gains_no_time(silent):
    relay = Delivering(timeouts=_TIMES)
    relay.mx.says[silent] = HANG
    relay.send()
    (server,) = relay.mx.seen
    for _ in range(_STAGES[silent][1] + 2):
        if relay.mx.sessions:
            server.transport.write(b"2")
        relay.wait(1)
    assert relay.mx.sessions == [] and len(relay.spool.records) == 1


def test_a_host_that_takes_the_call_and_says_nothing_is_given_up_after_the_connect_time():
    relay = Delivering(connect=7.0)
    relay.mx.open = None
    relay.send()
    relay.wait(9)
    assert relay.spool.kinds() == ["TransientFailure"] and relay.evidence.stage == "connect"


def test_each_command_to_a_slow_peer_has_its_own_time():
    relay = Delivering(timeouts=_TIMES, limit=1)
    relay.mx.offers = ()
    relay.mx.says["MAIL"] = HANG
    relay.send(4)
    for _ in range(4):
        relay.wait(12)
        relay.mx.says["MAIL"] = once("450 4.2.0 later", HANG)
        relay.mx.sessions[0].wake()
        relay.reactor.pump()
    assert len(relay.mx.seen) == 1 and relay.spool.kinds() == ["TransientFailure"] * 4
    assert {record.evidence.reply.code for record in relay.spool.records} == {450}


def test_a_peer_that_does_not_let_go_is_cut_off():
    relay = Delivering()
    relay.mx.says["DOT"] = "421 4.3.2 closing"
    relay.mx.says["MAIL"] = lambda server, line: _stop_taking(relay) or "250 ok"
    relay.send()
    relay.mx.seen[0].speak("354 go on\r\n421 closing")
    relay.reactor.pump()
    assert relay.courier.sessions == {}
    relay.wait(8)
    assert relay.mx.sessions == []


def _stop_taking(relay: Delivering) -> None:
    """From here on the peer reads nothing more of ours."""
    relay.mx.seen[0].transport.other.taking = False


# Bodies from files.


def test_a_body_in_a_file_is_streamed_as_the_peer_takes_it():
    relay = Delivering()
    content = b"".join(b"%07d\r\n" % n for n in range(60_000))
    relay.send(content=content, in_file=True)
    assert [got[2] for got in relay.mx.got] == [b"Subject: one\r\n\r\n" + content]
    assert relay.spool.kinds() == ["Delivery"]


def test_a_slow_disk_and_an_eager_transport_repeat_no_piece():
    relay = Delivering()
    relay.spool.bodies.held = held = []
    content = b"".join(b"%07d\r\n" % n for n in range(20_000))
    relay.send(content=content, in_file=True)
    while held:
        ours = relay.mx.seen[0].transport.other
        if ours.producer is not None:
            ours.producer.resumeProducing()  # as a transport does whenever its buffer is empty
        held.pop(0)()
        relay.reactor.pump()
    assert [got[2] for got in relay.mx.got] == [b"Subject: one\r\n\r\n" + content]


def test_a_peer_that_stops_taking_a_body_is_read_for_no_further_and_timed_out():
    relay = Delivering(timeouts=_TIMES)
    relay.mx.says["DATA"] = lambda server, line: _stop_taking(relay) or "354 go on"
    relay.send(content=b"x" * 76 + b"\r\n" * 500_000, in_file=True)
    assert relay.spool.bodies.reads <= 4
    assert len(relay.mx.seen[0].transport.other.pending) < 300_000
    for _ in range(25):
        if relay.mx.sessions:
            relay.mx.seen[0].transport.write(b"2")  # dripping gains nothing
        relay.wait(1)
    assert relay.spool.kinds() == ["TransientFailure"] and relay.evidence.stage == "data"
    assert relay.mx.sessions == []


def test_a_body_that_cannot_be_read_is_a_transient_failure_and_never_a_shorter_message():
    relay = Delivering()
    relay.send(content=b"", in_file=True)
    relay.wait(10)
    delivery = relay.delivery(in_file=True)
    relay.spool.bodies.files[delivery.message.id] = OSError(5, "Input/output error")
    relay.courier.received((delivery,))
    relay.reactor.pump()
    assert relay.spool.kinds() == ["Delivery", "TransientFailure"]
    assert "cannot be read: Input/output error" in relay.evidence.error and len(relay.mx.got) == 1


def test_a_body_file_that_has_lost_its_end_is_never_sent_as_a_shorter_message():
    relay = Delivering()
    delivery = relay.delivery(content=b"hello\r\nworld\r\n", in_file=True)
    relay.spool.bodies.files[delivery.message.id] = b"hello\r\n"
    relay.courier.received((delivery,))
    relay.reactor.pump()
    assert relay.mx.got == [] and relay.spool.kinds() == ["TransientFailure"]
    assert relay.evidence.error == "the message's body is 7 bytes shorter than it was"


def test_a_connection_lost_amid_a_body_ends_its_reading():
    relay = Delivering()
    relay.spool.bodies.held = held = []
    relay.send(content=b"hello\r\n", in_file=True)
    relay.mx.seen[0].transport.abortConnection()
    relay.reactor.pump()
    held.pop()()
    relay.reactor.pump()
    assert relay.spool.kinds() == ["TransientFailure"] and relay.mx.got == []


# Life ends.


def test_a_delivery_whose_life_is_over_expires_with_its_last_attempt():
    relay = Delivering(rules={"bulk": Rules(Schedule((300.0,), 400.0), "none")})
    relay.mx.says["RCPT"] = "451 4.2.0 later"
    relay.send()
    relay.wait(500)
    assert relay.spool.kinds()[-1] == "Expiration" and relay.spool.rows == {}
    assert relay.evidence.reply.code == 451


def test_deliveries_expire_though_their_path_rests():
    relay = Delivering(rules={"bulk": Rules(Schedule((7200.0,), 3600.0), "none")})
    relay.mx.open = 0
    relay.send()
    waiting = relay.delivery()
    relay.courier.received((waiting,))
    relay.wait(4000)
    assert relay.spool.rows == {} and relay.spool.kinds().count("Expiration") == 2


def test_what_a_session_carries_does_not_expire_under_it():
    relay = Delivering(rules={"bulk": Rules(Schedule((300.0,), 100.0), "none")}, timeouts=Timeouts(dot=1000))
    relay.mx.says["DOT"] = HANG
    relay.send()
    relay.wait(500)
    assert relay.spool.records == []
    relay.mx.seen[0].speak("250 taken")
    relay.reactor.pump()
    assert relay.spool.kinds() == ["Delivery"]


# The disk.


def test_no_more_is_begun_while_too_many_outcomes_wait_for_the_disk_and_it_goes_on_at_once_after():
    relay = Delivering(limit=1, deliveries_per_session=100_000)
    relay.spool.disk = False
    domains = UNANSWERED // 50 + 2  # one queue has at most PULL deliveries in memory
    for n in range(domains):
        relay.names.domains[f"d{n}.example"] = relay.names.domains["x.example"]
        relay.send(50, to=f"b@d{n}.example")
    assert UNANSWERED <= len(relay.spool.waiting) <= UNANSWERED + 2
    relay.spool.flush()
    relay.reactor.pump()
    assert len(relay.mx.got) == domains * 50 and len(relay.mx.seen) == 1


# Stop-lists.


class Stops:
    """Suppression lists: who is suspected, and what the disk then says.  ``held`` keeps its answers back."""

    def __init__(self, relay: Delivering, **found: Any) -> None:
        relay.courier.suppressions = self  # type: ignore[assignment]
        relay.courier.lists_of = lambda message: (message.stream,)
        self.found: dict[str, Any] = {"b@x.example": found.get("b")}
        self.post = relay.reactor.callFromThread
        self.held: list[Any] | None = None

    def suspects(self, lists: tuple[str, ...], address: str) -> bool:
        return lists == ("bulk",) and address in self.found

    def look_up(self, lists: tuple[str, ...], address: str, now: float, done: Any) -> None:
        if self.held is None:
            self.post(done, self.found[address])
        else:
            self.held.append(lambda: done(self.found[address]))


LISTED = entry("bulk", "b@x.example", reason="complaint", added=START, by="test")


def test_who_is_on_a_stop_list_by_now_gets_nothing_and_the_others_theirs():
    relay = Delivering()
    Stops(relay, b=LISTED)
    relay.send()
    assert relay.spool.kinds() == ["Suppression"] and relay.mx.got == [] and relay.spool.rows == {}
    assert relay.evidence.error == "b@x.example is on the list bulk: complaint" and relay.spool.records[0].attempts == 0
    relay.send(to="c@x.example")
    relay.send(stream="urgent")
    assert relay.spool.kinds() == ["Suppression", "Delivery", "Delivery"]


def test_who_is_only_suspected_gets_his_mail_once_the_disk_has_cleared_him():
    relay = Delivering()
    stops = Stops(relay)
    stops.held = []
    relay.send()
    relay.send(to="c@x.example")  # waits for nobody's look-up
    assert [to for _, to, _ in relay.mx.got] == ["c@x.example"]
    stops.held.pop()()
    relay.reactor.pump()
    assert relay.spool.kinds() == ["Delivery", "Delivery"] and relay.courier._cleared == set()


def test_lists_that_cannot_be_read_make_mail_wait():
    relay = Delivering()
    Stops(relay, b=OSError("disk I/O error"))
    relay.send()
    assert relay.spool.kinds() == ["TransientFailure"] and relay.mx.got == []
    assert relay.evidence.error == "the suppression lists cannot be read: disk I/O error"


def test_a_clearance_is_not_good_for_a_later_attempt():
    relay = Delivering()
    stops = Stops(relay)
    stops.held = []
    relay.send()
    relay.mx.open = 0
    relay.mx.seen[0].transport.loseConnection()
    relay.reactor.pump()
    stops.held.pop()()
    relay.reactor.pump()
    assert relay.spool.kinds() == ["TransientFailure"]  # cleared, and no session to be had
    relay.mx.open = 1000
    stops.held, stops.found["b@x.example"] = None, LISTED
    relay.wait(400)
    assert relay.spool.kinds() == ["TransientFailure", "Suppression"] and relay.mx.got == []


# Stop.


def test_a_stop_lets_what_is_in_flight_end_and_leaves_the_rest_on_disk():
    relay = Delivering(limit=1)
    relay.mx.says["DOT"] = HANG
    relay.send(4)
    stopped = relay.courier.stopService()
    relay.reactor.pump()
    assert not stopped.called
    del relay.mx.says["DOT"]
    relay.mx.seen[0].wake()
    relay.reactor.pump()
    assert stopped.called and relay.mx.sessions == []
    assert set(relay.spool.kinds()) == {"Delivery"}
    assert len(relay.spool.rows) + len(relay.spool.records) == 4 and len(relay.spool.rows) >= 2
    assert all(row.attempts == 0 for row in relay.spool.rows.values())


def test_a_stop_waits_for_no_hung_peer_longer_than_the_drain_time():
    relay = Delivering(drain=10.0)
    relay.mx.says["DOT"] = HANG
    relay.send()
    stopped = relay.courier.stopService()
    relay.wait(9)
    assert not stopped.called
    relay.wait(2)
    assert stopped.called and relay.spool.kinds() == ["Unknown"] and len(relay.spool.rows) == 1


def test_a_stop_waits_for_no_connection_that_never_comes():
    relay = Delivering(drain=10.0, connect=30.0)
    relay.mx.open = None
    (delivery,) = relay.send()
    stopped = relay.courier.stopService()
    relay.wait(11)
    assert stopped.called
    relay.wait(30)
    assert relay.spool.records == [] and relay.spool.rows[delivery.id].attempts == 0


def test_an_idle_relay_stops_at_once():
    relay = Delivering()
    relay.send()
    relay.wait(10)
    assert relay.courier.stopService().called


# Reload.


def test_a_new_configuration_moves_ready_deliveries_to_the_new_sources():
    relay = Delivering(limit=1)
    relay.mx.says["MAIL"] = HANG
    relay.send(6)
    pools = Pools({"s9": Source("s9", ("192.0.2.9",), "s9.relay.example")}, {"default": {"s9": 1}})
    relay.mx.says["MAIL"] = "250 ok"
    relay.courier.reconfigure(pools, relay.router, relay.settings)
    relay.scheduler.reconfigure(relay.streams, pools, 2000, relay.reactor.seconds())
    relay.courier.perform()
    relay.reactor.pump()
    assert relay.spool.kinds() == ["Delivery"] * 4
    assert {record.evidence.source for record in relay.spool.records} == {"s9"}


def test_a_source_that_a_reload_took_away_while_a_session_was_to_be_opened_loses_nothing():
    relay = Delivering()
    relay.mx.open = 0
    (delivery,) = relay.send()
    pools = Pools({"s9": Source("s9", ("192.0.2.9",), "s9.relay.example")}, {"default": {"s9": 1}})
    relay.courier.reconfigure(pools, relay.router, relay.settings)
    relay.scheduler.reconfigure(relay.streams, pools, 2000, relay.reactor.seconds())
    relay.mx.open = 1000
    relay.wait(400)
    assert relay.spool.kinds() == ["TransientFailure", "Delivery"] and delivery.id not in relay.spool.rows


def test_sessions_of_the_old_configuration_carry_nothing_more():
    relay = Delivering()
    relay.send()
    _demand_tls(relay)
    relay.send()
    assert relay.spool.kinds() == ["Delivery", "TransientFailure"] and len(relay.mx.got) == 1
    assert relay.mx.seen[0].heard[-1] == "QUIT" and relay.evidence.stage == "starttls"


def test_a_session_that_is_opened_by_the_old_configuration_carries_nothing():
    relay = Delivering()
    relay.mx.says["EHLO"] = HANG
    relay.send()
    _demand_tls(relay)
    relay.mx.says["EHLO"] = "250 mx.example"
    relay.mx.seen[0].transport.write(b"250 mx.example\r\n")
    relay.wait(10)
    assert relay.mx.got == [] and relay.spool.kinds() == ["TransientFailure"]


def _demand_tls(relay: Delivering) -> None:
    """A reload by which nothing may go out in clear any more."""
    policy = Policy("encrypt")
    relay.router = Router(relay.names, lambda domain: None, 25, lambda domain, hosts: policy, relay.reactor.seconds)
    relay.courier.reconfigure(relay.pools, relay.router, relay.settings)
    relay.scheduler.reconfigure(relay.streams, relay.pools, 2000, relay.reactor.seconds())
    relay.courier.renew()
    relay.reactor.pump()


# Words.


def test_what_carries_a_delivery_can_be_said():
    relay = Delivering()
    relay.mx.says["MAIL"] = HANG
    (delivery,) = relay.send()
    assert "with mx1.x.example 203.0.113.1:25 waits at mail" in relay.courier.carrying(delivery.id)
    assert relay.courier.carrying(1) == ""


def test_each_family_goes_out_from_the_source_s_address_of_that_family():
    relay = Delivering()
    relay.pools.sources["s1"] = Source("s1", ("192.0.2.1", "2001:db8::1"), "s1.relay.example")
    relay.host("six.example", "2001:db8::25")
    relay.send()
    relay.send(to="b@six.example")
    assert sorted(relay.reactor.dialled) == [("2001:db8::25", "2001:db8::1"), ("203.0.113.1", "192.0.2.1")]
    assert relay.spool.kinds() == ["Delivery", "Delivery"]
    assert (relay.evidence.peer, relay.evidence.local) == ("[2001:db8::25]:25", "[2001:db8::1]:40000")


def test_a_source_without_an_address_of_the_family_says_so():
    relay = Delivering()
    relay.host("six.example", "2001:db8::25")
    relay.send(to="b@six.example")
    assert relay.spool.kinds() == ["TransientFailure"]
    assert "of a family that source s1 has" in relay.evidence.error


# Warm-up.


@pytest.mark.parametrize(
    ("said", "bearing"),
    [
        ("250 ok", "delivered"),
        ("550 5.7.1 Your IP address is on a blocklist", "blocked"),
        ("450 4.7.1 Your IP address has a poor reputation", "deferred"),
        ("554 5.7.1 This message looks like spam", "other"),
        ("450 4.7.1 greylisted, come back later", "other"),
        ("550 5.1.1 user unknown", "other"),
    ],
)
def test_warm_up_hears_what_is_said_of_the_source_and_nothing_else(said, bearing):
    relay = Delivering()
    told: list[tuple[str, str, str]] = []
    relay.scheduler.restraints.warmup = Listening(told)
    relay.mx.says["RCPT"] = said
    relay.send()
    relay.wait(2)
    assert told == [("s1", "mx1.x.example", bearing)]


def kept(*args: Any) -> "Future[None]":
    done: Future[None] = Future()
    done.set_result(None)
    return done


class Listening(Warmup):
    """A warm-up that is told everything and begins nothing."""

    def __init__(self, told: list[tuple[str, str, str]]) -> None:
        super().__init__((), kept)
        self.configure({"s1": Plan()})
        self.told = told

    def outcome(self, source: str, group: str, bearing: str, now: float) -> None:
        self.told.append((source, group, bearing))
