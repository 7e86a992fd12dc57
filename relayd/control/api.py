"""The control API: HTTP and JSON on a UNIX socket, one resource that serves the table of verbs.

The peer's user, as the kernel gives it, decides the role: root and relayd's own user are admin, whoever else the
socket's mode (0660, its group) lets in may view and operate.  Bodies are bounded, every wait has an end, every error is
JSON: {"error": text, "field": the argument at fault or ""}.  ``door`` serves the same resource over the network: there
a token decides (``caller``).
"""

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request as BareRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from relayd import notation
from relayd.control import live
from relayd.control.scope import NotFound, perform, shown
from relayd.control.verb import MAX_BODY, ROLES, Caller, Relay, Role, Verb, changes, without_secrets
from relayd.control.verbs import BY_PATH
from relayd.directory import Change
from relayd.errors import InputError
from relayd.reply import printable

_PEERCRED = struct.Struct("3i")

CallerOf = Callable[[Request], Caller]  # or raises Refused


class Refused(Exception):
    """Nobody who may ask.  ``delay``: for how many seconds to hold the answer back."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None, delay: float = 0.0) -> None:
        super().__init__(text)
        self.status, self.text, self.headers, self.delay = status, text, headers or {}, delay


class ControlService(Service):
    """Listens on ``path`` while it runs.  A socket file that a dead process left is replaced, a live one's never."""

    name = "control"

    def __init__(
        self, reactor: Any, path: str, relay: Relay, group: str = "", caller: CallerOf | None = None, mode: int = 0o660
    ) -> None:
        self._reactor = reactor
        self._path = notation.socket_path(path)
        self._group = group
        self._mode = mode
        self._site = ControlSite(VerbResource(reactor, relay, caller or self._caller), reactor=reactor)
        self._port: Any = None
        # A process that runs as our user for somebody else has the rights of that one, on a socket of its own.
        self.is_for_another: Callable[[int], bool] = lambda process: False

    def startService(self) -> None:
        """Raises RuntimeError if somebody answers on the socket, OSError if it cannot be made."""
        remove_stale(self._path)
        # From its first moment on, so that nobody else slips in before its mode is set.
        mask = os.umask(0o777 & ~self._mode)
        try:
            self._port = self._reactor.listenUNIX(self._path, self._site, mode=self._mode)
        finally:
            os.umask(mask)
        if self._group:
            os.chown(self._path, -1, grp.getgrnam(self._group).gr_gid)
        super().startService()

    def stopService(self) -> "Deferred[None] | None":
        super().stopService()
        port, self._port = self._port, None
        return maybeDeferred(port.stopListening) if port else None

    def _caller(self, request: Request) -> Caller:
        if self.is_for_another(peer_process(request)):
            return always("a session over SSH", None)(request)
        return caller_by_user(request)


def always(who: str, role: Role | None) -> CallerOf:
    """For a socket that is one person's: whoever comes."""
    return lambda request: Caller(who, role)


def remove_stale(path: str) -> None:
    """Removes a dead process's socket file.  Raises RuntimeError if a live one answers on it or it is no socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        fault = probe.connect_ex(path)
    if fault == errno.ENOENT:
        return
    if fault != errno.ECONNREFUSED:
        said = "another process answers on it" if fault == 0 else os.strerror(fault)
        raise RuntimeError(f"control socket {path}: {said}")
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise RuntimeError(f"control socket {path}: there is a file that is no socket")
    os.unlink(path)


def caller_by_user(request: Request) -> Caller:
    """A peer on a UNIX socket; the kernel has already kept out whom the file's mode does not admit."""
    user = peer_user(request)
    try:
        who = pwd.getpwuid(user).pw_name
    except KeyError:
        who = f"uid {user}"
    return Caller(who, "admin" if user in (0, os.getuid()) else "operate")


def peer_user(request: Request) -> int:
    return _peer(request)[1]


def peer_process(request: Request) -> int:
    """Its id; 0 for one whose namespace we do not see into."""
    return _peer(request)[0]


def _peer(request: Request) -> tuple[int, ...]:
    transport: Any = request.channel.transport
    return _PEERCRED.unpack(transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))


class ControlRequest(Request):
    """A request whose body may not grow beyond MAX_BODY, announced or not: what is more is read and dropped."""

    _received = 0

    def gotLength(self, length: int | None) -> None:
        super().gotLength(min(length or 0, MAX_BODY))

    def handleContentChunk(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= MAX_BODY:
            super().handleContentChunk(data)

    def process(self) -> None:
        # Answered only now: a connection closed on a peer that is still writing would swallow the answer.
        if self._received > MAX_BODY:
            _answer(self, 413, _error(f"a request has at most {MAX_BODY} bytes"), finish=True)
        else:
            super().process()


class ControlSite(Site):
    """Writes no line for each request: a console asks every second.  Changes are logged where they are made."""

    requestFactory = ControlRequest
    displayTracebacks = False
    noisy = False

    def log(self, request: BareRequest) -> None:
        pass


class VerbResource(Resource):
    """Every path of the table of verbs."""

    isLeaf = True
    _log = Logger()

    def __init__(self, reactor: IReactorTime, relay: Relay, caller: CallerOf) -> None:
        super().__init__()
        self._reactor = reactor
        self._relay = relay
        self._caller = caller
        self.streams = 0

    def render(self, request: Request) -> int | bytes:
        try:
            caller = self._caller(request)
        except Refused as refused:
            return self._refuse(request, refused)
        path = request.path.decode("latin-1")
        verb = BY_PATH.get(path)
        if verb is None:
            return _answer(request, 404, _error(f"there is no {printable(path, 200)}{notation.nearest(path, BY_PATH)}"))
        if request.method.decode("latin-1") not in (verb.method, "HEAD" if verb.method == "GET" else ""):
            request.setHeader(b"Allow", verb.method.encode())
            return _answer(request, 405, _error(f"{path} is asked with {verb.method}"))
        if barred := _barred(verb, caller):
            return _answer(request, 403, _error(barred))
        if verb.method == "GET" and live.wanted(request):
            return self._watch(request, verb)
        self._perform(request, verb, caller)
        return NOT_DONE_YET

    def _watch(self, request: Request, verb: Verb) -> int | bytes:
        """A stream of the verb's answers.  Who asks is asked anew for each: a token may be revoked meanwhile."""
        given = _given(request)
        try:
            every = live.pace(given)
        except ValueError as error:
            return _answer(request, 400, _error(str(error), "every"))
        if self.streams >= live.MOST:
            return _answer(request, 503, _error(f"there are {live.MOST} live views already: close one"))

        def ask() -> "Deferred[tuple[int, bytes]]":
            try:
                caller = self._caller(request)
            except Refused as refused:
                return succeed((refused.status, _error(refused.text)))
            if barred := _barred(verb, caller):
                return succeed((403, _error(barred)))
            asked = maybeDeferred(lambda: _deferred(self._reactor, perform(verb, self._relay, dict(given), caller)))
            asked.addTimeout(verb.timeout, self._reactor)
            return asked.addCallbacks(lambda value: _succeeded(verb, value, caller), _failed)

        def over() -> None:
            self.streams -= 1

        self.streams += 1
        live.Stream(self._reactor, request, every, ask, over).begin()
        return NOT_DONE_YET

    def _refuse(self, request: Request, refused: Refused) -> int | bytes:
        for name, value in refused.headers.items():
            request.setHeader(name.encode(), value.encode())
        status, body = refused.status, _error(refused.text)
        if not refused.delay:
            return _answer(request, status, body)
        answer = self._reactor.callLater(refused.delay, _answer, request, status, body, finish=True)
        request.notifyFinish().addErrback(lambda _: answer.cancel())
        return NOT_DONE_YET

    def ask(self, verb: Verb, caller: Caller, given: dict[str, object]) -> "Deferred[Any]":
        """The verb's value, for somebody inside this process; what changes something is noted as if it had been asked
        from without."""

        def done(value: Any) -> Any:
            if changes(verb, given):
                self._note(verb, caller, given, value)
            return value

        asked = maybeDeferred(lambda: _deferred(self._reactor, perform(verb, self._relay, given, caller)))
        return asked.addTimeout(verb.timeout, self._reactor).addBoth(done)

    def _perform(self, request: Request, verb: Verb, caller: Caller) -> None:
        gone: list[Failure] = []
        request.notifyFinish().addErrback(gone.append)
        given: dict[str, object] = {}

        def begin() -> Any:
            given.update(_given(request))
            return _deferred(self._reactor, perform(verb, self._relay, given, caller))

        def done(value: Any) -> None:
            status, body = _failed(value) if isinstance(value, Failure) else _succeeded(verb, value, caller)
            if status == 500:
                self._log.failure("control: {verb} failed", failure=value, verb=verb.name)
            if changes(verb, given):
                self._note(verb, caller, given, value)
            if not gone:
                _answer(request, status, body, finish=True)

        maybeDeferred(begin).addTimeout(verb.timeout, self._reactor).addBoth(done)

    def _note(self, verb: Verb, caller: Caller, given: dict[str, object], value: Any) -> None:
        """Who changed what, or tried to: into the directory's trail, and the log."""
        who = caller.name
        result = printable(value.getErrorMessage(), 500) if isinstance(value, Failure) else "done"
        self._log.info("control: {who}: {verb}: {result}", who=who, verb=verb.name, result=result)
        change = Change(self._relay.now(), who, verb.name, without_secrets(verb, given), result)

        def noted(future: "Future[Change]") -> None:
            if error := future.exception():
                self._log.error("control: {verb} by {who} was not noted: {error}", verb=verb.name, who=who, error=error)

        self._relay.directory.note(change, customer=caller.role == "customer").add_done_callback(noted)


def _barred(verb: Verb, caller: Caller) -> str:
    """Why the caller may not use the verb, "" if he may."""
    if caller.role == "customer":
        return "" if verb.scope is not None else f"{verb.name} is not for customers"
    if caller.role is None or ROLES.index(caller.role) < ROLES.index(verb.role):
        return f"{verb.name} needs the role {verb.role}; yours is {caller.role or 'none'}"
    return ""


def _given(request: Request) -> dict[str, object]:
    """The arguments: a GET's query, a POST's JSON object."""
    if request.method != b"POST":
        several = {_text(name): [_text(value) for value in values] for name, values in request.args.items()}
        return {name: values if len(values) > 1 else values[0] for name, values in several.items()}
    raw = request.content.read() if request.content else b""
    try:
        return msgspec.json.decode(raw or b"{}", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InputError("", "the body is not a JSON object") from None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _deferred(reactor: Any, value: Any) -> Any:
    """What handlers may give, as something that a Deferred can wait for."""
    if isinstance(value, Future):
        waiting: Deferred[Any] = Deferred()
        # A future may be done on any thread.
        value.add_done_callback(lambda done: reactor.callFromThread(_settle, waiting, done))
        return waiting
    if isinstance(value, Coroutine):
        return Deferred.fromCoroutine(value).addCallback(lambda result: _deferred(reactor, result))
    return value


def _settle(waiting: "Deferred[Any]", done: "Future[Any]") -> None:
    if waiting.called:
        return
    error = done.exception()
    if error is None:
        waiting.callback(done.result())
    else:
        waiting.errback(error)


def _succeeded(verb: Verb, value: Any, caller: Caller) -> tuple[int, bytes]:
    well = not verb.verdict or bool(value.get(verb.verdict))
    return 200 if well else verb.unwell, _encoded(shown(verb, value, caller))


def _failed(failure: Failure) -> tuple[int, bytes]:
    error = failure.value
    if isinstance(error, InputError):
        return 404 if isinstance(error, NotFound) else 400, _error(error.text, error.field)
    if isinstance(error, TimeoutError):
        return 504, _error("it took too long; what it began may still come to its end")
    return 500, _error("it failed inside relayd; its log says how")


def _error(text: str, field: str = "") -> bytes:
    return _encoded({"error": text, "field": field})


def _encoded(value: Any) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _answer(request: Request, status: int, body: bytes, *, finish: bool = False) -> bytes:
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Cache-Control", b"no-store")
    request.responseHeaders.removeHeader(b"Server")
    if finish:
        request.setHeader(b"Content-Length", b"%d" % len(body))
        request.write(body)
        request.finish()
    return body
