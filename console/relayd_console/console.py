"""The console: a stack of views under a line of state and above a line that says what the keys do here.

In: ``ask``, which brings questions to relayd and answers back, a clock, keys.  Out: ``frame``, for urwid to draw.  It
asks only for what is on the screen, and never again before the answer: a slow relay is not made slower.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import urwid

from relayd_console import commands, keys
from relayd_console.api import Refused, Unreachable
from relayd_console.commands import Call, Mistake, Verb
from relayd_console.detail import Detail
from relayd_console.doing import Doing, together
from relayd_console.overview import SOURCES, Overview
from relayd_console.prompt import Line, Prompt
from relayd_console.shown import Shown, rows_of
from relayd_console.table import Column, Row, Table
from relayd_console.text import middle, number, span, visible
from relayd_console.view import Action, Leads, View, filled, needs_row
from relayd_console.views import OVERVIEW, TOPS, VIEWS, view

Ask = Callable[[str, dict[str, Any], bool, Callable[[Any], None]], None]

STATUS_EVERY = 2.0
DETAIL_EVERY = 3.0
PATIENCE = 6.0  # seconds without news until we say so
_FLASH = 6.0  # seconds that a message stays
_LOG = 200  # messages that are kept
_SAID = ("faults", "warnings")


class Console:
    """See the module.  ``files``: whether a line may name files to be read here."""

    def __init__(
        self,
        ask: Ask,
        now: Callable[[], float],
        *,
        read_only: bool = False,
        files: bool = False,
        size: Callable[[], tuple[int, int]] = lambda: (80, 24),
    ) -> None:
        self.ask = ask
        self._now = now
        self._read_only = read_only
        self._files = files
        self._size = size
        self._verbs: list[Verb] = []
        self._status: dict[str, Any] = {}
        self._fault = "asking relayd ..."
        self._heard = 0.0
        self._asked: dict[str, float] = {}  # when each question was asked last
        self._waiting: set[str] = set()  # those without an answer yet
        self._answers: dict[str, Any] = {}  # of the overview
        self._frozen = False
        self._line = Line()
        self._flash: tuple[float, str, str] = (0.0, "", "")
        self._log: list[str] = []
        self._overview = Overview(lambda: self._size()[0])
        self._stack: list[Shown] = [Shown("Overview", self._overview, view=OVERVIEW)]
        self._top = urwid.Text("", wrap="clip")
        self._top_line = urwid.AttrMap(self._top, "title")
        self._bottom = urwid.Text("", wrap="clip")
        self.frame: Any = urwid.Frame(self._overview, header=self._top_line, footer=urwid.AttrMap(self._bottom, "keys"))
        self._commands: dict[str, Callable[[], None]] = {
            "help": self.help,
            "command": self.command,
            "open": self.open,
            "back": self.back,
            "quit": self.quit,
            "filter": self.filter,
            "mark": lambda: self._with_table(Table.mark),
            "unmark": lambda: self._with_table(Table.unmark),
            "sort": lambda: self._with_table(lambda table: self.say(f"ordered by {table.sort()}")),
            "reverse": lambda: self._with_table(Table.reverse),
            "freeze": self.freeze,
            "refresh": self.refresh,
            "next": lambda: self.turn(1),
            "previous": lambda: self.turn(-1),
            "views": self.views,
        }
        self._draw()

    # What goes on by itself.

    def tick(self) -> None:
        """Call a few times a second: asks for what is due."""
        now = self._now()
        self._poll("status", "status", {}, STATUS_EVERY, self._have_status)
        if not self._verbs:
            self._poll("verbs", "verbs", {}, 5.0, self._have_verbs)
        shown = self._stack[-1]
        if not self._frozen:
            if shown.widget is self._overview:
                names = {verb["name"] for verb in self._verbs}
                for source in SOURCES:
                    if source.verb in names:
                        done = partial(self._have_answer, source.name)
                        self._poll(source.name, source.verb, dict(source.args), source.every, done, quiet=True)
            elif shown.verb and not shown.paged:
                self._poll(f"view {id(shown)}", shown.verb, shown.args, shown.every, partial(self._have, shown))
        if self._flash[1] and now >= self._flash[0]:
            self._flash = (0.0, "", "")
        self._draw()

    def _poll(
        self,
        name: str,
        verb: str,
        given: dict[str, Any],
        every: float,
        done: Callable[[Any], None],
        *,
        quiet: bool = False,
    ) -> None:
        """Asks, unless it has lately or waits for the answer; ``quiet``: what is refused is not spoken of."""
        now = self._now()
        if name in self._waiting or 0 <= now - self._asked.get(name, -1e9) < every:
            return
        self._asked[name] = now
        self._waiting.add(name)

        def answered(value: Any) -> None:
            self._waiting.discard(name)
            if isinstance(value, Unreachable):
                self._fault = str(value)
                self._show_overview()  # which is not to say any more that all is well
            elif isinstance(value, Refused):
                if name != "status" and not quiet:
                    self.say(f"{verb}: {value}", "bad")
            else:
                self._fault, self._heard = "", self._now()
                done(value)
            self._draw()

        self.ask(verb, given, False, answered)

    def _have_status(self, value: Any) -> None:
        if not isinstance(value, dict) or "node" not in value:
            self._fault = "what answers is no relayd"
            return
        said = {key: [str(text) for text in value[key]] if isinstance(value.get(key), list) else [] for key in _SAID}
        self._status = self._stack[0].row = {**value, **said}
        self._show_overview()

    def _have_verbs(self, value: Any) -> None:
        self._verbs = [verb for verb in value if isinstance(verb, dict)] if isinstance(value, list) else []
        self.tick()  # what is known only now may be asked for at once

    def _have_answer(self, name: str, value: Any) -> None:
        self._answers[name] = value
        self._show_overview()

    def _show_overview(self) -> None:
        if self._widget is self._overview and self._status and not self._frozen:
            gone = {"faults": [f"{self._fault}; below stands what was last heard"]} if self._fault else {}
            self._overview.show({**self._status, **gone}, self._answers, self._now())

    def _have(self, shown: Shown, value: Any) -> None:
        if not self._frozen:
            shown.have(value, self._now())

    def _turn_page(self, shown: Shown, by: int) -> None:
        """Another page of a view that has pages."""
        after = shown.page(by)
        if after is None:
            return
        done = partial(shown.have_page, by)
        self._poll(f"page {id(shown)}", shown.verb, {**shown.args, "after": after}, 0.0, done)

    # What keys do.

    def input(self, pressed: list[Any], raw: list[int]) -> list[Any]:
        """Keys as they come, which may be several at once; the mouse and a new size are urwid's to see to."""
        left = []
        for key in pressed:
            if isinstance(key, str) and key != "window resize":
                self.press(key)
            else:
                left.append(key)
        return left

    def press(self, key: str) -> None:
        """One key: a prompt's while there is one, else the view's, else a command's."""
        if self._line.prompt is not None:
            self._line.typed(key)
        else:
            left = self.frame.keypress(self._size(), keys.meant(key))
            if left is not None:
                self.unhandled(key)
        self._draw()

    def unhandled(self, key: str) -> None:
        """A key that no widget wanted."""
        command = keys.command_of(key)
        if command:
            self._commands[command]()
        elif key.isdigit() and len(key) == 1:
            self._go(int(key) - 1 if key != "0" else 9)
        elif (action := self._action(key)) is not None:
            self._act(action)
        elif not any(key in row.keys for row in keys.MOVES):
            self.say("no such key here: ? shows those there are")

    @property
    def _widget(self) -> Any:
        return self._stack[-1].widget

    def _with_table(self, do: Callable[[Table], Any]) -> None:
        if isinstance(self._widget, Table):
            do(self._widget)

    def push(self, shown: Shown) -> None:
        self._stack.append(shown)
        self.frame.body = shown.widget
        self.tick()

    def back(self) -> None:
        if isinstance(self._widget, Table) and self._widget.words:
            self._widget.filter("")
        elif len(self._stack) > 1:
            self._stack.pop()
            self.frame.body = self._widget
            self.tick()
        else:
            self.prompt(Prompt("quit? (y/n)", lambda key: self.quit() if key == "y" else None, "yn"))

    def quit(self) -> None:
        raise urwid.ExitMainLoop

    def turn(self, by: int) -> None:
        """To the next of the views, or the one before."""
        base = self._stack[1].view if len(self._stack) > 1 else None
        here = next((n + 1 for n, one in enumerate(TOPS) if base is one), 0)
        self._go((here + by) % (len(TOPS) + 1))

    def _go(self, number: int) -> None:
        """To a view by its number, the overview being the first."""
        if number > len(TOPS):
            return
        del self._stack[1:]
        self.frame.body = self._overview
        if number:
            self.show(TOPS[number - 1])

    def views(self) -> None:
        """All views, to choose one."""
        table = Table((Column("view", "title", 30, grow=1), Column("made of", "verb", 20, grow=1)), ("name",))
        rows: list[Row] = [{"name": one.name, "title": one.title, "verb": one.verb} for one in TOPS]
        table.show(rows, self._now())
        self.push(Shown("Views", table, opened=lambda row: self.show(view(str(row["name"])))))

    def show(self, what: View, args: dict[str, Any] | None = None, find: str = "") -> None:
        """Opens a view, narrowed by these arguments, at the row of that name."""
        names = {verb["name"] for verb in self._verbs}
        if self._verbs and what.verb not in names:
            self.say(f"this relayd has no {what.verb}", "bad")
            return
        title = what.title + "".join(f"  {key} {visible(value, 60)}" for key, value in (args or {}).items())
        table = Table(what.columns, what.key, moved=self._draw, empty=what.empty, find=find)
        given = {**what.args, **(args or {})}
        shown = Shown(title, table, view=what, verb=what.verb, args=given, every=what.every, rows=what.rows)
        if what.pages:
            table.more = partial(self._turn_page, shown)
        self.push(shown)

    def open(self) -> None:
        """What the row in focus leads to."""
        shown = self._stack[-1]
        if shown.widget is self._overview:
            if (leads := self._overview.leads) is not None:
                self._follow(leads, {}, None)
            return
        row = shown.widget.focused if isinstance(shown.widget, Table) else None
        if row is None:
            return
        wanted = shown.view.leads if shown.view else None
        if shown.opened:
            shown.opened(row)
        elif wanted is None:
            self.push(Shown(f"{shown.title}: one row", Detail(row), view=shown.view, row=row))
        else:
            self._follow(wanted(row) if callable(wanted) else wanted, row, shown.view)

    def _follow(self, leads: Leads, row: Row, of: View | None) -> None:
        args = filled(leads.args, row)
        if leads.view:
            self.show(view(leads.view), args, leads.find)
            return
        title, here = f"{leads.verb} {' '.join(visible(value, 60) for value in args.values())}", self._stack[-1]
        shown = Shown(title, Detail(), view=of, row=row, verb=leads.verb, args=args, every=DETAIL_EVERY)

        def answered(value: Any) -> None:
            if self._stack[-1] is not here:
                return  # who asked has gone on, or has it already
            if isinstance(value, Exception):
                self.say(str(value), "bad")
                return
            shown.have(value, self._now())
            self._asked[f"view {id(shown)}"] = self._now()
            self.push(shown)

        self.ask(leads.verb, args, False, answered)

    def present(self, title: str, value: Any) -> None:
        """An answer to read: rows as a table, anything else as lines."""
        rows = rows_of(value, "rows") if isinstance(value, dict) and "rows" in value else value
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            fields = [field for field in rows[0] if not isinstance(rows[0][field], dict)][:8]
            columns = [Column(field.replace("_", " "), field, 6, _kind(field, rows), grow=1) for field in fields]
            table = Table(columns, fields, moved=self._draw)
            table.show(rows, self._now())
            self.push(Shown(title, table))
        elif value in ([], {}, None):
            self.say(f"{title}: nothing")
        else:
            self.push(Shown(title, Detail(value)))

    def filter(self) -> None:
        table = self._widget
        if isinstance(table, Table):
            self.prompt(Prompt("/", table.filter, text=table.words, live=table.filter))

    def freeze(self) -> None:
        self._frozen = not self._frozen
        self.say("the screen stands still: Z lets it go on" if self._frozen else "the screen goes on")

    def refresh(self) -> None:
        self._asked.clear()
        self._stack[-1].renew()
        self.tick()

    def help(self) -> None:
        here = self._stack[-1].view
        found = [(action.key, f"{action.label}: {action.verb}") for action in (here.actions if here else ())]
        found += [
            (", ".join(key if key != " " else "space" for key in row.keys), row.help)
            for row in (*keys.KEYS, *keys.MOVES)
        ]
        found += [(str(n % 10), f"the view {one.title}") for n, one in enumerate((OVERVIEW, *TOPS[:9]), 1)]
        table = Table((Column("keys", "keys", 22), Column("what", "what", 20, grow=1)), ("keys", "what"))
        table.show([{"keys": key, "what": what} for key, what in found], self._now())
        self.push(Shown("Keys", table))

    # Actions.

    def _action(self, key: str) -> Action | None:
        shown = self._stack[-1]
        actions = shown.view.actions if shown.view else ()
        return next((action for action in actions if action.key == key), None)

    def _why_not(self, action: Action, row: Row | None) -> str:
        """Why an action cannot be done with a row, "" if it can."""
        if self._read_only:
            return "this console is read-only"
        if self._verbs and action.verb not in {verb["name"] for verb in self._verbs}:
            return f"this relayd has no {action.verb}"
        if row is None:
            return "there is no row" if needs_row(action) else ""
        return action.fault(row)

    def _act(self, action: Action) -> None:
        chosen = self._stack[-1].chosen
        rows = chosen if needs_row(action) else chosen[:1] or [{}]
        fit = [row for row in rows if not self._why_not(action, row)]
        if not fit:
            self.say(f"{action.label}: {self._why_not(action, rows[0] if rows else None)}", "bad")
            return
        verb = next((verb for verb in self._verbs if verb["name"] == action.verb), None)
        if verb is None:
            self.say("relayd has not told its verbs yet", "bad")
            return
        calls = together([Call(verb, filled(action.args, row)) for row in fit])
        Doing(self, action.label, calls, shows=not action.ask).begin(action.ask)

    # The command line.

    def command(self) -> None:
        if not self._verbs:
            self.say("relayd has not told its verbs yet", "bad")
            return
        names = [one.name for one in VIEWS]
        complete = partial(commands.completions, verbs=self._verbs, more=(*names, "log", "quit"))
        self.prompt(Prompt(":", self._run, complete=complete, remember=True))

    def _run(self, line: str) -> None:
        if not line:
            return
        if line in ("q", "quit"):
            self.quit()
        if line == "log":
            self.push(Shown("What was said", Detail(self._log[::-1] or ["nothing yet"])))
        elif line in {one.name for one in VIEWS}:
            self.show(view(line))
        else:
            try:
                call = commands.parse(line, self._verbs, files=self._files)
            except Mistake as mistake:
                self.say(str(mistake), "bad")
                return
            self._call(call)

    def _call(self, call: Call) -> None:
        if call.tries:
            self._read(call)
        elif call.changes and self._read_only:
            self.say("this console is read-only", "bad")
        elif call.changes:
            wanted = tuple(arg["name"] for arg in call.verb["args"] if arg.get("required"))
            missing = tuple(name for name in wanted if name not in call.given)
            Doing(self, call.verb["name"], [call], shows=True).begin(missing)
        elif (known := next((one for one in VIEWS if one.verb == call.verb["name"]), None)) is not None:
            self.show(known, call.given)
        else:
            self._read(call)

    def _read(self, call: Call) -> None:
        """Shows what a verb answers, if whoever asked is still where he asked."""
        here, line = self._stack[-1], call.line()

        def answered(value: Any) -> None:
            if isinstance(value, Exception):
                self.say(str(value), "bad")
            elif self._stack[-1] is not here:
                self.say(f"{line}: answered, but you have gone on: ask again to see it")
            else:
                self.present(line, value)
            self._draw()

        self.ask(call.verb["name"], call.given, call.posts, answered)

    # What is asked and said at the bottom.

    def prompt(self, prompt: Prompt | None) -> None:
        """Asks something, or (None) nothing any more."""
        if prompt is None:
            self._line.prompt = None
        else:
            self._line.ask(prompt)
        self._draw()

    def asks(self, prompt: Prompt) -> bool:
        """Whether this is what is asked now."""
        return self._line.prompt is prompt

    def say(self, words: str, tint: str = "keys") -> None:
        """A message at the bottom, for a while; ``:log`` shows the last ones."""
        words = visible(words, 500)
        self._flash = (self._now() + _FLASH, tint, words)
        self._log = [*self._log[-_LOG:], words]
        self._draw()

    def _draw(self) -> None:
        """The lines on top and at the bottom."""
        tint, text = self.state()
        self._top_line.set_attr_map({None: tint})
        self._top.set_text(text)
        foot, words = self._foot()
        self.frame.footer.set_attr_map({None: foot})
        self._bottom.set_text(words)
        # What is asked or said is seen whole, on several lines if need be.
        self._bottom.set_wrap_mode("clip" if foot == "keys" and not isinstance(words, str) else "any")

    def state(self) -> tuple[str, str]:
        """A colour's name and the line on top: where one is, and whether relayd is well."""
        now = self._now()
        title = self._stack[-1].words()
        title += "  FROZEN" if self._frozen else ""
        title += "  read-only" if self._read_only else ""
        status = self._status
        node = f"{visible(status.get('node', '?'))} up {span(number(status.get('uptime')))}" if status else ""
        if self._fault:
            return "fault", f" {title}  {node}  {visible(self._fault)}; trying again"
        if self._heard and now - self._heard > PATIENCE:
            return "fault", f" {title}  {node}  no answer for {span(now - self._heard)}"
        faults, warnings = status.get("faults", []), status.get("warnings", [])
        if faults:
            return "fault", f" {title}  {node}  {'; '.join(map(visible, faults))}"
        well = f"well, but {visible(warnings[0])}" if warnings else "well" if status else ""
        return "title", f" {title}  {node}  {well}"

    def _foot(self) -> tuple[str, Any]:
        if (asked := self._line.prompt) is not None:
            # What may be answered stands at the end, behind the effect: it is seen on every terminal.
            columns, rows = self._size()
            return "ask", f" {middle(self._line.text(), columns * (rows - 2) - 1) if asked.keys else self._line.text()}"
        if self._flash[1]:
            return ("fault" if self._flash[1] == "bad" else self._flash[1]), f" {self._flash[2]}"
        shown = self._stack[-1]
        words = [*self._possible(shown), " "]
        if isinstance(shown.widget, Table):
            words.append("enter open  / filter  space mark  o sort  ")
        elif shown.widget is self._overview and self._overview.leads:
            words.append("enter open  ")
        words.append(
            "tab next  v views  : command  ? keys  esc back"
            if len(self._stack) > 1
            else "tab next  v views  : command  ? keys  q quit"
        )
        return "keys", words

    def _possible(self, shown: Shown) -> list[Any]:
        """A line of what can be done here: what is not possible is dim, and says why if there is room."""
        actions = shown.view.actions if shown.view else ()
        if not actions:
            return []
        chosen = shown.chosen
        said = [(f"{action.key} {action.label}", self._why_not(action, chosen[0] if chosen else None))
                for action in actions]  # fmt: skip
        whole = sum(len(words) + 2 + (len(why) + 3 if why else 0) for words, why in said) < self._size()[0]
        found: list[Any] = [" "]
        for words, why in said:
            found.append(("dim", f"{words} ({why})  " if whole else f"({words})  ") if why else f"{words}  ")
        return [*found, "\n"]


def _kind(field: str, rows: list[Row]) -> str:
    value = next((row[field] for row in rows if row.get(field) not in (None, "")), "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "clock" if value > 1e9 else "count" if isinstance(value, int) else "text"
    return "text"
