"""The peers, one of each for all tests, and a relay that knows them."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.conftest import Stage
from tests.e2e.relay import free_port

from .authority import Authority
from .kinds import USERS, Exim, OpenSMTPD, Postfix, Postgrey
from .machine import Machine


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="session")
def authority(place: Path) -> Authority:
    return Authority(place / "authority.pem")


@pytest.fixture(scope="session")
def policy_port() -> int:
    return free_port("127.0.0.1")


def running(machine: Machine) -> Iterator[Machine]:
    yield machine
    machine.stop()


@pytest.fixture(scope="session")
def postfix(place: Path, authority: Authority, policy_port: int) -> Iterator[Machine]:
    yield from running(Postfix(place / "postfix", authority, policy_port))


@pytest.fixture(scope="session")
def postgrey(place: Path, policy_port: int) -> Iterator[Machine]:
    yield from running(Postgrey(place / "postgrey", policy_port, delay=2))


@pytest.fixture(scope="session")
def exim(place: Path, authority: Authority) -> Iterator[Machine]:
    yield from running(Exim(place / "exim", authority))


@pytest.fixture(scope="session")
def opensmtpd(place: Path, authority: Authority) -> Iterator[Machine]:
    yield from running(OpenSMTPD(place / "opensmtpd", authority))


@pytest.fixture(scope="session")
def _users() -> Iterator[str]:
    return iter(USERS)


@pytest.fixture
def you(_users: Iterator[str]) -> str:
    """A recipient that no other test has."""
    return next(_users)


@pytest.fixture
def me(_users: Iterator[str]) -> str:
    """A sender that no other test has, who can be reported to."""
    return next(_users)


@pytest.fixture(scope="module")
def module_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path_factory.mktemp("relays"), stack)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path, stack)
