"""Sources: whether their addresses are on this machine."""

import socket

import pytest

from relayd.delivery.sources import check_sources, missing
from relayd.egress.pools import Pools, Source

ABSENT = "192.0.2.77"


def pools(**addresses: tuple[str, ...]) -> Pools:
    return Pools({name: Source(name, own) for name, own in addresses.items()}, {"default": dict.fromkeys(addresses, 1)})


def test_an_address_of_this_machine_is_not_missing():
    assert missing("127.0.0.1") == "" and missing("127.0.0.11") == ""


def test_an_address_that_is_elsewhere_is_named_with_the_reason():
    assert missing(ABSENT) == f"address {ABSENT} is not on this machine"


def test_looking_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch):
    made: list[socket.socket] = []

    class Probe(socket.socket):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(socket, "socket", Probe)
    missing(ABSENT)
    missing("127.0.0.1")
    assert [probe.fileno() for probe in made] == [-1, -1]


def test_a_source_with_a_missing_address_goes_out_of_use_and_the_others_stay():
    made = pools(good=("127.0.0.1",), bad=(ABSENT,), free=())
    assert check_sources(made) == []
    assert made.out_of_use == {"bad": f"address {ABSENT} is not on this machine"}
    assert made.choose("default", "", set()) in ("good", "free")


def test_a_source_comes_back_when_its_address_does():
    made = pools(s1=("127.0.0.1",))
    made.out_of_use["s1"] = "address 127.0.0.1 is not on this machine"
    assert check_sources(made) == ["s1"] and made.out_of_use == {}
    assert check_sources(made) == []
