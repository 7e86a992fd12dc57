"""Relays for the tests of this package."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.queue.retry import Schedule
from tests.hostile.relay import Relay


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One relay for all rows of a table, each with a site of its own: what one leaves behind, the next trips over."""
    never = Schedule((30 * 86400.0,), 90 * 86400.0)  # a row's retries are not to meet another row
    relay = Relay(tmp_path_factory.mktemp("spool"), schedule=never)
    yield relay
    relay.close()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    """A relay of this test alone."""
    made = Relay(tmp_path / "spool")
    yield made
    made.assert_nothing_left()
    made.close()
