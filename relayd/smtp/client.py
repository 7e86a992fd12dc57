"""The ESMTP client protocol, sans-IO: one session with one peer, from the banner to QUIT.

In go bytes (``receive_data``), the shell's news (``eof``, ``abort``, ``tls_started``) and transactions (``send``); out
come bytes (``data_to_send``) and events (``next_event``).  Each transaction carries one message to one recipient and
ends in one ``Finished`` or ``Returned``, in the order they were sent; ``SessionEnded`` is the last event.

RFC 5321; PIPELINING 2920, SIZE 1870, 8BITMIME 6152, SMTPUTF8 6531, DSN 3461, STARTTLS 3207, AUTH 4954.  Replies are
judged by their first digit; 421 ends the session wherever it comes.  A reply to what was not sent is never believed.
"""

from base64 import b64encode
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, cast

import msgspec

from relayd.outcome import Stage
from relayd.reply import Reply
from relayd.smtp.auth import plain_initial
from relayd.smtp.framing import DotStuffer, dot_stuff
from relayd.smtp.replies import ReplyFault, ReplyReader
from relayd.smtp.transaction import Capabilities, Transaction, commands, offered
from relayd.smtp.watched import HIDDEN, Brief

# What the session waits for: a stage of the walk or, for the shell's time-outs, something finer.
_Greeting = Literal["banner", "ehlo", "helo", "starttls", "tls", "auth"]
_Talking = Literal["idle", "rset", "mail", "rcpt", "data", "body", "dot", "quit", "ended"]
Waiting = _Greeting | _Talking
_STAGES: dict[str, Stage] = {"helo": "ehlo", "body": "data", "idle": "rset", "quit": "rset", "ended": "rset"}
LOGGED = 40  # items of the log: the last transaction or two
_NOTED = 1000  # characters of a reply in it
_HIDDEN_AUTH = b"AUTH " + HIDDEN
_PEER_CLOSED = "the peer closed the connection"


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``ehlo`` is our name.  ``secure`` says that TLS is on from the start.  ``starttls``: "may" goes on in clear
    when it is not offered or refused, the others end the session (what "verify" adds is the shell's).  ``login`` ""
    is no AUTH.  The limits bound what a peer may answer, in octets and lines; RFC 5321 would allow it lines of 512."""

    ehlo: str
    secure: bool = False
    pipelining: bool = True
    starttls: Literal["off", "may", "encrypt", "verify"] = "may"
    login: str = ""
    password: str = ""
    auth_without_tls: bool = False
    max_reply_line: int = 2048
    max_reply_lines: int = 128
    max_reply_bytes: int = 65536


class Ready(msgspec.Struct, frozen=True):
    """EHLO is done, TLS and AUTH too as the settings say: transactions may be sent."""

    capabilities: Capabilities


class StartTLS(msgspec.Struct, frozen=True):
    """The peer awaits the handshake: start TLS, then call ``tls_started``.  What came in clear behind its 220 is
    dropped."""


class BodyWanted(msgspec.Struct, frozen=True):
    """The peer awaits the content of a streamed transaction: ``body(piece)`` ..., then ``end_body()``."""

    transaction: Transaction


class Finished(msgspec.Struct, frozen=True):
    """The result of one transaction: the reply that decided it and its stage; or ``reply`` None and what went wrong.
    ``unknown``: the final dot may have reached the peer, its answer did not reach us."""

    transaction: Transaction
    stage: Stage
    reply: Reply | None = None
    unknown: bool = False
    error: str = ""


class Returned(msgspec.Struct, frozen=True):
    """The session ended before this transaction was begun, or by no fault of it: try it elsewhere, untouched."""

    transaction: Transaction


class SessionEnded(msgspec.Struct, frozen=True):
    """The last event: send what is left in ``data_to_send`` and close.  ``fault``: the session never became ready,
    or the peer broke the protocol or was gone while it owed an answer; not after QUIT, 421 once ready, closing idle."""

    stage: Stage
    reply: Reply | None = None
    error: str = ""
    fault: bool = False


Event = Ready | StartTLS | BodyWanted | Finished | Returned | SessionEnded


class _Exchange:
    """A transaction under way: its commands, and how far the peer followed."""

    __slots__ = ("dot", "mail", "opened", "rcpt", "reached", "refusal", "started", "transaction")

    def __init__(self, transaction: Transaction, mail: bytes, rcpt: bytes) -> None:
        self.transaction, self.mail, self.rcpt = transaction, mail, rcpt
        self.started = False  # the MAIL command is written, or queued behind a RSET
        self.opened = False  # MAIL accepted
        self.reached = False  # RCPT accepted
        self.dot = False  # the final dot is written
        self.refusal: tuple[Stage, Reply] | None = None  # the first one decides


class ClientSession:
    """One session.  After each call: take the events with ``next_event`` until None, then send ``data_to_send()``.
    ``log`` notes what is said (``watched``)."""

    def __init__(self, settings: ClientSettings) -> None:
        if not settings.ehlo.isprintable():
            raise ValueError(f"not a name for EHLO: {settings.ehlo!r}")
        if "\0" in settings.login + settings.password:
            raise ValueError("NUL in the login or password for AUTH")
        self.settings = settings
        self.secure = settings.secure
        self.capabilities = Capabilities()
        self._reader = ReplyReader(settings.max_reply_line, settings.max_reply_lines, settings.max_reply_bytes)
        self._out: list[bytes] = []
        self.log: Any = Brief(maxlen=LOGGED)
        self._events: deque[Event] = deque()
        self._owed: deque[Waiting] = deque(("banner",))  # the replies due, in the order of their commands
        self._asked = 1  # how many of them have been asked for: their command has left through data_to_send
        self._rest: Waiting = "ehlo"  # what is waited for when no reply is due: tls, idle, body, ended
        self._current: _Exchange | None = None
        self._next: _Exchange | None = None
        self._stuffer: DotStuffer | None = None
        self._sasl: list[bytes] = []  # AUTH responses still to be given
        self._pipelining = self._needs_rset = False
        self._ready = self._quitting = self._ended = False

    # What the shell sees

    @property
    def waiting(self) -> Waiting:
        """What the session waits for now."""
        return self._owed[0] if self._owed else self._rest

    deadline_kind = waiting

    @property
    def stage(self) -> Stage:
        """Where in the walk that is.  Between transactions it is "rset"."""
        return _stage(self.waiting)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def idle(self) -> bool:
        """Ready, with no transaction under way."""
        return self.can_take_next and self._current is None

    @property
    def can_take_next(self) -> bool:
        """Whether ``send`` may be called now: at most one transaction is answered and one stands behind it."""
        return self._ready and self._next is None and not self._quitting and not self._ended

    def next_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        """Everything to be written now; from here on the peer may answer it."""
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        self._asked = len(self._owed)
        return data

    # What the shell says

    def receive_data(self, data: bytes) -> None:
        """Takes what the peer sent.  Never raises for what a peer does."""
        if self._ended or self.waiting == "tls":
            return
        self._reader.feed(data)
        try:
            while not self._ended and (reply := self._reader.next()):
                self._answered(reply)
        except ReplyFault as fault:
            self._broken(str(fault))

    def send(self, transaction: Transaction) -> None:
        """Starts a transaction, at once or behind the present one.  What the peer must offer for it (SIZE limit,
        SMTPUTF8) the caller checks.  ValueError if an address or option has control characters; RuntimeError if not
        ``can_take_next``."""
        if not self.can_take_next:
            raise RuntimeError("no transaction can be taken now")
        exchange = _Exchange(transaction, *commands(transaction, self.capabilities))
        if self._current is None:
            self._current = exchange
            self._start(exchange)
        else:
            self._next = exchange
            if self._current.dot and self._pipelining:
                self._start(exchange)

    def body(self, piece: bytes) -> None:
        """A piece of the content, after ``BodyWanted``.  Ignored once the session has ended."""
        if self._stuffer:
            self._out.append(self._stuffer.feed(piece))

    def end_body(self) -> None:
        """The content is complete."""
        if self._stuffer:
            ending, self._stuffer = self._stuffer.finish(), None
            self._write_dot(ending)

    def tls_started(self) -> None:
        """The handshake is done; everything known from before it is forgotten (RFC 3207 section 4.2)."""
        if self.waiting != "tls":
            return
        self.secure = True
        self._reader.clear()
        self._hello("ehlo")

    def quit(self) -> None:
        """Says QUIT as soon as the transactions under way are done; takes no new ones."""
        self._quitting = True
        self._quit_if_done()

    def eof(self) -> None:
        """The peer closed the connection."""
        self.abort(_PEER_CLOSED)

    def abort(self, error: str) -> None:
        """The shell gave the connection up, or lost it: a time-out, a failed handshake, a watchdog."""
        self._end(self.waiting, None, error, fault=self.waiting not in ("idle", "quit"))

    # Replies

    def _answered(self, reply: Reply) -> None:
        waiting = self.waiting
        self.log.append((waiting, reply if len(reply.text) <= _NOTED else Reply(reply.code, "", reply.text[:_NOTED])))
        digit = reply.code // 100
        if reply.code == 421 or (waiting == "body" and digit >= 4):
            # Before the content is complete only the end of the connection can stop it.
            self._end(waiting, reply, "", fault=not self._ready)
            return
        if not self._asked:
            self._broken(f"the peer answered what was not asked: {reply}")
            return
        if digit < 4 and digit not in _POSITIVE.get(waiting, (2,)):
            self._broken(f"the peer answered {waiting.upper()} with {reply}")
            return
        self._owed.popleft()
        self._asked -= 1
        _ANSWERED[waiting](self, reply)

    def _on_banner(self, reply: Reply) -> None:
        if reply.positive:
            self._hello("ehlo")
        else:
            self._give_up("banner", reply)

    def _on_ehlo(self, reply: Reply) -> None:
        if reply.permanent:
            self._hello("helo")
        elif reply.transient:
            self._give_up("ehlo", reply)
        else:
            self._greeted(offered(reply.text))

    def _on_helo(self, reply: Reply) -> None:
        if reply.positive:
            self._greeted(Capabilities(name=reply.text.split(" ", 1)[0]))
        else:
            self._give_up("helo", reply)

    def _greeted(self, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._pipelining = capabilities.pipelining and self.settings.pipelining
        if self.secure or self.settings.starttls == "off":
            self._authenticate()
        elif capabilities.starttls:
            self._command("starttls", b"STARTTLS\r\n")
        else:
            self._go_on_in_clear(None, "the peer does not offer STARTTLS")

    def _on_starttls(self, reply: Reply) -> None:
        if not reply.positive:
            self._go_on_in_clear(reply, "the peer refused STARTTLS")
            return
        self._reader.clear()
        self._rest = "tls"
        self._events.append(StartTLS())

    def _go_on_in_clear(self, reply: Reply | None, error: str) -> None:
        if self.settings.starttls == "may":
            self._authenticate()
        else:
            self._give_up("starttls", reply, error)

    def _authenticate(self) -> None:
        login, password = self.settings.login, self.settings.password
        mechanisms = self.capabilities.auth
        if not login:
            self._become_ready()
        elif not self.secure and not self.settings.auth_without_tls:
            self._give_up("auth", None, "AUTH is not to be used without TLS")
        elif "PLAIN" in mechanisms:
            self._command("auth", b"AUTH PLAIN %b\r\n" % plain_initial(login, password))
        elif "LOGIN" in mechanisms:
            self._sasl = [b64encode(password.encode()), b64encode(login.encode())]
            self._command("auth", b"AUTH LOGIN\r\n")
        else:
            self._give_up("auth", None, "the peer offers no AUTH mechanism that we have")

    def _on_auth(self, reply: Reply) -> None:
        if not reply.positive:
            self._give_up("auth", reply)
        elif reply.code < 300:
            self._sasl = []
            self._become_ready()
        elif self._sasl:
            self._command("auth", self._sasl.pop() + b"\r\n")
        else:
            self._end("auth", None, f"the peer asked for more in AUTH: {reply}", fault=True)

    def _on_rset(self, reply: Reply) -> None:
        if not reply.positive:
            self._end("rset", reply, "", fault=True)
        elif self._current and not self._pipelining:
            self._command("mail", self._current.mail)

    def _on_mail(self, reply: Reply) -> None:
        exchange = cast(_Exchange, self._current)
        exchange.opened = reply.positive
        self._step(exchange, "mail", reply, "rcpt", exchange.rcpt)

    def _on_rcpt(self, reply: Reply) -> None:
        exchange = cast(_Exchange, self._current)
        exchange.reached = reply.positive
        self._step(exchange, "rcpt", reply, "data", b"DATA\r\n")

    def _step(self, exchange: _Exchange, stage: Stage, reply: Reply, then: Waiting, command: bytes) -> None:
        """A reply to MAIL or RCPT.  When pipelined the commands behind it are out and their replies come anyway."""
        if not reply.positive:
            exchange.refusal = exchange.refusal or (stage, reply)
        if self._pipelining:
            return
        if reply.positive:
            self._command(then, command)
        else:
            self._finish(exchange, stage, reply)

    def _on_data(self, reply: Reply) -> None:
        exchange = cast(_Exchange, self._current)
        if not reply.positive:
            self._finish(exchange, *(exchange.refusal or ("data", reply)))
        elif exchange.refusal is None:
            self._write_content(exchange.transaction)
        elif exchange.reached:
            # MAIL refused, RCPT and DATA accepted: a dot now would send that recipient an empty message.
            self._end("data", None, f"the peer refused MAIL and answered DATA with {reply}", fault=True)
        else:
            self._write_dot(b".\r\n")  # DATA was accepted without a recipient (RFC 2920 section 3.1)

    def _on_dot(self, reply: Reply) -> None:
        exchange = cast(_Exchange, self._current)
        self._finish(exchange, *(exchange.refusal or ("dot", reply)))

    def _on_quit(self, reply: Reply) -> None:
        self._end("quit", reply, "", fault=False)

    # Commands

    def _command(self, waiting: Waiting, command: bytes) -> None:
        self._out.append(command)
        self.log.append(command if waiting != "auth" else _HIDDEN_AUTH)
        self._owed.append(waiting)

    def _hello(self, verb: Waiting) -> None:
        self._command(verb, f"{verb.upper()} {self.settings.ehlo}\r\n".encode())

    def _become_ready(self) -> None:
        self._ready, self._rest = True, "idle"
        self._events.append(Ready(self.capabilities))
        self._quit_if_done()

    def _start(self, exchange: _Exchange) -> None:
        """MAIL, and with PIPELINING the whole group; RSET first if the last transaction was left open."""
        exchange.started = True
        reset, self._needs_rset = self._needs_rset, False
        if reset:
            self._command("rset", b"RSET\r\n")
        if self._pipelining:
            group = exchange.mail + exchange.rcpt + b"DATA\r\n"
            self._out.append(group)
            self.log.append(group)
            self._owed.extend(("mail", "rcpt", "data"))
        elif not reset:
            self._command("mail", exchange.mail)

    def _write_content(self, transaction: Transaction) -> None:
        content = transaction.content
        self.log.content(transaction)
        if content is None:
            self._stuffer = DotStuffer()
            self._rest = "body"
            self._events.append(BodyWanted(transaction))
            return
        self._out.append(dot_stuff(content))
        self._write_dot(b".\r\n")

    def _write_dot(self, ending: bytes) -> None:
        """The end of the content, and in the same write the next transaction's group."""
        self._rest = "idle"
        self._command("dot", ending)
        cast(_Exchange, self._current).dot = True
        if self._next and self._pipelining:
            self._start(self._next)

    def _quit_if_done(self) -> None:
        if self._quitting and self._ready and not self._ended and not self._current and not self._owed:
            self._command("quit", b"QUIT\r\n")

    # Ends

    def _finish(self, exchange: _Exchange, stage: Stage, reply: Reply) -> None:
        self._events.append(Finished(exchange.transaction, stage, reply))
        # A refused RCPT or DATA leaves the transaction open: the next MAIL needs RSET first (RFC 5321 section 4.1.1.2).
        self._needs_rset = exchange.opened and not exchange.dot
        self._current, self._next = self._next, None
        if self._current and not self._current.started:
            self._start(self._current)
        self._quit_if_done()

    def _broken(self, error: str) -> None:
        self._end(self.waiting, None, error, fault=True)

    def _give_up(self, waiting: Waiting, reply: Reply | None, error: str = "") -> None:
        """The peer does not serve us; we take our leave."""
        self._end(waiting, reply, error, fault=True)
        self._out.append(b"QUIT\r\n")

    def _end(self, waiting: Waiting, reply: Reply | None, error: str, *, fault: bool) -> None:
        """Settles what is under way: the first transaction gets the blame if the peer owed it an answer."""
        if self._ended:
            return
        if error:
            self.log.append(error)
        exchange = self._current
        if exchange and exchange.refusal:
            self._events.append(Finished(exchange.transaction, *exchange.refusal))
        elif exchange and (waiting == "rset" or (waiting == "mail" and not self._asked)):
            self._events.append(Returned(exchange.transaction))
        elif exchange:
            unknown = exchange.dot and reply is None and self._asked > 0
            self._events.append(Finished(exchange.transaction, _stage(waiting), reply, unknown, error))
        if self._next:
            self._events.append(Returned(self._next.transaction))
        self._events.append(SessionEnded(_stage(waiting), reply, error, fault))
        self._ended, self._rest = True, "ended"
        self._current = self._next = self._stuffer = None
        self._owed.clear()
        self._out.clear()
        self._reader.clear()


def _stage(waiting: Waiting) -> Stage:
    return _STAGES.get(waiting) or cast(Stage, waiting)


# The first digits that mean "go on", where it is not 2 alone.
_POSITIVE: dict[Waiting, tuple[int, ...]] = {"data": (3,), "auth": (2, 3)}

_ANSWERED: dict[Waiting, Callable[[ClientSession, Reply], None]] = {
    "banner": ClientSession._on_banner,
    "ehlo": ClientSession._on_ehlo,
    "helo": ClientSession._on_helo,
    "starttls": ClientSession._on_starttls,
    "auth": ClientSession._on_auth,
    "rset": ClientSession._on_rset,
    "mail": ClientSession._on_mail,
    "rcpt": ClientSession._on_rcpt,
    "data": ClientSession._on_data,
    "dot": ClientSession._on_dot,
    "quit": ClientSession._on_quit,
}
