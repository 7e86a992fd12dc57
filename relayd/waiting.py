"""Answers that come by a call or by a future, as Deferreds: for what is written as one coroutine."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from twisted.internet.defer import Deferred


def asked(question: Callable[..., None], *args: Any) -> "Deferred[Any]":
    """A question that is answered by a call, as a Deferred of its answer."""
    answer: Deferred[Any] = Deferred()

    def done(result: Any) -> None:
        if isinstance(result, Exception):
            answer.errback(result)
        else:
            answer.callback(result)

    question(*args, done)
    return answer


def ended(future: "Future[Any]") -> "Deferred[Any]":
    """A future that ends on the main thread, as a Deferred."""
    return asked(lambda done: future.add_done_callback(lambda future: done(future.exception() or future.result())))
