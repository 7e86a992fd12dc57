"""Whole relays with a real spool, through weather: every message is accounted for in the end."""

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import CLOSE, HANG, Server
from tests.test_service import Running


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signal, "signal", lambda *args: None)
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


def send(relay: Running, *recipients: str, content: bytes = b"hello\r\n") -> None:
    client = relay.call()
    client.say(b"MAIL FROM:<a@crm.example>\r\n")
    for recipient in recipients:
        client.say(b"RCPT TO:<%b>\r\n" % recipient.encode())
    client.say(b"DATA\r\n")
    client.say(b"From: a@crm.example\r\n\r\n" + content + b".\r\n")
    relay.reactor.until(lambda: client.heard.startswith(b"250"))
    client.say(b"QUIT\r\n")


def quiet(relay: Running) -> None:
    """Until nothing is in memory any more."""
    relay.reactor.until(lambda: relay.node.scheduler.loaded == 0)


def terms(relay: Running) -> Counter[str]:
    found = relay.asked(relay.node.audit())
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
