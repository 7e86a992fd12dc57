"""Kill -9 under load, again and again: nothing that got a 250 is lost, little comes twice, and the books balance."""

import asyncio
import contextlib
import hashlib
import math
import random
import time
from bisect import bisect
from collections.abc import Callable
from typing import Any

from relayd.spool.writer import BATCH

from .conftest import Stage
from .relay import SENDER, Relay, until

ROUNDS = 20
SENDERS = 24
SESSIONS = 20  # that the relay may have open to the sink

_BODY = b"A line of the body, as long as lines are.\r\n" * 40
_ENVELOPE = b"MAIL FROM:<%s>\r\nRCPT TO:<%%s@example.net>\r\nDATA\r\n" % SENDER.encode()
_HEAD = b"From: <%s>\r\nX-Test: %%s\r\nSubject: crash\r\n\r\n" % SENDER.encode()


def content_of(test: bytes) -> bytes:
    """The content of one message; every twentieth is so large that its body goes to a file of its own."""
    return _HEAD % test + _BODY * (60 if test.endswith((b"00", b"20", b"40", b"60", b"80")) else 1)


class Load:
    """Many kept-open sessions that send one message after another and note every 250.  ``most``: of all together."""

    def __init__(self, most: float = math.inf) -> None:
        self.most = most
        self.accepted: set[str] = set()
        self.sent = 0

    def run(self, relay: Relay, seconds: float, end: Callable[[], object]) -> None:
        """Sends for so long, then ends the relay in the middle of it."""
        asyncio.run(self._run(relay, seconds, end))

    def send(self, relay: Relay) -> None:
        """Sends all there is to send."""
        asyncio.run(self._send_all(relay))

    async def _send_all(self, relay: Relay) -> None:
        await asyncio.gather(*(self._send(relay.relay) for _ in range(SENDERS)))

    async def _run(self, relay: Relay, seconds: float, end: Callable[[], object]) -> None:
        senders = [asyncio.create_task(self._send(relay.relay)) for _ in range(SENDERS)]
        before = len(self.accepted)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 20
        while len(self.accepted) == before and loop.time() < deadline:
            await asyncio.sleep(0)
        await asyncio.wait(senders, timeout=seconds)
        assert not any(sender.done() for sender in senders), "a sender gave up before the crash"
        await asyncio.to_thread(end)
        await asyncio.gather(*senders)

    async def _send(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._replies(reader, 1)
            writer.write(b"EHLO client.example\r\n")
            await self._replies(reader, 1)
            while self.sent < self.most:
                self.sent += 1
                test = b"t%d" % self.sent
                writer.write(_ENVELOPE % test)
                await self._replies(reader, 3)
                writer.write(content_of(test) + b".\r\n")
                await self._replies(reader, 1)
                self.accepted.add(test.decode())
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, count: int) -> None:
        for _ in range(count):
            while (line := await reader.readuntil(b"\n"))[3:4] == b"-":
                pass
            if line.startswith(b"421"):
                raise ConnectionError(line)
            assert line[:1] in b"23", line


def test_nothing_accepted_is_lost_by_twenty_kills_and_what_comes_twice_stays_within_the_window(stage: Stage) -> None:
    rng = random.Random(9)
    sink = stage.sink()
    relay = stage.relay(
        f'[egress]\nconnections = {SESSIONS}\n[[route]]\ndomain = "*"\nvia = "{sink.via}"', node='min_free = "1M"'
    )
    load = Load()
    kills = []
    for _ in range(ROUNDS):
        relay.start()
        relay.audited()
        load.run(relay, rng.uniform(0.05, 0.8), relay.kill)
        kills.append(time.time())
    relay.start()
    until(lambda: not relay.queued(), 60, "the queue empties")
    relay.audited()

    arrived = sink.messages()
    lost = load.accepted - {m["test"] for m in arrived}
    again = repeats(arrived, kills)
    print(
        f"\n{ROUNDS} kills: {len(load.accepted)} accepted of {load.sent} sent, {len(lost)} lost, "
        f"{sum(again)} came twice, by kill {again}, allowed {BATCH + SESSIONS} each"
    )
    assert not lost, sorted(lost)[:20]
    spoilt = [m["test"] for m in arrived if m["sha256"] != hashlib.sha256(content_of(m["test"].encode())).hexdigest()]
    assert not spoilt, spoilt[:20]
    assert len(load.accepted) > ROUNDS * SENDERS  # it was load
    assert max(again) <= BATCH + SESSIONS
    assert not again[-1]  # nothing comes twice without a kill
    assert relay.health()["ok"]


def test_kills_beside_a_moody_server_leave_every_outcome_accounted_for(stage: Stage) -> None:
    rng = random.Random(11)
    sink = stage.sink(options=("--moody",))
    # A tenth of the recipients do not exist: reputation would slow such an account.
    tables = '[reputation]\nmode = "off"\n[retry]\nschedule = ["1s"]\ngreylist = "1s"\n'
    tables += f'[[route]]\ndomain = "*"\nvia = "{sink.via}"'
    relay = stage.relay(tables, node='min_free = "1M"')
    load = Load()
    for _ in range(4):
        relay.start()
        load.run(relay, rng.uniform(0.2, 1.5), relay.kill)
    relay.start()
    until(lambda: not relay.queued(), 40, "the queue empties")
    relay.audited()
    unknown = {test for test in load.accepted if test.endswith("3")}
    reports = [m for m in sink.messages() if "<>" in m["mail"]]
    assert unknown <= {m["test"] for m in reports}  # each bounce was reported, whatever was killed meanwhile
    arrived = {m["test"] for m in sink.messages() if "<>" not in m["mail"]}
    assert load.accepted - arrived == unknown
    (day,) = relay.ask("/v1/audit")["days"]
    assert day["received"] + day["generated"] == day["delivered"] + day["bounced"]
    assert day["received"] >= len(load.accepted) and day["generated"] >= len(unknown)
    assert day["bounced"] >= len(unknown) > 10 and day["queued"] == 0


def test_sigterm_under_load_loses_nothing_and_repeats_nothing(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"', node='min_free = "1M"')
    load = Load()
    for seconds in (0.1, 0.4, 0.7):
        relay.start()
        codes: list[int] = []
        load.run(relay, seconds, lambda codes=codes: codes.append(relay.stop()))  # type: ignore[misc]
        assert codes == [0]
    relay.start()
    until(lambda: not relay.queued(), 30, "the queue empties")
    relay.audited()
    arrived = [m["test"] for m in sink.messages()]
    assert load.accepted <= set(arrived)
    assert len(arrived) == len(set(arrived))
    assert "Traceback" not in relay.log(), relay.log()[-3000:]


def repeats(arrived: list[dict[str, Any]], kills: list[float]) -> list[int]:
    """How many messages came again that had come before each kill, and after the last one."""
    found = [0] * (len(kills) + 1)
    last: dict[str, float] = {}
    for one in arrived:
        before = last.get(one["test"])
        if before is not None:
            kill = bisect(kills, before)
            found[kill if kill == len(kills) or kills[kill] < one["time"] else -1] += 1
        last[one["test"]] = one["time"]
    return found
