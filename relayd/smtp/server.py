"""The server's side of ESMTP as a machine without input or output: one session, in the manner of h11.

In: the client's bytes, and answers to questions.  Out: events, questions among them, and bytes for the client.
The loop is ``machine.receive_data(data)``, then ``next_event()`` until it gives None, then ``data_to_send()``.  While a
question is open (``accept`` or ``refuse`` answers it) nothing further is parsed: pipelined commands wait in the buffer.
Only CRLF ends a line, unless ``bare`` says that the client's bare LF is to be borne with; see ``framing`` for content.
RFC 5321, 1870, 2034, 2920, 3030, 3207, 3461, 4954, 6152, 6531.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, cast

from relayd import catalogue
from relayd.envelope import Envelope, Recipient
from relayd.reply import Reply, printable
from relayd.smtp import parameters
from relayd.smtp.auth import MECHANISMS, AuthError, Credentials, Exchange
from relayd.smtp.events import (
    AuthProposed,
    BodyChunk,
    Event,
    Hello,
    MailProposed,
    MessageAborted,
    MessageEnded,
    MessageStarted,
    Question,
    Quit,
    RecipientProposed,
    ServerSettings,
    StartTLS,
    TransactionReset,
)
from relayd.smtp.framing import ChunkReader, DataReader
from relayd.smtp.lines import Input, LineFault

__all__ = [
    "AuthProposed",
    "BodyChunk",
    "Event",
    "Hello",
    "MailProposed",
    "MessageAborted",
    "MessageEnded",
    "MessageStarted",
    "Question",
    "Quit",
    "RecipientProposed",
    "ServerSession",
    "ServerSettings",
    "Stage",
    "StartTLS",
    "TransactionReset",
]

Stage = Literal["banner", "command", "auth", "data", "answer", "tls"]

# Those of every message are encoded once.
_SENDER_OK = catalogue.SENDER_OK.encode()
_RECIPIENT_OK = catalogue.RECIPIENT_OK.encode()
_GO_AHEAD = catalogue.GO_AHEAD.encode()
_CHUNK_OK = catalogue.CHUNK_OK.encode()

_CONTENT_FAULTS = {"bare": catalogue.BARE_CONTENT, "nul": catalogue.NUL, "size": catalogue.TOO_LARGE}

_BDAT = re.compile(r"([0-9]{1,18})(?:\s+(LAST))?", re.IGNORECASE | re.ASCII)


class ServerSession:
    """One client's session.  ``secure`` says that TLS is on already."""

    def __init__(self, settings: ServerSettings, *, secure: bool) -> None:
        self.settings = settings
        self.secure = secure
        self.closed = False
        self.login = ""
        self.hello: Hello | None = None
        self.messages = 0
        self.errors = 0
        self.verb = ""  # the last one, "?" if it was none: it may have been a password
        self._out: list[bytes] = []
        self._input = Input(settings.line_limit, settings.bare)
        self._greeted = False
        self._starting_tls = False
        self._idle_commands = 0
        self._events: list[Event] = []
        self._question: Question | None = None
        self._exchange: Exchange | None = None
        self._forget()

    # What the shell calls.

    @property
    def stage(self) -> Stage:
        """What the session waits for: for time-outs and for the operator's view.  "answer" waits for us."""
        if self._question is not None:
            return "answer"
        if self._reading:
            return "data"
        if self._exchange is not None:
            return "auth"
        if self._starting_tls:
            return "tls"
        return "command" if self._greeted else "banner"

    @property
    def backlog(self) -> int:
        """Bytes received and not yet parsed."""
        return len(self._input)

    def greet(self) -> None:
        """Queues the banner.  A client that spoke before it is no mail client of ours (RFC 5321 section 4.3.1)."""
        self._greeted = True
        if self.backlog:
            self.close(catalogue.EARLY)
            return
        self._reply(catalogue.BANNER(self.settings.hostname, self.settings.service))

    def receive_data(self, data: bytes) -> None:
        """Bytes from the client.  Those behind STARTTLS, and behind the end of the session, are dropped."""
        if not self.closed and not self._starting_tls:
            self._input.feed(data)

    def data_to_send(self) -> bytes:
        """What goes to the client now; it is handed out once."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def next_event(self) -> Event | None:
        """The next event; None when the machine needs data, an answer or TLS, or is closed."""
        while not self._events:
            if self._question is not None or self.closed or not self._greeted or self._starting_tls:
                return None
            if not (self._read_content() if self._reading else self._read_line()):
                return None
        return self._events.pop(0)

    def accept(self, reply: Reply | None = None) -> None:
        """Answers the open question with yes.  MessageEnded needs the reply; the others have their own."""
        question = self._answered()
        _ANSWERS[type(question)][0](self, question, reply)

    def refuse(self, reply: Reply) -> None:
        """Answers the open question with no.  A reply with code 421 ends the session."""
        question = self._answered()
        if reply.code == 421:
            self.close(reply)
        else:
            _ANSWERS[type(question)][1](self, question, reply)

    def close(self, reply: Reply | None = None) -> None:
        """Ends the session from our side at any time, with a last reply such as 421.  No more events come."""
        if self.closed:
            return
        if reply is not None:
            self._reply(reply)
        self._question = None
        self._events.clear()
        self._end()

    def tls_started(self) -> None:
        """TLS is on: nothing that was said before it counts (RFC 3207 section 4.2)."""
        if not self._starting_tls:
            raise RuntimeError("TLS was not asked for")
        self.secure = True
        self._starting_tls = False
        self.hello = None
        self._input.clear()

    # Lines.

    def _read_line(self) -> bool:
        """Takes a line; False when there is none."""
        try:
            line = self._input.line(self._exchange is not None)
        except LineFault as fault:
            self._exchange = None
            self._fault(fault.reply)
            if fault.verb == b"BDAT":
                self.close(catalogue.OUT_OF_STEP)  # its chunk follows, of a size that nobody knows
            return True
        if line is None:
            return False
        self._obey(line)
        return True

    def _obey(self, line: bytes) -> None:
        if self._exchange is not None:
            self._continue_auth(self._exchange, line)
            return
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            if line[:5].upper() not in (b"EHLO ", b"HELO "):
                self._fault(catalogue.NOT_UTF8)
                return
            text = line.decode("utf-8", "replace")  # a computer's name in its own code page, and only shown
        words = text.split(None, 1)
        name = words[0].upper() if words else ""
        handler, wants = VERBS.get(name, _UNKNOWN)
        self.verb = name if name in VERBS else "?"
        argument = words[1].rstrip() if len(words) > 1 else ""
        self._idle_commands += 1
        if self._idle_commands > self.settings.max_commands_without_progress:
            self.close(catalogue.TOO_MANY_COMMANDS)
        elif (wants == "none" and argument) or (wants == "some" and not argument):
            self._fault(catalogue.NO_ARGUMENT if argument else catalogue.ARGUMENT)
        else:
            handler(self, argument)

    # Small helpers.

    def _say(self, reply: bytes) -> None:
        self._out.append(reply)

    def _reply(self, reply: Reply) -> None:
        self._say(reply.encode())

    def _fault(self, reply: Reply) -> None:
        """A reply to the client's own fault, counted."""
        self._reply(reply)
        self.errors += 1
        if self.errors > self.settings.max_errors:
            self.close(catalogue.TOO_MANY_ERRORS)

    def _answered(self) -> Question:
        question, self._question = self._question, None
        if question is None:
            raise RuntimeError("no question is open")
        return question

    def _ask(self, question: Question) -> None:
        self._question = question
        self._events.append(question)

    def _end(self) -> None:
        self.closed = True
        self._exchange = None
        self._forget()
        self._input.clear()

    def _forget(self) -> None:
        """Back to no transaction."""
        self._mail: MailProposed | None = None
        self._recipients: list[Recipient] = []
        self._turned_away = 0  # recipients
        self._reader: DataReader | ChunkReader | None = None  # from the yes to DATA, or from the first BDAT
        self._reading = False  # content is what comes next
        self._refusal: Reply | None = None  # of the message whose content is being swallowed

    def _reset(self) -> None:
        if self._mail is not None:
            self._events.append(TransactionReset())
        self._forget()

    # Verbs: session.

    def _ehlo(self, name: str) -> None:
        self._greeting(name, extended=True)
        self._reply(catalogue.EHLO(self.settings.hostname, "\n".join(self._extensions())))

    def _helo(self, name: str) -> None:
        self._greeting(name, extended=False)
        self._reply(catalogue.HELO(self.settings.hostname))

    def _greeting(self, name: str, extended: bool) -> None:
        self._reset()
        self.hello = Hello(printable(name, 255), extended)
        self._events.append(self.hello)

    def _extensions(self) -> list[str]:
        lines = ["PIPELINING", f"SIZE {self.settings.max_size}", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"]
        lines.append("CHUNKING")
        if self.settings.starttls and not self.secure:
            lines.append("STARTTLS")
        if self.settings.auth and self.secure:
            lines.append("AUTH " + " ".join(sorted(MECHANISMS, reverse=True)))
        return [*lines, "HELP"]

    def _rset(self, _: str) -> None:
        self._reset()
        self._reply(catalogue.OK)

    def _quit(self, _: str) -> None:
        self._reply(catalogue.BYE)
        self._reset()
        self._events.append(Quit())
        self._end()

    def _http(self, _: str) -> None:
        self.close(catalogue.NOT_HTTP)

    def _starttls(self, _: str) -> None:
        if self.secure:
            self._fault(catalogue.TLS_IS_ON)
        elif not self.settings.starttls:
            self._fault(catalogue.NO_TLS)
        elif self.hello is None:
            self._fault(catalogue.HELLO_FIRST)
        else:
            self._reply(catalogue.GO_TLS)
            self._reset()
            self._input.clear()  # what came behind it in clear may be an attacker's
            self._starting_tls = True
            self._events.append(StartTLS())

    # Verbs: AUTH.

    def _auth(self, argument: str) -> None:
        refusal = self._auth_refusal()
        if refusal:
            self._fault(refusal)
            return
        mechanism, _, response = argument.partition(" ")
        try:
            exchange = Exchange(mechanism.upper())
        except KeyError:
            self._fault(catalogue.NO_MECHANISM)
            return
        self._exchange = exchange
        if response:
            self._continue_auth(exchange, response.strip().encode(), initial=True)
        else:
            self._reply(catalogue.CHALLENGE(exchange.first.decode()))

    def _auth_refusal(self) -> Reply | None:
        if not self.settings.auth:
            return catalogue.NO_AUTH
        if not self.secure:
            return catalogue.AUTH_NEEDS_TLS
        if self.hello is None:
            return catalogue.HELLO_FIRST
        return catalogue.AUTH_NOT_NOW if self.login or self._mail is not None else None

    def _continue_auth(self, exchange: Exchange, line: bytes, initial: bool = False) -> None:
        try:
            step = exchange.initial(line) if initial else exchange.respond(line.strip())
        except AuthError as error:
            self._exchange = None
            self._fault(error.reply)
            return
        if isinstance(step, Credentials):
            self._exchange = None
            self._ask(AuthProposed(exchange.mechanism, step.login, step.password))
        else:
            self._reply(catalogue.CHALLENGE(step.decode()))

    def _auth_accepted(self, question: AuthProposed, reply: Reply | None) -> None:
        self.login = question.login
        self._idle_commands = 0
        self._reply(reply or catalogue.AUTHENTICATED)

    def _auth_refused(self, _: AuthProposed, reply: Reply) -> None:
        self._fault(reply)

    # Verbs: MAIL and RCPT.

    def _mail_from(self, argument: str) -> None:
        refusal = self._mail_refusal()
        if refusal:
            self._fault(refusal)
            return
        if self.settings.max_messages and self.messages >= self.settings.max_messages:
            self.close(catalogue.ENOUGH_MESSAGES)
            return
        try:
            mail = parameters.read_mail(argument, with_auth=self.settings.auth)
        except parameters.ParameterError as error:
            self._fault(error.reply)
            return
        if self.settings.max_size and mail.size > self.settings.max_size:
            self._reply(catalogue.TOO_LARGE)
        else:
            self._ask(mail)

    def _mail_refusal(self) -> Reply | None:
        if self.hello is None:
            return catalogue.HELLO_FIRST
        if self.settings.auth_required and not self.login:
            return catalogue.TLS_FIRST if self.settings.starttls and not self.secure else catalogue.AUTH_FIRST
        return catalogue.NESTED if self._mail is not None else None

    def _mail_accepted(self, question: MailProposed, reply: Reply | None) -> None:
        self._mail = question
        self._say(reply.encode() if reply else _SENDER_OK)

    def _rcpt_to(self, argument: str) -> None:
        if self._mail is None or self._reader is not None:
            self._fault(catalogue.MAIL_FIRST if self._mail is None else catalogue.CHUNKS_BEGUN)
            return
        if len(self._recipients) >= self.settings.max_recipients:
            self._reply(catalogue.TOO_MANY_RECIPIENTS)
            return
        try:
            self._ask(RecipientProposed(parameters.read_rcpt(argument, smtputf8=self._mail.smtputf8)))
        except parameters.ParameterError as error:
            self._fault(error.reply)

    def _recipient_accepted(self, question: RecipientProposed, reply: Reply | None) -> None:
        self._recipients.append(question.recipient)
        self._idle_commands -= 1  # bounded by max_recipients
        self._say(reply.encode() if reply else _RECIPIENT_OK)

    def _recipient_refused(self, _: RecipientProposed, reply: Reply) -> None:
        # A list with many suppressed addresses is no attack; but nobody tries addresses without end.
        self._turned_away += 1
        if self._turned_away <= self.settings.max_recipients:
            self._idle_commands -= 1
        self._reply(reply)

    # Verbs: content.

    def _data(self, _: str) -> None:
        if self._mail is None:
            self._refuse_data(catalogue.MAIL_FIRST)
        elif self._reader is not None:
            self._refuse_data(catalogue.CHUNKS_BEGUN)
        elif not self._recipients:
            self._refuse_data(catalogue.NO_RECIPIENTS, counted=False)
        else:
            self._ask(MessageStarted(self._envelope(self._mail)))

    def _refuse_data(self, reply: Reply, counted: bool = True) -> None:
        if counted:
            self._fault(reply)
        else:
            self._reply(reply)
        # A client that did not wait for 354: its content is not to be read as commands.
        if self.backlog:
            self.close(catalogue.OUT_OF_STEP)

    def _envelope(self, mail: MailProposed) -> Envelope:
        recipients = tuple(self._recipients)
        return Envelope(mail.sender, recipients, mail.eightbit, mail.smtputf8, mail.ret, mail.envid, mail.size)

    def _bdat(self, argument: str) -> None:
        chunk = _BDAT.fullmatch(argument)
        if chunk is None:
            self.close(catalogue.OUT_OF_STEP)
            return
        if self._reader is None:
            self._begin_chunks(self._mail)
        reader = cast(ChunkReader, self._reader)
        size = int(chunk[1])
        reader.begin(size, last=chunk[2] is not None)
        self._reading = True
        if size and self._refusal is None:
            self._idle_commands -= 1  # bounded by max_size

    def _begin_chunks(self, mail: MailProposed | None) -> None:
        self._reader = ChunkReader(self.settings.max_size, self.settings.bare)
        if mail is not None and self._recipients:
            self._ask(MessageStarted(self._envelope(mail)))
        else:
            self._refusal = catalogue.NO_RECIPIENTS_OF_CHUNKS if mail else catalogue.MAIL_FIRST

    def _message_accepted(self, _: MessageStarted, reply: Reply | None) -> None:
        if self._reader is None:
            self._reader = DataReader(self.settings.max_size, self.settings.bare)
            self._reading = True
            self._say(reply.encode() if reply else _GO_AHEAD)

    def _message_refused(self, _: MessageStarted, reply: Reply) -> None:
        if self._reader is None:
            self._refuse_data(reply, counted=False)
        else:
            self._refusal = reply  # each of its chunks gets it

    def _read_content(self) -> bool:
        """Takes what there is of the content; False when that is nothing."""
        reader = cast(DataReader | ChunkReader, self._reader)
        data = self._input.take()
        if not data and reader.hungry:
            return False
        content, done, rest = reader.feed(data)
        if rest:
            self._input.feed(rest)
        if self._refusal is None:
            if content:
                self._events.append(BodyChunk(content))
            if reader.fault:
                self._refusal = _CONTENT_FAULTS[reader.fault]
                self._events.append(MessageAborted(self._refusal))
        if done:
            self._reading = False
            self._content_ended(reader)
        return True

    def _content_ended(self, reader: DataReader | ChunkReader) -> None:
        if self._refusal is not None:
            self._content_refused(self._refusal, reader.last)
        elif reader.last:
            self._ask(MessageEnded(reader.size))
        else:
            self._say(_CHUNK_OK)

    def _content_refused(self, reply: Reply, last: bool) -> None:
        outside = self._mail is None
        if last or outside:
            self._forget()
        if outside:
            self._fault(reply)
        else:
            self._reply(reply)

    def _message_taken(self, _: MessageEnded, reply: Reply | None) -> None:
        if reply is None:
            raise RuntimeError("a message is taken with a reply that names it")
        self._forget()
        self.messages += 1
        self.errors = self._idle_commands = 0
        self._reply(reply)

    def _message_not_taken(self, _: MessageEnded, reply: Reply) -> None:
        self._forget()
        self._reply(reply)

    def _refused(self, _: Question, reply: Reply) -> None:
        self._reply(reply)


Handler = Callable[[ServerSession, str], None]
Verb = tuple[Handler, Literal["none", "some", "any"]]
Answer = tuple[Callable[[ServerSession, Any, Reply | None], None], Callable[[ServerSession, Any, Reply], None]]


def _saying(reply: Reply) -> Handler:
    return lambda session, _: session._reply(reply)


def _faulting(reply: Reply) -> Handler:
    return lambda session, _: session._fault(reply)


# Verb: what obeys it, and what must stand behind it ("none", "some", "any").
VERBS: dict[str, Verb] = {
    "EHLO": (ServerSession._ehlo, "some"),
    "HELO": (ServerSession._helo, "some"),
    "STARTTLS": (ServerSession._starttls, "none"),
    "AUTH": (ServerSession._auth, "some"),
    "MAIL": (ServerSession._mail_from, "some"),
    "RCPT": (ServerSession._rcpt_to, "some"),
    "DATA": (ServerSession._data, "none"),
    "BDAT": (ServerSession._bdat, "any"),
    "RSET": (ServerSession._rset, "none"),
    "NOOP": (_saying(catalogue.OK), "any"),
    "HELP": (_saying(catalogue.HELP), "any"),
    "VRFY": (_saying(catalogue.VRFY), "some"),
    "EXPN": (_faulting(catalogue.EXPN), "any"),
    "QUIT": (ServerSession._quit, "none"),
    # A browser made to speak to a mail port: what follows is not a client's to say.
    **dict.fromkeys(("GET", "POST", "PUT", "HEAD", "PATCH", "OPTIONS", "CONNECT"), (ServerSession._http, "any")),
}
_UNKNOWN: Verb = (_faulting(catalogue.UNKNOWN_COMMAND), "any")

# Question: what its yes and its no do.
_ANSWERS: dict[type, Answer] = {
    AuthProposed: (ServerSession._auth_accepted, ServerSession._auth_refused),
    MailProposed: (ServerSession._mail_accepted, ServerSession._refused),
    RecipientProposed: (ServerSession._recipient_accepted, ServerSession._recipient_refused),
    MessageStarted: (ServerSession._message_accepted, ServerSession._message_refused),
    MessageEnded: (ServerSession._message_taken, ServerSession._message_not_taken),
}
