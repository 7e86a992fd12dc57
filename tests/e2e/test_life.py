"""The life of a relay: start, reload, trouble, stop; and what trouble of one peer means to the others: nothing."""

import hashlib
import random
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Stage
from .relay import PASSWORD, SENDER, Relay, Sink, Wire, certificate, free_port, message, queue_id, submit, until


def route(sink: Sink) -> str:
    return f'[[route]]\ndomain = "*"\nvia = "{sink.via}"\n'


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# Stop.


def test_sigterm_takes_no_more_finishes_what_is_in_flight_and_exits_0(stage: Stage) -> None:
    hold = stage.home / "hold"
    hold.touch()
    sink = stage.sink(options=("--hold", str(hold)))
    relay = stage.relay(route(sink)).start()
    relay.send("held@example.net")
    sink.wait("held@example.net")  # its final dot is not answered yet
    with Wire(relay.relay) as idle, Wire(relay.relay) as busy:
        idle.hello()
        busy.hello()
        for line in (b"MAIL FROM:<%s>" % SENDER.encode(), b"RCPT TO:<late@example.net>", b"DATA"):
            busy.ask(line)
        content = message()
        busy.say(content[:20])
        until(lambda: relay.ask("/v1/status")["ok"], 5)
        relay.signal(signal.SIGTERM)
        assert idle.reply().startswith(b"421")
        until(lambda: refused(relay.relay) and refused(relay.submissions), 5, "the ports close")
        busy.say(content[20:] + b".\r\n")
        identity = queue_id(busy.reply())
    hold.unlink()
    assert relay.stop() == 0
    assert "relayd has stopped: everything accepted is on disk" in relay.log()

    relay.start()
    sink.wait("late@example.net")
    until(lambda: not relay.queued(), 10, "the queue empties")
    assert relay.delivery(identity)["state"] == "delivered"
    assert [len(sink.to(to)) for to in ("held@example.net", "late@example.net")] == [1, 1]
    relay.audited()


def test_stop_waits_for_a_hung_peer_no_longer_than_the_drain_time_and_loses_nothing(stage: Stage) -> None:
    hold = stage.home / "hold"
    hold.touch()
    sink = stage.sink(options=("--hold", str(hold)))
    relay = stage.relay(route(sink) + '[retry]\nschedule = ["1s"]', node='drain = "1s"').start()
    relay.send("held@example.net")
    sink.wait("held@example.net")
    began = time.monotonic()
    assert relay.stop() == 0
    assert 0.9 < time.monotonic() - began < 6
    hold.unlink()
    relay.start()
    until(lambda: not relay.queued(), 15, "it goes again: nobody knows whether it was taken")
    assert len(sink.to("held@example.net")) == 2
    relay.audited()


# Start.


def test_second_start_on_the_same_spool_is_refused_with_the_owners_process_id(stage: Stage) -> None:
    relay = stage.relay().start()
    second = stage.relay(spool=relay.spool)
    assert second.spawn().wait(20) not in (0, None)
    assert relay.process is not None
    assert f"in use by the relayd with process id {relay.process.pid}" in second.log()
    assert relay.health()["ok"]


def test_port_that_is_taken_ends_the_start_with_the_reason(stage: Stage) -> None:
    relay = stage.relay()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", relay.submission))
        taken.listen()
        assert relay.spawn().wait(20) not in (0, None)
    assert "cannot listen" in relay.log() and str(relay.submission) in relay.log()


def test_check_names_every_tables_first_fault_and_exits_1_or_says_all_is_well_and_exits_0(stage: Stage) -> None:
    relay = stage.relay()
    assert relay.spawn("--check").wait(20) == 0
    assert f"{relay.file}: all is well" in relay.log()
    relay.write("[pool.p]\nsources = { nobody = 1 }\n[egress]\nportt = 25\n[retry]\nexpire = 3")
    assert relay.spawn("--check").wait(20) == 1
    said = relay.log()
    assert f"{relay.file}: egress.portt: unknown key" in said
    assert f"{relay.file}: retry.expire: " in said
    relay.write("")
    certificate(relay.home, "other.example")
    (relay.home / "one.example.key").write_bytes((relay.home / "other.example.key").read_bytes())
    assert relay.spawn("--check").wait(20) == 1
    assert "is not the key of" in relay.log()


# Reload.


def shown_certificate(port: int) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port)).encode()


def test_sighup_applies_a_valid_configuration_to_new_connections_and_keeps_the_old_ones(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(route(sink)).start()
    assert shown_certificate(relay.submissions) == (relay.home / "one.example.pem").read_bytes()
    extra = free_port("127.0.0.1")
    door = f'[[listener]]\nservice = "relay"\nlisten = "tcp:{extra}:interface=127.0.0.1"\n'
    door += 'allow = ["127.0.0.1/32"]\naccount = "second"\nstream = "transactional"\n'
    with Wire(relay.relay) as old:
        old.hello()
        certificate(relay.home, "two.example")
        relay.certificate = "two.example"
        relay.write(route(sink) + door, door="max_recipients = 2\nmax_size = 5000")
        relay.signal(signal.SIGHUP)
        until(lambda: not refused(extra), 10, "the new listener opens")
        assert shown_certificate(relay.submissions) == (relay.home / "two.example.pem").read_bytes()
        assert old.ask(b"NOOP").startswith(b"250")
        assert submit_raw(old, "old@example.net")
    with Wire(relay.relay) as new:
        assert b"SIZE 5000" in new.hello()
    relay.send("new@example.net", port=extra)
    sink.wait("new@example.net")
    sink.wait("old@example.net")
    assert {account["name"] for account in relay.ask("/v1/account/list")} == {"crm", "second"}
    assert "The configuration was reloaded" in relay.log()

    relay.write(route(sink))
    relay.signal(signal.SIGHUP)
    until(lambda: refused(extra), 10, "the listener that is gone closes")
    with Wire(relay.relay) as wire:
        assert b"SIZE 5000" not in wire.hello()


def submit_raw(wire: Wire, to: str) -> str:
    for line in (b"MAIL FROM:<%s>" % SENDER.encode(), b"RCPT TO:<%s>" % to.encode(), b"DATA"):
        assert wire.ask(line)[:1] in b"23"
    return queue_id(wire.ask(message() + b"."))


def test_sighup_with_an_invalid_file_changes_nothing_and_says_why_until_it_is_mended(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(route(sink)).start()
    relay.write(route(sink) + "[egress]\nconnections = 0\n", door="max_size = 5000")
    relay.signal(signal.SIGHUP)
    until(lambda: relay.health()["warnings"], 10, "health tells")
    code, said = relay.ctl("health")
    assert code == 0 and "egress.connections" in said  # it does its work: a warning, no fault
    assert "was not reloaded, the old one stays" in relay.log() and "egress.connections" in relay.log()
    with Wire(relay.relay) as wire:
        assert b"SIZE 5000" not in wire.hello()
    code, said = relay.ctl("config", "reload")
    assert code == 1 and "egress.connections" in said
    relay.write(route(sink), door="max_size = 5000")
    assert relay.ctl("config", "reload")[0] == 0
    assert not relay.health()["warnings"]
    with Wire(relay.relay) as wire:
        assert b"SIZE 5000" in wire.hello()


def test_reload_that_cannot_open_a_new_port_changes_nothing(stage: Stage) -> None:
    relay = stage.relay().start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        relay.write(
            f'[[listener]]\nservice = "submission"\nlisten = "tcp:{port}:interface=127.0.0.1"', door="max_size = 5000"
        )
        code, said = relay.ctl("config", "reload")
    assert code == 1 and str(port) in said
    with Wire(relay.relay) as wire:
        assert b"SIZE 5000" not in wire.hello()


# The disk.


def test_too_little_free_space_refuses_mail_with_452_until_there_is_enough(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(route(sink), node='min_free = "900000G"').start()
    assert not relay.health()["ok"] and "min_free" in relay.health()["faults"][0]
    code, said = relay.ctl("health")
    assert code == 1 and "min_free" in said
    with relay.client() as client:
        assert client.mail(SENDER) == (452, b"4.3.1 Insufficient system storage, try again later")
        relay.write(route(sink), node='min_free = "1M"')
        relay.signal(signal.SIGHUP)
        until(lambda: relay.health()["ok"], 10, "it recovers")
        submit(client, "after@example.net", message())
    sink.wait("after@example.net")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", mounted]).returncode
    ):
        pytest.skip("no file system can be mounted here")
    yield mounted
    subprocess.run(["umount", "-l", mounted], check=True)


def try_to_send(relay: Relay, to: str) -> int:
    """The code that ends it."""
    try:
        with relay.client() as client:
            code, _ = client.mail(SENDER)
            if code == 250:
                client.rcpt(to)
                code, _ = client.data(message(b"x" * 70 + b"\r\n" * 200))
    except smtplib.SMTPConnectError as refusal:
        return refusal.smtp_code
    except smtplib.SMTPServerDisconnected:  # behind a 421
        pass
    return code


def test_full_disk_loses_nothing_that_was_accepted_and_relayd_recovers(stage: Stage, small_disk: Path) -> None:
    sink = stage.sink()
    relay = stage.relay(route(sink), node="min_free = 1", spool=small_disk / "spool").start()
    relay.send("before@example.net")
    sink.wait("before@example.net")
    filler = small_disk / "filler"
    with open(filler, "wb", 0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    codes = [try_to_send(relay, f"during{n}@example.net") for n in range(40)]
    assert set(codes) & {421, 451, 452} and set(codes) <= {250, 421, 451, 452}, codes
    until(lambda: not relay.health()["ok"], 5, "health tells")
    filler.unlink()
    until(lambda: relay.health()["ok"], 15, "it recovers")
    relay.send("after@example.net")
    sink.wait("after@example.net")
    until(lambda: not relay.queued(), 10, "the queue empties")
    assert len([m for m in sink.messages() if m["recipients"][0].startswith("during")]) == codes.count(250)
    relay.audited()
    assert relay.stop() == 0


# Peers in trouble.


def test_mail_waits_with_the_reason_while_no_resolver_answers_and_goes_when_one_does(stage: Stage) -> None:
    sink = stage.sink("127.0.0.41:0")
    zone = "example.net MX 10 mx.example.net\nmx.example.net A 127.0.0.41\n"
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # takes questions and says nothing
    silent.bind(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    tables = f'[resolver]\nnameservers = ["127.0.0.1:{port}"]\ntimeout = "300ms"\ntries = 1\nfailure_ttl = "1s"\n'
    tables += f'[egress]\nport = {sink.port}\nrest = ["1s"]\n[retry]\nschedule = ["1s"]\n'
    relay = stage.relay(tables).start()
    identity = relay.send("you@example.net")
    until(lambda: relay.delivery(identity)["attempts"], 10, "the failure is known")
    delivery = relay.delivery(identity)
    assert delivery["state"] == "queued" and delivery["why"], delivery
    failure = relay.ask("/v1/inspect", id=identity)["history"][-1]
    assert failure["event"] == "TransientFailure" and "at dns" in failure["what"] and "example.net" in failure["what"]
    assert relay.why("example.net")
    silent.close()
    stage.names(zone, port)
    sink.wait("you@example.net", 25)
    until(lambda: not relay.queued(), 10, "the queue empties")
    kinds = [event["event"] for event in relay.ask("/v1/inspect", id=identity)["history"]]
    assert kinds[0] == "Reception" and kinds[-1] == "Delivery" and set(kinds[1:-1]) == {"TransientFailure"}
    relay.audited()


def test_peers_that_hang_at_the_banner_delay_nobody_else(stage: Stage) -> None:
    sink = stage.sink()
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen(100)
        tables = f'[[route]]\ndomain = "hung.example"\nvia = "127.0.0.1:{hung.getsockname()[1]}"\n' + route(sink)
        relay = stage.relay(tables).start()
        with relay.client() as client:
            for n in range(300):
                submit(client, f"u{n}@hung.example", message())
            for n in range(50):
                began = time.time()
                submit(client, f"u{n}@well.example", message())
                assert sink.wait(f"u{n}@well.example", 5)["time"] - began < 1.0
        assert "sessions" in relay.why("hung.example")
        assert relay.queued() >= 300


def test_garbage_on_every_port_disturbs_nobody(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(route(sink)).start()
    relay.connection()
    rng = random.Random(7)
    hello = bytes.fromhex("16030100a5010000a1")
    garbage = [
        rng.randbytes(100_000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 10_000,
        b"A" * 300_000,
        b"\r\n" * 5_000,
        hello + rng.randbytes(3000),
        b"\xff\xfb\x01EHLO \xc3\x28\r\nMAIL FROM:<\xff@\xff>\r\n",
        b"EHLO a\r\n" + b"AUTH PLAIN " + b"=" * 50_000 + b"\r\n",
        b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 99999999999999999999\r\n" + rng.randbytes(1000),
        b"",
    ]
    ports = (relay.relay, relay.submission, relay.submissions)
    for junk in garbage:
        wires = [socket.create_connection(("127.0.0.1", port)) for port in ports]
        for wire in wires:
            wire.settimeout(10)
            try:
                wire.sendall(junk)
                wire.shutdown(socket.SHUT_WR)
                while wire.recv(65536):
                    pass
            except TimeoutError:
                raise
            except OSError:
                pass  # cut off: as good an answer as any
            wire.close()
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(relay.control)
        control.sendall(rng.randbytes(10_000))
    with Wire(relay.submissions, tls=True) as secure:
        secure.hello()
        secure.say(rng.randbytes(20_000))
    relay.send("after@example.net")
    sink.wait("after@example.net")
    with smtplib.SMTP_SSL("127.0.0.1", relay.submissions, context=ssl._create_unverified_context()) as client:
        client.login("login1", PASSWORD)
        submit(client, "after465@example.net", message())
    sink.wait("after465@example.net")
    assert relay.health()["ok"]
    until(lambda: relay.ask("/v1/status").get("sessions_in", 0) == 0, 10)
    assert "Traceback" not in relay.log(), relay.log()[-3000:]
    relay.audited()


def test_thirty_messages_of_50_mb_at_once_arrive_whole_in_bounded_memory(stage: Stage) -> None:
    sink = stage.sink()
    relay = stage.relay(route(sink), node='min_free = "1M"').start()
    line = random.Random(50).randbytes(48).hex().encode() + b"\r\n"
    body = line * ((50 * 2**20 - 2048) // len(line))
    hashes: dict[str, str] = {}
    lock = threading.Lock()
    faults: list[BaseException] = []

    def send(number: int) -> None:
        try:
            content = b"From: <%s>\r\nDate: Sun, 1 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%d@x>\r\n\r\n" % (
                SENDER.encode(),
                number,
            )
            with Wire(relay.relay) as wire:
                wire.socket.settimeout(90)
                wire.hello()
                for command in (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<big{number}@example.net>", "DATA"):
                    assert wire.ask(command.encode())[:1] in b"23"
                wire.say(content)
                wire.say(body)
                wire.say(b".\r\n")
                identity = queue_id(wire.reply())
            digest = hashlib.sha256(content)
            digest.update(body)
            with lock:
                hashes[identity] = digest.hexdigest()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=send, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    assert len(hashes) == 30
    until(lambda: len(sink.messages()) == 30, 60, "all 30 arrive")
    peak = relay.memory("VmHWM")
    print(f"\npeak {peak:.0f} MB")
    assert {found["sha256"] for found in sink.messages()} == set(hashes.values())
    assert peak < 400
    until(lambda: not relay.queued(), 10, "the queue empties")
    until(lambda: not list((relay.spool / "bodies").iterdir()), 5, "the body files are gone")
    relay.audited()


def test_log_shows_no_fault_after_an_ordinary_day(stage: Stage) -> None:
    sink = stage.sink()
    relay: Relay = stage.relay(route(sink)).start()
    for n in range(20):
        relay.send(f"u{n}@d{n % 3}.example")
    until(lambda: len(sink.messages()) == 20 and not relay.queued(), 10, "all arrives")
    assert relay.stop() == 0
    assert not [line for line in relay.log().splitlines() if "#error" in line or "#critical" in line or "Trace" in line]
