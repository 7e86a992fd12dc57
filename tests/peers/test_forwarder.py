"""relayd as the small store-and-forward in front of another relay: a second relayd, which submits to Postfix."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Stage
from tests.e2e.relay import LOGIN, PASSWORD, Relay, message, submit, until

from .authority import Authority
from .kinds import Postfix
from .story import QUICK, comes_to, route, told, without_trace

UPSTREAM = "one.example"  # the name in its certificate; that holds 127.0.0.1 too


class Chain:
    """``forwarder`` > ``upstream`` > Postfix."""

    def __init__(self, stage: Stage, postfix: Postfix, authority: Authority) -> None:
        self.stage = stage
        self.postfix = postfix
        self.secret = stage.home / "upstream.secret"
        self.secret.write_text(PASSWORD + "\n")
        self.authority = authority.file
        self.upstream = stage.relay(
            QUICK.format(egress="") + route("*", postfix.port["plain"]), door="max_connections_per_login = 1"
        )
        authority.sign(self.upstream.home, UPSTREAM)
        self.upstream.start()
        self.upstream.connection(senders=("*",))

    def tables(self, more: str = "connections = 1", login: str = LOGIN) -> str:
        found = f'authorities = "{self.authority}"'
        with_login = f'login = "{login}"\npassword_file = "{self.secret}"\n{more}'
        return QUICK.format(egress=found) + route("*", self.upstream.submission, "verify", with_login)

    def forwarder(self, **changed: str) -> Relay:
        return self.stage.relay(self.tables(**changed)).start()

    def came(self, recipient: str) -> list[str]:
        """With which login what upstream has taken for a recipient came."""
        return [r["connection"] for r in records(self.upstream, "Reception") if recipient in r["recipients"]]


def records(relay: Relay, kind: str) -> list[dict[str, Any]]:
    """All records of a kind so far; what was done a moment ago may not be among them."""
    files = sorted(Path(relay.spool, "records").glob("*.jsonl"))
    rows = (json.loads(line) for file in files for line in file.read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture(scope="module")
def chain(module_stage: Stage, postfix: Postfix, authority: Authority) -> Iterator[Chain]:
    made = Chain(module_stage, postfix, authority)
    yield made
    made.upstream.audited()


def test_mail_goes_through_with_login_and_proved_tls(chain: Chain, you: str) -> None:
    forwarder, content = chain.forwarder(), message("grüß Gott\r\n.\r\n".encode())
    why = comes_to(forwarder, forwarder.send(f"{you}@any.example", content), "delivered")
    assert f"certificate CN={UPSTREAM}" in why and "over TLSv1." in why and "250" in why
    (stored,) = chain.postfix.arrived(you)
    assert without_trace(stored) == content
    assert until(lambda: chain.came(f"{you}@any.example")) == [LOGIN]
    forwarder.audited()
    forwarder.stop()


def test_the_connections_agreed_on_are_kept_to(chain: Chain, you: str) -> None:
    """Upstream refuses this login a second connection, and a session carries 100 deliveries."""
    forwarder = chain.forwarder()
    with forwarder.client() as client:
        found = [submit(client, f"{you}@any.example", message()) for _ in range(250)]
    assert len(chain.postfix.arrived(you, 250, 40)) == 250
    assert not [words for identity in found for words in told(forwarder, identity, "TransientFailure")]
    forwarder.stop()


def test_the_rate_agreed_on_is_kept_to(chain: Chain, you: str) -> None:
    forwarder = chain.forwarder(more='connections = 1\nrate = "10/s"')
    with forwarder.client() as client:
        for _ in range(40):
            submit(client, f"{you}@any.example", message())
    assert until(lambda: "10/s" in forwarder.why("any.example"), 10, "the reason is told")
    chain.postfix.arrived(you, 40)
    until(lambda: len(records(forwarder, "Delivery")) == 40)
    times = [record["time"] for record in records(forwarder, "Delivery")]
    # A second's worth may go at once; the other 30 take 3 seconds.
    assert max(times) - min(times) > 2.8
    forwarder.stop()


def test_a_refused_login_keeps_mail_and_says_so_until_it_is_corrected(chain: Chain, you: str) -> None:
    forwarder = chain.forwarder(login="nobody")
    identity = forwarder.send(f"{you}@any.example")
    tries = until(lambda: told(forwarder, identity, "TransientFailure"), 10, "the refusal is known")
    assert "at auth" in tries[0] and "535" in tries[0]
    forwarder.write(chain.tables())
    assert forwarder.ctl("config", "reload")[0] == 0
    comes_to(forwarder, identity, "delivered")
    assert len(chain.postfix.arrived(you)) == 1
    forwarder.stop()


def test_mail_waits_while_upstream_is_away(chain: Chain, you: str) -> None:
    forwarder = chain.forwarder()
    chain.upstream.stop()
    found = [forwarder.send(f"{you}@any.example") for _ in range(20)]
    tries = until(lambda: told(forwarder, found[0], "TransientFailure"), 10, "the first failure is known")
    assert "at connect" in tries[0] and "efused" in tries[0]
    forwarder.kill()  # and neither its own death nor that of upstream loses any
    forwarder.start()
    chain.upstream.start()
    assert len(chain.postfix.arrived(you, 20, 30)) == 20
    until(lambda: forwarder.queued() == 0, 10, "nothing is left")
    forwarder.audited()
    forwarder.stop()


def test_upstream_with_a_certificate_that_proves_nothing_gets_neither_mail_nor_password(chain: Chain, you: str) -> None:
    tables = chain.tables().replace(f'authorities = "{chain.authority}"', "")
    forwarder = chain.stage.relay(tables).start()
    identity = forwarder.send(f"{you}@any.example")
    tries = until(lambda: told(forwarder, identity, "TransientFailure"), 10, "the first failure is known")
    assert "at tls" in tries[0] and "certificate verify failed" in tries[0]
    # What goes through later is there: had this come, it would be too.
    trusting = chain.forwarder()
    comes_to(trusting, trusting.send("u0@last.example"), "delivered")
    until(lambda: chain.came("u0@last.example"))
    assert not chain.came(f"{you}@any.example")
    trusting.stop()
    forwarder.stop()
