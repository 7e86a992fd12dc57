"""Webhooks of a whole relay: nothing is lost or out of order whoever is killed, and a dead receiver slows nothing."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.test_docs import blocks

from .conftest import Stage
from .relay import HERE, ROOT, Peer, Relay, free_port, until
from .test_crash import Load

ROUNDS = 3  # of two kills of the relay and one of the receiver


class Receiver:
    """A customer's, which may be killed and started again: it has one port and one file."""

    def __init__(self, stage: Stage) -> None:
        self.file = stage.home / f"received{len(list(stage.home.glob('received*')))}"
        self.file.touch()
        self.port = free_port("127.0.0.1")
        self.secret = ""
        self.pause = 0.0
        self._peer: Peer | None = None
        self._read = 0
        self._batches: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        stage._stack.callback(self.kill)

    def start(self) -> None:
        self._peer = Peer(str(HERE / "receiver.py"), str(self.file), str(self.port), self.secret, str(self.pause))

    def kill(self) -> None:
        """With SIGKILL."""
        if self._peer is not None:
            self._peer.stop()
            self._peer = None

    def batches(self) -> list[dict[str, Any]]:
        """Whole lines: what a kill cut off was never answered."""
        with open(self.file, "rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._read += len(whole) + 1
            came = [json.loads(line) for line in whole.split(b"\n") if line.endswith(b"}")]
            self._batches += came
            self._events += (event for batch in came for event in json.loads(batch["body"])["events"])
        return self._batches

    def events(self) -> list[dict[str, Any]]:
        self.batches()
        return self._events


def house(stage: Stage, more: str = "") -> tuple[Relay, Receiver]:
    sink = stage.sink()
    tables = f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n[webhooks]\nallow = ["127.0.0.1/32"]\n{more}'
    return stage.relay(tables, node='min_free = "1M"'), Receiver(stage)


def add(relay: Relay, receiver: Receiver, **given: Any) -> None:
    url = f"http://127.0.0.1:{receiver.port}/events"
    made = relay.ask("/v1/webhook/add", name="crm-events", account="crm", url=url, event=["all"], **given)
    assert "error" not in made, made
    receiver.secret = made["secret"]


def caught_up(relay: Relay) -> bool:
    row = relay.ask("/v1/webhook/show", name="crm-events")
    return row["behind"] == 0 and not row["tries"]


@pytest.mark.parametrize("lanes", [1, 3])
def test_kills_of_relay_and_receiver_in_turns_lose_nothing_and_what_comes_twice_is_the_same(
    stage: Stage, lanes: int
) -> None:
    rng = random.Random(lanes)
    relay, receiver = house(stage)
    relay.start()
    receiver.pause = 0.05  # on disk and not answered yet: there it is mostly when somebody is killed
    add(relay, receiver, concurrency=lanes, batch=300)
    load = Load()
    receiver.start()
    for _ in range(ROUNDS):
        load.run(relay, rng.uniform(1.5, 2.5), relay.kill)
        relay.start()
        torn = threading.Thread(target=tear, args=(receiver, rng.uniform(1.2, 2.0), rng.uniform(0.1, 0.5)))
        torn.start()
        load.run(relay, rng.uniform(2.0, 3.0), relay.kill)
        torn.join()
        relay.start()
    until(lambda: not relay.queued(), 60, "the queue empties")
    relay.audited()
    (day,) = relay.ask("/v1/audit")["days"]

    def counted() -> Counter[str]:
        return Counter(kind for kind, _ in {(event["event"], event["id"]) for event in receiver.events()})

    until(lambda: counted()["delivered"] >= day["delivered"], 90, "all that was delivered is told")
    until(lambda: caught_up(relay), 30, "the webhook has nothing more to send")
    seen = receiver.events()
    print(f"\n{lanes} lanes, {ROUNDS} rounds: {len(load.accepted)} accepted, {len(seen)} events came, ", end="")
    contents: dict[str, dict[str, Any]] = {}
    for event in seen:
        assert contents.setdefault(event["id"], event) == event
    print(f"{len(seen) - len(contents)} of them again, {dict(counted())}")
    assert len(seen) > len(contents)  # so it was seen that what comes again is the same
    # What the relay's books say is what the receiver counted.
    assert counted()["queued"] == day["received"] >= len(load.accepted) > 100
    assert counted()["delivered"] == day["delivered"] == day["received"]
    # A delivery's events came first in the order in which they happened.
    first: dict[str, list[str]] = {}
    for event in contents.values():
        first.setdefault(event["delivery"], []).append(event["id"])
    assert len(first) == day["received"]
    for ids in first.values():
        assert (contents[ids[0]]["event"], contents[ids[-1]]["event"]) == ("queued", "delivered")
        assert ids == sorted(ids, key=place)
    # Of one message id there is one content.
    bodies: dict[str, str] = {}
    for batch in receiver.batches():
        assert bodies.setdefault(batch["id"], batch["body"]) == batch["body"]
    assert relay.health()["ok"]


def tear(receiver: Receiver, after: float, dead: float) -> None:
    time.sleep(after)
    receiver.kill()
    time.sleep(dead)
    receiver.start()


def place(id: str) -> tuple[int, ...]:
    """Where an event's record stands, of its id."""
    return tuple(int(part, 10 if n == 0 else 16) for n, part in enumerate(id.split("-")))


def test_a_stop_of_the_relay_repeats_nothing(stage: Stage) -> None:
    relay, receiver = house(stage)
    relay.start()
    add(relay, receiver)
    receiver.start()
    load = Load()
    for _ in range(2):
        load.run(relay, 1.0, lambda: relay.stop())
        relay.start()
    until(lambda: not relay.queued(), 30, "the queue empties")
    until(lambda: len(receiver.events()) >= 2 * len(load.accepted), 60, "all is told")
    ids = [event["id"] for event in receiver.events()]
    assert len(ids) == len(set(ids)) == 2 * len(load.accepted)


def test_receivers_that_are_dead_or_hang_cost_mail_and_other_receivers_next_to_nothing(stage: Stage) -> None:
    alone, beside = Costs(stage), Costs(stage)
    stopped = Peer(str(HERE / "receiver.py"), str(stage.home / "never"), "0", "", "0")
    stage._stack.callback(stopped.stop)
    stopped._process.send_signal(signal.SIGSTOP)  # it takes connections and says nothing
    bad = [f"http://127.0.0.1:{port}/" for port in (free_port("127.0.0.1"), stopped.said.split()[-1])]
    relay, receiver = beside.relay, beside.receiver
    for n in range(20):
        given = {"account": "crm", "url": bad[n % 2], "event": ["all"], "concurrency": 2}
        made = relay.ask("/v1/webhook/add", name=f"bad{n}", **given)
        assert "error" not in made, made
    relay.send("a@example.net")
    until(lambda: all(row["tries"] for row in relay.ask("/v1/webhook/list")[:20]), 60, "all have been tried")
    # By turns, and the least of each: what else runs on the machine costs both, and not in every round.
    rounds = [(alone.measured(), beside.measured()) for _ in range(5)]
    least = [min(costs) for costs in zip(*rounds, strict=True)]
    memory = alone.relay.memory(), relay.memory()
    print(f"\nCPU a message, us: {least[0] * 1e6:.0f}, beside 40 dead lanes {least[1] * 1e6:.0f}; ", end="")
    print(f"MB: {memory[0]:.0f}, {memory[1]:.0f}")
    assert least[1] < 1.5 * least[0] and memory[1] < memory[0] + 40
    relay.kill()
    relay.start()
    before = time.monotonic()
    relay.send("b@example.net")
    until(lambda: any(event["recipient"] == "b@example.net" for event in receiver.events()[-200:]), 30)
    print(f"the one that is well has all after {time.monotonic() - before:.1f} s")


class Costs:
    """What messages cost a relay whose customer's receiver is well."""

    def __init__(self, stage: Stage) -> None:
        self.relay, self.receiver = house(stage)
        self.relay.start()
        add(self.relay, self.receiver)
        self.receiver.start()

    def measured(self, many: int = 600) -> float:
        """Seconds of CPU a message, from its reception until the receiver has heard of its delivery."""
        assert self.relay.process is not None
        stat = Path(f"/proc/{self.relay.process.pid}/stat")
        heard, before = len(self.receiver.events()), seconds(stat)
        load = Load(many)
        load.send(self.relay)
        assert len(load.accepted) == many
        until(lambda: len(self.receiver.events()) >= heard + 2 * many, 60, "the receiver has heard of all")
        return (seconds(stat) - before) / many


def seconds(stat: Path) -> float:
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_signature_by_another_secret_is_refused_and_the_operator_sees_it(stage: Stage) -> None:
    relay, receiver = house(stage)
    relay.start()
    add(relay, receiver)
    receiver.start()
    code, said = relay.ctl("webhook", "test", "crm-events")
    assert code == 0 and "204" in said
    receiver.kill()
    receiver.secret = "whsec_" + "A" * 43 + "="
    receiver.start()
    code, said = relay.ctl("webhook", "test", "crm-events")
    assert code == 1 and "it answers 401" in said


class Documented:
    """A receiver of the page on webhooks, as it stands there."""

    def __init__(self, home: Path, program: str, name: str) -> None:
        self.home, self.program, self.name = home, program, name
        self.port = free_port("127.0.0.1")
        (found,) = (block for block in blocks(ROOT / "docs" / "webhooks.md") if f" {name}: " in block.splitlines()[0])
        (home / name).write_text(found)

    def start(self, secret: str) -> "subprocess.Popen[bytes]":
        with open(self.home / f"{self.name}.out", "ab") as out:
            return subprocess.Popen(
                [self.program, self.name, str(self.port)],
                cwd=self.home,
                env={**os.environ, "WEBHOOK_SECRET": secret, "PYTHONUNBUFFERED": "1"},
                stdout=out,
                stderr=out,
            )

    def names(self) -> set[str]:
        """Of the events that it has taken."""
        if self.name.endswith(".js"):
            return {line.split()[0] for line in (self.home / f"{self.name}.out").read_text().splitlines() if line}
        with contextlib.closing(sqlite3.connect(self.home / "events.sqlite")) as db:
            return {name for (name,) in db.execute("SELECT name FROM event")}


@pytest.mark.parametrize(("program", "name"), [(sys.executable, "receiver.py"), ("node", "receiver.js")])
def test_the_receivers_of_the_docs_take_what_is_signed_and_nothing_else(
    stage: Stage, tmp_path: Path, program: str, name: str
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program} here")
    relay, _ = house(stage)
    relay.start()
    receiver = Documented(tmp_path, program, name)
    url = f"http://127.0.0.1:{receiver.port}/events"
    secret = relay.ask("/v1/webhook/add", name="crm-events", account="crm", url=url)["secret"]
    process = receiver.start(secret)
    stage._stack.callback(process.kill)
    until(lambda: relay.ask("/v1/webhook/test", name="crm-events")["ok"], 20)
    relay.send("b@example.net")
    until(lambda: receiver.names() == {"test", "delivered"}, 20)
    assert relay.ask("/v1/webhook/rotate", name="crm-events", overlap="1h")["secret"] != secret
    assert relay.ask("/v1/webhook/test", name="crm-events")["status"] == 204  # the old one signs as well
    process.kill()
    process.wait()
    other = receiver.start("whsec_" + "A" * 43 + "=")
    stage._stack.callback(other.kill)
    until(lambda: relay.ask("/v1/webhook/test", name="crm-events").get("status") == 401, 20)
