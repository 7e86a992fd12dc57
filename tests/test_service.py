"""A node from its configuration file to its stop, with a real spool, on a clock and connections in memory."""

import signal
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from relayd import config
from relayd.blocklists import EVERY
from relayd.directory import Verdict, Webhook
from relayd.directory.plans import Plan
from relayd.errors import InputError
from relayd.history import Hit, Query
from relayd.lease import Lease
from relayd.message.dkim import dns_record, to_pem
from relayd.records import decode
from relayd.reply import Reply
from relayd.service import Node, Options
from relayd.shaping.limits import account_layers
from relayd.shaping.reactions import Verdict as Reaction
from relayd.shaping.rules import Seen
from relayd.statistics import Figures
from relayd.suppression import entry
from relayd.verification import Question
from tests.dkim_kit import rsa
from tests.harness import HANG, START, Host, Reactor, pair
from tests.spool_kit import find_records
from tests.test_listener import Client
from tests.verification_kit import Zone
from tests.webhook_kit import Server

MAIL = b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
MESSAGE = b"From: a@crm.example\r\n\r\nhello\r\n.\r\n"

CONFIG = """
[node]
name = "mx1.relay.example"
spool = "spool"
control = "control.sock"
min_free = "1"
drain = "10s"

[[listener]]
service = "relay"
listen = "tcp:2525:interface=127.0.0.1"
allow = ["198.51.100.0/24"]
account = "crm"
stream = "bulk"

[source.s1]
address = "127.0.0.11"
ehlo = "s1.relay.example"

[stream.bulk]
pool = "default"

[[route]]
domain = "*"
via = "203.0.113.1:25"
"""


class Running:
    """A node that runs, and its one mail server."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "relayd.toml"
        if not self.path.exists():
            self.path.write_text(CONFIG)
        self.reactor = Reactor()
        self.mx = self.reactor.hosts["203.0.113.1"] = Host()
        self.node = Node(self.reactor, self.path, config.load(self.path), self.reactor.seconds)
        self.node.startService()
        self.reactor.until(lambda: self.node.directory.account("crm"))

    def call(self, port: int = 2525) -> Client:
        factory = next(server[1] for server in self.reactor.tcpServers if server[0] == port)
        theirs, ours = pair(self.reactor, "198.51.100.1", "127.0.0.1", port)
        client, session = Client(self.reactor), factory.buildProtocol(None)
        theirs.protocol, ours.protocol = client, session
        client.makeConnection(theirs)
        session.makeConnection(ours)
        self.reactor.pump()
        if client.heard.startswith(b"220"):
            client.say(b"EHLO crm.example\r\n")
        return client

    def send(self) -> str:
        client = self.call()
        assert "354" in client.say(MAIL)
        client.say(MESSAGE)
        self.reactor.until(lambda: client.heard)
        return client.heard.decode()

    def later(self, seconds: float, fact: Any) -> None:
        """Lets time pass, and then second by second until something is so; the spool's threads, which know nothing of
        this time, do all they were asked to within each."""
        self.reactor.wait(seconds)
        for _ in range(60):
            if fact():
                return
            self.reactor.wait(1)
            written: list[Any] = []
            self.node.spool.writer.submit(lambda _: None, written.append)
            self.reactor.until(lambda: written)  # noqa: B023
            self.asked(self.node.operations.queues(1))
            written: list[Any] = []
            self.node.spool.writer.submit(lambda connection: True, written.append)
            self.reactor.until(lambda written=written: written)
        raise AssertionError("it did not come to be")

    def asked(self, answer: Any) -> Any:
        """The answer to a verb that asks the spool."""
        found: list[Any] = []
        Deferred.fromCoroutine(answer).addBoth(found.append)
        self.reactor.until(lambda: found)
        return found[0]

    def stop(self) -> None:
        stopped = self.node.stopService()
        while not stopped.called:
            self.reactor.wait(1)
            if self.node.courier._drained is None and not any(
                listener._stopped for listener in self.node.doors.listeners.values()
            ):
                self.reactor.until(lambda: stopped.called)


@pytest.fixture
def relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    made = Running(tmp_path)
    yield made
    if not made.node.health.stopping:
        made.stop()
    sys.setswitchinterval(interval)


def test_a_message_comes_in_is_kept_and_goes_out(relay: Running):
    assert relay.send().startswith("250 2.0.0 queued as ")
    relay.reactor.until(lambda: relay.mx.got)
    (sender, recipient, content) = relay.mx.got[0]
    assert (sender, recipient) == ("a@crm.example", "b@x.example")
    assert b"Received: from crm.example ([198.51.100.1])" in content and content.endswith(b"\r\n\r\nhello\r\n")
    assert relay.reactor.dialled == [("203.0.113.1", "127.0.0.11")]
    assert relay.mx.seen[0].heard[0] == "EHLO s1.relay.example"


def test_the_story_of_a_message_can_be_asked_for_and_the_audit_is_clean(relay: Running):
    identity = relay.send().split()[-1]
    relay.reactor.until(lambda: relay.node.courier.scheduler.memory.loaded == 0)
    told = relay.asked(relay.node.operations.inspect(int(identity, 16)))
    assert told["deliveries"][0]["state"] == "delivered" and told["message"]["account"] == "crm"
    assert relay.asked(relay.node.operations.audit())["clean"]


def test_what_became_of_mail_is_counted_and_found(relay: Running):
    identity = relay.send().split()[-1]
    relay.reactor.until(lambda: relay.node.courier.scheduler.memory.loaded == 0)

    query = Query(accounts=("crm",), id=int(identity, 16))
    period = Figures(since=START - 3600, until=START + 3600, accounts=("crm",), step="total")

    def told() -> bool:
        relay.reactor.wait(1)
        relay.reactor.callFromThread(relay.node.indexer.wake)
        events = relay.node.operations.history(query, 10, None).result(10).events
        if [event.event for event in events] != ["delivered", "queued"]:
            return False
        counted = relay.node.operations.figures(period).result(10)["total"]["counts"]
        return bool(counted == {"queued": 1, "delivered": 1})

    relay.reactor.until(told)
    event = relay.node.operations.history(Query(), 1, None).result(10).events[0]
    assert relay.node.operations.event(Hit.of(event.id), Query()).result(10) == event


def test_a_reload_counts_for_the_providers_that_there_are_now(relay: Running):
    assert relay.node.counting.providers == frozenset()
    relay.path.write_text(CONFIG + '[provider.mailer]\nmatch = ["mx.x.example"]\n[statistics]\nminutes = "1d"\n')
    assert set(relay.node.reload()["changed"]) == {"provider", "statistics"}
    assert relay.node.counting.providers == {"mailer"} and relay.node.counting.minutes == 86400


def test_an_unknown_message_is_said_to_be_unknown(relay: Running):
    failure = relay.asked(relay.node.operations.inspect(77))
    assert failure.type is InputError


def test_a_new_start_finds_what_the_last_one_left(relay: Running, tmp_path: Path):
    relay.mx.open = 0
    relay.send()
    relay.reactor.until(lambda: relay.node.courier.scheduler.memory.loaded == 0 and relay.node.scheduler.sessions == 0)
    relay.stop()
    again = Running(tmp_path)
    try:
        assert again.node.spool.queued_at_start == 1
        again.later(4000, lambda: again.mx.got)
    finally:
        again.stop()


def test_a_spool_in_use_is_refused_with_a_sentence(relay: Running, tmp_path: Path):
    other = Node(Reactor(), relay.path, config.load(relay.path))
    with pytest.raises(SystemExit, match="in use by the relayd with process id"):
        other.startService()


def test_a_stop_finishes_a_message_that_is_coming_in(relay: Running):
    client = relay.call()
    client.say(MAIL)
    stopped = relay.node.stopService()
    relay.reactor.pump()
    assert not stopped.called
    client.say(MESSAGE)
    relay.reactor.until(lambda: client.heard)
    relay.reactor.wait(2)
    assert client.heard.startswith(b"250 2.0.0 queued") and client.closed
    relay.reactor.until(lambda: stopped.called)
    assert relay.mx.got == []  # it is on disk, for the next start


def test_a_stop_with_a_hung_peer_ends_after_the_drain_time(relay: Running):
    relay.mx.says["DOT"] = HANG
    relay.send()
    relay.reactor.until(lambda: relay.mx.got)
    stopped = relay.node.stopService()
    relay.reactor.wait(9)
    assert not stopped.called
    relay.reactor.wait(2)
    relay.reactor.until(lambda: stopped.called)


def test_a_valid_change_is_applied_as_a_whole(relay: Running):
    relay.path.write_text(CONFIG.replace("127.0.0.11", "127.0.0.12").replace("tcp:2525", "tcp:2526"))
    assert sorted(relay.node.reload()["changed"]) == ["listener", "source"]
    client = relay.call(2526)
    client.say(MAIL)
    client.say(MESSAGE)
    relay.reactor.until(lambda: relay.mx.got)
    assert relay.reactor.dialled == [("203.0.113.1", "127.0.0.12")]


def test_a_drained_source_holds_its_mail_across_a_reload_and_a_restart_until_it_is_resumed(
    relay: Running, tmp_path: Path
):
    drained = relay.node.directory.drains.drain("s1", reason="moving", by="anna", now=1.0)
    relay.reactor.until(drained.done)
    relay.node.reload()
    relay.send()
    (row,) = relay.node.operations.sources()
    assert (row["state"], row["why"], row["by"]) == ("drained", "moving", "anna")
    relay.stop()
    again = Running(tmp_path)
    again.later(2, lambda: "moving (anna)" in again.asked(again.node.operations.queues(1))[0]["why"])
    assert not again.reactor.dialled
    resumed = again.node.directory.drains.resume("s1")
    again.reactor.until(resumed.done)
    again.reactor.until(lambda: again.mx.got)
    assert again.node.operations.sources()[0]["state"] == "in use"
    again.stop()


def test_mail_that_fell_back_is_found_after_a_restart_and_the_books_stay_clean(relay: Running, tmp_path: Path):
    relay.path.write_text(
        CONFIG.replace('pool = "default"', 'pool = "default"\nfallback = "provider"\nfallback_after = 1')
        + '[fallback.provider]\nvia = "203.0.113.9:587"\n'
    )
    relay.node.reload()
    relay.mx.says["RCPT"] = "450 4.2.1 later"
    relay.send()
    relay.reactor.until(
        lambda: relay.node.courier.outcomes.totals["transient"] and not relay.node.scheduler.memory.loaded
    )
    (row,) = relay.asked(relay.node.operations.queues(5))
    assert (
        relay.asked(relay.node.operations.queues(5, "crm")) == [row]
        and relay.asked(relay.node.operations.queues(5, "cr")) == []
    )
    assert (row["domain"], row["count"]) == ("fallback:provider", 1)
    assert relay.asked(relay.node.operations.audit())["clean"]
    relay.stop()
    again = Running(tmp_path)
    provider = again.reactor.hosts["203.0.113.9"] = Host()
    again.later(30, lambda: provider.got)
    again.reactor.until(lambda: not again.node.scheduler.memory.loaded)
    assert again.asked(again.node.operations.audit())["clean"]
    again.stop()


def test_a_listed_source_is_drained_until_the_list_lets_go_of_it_whatever_operators_say(relay: Running):
    node = relay.node
    relay.path.write_text(
        CONFIG.replace('"127.0.0.11"', '"127.0.0.11"\npublic = "192.0.2.10"')
        + '[blocklists]\nzones = ["bl.test"]\ndrain = true\n'
    )
    answers = {"10.2.0.192.bl.test": "127.0.0.2"}

    async def query(name: str, rdtype: str, *, fresh: bool) -> Any:
        found = answers.get(name) if rdtype == "A" else None
        return SimpleNamespace(records=[SimpleNamespace(to_text=lambda: found)] if found else [])

    node.blocklists._resolver = SimpleNamespace(query=query)  # type: ignore[assignment]
    node.reload()
    words = "192.0.2.10 is listed by bl.test"
    (row,) = node.operations.sources()
    assert (row["state"], row["why"], row["by"], row["listed"]) == ("drained", words, "blocklists", [words])
    assert node.health.report()["warnings"] == [f"source s1: {words}"]
    relay.reactor.until(node.directory.drains.drain("s1", reason="moving", by="anna", now=1.0).done)
    assert node.operations.sources()[0]["by"] == "anna"
    relay.reactor.until(node.directory.drains.resume("s1").done)
    relay.send()
    assert node.operations.sources()[0]["by"] == "blocklists" and not relay.reactor.dialled
    answers.clear()
    relay.reactor.advance(EVERY)
    relay.reactor.until(lambda: relay.mx.got)
    assert node.operations.sources()[0]["state"] == "in use" and node.health.report()["warnings"] == []


def test_what_is_said_of_failed_logins_is_applied_and_who_failed_is_remembered(relay: Running):
    relay.node.guard.failed("198.51.100.1", "crm-1", relay.reactor.seconds())
    relay.path.write_text(CONFIG + '[login]\nfailures = 1\nlock = "7s"\n')
    assert relay.node.reload()["changed"] == ["login"]
    assert relay.node.guard is relay.node.relay.guard
    relay.node.guard.failed("198.51.100.1", "crm-1", relay.reactor.seconds())
    assert relay.node.guard.refuse("198.51.100.1", "crm-1", relay.reactor.seconds()) == pytest.approx(7)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "mx1', 'nam = "mx1', "nam"),
        ('name = "mx1', 'name = "mx2', "node.name changed: that needs a restart"),
        ('service = "relay"', 'service = "submissions"', "tls"),
    ],
)
def test_an_invalid_change_leaves_the_old_configuration_and_says_why(relay: Running, old, new, words):
    before = relay.node.config
    relay.path.write_text(CONFIG.replace(old, new))
    with pytest.raises(InputError, match=words):
        relay.node.reload()
    assert relay.node.config is before and "the last reload failed" in relay.node.health.report()["warnings"][0]
    relay.path.write_text(CONFIG)
    assert relay.node.reload() == {"changed": []} and relay.node.health.report()["warnings"] == []


def test_a_reload_reads_the_validation_lists_again_or_keeps_the_old_ones(relay: Running):
    relay.path.write_text(CONFIG + '\n[validation]\ndisposable = "mine.txt"\n')
    mine = relay.path.parent / "mine.txt"
    for text in ("bin.example", "bin.example\ntrash.example"):
        mine.write_text(text)
        relay.node.reload()
        assert relay.node.lists.disposable == set(text.split())
    mine.write_text("bin.example\nnot a domain")
    with pytest.raises(InputError, match=r"validation\.disposable: .*mine\.txt, line 2: 'not a domain'"):
        relay.node.reload()
    assert relay.node.lists.disposable == {"bin.example", "trash.example"}


def test_refusals_in_a_row_put_a_recipient_on_the_list_and_a_delivery_between_them_takes_them_back(relay: Running):
    stream = '[stream.bulk]\nreports = "none"\nsuppress = { unknown = 2 }'
    relay.path.write_text(CONFIG.replace("[stream.bulk]", stream))
    relay.node.reload()
    lists = relay.node.suppressions
    relay.later(2, lambda: lists.ready)
    for said in ("550 5.1.1 user unknown", "250 ok", "550 5.1.1 user unknown"):
        relay.mx.says["RCPT"] = said
        before = sum(relay.node.courier.outcomes.totals.values())
        relay.send()
        relay.later(2, lambda before=before: sum(relay.node.courier.outcomes.totals.values()) > before)
        relay.later(2, lambda said=said: bool(lists.struck) == said.startswith("550"))
    assert not lists.suspects(("account:crm/all",), "b@x.example")
    relay.send()
    relay.later(2, lambda: lists.suspects(("account:crm/all",), "b@x.example"))


def test_a_reload_reads_rules_of_classification_again_or_keeps_the_old_ones(relay: Running):
    mine = relay.path.parent / "mine.toml"
    rule = '[[rule]]\nname = "shut"\nclass = "mailbox_disabled"\norigin = "here"\ntext = ["gone fishing"]\n'
    mine.write_text(rule)
    relay.path.write_text(CONFIG + '\n[feedback]\nrules = ["mine.toml"]\n')
    relay.node.reload()
    relay.mx.says["RCPT"] = "550 gone fishing"
    relay.send()
    relay.later(2, lambda: relay.node.courier.outcomes.totals["permanent"])
    mine.write_text(rule + "code = 550")
    with pytest.raises(InputError, match=r"relayd\.toml: feedback\.rules: rule shut: .*mine\.toml: .*code"):
        relay.node.reload()
    assert relay.node.courier.classifier.classify(Reply(550, "", "gone fishing")).rule == "shut"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read_change_nothing_at_a_reload(relay: Running, content: str | None):
    if content is not None:
        (relay.path.parent / "ca.pem").write_text(content)
    pools = relay.node.pools
    changed = CONFIG.replace("127.0.0.11", "127.0.0.12").replace("tcp:2525", "tcp:2526")
    relay.path.write_text(changed + '\n[egress]\nauthorities = "ca.pem"\n')
    with pytest.raises(InputError):
        relay.node.reload()
    assert relay.node.pools is pools and list(relay.node.doors.listeners) == ["tcp:2525:interface=127.0.0.1"]


AUTH = '\n[auth]\nurl = "http://127.0.0.1:8080/login"\n'
SSHA = "{SSHA}PTggDCOUPEVj5h7bZjhxfKWQBpey47nF"  # of "abcdef"


def test_a_login_of_another_system_waits_for_the_configuration_to_name_one(relay: Running):
    added = relay.node.directory.add_connection("login1", account="crm", now=0.0, external=True)
    relay.reactor.until(added.done)
    said: list[Verdict] = []
    relay.node.logins.verifier.check("login1", "secret", said.append, "198.51.100.1")
    assert said == [Verdict.UNSURE]
    (warning,) = relay.node.health.report()["warnings"]
    assert "[auth] of the configuration names no url" in warning
    relay.path.write_text(CONFIG + AUTH)
    assert relay.node.reload() == {"changed": ["auth"]} and relay.node.health.report()["warnings"] == []
    relay.node.logins.verifier.check("login1", "secret", said.append, "198.51.100.1")
    relay.reactor.wait(1)
    assert ("127.0.0.1", "") in relay.reactor.dialled


def test_an_endpoint_that_a_reload_has_replaced_is_not_warned_of_any_more(relay: Running):
    relay.path.write_text(CONFIG + AUTH)
    relay.node.reload()
    old = relay.node.logins.checker
    relay.path.write_text(CONFIG)
    relay.node.reload()
    relay.node.logins._heard(old, "it does not answer")
    assert relay.node.health.report()["warnings"] == []


def test_an_imported_hash_becomes_one_of_ours_with_the_first_right_password(relay: Running):
    added = relay.node.directory.add_connection("login1", account="crm", now=0.0, hash=SSHA)
    relay.reactor.until(added.done)
    said: list[Verdict] = []
    relay.node.logins.verifier.check("login1", "abcdef", said.append, "198.51.100.1")
    relay.reactor.until(lambda: relay.node.logins._password_of("login1").startswith("scrypt$"))
    relay.node.logins.verifier.check("login1", "abcdef", said.append, "198.51.100.1")
    relay.node.logins.verifier.check("login1", "abcdeg", said.append, "198.51.100.1")
    relay.reactor.until(lambda: len(said) == 3)
    assert said[0] is Verdict.RIGHT and set(said[1:]) == {Verdict.RIGHT, Verdict.WRONG}


def test_an_imported_hash_that_cannot_be_replaced_is_told_of_in_the_log(relay: Running, monkeypatch: Any):
    failed: Future[Any] = Future()
    failed.set_exception(OSError("the disk is gone"))
    monkeypatch.setattr(relay.node.directory, "renew_hash", lambda *given: failed)
    with capturedLogs() as logged:
        relay.node.logins._renew_hash("login1", SSHA, "scrypt$new")
    (line,) = [formatEvent(event) for event in logged]
    assert line == "The imported hash of login1 stays: the disk is gone"


# Sender domains

KEY = rsa(domain="crm.example", selector="s1")
DNS = f"""
s1._domainkey.crm.example TXT {dns_record(KEY)[1]}
crm.example TXT v=spf1 ip4:192.0.2.11 -all
crm.example MX 10 mx.crm.example
"""


def registered(relay: Running, zone: str, **account: Any) -> Zone:
    """A domain with a key and a source that the world sees, and the DNS that will be asked."""
    relay.path.write_text(CONFIG.replace('"127.0.0.11"', '"127.0.0.11"\npublic = "192.0.2.11"'))
    relay.node.reload()
    answers = Zone(zone)

    async def query(name: str, rdtype: Any, *, fresh: bool) -> Any:
        values = answers.answer(Question(name, rdtype)).values
        return SimpleNamespace(records=[SimpleNamespace(to_text=lambda value=value: value) for value in values])

    relay.node.resolver.query = query  # type: ignore[method-assign, assignment]
    directory = relay.node.directory
    asked = [
        directory.add_account("acme", now=START, **account),
        directory.add_domain_key("crm.example", account="acme", now=START, selector="s1", pem=to_pem(KEY.private)),
    ]
    relay.reactor.until(lambda: all(future.done() for future in asked))
    return answers


def test_a_domain_that_the_dns_bears_out_is_verified_and_recorded_and_the_books_stay_clean(relay: Running):
    registered(relay, DNS)
    relay.reactor.advance(5)
    relay.reactor.until(lambda: relay.node.directory.senders.state("acme", "news.crm.example") == "verified")
    found: list[Any] = []
    find_records(relay.node.spool, b"DomainVerified", found.append)
    relay.reactor.until(lambda: found)
    (record,) = map(decode, found[0])
    assert (record.account, record.domain, record.note) == ("acme", "crm.example", "")
    relay.send()
    relay.reactor.until(lambda: relay.mx.got and relay.node.scheduler.memory.loaded == 0)
    assert relay.asked(relay.node.operations.audit())["clean"]


def test_what_a_domain_misses_is_told_by_the_addresses_it_is_sent_from(relay: Running):
    registered(relay, DNS.replace("192.0.2.11", "192.0.2.99"))
    checked: list[Any] = []
    relay.node.operations.verify("crm.example").addCallback(checked.append)
    relay.reactor.until(lambda: checked)
    assert checked[0].state == "unverified" and "mail from 192.0.2.11 gets fail" in checked[0].why


def test_nothing_is_looked_up_for_accounts_without_domain_check(relay: Running):
    answers = registered(relay, DNS, domain_check="off")
    relay.reactor.wait(60)
    assert answers.asked == [] and relay.node.directory.senders.state("acme", "crm.example") == "unverified"


def test_a_domain_is_judged_by_keys_that_align_with_it_and_by_the_streams_it_is_sent_in(relay: Running):
    registered(relay, DNS)
    node = relay.node
    relay.path.write_text(
        CONFIG.replace('"127.0.0.11"', '"192.0.2.11"').replace("min_free", 'dkim_domain = "relay.example"\nmin_free')
        + '[source.s2]\naddress = "192.0.2.12"\n[stream.news]\npool = "second"\n'
        + "[pool.default]\nsources = { s1 = 1 }\n[pool.second]\nsources = { s2 = 1 }\n"
    )
    node.reload()
    own = node.directory.add_domain_key("relay.example", account="crm", now=START, pem=to_pem(KEY.private))
    relay.reactor.until(own.done)
    row = node.directory.senders.get("crm.example")
    assert row is not None
    assert [key.domain for key in node.operations.subject(row).keys] == ["crm.example"]
    assert [source.address for source in node.operations.subject(row).sources] == ["192.0.2.11", "192.0.2.12"]
    login = node.directory.add_connection(
        "login", account="acme", now=START, streams=("news",), password="secret secret"
    )
    relay.reactor.until(login.done)
    assert [source.address for source in node.operations.subject(row).sources] == ["192.0.2.12"]
    relay.path.write_text(relay.path.read_text() + 'overflow = "default"\n')
    node.reload()
    assert [source.address for source in node.operations.subject(row).sources] == ["192.0.2.11", "192.0.2.12"]


def test_check_says_that_all_is_well_or_what_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(CONFIG)
    bad.write_text(CONFIG.replace("allow = ", "alow = "))
    for path, code in ((good, 0), (bad, 1)):
        with pytest.raises(SystemExit) as left:
            Options().parseOptions(["--config", str(path), "--check"])
        assert left.value.code == code
    out = capsys.readouterr()
    assert "all is well" in out.out and "alow" in out.err


def prepaid(relay: Running, units: int) -> Any:
    """Gives the account so many units; gives its balances."""
    balances = relay.node.directory.balances
    changes = [
        balances.add_plan(Plan("prepaid")),
        balances.set_plan("crm", "prepaid", now=START, by="test"),
        balances.credit("crm", units, now=START, by="test"),
    ]
    relay.reactor.until(lambda: all(change.done() for change in changes))
    return balances


def leased(relay: Running) -> None:
    """Has one unit reserved, and given up again."""
    got: list[Any] = []
    relay.node.purse.want("crm", 1, relay.node.now(), got.append)
    relay.reactor.until(lambda: got)
    relay.node.purse.release("crm", 1)
    assert got == [True] and relay.asked(relay.node.operations.lease("crm")) == (Lease(100), 0)


def test_a_stop_returns_the_leases_of_balances(relay: Running, tmp_path: Path):
    balances = prepaid(relay, 1000)
    leased(relay)
    relay.stop()
    assert balances.leases == {"crm": Lease(100, returned=100)}


def test_a_stop_does_not_wait_long_for_leases_that_cannot_return(relay: Running):
    prepaid(relay, 1000)
    leased(relay)
    asked: list[Any] = []
    relay.node.spool.settle_leases = lambda rows, done: asked.append(rows)  # type: ignore[method-assign]
    stopped = relay.node.stopService()
    relay.reactor.until(lambda: asked)
    relay.reactor.wait(6)
    relay.reactor.until(lambda: stopped.called)


def test_the_audit_proves_balances_too(relay: Running):
    balances = prepaid(relay, 1000)
    leased(relay)
    assert relay.asked(relay.node.operations.audit()) == {"clean": True, "days": [], "odd": []}
    balances.leases["crm"] = Lease(50, 7)
    assert relay.asked(relay.node.operations.audit())["odd"] == [
        "payer crm: 100 units granted, but the other store knows of 50",
        "payer crm: 7 units charged, but the other store knows of 0",
    ]


def test_balances_that_cannot_be_asked_for_are_a_fault_until_they_can(relay: Running):
    prepaid(relay, 1000)
    real, got = relay.node.spool.settle_leases, []
    relay.node.spool.settle_leases = lambda rows, done: relay.reactor.callFromThread(done, OSError("no"))
    relay.node.purse.want("crm", 1, relay.node.now(), got.append)
    relay.reactor.until(lambda: got)
    assert got == [None] and relay.node.health.report()["faults"] == ["balances cannot be asked for: no"]
    relay.node.spool.settle_leases = real
    leased(relay)
    assert relay.node.health.report()["ok"]


def test_what_was_used_can_be_booked_and_shown_at_once(relay: Running):
    balances = prepaid(relay, 1000)
    leased(relay)
    assert relay.asked(relay.node.operations.book("crm")) is None
    assert balances.balance("crm").used == 0 and relay.node.courier.outcomes.refunds("crm", "suppressed", 0)


def test_suppression_lists_are_open_swept_and_heard_of_when_they_fail(relay: Running):
    lists = relay.node.suppressions
    relay.reactor.until(lambda: lists.ready)
    now = relay.reactor.seconds()
    made = lists.add_list("complaints", now=now)
    relay.reactor.until(made.done)
    over = entry("complaints", "a@b.example", reason="manual", added=now, expires=now + 5, by="test")
    lists.add([over])
    relay.reactor.until(lambda: lists.suspects(["complaints"], "a@b.example"))
    relay.later(6, lambda: not lists.suspects(["complaints"], "a@b.example"))
    assert relay.node.health.report()["warnings"] == []
    lists.fault = "suppression lists: disk I/O error"
    assert relay.node.health.report()["warnings"] == ["suppression lists: disk I/O error"]


REACTION = '[reaction.slow]\ncodes = "450"\naction = "suspend"\nfor = "1h"\n'


def slowed(node: Node) -> Reaction:
    """What a provider's reply leads to, kept as the courier keeps it."""
    words = ("dot", 450, "4.2.1", "slow down", node.now(), "19a")
    verdict = node.reactions.seen(Seen("", "x.example", "x.example", "s1", "crm", "mx.x.example", *words))
    node.consequences.keep_reactions(verdict.began, verdict.ended)
    return verdict


def test_a_reaction_survives_a_restart_and_ends_with_its_time(relay: Running, tmp_path: Path):
    relay.path.write_text(CONFIG + REACTION)
    relay.node.reload()
    (active,) = slowed(relay.node).began
    relay.stop()
    again = Running(tmp_path)
    node = again.node
    assert node.reactions.all() == [active]
    assert node.reactions.holds("s1", "x.example", "crm", node.now()) == (active,)
    again.reactor.wait(2 * 3600 + 60)
    assert node.reactions.all() == []
    again.stop()
    last = Running(tmp_path)
    assert last.node.directory.reactions.before == []
    last.stop()


def test_a_reaction_ends_when_an_operator_lifts_it_or_switches_its_rule_off(relay: Running, tmp_path: Path):
    relay.path.write_text(CONFIG + REACTION)
    relay.node.reload()
    (active,) = slowed(relay.node).began
    assert relay.node.operations.lift(active.id) == active and relay.node.reactions.all() == []
    with pytest.raises(InputError, match="there is no reaction 1: relayctl shaping reactions shows those"):
        relay.node.operations.lift(active.id)
    slowed(relay.node)
    relay.path.write_text(CONFIG + REACTION + "enabled = false\n")
    assert relay.node.reload()["changed"] == ["reaction"]
    assert relay.node.reactions.all() == []
    relay.stop()
    again = Running(tmp_path)
    assert again.node.directory.reactions.before == []
    again.stop()


def test_why_names_the_rule_and_the_very_reply_that_suspends_and_when_that_lifts(relay: Running):
    relay.path.write_text(CONFIG + REACTION)
    relay.node.reload()
    relay.mx.says["RCPT"] = "450 4.2.1 slow down"
    identity = relay.send().split()[-1]
    relay.reactor.until(lambda: relay.node.reactions.all())
    relay.reactor.until(lambda: not relay.node.scheduler.memory.loaded)
    second = relay.send().split()[-1]
    (row,) = relay.asked(relay.node.operations.why(second))
    assert row["constraint"] == "pause" and row["until"] == relay.node.reactions.all()[0].until
    assert "suspended for another" in row["why"] and "by the reaction slow: " in row["why"]
    assert "said at rcpt: 450 4.2.1 slow down" in row["why"] and row["lifts"].startswith(("in 59m", "in 1h"))
    (row,) = relay.asked(relay.node.operations.why(identity))
    assert row["constraint"] == "retry" and "after 1 attempts" in row["why"]
    rows = relay.asked(relay.node.operations.why("X.example"))
    assert [(row["queue"], row["count"]) for row in rows] == [("crm/bulk/x.example", 2)]
    relay.mx.says.clear()
    relay.node.operations.lift(relay.node.reactions.all()[0].id)
    relay.reactor.until(lambda: relay.mx.got)
    assert relay.asked(relay.node.operations.why("nobody.example")).value.text == "no mail to nobody.example is queued"


def test_a_reaction_that_a_clock_set_back_ends_holds_nothing_back_any_more(relay: Running):
    relay.path.write_text(CONFIG + REACTION)
    relay.node.reload()
    relay.mx.says["RCPT"] = "450 4.2.1 slow down"
    relay.send()
    relay.reactor.until(lambda: relay.node.reactions.all())
    relay.reactor.until(lambda: not relay.node.scheduler.memory.loaded)
    relay.mx.says.clear()
    relay.send()
    relay.node.now = lambda: relay.reactor.seconds() - 600
    relay.reactor.wait(2)
    relay.reactor.until(lambda: relay.mx.got)


def test_explain_tells_every_limit_with_the_line_it_is_from(relay: Running):
    limits = '[egress]\nrate = "100/s"\nsource = { rate = "1000/h" }\n'
    relay.path.write_text(CONFIG + limits)
    relay.node.reload()
    layers = account_layers("crm", {"": {"account": {"rate": "10/s"}}})
    relay.reactor.until(relay.node.directory.change_account("crm", shaping=layers).done)
    told = relay.asked(relay.node.operations.explain("x.example", "crm", "bulk"))
    lines = relay.path.read_text().splitlines()
    found = {(row["scope"], row["limit"]): (row["value"], row["table"], row["where"]) for row in told["limits"]}
    for key, value, text in ((("path", "rate"), "100/s", 'rate = "100/s"'), (("source", "rate"), "1000/h", lines[-1])):
        where = f"{relay.path}:{lines.index(text) + 1}"
        assert found[key] == (value, "[egress]", where)
    assert found["path", "connections"] == (20, "[egress]", "default")
    assert found["account", "rate"] == ("10/s", "account crm", "relayctl account shape")
    assert (told["hosts"], told["pool"], told["sources"]) == (["203.0.113.1"], "default", ["s1"])


def test_limits_of_an_account_that_are_taken_away_hold_back_nothing_that_waits_for_them(relay: Running):
    layers = account_layers("crm", {"": {"account": {"rate": "1/d"}}})
    relay.reactor.until(relay.node.directory.change_account("crm", shaping=layers).done)
    for _ in range(3):
        relay.send()
    relay.reactor.until(lambda: relay.mx.got)
    relay.reactor.until(relay.node.directory.change_account("crm", shaping=()).done)
    relay.reactor.until(lambda: len(relay.mx.got) == 3)


def test_a_reload_of_shaping_ends_no_session_and_its_limits_hold_at_once(relay: Running):
    relay.mx.says["DOT"] = HANG
    relay.send()
    relay.reactor.until(lambda: relay.mx.sessions and "DATA" in relay.mx.sessions[0].heard)
    (session,) = relay.mx.sessions
    relay.reactor.pump()
    relay.path.write_text(CONFIG + '[egress]\nrate = "1/h"\n')
    assert relay.node.reload()["changed"] == ["egress"]
    del relay.mx.says["DOT"]
    session.wake()
    relay.reactor.until(lambda: not relay.node.scheduler.memory.loaded)
    relay.send()
    relay.reactor.until(lambda: len(relay.mx.got) == 2)
    assert relay.mx.sessions == [session] and "QUIT" not in session.heard
    relay.send()
    assert "the rate 1/h of" in relay.asked(relay.node.operations.why("x.example"))[0]["why"]
    relay.path.write_text(CONFIG + '[reaction.slow]\ncodes = "4xx"\naction = "suspnd"\n')
    with pytest.raises(InputError, match=rf"{relay.path}: reaction.slow.action: 'suspnd' is none of"):
        relay.node.reload()
    assert "the rate 1/h of" in relay.asked(relay.node.operations.why("x.example"))[0]["why"]


def test_a_bad_rule_is_refused_with_its_file_and_the_old_ones_stay(relay: Running):
    relay.path.write_text(CONFIG + REACTION)
    relay.node.reload()
    rules = relay.node.reactions.rules
    (relay.path.parent / "shaping.d").mkdir()
    (relay.path.parent / "shaping.d" / "mine.toml").write_text("[reaction.x]\ncodes = '200'\n")
    with pytest.raises(InputError, match=r"mine\.toml: reaction\.x\.codes: '200' is not a code of failure"):
        relay.node.reload()
    assert relay.node.reactions.rules is rules


def test_rules_are_replayed_over_what_the_relay_has_recorded(relay: Running):
    relay.mx.says["RCPT"] = "450 4.2.1 later"
    relay.send()
    relay.reactor.until(
        lambda: relay.node.courier.outcomes.totals["transient"] and not relay.node.scheduler.memory.loaded
    )

    def replayed(*rules: str) -> Any:
        found: list[Any] = []
        relay.node.operations.replay(list(rules), 3600.0).addBoth(found.append)
        relay.reactor.until(lambda: found)
        return found[0]

    in_force, new, faulty = replayed(), replayed(REACTION), replayed("[reaction.x]\n")
    assert (in_force["attempts"], in_force["failures"], in_force["rules"]) == (1, 1, [])
    assert [(rule["rule"], rule["fired"]) for rule in new["rules"]] == [("slow", 1)]
    assert new["firings"][0]["reply"] == "450 4.2.1 later"
    assert faulty.type is InputError and "reaction.x.action: is missing" in str(faulty.value)
    relay.node.scheduler.stopping = True  # or the next try would be there, too
    relay.reactor.advance(7200)
    assert replayed(REACTION)["attempts"] == 0


# Senders under suspicion.


def test_what_is_submitted_is_watched_and_habits_are_written_at_the_stop(relay: Running, tmp_path: Path):
    assert relay.node.operations.suspicion is not None
    assert relay.send().startswith("250")
    assert {key.account for key in relay.node.operations.suspicion._clients} == {"crm"}
    relay.stop()
    assert sorted(path.name for path in (tmp_path / "spool" / "suspicion").iterdir()) == ["habits", "recipients"]


def test_thresholds_change_with_a_reload_and_switching_it_off_needs_a_restart(relay: Running):
    assert relay.node.operations.suspicion is not None
    relay.path.write_text(CONFIG + "[suspicion]\nthreshold = 80\n")
    relay.node.reload()
    assert relay.node.operations.suspicion.settings.threshold == 80
    relay.path.write_text(CONFIG + "[suspicion]\nenabled = false\n")
    with pytest.raises(InputError, match=r"suspicion\.enabled changed: that needs a restart"):
        relay.node.reload()


def test_switched_off_nobody_is_watched(relay: Running, tmp_path: Path):
    relay.stop()
    for path in (tmp_path / "spool" / "suspicion").iterdir():
        path.unlink()
    relay.path.write_text(CONFIG + "[suspicion]\nenabled = false\n")
    again = Running(tmp_path)
    assert again.node.operations.suspicion is None and again.send().startswith("250")
    again.stop()
    assert list((tmp_path / "spool" / "suspicion").iterdir()) == []


def test_a_relay_that_stops_reloads_nothing_any_more(relay: Running):
    relay.node.stopService()
    with pytest.raises(InputError, match="is stopping"):
        relay.node.reload()
    relay.reactor.wait(11)
    relay.reactor.until(lambda: not relay.node.spool.writer.is_alive())


def test_events_are_posted_to_webhooks_and_where_they_may_go_is_changed_by_a_reload(relay: Running):
    relay.reactor.hosts["198.51.100.7"] = server = Server()
    url = "http://198.51.100.7/events"
    row = Webhook(name="w", account="crm", url=url, secret=b"s" * 32, made=0.0, batch=1)
    relay.node.directory.webhooks.add(row)
    relay.send()
    relay.reactor.until(lambda: relay.node.webhooks.shown(row)["tries"])
    assert "which is no public address" in relay.node.webhooks.shown(row)["words"] and not server.requests
    relay.path.write_text(CONFIG + '\n[webhooks]\nallow = ["198.51.100.7/32"]\n')
    assert relay.node.reload()["changed"] == ["webhooks"]
    relay.later(5, lambda: relay.node.webhooks.shown(row)["sent"])
    assert [event["event"] for event in server.events] == ["delivered"]
    (segment,) = relay.path.parent.glob("spool/records/*.jsonl")
    spool = sqlite3.connect(relay.path.parent / "spool" / "spool.sqlite")
    held = "SELECT segment FROM checkpoint WHERE feed = 'webhooks'"
    relay.later(1, lambda: spool.execute(held).fetchone() == (segment.name,))
    spool.close()
