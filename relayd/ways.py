"""Ways to ask a running relay: its control socket, or its control API over the network with a token.

In: where it is, a verb, its arguments.  Out: status and body of the answer, or ``Unreachable`` with what to do.
A token goes to nobody but the server whose certificate was proved, or to this machine.
"""

import http.client
import ipaddress
import json
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from relayd.control.verb import Verb

MAX_ANSWER = 64 * 2**20
_TRIES = 10
_PATIENCE = 5  # seconds: more means that the address is locked


_CLOSED = ssl.SSLEOFError | ssl.SSLZeroReturnError  # in the middle of its greeting, politely or not


class Unreachable(Exception):
    """No relayd could be asked; the text says what to do."""


class Network(msgspec.Struct, frozen=True):
    """The API at a host and port.  ``tls`` proves the server; None is in clear.  ``base``: a path before the API's."""

    host: str
    port: int
    token: str
    tls: ssl.SSLContext | None
    base: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.base}"


Way = str | Network  # or the path of a control socket


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("relayd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def network(url: str, token: str, authorities: str = "") -> Network:
    """The way to the API at a URL.  ``authorities``: a PEM file of whom to trust, "" for the system's.  Raises
    Unreachable for what cannot be one."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        parts, port = urlsplit(""), 0
    host = parts.hostname or ""
    if parts.scheme not in ("https", "http") or not host or parts.query or "@" in parts.netloc:
        raise Unreachable(f"{url!r} is not where an API is: write https://relay.example:8443")
    if parts.scheme == "http" and not _here(host):
        raise Unreachable(f"{url} would send the token in clear: write https://, http:// is for this machine only")
    token = token.strip()
    if not token:
        raise Unreachable(f"{url} wants a token: name its file with --token-file, or set RELAYD_TOKEN")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Unreachable("what was given as the token is none: it is one word that begins with relayd_")
    tls = _proving(authorities) if parts.scheme == "https" else None
    return Network(host, port, token, tls, parts.path.rstrip("/"))


def _proving(authorities: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=authorities or None)
    except ssl.SSLError:
        raise Unreachable(f"{authorities} holds no PEM certificate") from None
    except OSError as error:
        raise Unreachable(f"{authorities} cannot be read: {error.strerror}") from None


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ask(way: Way, verb: Verb, given: dict[str, Any]) -> tuple[int, bytes]:
    """Status and body of the API's answer.  Who asks too often waits as long as he is told to, if that is not long.
    Raises Unreachable."""
    for _ in range(_TRIES):
        status, body, wait = _asked(way, verb, given)
        if status != 429 or not 0 < wait <= _PATIENCE:
            break
        time.sleep(wait)
    return status, body


def _asked(way: Way, verb: Verb, given: dict[str, Any]) -> tuple[int, bytes, int]:
    """Also: in how many seconds to ask again, 0 if that was not said."""
    # Longer than relayd's own limit, so that its answer about it arrives.
    connection, base, headers = _connection(way, verb.timeout + 5)
    try:
        if verb.method == "GET":
            query = urlencode(given, doseq=True)
            connection.request("GET", base + verb.path + (f"?{query}" if query else ""), headers=headers)
        else:
            headers |= {"Content-Type": "application/json"}
            connection.request("POST", base + verb.path, json.dumps(given), headers)
        answer = connection.getresponse()
        again = answer.headers.get("Retry-After", "")
        return answer.status, answer.read(MAX_ANSWER), int(again) if again.isdigit() else 0
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(_words(way, error)) from None
    finally:
        connection.close()


def _connection(way: Way, timeout: float) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    if isinstance(way, str):
        return _UnixConnection(way, timeout), "", {}
    headers = {"Authorization": f"Bearer {way.token}"}
    if way.tls:
        return http.client.HTTPSConnection(way.host, way.port, timeout=timeout, context=way.tls), way.base, headers
    return http.client.HTTPConnection(way.host, way.port, timeout=timeout), way.base, headers


def _words(way: Way, error: Exception) -> str:
    if isinstance(way, str):
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            advice = "start it with: twistd relayd --config FILE; or name another socket with --control"
            return f"no relayd is running at {way}; {advice} or RELAYD_CONTROL"
        if isinstance(error, PermissionError):
            return f"you may not use {way}: be root, relayd's user or in the socket's group"
    elif isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{way}: its certificate proves nothing: {error.verify_message}; "
            "ask it by the name that the certificate has, or name the authority's file with --ca"
        )
    elif isinstance(error, ssl.SSLError) and not isinstance(error, _CLOSED):
        return f"{way}: no TLS came about ({error.reason or error}): is this the port of [api]?"
    elif isinstance(error, ConnectionRefusedError):
        return f"{way}: nobody listens there; [api] of the relay's configuration says where"
    elif isinstance(error, socket.gaierror):
        return f"{way}: there is no host of this name: {error.strerror}"
    elif isinstance(error, ConnectionError | _CLOSED):
        return f"{way}: the connection was closed: [api] allow may not name your network, or too many are open"
    elif isinstance(error, TimeoutError):
        return f"{way}: no answer came in time: is it reachable from here?"
    return f"{way}: {error or type(error).__name__}"
