"""Asking relayd: its control API (HTTP and JSON on a UNIX socket), as snapshots that a thread takes.

One thread asks, so that a relay that hangs never freezes the keys; the latest answer replaces the one before, so
nothing piles up, and no answer may be larger than MAX_ANSWER.
"""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

EVERY = 1.0  # seconds between questions
PATIENCE = 3.0  # seconds without an answer until we say so
MOST_QUEUES = 200
MAX_ANSWER = 4 * 2**20


class Unreachable(Exception):
    """relayd could not be asked; the text says why."""


class Snapshot(NamedTuple):
    """One answer: the node's status and its queues; ``fault`` says why there is none.  ``at`` is unix seconds."""

    at: float
    status: dict[str, Any]
    queues: list[dict[str, Any]]
    fault: str = ""


NOTHING_YET = Snapshot(0.0, {}, [], "asking relayd ...")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("relayd", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def get(control: str, path: str) -> Any:
    """The JSON value at an API path.  Raises Unreachable."""
    connection = _UnixConnection(control)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        value = json.loads(answer.read(MAX_ANSWER))
    except TimeoutError:
        raise Unreachable(f"relayd at {control} does not answer") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise Unreachable(f"no relayd is running at {control}") from None
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{control}: {error or type(error).__name__}") from None
    except ValueError:
        raise Unreachable(f"what answers at {control} is no relayd") from None
    finally:
        connection.close()
    if answer.status != 200:
        said = value.get("error") if isinstance(value, dict) else None
        raise Unreachable(f"{path}: {said or f'status {answer.status}'}")
    return value


def look(control: str, now: float) -> Snapshot:
    """One snapshot; a relay that cannot be asked makes one with a fault."""
    try:
        status = get(control, "/v1/status")
        queues = get(control, f"/v1/queue/list?limit={MOST_QUEUES}")
    except Unreachable as fault:
        return Snapshot(now, {}, [], str(fault))
    if not isinstance(status, dict) or not isinstance(queues, list):
        return Snapshot(now, {}, [], f"what answers at {control} is no relayd")
    return Snapshot(now, status, [queue for queue in queues if isinstance(queue, dict)][:MOST_QUEUES])


class Poller(threading.Thread):
    """Asks every second, or at once when ``hurry`` is called.  ``latest`` is replaced, then ``told`` called."""

    def __init__(self, control: str, told: Callable[[], None]) -> None:
        super().__init__(name="poller", daemon=True)
        self.latest = NOTHING_YET
        self._control = control
        self._told = told
        self._wake = threading.Event()

    def run(self) -> None:
        while True:
            self.latest = look(self._control, time.time())
            try:
                self._told()
            except OSError:
                return  # the screen is gone
            self._wake.wait(EVERY)
            self._wake.clear()

    def hurry(self) -> None:
        self._wake.set()
