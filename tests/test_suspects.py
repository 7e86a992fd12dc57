"""Suspects: a finding is logged, kept and told to the customer by our own queue, once; what was learnt is written."""

import email
import email.policy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.envelope import Recipient
from relayd.identity import Identities
from relayd.notices import Notices
from relayd.suspects import Suspects
from relayd.suspicion import Dismissal, Settings
from tests.reception_kit import Receiving

DAY = 86400.0
NODE = "mx1.relay.example"


class Watching:
    """A relay with a real spool and directory, and suspects that have been watched for weeks."""

    def __init__(self, path: Path) -> None:
        self.relay = Receiving(path, real=True)
        self.where = path / "suspicion"
        self.received: list[Any] = []
        self.suspects = self.made()

    def made(self) -> Suspects:
        relay, identities = self.relay, Identities(self.relay.spool.last_identity)
        post, weeks_ago = relay.reactor.callFromThread, self.now - 30 * DAY
        notices = Notices(relay.directory, relay.spool, identities, NODE, lambda: "bulk", self.received.append)
        made = Suspects(
            Settings(memory=1 << 16), self.where, relay.directory, notices, NODE, post, weeks_ago,
        )  # fmt: skip
        made._save_next = self.now + 3600
        return made

    @property
    def now(self) -> float:
        return float(self.relay.reactor.seconds())

    def spams(self, account: str = "crm", client: str = "shop") -> None:
        to = tuple(Recipient(f"a{n}@x.example") for n in range(600))
        self.suspects.suspicion.received(account, client, "login", ("a@x.example",), to, 0, 300, self.now)

    def tick(self, seconds: float = 10.0) -> None:
        self.relay.reactor.advance(seconds)
        self.suspects.tick(self.now)
        self.relay.reactor.pump()

    def notice(self) -> Any:
        """The one that was kept, as its reader sees it."""
        self.relay.reactor.until(lambda: self.received)
        ((delivery,),) = self.received
        content = delivery.message.head + delivery.message.body
        return delivery, email.message_from_bytes(content, policy=email.policy.default)


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    made = Watching(tmp_path)
    yield made
    made.suspects.stop()
    made.relay.close()


def stored(watching: Watching, table: str = "suspects") -> int:
    directory = watching.relay.directory
    count = directory.suspects._worker.run(
        lambda db: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0], lambda count: count
    )
    return int(watching.relay.done(count))


def test_the_customer_is_told_which_client_and_why_by_a_mail_of_our_own(watching: Watching) -> None:
    watching.relay.account(notices="abuse@crm.example")
    watching.spams()
    watching.tick()
    delivery, told = watching.notice()
    message = delivery.message
    assert (message.connection, message.account, message.stream) == ("relayd", "relayd", "bulk")
    assert (message.envelope.sender, delivery.recipient.address) == ("", "abuse@crm.example")
    assert told["Subject"] == "Suspicious mail from client shop of account crm"
    text = told.get_content()
    for words in ("client:              shop", "by the connection:   login", "score:               70 of 100",
                  "- 600 recipients in 15 minutes"):  # fmt: skip
        assert words in text
    assert watching.relay.terms() == {"generated": 1, "queued": 1}
    told, mail = watching.relay.records()
    assert (told.kind, told.account, told.client) == ("Notice", "crm", "shop")
    assert told.note.startswith("under suspicion: client shop of account crm by connection login scores 70: ")
    assert (mail.kind, mail.connection, mail.note) == ("Reception", "relayd", f"notice: {told.note}")


def test_a_finding_is_a_record_whether_or_not_anybody_wants_mail_of_it(watching: Watching) -> None:
    watching.relay.account()
    watching.spams()
    watching.tick()
    watching.relay.reactor.until(watching.relay.records)
    assert [(record.kind, record.client) for record in watching.relay.records()] == [("Notice", "shop")]
    assert watching.received == []


def test_of_one_finding_there_is_one_notice_a_day(watching: Watching) -> None:
    watching.relay.account(notices="abuse@crm.example")
    for _ in range(30):
        watching.spams()
        watching.tick()
        watching.tick(3590)
    watching.relay.reactor.until(lambda: len(watching.received) >= 2)
    assert watching.relay.terms()["generated"] == 2


def test_a_client_of_an_account_that_tells_no_address_is_told_of_to_the_one_above_it(watching: Watching) -> None:
    watching.relay.account(notices="abuse@crm.example")
    watching.relay.account("shop", parent="crm")
    watching.spams("shop", "shop")
    watching.tick()
    delivery, told = watching.notice()
    assert delivery.recipient.address == "abuse@crm.example"
    assert told["Subject"] == "Suspicious mail from client shop of account shop"


def test_without_an_address_nobody_is_mailed_and_the_finding_is_kept(watching: Watching) -> None:
    watching.spams()
    watching.tick()
    assert stored(watching) == 1 and watching.received == []
    assert watching.relay.terms() == {}


def test_a_finding_outlives_a_restart_and_is_not_told_again(watching: Watching) -> None:
    watching.relay.account(notices="abuse@crm.example")
    watching.spams()
    watching.tick()
    watching.notice()
    watching.suspects.stop()
    watching.relay.directory.suspects.findings = list(watching.suspects.suspicion.findings.values())
    watching.suspects = watching.made()
    watching.spams()
    watching.tick()
    assert len(watching.received) == 1 and len(watching.suspects.suspicion.findings) == 1


def test_what_is_over_or_dismissed_is_gone_from_the_disk(watching: Watching) -> None:
    watching.spams()
    watching.tick()
    watching.tick(7 * 3600)
    assert stored(watching) == 0
    watching.spams()
    watching.tick()
    assert stored(watching) == 1
    row = Dismissal("crm", "", "known", "anna", watching.now, watching.now + DAY)
    assert watching.relay.done(watching.suspects.dismiss(row)) == row
    assert (stored(watching), stored(watching, "dismissals")) == (0, 1)


def test_what_was_learnt_is_written_every_hour_and_a_disk_that_refuses_is_told(watching: Watching) -> None:
    watching.where.write_text("no directory")
    watching.tick(3600)
    watching.relay.reactor.until(lambda: watching.suspects.fault)
    assert "cannot be written" in watching.suspects.fault
    watching.where.unlink()
    watching.tick(3600)
    watching.relay.reactor.until(lambda: not watching.suspects.fault)
    assert sorted(path.name for path in watching.where.iterdir()) == ["habits", "recipients"]


def test_a_notice_that_the_disk_refuses_is_no_reason_to_stop(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(reception: Any, done: Callable[[Any], None]) -> None:
        done(OSError(28, "No space left on device"))

    watching.relay.account(notices="abuse@crm.example")
    monkeypatch.setattr(watching.relay.spool, "receive", refuses)
    watching.spams()
    watching.tick()
    assert watching.received == [] and watching.suspects.suspicion.findings
