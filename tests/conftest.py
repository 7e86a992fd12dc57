"""What holds for all tests."""

import gc

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """A million objects of modules and tests are there to the end, and each whole collection would look at all of them.
    A relay that starts and stops in a test is not to freeze what tests before it left, nor to thaw these."""
    gc.collect()
    gc.freeze()
    gc.freeze = gc.unfreeze = lambda: None  # type: ignore[assignment]
