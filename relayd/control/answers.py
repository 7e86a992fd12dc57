"""What handlers of several verbs share: rows as they are shown, and futures of them."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from relayd.quotas import Limits, show_limits

T = TypeVar("T")


def then(future: "Future[T]", shape: Callable[[T], dict[str, Any]]) -> "Future[dict[str, Any]]":
    """A future of what ``shape`` makes of the first one's result."""
    shaped: Future[dict[str, Any]] = Future()

    def settle(done: "Future[T]") -> None:
        if error := done.exception():
            shaped.set_exception(error)
        else:
            shaped.set_result(shape(done.result()))

    future.add_done_callback(settle)
    return shaped


def shown(row: msgspec.Struct) -> dict[str, Any]:
    """A row of the directory, its limits as they are typed."""
    return {
        key: show_limits(value) if isinstance(value, Limits) else value
        for key, value in msgspec.structs.asdict(row).items()
    }


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
