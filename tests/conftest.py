"""What holds for all tests."""

import gc

import pytest
from twisted.logger import LogPublisher, globalLogBeginner


def pytest_configure(config: pytest.Config) -> None:
    """Nobody begins to log; until somebody does, Twisted keeps 65,536 events, and with them every relay of a test."""
    waiting = globalLogBeginner._temporaryObserver
    assert isinstance(waiting, LogPublisher)
    waiting.removeObserver(globalLogBeginner._initialBuffer)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A million objects of modules and tests are there to the end, and each whole collection would look at all of them.
    A relay that starts and stops in a test is not to freeze what tests before it left, nor to thaw these."""
    gc.collect()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None  # type: ignore[assignment]
