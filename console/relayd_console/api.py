"""Asking relayd: its control API (HTTP and JSON on a UNIX socket), verb by verb.

In: a verb's name and arguments.  Out: its answer, or why there is none.  Calls block, for a bounded time: they are made
in threads, so that a relay that hangs never freezes the keys.  A thread keeps its connection for the next question.
"""

import http.client
import json
import os
import socket
import threading
import weakref
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

PATIENCE = 5.0  # seconds without an answer until we say so
LONG = 605.0  # of what may take its time, such as counting millions of deliveries: relayd itself gives up before
MAX_ANSWER = 8 << 20  # bytes


class Unreachable(Exception):
    """relayd could not be asked; the text says why."""


class Refused(Exception):
    """relayd answers that it will not; the text says why."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("relayd")
        self._path = path
        self.patience = PATIENCE

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(self._path)
        self.sock.settimeout(self.patience)

    def wait(self, seconds: float) -> None:
        """For the next answer."""
        self.patience = seconds
        if self.sock is not None:
            self.sock.settimeout(seconds)


class Client:
    """``control``: the socket's path; ``token``: of a session that was opened for somebody ("" for oneself)."""

    def __init__(self, control: str, token: str = "") -> None:
        self.control = control
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._local = threading.local()
        self._open: weakref.WeakSet[_UnixConnection] = weakref.WeakSet()
        self._over = False

    def close(self) -> None:
        """Nobody waits any more."""
        self._over = True
        for connection in list(self._open):
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def ask(self, verb: str, given: dict[str, Any] | None = None, *, post: bool = False, patience: float = 0.0) -> Any:
        """The answer; ``patience``: seconds to wait for it, else PATIENCE.  Raises Unreachable, Refused."""
        path = "/v1/" + verb.replace(" ", "/")
        body, headers = None, dict(self._headers)
        if post:
            body, headers["Content-Type"] = json.dumps(given or {}), "application/json"
        elif given:
            path += "?" + urlencode(given, doseq=True)
        connection: _UnixConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.wait(patience or PATIENCE)
            try:
                return self._exchange(connection, path, body, headers)
            except (OSError, http.client.HTTPException):
                connection.close()  # it was closed since; what changes something is not sent twice
                self._local.connection = None
                if post:
                    raise Unreachable("the connection to relayd broke: look whether it was done") from None
        connection = _UnixConnection(self.control)
        connection.wait(patience or PATIENCE)
        self._open.add(connection)
        if self._over:
            raise Unreachable("the console ends")
        try:
            answer = self._exchange(connection, path, body, headers)
        except TimeoutError:
            raise Unreachable(f"relayd at {self.control} does not answer") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise Unreachable(f"no relayd is running at {self.control}") from None
        except PermissionError:
            raise Unreachable(f"{self.control}: you may not; [node] control_group names who may") from None
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.control}: {error or type(error).__name__}") from None
        self._local.connection = connection
        return answer

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: str | None, headers: dict[str, str]
    ) -> Any:
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        raw = answer.read(MAX_ANSWER)
        try:
            value = json.loads(raw)
        except ValueError:
            connection.close()
            raise Unreachable(f"what answers at {self.control} is no relayd") from None
        if answer.status not in (200, 503):
            said = value.get("error") if isinstance(value, dict) else None
            field = value.get("field") if isinstance(value, dict) else None
            raise Refused(f"{field}: {said}" if field else said or f"status {answer.status}")
        return value


def token() -> str:
    """That of the session which this process was started for, if any: taken out of the environment, so that nothing
    that is started from here has it."""
    return os.environ.pop("RELAYD_TOKEN", "")
