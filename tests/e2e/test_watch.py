"""A real relay is watched: Prometheus asks it, systemd hears from it."""

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Stage
from .relay import Relay, free_port, until


def asked(url: str) -> tuple[int, str, Any]:
    """Status, body, headers."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def scraped(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, body, _ = asked(url)
    assert status == 200
    samples = (sample for family in text_string_to_metric_families(body) for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def test_prometheus_sees_what_goes_through(stage: Stage) -> None:
    sink, port = stage.sink(), free_port("127.0.0.1")
    relay = stage.relay(
        f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n[metrics]\nlisten = "tcp:{port}:interface=127.0.0.1"\n'
    ).start()
    here = f"http://127.0.0.1:{port}"
    assert json.loads(asked(f"{here}/readyz")[1]) == {"ready": True, "reasons": {}}
    assert asked(f"{here}/livez")[0] == asked(f"{here}/healthz")[0] == 200
    for n in range(3):
        relay.send(f"to{n}@example.net")
    delivered = "relayd_outcomes_total", (("outcome", "delivered"),)
    until(lambda: scraped(f"{here}/metrics")[delivered] == 3, 10, "three deliveries are counted")
    until(lambda: scraped(f"{here}/metrics")["relayd_queue_deliveries", ()] == 0, 10, "the queue is empty")
    found = scraped(f"{here}/metrics")
    assert found["relayd_messages_received_total", ()] == 3
    assert found["relayd_loop_lag_seconds_count", ()] > 0  # its heart beats
    assert found["relayd_metrics_faults_total", ()] == 0
    assert found["relayd_certificate_expiry_timestamp_seconds", ()] > 1.7e9
    assert found["process_resident_memory_bytes", ()] > 1 << 20
    _, _, headers = asked(f"{here}/metrics")
    assert headers["Server"] is None and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert asked(f"{here}/")[0] == 404

    other = free_port("127.0.0.1")
    relay.file.write_text(relay.file.read_text().replace(f"tcp:{port}:", f"tcp:{other}:"))
    assert relay.ctl("config", "reload")[0] == 0
    assert asked(f"http://127.0.0.1:{other}/livez")[0] == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{here}/livez", timeout=5)
    assert relay.stop() == 0


class Manager:
    """As systemd is to a service of Type=notify."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)
        self.lines: list[str] = []

    def until(self, line: str) -> list[str]:
        """What comes up to this line, and it."""
        came: list[str] = []
        while line not in came:
            came += self.socket.recv(4096).decode().splitlines()
        self.lines += came
        return came


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def under(manager: Manager, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts the relay as systemd would, with a watchdog of a second."""
    with monkeypatch.context() as environ:
        environ.setitem(os.environ, "NOTIFY_SOCKET", manager.socket.getsockname())
        environ.setitem(os.environ, "WATCHDOG_USEC", "1000000")
        relay.start()


def test_systemd_hears_of_start_life_reload_and_stop(
    stage: Stage, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = stage.relay()
    under(manager, relay, monkeypatch)
    assert manager.until("READY=1") == ["READY=1"]
    for _ in range(3):
        assert set(manager.until("WATCHDOG=1")) <= {
            "WATCHDOG=1",
            *(x for x in manager.lines if x.startswith("STATUS=")),
        }
    assert any(line.startswith("STATUS=taking mail; 0 delivered") for line in manager.lines)
    assert relay.ctl("config", "reload")[0] == 0
    reloading = manager.until("RELOADING=1")
    came = manager.until("READY=1")
    assert reloading[-1].startswith("MONOTONIC_USEC=") or came[0].startswith("MONOTONIC_USEC=")
    assert relay.stop() == 0
    assert "STOPPING=1" in manager.until("STOPPING=1")


def test_a_process_that_stands_still_gives_no_sign_of_life_and_says_so_when_it_goes_on(
    stage: Stage, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal: neither its loop nor its watchdog runs."""
    relay = stage.relay()
    under(manager, relay, monkeypatch)
    manager.until("WATCHDOG=1")
    relay.signal(signal.SIGSTOP)
    manager.socket.settimeout(7)
    with pytest.raises(TimeoutError):
        while True:
            manager.socket.recv(4096)
    relay.signal(signal.SIGCONT)
    manager.socket.settimeout(30)
    manager.until("WATCHDOG=1")
    until(lambda: "The event loop stood still for" in relay.log(), 10, "the stall is told")
    assert any("the event loop stood still for" in warning for warning in relay.health()["warnings"])
    assert relay.stop() == 0
