"""A Python prompt inside the running relay (twisted.conch.manhole), for an admin who knows what he does.

In: statements.  Out: what they give, also what comes later: answers of verbs, Deferreds, coroutines, futures.  Beside
the relay itself the prompt has every verb as a call, which is recorded as any other.  All that is typed is on file
before it is run.  A statement runs on the relay's own thread, which does nothing else meanwhile: PATIENCE ends it.
"""

import builtins
import keyword
import pprint
import pydoc
import signal
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from itertools import count
from time import monotonic
from types import CodeType
from typing import Any

from twisted.conch.insults.insults import ServerProtocol, modes
from twisted.conch.manhole import Manhole, ManholeInterpreter
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd import notation
from relayd.control.api import VerbResource, always
from relayd.control.verb import Caller, Relay
from relayd.control.verbs import VERBS
from relayd.directory import Change
from relayd.errors import InputError
from relayd.reply import printable
from relayd.ssh.channel import Channel, Size
from relayd.ssh.keys import Person
from relayd.ssh.recording import Recording
from relayd.ssh.transport import quiet
from relayd.waiting import ended

PATIENCE = 5.0  # seconds that a statement may run
_NOTICED = 0.5  # seconds of standing still that are worth a word
_LINE, _STATEMENT = 4096, 64 << 10  # bytes
_HISTORY = 500  # lines
_OUTPUT = 64 << 10  # characters of one answer
_WAITING = 1 << 20  # bytes kept for a client that takes none
_INDENTED: Any = {"initial_indent": " " * 25, "subsequent_indent": " " * 25}
_BY_NAME = {verb.name: verb for verb in VERBS}

_BANNER = """\
This is Python inside the running relay {node}, as {who}.
All mail waits while a statement runs, and nothing asks whether you are sure.  What you type is recorded.
help() tells what is at hand; Ctrl-D leaves.
"""

_HELP = """\
relay                    the running relay: relay.config, relay.directory, ...
sessions()               who is connected to the listeners now
verb("NAME", arg=value)  any verb of relayctl, recorded as yours; or a call of
{nouns}
queue(limit=5)           a bare noun is its "list"{block}
_                        what came last, of a statement or as an answer
help(thing)              what a function or verb takes
Answers that come later are shown when they come, as #1, #2, ...
"""


class Fault:
    """Why a verb was not done."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"not done: {printable(self.text, 1000)}"


class Noun:
    """The verbs of one noun: ``queue.list(limit=5)``; called itself, what it does most: see ``_DEFAULTS``."""

    def __init__(self, name: str, ask: Callable[..., Any]) -> None:
        self._name = name
        self._ask = ask
        self._verbs = [verb.name.partition(" ")[2] for verb in VERBS if verb.name.startswith(name + " ")]

    def __dir__(self) -> list[str]:
        return list(map(_attribute, self._verbs))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        for verb in self._verbs:
            if _attribute(verb) == name:
                return partial(self._ask, f"{self._name} {verb}")
        raise AttributeError(f"{self._name} has {', '.join(dir(self))}{notation.nearest(name, dir(self))}")

    def __call__(self, *args: object, **given: object) -> Any:
        does = "add" if self._name == "block" and args else "list"
        if does not in self._verbs:
            raise TypeError(f"which? {', '.join(f'{self._name}.{verb}()' for verb in dir(self))}")
        return self._ask(f"{self._name} {does}", *args, **given)

    def __repr__(self) -> str:
        return "\n".join(verb.example for verb in VERBS if verb.name.startswith(self._name + " "))


def _attribute(word: str) -> str:
    """A verb's word as Python can say it: a keyword gets an underscore."""
    text = word.replace("-", "_")
    return text + "_" if keyword.iskeyword(text) else text


def _identifier(word: str) -> str:
    """A noun as a name of its own: what means something to Python already gets an underscore too."""
    text = _attribute(word)
    return text + "_" if hasattr(builtins, text) else text


class Interpreter(ManholeInterpreter):
    """Runs statements; what they give is shown now, or when it comes."""

    handler: "Prompt"

    def __init__(self, handler: "Prompt", names: dict[str, Any], ended: Callable[[], None]) -> None:
        super().__init__(handler, names)
        self._numbers = count(1)
        self._ended = ended

    def runcode(self, code: CodeType) -> None:
        began = monotonic()
        try:
            with _patience():
                super().runcode(code)
        except SystemExit:
            self._ended()
        except KeyboardInterrupt:  # at the very end of a statement
            pass
        took = monotonic() - began
        if took > _NOTICED:
            self.write(f"\n(the relay stood still for {took:.1f} s)\n")

    def displayhook(self, obj: Any) -> None:
        if obj is None:
            return
        self.locals["_"] = obj
        waiting = _awaited(self.handler.reactor, obj)
        if waiting is None:
            self.write(_shown(obj))
            return
        number, came = 0, False

        def arrived(result: Any) -> Any:
            nonlocal came
            came = True
            self._tell(result, number)
            # Whoever else waits for it is to know how it ended.
            return None if isinstance(result, Failure) and waiting is not obj else result

        waiting.addBoth(arrived)
        if not came:
            number = next(self._numbers)
            self.write(f"#{number} is under way")

    def _tell(self, result: Any, number: int) -> None:
        """What came, at once if it has no number."""
        self.locals["_"] = result
        label = f"#{number}: " if number else ""
        if isinstance(result, Failure):
            shown = f"failed: {type(result.value).__name__}: {result.getErrorMessage()}"
        else:
            shown = _shown(result)
        self.write(label + shown, bool(number))


def _awaited(reactor: Any, value: Any) -> "Deferred[Any] | None":
    if isinstance(value, Deferred):
        return value
    if isinstance(value, Coroutine):
        return Deferred.fromCoroutine(value)
    if not isinstance(value, Future):
        return None
    waiting: Deferred[Any] = Deferred()
    # A future may be done on any thread.
    value.add_done_callback(lambda done: reactor.callFromThread(lambda: ended(done).chainDeferred(waiting)))
    return waiting


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, Noun | Fault) else pprint.pformat(value, width=100, sort_dicts=False)


@contextmanager
def _patience() -> Iterator[None]:
    """Interrupts what runs for longer than PATIENCE."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt(f"interrupted after {PATIENCE:.0f} s: the relay does nothing else meanwhile")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Prompt(Manhole):
    """The line that is typed.  Not conch's coloured one: that reads a pasted line anew for each of its characters."""

    _log = quiet
    terminal: Any
    interpreter: Interpreter

    def __init__(self, reactor: Any, session: "Session", names: dict[str, Any]) -> None:
        super().__init__()
        self.reactor = reactor
        self._session = session
        self._names = names

    def connectionMade(self) -> None:
        super().connectionMade()
        self.interpreter = Interpreter(self, self._names, self.handle_QUIT)

    def initializeScreen(self) -> None:
        # What was on the screen stays there.
        self.terminal.write(self._session.banner)
        self.terminal.write(self.ps[self.pn])
        self.setInsertMode()

    def terminalSize(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    def characterReceived(self, ch: bytes, moreCharactersComing: bool) -> None:
        if len(self.lineBuffer) < _LINE:
            super().characterReceived(ch, moreCharactersComing)
        else:
            self.terminal.write(b"\a")

    def lineReceived(self, line: bytes) -> None:
        del self.historyLines[:-_HISTORY]
        self.historyPosition = len(self.historyLines)
        if not self._session.typed(line.decode("utf-8", "replace")):
            return
        if sum(map(len, self.interpreter.buffer)) + len(line) > _STATEMENT:
            self.interpreter.resetBuffer()
            self.addOutput(f"a statement has at most {_STATEMENT >> 10} KB")
            line = b""
        super().lineReceived(line)

    def addOutput(self, data: Any, isAsync: Any = None) -> None:
        text = str(data)
        if len(text) > _OUTPUT:
            text = f"{text[:_OUTPUT]}\n… and {len(text) - _OUTPUT} characters more\n"
        text = printable(text, len(text) * 12)  # nothing of it is cut, all is escaped
        if not self._session.showed(text):
            return
        if isAsync:
            self.terminal.eraseLine()
            self.terminal.write(b"\r")
        self.terminal.write(text)
        if isAsync:
            if self._needsNewline():
                self.terminal.nextLine()
            self.drawInputLine()
            if behind := len(self.lineBuffer) - self.lineBufferIndex:
                self.terminal.cursorBackward(behind)

    def handle_QUIT(self) -> None:
        self._session.leave()


class Session:
    """An occupant of a channel that is a prompt.  ``ended`` is called once it is no more."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        channel: Channel,
        person: Person,
        relay: Relay,
        recording: Recording,
        ended: Callable[["Session"], None],
    ) -> None:
        self._channel = channel
        self._person = person
        self._relay = relay
        self._recording = recording
        self._ended = ended
        self._over = False
        self._held = False
        self._waiting = 0
        self._began = relay.now()
        self._verbs = VerbResource(reactor, relay, always(person.who, None))
        self.banner = _BANNER.format(node=relay.config.node.name, who=person.who)
        self._terminal: Any = ServerProtocol(Prompt, reactor, self, self._names())

    def start(self) -> None:
        """Raises OSError if it cannot be recorded."""
        self._recording.about(f"{self._person.who} from {self._channel.connection.peer}", self._began)
        self._note("manhole open", {"from": self._channel.connection.peer, "recording": self._recording.path.name})
        self._terminal.makeConnection(self)
        self.resize(self._channel.size)

    # An occupant.

    def take(self, data: bytes) -> None:
        if not self._over:
            self._terminal.dataReceived(data)

    def no_more(self) -> None:
        self.leave()

    def resize(self, size: Size) -> None:
        if not self._over:
            self._terminal.terminalProtocol.terminalSize(size.columns, size.rows)

    def hold(self) -> None:
        self._held = True

    def release(self) -> None:
        self._held, self._waiting = False, 0

    def end(self) -> None:
        if self._over:
            return
        self._over = True
        now = self._relay.now()
        try:
            self._recording.about("the end", now)
        except OSError as error:
            self.log.error("The recording of a manhole ends early: {fault}", fault=str(error))
        self._recording.close()
        what = {"recording": self._recording.path.name, "lines": self._recording.typed}
        self._note("manhole close", {**what, "seconds": round(now - self._began)})
        self._ended(self)

    def kill(self) -> None:
        self.end()

    # What the prompt asks of it.

    def typed(self, line: str) -> bool:
        """Whether the line may be run: it is on file."""
        return not self._over and self._recorded(self._recording.line, line)

    def showed(self, text: str) -> bool:
        return not self._over and self._recorded(self._recording.output, text)

    def _recorded(self, keep: Callable[[str, float], None], text: str) -> bool:
        try:
            keep(text, self._relay.now())
        except OSError as error:
            self.log.error("A manhole is closed, as it cannot be recorded: {fault}", fault=str(error))
            self._say(f"\r\nThis session ends here, as it cannot be recorded any more: {error}")
            self.leave()
            return False
        return True

    def leave(self) -> None:
        if not self._over:
            self._terminal.resetModes([modes.IRM])
            self._say("\r\n")
            self.end()
            self._channel.done(0)

    # A transport, for the terminal.

    def write(self, data: bytes) -> None:
        if self._held:  # a statement cannot be paused: what is too much is only on file
            self._waiting += len(data)
        if self._waiting <= _WAITING:
            self._channel.write(data)

    def _say(self, text: str) -> None:
        self.write(text.encode())

    def loseConnection(self) -> None:
        self.leave()

    # What is at hand.

    def _names(self) -> dict[str, Any]:
        first = dict.fromkeys(verb.name.partition(" ")[0] for verb in VERBS)
        verbs = {_identifier(n): partial(self._ask, n) if n in _BY_NAME else Noun(n, self._ask) for n in first}
        own = {"relay": self._relay.inside, "verb": self._ask, "sessions": self._sessions, "help": self._help}
        return {"__name__": "__manhole__", **verbs, **own}

    def _ask(self, name: str, /, *args: object, **given: object) -> Any:
        """A verb as this person; what is positional in relayctl may stand bare here."""
        verb = _BY_NAME.get(name)
        if verb is None:
            raise TypeError(f"there is no verb {name!r}{notation.nearest(name, _BY_NAME)}")
        bare = [arg for arg in verb.args if arg.positional]
        if len(args) > len(bare):
            raise TypeError(f"{name} takes {len(bare)} bare arguments: {', '.join(arg.name for arg in verb.args)}")
        for arg, value in zip(bare, args, strict=False):
            given[arg.name] = value if not arg.repeated or isinstance(value, list) else [value]
        return self._verbs.ask(verb, Caller(self._person.who, "admin"), dict(given)).addErrback(_told)

    def _sessions(self) -> list[dict[str, Any]]:
        """Who is connected to the listeners."""
        found = []
        for name, listener in self._relay.inside.doors.listeners.items():
            for session in listener.factory.sessions:
                about = {
                    "peer": session.peer,
                    "login": session.login,
                    "helo": session.helo,
                    "at": session.machine.stage,
                }
                found.append({"listener": name, **about})
        return found

    def _help(self, *things: Any) -> None:
        if not things:
            nouns = sorted(name for name, value in self._names().items() if isinstance(value, Noun))
            block = ', with names its "add"' if "block" in nouns else ""
            print(_HELP.format(nouns=textwrap.fill(", ".join(nouns), 76, **_INDENTED), block=block))
        for thing in things:
            verb = _BY_NAME.get(thing.args[0]) if isinstance(thing, partial) else None
            if verb is not None:
                print(verb.help, *(f"  {arg.name}: {arg.help}" for arg in verb.args), sep="\n")
            else:
                print(repr(thing) if isinstance(thing, Noun) else pydoc.plain(pydoc.render_doc(thing)))

    def _note(self, verb: str, what: dict[str, object]) -> None:
        self.log.info("SSH: {who}: {verb}: {what}", who=self._person.who, verb=verb, what=what)
        change = Change(self._relay.now(), self._person.who, verb, what, "done")

        def noted(future: "Future[Change]") -> None:
            if error := future.exception():
                self.log.error("{verb} by {who} was not noted: {e}", verb=verb, who=change.who, e=str(error))

        self._relay.directory.note(change).add_done_callback(noted)


def _told(failure: Failure) -> Any:
    """Nobody but the person is there to be told."""
    error = failure.value
    if isinstance(error, InputError):
        return Fault(": ".join(filter(None, (error.field, error.text))))
    return Fault(f"{type(error).__name__}: {failure.getErrorMessage()}")
