"""relayd-console: what a running relay does, and the same verbs as relayctl under the keys.

In: the control API, and keys.  Out: views, which renew themselves.  What is asked of relayd is asked in threads and
answered on Twisted's reactor, so that the keys never wait.  Keys are bound to named commands in one table (``keys``),
views and what can be done in them are declared in another (``views``).
"""

import argparse
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from relayd_console.api import LONG, PATIENCE, Client, Refused, Unreachable, token
from relayd_console.console import Console
from relayd_console.palette import PALETTE
from relayd_console.text import visible

DEFAULT_CONFIG = "/etc/relayd/relayd.toml"
OVER_SSH = "RELAYD_SSH"  # set by who starts this process for somebody who came over SSH
_THREADS = 30  # questions at a time: those that take long leave room for the others
TICK = 0.25  # seconds between looks at what is to be asked

_EPILOG = """\
examples:
  relayd-console                                    the relay of $RELAYD_CONTROL, else of /etc/relayd/relayd.toml
  relayd-console --control /run/relayd/control.sock
  relayd-console --read-only                        to watch: nothing can be changed
  set -a; . var/quickstart.env; relayd-console      the relay of `make run`
"""


def run(control: str, options: argparse.Namespace) -> None:
    """Shows the console until its user has had enough."""
    import time

    import urwid
    from twisted.internet import reactor, threads

    client = Client(control, token())
    any_reactor: Any = reactor
    any_reactor.suggestThreadPoolSize(_THREADS)
    any_reactor.addSystemEventTrigger("before", "shutdown", client.close)

    def ask(verb: str, given: dict[str, Any], post: bool, done: Callable[[Any], None]) -> None:
        def answered(value: Any) -> None:
            done(value)
            loop.draw_screen()

        def failed(failure: Any) -> None:
            if not failure.check(Unreachable, Refused):
                answered(Unreachable(f"{type(failure.value).__name__}: {failure.getErrorMessage()}"))
            else:
                answered(failure.value)

        patience = PATIENCE if verb == "status" else LONG
        asked = threads.deferToThread(client.ask, verb, given, post=post, patience=patience)
        asked.addCallbacks(answered, failed)

    screen = urwid.display.raw.Screen()
    console = Console(
        ask,
        time.time,
        read_only=options.read_only,
        files=OVER_SSH not in os.environ,  # who came over SSH has no rights to relayd's own files
        size=lambda: screen.get_cols_rows(),
    )
    colours = {"16": 16, "256": 256, "1": 1}.get(options.colours) or (
        256 if "256" in os.environ.get("TERM", "") else 16
    )
    screen.set_terminal_properties(colours)  # type: ignore[arg-type]
    screen.register_palette(PALETTE)
    loop = urwid.MainLoop(
        console.frame,
        screen=screen,
        input_filter=console.input,
        handle_mouse=options.mouse,
        event_loop=urwid.TwistedEventLoop(reactor),  # type: ignore[arg-type]
    )

    def tick(*_: object) -> None:
        console.tick()
        loop.set_alarm_in(TICK, tick)

    tick()
    loop.run()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "relayd-console",
        description="Watch and steer a running relayd.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--control", metavar="SOCKET", help="the control socket (default $RELAYD_CONTROL)")
    where.add_argument("--config", metavar="FILE", help=f"the file that names the socket (default {DEFAULT_CONFIG})")
    parser.add_argument("--read-only", action="store_true", help="only watch: every action is refused")
    parser.add_argument("--colours", choices=("1", "16", "256"), help="of the terminal (default: by $TERM)")
    parser.add_argument("--mouse", action="store_true", help="let the mouse move the focus")
    return parser


def control_of(options: argparse.Namespace) -> str:
    """The control socket that is meant.  Raises Unreachable."""
    from_environment = None if options.config else os.environ.get("RELAYD_CONTROL")
    if named := options.control or from_environment:
        return str(named)
    file = Path(options.config or DEFAULT_CONFIG)
    try:
        control = tomllib.loads(file.read_text("utf-8"))["node"]["control"]
    except OSError as error:
        raise Unreachable(f"{file}: {error.strerror}; name the socket with --control") from None
    except (ValueError, KeyError, TypeError):
        raise Unreachable(f"{file} names no control socket in [node]; name it with --control") from None
    return os.path.join(file.absolute().parent, str(control))


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        control = control_of(options)
    except Unreachable as fault:
        print(f"relayd-console: {visible(fault)}", file=sys.stderr)
        return 1
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        print("relayd-console needs a terminal; relayctl does without", file=sys.stderr)
        return 1
    run(control, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
