"""What the verbs tell of failed logins."""

from typing import Any

import msgspec

from relayd.control.verb import Relay
from relayd.errors import InputError


def failures(relay: Relay, limit: int) -> list[dict[str, Any]]:
    """The worst addresses, logins and pairs of them; "" stands for any."""
    return [msgspec.structs.asdict(row) for row in relay.guard.failures(relay.now(), limit)]


def forgive(relay: Relay, who: str) -> dict[str, Any]:
    """Raises InputError if there is nothing to forgive."""
    forgiven = relay.guard.forgive(who)
    if not forgiven:
        raise InputError("who", f"no login of {who!r} has failed lately: write an IP address or a login")
    return {"forgiven": who, "keys": forgiven}
