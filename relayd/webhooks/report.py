"""How webhooks fare, for people: rows, warnings, words to owners.

In: endpoints.  Out: JSON-able values and sentences.
"""

from collections.abc import Iterable
from typing import Any

from relayd import notation
from relayd.directory import Webhook
from relayd.webhooks.lanes import Endpoint
from relayd.webhooks.standing import SILENT, Replay

_MOST = 10  # webhooks that warnings name

GOES_ON = ["relayd goes on trying, and sends all that waits once an answer with a status of 2xx comes."]
STOPPED = ["Nothing is lost yet: once it works again, have it resumed, and it goes on where it stood."]


def warnings(endpoints: Iterable[Endpoint], now: float) -> list[str]:
    bad = []
    for endpoint in endpoints:
        row, since = endpoint.row, endpoint.standing.since()
        if row.state == "parked" or (row.state == "paused" and row.by == "relayd"):
            bad.append(f"webhook {row.name} is {row.state}: {row.reason}")
        elif row.state == "active" and since and now - since >= SILENT:
            bad.append(
                f"webhook {row.name} has failed for {notation.show_duration(now - since)}: {endpoint.standing.words}"
            )
    bad.sort()
    return bad[:_MOST] + ([f"and {len(bad) - _MOST} more webhooks: relayctl webhook list"] if len(bad) > _MOST else [])


def shown(endpoint: Endpoint, now: float) -> dict[str, Any]:
    row, stands = endpoint.row, endpoint.standing
    oldest = min((place.oldest for place in stands.places if place.oldest), default=0.0)
    due = min((lane.due for lane in endpoint.lanes if lane.phase == "resting"), default=0.0)
    return {
        "state": row.state,
        "behind": max(0.0, now - oldest) if oldest else 0.0,
        "sent": stands.sent,
        "last_success": stands.success or None,
        "last_failure": stands.failure or None,
        "words": stands.words if stands.since() or row.state != "active" else "",
        "tries": max(place.tries for place in stands.all()),
        "next_try": due or None,
        "answer": stands.answer,
        "replay": _replay(stands.replay) if stands.replay else None,
    }


def _replay(replay: Replay) -> dict[str, Any]:
    return {
        "since": replay.since,
        "until": replay.until or None,
        "by": replay.by,
        "sent": replay.sent,
        "at": replay.at or None,
        "tries": replay.place.tries,
        "done": replay.done or None,
    }


def notice(row: Webhook, what: str, then: list[str]) -> list[str]:
    """Lines of a mail; what stands behind a URL's question mark may be secret."""
    where = row.url.partition("?")[0]
    return [f"Events of {row.account} are posted to", "", f"  {where}", "", what, "", *then]
