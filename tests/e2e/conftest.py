"""Relays and peers that end with their test, whatever became of it."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .relay import Names, Peer, Relay, Sink


class Stage:
    """Makes relays and peers in one directory and ends them."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.home = home
        self._stack = stack

    def relay(self, tables: str = "", **more: Any) -> Relay:
        """Not started yet."""
        home = self.home / f"r{len(list(self.home.glob('r*')))}"
        home.mkdir()
        made = Relay(home, tables, **more)
        self._stack.callback(made.kill)
        return made

    def sink(self, *addresses: str, **more: Any) -> Sink:
        return self._ending(Sink(self.home / f"s{len(list(self.home.glob('s*')))}", *addresses, **more))

    def names(self, zone: str, port: int = 0) -> Names:
        return self._ending(Names(self.home, zone, port))

    def _ending(self, peer: Any) -> Any:
        assert isinstance(peer, Peer)
        self._stack.callback(peer.stop)
        return peer


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)


@pytest.fixture(scope="module")
def module_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path_factory.mktemp("e2e"), stack)
