"""Kill -9 under load, again and again: nothing that got a 250 is lost, little comes twice, and the books balance."""

import asyncio
import contextlib
import random
import time
from bisect import bisect
from typing import Any

from relayd.spool.writer import BATCH

from .conftest import Stage
from .relay import SENDER, Relay, until

ROUNDS = 20
SENDERS = 24
SESSIONS = 20  # that the relay may have open to the sink

_BODY = b"A line of the body, as long as lines are.\r\n" * 40
_ENVELOPE = b"MAIL FROM:<%s>\r\nRCPT TO:<%%s@example.net>\r\nDATA\r\n" % SENDER.encode()
_CONTENT = b"From: <%s>\r\nX-Test: %%s\r\nSubject: crash\r\n\r\n%s.\r\n" % (SENDER.encode(), _BODY)


class Load:
    """Many kept-open sessions that send one message after another and note every 250."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.sent = 0

    def run(self, relay: Relay, seconds: float) -> None:
        """Sends for so long, then kills the relay in the middle of it."""
        asyncio.run(self._run(relay, seconds))

    async def _run(self, relay: Relay, seconds: float) -> None:
        senders = [asyncio.create_task(self._send(relay.relay)) for _ in range(SENDERS)]
        before = len(self.accepted)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 20
        while len(self.accepted) == before and loop.time() < deadline:
            await asyncio.sleep(0)
        await asyncio.wait(senders, timeout=seconds)
        assert not any(sender.done() for sender in senders), "a sender gave up before the crash"
        relay.kill()
        await asyncio.gather(*senders)

    async def _send(self, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._replies(reader, 1)
            writer.write(b"EHLO client.example\r\n")
            await self._replies(reader, 1)
            while True:
                self.sent += 1
                test = b"t%d" % self.sent
                writer.write(_ENVELOPE % test)
                await self._replies(reader, 3)
                writer.write(_CONTENT % test)
                await self._replies(reader, 1)
                self.accepted.add(test.decode())
        writer.close()

    async def _replies(self, reader: asyncio.StreamReader, count: int) -> None:
        for _ in range(count):
            while (line := await reader.readuntil(b"\n"))[3:4] == b"-":
                pass
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
        load.run(relay, rng.uniform(0.05, 0.8))
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
    assert len(load.accepted) > ROUNDS * SENDERS  # it was load
    assert max(again) <= BATCH + SESSIONS
    assert not again[-1]  # nothing comes twice without a kill
    assert relay.health()["ok"]


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
