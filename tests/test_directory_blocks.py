"""The directory's blocks."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.directory import Block, Directory
from relayd.directory import blocks as room
from relayd.directory.blocks import Networks, value_of
from relayd.errors import InputError

NOW = 1_700_000_000.5


def opened(tmp_path, now: float = NOW) -> Directory:
    return Directory(tmp_path / "directory.sqlite", lambda call: call(), now=now)


def block(kind: str, value: str, until: float = 0.0, by: str = "anna") -> Block:
    return Block(kind, value_of(kind, value), "spam", by, NOW, until)  # type: ignore[arg-type]


def test_a_block_says_who_and_why_outlives_a_restart_and_is_taken_back(tmp_path):
    directory = opened(tmp_path)
    told: list[tuple[str, bool]] = []
    directory.blocks.changed = lambda row, on: told.append((row.value, on))
    rows = [block("ip", "198.51.100.0/24"), block("account", "crm"), block("domain", "*.example", NOW + 9)]
    for row in rows:
        assert directory.blocks.add(row).result(10) is row
    directory.close()
    directory = opened(tmp_path)
    assert set(directory.blocks.all()) == set(rows)
    assert directory.blocks.networks.find("198.51.100.7") == rows[0]
    assert directory.blocks.of_account(("shop", "crm")) == rows[1] and directory.blocks.of_account(("shop",)) is None
    assert directory.blocks.of_domain("mx.a.example") == rows[2] and directory.blocks.of_domain("example") is None
    assert told == [("198.51.100.0/24", True), ("crm", True), ("*.example", True)]
    directory.blocks.changed = lambda row, on: told.append((row.value, on))
    assert directory.blocks.remove("ip", "198.51.100.0/24").result(10) == rows[0]
    assert told[-1] == ("198.51.100.0/24", False) and not directory.blocks.networks
    directory.close()


def test_a_block_for_a_time_ends_by_itself_and_is_not_there_after_a_restart(tmp_path):
    directory = opened(tmp_path)
    ended: list[str] = []
    row = block("source", "t1", NOW + 60)
    directory.blocks.add(row).result(10)
    directory.blocks.add(block("source", "t2")).result(10)
    directory.blocks.changed = lambda row, on: ended.append(row.value)
    assert directory.blocks.tick(NOW + 59.9) == [] and "t1" in directory.blocks.sources
    assert directory.blocks.tick(NOW + 60) == [row]
    assert ended == ["t1"] and list(directory.blocks.sources) == ["t2"]
    directory.close()
    directory = opened(tmp_path, NOW)  # even by a clock that was set back
    assert [row.value for row in directory.blocks.all()] == ["t2"]
    directory.close()


def test_what_ended_while_nobody_ran_is_gone_at_the_start(tmp_path):
    directory = opened(tmp_path)
    directory.blocks.add(block("account", "crm", NOW + 60)).result(10)
    directory.close()
    directory = opened(tmp_path, NOW + 60)
    assert directory.blocks.all() == [] and directory.blocks.accounts == {}
    directory.close()


def test_a_second_block_replaces_who_and_until_when(tmp_path):
    directory = opened(tmp_path)
    directory.blocks.add(block("ip", "192.0.2.1", NOW + 5)).result(10)
    directory.blocks.add(block("ip", "192.0.2.1", by="boris")).result(10)
    assert [(row.by, row.until) for row in directory.blocks.all()] == [("boris", 0.0)]
    assert directory.blocks.tick(NOW + 10) == [] and directory.blocks.networks.find("192.0.2.1")
    directory.close()


def test_what_is_not_blocked_is_said_and_so_is_one_too_many(tmp_path, monkeypatch):
    directory = opened(tmp_path)
    with pytest.raises(InputError, match="account crm is not blocked: relayctl block list"):
        directory.blocks.remove("account", "crm").result(10)
    monkeypatch.setattr(room, "MOST", 1)
    directory.blocks.add(block("account", "crm")).result(10)
    with pytest.raises(InputError, match="block whole networks"):
        directory.blocks.add(block("account", "other"))
    directory.close()


@pytest.mark.parametrize(
    ("kind", "typed", "kept"),
    [
        ("ip", "198.51.100.7", "198.51.100.7/32"),
        ("ip", "2001:DB8::/32", "2001:db8::/32"),
        ("ip", "::ffff:198.51.100.0/120", "198.51.100.0/24"),
        ("domain", "Example.COM.", "example.com"),
        ("connection", "relay:198.51.100.0/24", "relay:198.51.100.0/24"),
    ],
)
def test_what_is_typed_is_kept_in_its_normal_form(kind, typed, kept):
    assert value_of(kind, typed) == kept


@pytest.mark.parametrize(
    ("kind", "typed", "words"),
    [
        ("ip", "198.51.100.7/24", "bits behind its prefix"),
        ("ip", "0.0.0.0/0", "is everybody: relayctl drain on"),
        ("ip", "::ffff:0:0/96", "is everybody"),
        ("domain", "*", "shaping suspend --all"),
        ("account", "a b", "is not a name"),
    ],
)
def test_what_cannot_be_blocked_is_refused_with_what_to_do(kind, typed, words):
    with pytest.raises(ValueError, match=words):
        value_of(kind, typed)


addresses = st.one_of(
    st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address),
    st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address).filter(lambda a: a.ipv4_mapped is None),
)


@st.composite
def networks(draw):
    address = draw(addresses)
    length = draw(st.integers(1, address.max_prefixlen))
    return ipaddress.ip_network((address, length), strict=False)


@given(st.lists(networks(), max_size=30), st.lists(addresses, max_size=20), st.sets(st.integers(0, 29)), st.data())
def test_a_look_up_finds_the_smallest_network_that_an_address_lies_in(nets, strangers, removed, data):
    """Against asking them all, also when some are taken away again."""
    nets = list(dict.fromkeys(nets))
    found = Networks()
    rows = {net: block("ip", str(net)) for net in nets}
    for row in rows.values():
        found.put(row)
    for net in [net for place, net in enumerate(nets) if place in removed]:
        found.remove(rows.pop(net))
    asked = [*strangers, *(net[data.draw(st.integers(0, min(net.num_addresses, 2**32) - 1))] for net in nets)]
    for address in asked:
        around = [net for net in rows if net.version == address.version and address in net]
        expected = rows[max(around, key=lambda net: net.prefixlen)] if around else None
        assert found.find(str(address)) == expected
        if address.version == 4:
            assert found.find(f"::ffff:{address}") == expected
    assert bool(found) == bool(rows)
    assert found.find("") is None and found.find("/run/socket") is None
