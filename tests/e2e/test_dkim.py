"""A key given with relayctl to the real process: mail under load arrives signed, and everyone's signature verifies."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from relayd.message.dkim import to_pem
from tests.dkim_kit import ed25519, rsa, verifies

from .conftest import Stage
from .relay import Relay, Sink, message, submit, until

_DOMAIN = "crm.example"
_KEYS = [rsa(domain=_DOMAIN, selector="s1"), ed25519(domain=_DOMAIN, selector="s2")]
_SESSIONS, _EACH = 8, 25


def add_keys(relay: Relay, home: Path) -> None:
    for key in _KEYS:
        (home / "key.pem").write_bytes(to_pem(key.private))
        words = f"domain add --account crm --selector {key.selector} --key-file {home}/key.pem {_DOMAIN}".split()
        code, out = relay.ctl(*words)
        assert code == 0 and f"{key.selector}._domainkey.{_DOMAIN}" in out


def send_many(relay: Relay, session: int) -> None:
    with relay.client() as client:
        for number in range(_EACH):
            body = b"%d  %d \t\r\n\r\n" % (session, number) * (1 + number * 500)  # the last ones go through files
            submit(client, f"r{session}-{number}@example.net", message(body))


def contents(sink: Sink) -> list[bytes]:
    return [sink.content(found) for found in sink.messages()]


def test_many_sessions_at_once_are_signed_by_both_keys(stage: Stage) -> None:
    sink = stage.sink("127.0.0.1:0")
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "127.0.0.1:{sink.port}"\n[stream.transactional]\n').start()
    until(lambda: relay.ask("/v1/account/list"), 10, "the listener's account is made")
    add_keys(relay, stage.home)
    with ThreadPoolExecutor(_SESSIONS) as pool:
        list(pool.map(lambda session: send_many(relay, session), range(_SESSIONS)))
    until(lambda: len(sink.messages()) == _SESSIONS * _EACH, 60, "all messages")
    for content in contents(sink):
        assert verifies(content, _KEYS) == [True, True]
        assert len(re.findall(rb"^DKIM-Signature:", content, re.MULTILINE)) == 2
    relay.audited()
    assert relay.stop() == 0
