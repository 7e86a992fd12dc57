"""Answers by calls and futures, as Deferreds."""

from concurrent.futures import Future

import pytest
from twisted.internet.defer import Deferred

from relayd.waiting import asked, ended


async def both(calls: list) -> tuple[object, object]:
    future: Future[bool] = Future()
    calls.append(future)
    return await asked(lambda word, done: calls.append((word, done)), "which"), await ended(future)


def test_an_answer_comes_when_it_is_given_and_false_is_one():
    calls: list = []
    result = Deferred.fromCoroutine(both(calls))
    future, (word, done) = calls
    assert word == "which" and not result.called
    done("this")
    future.set_result(False)
    assert result.result == ("this", False)


@pytest.mark.parametrize("late", [False, True])
def test_an_error_is_raised_where_it_is_waited_for(late):
    calls: list = []
    result = Deferred.fromCoroutine(both(calls))
    future, (_, done) = calls
    if late:
        done("this")
        future.set_exception(OSError("disk"))
    else:
        done(OSError("disk"))
    failed: list = []
    result.addErrback(lambda failure: failed.append(str(failure.value)))
    assert failed == ["disk"]
