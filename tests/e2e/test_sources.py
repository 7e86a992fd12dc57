"""Each stream leaves by its own pool's addresses and names, found by MX; a source that is not there harms nobody."""

from collections import Counter

from .conftest import Stage
from .relay import free_port, until

_ZONE = """
example.net      MX 10 mx.example.net
mx.example.net   A  127.0.0.21
second.example   MX 10 mx.example.net
"""

_POOLS = """
[resolver]
nameservers = ["{names}"]
[egress]
port = {port}
connections = 4
[source.t1]
address = "127.0.0.11"
ehlo    = "t1.relay.example"
[source.m1]
address = "127.0.0.12"
ehlo    = "m1.relay.example"
[source.m2]
address = "127.0.0.13"
ehlo    = "m2.relay.example"
[source.gone]
address = "192.0.2.1"
ehlo    = "gone.relay.example"
[pool.transactional]
sources = {{ t1 = 1 }}
[pool.marketing]
sources = {{ m1 = 3, m2 = 1, gone = 4 }}
[pool.lost]
sources = {{ gone = 1 }}
[stream.transactional]
pool = "transactional"
[stream.marketing]
pool = "marketing"
[stream.lost]
pool = "lost"
[[listener]]
service = "relay"
listen  = "tcp:{marketing}:interface=127.0.0.1"
allow   = ["127.0.0.1/32"]
account = "crm"
stream  = "marketing"
[[listener]]
service = "relay"
listen  = "tcp:{lost}:interface=127.0.0.1"
allow   = ["127.0.0.1/32"]
account = "crm"
stream  = "lost"
"""


def test_pools_send_by_their_own_sources_and_a_missing_address_is_told_and_never_fatal(stage: Stage) -> None:
    sink = stage.sink("127.0.0.21:0")
    names = stage.names(_ZONE)
    marketing, lost = free_port("127.0.0.1"), free_port("127.0.0.1")
    relay = stage.relay(_POOLS.format(names=names.address, port=sink.port, marketing=marketing, lost=lost)).start()

    for n in range(20):
        relay.send(f"t{n}@example.net")
    for n in range(80):
        relay.send(f"m{n}@second.example", port=marketing)
    until(lambda: len(sink.messages()) >= 100, 20, "all mail but that of the lost pool arrives")
    seen = Counter((m["recipients"][0][0], m["peer"], m["ehlo"]) for m in sink.messages())
    assert seen == {
        ("t", "127.0.0.11", "t1.relay.example"): 20,
        ("m", "127.0.0.12", "m1.relay.example"): 60,  # weights 3 and 1, to the message
        ("m", "127.0.0.13", "m2.relay.example"): 20,
    }

    sources = {source["name"]: source for source in relay.ask("/v1/source/list")}
    assert {name: source["state"] for name, source in sources.items()} == {
        "t1": "in use",
        "m1": "in use",
        "m2": "in use",
        "gone": "out of use",
    }
    assert "192.0.2.1 is not on this machine" in sources["gone"]["why"]
    health = relay.health()
    assert health["ok"] and any("gone" in warning and "192.0.2.1" in warning for warning in health["warnings"])
    code, said = relay.ctl("source", "list")
    assert code == 0 and "out of use" in said

    identity = relay.send("held@example.net", port=lost)
    until(lambda: "no source of pool 'lost'" in relay.why("example.net"), 10, "the reason is told")
    assert "no source of pool 'lost'" in relay.delivery(identity)["why"]
    code, said = relay.ctl("queue", "list")
    assert code == 0 and "no source of pool 'lost' can be used" in said
    assert relay.queued() == 1
    relay.audited()


def test_a_source_that_is_drained_hands_its_mail_to_the_others_and_none_is_lost(stage: Stage) -> None:
    sink = stage.sink("127.0.0.21:0")
    names = stage.names(_ZONE)
    marketing, lost = free_port("127.0.0.1"), free_port("127.0.0.1")
    relay = stage.relay(_POOLS.format(names=names.address, port=sink.port, marketing=marketing, lost=lost)).start()
    for n in range(20):
        relay.send(f"m{n}@second.example", port=marketing)
    assert relay.ctl("source", "drain", "--reason", "the provider moves it", "m1")[0] == 0
    for n in range(20):
        relay.send(f"later{n}@second.example", port=marketing)
    until(lambda: len(sink.messages()) >= 40, 20, "all mail arrives")
    assert {m["peer"] for m in sink.messages() if m["recipients"][0].startswith("later")} == {"127.0.0.13"}
    code, said = relay.ctl("source", "list")
    assert code == 0 and "drained" in said and "the provider moves it" in said
    assert relay.ctl("source", "resume", "m1")[0] == 0
    until(lambda: relay.queued() == 0, 10, "nothing is left")
    relay.audited()


def test_mail_held_for_want_of_a_source_goes_once_a_reload_gives_its_pool_one(stage: Stage) -> None:
    sink = stage.sink()
    tables = '[pool.p]\nsources = {{ s = 1 }}\n[stream.transactional]\npool = "p"\n[source.s]\naddress = "{address}"\n'
    tables += f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n'
    relay = stage.relay(tables.format(address="192.0.2.1")).start()
    relay.send("held@example.net")
    until(lambda: "no source" in relay.why("example.net"), 10, "the reason is told")
    relay.write(tables.format(address="127.0.0.14"))
    assert relay.ctl("config", "reload")[0] == 0
    assert sink.wait("held@example.net")["peer"] == "127.0.0.14"
