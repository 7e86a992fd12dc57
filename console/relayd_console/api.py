"""Asking relayd: its control API (HTTP and JSON on a UNIX socket), verb by verb.

In: a verb's name and arguments.  Out: its answer, or why there is none.  Calls block, for a bounded time: they are made
in threads, so that a relay that hangs never freezes the keys.  A thread keeps its connection for the next question.
"""

import http.client
import json
import os
import socket
import threading
from typing import Any
from urllib.parse import urlencode

PATIENCE = 5.0  # seconds without an answer until we say so
MAX_ANSWER = 8 << 20  # bytes


class Unreachable(Exception):
    """relayd could not be asked; the text says why."""


class Refused(Exception):
    """relayd answers that it will not; the text says why."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("relayd", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """``control``: the socket's path; ``token``: of a session that was opened for somebody ("" for oneself)."""

    def __init__(self, control: str, token: str = "") -> None:
        self.control = control
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._local = threading.local()

    def ask(self, verb: str, given: dict[str, Any] | None = None, *, post: bool = False) -> Any:
        """The answer.  Raises Unreachable, Refused."""
        path = "/v1/" + verb.replace(" ", "/")
        body, headers = None, dict(self._headers)
        if post:
            body, headers["Content-Type"] = json.dumps(given or {}), "application/json"
        elif given:
            path += "?" + urlencode(given, doseq=True)
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            try:
                return self._exchange(connection, path, body, headers)
            except (OSError, http.client.HTTPException):
                connection.close()  # it was closed since; what changes something is not sent twice
                self._local.connection = None
                if post:
                    raise Unreachable("the connection to relayd broke: look whether it was done") from None
        connection = _UnixConnection(self.control)
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
