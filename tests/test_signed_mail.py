"""Signed mail through a whole relay with a real spool: what arrives verifies, as dkimpy sees it."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relayd import service
from relayd.control.verb import run
from relayd.control.verbs import BY_PATH
from relayd.message.dkim import Key, ToSign, to_pem
from tests.dkim_kit import ed25519, rsa, verifies
from tests.harness import START
from tests.test_service import CONFIG, Running

DOMAIN = "crm.example"
RSA, ED25519 = rsa(domain=DOMAIN, selector="s1"), ed25519(domain=DOMAIN, selector="s2")
OWN = rsa(domain="relay.example", selector="esp")
DEFER = CONFIG.replace('pool = "default"', 'pool = "default"\nunsigned = "defer"')
BODY = b"hello  there\t\r\n\r\n"


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    monkeypatch.setattr("dkim.time", SimpleNamespace(time=lambda: START + 86400))  # the receiver's clock
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


class Signing(Running):
    """A relay that knows these keys of account crm."""

    def __init__(self, directory: Path, *keys: Key, config: str = CONFIG, account: str = "crm") -> None:
        (directory / "relayd.toml").write_text(config)
        super().__init__(directory)
        if account != "crm":
            self.say("/v1/account/add", name=account)
        for key in keys:
            self.add(key, account)

    def add(self, key: Key, account: str = "crm") -> Any:
        pem = to_pem(key.private).decode()
        return self.say("/v1/domain/add", name=key.domain, account=account, selector=key.selector, key=pem)

    def say(self, path: str, **given: Any) -> Any:
        future = run(BY_PATH[path], self.node.operations, given)
        if hasattr(future, "result"):
            self.reactor.until(future.done)
            return future.result()
        return future

    def submit(
        self, *recipients: str, body: bytes = BODY, fields: bytes = b"", author: bytes = b"a@crm.example"
    ) -> str:
        client = self.call()
        client.say(b"MAIL FROM:<a@crm.example>\r\n")
        for recipient in recipients or ("b@x.example",):
            client.say(b"RCPT TO:<%b>\r\n" % recipient.encode())
        client.say(b"DATA\r\n")
        client.say(b"From: %b\r\nBcc: secret@x.example\r\n%b\r\n%b.\r\n" % (author, fields, body))
        self.reactor.until(lambda: client.heard.startswith(b"250"))
        identity = client.heard.split()[-1].decode()
        client.say(b"QUIT\r\n")
        return identity

    def got(self, count: int = 1) -> list[bytes]:
        """What has arrived, once so many have."""
        self.reactor.until(lambda: len(self.mx.got) >= count)
        return [content for _, _, content in self.mx.got]

    def quiet(self) -> None:
        self.reactor.until(lambda: self.node.scheduler.memory.loaded == 0)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    running: list[Signing] = []

    def start(*keys: Key, **more: Any) -> Signing:
        running.append(Signing(tmp_path, *keys, **more))
        return running[-1]

    yield start
    for relay in running:
        if not relay.node.health.stopping:
            relay.stop()


def signatures(content: bytes) -> bytes:
    """All that stands in front of what the relay prepends."""
    return content[: content.index(b"Received:")]


def test_a_message_is_signed_by_every_key_of_its_domain_with_the_fields_the_relay_adds(started):
    relay = started(RSA, ED25519)
    relay.submit()
    (content,) = relay.got()
    assert content.startswith(b"DKIM-Signature:") and b"Bcc" not in content
    assert verifies(content, [RSA, ED25519]) == [True, True]
    for added in (b"Date:", b"Message-ID:"):
        assert verifies(content.replace(added, added + b" x", 1), [RSA, ED25519]) == [False, False]


@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_one_key_of_either_kind_signs(started, key):
    relay = started(key)
    relay.submit()
    assert verifies(relay.got()[0], [key]) == [True]


def test_a_changed_body_does_not_verify(started):
    relay = started(RSA)
    relay.submit()
    assert verifies(relay.got()[0].replace(b"hello", b"hullo"), [RSA]) == [False]


def test_without_a_key_nothing_is_added_and_no_thread_is_asked(started):
    relay = started()
    relay.node.relay.signer.sign = None
    relay.submit()
    assert relay.got()[0].startswith(b"Received:")


def test_a_body_that_goes_through_a_file_is_signed_as_it_streams_in(started):
    relay = started(RSA)
    body = b"".join(b"%09d  x \r\n" % n for n in range(20_000)) + b"\r\n\r\n"
    relay.submit(body=body)
    (content,) = relay.got()
    assert len(content) > len(body) and verifies(content, [RSA]) == [True]


def test_all_recipients_get_the_same_signature(started):
    relay = started(RSA)
    relay.submit("b@x.example", "c@y.example", "d@z.example")
    contents = relay.got(3)
    assert len({signatures(content) for content in contents}) == 1
    assert all(verifies(content, [RSA]) == [True] for content in contents)


def test_a_retry_after_a_restart_and_without_the_key_has_the_identical_bytes(started, tmp_path):
    relay = started(RSA)
    relay.mx.says["DOT"] = "451 4.7.1 later"
    relay.submit()
    relay.quiet()
    (first,) = relay.got()
    relay.say("/v1/domain/remove", name=DOMAIN)
    relay.stop()
    again = started()
    again.later(400, lambda: again.mx.got)
    assert again.mx.got[0][2] == first and verifies(first, [RSA]) == [True]


def test_the_relays_own_domain_signs_as_well_below_the_aligned_signature(started):
    relay = started(RSA, OWN, config=CONFIG.replace("min_free", 'dkim_domain = "relay.example"\nmin_free'))
    relay.submit()
    (content,) = relay.got()
    assert verifies(content, [RSA, OWN]) == [True, True]
    assert content.index(b"d=crm.example") < content.index(b"d=relay.example")


def test_a_subdomain_is_signed_by_the_nearest_parent_with_a_key(started):
    relay = started(RSA, rsa(domain="news.crm.example", selector="n"))
    relay.submit(author=b"a@eu.news.crm.example")
    assert b" d=news.crm.example;" in relay.got()[0] and b" d=crm.example" not in relay.got()[0]


def test_the_key_of_another_account_is_not_used(started):
    relay = started(RSA, account="other")
    relay.submit()
    relay.submit(author=b"a@news.crm.example")
    assert not any(b"DKIM-Signature" in content for content in relay.got(2))


def test_a_key_of_the_configuration_signs_for_every_account(started, tmp_path):
    (tmp_path / "s1.pem").write_bytes(to_pem(RSA.private))
    (tmp_path / "s2.pem").write_bytes(to_pem(ED25519.private))
    table = '[dkim."crm.example"]\nselector = "s1"\nkey = "s1.pem"\nsecond_selector = "s2"\nsecond_key = "s2.pem"\n'
    relay = started(config=CONFIG + table)
    relay.submit()
    assert verifies(relay.got()[0], [RSA, ED25519]) == [True, True]


def test_an_eight_bit_message_for_a_seven_bit_server_is_signed_in_its_new_form_only(started):
    relay = started(RSA)
    relay.mx.offers = ("PIPELINING",)
    fields = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    relay.submit(body="привет\r\n".encode(), fields=fields)
    (content,) = relay.got()
    assert content.isascii() and content.count(b"DKIM-Signature:") == 1
    assert verifies(content, [RSA]) == [True]


def test_an_eight_bit_body_from_a_file_is_signed_anew_too(started):
    relay = started(RSA)
    relay.mx.offers = ("PIPELINING",)
    fields = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    relay.submit(body="привет\r\n".encode() * 20_000, fields=fields)
    (content,) = relay.got()
    assert content.isascii() and verifies(content, [RSA]) == [True]


# No key.


def test_mail_that_waits_for_its_key_says_so_and_goes_signed_when_it_is_there(started):
    relay = started(config=DEFER)
    identity = relay.submit("b@x.example", "c@x.example")
    relay.quiet()
    assert relay.mx.got == []
    (queue,) = relay.asked(relay.node.operations.queues(5))
    assert queue["count"] == 2
    assert last(relay, identity) == {"queue: no DKIM key for d=crm.example"}
    relay.add(RSA)
    relay.later(400, lambda: len(relay.mx.got) == 2)
    one, other = relay.got(2)
    assert signatures(one) == signatures(other) and verifies(one, [RSA]) == [True]


def last(relay: Signing, identity: str) -> set[str]:
    """What a message's deliveries last met, as the spool has it."""
    queued: list[Any] = []
    relay.node.spool.deliveries_of(int(identity, 16), queued.append)
    relay.reactor.until(lambda: queued)
    return {delivery.last for delivery in queued[0]}


def test_a_large_body_that_waited_for_its_key_is_signed_without_being_read_twice(started):
    relay = started(config=DEFER)
    relay.submit(body=b"x  y\r\n" * 30_000)
    relay.quiet()
    relay.add(ED25519)
    relay.later(400, lambda: relay.mx.got)
    assert verifies(relay.got()[0], [ED25519]) == [True]


def test_what_was_signed_late_has_the_same_bytes_at_the_next_try_after_a_restart(started):
    relay = started(config=DEFER)
    relay.submit()
    relay.quiet()
    relay.add(RSA)
    relay.mx.says["DOT"] = "451 4.7.1 later"
    relay.later(400, lambda: relay.mx.got)
    relay.quiet()
    relay.stop()
    again = started(config=DEFER)
    again.later(2000, lambda: again.mx.got)
    assert again.got()[0] == relay.mx.got[0][2] and verifies(again.got()[0], [RSA]) == [True]


def test_mail_that_waits_goes_unsigned_once_its_stream_says_send(started):
    relay = started(config=DEFER)
    relay.submit()
    relay.quiet()
    relay.path.write_text(CONFIG)
    relay.node.reload()
    relay.later(400, lambda: relay.mx.got)
    assert relay.got()[0].startswith(b"Received:")


def test_a_key_file_that_cannot_be_read_is_a_warning_and_the_reload_that_mends_it_signs(started, tmp_path):
    table = '[dkim."crm.example"]\nselector = "s1"\nkey = "s1.pem"\n'
    relay = started(config=CONFIG + table)
    (warning,) = relay.node.health.report()["warnings"]
    assert warning.startswith("dkim crm.example: ") and warning.endswith("s1.pem: No such file or directory")
    relay.submit()
    (tmp_path / "s1.pem").write_bytes(to_pem(RSA.private))
    relay.node.reload()
    relay.submit()
    unsigned, signed = relay.got(2)
    assert b"DKIM" not in unsigned and verifies(signed, [RSA]) == [True]
    assert relay.node.health.report()["warnings"] == []


def test_a_waiting_message_names_the_file_that_cannot_be_read(started):
    relay = started(config=DEFER + '[dkim."crm.example"]\nselector = "s1"\nkey = "s1.pem"\n')
    identity = relay.submit()
    relay.quiet()
    (words,) = last(relay, identity)
    assert words.startswith("queue: no DKIM key for d=crm.example: /")
    assert words.endswith("s1.pem: No such file or directory")


@pytest.mark.parametrize(("config", "arrives"), [(CONFIG, 1), (DEFER, 0)])
def test_a_key_that_cannot_sign_does_as_the_stream_says_and_is_a_warning(started, monkeypatch, config, arrives):
    def fail(self: ToSign) -> bytes:
        raise ValueError("bad primes")

    relay = started(RSA, config=config)
    with monkeypatch.context() as broken:
        broken.setattr(ToSign, "sign", fail)
        relay.submit()
        relay.quiet()
        assert len(relay.mx.got) == arrives and not any(b"DKIM" in content for _, _, content in relay.mx.got)
    (warning,) = relay.node.health.report()["warnings"]
    assert warning == "the DKIM key s=s1 of d=crm.example cannot sign: bad primes"
    relay.node.reload()
    assert relay.node.health.report()["warnings"] == []
    relay.later(0 if arrives else 400, lambda: relay.mx.got)
    assert verifies(relay.got()[0], [RSA]) == [not arrives]


def test_an_own_domain_without_a_key_is_a_warning(started):
    relay = started(config=CONFIG.replace("min_free", 'dkim_domain = "relay.example"\nmin_free'))
    assert relay.node.health.report()["warnings"] == ["there is no DKIM key for [node] dkim_domain relay.example"]


def test_check_calls_an_unreadable_key_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "relayd.toml"
    path.write_text(CONFIG + '[dkim."crm.example"]\nselector = "s1"\nkey = "s1.pem"\n')
    with pytest.raises(SystemExit) as left:
        service.Options().parseOptions(["--config", str(path), "--check"])
    assert left.value.code == 1 and "dkim.crm.example" in capsys.readouterr().err
    (tmp_path / "s1.pem").write_bytes(to_pem(RSA.private))
    with pytest.raises(SystemExit) as left:
        service.Options().parseOptions(["--config", str(path), "--check"])
    assert left.value.code == 0


def test_a_client_that_leaves_while_its_message_is_signed_has_sent_nothing(started):
    relay = started(RSA)
    signer = relay.node.relay.signer
    held: list[Any] = []
    signer._submit = held.append
    client = relay.call()
    client.say(b"MAIL FROM:<a@crm.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
    client.say(b"From: a@crm.example\r\n\r\nhello\r\n.\r\n")
    assert held and client.heard == b""
    client.transport.abortConnection()
    relay.reactor.pump()
    for work in held:
        work()
    relay.reactor.pump()
    assert signer.pending == 0 and relay.node.relay.memory == 0
    assert relay.asked(relay.node.operations.queues(5)) == []


def test_a_signer_with_too_much_before_it_takes_no_new_mail(started):
    relay = started(RSA)
    relay.node.relay.signer.pending = 1_000_000
    client = relay.call()
    assert "451 4.3.2" in client.say(b"MAIL FROM:<a@crm.example>\r\n")


def test_a_retry_within_one_life_has_the_identical_signature(started):
    relay = started(RSA, ED25519)
    relay.mx.says["DOT"] = lambda server, line: "451 no" if len(server.host.got) == 1 else "250 ok"
    relay.submit()
    relay.later(400, lambda: len(relay.mx.got) == 2)
    first, second = relay.got(2)
    assert first == second and verifies(second, [RSA, ED25519]) == [True, True]
