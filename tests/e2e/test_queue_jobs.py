"""Kill -9 in the middle of a job and of its undoing: both go on where they were, and the books balance all along."""

import contextlib
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from relayd import ctl
from relayd.spool import store

from .conftest import Stage
from .relay import Relay, free_port, until
from .test_backlog import _insert

MANY = 20_000
KILLS = 3


def filled(directory: Path) -> Path:
    """A spool with so many deliveries to a domain that takes none."""
    directory.mkdir()
    with closing(store.create(directory / "spool.sqlite")) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        _insert(connection, time.time() // 86400 * 86400 - 3600, "blocked.example", MANY)
        connection.execute("COMMIT")
    return directory


def progress(relay: Relay, job: int) -> tuple[str, int]:
    """(state, done) as it is on disk."""
    with closing(store.connect(relay.spool / "spool.sqlite", readonly=True)) as connection:
        found = connection.execute("SELECT state, done FROM job WHERE id = ?", (job,)).fetchone()
        return found or ("", 0)


def begun(relay: Relay, path: str, **given: Any) -> None:
    """Asks for a job, of which the answer would come when it has ended."""

    def ask() -> None:
        with contextlib.suppress(ctl.Unreachable, ValueError):
            relay.ask(path, reason="a test", **given)

    threading.Thread(target=ask, daemon=True).start()


def through_kills(relay: Relay, job: int, many: int) -> None:
    """Kills the relay again and again in the middle of the job, and lets it end."""
    for n in range(KILLS):
        part = (n + 1) * many // (KILLS + 2)
        until(lambda part=part: progress(relay, job)[1] >= part, 30, "the job goes on")  # type: ignore[misc]
        relay.kill()
        state, done = progress(relay, job)
        assert (state, part <= done < many) == ("running", True)
        if n == KILLS - 1:
            relay.start()
        else:
            relay.process = relay.spawn()  # not waited for: it would be through by then
    ended = until(lambda: (found := relay.ask("/v1/job/show", id=job))["ended"] and found, 60, "the job ends")
    assert ended["state"] == "done"
    relay.audited()


def test_a_cancel_and_its_undoing_survive_kills_in_their_middle(stage: Stage) -> None:
    sink = stage.sink()
    dead = free_port("127.0.0.1")
    tables = f"""
[retry]
delay_report = "30d"
[[route]]
domain = "blocked.example"
via = "127.0.0.1:{dead}"
[[route]]
domain = "*"
via = "{sink.via}"
"""
    relay = stage.relay(tables, spool=filled(stage.home / "spool")).start()
    assert relay.queued() == MANY
    job, undo = 1, 2
    begun(relay, "/v1/queue/cancel", domain="blocked.example")
    through_kills(relay, job, MANY)
    cancelled = progress(relay, job)[1]
    assert relay.queued() == MANY - cancelled
    assert cancelled > MANY * 0.9
    begun(relay, "/v1/job/undo", id=job)
    through_kills(relay, undo, cancelled)
    assert (relay.queued(), progress(relay, undo)[1]) == (MANY, cancelled)
    trail = relay.ask("/v1/change/list", limit=50)
    told = {(row["verb"], row["arguments"].get("done")) for row in trail if row["arguments"].get("job")}
    assert {("queue cancel", cancelled), ("job undo", cancelled)} <= told
    relay.send("you@example.net")
    sink.wait("you@example.net", 5)
    assert relay.stop() == 0
