"""Whole relays with a real spool, through weather: every message is accounted for in the end."""

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import CLOSE, HANG, START, Server
from tests.test_service import Running


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


def send(relay: Running, *recipients: str, content: bytes = b"hello\r\n", head: bytes = b"") -> str:
    """The last word of the answer: the message's id."""
    client = relay.call()
    client.say(b"MAIL FROM:<a@crm.example>\r\n")
    for recipient in recipients:
        client.say(b"RCPT TO:<%b>\r\n" % recipient.encode())
    client.say(b"DATA\r\n")
    client.say(b"From: a@crm.example\r\n" + head + b"\r\n" + content + b".\r\n")
    relay.reactor.until(lambda: client.heard.startswith(b"250"))
    answer = client.heard.decode()
    client.say(b"QUIT\r\n")
    return answer.split()[-1]


def quiet(relay: Running) -> None:
    """Until nothing is in memory any more."""
    relay.reactor.until(lambda: relay.node.scheduler.memory.loaded == 0)


def terms(relay: Running) -> Counter[str]:
    found = relay.asked(relay.node.operations.audit())
    assert found["clean"], found["odd"]
    sums: Counter[str] = Counter()
    for day in found["days"]:
        sums.update({k: v for k, v in day.items() if isinstance(v, int)})
    return sums


def test_each_recipient_of_a_message_has_its_own_fate_and_all_are_accounted_for(tmp_path: Path):
    relay = Running(tmp_path)
    fates = {"nobody": "550 5.1.1 unknown", "grey": "451 4.7.1 greylisted"}

    def rcpt(server: Server, line: str) -> str:
        return next((said for name, said in fates.items() if f"<{name}" in line), "250 ok")

    relay.mx.says["RCPT"] = rcpt
    for n in range(5):
        send(relay, f"good{n}@x.example", f"nobody{n}@y.example", f"grey{n}@z.example")
    relay.reactor.until(lambda: len(relay.mx.got) == 10)  # with a report on each bounce
    quiet(relay)
    now = terms(relay)
    # A report on a bounce is generated and delivered, too.
    assert (now["received"], now["delivered"] - now["generated"], now["bounced"], now["queued"]) == (15, 5, 5, 5)
    del fates["grey"]
    relay.later(400, lambda: sum(got[1][:4] == "grey" for got in relay.mx.got) == 5)
    quiet(relay)
    now = terms(relay)
    assert (now["delivered"] - now["generated"], now["bounced"], now["queued"]) == (10, 5, 0)
    relay.stop()


def test_a_large_body_goes_through_a_file_byte_for_byte_and_the_file_goes_with_it(tmp_path: Path):
    relay = Running(tmp_path)
    content = b"".join(b"%09d\r\n" % n for n in range(50_000))
    send(relay, "b@x.example", content=content)
    relay.reactor.until(lambda: relay.mx.got)
    assert relay.mx.got[0][2].endswith(b"\r\n\r\n" + content)
    quiet(relay)
    relay.stop()
    assert list((tmp_path / "spool" / "bodies").iterdir()) == []


@pytest.mark.parametrize("fault", [HANG, CLOSE])
def test_a_stop_amid_deliveries_loses_none(tmp_path: Path, fault: str):
    relay = Running(tmp_path)
    relay.mx.says["DOT"] = fault
    for n in range(6):
        send(relay, f"b{n}@x.example")
    relay.reactor.until(lambda: relay.mx.got)
    relay.stop()
    again = Running(tmp_path)
    assert again.node.spool.queued_at_start == 6
    again.later(7200, lambda: len({got[1] for got in again.mx.got}) == 6)
    quiet(again)
    assert terms(again)["delivered"] == 6
    again.stop()


# Headers that steer.  The clock begins on Friday 2027-01-15 at 08:00:00 UTC.


@pytest.mark.parametrize(
    "head", [b"X-Relayd-Send-At: 2027-01-15T11:00:00+02:00\r\n", b"X-Relayd-Window: 09:00-18:00\r\n"]
)
def test_mail_for_later_waits_on_disk_over_a_restart_and_goes_at_its_time(tmp_path: Path, head: bytes):
    relay = Running(tmp_path)
    identity = send(relay, "b@x.example", head=head)
    send(relay, "c@x.example")
    relay.reactor.until(lambda: len(relay.mx.got) == 1)
    relay.reactor.wait(1800)
    relay.stop()
    again = Running(tmp_path)
    again.reactor.rightNow = START + 3590
    assert again.node.scheduler.memory.loaded == 0 and again.node.spool.queued_at_start == 1
    again.later(5, lambda: True)
    assert again.mx.got == []
    waits = again.asked(again.node.operations.inspect(int(identity, 16)))["deliveries"][0]["why"]
    assert waits == "it waits 5 s for the time at which its sender wants it sent"
    again.later(6, lambda: again.mx.got)
    assert [got[1] for got in (*relay.mx.got, *again.mx.got)] == ["c@x.example", "b@x.example"]
    assert b"X-Relayd" not in again.mx.got[0][2] and b"Date: Fri, 15 Jan 2027 09:00:00 +0000" in again.mx.got[0][2]
    quiet(again)
    assert terms(again)["delivered"] == 2
    again.stop()


def test_mail_that_its_sender_lets_expire_expires_and_is_accounted_for(tmp_path: Path):
    relay = Running(tmp_path)
    relay.mx.says["RCPT"] = "451 4.2.1 not now"
    identity = send(relay, "b@x.example", head=b"X-Relayd-Expire: 10m\r\nX-Track-ID: 77\r\n")
    quiet(relay)
    relay.mx.says["RCPT"] = lambda server, line: "250 ok" if "crm.example" in line else "451 4.2.1 not now"
    relay.later(640, lambda: relay.mx.got)
    quiet(relay)
    assert b"X-Track-ID: 77\r\n" in relay.mx.got[0][2] and relay.mx.got[0][1] == "a@crm.example"
    assert terms(relay)["expired"] == 1
    told = relay.asked(relay.node.operations.inspect(int(identity, 16)))
    assert told["deliveries"][0]["state"] == "expired"
    relay.stop()


def test_the_same_key_is_accepted_once_and_answered_alike_over_a_restart(tmp_path: Path):
    relay = Running(tmp_path)
    key = b"X-Relayd-Idempotency-Key: order-17\r\n"
    large = b"".join(b"%09d\r\n" % n for n in range(20_000))
    first = send(relay, "b@x.example", head=key)
    assert send(relay, "b@x.example", head=key) == first
    assert send(relay, "b@x.example", head=key, content=large) == first
    assert send(relay, "b@x.example", head=key.replace(b"17", b"18")) != first
    relay.reactor.until(lambda: len(relay.mx.got) == 2)
    quiet(relay)
    relay.stop()
    assert list((tmp_path / "spool" / "bodies").iterdir()) == []
    again = Running(tmp_path)
    again.reactor.rightNow = START + 86000
    assert send(again, "b@x.example", head=key) == first
    quiet(again)
    assert (terms(again)["received"], terms(again)["delivered"]) == (2, 2)
    again.stop()
