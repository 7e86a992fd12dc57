"""relayd-console: what a running relay does, on one screen that renews itself every second.

In: the control API (HTTP and JSON on relayd's UNIX socket), and keys.  Out: the node's state, and its queues, longest
first, each with the reason why it waits.  Keys are bound to named commands in one table, from which the help and the
bottom line are made.  Whatever relayd says is escaped: words of remote servers are in it.
"""

import argparse
import contextlib
import os
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import urwid

from relayd_console.api import EVERY, NOTHING_YET, PATIENCE, Poller, Snapshot, Unreachable

DEFAULT_CONFIG = "/etc/relayd/relayd.toml"

_EPILOG = """\
examples:
  relayd-console                                    the relay of $RELAYD_CONTROL, else of /etc/relayd/relayd.toml
  relayd-console --control /run/relayd/control.sock
  set -a; . var/quickstart.env; relayd-console      the relay of `make run`
"""


# Words.


def visible(value: object, limit: int = 200) -> str:
    """A value as text that no terminal obeys: whatever is not printable is escaped."""
    text = str(value)[: limit + 1]
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def span(seconds: float) -> str:
    """Seconds in one unit, rounded down: ``59s``, ``3m``, ``7h``, ``2d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def status_text(snapshot: Snapshot, now: float) -> tuple[str, str]:
    """Palette entry and text of the line on top."""
    if snapshot.fault:
        return "fault", visible(snapshot.fault) + ("; trying again" if snapshot is not NOTHING_YET else "")
    status = snapshot.status
    words = [
        visible(status.get("node", "?")),
        f"relayd {visible(status.get('version', '?'))}",
        f"up {span(_number(status.get('uptime')))}",
        f"{int(_number(status.get('accounts')))} accounts, {int(_number(status.get('connections')))} connections",
    ]
    if now - snapshot.at > PATIENCE + EVERY:
        return "fault", "  ".join([*words, f"seen {span(now - snapshot.at)} ago"])
    faults = status.get("faults")
    if status.get("ok") is False or faults:
        listed = faults if isinstance(faults, list) and faults else ["not well"]
        return "fault", "  ".join([*words, *map(visible, listed[:5])])
    return "well", "  ".join([*words, "well"])


def queue_cells(queue: dict[str, Any], now: float) -> tuple[str, str, str, str]:
    """Name, count, next due time and reason of a queue."""
    name = "/".join(visible(queue.get(part, "?")) for part in ("account", "stream", "domain"))
    due = _number(queue.get("due"))
    when = "-" if not due else "now" if due <= now else f"in {span(due - now)}"
    return name, str(int(_number(queue.get("count")))), when, visible(queue.get("why") or "-")


# The screen.


class Key(NamedTuple):
    """One or more keys, the command they are bound to, and what it does."""

    keys: tuple[str, ...]
    command: str
    help: str


KEYS = (
    Key(("?",), "help", "these keys"),
    Key(("r",), "refresh", "ask relayd now"),
    Key(("q", "esc"), "back", "back, or quit"),
    Key(("Q",), "quit", "quit at once"),
)
# What the list itself understands; here only to be told.
MOVES = (("up down", "one queue"), ("page up/page down", "one screen"), ("home end", "first, last"))

PALETTE = [
    ("well", "black", "dark green"),
    ("fault", "white,bold", "dark red"),
    ("heading", "bold", "default"),
    ("focus", "standout", "default"),
    ("keys", "black", "light gray"),
]


class QueueRow(urwid.WidgetWrap[urwid.AttrMap[urwid.Columns]]):
    """One queue; it takes the focus, so that the list can be walked."""

    def __init__(self, cells: tuple[str, str, str, str]) -> None:
        self.name = cells[0]
        super().__init__(urwid.AttrMap(_columns(cells), None, "focus"))

    def selectable(self) -> bool:
        return True

    def keypress(self, size: Any, key: str) -> str:
        return key


def _columns(cells: tuple[str, str, str, str]) -> urwid.Columns:
    name, count, due, why = (urwid.Text(text, wrap="ellipsis") for text in cells)
    count.set_align_mode("right")
    return urwid.Columns([("weight", 3, name), (9, count), (8, due), ("weight", 4, why)], dividechars=2)


class Console:
    """The screen and its commands.  ``hurry`` asks for a new snapshot; ``now`` gives unix seconds."""

    def __init__(self, hurry: Callable[[], None], now: Callable[[], float]) -> None:
        self._now = now
        self._snapshot = NOTHING_YET
        self._asking = False
        self._commands: dict[str, Callable[[], None]] = {
            "help": self.help,
            "refresh": hurry,
            "back": self.back,
            "quit": self.quit,
        }
        self._top = urwid.Text("", wrap="ellipsis")
        self._bottom = urwid.Text("", wrap="ellipsis")
        self._rows: urwid.SimpleFocusListWalker[QueueRow] = urwid.SimpleFocusListWalker([])
        headings = urwid.AttrMap(_columns(("queue", "count", "due", "why")), "heading")
        self._queues: urwid.Frame[Any, Any, Any] = urwid.Frame(urwid.ListBox(self._rows), header=headings)
        self._top_line = urwid.AttrMap(self._top, "well")
        self.frame: urwid.Frame[Any, Any, Any] = urwid.Frame(
            self._queues, header=self._top_line, footer=urwid.AttrMap(self._bottom, "keys")
        )
        self._show_keys()
        self.tick()

    def show(self, snapshot: Snapshot) -> None:
        """A new snapshot.  Without an answer the last queues stay to be read, under a line that says so."""
        self._snapshot = snapshot
        if not snapshot.fault:
            self._show_queues(snapshot)
        self.tick()

    def tick(self) -> None:
        """What changes as time goes by."""
        palette, text = status_text(self._snapshot, self._now())
        top_line: Any = self._top_line  # urwid's types know no None here, which is its own default
        top_line.set_attr_map({None: palette})
        self._top.set_text(text)

    def unhandled(self, key: object) -> None:
        """A key that the list did not want."""
        if self._asking:
            self._asking = False
            if key in ("y", "Y"):
                self.quit()
            self._show_keys()
            return
        for row in KEYS:
            if key in row.keys:
                self._commands[row.command]()

    # Commands.

    def help(self) -> None:
        rows = [(" ".join(row.keys), f"{row.help} ({row.command})") for row in KEYS]
        lines = [urwid.Text(f"  {keys:20}{text}") for keys, text in [*rows, *MOVES]]
        self.frame.body = urwid.ListBox(urwid.SimpleFocusListWalker([urwid.Text(("heading", "Keys")), *lines]))

    def back(self) -> None:
        if self.frame.body is not self._queues:
            self.frame.body = self._queues
        else:
            self._asking = True
            self._bottom.set_text("Quit? y/n")

    def quit(self) -> None:
        raise urwid.ExitMainLoop

    def _show_keys(self) -> None:
        self._bottom.set_text("   ".join(f"{'/'.join(row.keys)} {row.help}" for row in KEYS))

    def _show_queues(self, snapshot: Snapshot) -> None:
        focused = self._rows[self._rows.focus or 0].name if self._rows else ""
        longest = sorted(snapshot.queues, key=lambda queue: -_number(queue.get("count")))
        rows = [QueueRow(queue_cells(queue, snapshot.at)) for queue in longest]
        self._rows[:] = rows
        # The focus follows its queue, wherever it is now.
        place = next((i for i, row in enumerate(rows) if row.name == focused), 0)
        if rows:
            self._rows.set_focus(place)


def run(control: str) -> None:
    """Shows the console until its user has had enough."""
    console = Console(lambda: poller.hurry(), time.time)
    loop = urwid.MainLoop(console.frame, PALETTE, unhandled_input=console.unhandled, handle_mouse=False)
    pipe = loop.watch_pipe(lambda _: console.show(poller.latest))

    def told() -> None:
        os.write(pipe, b".")

    def tick(*_: object) -> None:
        console.tick()
        loop.set_alarm_in(EVERY, tick)

    poller = Poller(control, told)
    tick()
    poller.start()
    loop.run()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "relayd-console",
        description="Watch a running relayd: its state and its queues.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--control", metavar="SOCKET", help="the control socket (default $RELAYD_CONTROL)")
    where.add_argument("--config", metavar="FILE", help=f"the file that names the socket (default {DEFAULT_CONFIG})")
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
    with contextlib.suppress(KeyboardInterrupt):
        run(control)
    return 0


if __name__ == "__main__":
    sys.exit(main())
