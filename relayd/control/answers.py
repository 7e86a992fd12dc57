"""What handlers of several verbs share: rows as they are shown, limits as they are typed."""

from typing import Any

import msgspec

from relayd.quotas import Limits, show_limits


def shown(row: msgspec.Struct) -> dict[str, Any]:
    """A row of the directory, its limits as they are typed, no limit of sessions as null."""
    found = {
        key: show_limits(value) if isinstance(value, Limits) else value
        for key, value in msgspec.structs.asdict(row).items()
    }
    return {**found, "sessions": found["sessions"] or None}


def limits_given(field: str, old: Limits, messages: list[str], recipients: list[str]) -> dict[str, Any]:
    """{field: limits as ``parse_limits`` reads them} where any were given; a kind that was not stays, "none" goes."""
    if not (messages or recipients):
        return {}
    limits: dict[str, Any] = show_limits(old)
    for kind, rates in (("messages", messages), ("recipients", recipients)):
        if rates == ["none"]:
            limits.pop(kind, None)
        elif rates:
            limits[kind] = rates
    return {field: limits}
