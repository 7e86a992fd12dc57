"""The verbs of feeds: which there are and how each does.

In: the running relay's feeds.  Out: JSON-able rows.
"""

from typing import Any

from relayd.control.verb import Relay, Verb


def _list(relay: Relay) -> list[dict[str, Any]]:
    return relay.feeding.rows()


VERBS: tuple[Verb, ...] = (
    Verb(
        name="feed list",
        help="where events go as they come: how many went there, how many seconds each is behind, and why",
        handler=_list,
        example="feed list",
    ),
)
