"""The console on a screen of its own: keys go in, and what is read is the text that the screen holds."""

import errno
import fcntl
import json
import os
import pty
import select
import shlex
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import urwid
from hypothesis import given
from hypothesis import strategies as st
from relayd_console import api, app, commands, keys, page
from relayd_console.api import Client, Refused, Unreachable
from relayd_console.app import control_of, parser
from relayd_console.commands import Mistake
from relayd_console.console import Console
from relayd_console.detail import lines
from relayd_console.overview import SOURCES
from relayd_console.palette import PALETTE
from relayd_console.shown import PAGES
from relayd_console.table import MOST, Column, Table
from relayd_console.text import fitted, span, spark, visible
from relayd_console.view import filled
from relayd_console.views import OVERVIEW, TOPS, VIEWS, view

from relayd import ctl
from relayd.control.verb import Arg, Verb
from relayd.control.verbs import VERBS

NOW = 1_800_000_000.0
STATUS = {
    "node": "mx1.relay.example", "version": "0.1.0", "uptime": 7200.0, "accounts": 2, "connections": 5, "ok": True,
    "faults": [], "warnings": [],
}  # fmt: skip


def told(verbs: Any = VERBS) -> list[dict[str, Any]]:
    """The table of verbs as relayd tells it."""
    names = ("name", "help", "role", "effect", "path", "method", "example")
    return [{**{n: getattr(v, n) for n in names}, "args": msgspec.to_builtins(v.args)} for v in verbs]


def queue(domain: str, count: int, due: float = NOW + 90, why: str = "retry") -> dict[str, Any]:
    return {"account": "crm", "stream": "bulk", "domain": domain, "count": count, "due": due, "why": why}


class Screen:
    """A console on a terminal, and a relay that gives the answers it is told to."""

    def __init__(self, width: int = 100, height: int = 24, **settings: Any) -> None:
        self.size = (width, height)
        self.now = NOW
        self.asked: list[tuple[str, dict[str, Any], bool]] = []
        self.answers: dict[str, Any] = {"status": STATUS, "verbs": told()}
        self.held: list[Callable[[], None]] | None = None  # answers that do not come
        self.console = Console(self._ask, lambda: self.now, size=lambda: self.size, **settings)
        self.console.tick()

    def _ask(self, verb: str, given: dict[str, Any], post: bool, done: Callable[[Any], None]) -> None:
        self.asked.append((verb, given, post))
        answer = self.answers.get(verb, [])
        value = answer(given) if callable(answer) else answer
        if self.held is None:
            done(value)
        else:
            self.held.append(lambda: done(value))

    def answer(self) -> None:
        """What was held comes, and what is asked from now on is answered at once."""
        held, self.held = self.held or [], None
        for give in held:
            give()

    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            self.console.tick()

    def type(self, *pressed: str) -> "Screen":
        """Keys by their names; a longer text is typed letter by letter."""
        named = {"enter", "esc", "tab", "backspace", "left", "right", "up", "down"}
        named |= {key for row in (*keys.KEYS, *keys.MOVES) for key in row.keys}
        for text in pressed:
            for key in [text] if text in named else list(text):
                self.console.press(key)
        return self

    @property
    def lines(self) -> list[str]:
        return [line.decode().rstrip() for line in self.console.frame.render(self.size, focus=True).text]

    @property
    def bottom(self) -> str:
        """What is asked or said at the bottom, however many lines it takes."""
        return "".join(part for part in self.console._bottom.text).strip()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def focused(self) -> str:
        for row in self.console.frame.render(self.size, focus=True).content():
            line = b"".join(bytes(text) for attribute, _, text in row if attribute == "focus")
            if line:
                return line.decode().strip()
        return ""

    @property
    def changed(self) -> list[tuple[str, dict[str, Any]]]:
        """What relayd was asked to do, and not only to try."""
        return [(verb, given) for verb, given, post in self.asked if post and not given.get("dry_run")]


@pytest.fixture
def screen() -> Screen:
    return Screen()


def listing(*rows: dict[str, Any], **settings: Any) -> Screen:
    """A screen with these queues on it."""
    screen = Screen(**settings)
    screen.answers["queue list"] = list(rows)
    return screen.type("2")


def of_accounts(*states: str, **settings: Any) -> Screen:
    screen = Screen(**settings)
    screen.answers["account list"] = [{"name": f"a{n}", "state": state} for n, state in enumerate(states)]
    screen.answers["account suspend"] = {"dry_run": True, "sessions": 3, "connections": 2}
    return screen.type(":", "accounts", "enter")


# The first screen.


def test_the_first_screen_says_whether_all_is_well_and_what_stands_out(screen: Screen) -> None:
    assert screen.lines[0].strip() == "Overview  mx1.relay.example up 2h  well"
    assert "WELL" in screen.lines[1]
    screen.answers["queue list"] = [queue("slow.example", 12345, NOW - 7200, "it rests: 421 too fast")]
    screen.answers["source list"] = [{"name": "t1", "state": "out of use", "why": "no such address", "listed": []}]
    screen.wait(6)
    assert "! source t1 is out of use: no such address" in screen.text.replace("  ", " ")
    assert "12,345 wait in crm/bulk/slow.example since 2h ago: it rests: 421 too fast" in screen.text


def test_figures_of_the_last_hour_are_drawn_minute_by_minute() -> None:
    screen = Screen()
    rows = [{"time": NOW - 60 * n, "event": "delivered", "counts": {"delivered": 60 - n}} for n in range(60)]
    screen.answers["stats show"] = {"rows": rows}
    screen.console._verbs = [*told(), {"name": "stats show", "args": [], "effect": "read", "method": "GET"}]
    screen.wait(20)
    (line,) = [line for line in screen.lines if line.strip().startswith("delivered")]
    assert "1,830" in line and line.endswith("█")


def test_a_relay_that_is_not_well_says_why_everywhere(screen: Screen) -> None:
    screen.answers["status"] = {**STATUS, "ok": False, "faults": ["the spool's disk is full"]}
    screen.wait(3)
    assert "the spool's disk is full" in screen.lines[0] and "NOT WELL" in screen.lines[1]
    assert "the spool's disk is full" in screen.type("2").lines[0]


def test_a_warning_is_told_and_is_no_fault(screen: Screen) -> None:
    screen.answers["status"] = {**STATUS, "warnings": ["source t2: cannot bind"]}
    screen.wait(3)
    assert "well, but source t2: cannot bind" in screen.lines[0]


def test_a_relay_that_is_gone_leaves_its_rows_under_a_line_that_says_so_and_comes_back_by_itself() -> None:
    screen = listing(queue("a.example", 1))
    back = dict(screen.answers)
    screen.answers = {verb: Unreachable("no relayd is running at /s") for verb in back}
    screen.wait(3)
    assert "no relayd is running at /s; trying again" in screen.lines[0] and "a.example" in screen.text
    screen.answers = back
    screen.wait(3)
    assert screen.lines[0].endswith("well")


def test_a_relay_that_hangs_is_asked_nothing_twice_and_the_keys_go_on() -> None:
    screen = listing(queue("a.example", 1))
    screen.held = []
    before = len(screen.asked)
    screen.wait(20)
    assert len(screen.asked) - before == 2  # its state, and the rows on the screen
    assert "no answer for" in screen.lines[0]
    screen.type("?")
    assert "these keys" in screen.text


def test_only_what_is_on_the_screen_is_asked_for() -> None:
    screen = listing(queue("a.example", 1))
    screen.asked.clear()
    screen.wait(10)
    assert {verb for verb, _, _ in screen.asked} == {"status", "queue list"}
    assert len(screen.asked) <= 10


# Tables.


def test_queues_are_listed_with_due_time_and_reason() -> None:
    screen = listing(queue("a.example", 7, NOW + 90, "4 attempts"), queue("b.example", 30000, 0))
    assert screen.lines[1].split() == ["account", "stream", "domain", "count", "due", "why", "it", "waits"]
    assert screen.lines[2].split() == ["crm", "bulk", "a.example", "7", "in", "1m", "4", "attempts"]
    assert screen.lines[3].split() == ["crm", "bulk", "b.example", "30,000", "-", "retry"]


def test_a_list_that_was_cut_off_says_that_there_is_more() -> None:
    few = listing(*(queue(f"d{n}.example", 1) for n in range(999)))
    many = listing(*(queue(f"d{n}.example", 1) for n in range(1000)))
    assert "Queues  999  " in few.lines[0] and "Queues  1,000+  " in many.lines[0]


def test_the_focus_follows_its_row_when_the_order_changes() -> None:
    screen = listing(queue("a.example", 1), queue("b.example", 2)).type("j")
    assert "b.example" in screen.focused
    screen.answers["queue list"] = [queue("new.example", 9), queue("b.example", 2), queue("a.example", 1)]
    screen.wait(3)
    assert "b.example" in screen.focused
    screen.answers["queue list"] = []
    screen.wait(3)
    assert "no mail is queued" in screen.text


def test_a_filter_shows_only_rows_with_all_its_words_and_esc_takes_it_away() -> None:
    screen = listing(queue("a.example", 1), queue("b.example", 2, why="it rests"))
    screen.type("/", "B.exa rests")
    assert "b.example" in screen.text and "a.example" not in screen.lines[2]
    screen.type("enter")
    assert "1 of 2 with 'B.exa rests'" in screen.lines[0]
    screen.type("esc")
    assert "a.example" in screen.text
    assert "a.example" in screen.type("/", "!rests", "enter").text and "b.example" not in screen.text


def test_rows_are_ordered_by_one_column_after_another_and_the_other_way_round() -> None:
    screen = listing(queue("b.example", 1), queue("a.example", 2), queue("c.example", 3))
    screen.type("o", "o", "o")
    assert [line.split()[2] for line in screen.lines[2:5]] == ["a.example", "b.example", "c.example"]
    assert "domain▲" in screen.lines[1]
    screen.type("O")
    assert [line.split()[2] for line in screen.lines[2:5]] == ["c.example", "b.example", "a.example"]


def test_a_frozen_screen_stands_still_until_it_is_let_go() -> None:
    screen = listing(queue("a.example", 1)).type("Z")
    screen.answers["queue list"] = [queue("b.example", 2)]
    screen.wait(10)
    assert "FROZEN" in screen.lines[0] and "a.example" in screen.text
    screen.type("Z").wait(3)
    assert "b.example" in screen.text


def test_only_the_rows_on_the_screen_are_made_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table((Column("n", "n", 8),), ("n",))
    table.show([{"n": n} for n in range(MOST)], NOW)
    made: list[int] = []
    markup = Table.markup
    monkeypatch.setattr(Table, "markup", lambda self, row, *a, **k: made.append(row["n"]) or markup(self, row, *a, **k))
    table.render((80, 24), focus=True)
    assert len(made) <= 24
    made.clear()
    table.keypress((80, 24), "end")
    table.render((80, 24), focus=True)
    assert len(made) <= 48 and MOST - 1 in made


def test_a_narrow_terminal_leaves_out_what_is_told_elsewhere() -> None:
    narrow = listing(queue("a.example", 1), width=60)
    assert narrow.lines[1].split() == ["account", "domain", "count", "why", "it", "waits"]


@pytest.mark.parametrize("size", [(1, 4), (20, 5), (80, 24), (200, 50)])
def test_any_size_of_terminal_can_be_drawn(size: tuple[int, int]) -> None:
    screen = listing(queue("a.example", 1))
    screen.size = size
    for pressed in ("1", "2", "?", "esc", ":", "esc"):
        screen.type(pressed)
        assert len(screen.lines) == size[1]


# Keys and views.


def test_help_lists_every_key_and_what_can_be_done_here() -> None:
    screen = of_accounts("active", height=60).type("?")
    for row in (*keys.KEYS, *keys.MOVES):
        assert row.help in screen.text
    assert "suspend: account suspend" in screen.text
    assert screen.type("esc").lines[0].strip().startswith("Accounts")


def test_every_key_has_a_command_and_no_key_has_two(screen: Screen) -> None:
    bound = [key for row in keys.KEYS for key in row.keys]
    assert len(bound) == len(set(bound))
    assert {row.command for row in keys.KEYS} == set(screen.console._commands)
    for one in VIEWS:
        own = [action.key for action in one.actions]
        assert len(own) == len(set(own)) and not set(own) & {*bound, *"jkgG0123456789"}, one.name


def test_every_view_and_every_action_is_a_verb_with_those_arguments() -> None:
    verbs = {verb.name: verb for verb in VERBS}
    row = dict.fromkeys(("site", "kind", "name", "account"), "x")
    for one in (OVERVIEW, *VIEWS):
        asked = {arg.name for arg in verbs[one.verb].args}
        assert set(one.args) <= asked, one.name
        for action in one.actions:
            verb, given = verbs[action.verb], {*filled(action.args, row), *action.ask}
            assert given <= {arg.name for arg in verb.args}, (one.name, action.label)
            assert {arg.name for arg in verb.args if arg.required} <= given, (one.name, action.label)
        leads = one.leads(row) if callable(one.leads) else one.leads
        if leads is not None:
            where = verbs[leads.verb or view(leads.view).verb]
            assert set(leads.args) <= {arg.name for arg in where.args}, one.name


def test_tab_goes_through_all_views_and_back_to_the_first() -> None:
    screen = Screen()
    titles = [screen.type("tab").lines[0].split("  ")[0].strip() for _ in [one for one in VIEWS if one.top]]
    assert titles == [one.title for one in VIEWS if one.top]
    assert screen.type("tab").lines[0].strip().startswith("Overview")


def test_enter_goes_into_a_row_and_esc_comes_back() -> None:
    screen = of_accounts("active")
    screen.answers["connection list"] = lambda given: [{"login": "l1", "account": given["account"], "state": "active"}]
    screen.answers["connection show"] = {"login": "l1", "state": "active", "clients": ["192.0.2.0/24"]}
    screen.type("enter")
    assert screen.lines[0].strip().startswith("Connections  account a0")
    screen.type("enter")
    assert screen.lines[0].strip().startswith("connection show l1") and "192.0.2.0/24" in screen.text
    assert screen.type("esc", "esc").lines[0].strip().startswith("Accounts")


@pytest.mark.parametrize("key", ["esc", "q"])
def test_back_at_the_root_asks_before_it_quits(screen: Screen, key: str) -> None:
    assert screen.type(key).lines[-1].strip() == "quit? (y/n)"
    screen.type("n")
    with pytest.raises(urwid.ExitMainLoop):
        screen.type(key, "y")


def test_capital_q_quits_at_once_even_in_help(screen: Screen) -> None:
    with pytest.raises(urwid.ExitMainLoop):
        screen.type("?", "Q")


def test_the_overview_of_a_relay_that_is_gone_says_so_and_not_that_all_is_well() -> None:
    screen = Screen()
    assert "WELL" in screen.lines[1] and "NOT WELL" not in screen.text
    gone = dict.fromkeys(["status", *(source.verb for source in SOURCES)], Unreachable("no relayd is running at /x"))
    before, screen.answers = screen.answers, gone
    screen.wait(3)
    assert "NOT WELL  no relayd is running at /x; below stands what was last heard" in screen.lines[1]
    screen.answers = before
    screen.wait(11)
    assert "NOT WELL" not in screen.text and "WELL" in screen.lines[1]


def test_enter_on_what_stands_out_leads_to_it() -> None:
    screen = Screen()
    rows = [{"name": "t1", "state": "in use"}, {"name": "t2", "state": "out of use", "why": "it is not here"}]
    screen.answers["source list"] = rows
    screen.answers["queue list"] = [queue("late.example", 5, due=NOW - 3600)]
    screen.wait(11)
    assert screen.focused.startswith("! source t2 is out of use")
    screen.type("enter")
    assert screen.lines[0].strip().startswith("Sources") and screen.focused.startswith("t2")
    screen.type("esc", "j", "enter")
    assert screen.lines[0].strip().startswith("Deliveries  account crm  stream bulk  domain late.example")


def test_the_focus_stays_with_what_it_was_on_when_something_worse_comes() -> None:
    screen = Screen()
    screen.answers["queue list"] = [queue("late.example", 5, due=NOW - 3600)]
    screen.wait(3)
    screen.type("down", "up")
    assert "wait in crm/bulk/late.example" in screen.focused
    screen.answers["source list"] = [{"name": "t2", "state": "out of use", "why": "it is not here"}]
    screen.wait(6)
    assert "t2 is out of use" in screen.text and "wait in crm/bulk/late.example" in screen.focused


def test_what_was_opened_comes_once_and_not_any_more_when_its_row_was_left() -> None:
    screen = Screen()
    screen.answers["account list"] = [{"name": "a0"}]
    screen.answers["trace list"] = [{"id": 1}]
    screen.answers["trace show"] = {"id": 1, "state": "on"}
    screen.type(":", "traces", "enter")
    screen.held = []
    screen.type("enter", "enter")
    screen.answer()
    assert "trace show 1" in screen.lines[0] and "Traces" in screen.type("esc").lines[0]
    screen.held = []
    screen.type("enter", "tab")
    screen.answer()
    assert "Webhooks" in screen.lines[0]


def test_an_answer_to_a_line_that_comes_when_its_asker_has_gone_on_is_said_and_not_put_before_him() -> None:
    screen = Screen()
    screen.answers["version"] = {"version": "0.1.0"}
    screen.held = []
    screen.type(":", "version", "enter", "4")
    screen.answer()
    assert "Sources" in screen.lines[0] and screen.bottom.startswith("version: answered")


def test_all_views_can_be_chosen_from_a_list() -> None:
    screen = Screen(height=40).type("v")
    for one in TOPS:
        assert one.title in screen.text
    assert screen.type("j", "enter").lines[0].strip().startswith(TOPS[1].title)


def of_a_message(screen: Screen) -> Screen:
    screen.answers["queue deliveries"] = {"deliveries": [{"id": "1a", "recipient": "b@x.example"}]}
    screen.answers["inspect"] = {"id": "1a", "message": {"account": "crm"}}
    return screen.type(":", "deliveries", "enter", "enter")


def test_a_message_renews_itself_while_one_looks_at_it(screen: Screen) -> None:
    of_a_message(screen)
    assert "crm" in screen.text
    screen.answers["inspect"] = {"id": "1a", "message": {"account": "crm", "sender": "a@crm.example"}}
    screen.wait(4)
    assert "a@crm.example" in screen.text


def test_what_is_longer_than_the_screen_is_read_a_screen_at_a_time(screen: Screen) -> None:
    screen.answers["version"] = {f"key{n}": n for n in range(60)}
    screen.type(":", "version", "enter", "page down")
    assert screen.lines[1].split() == ["key21", "21"]  # the last of before is still there
    screen.type("page up")
    assert screen.lines[1].split() == ["key0", "0"]
    screen.type("G")
    assert "key59" in screen.text


def test_what_can_be_done_with_a_row_can_be_done_where_it_is_shown_whole(screen: Screen) -> None:
    of_a_message(screen)
    screen.answers["queue hold"] = {"deliveries": 1}
    screen.type("h", "odd", "enter", "y")
    assert screen.changed == [("queue hold", {"id": "1a", "reason": "odd"})]


# Pages.


class Paged:
    """A relay with very many deliveries, which tells so many at a time."""

    def __init__(self, total: int, page: int = 200) -> None:
        self.total, self.page, self.told = total, page, 0

    def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        start = int(given.get("after") or 0)
        end = min(self.total, start + self.page)
        self.told += 1
        rows = [{"id": f"{n:06}", "recipient": f"r{n}@x.example"} for n in range(start, end)]
        return {"deliveries": rows, "next": str(end) if end < self.total else ""}


def test_a_million_rows_are_walked_a_page_at_a_time_and_few_are_held() -> None:
    screen, relay = Screen(), Paged(1_000_000)
    screen.answers["queue deliveries"] = relay
    screen.type(":", "deliveries", "enter")
    for _ in range(400):
        screen.type("page down")
    assert int(screen.focused[:6]) > 7000
    table = screen.console._widget
    assert len(table.all) <= PAGES * 200 and relay.told < 60
    for _ in range(400):
        screen.type("page up")
    assert screen.focused.startswith("000000") and len(table.all) <= PAGES * 200


def test_the_last_page_is_the_end_and_is_not_asked_for_again() -> None:
    screen, relay = Screen(), Paged(450)
    screen.answers["queue deliveries"] = relay
    screen.type(":", "deliveries", "enter")
    assert "Deliveries  200+" in screen.lines[0]
    for _ in range(5):
        screen.type("G")
    assert relay.told == 3 and screen.focused.startswith("000449") and "Deliveries  450 " in screen.lines[0]


def test_who_has_turned_pages_is_left_where_he_is_and_begins_anew_when_he_asks() -> None:
    screen, relay = Screen(), Paged(450)
    screen.answers["queue deliveries"] = relay
    screen.type(":", "deliveries", "enter", "G", "G")
    before = relay.told
    screen.wait(10)
    assert relay.told == before
    screen.type("r")
    assert "Deliveries  200+" in screen.lines[0]
    screen.wait(10)
    assert relay.told > before + 2


# Actions.


def test_an_action_names_its_exact_effect_and_is_done_only_on_yes() -> None:
    screen = of_accounts("active").type("s", "unpaid", "enter")
    assert screen.bottom == "account suspend a0 --reason unpaid [sessions 3, connections 2]? (y/n, d: details)"
    screen.type("n")
    assert screen.changed == []
    screen.type("s", "unpaid", "enter", "y")
    assert screen.changed == [("account suspend", {"name": "a0", "reason": "unpaid"})]
    assert "done: account suspend a0" in "".join(screen.console._log)


def test_what_an_action_would_do_can_be_looked_at_before_it_is_done() -> None:
    screen = of_accounts("active")
    screen.answers["account suspend"] = {
        "dry_run": True,
        "sessions": 3,
        "sample": {"sessions": [{"peer": "192.0.2.1"}]},
    }
    screen.type("s", "unpaid", "enter", "d")
    assert "peer 192.0.2.1" in screen.text and screen.bottom.endswith("[sessions 3]? (y/n, d: details)")
    assert screen.type("y").changed == [("account suspend", {"name": "a0", "reason": "unpaid"})]


def test_an_action_that_is_not_legal_is_greyed_and_says_why() -> None:
    screen = of_accounts("suspended", width=120)
    assert "s suspend (it is suspended)" in screen.lines[-2]
    screen.size = (80, 24)
    screen.wait(0.25)
    assert "(s suspend)" in screen.lines[-2]
    assert screen.type("s").lines[-1].strip() == "suspend: it is suspended"
    assert screen.changed == []


def test_marked_rows_are_acted_on_together() -> None:
    screen = of_accounts("active", "active", "active").type(" ", " ", "s", "why", "enter")
    assert "account suspend a0 --reason why and 1 more [sessions 6, connections 4]? (y/n" in screen.bottom
    screen.type("y")
    assert screen.changed == [("account suspend", {"name": f"a{n}", "reason": "why"}) for n in range(2)]


def test_marked_deliveries_are_one_job_with_one_undoing(screen: Screen) -> None:
    screen.answers["queue deliveries"] = {"deliveries": [{"id": "1a"}, {"id": "1b"}, {"id": "1c"}]}
    screen.answers["queue hold"] = lambda given: {"deliveries": len(given["id"])}
    screen.type(":", "deliveries", "enter", " ", " ", "h", "odd", "enter")
    assert "queue hold 1a 1b --reason odd [deliveries 2]? (y/n" in screen.bottom
    assert screen.type("y").changed == [("queue hold", {"id": ["1a", "1b"], "reason": "odd"})]


def test_a_drain_is_ended_only_where_there_is_one(screen: Screen) -> None:
    screen.answers["status"] = {**STATUS, "draining": False}
    screen.wait(3)
    assert screen.type("u").bottom == "take mail again: it takes mail"
    screen.answers["status"] = {**STATUS, "draining": True}
    screen.wait(3)
    assert screen.type("D").bottom == "drain: it drains already"
    assert screen.type("u").bottom.startswith("take mail again, reason: ")


def test_marks_can_be_taken_away_and_go_with_their_rows() -> None:
    screen = of_accounts("active", "active").type(" ", " ")
    assert "2 marked" in screen.lines[0] and screen.lines[2].startswith("*")
    screen.answers["account list"] = [{"name": "a1", "state": "active"}]
    screen.wait(6)
    assert "1 marked" in screen.lines[0]
    assert "marked" not in screen.type("U").lines[0]


def test_a_reason_is_asked_for_where_the_verb_wants_one() -> None:
    screen = Screen()
    screen.answers["source list"] = [{"name": "t1", "state": "in use"}]
    screen.answers["source drain"] = {"dry_run": True, "sessions": 4}
    screen.type(":", "sources", "enter", "d")
    assert screen.bottom.startswith("drain, reason: ▏   why, for those who wonder")
    screen.type("it is listed", "enter")
    assert "source drain t1 --reason 'it is listed' [sessions 4]? (y/n" in screen.bottom
    screen.type("y")
    assert screen.changed == [("source drain", {"name": "t1", "reason": "it is listed"})]


def test_what_is_typed_before_the_effect_is_known_confirms_nothing() -> None:
    screen = of_accounts("active")
    screen.held = []
    screen.type("s", "unpaid", "enter", ":", "why", "y")
    assert "account" not in screen.bottom and "what would it do" in screen.bottom
    screen.answer()
    assert screen.bottom.endswith("(y/n, d: details)") and screen.changed == []


def test_who_does_not_wait_for_the_effect_is_not_asked_about_it_later() -> None:
    screen = of_accounts("active")
    screen.held = []
    screen.type("s", "unpaid", "enter", "esc", ":", "wh")
    screen.answer()
    assert screen.bottom == ":wh▏" and screen.type("y").changed == []


def test_what_is_only_to_be_tried_is_tried_and_shown_and_never_called_done() -> None:
    for read_only in (False, True):
        screen = Screen(read_only=read_only)
        screen.answers["queue hold"] = {"dry_run": True, "deliveries": 12}
        screen.type(":", "queue hold --account crm --dry-run", "enter")
        assert "deliveries  12" in screen.text and screen.console._line.prompt is None
        assert ("queue hold", {"account": "crm", "dry_run": "true"}, True) in screen.asked
        assert "done" not in screen.bottom and screen.changed == []


@pytest.mark.parametrize("size", [(24, 5), (40, 8), (80, 24)])
def test_the_effect_of_an_action_and_what_may_be_answered_are_seen_however_small_the_terminal(
    size: tuple[int, int],
) -> None:
    screen = of_accounts("active", width=size[0], height=size[1])
    screen.type("s", "a very long reason " * 30, "enter")
    seen = "".join(line.ljust(size[0]) for line in screen.lines)
    assert "account suspend" in seen and "sessions 3, connections 2]? (y/n, d: details)" in seen


def test_without_the_reason_nothing_is_done() -> None:
    screen = Screen()
    screen.answers["source list"] = [{"name": "t1", "state": "in use"}]
    screen.type(":", "sources", "enter", "d", "enter")
    assert "not done, it wants a reason" in screen.lines[-1] and screen.changed == []


def trying() -> Verb:
    """A verb that can be tried without doing it."""
    return Verb(
        name="queue stop", help="", handler=print, effect="change", role="operate", example="queue stop",
        args=(Arg("domain", ""), Arg("reason", "", required=True), Arg("dry_run", "", "bool", default=False)),
    )  # fmt: skip


def test_what_can_be_tried_is_tried_first_and_its_counts_are_told() -> None:
    screen = Screen()
    screen.console._verbs = told([*VERBS, trying()])
    screen.answers["queue stop"] = lambda given: {"deliveries": 12345, "queues": 3}
    screen.type(":", "queue stop --domain x.example --reason why", "enter")
    assert screen.asked[-1] == ("queue stop", {"domain": "x.example", "reason": "why", "dry_run": True}, True)
    assert screen.changed == []
    assert screen.bottom.endswith("[deliveries 12,345, queues 3]? (y/n, d: details)")
    screen.type("y")
    assert screen.changed[-1] == ("queue stop", {"domain": "x.example", "reason": "why"})


def test_a_read_only_console_changes_nothing_by_any_key_or_line() -> None:
    screen = of_accounts("active", read_only=True)
    assert "read-only" in screen.lines[0] and "(s suspend)" in screen.lines[-2]
    assert "read-only" in screen.type("s").lines[-1]
    assert "read-only" in screen.type(":", "account suspend a0", "enter").lines[-1]
    assert screen.changed == []


def test_what_relayd_refuses_is_said_and_kept_to_be_read() -> None:
    screen = of_accounts("active")
    screen.answers["account suspend"] = Refused("account suspend needs the role operate; yours is view")
    screen.type("s", "why", "enter")
    assert "needs the role operate" in screen.bottom
    assert "needs the role operate" in screen.type(":", "log", "enter").text


def test_what_may_stay_empty_may_be_left_out_and_choices_are_told_and_completed() -> None:
    screen = Screen().type(":", "blocks", "enter", "a")
    assert screen.bottom == "add, kind: ▏   ip, account, connection, source, site, domain"
    screen.type("conn", "tab", "enter", "login1", "enter")
    assert screen.bottom.startswith("add, for: ▏   how long") and screen.bottom.endswith("(may stay empty)")
    screen.type("enter", "phishing", "enter", "y")
    assert screen.changed == [("block add", {"kind": "connection", "value": "login1", "reason": "phishing"})]


def test_what_a_job_did_and_how_it_is_taken_back_is_said() -> None:
    screen = listing(queue("a.example", 3))
    job = {"job": 7, "action": "hold", "state": "done", "done": 3, "under_way": 1, "undo_until": NOW + 9}
    screen.answers["queue hold"] = lambda given: {"deliveries": 3} if given.get("dry_run") else job
    screen.type("h", "odd", "enter", "y")
    assert screen.bottom == "job 7, hold: done, 3 done, 1 under way; :job undo 7 takes it back"


# The command line.


def test_a_line_that_lacks_something_is_asked_for_it() -> None:
    screen = Screen().type(":", "account suspend", "enter")
    assert screen.bottom.startswith("account suspend, name: ")
    screen.type("a0", "enter", "unpaid", "enter", "y")
    assert screen.changed == [("account suspend", {"name": "a0", "reason": "unpaid"})]


def test_a_line_may_name_files_where_the_console_is_the_users_own(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("correct horse\nbattery\n")
    screen = Screen(files=True).type(":", f"connection password login1 --password-file {secret}", "enter")
    assert "correct horse" not in screen.text and screen.bottom.endswith("(a file)? (y/n)")
    screen.type("y")
    assert screen.changed == [("connection password", {"login": "login1", "password": "correct horse"})]
    assert "correct horse" not in "".join(screen.console._log)
    screen.type(":", f"connection password login1 --password {tmp_path}/none", "enter")
    assert "No such file" in screen.bottom
    secret.write_text("x" * 40_000)
    screen.type(":", f"connection password login1 --password {secret}", "enter")
    assert "longer than 32768 bytes" in screen.bottom
    over_ssh = Screen().type(":", f"connection password login1 --password {secret}", "enter")
    assert "is read from a file: relayctl connection password does that" in over_ssh.bottom


def test_a_verb_that_has_a_view_opens_it_narrowed_with_all_that_can_be_done_there() -> None:
    screen = Screen()
    screen.answers["queue deliveries"] = lambda given: {"deliveries": [{"id": "1a", "last": given["reply"]}]}
    screen.type(":", "queue deliveries --account crm --reply '4.7.1 later'", "enter")
    assert screen.lines[0].strip().startswith("Deliveries  account crm  reply 4.7.1 later  1")
    assert "t try now" in screen.text and "4.7.1 later" in screen.lines[2]


def test_the_up_key_brings_lines_of_before(screen: Screen) -> None:
    screen.answers["version"] = {"version": "0.1.0"}
    screen.type(":", "version", "enter", ":", "plan list", "enter", ":", "up", "up")
    assert screen.bottom.startswith(":version▏")
    assert screen.type("down").bottom.startswith(":plan list▏")


def test_any_verb_can_be_typed_and_its_answer_is_a_table_or_lines() -> None:
    screen = Screen()
    screen.answers["plan list"] = [{"name": "start", "units": 1000}, {"name": "big", "units": 50000}]
    screen.type(":", "plan list", "enter")
    assert screen.lines[1].split() == ["name", "units"] and "50,000" in screen.text
    screen.type(":", "version", "enter")
    assert "nothing" in screen.lines[-1]
    screen.answers["version"] = {"version": "0.1.0"}
    assert "0.1.0" in screen.type(":", "version", "enter").lines[1]


def test_keys_that_come_many_at_once_are_taken_one_by_one(screen: Screen) -> None:
    screen.answers["version"] = {"version": "0.1.0"}
    others = ["window resize", ("mouse press", 1, 0, 0)]
    assert screen.console.input([":", *"version", "enter", *others], []) == others
    assert "0.1.0" in screen.lines[1]


def test_a_verb_that_changes_something_asks_first() -> None:
    screen = Screen().type(":", "token rotate", "enter")
    assert screen.lines[-1].strip() == "token rotate? (y/n)" and screen.changed == []


def test_tab_completes_verbs_options_and_choices(screen: Screen) -> None:
    screen.type(":", "queue li", "tab")
    assert screen.lines[-1].startswith(" :queue list ")
    screen.type("--li", "tab")
    assert screen.lines[-1].startswith(" :queue list --limit ")
    assert commands.completions("reputation list --kind a", told()) == ["reputation list --kind account "]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "there is no verb 'nonsense'"),
        ("queue list --limt 3", "queue list has no --limt"),
        ("queue list --limit", "--limit wants a value"),
        ("queue list extra", "queue list takes no 'extra'"),
        ("account show", "account show wants name"),
        ("account suspend 'a", "the line cannot be read: no closing quotation"),
        ("suppression import crm/all --rows x", "is read from a file"),
    ],
)
def test_a_line_that_cannot_be_done_says_why(line: str, words: str) -> None:
    with pytest.raises(Mistake) as mistake:
        commands.parse(line, told())
    assert words in str(mistake.value)


WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1)


@given(st.sampled_from(told()), st.data())
def test_a_call_is_written_as_relayctl_would_take_it(verb: dict[str, Any], data: st.DataObject) -> None:
    args = [arg for arg in verb["args"] if arg["kind"] not in ("secret", "pem", "text", "row")]
    chosen = [arg for arg in args if arg["required"] or arg["positional"] or data.draw(st.booleans())]
    given = {
        arg["name"]: data.draw(st.sampled_from(["true", "false"]))
        if arg["kind"] == "bool"
        else [data.draw(WORDS)]
        if arg["repeated"]
        else data.draw(WORDS)
        for arg in chosen
    }
    missing = [arg for arg in verb["args"] if arg["required"] and arg["name"] not in given]
    if missing:
        with pytest.raises(Mistake):
            commands.parse(commands.Call(verb, given).line(), told())
    else:
        line = commands.Call(verb, given).line()
        assert commands.parse(line, told()) == (verb, given)
        if not any(arg["choices"] for arg in args):  # which relayctl would check
            options = vars(ctl.parser().parse_args(shlex.split(line)))
            assert {name: str(options[name]).lower() if value in ("true", "false") else options[name]
                    for name, value in given.items()} == given  # fmt: skip


# What is not ours to trust.


def test_words_of_remote_servers_reach_no_terminal_unescaped() -> None:
    evil = "550 \x1b[2J\x1b]0;owned\x07 \u202egnp.exe \x9b31m \r\n\x00"
    screen = listing(queue("a.example", 1, why=evil), width=200)
    screen.answers["why"] = [{"queue": evil, "why": evil, "nested": {"a": [evil]}}]
    seen = screen.text + screen.type("enter").text + screen.type("enter").text
    assert not [c for c in seen if not c.isprintable() and c != "\n"]
    assert "\\x1b" in seen and "\\x202e" in seen


@given(st.text(max_size=300), st.integers(2, 250))
def test_what_is_visible_is_printable_and_not_too_long(text: str, limit: int) -> None:
    shown = visible(text, limit)
    assert shown.isprintable() and len(shown) <= limit


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(0, 40), st.booleans())
def test_what_is_fitted_is_as_wide_as_it_should_be(text: str, width: int, right: bool) -> None:
    made = fitted(visible(text), width, right=right)
    assert urwid.calc_width(made, 0, len(made)) == width


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)


@given(st.lists(st.dictionaries(st.sampled_from(["account", "domain", "count", "due", "why"]), ANYTHING), max_size=4))
def test_any_rows_that_relayd_might_give_can_be_shown(rows: list[dict[str, Any]]) -> None:
    assert len(listing(*rows).type("o", "enter").lines) == 24


@given(ANYTHING)
def test_any_answer_that_relayd_might_give_can_be_read(value: Any) -> None:
    assert all(text.isprintable() for _, text in lines(value))


@given(st.dictionaries(st.sampled_from([*STATUS, "uptime"]), ANYTHING))
def test_any_status_that_relayd_might_give_can_be_shown(status: dict[str, Any]) -> None:
    screen = Screen()
    screen.answers["status"] = {"node": "x", **status}
    screen.wait(3)
    assert screen.lines[0].strip().startswith("Overview")


def test_a_letter_with_very_many_marks_keeps_only_some() -> None:
    for mark in ("\u0301", "\u20dd", "\u0e31", "\u1161"):
        assert visible("a" + mark * 50).count(mark) == 4


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59, "59s"), (60, "1m"), (3600, "1h"), (90000, "1d")])
def test_spans_are_in_one_unit(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_line_of_bars_shows_the_last_values_and_that_there_was_something() -> None:
    assert spark([0, 1, 50, 100], 4) == " ▁▄█" and spark([5, 0, 0], 2) == "  "


def test_a_field_of_a_row_stands_for_itself() -> None:
    assert filled({"id": "{id}", "kind": "site"}, {"id": 7, "name": "x"}) == {"id": 7, "kind": "site"}
    assert filled(lambda row: {"name": row["name"]}, {"name": "{id}"}) == {"name": "{id}"}


def test_every_meaning_has_a_colour_in_16_and_256_and_a_sign_without_any() -> None:
    for name, *colours in PALETTE:
        assert len(colours) == 5 and all(colours), name


# Asking.


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Answers one connection after another on a UNIX socket with the bytes given."""
    listener = socket.socket(socket.AF_UNIX)
    threads: list[threading.Thread] = []

    def start(*answers: bytes) -> Client:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        threads.append(threading.Thread(target=answer_all, args=(answers,), daemon=True))
        threads[0].start()
        return Client(str(tmp_path / "s"), "secret")

    def answer_all(answers: tuple[bytes, ...]) -> None:
        for answer in answers:
            peer, _ = listener.accept()
            with peer:
                heard = b""
                while b"\r\n\r\n" not in heard:
                    heard += peer.recv(65536)
                assert b"Authorization: Bearer secret" in heard
                peer.sendall(answer)

    yield start
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    listener.close()


def http(value: object, status: str = "200 OK") -> bytes:
    body = json.dumps(value).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_a_connection_that_was_closed_meanwhile_is_made_anew(serve: Callable[..., Client]) -> None:
    client = serve(http(STATUS), http([1]))
    assert client.ask("status") == STATUS
    assert client.ask("queue list", {"limit": 5}) == [1]


def test_what_changes_something_is_not_sent_twice(serve: Callable[..., Client]) -> None:
    client = serve(http(STATUS))
    client.ask("status")
    with pytest.raises(Unreachable, match="look whether it was done"):
        client.ask("config reload", {}, post=True)


@pytest.mark.parametrize(
    ("answer", "fault", "words"),
    [
        (b"SSH-2.0-whatever\r\n", Unreachable, "/s: "),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[[[", Unreachable, "no relayd"),
        (http({"error": "yours is none", "field": ""}, "403 Forbidden"), Refused, "yours is none"),
        (http({"error": "is missing", "field": "name"}, "400 Bad"), Refused, "name: is missing"),
        (http([], "500 Oops"), Refused, "status 500"),
        (b"", Unreachable, "/s: "),
    ],
)
def test_an_answer_that_is_none_is_a_fault_in_words(
    serve: Callable[..., Client], answer: bytes, fault: type[Exception], words: str
) -> None:
    with pytest.raises(fault, match=words):
        serve(answer).ask("status")


def test_no_relay_is_a_fault_in_words(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no relayd is running at"):
        Client(str(tmp_path / "none")).ask("status")


def test_a_relay_that_hangs_is_given_up_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "s"))
        mute.listen()
        with pytest.raises(Unreachable, match="does not answer"):
            Client(str(tmp_path / "s")).ask("status")


def test_a_verb_that_may_take_long_is_waited_for_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.05)
    with socket.socket(socket.AF_UNIX) as slow:
        slow.bind(str(tmp_path / "s"))
        slow.listen()

        def answer() -> None:
            peer, _ = slow.accept()
            with peer:
                peer.recv(65536)
                time.sleep(0.3)
                peer.sendall(http([1]))

        thread = threading.Thread(target=answer)
        thread.start()
        assert Client(str(tmp_path / "s")).ask("queue hold", {}, post=True, patience=10.0) == [1]
        thread.join(10)


def test_whoever_quits_does_not_wait_for_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "s"))
        mute.listen()
        client = Client(str(tmp_path / "s"))
        threading.Thread(target=lambda: (mute.accept()[0].recv(9), client.close())).start()
        with pytest.raises(Unreachable):
            client.ask("queue hold", {}, post=True, patience=60.0)


def test_a_token_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYD_TOKEN", "secret")
    assert api.token() == "secret" and "RELAYD_TOKEN" not in os.environ and api.token() == ""


# The command.


def options(*words: str) -> Any:
    return parser().parse_args(words)


def test_the_socket_is_named_by_option_then_environment_then_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "relayd.toml"
    file.write_text('[node]\ncontrol = "run/c.sock"\n')
    monkeypatch.setenv("RELAYD_CONTROL", "/from/environment")
    assert control_of(options("--control", "/from/option")) == "/from/option"
    assert control_of(options()) == "/from/environment"
    assert control_of(options("--config", str(file))) == str(tmp_path / "run/c.sock")
    monkeypatch.delenv("RELAYD_CONTROL")
    monkeypatch.setattr(app, "DEFAULT_CONFIG", str(file))
    assert control_of(options()) == str(tmp_path / "run/c.sock")


@pytest.mark.parametrize("text", ["", "node = 1", "[node", '[node]\nname = "x"'])
def test_a_file_that_names_no_socket_is_a_fault(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(Unreachable, match="no control socket"):
        control_of(options("--config", str(tmp_path / "c.toml")))


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app.main(["--help"])
    assert stopped.value.code == 0
    assert "relayd-console --control /run/relayd/control.sock" in capsys.readouterr().out


def test_without_a_terminal_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert app.main(["--control", "/none"]) == 1
    assert "terminal" in capsys.readouterr().err


def test_on_a_real_terminal_it_starts_without_a_relay_and_quits_on_capital_q(tmp_path: Path) -> None:
    keys, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    root = Path(app.__file__).parent.parent
    command = [sys.executable, "-m", "relayd_console.app", "--control", str(tmp_path / "none")]
    environ = {**os.environ, "TERM": "xterm", "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environ) as console:
        os.close(terminal)
        try:
            assert b"no relayd is running" in read_until(keys, b"no relayd is running")
            os.write(keys, b"Q")
            read_until(keys, b"", 10)
            assert console.wait(10) == 0
        finally:
            console.kill()
            os.close(keys)


def read_until(terminal: int, words: bytes, seconds: float = 20) -> bytes:
    """What a terminal shows until the words come, or its end."""
    shown = b""
    while (not words or words not in shown) and select.select([terminal], [], [], seconds)[0]:
        try:
            shown += os.read(terminal, 65536)
        except OSError as error:
            assert error.errno == errno.EIO
            break
    return shown


def test_the_page_of_views_and_keys_is_what_they_are() -> None:
    """``make docs`` writes it."""
    assert (Path(__file__).parent.parent / "docs" / "keys.md").read_text("utf-8") == page.page()
