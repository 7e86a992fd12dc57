"""A backup of a relay under load, the relay killed, another made of the backup: nothing accepted is missing."""

import contextlib
import json
import smtplib
import threading
from pathlib import Path
from typing import Any

from .conftest import Stage
from .relay import Relay, free_port, message, submit, until

LARGE = b"All work and no play.\r\n" * 5000  # goes to a file


class Load:
    """Clients that send without a pause, by turns to whom takes it, whom does not, and large ones."""

    def __init__(self, relay: Relay, clients: int = 3) -> None:
        self.accepted: list[tuple[str, str]] = []
        self._relay = relay
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _send(self, number: int) -> None:
        count = 0
        with contextlib.suppress(OSError, smtplib.SMTPException, AssertionError):
            client = self._relay.client()
            while not self._over.is_set():
                count += 1
                to = "b@goes.example" if count % 2 else "b@waits.example"
                content = message(LARGE if count % 5 == 0 else b"Hello.\r\n")
                self.accepted.append((submit(client, to, content), to))

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)


def two_ways(stage: Stage, via: str, dead: int) -> str:
    return f"""
[[route]]
domain = "waits.example"
via = "127.0.0.1:{dead}"
[[route]]
domain = "*"
via = "{via}"
"""


def backed_up(relay: Relay, target: Path) -> Any:
    code, said = relay.ctl("backup", "start", str(target), "--reason", "a test")
    assert code == 0, said
    return until(lambda: (shown := relay.ask("/v1/backup/show"))["state"] != "running" and shown, 60)


def restored(relay: Relay, backup: Path, spool: Path, *more: str) -> Any:
    code, said = relay.ctl("--json", "restore", str(backup), "--to", str(spool), *more)
    assert code == 0, said
    return json.loads(said)


def test_a_backup_under_load_has_all_that_was_accepted_before_and_audits_clean(stage: Stage) -> None:
    sink, dead = stage.sink(), free_port("127.0.0.1")
    relay = stage.relay(two_ways(stage, sink.via, dead)).start()
    relay.connection()
    load = Load(relay)
    until(lambda: len(load.accepted) > 150, 60)
    before = list(load.accepted)
    shown = backed_up(relay, stage.home / "backup")
    assert shown["state"] == "done" and shown["fault"] == "", shown
    until(lambda: len(load.accepted) > len(before) + 50, 60)
    relay.kill()
    load.stop()

    other = stage.relay(two_ways(stage, sink.via, dead), spool=stage.home / "restored")
    made = restored(other, stage.home / "backup", other.spool)
    assert made["queued"] == shown["queued"] and str(made["queued"]) in made["mind"]
    other.start()
    other.audited()
    assert other.ask("/v1/connection/show", login="login1")["account"] == "crm"
    waiting = [id_ for id_, to in before if to == "b@waits.example"]
    assert len(waiting) > 50
    for id_, to in before[:: max(1, len(before) // 40)]:
        found = other.ask("/v1/inspect", id=id_)["deliveries"][0]
        assert found["recipient"] == to
        assert found["state"] == ("queued" if id_ in waiting else found["state"])
    assert other.queued() >= len(waiting)
    assert other.stop() == 0


def test_a_spool_restored_on_hold_sends_nothing_until_it_is_told_to(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n').start()
    assert relay.ctl("shaping", "suspend", "--all", "--reason", "so that it is queued")[0] == 0
    ids = [relay.send("b@x.example", message(body)) for body in (b"small\r\n", LARGE)]
    assert backed_up(relay, stage.home / "backup")["state"] == "done"
    assert relay.ctl("shaping", "resume", "--all")[0] == 0
    until(lambda: len(sink.to("b@x.example")) == 2)
    assert relay.stop() == 0

    other = stage.relay(f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n', spool=stage.home / "restored")
    assert restored(other, stage.home / "backup", other.spool, "--hold")["held"] is True
    other.start()
    assert until(lambda: "by restore" in other.delivery(ids[0])["why"])
    assert other.queued() == 2 and len(sink.to("b@x.example")) == 2
    assert other.ctl("shaping", "resume", "--all")[0] == 0
    until(lambda: len(sink.to("b@x.example")) == 4)
    assert sorted(m["size"] for m in sink.to("b@x.example"))[-1] > len(LARGE)
    other.audited()
    code, said = other.ctl("restore", str(stage.home / "backup"), "--to", str(other.spool))
    assert code == 1 and "is not empty" in said
