"""The verbs of backups: making one of the running relay, and how far it is.

In: where to.  Out: JSON-able rows.
"""

from typing import Any

import msgspec

from relayd.backup import Backup, Progress
from relayd.control.verb import REASON, Arg, Relay, Verb
from relayd.errors import InputError


def shown(progress: Progress) -> dict[str, Any]:
    """``finished``: whether it is whole; ``percent`` of the bytes there are to copy."""
    row = msgspec.structs.asdict(progress)
    percent = 100 if progress.state == "done" else min(99, 100 * progress.done // max(1, progress.total))
    return {**row, "ended": progress.ended or None, "percent": percent, "finished": progress.state == "done"}


def _start(relay: Relay, directory: str, reason: str, who: str) -> dict[str, Any]:
    return shown(relay.back_up(directory, who))


def _show(relay: Relay) -> dict[str, Any]:
    return shown(_last(relay).progress)


def _stop(relay: Relay) -> dict[str, Any]:
    last = _last(relay)
    if not last.is_alive():
        raise InputError("", f"the last one is not under way: it is {last.progress.state}")
    last.stop()
    return shown(last.progress)


def _last(relay: Relay) -> Backup:
    if relay.backup is None:
        raise InputError("", "none was made since relayd started: relayctl backup start DIRECTORY makes one")
    return relay.backup


VERBS: tuple[Verb, ...] = (
    Verb(
        name="backup start",
        help="copy all state of the running relay into a new directory; backup show says how far it is",
        handler=_start,
        args=(
            Arg(
                "directory",
                "an absolute path on relayd's machine: empty, or not there",
                positional=True,
                required=True,
            ),
            REASON,
        ),
        role="admin",
        effect="change",
        signed=True,
        example='backup start /var/backups/relayd/monday --reason "before the upgrade"',
    ),
    Verb(
        name="backup show",
        help="how far the last backup is, or how it ended",
        handler=_show,
        example="backup show",
    ),
    Verb(
        name="backup stop",
        help="end the backup that is under way; what it copied is removed",
        handler=_stop,
        role="admin",
        effect="change",
        example="backup stop",
    ),
)
