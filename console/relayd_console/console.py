"""The console: a stack of views under a line of state and above a line that says what the keys do here.

In: ``ask``, which brings questions to relayd and answers back, a clock, keys.  Out: ``frame``, for urwid to draw.  It
asks only for what is on the screen, and never again before the answer: a slow relay is not made slower.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import urwid

from relayd_console import commands, keys
from relayd_console.api import Refused, Unreachable
from relayd_console.commands import Call, Mistake, Verb
from relayd_console.detail import Detail
from relayd_console.overview import SOURCES, Overview
from relayd_console.table import Column, Row, Table
from relayd_console.text import number, span, visible
from relayd_console.views import VIEWS, Action, Leads, View, filled, view

Ask = Callable[[str, dict[str, Any], bool, Callable[[Any], None]], None]

STATUS_EVERY = 2.0
PATIENCE = 6.0  # seconds without news until we say so
_FLASH = 6.0  # seconds that a message stays
_LOG = 200  # messages that are kept
_SAID = ("faults", "warnings")


class Shown(NamedTuple):
    """A view on the stack."""

    title: str
    widget: Any
    view: View | None = None
    args: dict[str, Any] = {}  # noqa: RUF012
    verb: str = ""  # of an answer that is read


class Prompt(NamedTuple):
    """What is asked at the bottom: a line of text, or (``keys``) one key."""

    words: str
    done: Callable[[str], None]
    keys: str = ""
    live: Callable[[str], None] | None = None  # at each change of the text
    complete: Callable[[str], list[str]] | None = None


class Console:
    """See the module."""

    def __init__(
        self,
        ask: Ask,
        now: Callable[[], float],
        *,
        read_only: bool = False,
        size: Callable[[], tuple[int, int]] = lambda: (80, 24),
    ) -> None:
        self._ask = ask
        self._now = now
        self._read_only = read_only
        self._size = size
        self._verbs: list[Verb] = []
        self._status: dict[str, Any] = {}
        self._fault = "asking relayd ..."
        self._heard = 0.0
        self._asked: dict[str, float] = {}  # when each question was asked last
        self._waiting: dict[str, float] = {}  # those without an answer yet
        self._answers: dict[str, Any] = {}  # of the overview
        self._next: dict[str, Any] = {}  # where a view's next page begins
        self._frozen = False
        self._prompt: Prompt | None = None
        self._flash: tuple[float, str, str] = (0.0, "", "")
        self._log: list[str] = []
        self._overview = Overview(lambda: self._size()[0])
        self._stack: list[Shown] = [Shown("Overview", self._overview)]
        self._top = urwid.Text("", wrap="clip")
        self._top_line = urwid.AttrMap(self._top, "title")
        self._bottom = urwid.Text("", wrap="clip")
        self._edit = urwid.Edit("")
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
                        self._poll(
                            source.name, source.verb, dict(source.args), source.every,
                            partial(self._have_answer, source.name),
                        )  # fmt: skip
            elif shown.view is not None:
                self._poll(
                    f"view {id(shown.widget)}", shown.view.verb, shown.args, shown.view.every,
                    lambda value: self._have_rows(shown, value),
                )  # fmt: skip
        if self._flash[1] and now >= self._flash[0]:
            self._flash = (0.0, "", "")
        self._draw()

    def _poll(self, name: str, verb: str, given: dict[str, Any], every: float, done: Callable[[Any], None]) -> None:
        now = self._now()
        if name in self._waiting or 0 <= now - self._asked.get(name, -1e9) < every:
            return
        self._asked[name] = self._waiting[name] = now

        def answered(value: Any) -> None:
            self._waiting.pop(name, None)
            if isinstance(value, Unreachable):
                self._fault = str(value)
            elif isinstance(value, Refused):
                if name != "status":
                    self.say(f"{verb}: {value}", "bad")
            else:
                self._fault, self._heard = "", self._now()
                done(value)
            self._draw()

        self._ask(verb, given, False, answered)

    def _have_status(self, value: Any) -> None:
        if not isinstance(value, dict) or "node" not in value:
            self._fault = "what answers is no relayd"
            return
        said = {key: [str(text) for text in value[key]] if isinstance(value.get(key), list) else [] for key in _SAID}
        self._status = {**value, **said}
        if self._stack[-1].widget is self._overview and not self._frozen:
            self._overview.show(self._status, self._answers, self._now())

    def _have_verbs(self, value: Any) -> None:
        self._verbs = [verb for verb in value if isinstance(verb, dict)] if isinstance(value, list) else []

    def _have_answer(self, name: str, value: Any) -> None:
        self._answers[name] = value
        if not self._frozen:
            self._overview.show(self._status, self._answers, self._now())

    def _have_rows(self, shown: Shown, value: Any) -> None:
        assert shown.view is not None
        if self._frozen or self._next.get(str(id(shown.widget)) + " paged"):
            return  # it stands still, or somebody has gone down its pages
        shown.widget.show(_rows(value, shown.view.rows), self._now())
        if shown.view.pages and isinstance(value, dict):
            self._next[str(id(shown.widget))] = value.get("next")

    def _more(self, shown: Shown) -> None:
        """The next page of a view that has pages."""
        name = str(id(shown.widget))
        after = self._next.get(name)
        if after is None or f"more {name}" in self._waiting or shown.view is None:
            return

        def done(value: Any) -> None:
            self._next[name] = value.get("next") if isinstance(value, dict) else None
            self._next[name + " paged"] = True
            shown.widget.append(_rows(value, shown.view.rows if shown.view else ""))

        self._poll(f"more {name}", shown.view.verb, {**shown.args, "after": after}, 0.0, done)

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
        if self._prompt is not None:
            self._typed(key)
        else:
            known = keys.meant(key) if isinstance(self._widget, Table | Detail) else key
            left = self.frame.keypress(self._size(), known)
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
        else:
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
            left = self._stack.pop()
            for name in (str(id(left.widget)), str(id(left.widget)) + " paged"):
                self._next.pop(name, None)
            self.frame.body = self._widget
        else:
            self._prompt = Prompt("quit? (y/n)", lambda key: self.quit() if key == "y" else None, "yn")

    def quit(self) -> None:
        raise urwid.ExitMainLoop

    def turn(self, by: int) -> None:
        """To the next of the views, or the one before."""
        tops = [one for one in VIEWS if one.top]
        here = next((n + 1 for n, one in enumerate(tops) if self._stack[-1].view is one), 0)
        self._go((here + by) % (len(tops) + 1))

    def _go(self, number: int) -> None:
        """To a view by its number, the overview being the first."""
        tops = [one for one in VIEWS if one.top]
        if number > len(tops):
            return
        del self._stack[1:]
        self.frame.body = self._overview
        if number:
            self.show(tops[number - 1])

    def show(self, what: View, args: dict[str, Any] | None = None) -> None:
        """Opens a view, narrowed by these arguments."""
        names = {verb["name"] for verb in self._verbs}
        if self._verbs and what.verb not in names:
            self.say(f"this relayd has no {what.verb}", "bad")
            return
        given = {**what.args, **(args or {})}
        title = what.title + "".join(f"  {key} {visible(value, 60)}" for key, value in (args or {}).items())
        table = Table(what.columns, what.key, moved=self._draw, empty=what.empty)
        shown = Shown(title, table, what, given)
        if what.pages:
            table._more = lambda: self._more(shown)
        self.push(shown)

    def open(self) -> None:
        """What the row in focus leads to."""
        shown = self._stack[-1]
        row = shown.widget.focused if isinstance(shown.widget, Table) else None
        leads = shown.view.leads if shown.view else None
        if row is None or leads is None:
            if row is not None:
                self.push(Shown(f"{shown.title}: one row", Detail(row)))
            return
        self._follow(leads, row)

    def _follow(self, leads: Leads, row: Row) -> None:
        args = filled(leads.args, row)
        if leads.view:
            self.show(view(leads.view), args)
        else:
            self._read(leads.verb, args)

    def _read(self, verb: str, given: dict[str, Any]) -> None:
        """An answer to read."""
        title = f"{verb} {' '.join(visible(value, 60) for value in given.values())}"

        def answered(value: Any) -> None:
            if isinstance(value, Exception):
                self.say(str(value), "bad")
            else:
                self._present(title, value)

        self._ask(verb, given, False, answered)

    def _present(self, title: str, value: Any) -> None:
        rows = _rows(value, "rows") if isinstance(value, dict) and "rows" in value else value
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
        if not isinstance(self._widget, Table):
            return
        table = self._widget
        self._edit.set_edit_text(table.words)
        self._edit.set_edit_pos(len(table.words))
        self._prompt = Prompt("/", lambda text: table.filter(text), live=table.filter)

    def freeze(self) -> None:
        self._frozen = not self._frozen
        self.say("the screen stands still: Z lets it go on" if self._frozen else "the screen goes on")

    def refresh(self) -> None:
        self._asked.clear()
        for name in [name for name in self._next if name.endswith(" paged")]:
            del self._next[name]
        self.tick()

    def help(self) -> None:
        found: list[Any] = [{"keys": ", ".join(key if key != " " else "space" for key in row.keys), "what": row.help}
                            for row in (*keys.KEYS, *keys.MOVES)]  # fmt: skip
        number = [{"keys": str(n) if n < 10 else "0", "what": f"the view {one.title}"}
                  for n, one in enumerate([one for one in VIEWS if one.top][:9], 2)]  # fmt: skip
        here = self._stack[-1].view
        own = [
            {"keys": action.key, "what": f"{action.label}: {action.verb}"} for action in (here.actions if here else ())
        ]
        table = Table((Column("keys", "keys", 22), Column("what", "what", 20, grow=1)), ("keys", "what"))
        table.show([*own, *found, {"keys": "1", "what": "the overview"}, *number], self._now())
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
        if row is None:
            return "there is no row"
        if self._verbs and action.verb not in {verb["name"] for verb in self._verbs}:
            return f"this relayd has no {action.verb}"
        return action.fault(row)

    def _act(self, action: Action) -> None:
        table = self._widget
        rows = table.chosen if isinstance(table, Table) else []
        fit = [row for row in rows if not self._why_not(action, row)]
        if not fit:
            self.say(f"{action.label}: {self._why_not(action, rows[0] if rows else None)}", "bad")
            return
        verb = next((verb for verb in self._verbs if verb["name"] == action.verb), None)
        if verb is None:
            self.say("relayd has not told its verbs yet", "bad")
            return
        wanted = [arg["name"] for arg in verb["args"] if arg["name"] in action.ask or
                  (arg["name"] == "reason" and arg.get("required"))]  # fmt: skip
        self._gather(action, verb, fit, wanted, {})

    def _gather(self, action: Action, verb: Verb, rows: list[Row], wanted: list[str], given: dict[str, Any]) -> None:
        """Asks for what the row does not tell, one after another."""
        if not wanted:
            calls = [Call(verb, {**filled(action.args, row), **given}) for row in rows]
            self._confirm(action.label, calls)
            return
        name, *left = wanted
        required = name == "reason" or any(arg["name"] == name and arg.get("required") for arg in verb["args"])

        def done(text: str) -> None:
            if not text and required:
                self.say(f"{action.label}: not done, it wants a {name}")
                return
            self._gather(action, verb, rows, left, {**given, name: text} if text else given)

        self._edit.set_edit_text("")
        self._prompt = Prompt(f"{action.label} {len(rows)} row{'s' * (len(rows) != 1)}, {name}: ", done)

    def _confirm(self, label: str, calls: list[Call]) -> None:
        """Tells the exact effect and asks; what relayd can try without doing is tried."""
        if any(arg["name"] == "dry_run" for arg in calls[0].verb["args"]):
            found: list[Any] = []

            def tried(value: Any) -> None:
                found.append(value)
                if len(found) == len(calls):
                    self._ask_whether(calls, _effect(found))

            for call in calls:
                self._ask(call.verb["name"], {**call.given, "dry_run": True}, call.posts, tried)
            self.say(f"{label}: what would it do?")
        else:
            self._ask_whether(calls, "")

    def _ask_whether(self, calls: list[Call], effect: str) -> None:
        more = f" and {len(calls) - 1} more" if len(calls) > 1 else ""
        words = f"{visible(calls[0].line(), 120)}{more}{f' [{effect}]' if effect else ''}? (y/n)"
        self._prompt = Prompt(words, lambda key: self._do(calls) if key == "y" else self.say("not done"), "yn")
        self._draw()

    def _do(self, calls: list[Call]) -> None:
        for call in calls:

            def answered(value: Any, call: Call = call) -> None:
                if isinstance(value, Exception):
                    self.say(f"{call.line()}: {value}", "bad")
                else:
                    self.say(f"done: {call.line()}", "good")
                    if isinstance(value, dict | list) and not call.given.get("reason") and len(calls) == 1:
                        self._present(call.line(), value)
                self.refresh()
                self._draw()

            self._ask(call.verb["name"], call.given, call.posts, answered)

    # The command line.

    def command(self) -> None:
        if not self._verbs:
            self.say("relayd has not told its verbs yet", "bad")
            return
        self._edit.set_edit_text("")
        self._prompt = Prompt(":", self._run, complete=lambda text: commands.completions(text, self._verbs))

    def _run(self, line: str) -> None:
        if not line.strip():
            return
        if line.strip() in ("q", "quit"):
            self.quit()
        if line.strip() in {one.name for one in VIEWS}:
            self.show(view(line.strip()))
            return
        if line.strip() == "log":
            self.push(Shown("What was said", Detail(self._log[::-1] or ["nothing yet"])))
            return
        try:
            call = commands.parse(line, self._verbs)
        except Mistake as mistake:
            self.say(str(mistake), "bad")
            return
        if call.changes and self._read_only:
            self.say("this console is read-only", "bad")
        elif call.changes:
            self._confirm(call.verb["name"], [call])
        else:
            self._read_call(call)

    def _read_call(self, call: Call) -> None:
        def answered(value: Any) -> None:
            if isinstance(value, Exception):
                self.say(str(value), "bad")
            else:
                self._present(call.line(), value)
            self._draw()

        self._ask(call.verb["name"], call.given, call.posts, answered)

    def _typed(self, key: str) -> None:
        """A key at a prompt."""
        prompt = self._prompt
        assert prompt is not None
        if key in ("esc", "ctrl c", "ctrl g"):
            self._prompt = None
            if prompt.live:
                prompt.live("")
            return
        if prompt.keys:
            if key.lower() in prompt.keys:
                self._prompt = None
                prompt.done(key.lower())
            return
        if key == "enter":
            self._prompt = None
            prompt.done(self._edit.edit_text.strip())
        elif key == "tab" and prompt.complete:
            self._complete(prompt.complete)
        else:
            self._edit.keypress((10_000,), key)
            if prompt.live:
                prompt.live(self._edit.edit_text)

    def _complete(self, complete: Callable[[str], list[str]]) -> None:
        found = complete(self._edit.edit_text)
        if found:
            common = found[0]
            for one in found[1:]:
                while not one.startswith(common):
                    common = common[:-1]
            if len(common) > len(self._edit.edit_text):
                self._edit.set_edit_text(common)
                self._edit.set_edit_pos(len(common))
            if len(found) > 1:
                self._flash = (self._now() + _FLASH, "keys", "  ".join(one.strip() for one in found[:12]))

    # What is said.

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

    def state(self) -> tuple[str, str]:
        """A colour's name and the line on top: where one is, and whether relayd is well."""
        now = self._now()
        title = self._stack[-1].title
        table = self._widget if isinstance(self._widget, Table) else None
        if table is not None:
            title += f"  {len(table.shown):,}" + (f" of {len(table.all):,} with {table.words!r}" if table.words else "")
            title += f"  {len(table.marks)} marked" if table.marks else ""
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
        if self._prompt is not None:
            if self._prompt.keys:
                return "ask", f" {self._prompt.words}"
            at = self._edit.edit_pos
            text = self._edit.edit_text
            hint = f"   {self._flash[2]}" if self._flash[1] == "keys" and self._prompt.complete else ""
            return "ask", f" {self._prompt.words}{visible(text[:at], 500)}▏{visible(text[at:], 500)}{hint}"
        if self._flash[1]:
            return ("fault" if self._flash[1] == "bad" else self._flash[1]), f" {self._flash[2]}"
        shown = self._stack[-1]
        row = shown.widget.focused if isinstance(shown.widget, Table) else None
        words: list[Any] = [" "]
        for action in shown.view.actions if shown.view else ():
            why = self._why_not(action, row)
            words.append(("dim", f"{action.key} {action.label} ({why})  ") if why else f"{action.key} {action.label}  ")
        if shown.view or isinstance(shown.widget, Table):
            words.append("enter open  / filter  space mark  o sort  ")
        words.append(
            "tab next  : command  ? keys  esc back" if len(self._stack) > 1 else "tab views  : command  ? keys  q quit"
        )
        return "keys", words


def _rows(value: Any, field: str) -> list[Row]:
    found = value.get(field or "rows") if isinstance(value, dict) else value
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _kind(field: str, rows: list[Row]) -> str:
    value = next((row[field] for row in rows if row.get(field) not in (None, "")), "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "clock" if value > 1e9 else "count" if isinstance(value, int) else "text"
    return "text"


def _effect(found: list[Any]) -> str:
    """What a trial says that would be done, in a few words."""
    faults = [str(value) for value in found if isinstance(value, Exception)]
    if faults:
        return visible(faults[0])
    sums: dict[str, float] = {}
    for value in found:
        for key, item in value.items() if isinstance(value, dict) else ():
            if isinstance(item, int | float) and not isinstance(item, bool):
                sums[key] = sums.get(key, 0) + item
    return ", ".join(f"{key.replace('_', ' ')} {int(total):,}" for key, total in sums.items()) or "it can be done"
