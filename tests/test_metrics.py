"""Metrics: they tell what is so, keep to the conventions, and never fail with what they watch."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from twisted.internet.error import CannotListenError
from twisted.logger import capturedLogs, formatEvent

from relayd.classify import CLASSES
from relayd.errors import InputError
from relayd.metrics import Collector, EventCounts, counts, web
from relayd.metrics.collector import FAULTS, Process, encoded
from relayd.metrics.page import page
from relayd.metrics.table import METRICS
from tests.harness import HANG
from tests.metrics_kit import Watched, families, value
from tests.test_service import CONFIG, MAIL, Running, relay  # noqa: F401

ROOT = Path(__file__).parent.parent
# Every label has few values: those of its kind, or what a configuration names.
LABELS = {"direction", "outcome", "stage", "reason", "source", "pool", "provider", "feed", "event", "class", "version"}


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    monkeypatch.setattr("signal.signal", lambda *args: None)
    made = Watched(tmp_path)
    yield made
    if not made.node.health.stopping:
        made.stop()


# Counts of events.


def test_events_are_counted_by_name_provider_and_source_and_refusals_by_class():
    events = EventCounts()
    for _ in range(2):
        events.count("bounced", "google", "s1", "recipient_unknown", None)
    events.count("delivered", "", "s1", "", 0.2)
    found = events.read()
    assert found.events == {("bounced", "google", "s1"): 2, ("delivered", "other", "s1"): 1}
    assert found.classes == {("bounced", "recipient_unknown"): 2}
    assert found.waits.sum == 0.2 and found.waits.steps()[1] == (0.25, 1)


def test_values_beyond_the_bounds_are_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counts, "SOURCES", 2)
    monkeypatch.setattr(counts, "PROVIDERS", 2)
    events = EventCounts()
    for n in range(4):
        events.count("delivered", f"p{n}", f"s{n}", "no_such_class", None)
    keys = set(events.read().events)
    assert keys == {("delivered", "p0", "s0"), ("delivered", "p1", "s1"), ("delivered", "other", "other")}
    assert events.read().classes == {("delivered", "other"): 4}


def test_there_are_never_more_series_than_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counts, "SERIES", 3)
    events = EventCounts()
    for n in range(100):
        events.count("delivered", f"p{n % 10}", f"s{n % 7}", "", None)
    found = events.read().events
    assert len(found) <= 4 and found["delivered", "other", "other"] == 100 - sum(
        count for key, count in found.items() if key[1] != "other"
    )


def test_a_copy_can_be_taken_while_a_thread_counts():
    events, over = EventCounts(), threading.Event()

    def feed() -> None:
        for n in range(20_000):
            events.count(f"E{n % 40}", f"p{n % 90}", f"s{n % 150}", CLASSES[n % len(CLASSES)], float(n))
        over.set()

    thread = threading.Thread(target=feed)
    thread.start()
    seen = [0]
    while not over.is_set():
        seen.append(sum(events.read().events.values()))
    thread.join()
    assert seen == sorted(seen) and sum(events.read().events.values()) == 20_000


# What is collected.


def test_every_metric_can_be_read_and_none_is_missing(watched: Watched):
    found = families(watched)
    assert {metric.name.removesuffix("_total") for metric in (*METRICS, FAULTS)} == set(found)
    assert value(watched, "relayd_metrics_faults_total") == 0


def test_a_message_is_seen_on_its_way(watched: Watched):
    assert watched.send().startswith("250")
    outcomes = watched.node.courier.outcomes
    watched.reactor.until(lambda: outcomes.totals["delivered"] and not outcomes.unanswered)
    assert value(watched, "relayd_messages_received_total") == value(watched, "relayd_recipients_received_total") == 1
    assert value(watched, "relayd_received_bytes_total") > 20
    assert value(watched, "relayd_outcomes_total", outcome="delivered") == 1
    assert value(watched, "relayd_sessions_opened_total", direction="in") == 1
    assert value(watched, "relayd_sessions_opened_total", direction="out") == 1
    assert value(watched, "relayd_sessions", direction="out") == 1
    assert value(watched, "relayd_source_sessions", source="s1") == 1
    assert value(watched, "relayd_provider_sessions", provider="other") == 1
    assert value(watched, "relayd_writer_changes_total") >= 2
    assert value(watched, "relayd_writer_commit_seconds_count") >= 1
    assert value(watched, "relayd_tls_messages_total", direction="in") == 0
    assert value(watched, "relayd_accounts") == 1


def test_a_refusal_is_counted_by_its_code(watched: Watched):
    client = watched.call()
    client.say(MAIL)
    client.say(b"X-Relayd-Send-At: tomorrow\r\nFrom: a@crm.example\r\n\r\nhello\r\n.\r\n")
    watched.reactor.until(lambda: client.heard)
    assert client.heard.startswith(b"550")
    assert value(watched, "relayd_refusals_total", reason="550") == 1


def test_a_mail_server_that_is_not_there_is_counted_by_how_far_one_came(watched: Watched):
    watched.mx.open = 0
    watched.send()
    watched.reactor.until(lambda: watched.node.courier.outcomes.totals["transient"])
    assert value(watched, "relayd_sessions_failed_total", stage="connect") == 1
    assert value(watched, "relayd_sessions_failed_total", stage="tls") == 0


def test_a_source_out_of_use_is_seen(watched: Watched):
    assert value(watched, "relayd_source_in_use", source="s1") == 1
    watched.node.pools.out_of_use["s1"] = "gone"
    assert value(watched, "relayd_source_in_use", source="s1") == 0
    assert value(watched, "relayd_pool_sources_in_use", pool="default") == 0


def test_feeds_and_events_of_whoever_reads_the_records_are_told(watched: Watched):
    watched.node.feeding.faults = lambda: [("webhook", 12.5, ""), ("stats", 0.0, "no such table")]
    watched.node.events.count("delivered", "google", "s1", "", 3.0)
    assert value(watched, "relayd_feed_lag_seconds", feed="webhook") == 12.5
    assert value(watched, "relayd_feed_failing", feed="stats") == 1
    assert value(watched, "relayd_events_total", event="delivered", provider="google", source="s1") == 1
    assert value(watched, "relayd_delivery_seconds_sum") == 3.0


def test_a_metric_that_cannot_be_read_costs_no_other(watched: Watched):
    def broken() -> Any:
        raise RuntimeError("no counts of mine")

    watched.node.events.read = broken  # type: ignore[method-assign]
    collector = Collector(watched.node)
    with capturedLogs() as logs:
        found = {family.name: family for family in collector.collect()}
    unread = {"relayd_events", "relayd_refusals_by_class", "relayd_delivery_seconds"}
    assert unread == {metric.name.removesuffix("_total") for metric in METRICS} - set(found)
    assert found["relayd_metrics_faults"].samples[0].value == 3
    assert {formatEvent(event).removesuffix(" cannot be read").removesuffix("_total") for event in logs} == {
        f"The metric {name}" for name in unread
    }


# Conventions.


def text(running: Running, accept: str = "") -> str:
    return encoded([*Collector(running.node).collect(), *Process().collect()], accept)[0].decode()


@pytest.mark.parametrize("metric", (*METRICS, FAULTS), ids=lambda metric: metric.name)
def test_names_and_labels_keep_to_the_conventions(metric: Any):
    assert re.fullmatch(r"relayd_[a-z][a-z0-9_]*", metric.name) and metric.help and not metric.help.endswith(".")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|millis|mb|kb|percent|info_total)$", metric.name)
    assert set(metric.labels) <= LABELS
    if metric.kind == "histogram":
        assert metric.name.endswith("_seconds")


def test_prometheus_reads_both_formats(watched: Watched):
    watched.send()
    plain = {family.name: family for family in read_text(text(watched))}
    assert plain["relayd_messages_received"].type == "counter" and plain["relayd_loop_lag_seconds"].type == "histogram"
    assert "process_resident_memory_bytes" in plain and "python_gc_collections" in plain
    modern = {family.name for family in read_openmetrics(text(watched, "application/openmetrics-text;version=1.0.0"))}
    assert modern == set(plain)


PROMTOOL = shutil.which("promtool")


def promtool(*words: str, given: str = "") -> None:
    if PROMTOOL is None:
        pytest.skip("promtool is not installed: it comes with Debian's package prometheus")
    ran = subprocess.run([PROMTOOL, *words], input=given, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_promtool_has_nothing_to_say_of_the_metrics(watched: Watched):
    watched.send()
    watched.node.events.count("delivered", "google", "s1", "", 3.0)
    promtool("check", "metrics", given="".join(encoded(list(Collector(watched.node).collect()), "")[0].decode()))


def test_the_page_of_metrics_is_the_one_that_is_made():
    assert (ROOT / "docs" / "metrics.md").read_text("utf-8") == page(), "make docs writes it"


# Over HTTP.


def test_metrics_are_served_with_how_much_is_queued(watched: Watched):
    watched.mx.open = 0
    watched.send()
    watched.reactor.until(lambda: watched.node.courier.outcomes.totals["transient"])
    watched.reactor.until(lambda: watched.node.courier.outcomes.unanswered == 0)
    got = watched.ask("/metrics")
    assert got.status == 200 and "Content-Type: text/plain; version=0.0.4" in got.head
    assert "\nrelayd_queue_deliveries 1.0\n" in got.body and "\nrelayd_queue_oldest_seconds " in got.body


def test_who_prefers_openmetrics_gets_it(watched: Watched):
    got = watched.ask("/metrics", more="Accept: application/openmetrics-text;version=1.0.0\r\n")
    assert "Content-Type: application/openmetrics-text" in got.head and got.body.endswith("# EOF\n")


def test_a_spool_that_does_not_answer_leaves_out_what_it_knows_and_nothing_else(watched: Watched):
    watched.node.spool.depth = lambda done: None  # type: ignore[method-assign]
    asker = watched.connect()
    assert asker is not None
    asker.say(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    with capturedLogs():
        watched.reactor.wait(6)
        watched.reactor.until(lambda: asker.closed)
    assert asker.status == 200 and "\nrelayd_queue_deliveries " not in asker.body
    assert "\nrelayd_ready 1.0\n" in asker.body


def test_alive_ready_and_well(watched: Watched):
    assert watched.ask("/livez").status == 200
    got = watched.ask("/readyz")
    assert got.status == 200 and json.loads(got.body) == {"ready": True, "reasons": {}}
    got = watched.ask("/healthz")
    assert got.status == 200 and json.loads(got.body) == {"ok": True, "faults": [], "warnings": []}


@pytest.mark.parametrize(("attribute", "reason"), [("spool_fault", "spool_fault"), ("space_fault", "space_short")])
def test_what_keeps_mail_out_is_a_reason_not_to_be_ready(watched: Watched, attribute: str, reason: str):
    setattr(watched.node.health, attribute, "so it is")
    got = watched.ask("/readyz")
    assert got.status == 503 and json.loads(got.body) == {"ready": False, "reasons": {reason: "so it is"}}
    assert value(watched, "relayd_ready") == 0 and value(watched, "relayd_unready", reason=reason) == 1
    got = watched.ask("/healthz")
    assert got.status == 503 and json.loads(got.body)["faults"] == ["so it is"]
    assert watched.ask("/livez").status == 200


def test_while_it_stops_it_says_so_and_the_port_closes_last(watched: Watched):
    watched.mx.says["DOT"] = HANG
    watched.send()
    watched.reactor.until(lambda: watched.mx.seen)
    watched.reactor.pump()
    stopped = watched.node.stopService()
    got = watched.ask("/readyz")
    assert got.status == 503 and list(json.loads(got.body)["reasons"]) == ["stopping"]
    assert watched.ask("/metrics").status == 200
    watched.reactor.wait(11)
    watched.reactor.until(lambda: stopped.called)


def test_others_than_the_networks_named_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("signal.signal", lambda *args: None)
    running = Watched(tmp_path, 'allow = ["10.1.0.0/16"]\n')
    try:
        for path in ("/metrics", "/livez", "/readyz", "/healthz", "/"):
            assert running.ask(path, peer="192.0.2.1").status == 403
            assert running.ask(path, peer="127.0.0.1").status == 403
        assert running.ask("/livez", peer="10.1.2.3").status == 200
        assert running.ask("/livez", peer="::ffff:10.1.2.3").status == 200
    finally:
        running.stop()


def test_without_networks_only_this_machine_is_served_wherever_it_listens(watched: Watched):
    assert watched.ask("/metrics", peer="192.0.2.1").status == 403
    assert watched.ask("/livez", peer="::1").status == 200


def test_only_get_and_head_and_only_what_there_is(watched: Watched):
    got = watched.ask("/metrics", "POST")
    assert got.status == 405 and "Allow: GET, HEAD" in got.head
    assert watched.ask("/metrics", "DELETE").status == 405
    assert watched.ask("/").status == watched.ask("/metrics/").status == watched.ask("/v1/health").status == 404
    got = watched.ask("/metrics", "HEAD")
    assert got.status == 200 and got.body == "" and "Content-Length:" in got.head


def test_a_request_with_a_body_is_refused(watched: Watched):
    got = watched.ask("/metrics", more="Content-Length: 3\r\n\r\nabc")
    assert got.status == 413


def test_a_head_without_an_end_is_cut_off(watched: Watched):
    asker = watched.connect()
    assert asker is not None
    asker.say(b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n")
    watched.reactor.until(lambda: asker.closed)
    assert b"200" not in asker.heard


def test_the_server_says_nothing_of_itself_and_each_connection_is_for_one_request(watched: Watched):
    for path in ("/metrics", "/livez", "/nothing"):
        got = watched.ask(path)
        assert "server:" not in got.head.lower() and "Connection: close" in got.head and got.closed
    asker = watched.connect()
    assert asker is not None
    asker.say(2 * b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    watched.reactor.until(lambda: asker.closed)
    assert asker.heard.count(b"HTTP/1.1 200") == 1


def test_who_comes_and_says_nothing_is_sent_away_and_only_so_many_are_let_in(watched: Watched):
    idle = [watched.connect() for _ in range(web.VISITS)]
    assert all(idle) and watched.connect() is None
    watched.reactor.wait(web.LONGEST + 1)
    assert all(asker and asker.closed for asker in idle)
    assert watched.ask("/livez").status == 200


def test_a_stop_sends_away_who_says_nothing(watched: Watched):
    idle = watched.connect()
    assert idle is not None
    stopped = watched.node.stopService()
    watched.later(web.PARTING, lambda: idle.closed)
    watched.reactor.until(lambda: stopped.called)


# Reload.


def configured(running: Running, table: str) -> None:
    running.path.write_text(CONFIG + table)


def ports(running: Running) -> list[int]:
    return [server[0] for server in running.reactor.tcpServers]


def test_a_reload_opens_moves_and_closes_the_port(relay: Running):  # noqa: F811
    configured(relay, '[metrics]\nlisten = "tcp:9100:interface=127.0.0.1"\n')
    assert relay.node.reload() == {"changed": ["metrics"]}
    first = relay.node.doors.metrics
    assert 9100 in ports(relay)
    configured(relay, '[metrics]\nlisten = "tcp:9200:interface=127.0.0.1"\n')
    relay.node.reload()
    assert 9200 in ports(relay) and relay.node.doors.metrics is not first
    configured(relay, "")
    relay.node.reload()
    assert relay.node.doors.metrics is None


def test_a_reload_with_a_port_that_is_taken_keeps_the_old_one(watched: Watched, monkeypatch: pytest.MonkeyPatch):
    before, listen = watched.node.doors.metrics, watched.reactor.listenTCP

    def taken(port: int, *args: Any, **named: Any) -> Any:
        if port == 9200:
            raise CannotListenError("127.0.0.1", 9200, OSError(98, "Address already in use"))
        return listen(port, *args, **named)

    monkeypatch.setattr(watched.reactor, "listenTCP", taken)
    configured(watched, '[metrics]\nlisten = "tcp:9200:interface=127.0.0.1"\n')
    with pytest.raises(InputError, match=r"metrics tcp:9200:interface=127\.0\.0\.1 cannot listen"):
        watched.node.reload()
    assert watched.node.doors.metrics is before and watched.ask("/livez").status == 200
    assert value(watched, "relayd_reload_refused") == 1


def test_a_reload_changes_who_may_ask_without_a_new_port(watched: Watched):
    before = len(ports(watched))
    configured(watched, '[metrics]\nlisten = "tcp:9100:interface=127.0.0.1"\nallow = ["10.1.0.0/16"]\n')
    watched.node.reload()
    assert len(ports(watched)) == before
    assert watched.ask("/livez").status == 403 and watched.ask("/livez", peer="10.1.0.1").status == 200
