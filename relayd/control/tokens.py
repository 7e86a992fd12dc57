"""The verbs of the keys with which our return paths and unsubscribe addresses are made.

In: the directory's keys.  Out: JSON-able rows, the newest first.  No secret is in any of them.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from itertools import pairwise
from typing import Any

from relayd.control.verb import Relay, Verb, then
from relayd.returnpath import Key, Keys


def _list(relay: Relay) -> list[dict[str, Any]]:
    return _rows(relay.directory.tokens.keys)


def _rotate(relay: Relay) -> "Future[list[dict[str, Any]]]":
    return then(relay.directory.tokens.rotate(relay.now()), _rows)


def _rows(keys: Keys) -> list[dict[str, Any]]:
    newest_first: Sequence[Key] = sorted(keys.by_id.values(), key=lambda key: -key.made)
    rows: list[dict[str, Any]] = [{"id": keys.newest.id, "made": keys.newest.made, "state": "in use", "until": None}]
    for after, key in pairwise(newest_first):
        rows.append({"id": key.id, "made": key.made, "state": "verifies", "until": after.made + keys.accept})
    return rows


VERBS: tuple[Verb, ...] = (
    Verb(
        name="token list",
        help="the keys of return paths and unsubscribe addresses, and until when their mail is answered",
        handler=_list,
        example="token list",
    ),
    Verb(
        name="token rotate",
        help="make a new key for the return paths of new mail; what is out with older ones still comes back",
        handler=_rotate,
        role="admin",
        effect="change",
        example="token rotate",
    ),
)
