"""The watchdog: a loop that stands still is noticed where it stands, and systemd is told only what is so."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from relayd import watchdog
from relayd.watchdog import DEAD, LATE, RECENT, Heart, Systemd, Watchdog


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Thread:
    """One that gives signs of life, or is dead."""

    def __init__(self, clock: Clock) -> None:
        self.beat = clock.at
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive


class Listening:
    """A socket as systemd has it."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(10)

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().splitlines()

    def waits(self) -> bool:
        """Whether something has come that was not taken yet."""
        self.socket.setblocking(False)
        try:
            return bool(self.socket.recv(4096, socket.MSG_PEEK))
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(10)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Listening]:
    made = Listening(str(tmp_path / "notify"))
    yield made
    made.socket.close()


class House:
    """A heart, a writer and a watchdog on a clock."""

    def __init__(self, tmp_path: Path, usec: str = "30000000") -> None:
        self.clock = Clock()
        self.heart = Heart(self.clock)
        self.writer = Thread(self.clock)
        manager = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": usec})
        self.dog = Watchdog(self.heart, {"the writer": self.writer}, manager, threading.get_ident(), self.clock)

    def pass_by(self, seconds: float, *, loop: bool = True, writer: bool = True) -> None:
        """Second by second."""
        for _ in range(int(seconds)):
            self.clock.at += 1
            if loop:
                self.heart.beat()
            if writer:
                self.writer.beat = self.clock.at
            self.dog.look()


@pytest.fixture
def house(tmp_path: Path, systemd: Listening) -> House:
    return House(tmp_path)


def said(logs: list[Any]) -> list[str]:
    return [str(formatEvent(event)) for event in logs]


# The heart.


def test_a_beat_in_time_is_no_stall_and_a_late_one_is_counted_with_how_long_it_lasted():
    clock = Clock()
    heart = Heart(clock)
    clock.at += 1
    heart.beat()
    assert (heart.stalls, heart.warning()) == (0, "")
    clock.at += 1 + LATE + 2
    with capturedLogs() as logs:
        heart.beat()
    assert (heart.stalls, heart.longest) == (1, LATE + 2)
    assert said(logs) == ["The event loop stood still for 7.0 s; it goes on"]
    assert heart.lags.steps()[-1][1] == 2 and heart.lags.sum == LATE + 2


def test_health_is_warned_of_a_stall_for_some_minutes():
    clock = Clock()
    heart = Heart(clock)
    clock.at += 1 + LATE + 1
    heart.beat()
    clock.at += 60
    assert heart.warning() == "the event loop stood still for 6.0 s, 60 s ago"
    clock.at += RECENT
    assert heart.warning() == ""


# A loop that is blocked.


def stuck_in_a_call(blocked: threading.Event, release: threading.Event) -> None:
    blocked.set()
    release.wait(60)


def test_the_stack_of_a_blocked_loop_is_told_once_and_its_end_is_told_too(monkeypatch: pytest.MonkeyPatch):
    """With real threads: one that beats and then blocks, and the watchdog that looks."""
    monkeypatch.setattr(watchdog, "EVERY", 0.01)
    monkeypatch.setattr(watchdog, "LATE", 0.05)
    heart = Heart()
    blocked, release, over = threading.Event(), threading.Event(), threading.Event()
    told, again = threading.Event(), threading.Event()

    def loop() -> None:
        heart.beat()
        stuck_in_a_call(blocked, release)
        heart.beat()
        over.wait(60)

    with capturedLogs() as logs:
        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        assert blocked.wait(10) and thread.ident
        dog = Watchdog(heart, {}, Systemd({}), thread.ident)
        look = dog.look

        def looked() -> None:
            look()
            if told.is_set():
                again.set()
            if any("stack" in event for event in logs):
                told.set()

        dog.look = looked  # type: ignore[method-assign]
        dog.start()
        assert told.wait(10) and again.wait(10)  # a stall that goes on is told once
        release.set()
        over.set()
        thread.join(10)
        dog.stop()
        dog.join(10)
    assert not dog.is_alive()
    (stack,) = [line for line in said(logs) if "The main thread is at" in line]
    assert "in stuck_in_a_call" in stack and "release.wait(60)" in stack
    assert heart.stalls == 1
    assert [line for line in said(logs) if line.endswith("it goes on")]


def test_each_stall_is_told(house: House):
    with capturedLogs() as logs:
        house.pass_by(8, loop=False)
        house.pass_by(3)
        house.pass_by(8, loop=False)
    assert len([line for line in said(logs) if "The main thread is at" in line]) == 2


def test_a_look_that_fails_is_logged_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watchdog, "EVERY", 0.001)
    looks: list[int] = []
    third = threading.Event()

    class Blind(Watchdog):
        def look(self) -> None:
            looks.append(1)
            if len(looks) == 3:
                third.set()
            raise RuntimeError("a bug")

    with capturedLogs() as logs:
        dog = Blind(Heart(), {}, Systemd({}), threading.get_ident())
        dog.start()
        assert third.wait(10)
        dog.stop()
        dog.join(10)
    assert [line for line in said(logs) if "failed to look" in line]


# What systemd is told.


def test_systemd_gets_a_sign_of_life_twice_in_the_time_that_it_waits(house: House, systemd: Listening):
    house.pass_by(1)
    assert systemd.heard() == ["WATCHDOG=1"]
    house.pass_by(14)
    assert not systemd.waits()
    house.pass_by(1)
    assert systemd.heard() == ["WATCHDOG=1"]


def test_the_status_goes_with_it_when_it_is_another(house: House, systemd: Listening):
    house.dog.status = "taking mail\x1b; 5 delivered"
    house.pass_by(2)
    (line, status) = systemd.heard()
    assert line == "WATCHDOG=1" and status.startswith("STATUS=taking mail") and "\x1b" not in status
    assert not systemd.waits()


def test_a_loop_that_stands_still_gets_no_sign_of_life_until_it_goes_on(house: House, systemd: Listening):
    house.pass_by(1)
    house.pass_by(DEAD + 1, loop=False)
    while systemd.waits():
        last = systemd.heard()
    assert last == [f"STATUS=the event loop has stood still for more than {DEAD:.0f} s"]
    house.pass_by(30, loop=False)
    assert not systemd.waits()
    house.pass_by(1)
    assert "WATCHDOG=1" in systemd.heard()


def test_a_writer_without_a_sign_of_life_is_no_life(house: House, systemd: Listening):
    house.pass_by(DEAD + 1, writer=False)
    while systemd.waits():
        last = systemd.heard()
    assert last == [f"STATUS=the writer has shown no sign of life for more than {DEAD:.0f} s"]


def test_a_dead_writer_ends_the_signs_of_life_at_once(house: House, systemd: Listening):
    house.writer.alive = False
    with capturedLogs() as logs:
        house.pass_by(60)
    assert systemd.heard() == ["STATUS=the writer has broken down"]
    assert not systemd.waits()
    assert said(logs) == ["the writer has broken down: this takes a restart"]


def test_without_systemd_nothing_is_told_and_nothing_fails():
    clock = Clock()
    manager = Systemd({})
    dog = Watchdog(Heart(clock), {}, manager, threading.get_ident(), clock)
    with capturedLogs() as logs:
        manager.tell("READY=1")
        dog.look()
    assert (manager.watchdog, logs) == (0.0, [])


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),  # of another process
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_time_that_systemd_waits_is_read_if_it_is_meant_for_us(environ: dict[str, str], seconds: float):
    assert Systemd({"NOTIFY_SOCKET": "/run/notify", **environ}).watchdog == seconds


def test_an_abstract_socket_is_told_too():
    name = f"relayd-test-{threading.get_native_id()}"
    there = Listening("\0" + name)
    Systemd({"NOTIFY_SOCKET": "@" + name}).reloading()
    first, second = there.heard()
    there.socket.close()
    assert first == "RELOADING=1" and int(second.removeprefix("MONOTONIC_USEC=")) > 0


def test_a_socket_that_nobody_has_is_said_and_stops_nothing(tmp_path: Path):
    with capturedLogs() as logs:
        Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")
    assert said(logs)[0].startswith("systemd cannot be told READY=1: ")


def test_a_socket_that_nobody_reads_holds_nobody_up_for_long(tmp_path: Path):
    there = Listening(str(tmp_path / "full"))
    manager = Systemd({"NOTIFY_SOCKET": str(tmp_path / "full")})
    filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    filler.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            filler.sendto(b"x" * 1000, str(tmp_path / "full"))
    with capturedLogs() as logs:
        manager.tell("WATCHDOG=1")
    filler.close()
    there.socket.close()
    assert "timed out" in said(logs)[0]
