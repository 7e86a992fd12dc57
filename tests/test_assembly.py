"""From configuration values to rooms."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from relayd import assembly, config
from relayd.directory import Directory
from relayd.guard import Settings
from relayd.resolver import LookupFailed
from relayd.streams import Streams
from tests.harness import Names, Reactor
from tests.test_service import CONFIG


def loaded(directory: Path, more: str = "", old: str = "", new: str = "") -> config.Config:
    path = directory / "relayd.toml"
    path.write_text(CONFIG.replace(old, new) + more if old else CONFIG + more)
    return config.load(path)


@contextmanager
def streams_of(loaded: config.Config) -> Iterator[Streams]:
    with closing(Directory(f"{loaded.node.spool}.sqlite", lambda call: call(), loaded.accounts())) as directory:
        yield Streams(directory, loaded)


def test_sources_and_pools_are_as_written(tmp_path: Path):
    made = assembly.pools(loaded(tmp_path))
    assert made.sources["s1"].addresses == ("127.0.0.11",) and made.sources["s1"].ehlo == "s1.relay.example"
    assert made.choose("default", "", set()) == "s1"


def test_pools_overflow_and_streams_fall_back_as_written(tmp_path: Path):
    more = (
        '[pool.default]\nsources = { s1 = 1 }\noverflow = "spare"\n[pool.spare]\nsources = { s1 = 1 }\n'
        '[fallback.provider]\nvia = "203.0.113.9:587"\ntls = "verify"\nlogin = "relay-1"\n'
        '[stream.late]\nfallback = "provider"\nfallback_after = 2\n'
    )
    made = loaded(tmp_path, more)
    assert assembly.pools(made).overflow == {"default": "spare"}
    site = assembly.router(made, None, lambda: 0.0).known("fallback:provider")  # type: ignore[arg-type]
    assert site is not None and (site.hops[0].address, site.hops[0].port) == ("203.0.113.9", 587)
    assert (site.policy.tls, site.login) == ("verify", "relay-1")
    with streams_of(made) as streams:
        rules = streams.rules("crm", "late")
    assert (rules.fallback, rules.fallback_after) == ("provider", 2)


def test_a_domain_of_everything_is_no_way_for_what_falls_back(tmp_path: Path):
    router = assembly.router(loaded(tmp_path), None, lambda: 0.0)  # type: ignore[arg-type]
    with pytest.raises(LookupFailed, match=r"\[fallback.gone\] is not in the configuration"):
        router.site("fallback:gone").send(None)


def test_only_addresses_that_the_world_sees_are_asked_of_blocklists(tmp_path: Path):
    asked: list[Any] = []
    fake = SimpleNamespace(configure=lambda *given: asked.append(given))
    assembly.configure_blocklists(fake, loaded(tmp_path, '[blocklists]\nzones = ["BL.example"]\n'))  # type: ignore[arg-type]
    more = (
        '[source.s2]\naddress = ["10.0.0.2", "2001:db8::2"]\n[source.s3]\naddress = "10.0.0.3"\npublic = "192.0.2.3"\n'
    )
    assembly.configure_blocklists(fake, loaded(tmp_path, more))  # type: ignore[arg-type]
    assert asked[0] == (("bl.example",), False, {"s1": []})
    assert asked[1] == ((), False, {"s1": [], "s2": ["2001:db8::2"], "s3": ["192.0.2.3"]})


def test_every_patience_of_the_configuration_reaches_its_stage(tmp_path: Path):
    stages = ("banner", "ehlo", "starttls", "auth", "idle", "rset", "mail", "rcpt", "data", "dot", "quit")
    more = '[egress]\nconnect = "7s"\n' + "".join(f'{stage} = "{n}s"\n' for n, stage in enumerate(stages, 100))
    with streams_of(loaded(tmp_path, more)) as streams:
        made = assembly.courier_settings(loaded(tmp_path, more), streams)
    assert made.connect == 7.0 and made.drain == 10.0
    for n, stage in enumerate(stages, 100):
        assert getattr(made.timeouts, stage) == n
    assert made.timeouts.helo == 101 and made.timeouts.tls == 102 and made.timeouts.body == 108


def test_the_other_system_is_asked_as_the_configuration_says(tmp_path: Path):
    assert assembly.checker(Reactor(), loaded(tmp_path)) is None
    (tmp_path / "token").write_text("s3cret\n")
    more = '[auth]\nurl = "http://127.0.0.1:8080/login"\ntimeout = "7s"\ntoken_file = "token"\n'
    made = assembly.checker(Reactor(), loaded(tmp_path, more))
    assert made is not None and (made._url, made._web._timeout) == (b"http://127.0.0.1:8080/login", 7.0)
    assert made._headers.getRawHeaders("authorization") == ["Bearer s3cret"]


def test_the_content_filter_is_as_the_configuration_says(tmp_path: Path):
    assert assembly.content_filter(Reactor(), loaded(tmp_path)) is None
    more = '[filter]\nurl = "http://[::1]:11333/checkv2"\nmax_size = "2M"\nactions = { reject = "mark" }\n'
    made = assembly.content_filter(Reactor(), loaded(tmp_path, more))
    assert made is not None
    settings = made.settings
    assert (settings.url, settings.max_size, settings.on_error) == ("http://[::1]:11333/checkv2", 2 << 20, "open")
    assert (settings.fates["reject"], settings.fates["soft reject"]) == ("mark", "defer")


def test_a_route_carries_the_password_of_its_file(tmp_path: Path):
    (tmp_path / "secret").write_text("geheim\n")
    more = '[[route]]\ndomain = "y.example"\nvia = "127.0.0.1:587"\nlogin = "me"\npassword_file = "secret"\n'
    router = assembly.router(loaded(tmp_path, more), Names(), Reactor().seconds)  # type: ignore[arg-type]
    site = router.known("y.example")
    assert site is not None and (site.login, site.password, site.hops[0].port) == ("me", "geheim", 587)
    found = router._find("x.example")
    assert found is not None and (found.host, found.port, found.login) == ("203.0.113.1", 25, "")


def test_a_password_file_that_cannot_be_read_is_an_oserror(tmp_path: Path):
    more = '[[route]]\ndomain = "y.example"\nvia = "127.0.0.1:587"\nlogin = "me"\npassword_file = "none"\n'
    with pytest.raises(OSError):
        assembly.router(loaded(tmp_path, more), Names(), Reactor().seconds)  # type: ignore[arg-type]


def test_the_lists_are_those_that_the_configuration_names_and_the_shipped_ones(tmp_path: Path):
    (tmp_path / "roles").write_text("info")
    made = assembly.validation_lists(loaded(tmp_path, '[validation]\nroles = "roles"\n'))
    assert made.roles == {"info"} and "mailinator.com" in made.disposable


def test_a_listeners_limits_are_its_sessions(tmp_path: Path):
    keys = "max_connections = 3\nmax_connections_per_ip = 2\nmax_connections_per_login = 1\n"
    keys += 'idle = "4s"\ndata = "5s"\nauth_time = "6s"\n'
    (door,) = loaded(tmp_path, old='stream = "bulk"\n', new=f'stream = "bulk"\n{keys}').listener
    made = assembly.door_limits(door)
    assert (made.connections, made.connections_per_ip, made.connections_per_login) == (3, 2, 1)
    assert (made.idle, made.data, made.auth_time) == (4.0, 5.0, 6.0)


def test_what_is_said_of_failed_logins_reaches_the_guard(tmp_path: Path):
    assert assembly.guard_settings(loaded(tmp_path)) == Settings()
    keys = ("failures", "failures_per_ip", "failures_per_login")
    times = ("window", "lock", "longest_lock", "delay", "longest_delay", "remember")
    more = "[login]\n" + "".join(f"{key} = {n}\n" for n, key in enumerate(keys, 1))
    more += "".join(f'{key} = "{n}s"\n' for n, key in enumerate(times, 4))
    assert assembly.guard_settings(loaded(tmp_path, more)) == Settings(*range(1, 10))


def test_a_relay_listener_asks_for_no_login(tmp_path: Path):
    made = loaded(tmp_path)
    settings = assembly.server_settings(made, made.listener[0])
    assert not settings.auth and not settings.auth_required and not settings.starttls
    assert settings.hostname == "mx1.relay.example"


@pytest.mark.parametrize(
    ("address", "port", "ours"),
    [("127.0.0.1", 2525, True), ("127.0.0.1", 25, False), ("203.0.113.5", 2525, False)],
)
def test_mail_for_a_listener_of_ours_would_come_back_to_us(tmp_path: Path, address, port, ours):
    assert assembly.is_ours(loaded(tmp_path), address, port) is ours


def test_a_listener_on_every_address_is_ours_at_our_sources_and_loopback(tmp_path: Path):
    made = loaded(tmp_path, old=":interface=127.0.0.1", new="")
    assert assembly.is_ours(made, "127.0.0.11", 2525) and assembly.is_ours(made, "127.0.0.1", 2525)
    assert not assembly.is_ours(made, "203.0.113.5", 2525)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('spool = "spool"', 'spool = "other"', "node.spool"),
        ("control.sock", "other.sock", "node.control"),
    ],
)
def test_what_only_a_restart_can_change_is_refused(tmp_path: Path, old, new, key):
    before = loaded(tmp_path)
    with pytest.raises(ValueError, match=f"{key} changed: that needs a restart"):
        assembly.refuse_restart_only(before, loaded(tmp_path, old=old, new=new))


def test_ssh_is_turned_on_and_off_by_a_reload_and_moved_by_a_restart(tmp_path: Path):
    def ssh(port: int, key: str = "") -> config.Config:
        return msgspec.structs.replace(loaded(tmp_path), ssh=config.Ssh(listen=f"tcp:{port}", host_key=key))

    assembly.refuse_restart_only(loaded(tmp_path), ssh(2222))
    assembly.refuse_restart_only(ssh(2222), loaded(tmp_path))
    for new, key in ((ssh(2223), "listen"), (ssh(2222, "/key"), "host_key")):
        with pytest.raises(ValueError, match=rf"ssh\.{key} changed: that needs a restart"):
            assembly.refuse_restart_only(ssh(2222), new)


def test_changed_tables_are_named(tmp_path: Path):
    before = loaded(tmp_path)
    assert assembly.changed(before, loaded(tmp_path)) == []
    assert assembly.changed(before, loaded(tmp_path, old="127.0.0.11", new="127.0.0.12")) == ["source"]
