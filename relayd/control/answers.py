"""What handlers of several verbs share: rows as they are shown, limits and times as they are typed."""

from typing import Any

import msgspec

from relayd import notation
from relayd.errors import InputError
from relayd.quotas import Limits, parse_limits, show_limits
from relayd.shaping.limits import show_layers


def shown(row: msgspec.Struct) -> dict[str, Any]:
    """A row of the directory, its limits as they are typed, no limit of sessions as null."""
    found: dict[str, Any] = {
        key: show_limits(value) if isinstance(value, Limits) else value
        for key, value in msgspec.structs.asdict(row).items()
    }
    if "shaping" in found:
        found["shaping"] = show_layers(found["shaping"])
    return {**found, "sessions": found["sessions"] or None}


def limits_given(
    field: str, old: Limits, messages: list[str], recipients: list[str], prefix: str = ""
) -> dict[str, Any]:
    """{field: limits as ``parse_limits`` reads them} where any were given; a kind that was not stays, "none" goes.
    Raises InputError, which names the argument: ``prefix`` is what its name has before "messages"."""
    if not (messages or recipients):
        return {}
    limits: dict[str, Any] = show_limits(old)
    for kind, rates in (("messages", messages), ("recipients", recipients)):
        if rates == ["none"]:
            limits.pop(kind, None)
        elif rates:
            try:
                limits |= show_limits(parse_limits({kind: rates}))
            except ValueError as error:
                raise InputError(prefix + kind, str(error)) from None
    return {field: limits}


def moment(field: str, text: str, now: float) -> float:
    """Raises InputError."""
    try:
        return notation.moment(text, now)
    except ValueError as error:
        raise InputError(field, str(error)) from None
