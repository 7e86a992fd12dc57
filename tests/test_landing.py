import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relayd.spool import landing as room
from relayd.spool import reader
from relayd.spool.landing import Landing, Moved
from relayd.spool.store import Store, create
from tests.spool_kit import HEAD, NOW, Mail
from tests.test_store import X, batch

LATER = 2 * room.AGE + 1


@pytest.fixture
def landing(tmp_path: Path) -> Iterator[Landing]:
    made = Landing(tmp_path / "landing")
    yield made
    made.close()


class House:
    """A store with a landing whose files are old at once."""

    def __init__(self, directory: Path) -> None:
        self.db = create(directory / "spool.sqlite")
        self.landing = Landing(directory / "landing")
        self.store = Store(self.db, self.landing)

    def rows(self) -> list[tuple[bytes, bytes, int | None]]:
        return self.db.execute("SELECT head, body, place FROM message ORDER BY id").fetchall()

    def clear(self) -> None:
        while self.store.clear_landing():
            pass


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(room, "AGE", -1.0)
    made = House(tmp_path)
    yield made
    made.landing.close()
    made.db.close()


def files(landing: Landing) -> list[int]:
    return sorted(int(path.name) for path in landing._directory.iterdir())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(contents=st.lists(st.tuples(st.binary(max_size=60), st.binary(max_size=60)), min_size=1, max_size=700))
def test_contents_come_back_from_their_places_byte_for_byte(
    landing: Landing, contents: list[tuple[bytes, bytes]]
) -> None:
    given = [(n, head, body) for n, (head, body) in enumerate(contents)]
    places = landing.append(given, 0.0)
    assert [landing.read(place, n) for n, place in enumerate(places)] == contents


def test_a_content_of_any_size_comes_back(landing: Landing) -> None:
    big = os.urandom(3 << 20)
    (place,) = landing.append([(7, b"head", big)], 0.0)
    assert landing.read(place, 7) == (b"head", big)


def test_what_was_appended_is_there_after_a_restart_and_new_mail_does_not_touch_it(tmp_path: Path) -> None:
    before = Landing(tmp_path)
    (old,) = before.append([(1, b"old", b"mail")], 0.0)
    before.close()
    after = Landing(tmp_path)
    (new,) = after.append([(2, b"new", b"mail")], 0.0)
    assert after.read(old, 1) == (b"old", b"mail")
    assert after.read(new, 2) == (b"new", b"mail")
    after.close()


def test_a_file_is_written_to_for_its_time_and_kept_as_long_again(landing: Landing) -> None:
    landing.append([(1, b"", b"x")], 0.0)
    assert landing.ended(room.AGE - 1) == []
    assert landing.ended(room.AGE + 1) == [(1, False)]
    assert landing.ended(LATER) == [(1, False)]
    assert landing.ended(LATER + 1) == [(1, True)]


def test_a_full_file_is_followed_by_another(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FILE_BYTES", 10)
    for n in range(3):
        landing.append([(n, b"", b"0123456789")], 0.0)
    assert files(landing) == [1, 2, 3]


def test_a_cleared_file_is_written_over_and_its_old_places_are_known_to_be_void(landing: Landing) -> None:
    (old,) = landing.append([(1, b"", b"x" * 100)], 0.0)
    assert landing.ended(LATER)
    landing.cleared(1)
    (new,) = landing.append([(2, b"", b"y")], LATER + 2)
    assert files(landing) == [2]
    assert landing.read(new, 2) == (b"", b"y")
    with pytest.raises(Moved):
        landing.read(old, 1)
    with pytest.raises(Moved):
        landing.read(new, 1)  # the number is right, whose it is is not


def test_more_files_than_are_spared_are_removed(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FILE_BYTES", 1)
    for n in range(9):
        landing.append([(n, b"", b"x")], 0.0)
    for number, _ in landing.ended(LATER):
        landing.cleared(number)
    assert len(files(landing)) == room.SPARE


def test_a_disk_that_refuses_promises_nothing_and_spoils_nothing(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (good,) = landing.append([(1, b"", b"good")], 0.0)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            landing.append([(2, b"", b"bad")], 0.0)
    (after,) = landing.append([(3, b"", b"after")], 0.0)
    assert landing.read(good, 1)[1] == b"good"
    assert landing.read(after, 3)[1] == b"after"
    assert files(landing) == [1, 2]  # the file that failed is not written to again


def test_a_write_that_comes_up_short_is_finished(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda file, parts, at: real(file, [b"".join(parts)[:5]], at))
    (place,) = landing.append([(1, b"head", b"body")], 0.0)
    assert landing.read(place, 1) == (b"head", b"body")


def test_mail_that_leaves_soon_is_never_written_into_the_database(house: House) -> None:
    mail = Mail()
    gone, stays = mail.reception(), mail.reception()
    house.store.apply(batch(gone, stays))
    assert [row[:2] for row in house.rows()] == [(b"", b"")] * 2
    house.store.apply(batch(mail.departure(gone.deliveries[0])))
    house.clear()
    assert house.rows() == [(HEAD, b"body\r\n", None)]


def test_a_file_whose_mail_has_left_is_written_over_though_it_is_young(tmp_path: Path) -> None:
    db, landing, mail = create(tmp_path / "s"), Landing(tmp_path / "landing"), Mail()
    store = Store(db, landing)
    reception, stays = mail.reception(), mail.reception(body=b"stays")
    store.apply(batch(reception))
    landing._end(0.0)
    store.apply(batch(stays))
    landing._end(time.monotonic())
    store.apply(batch(mail.departure(reception.deliveries[0])))
    assert not store.clear_landing()
    store.apply(batch(mail.reception(body=b"new")))
    assert files(landing) == [2, 3]
    found = reader.due_deliveries(db, landing.read, X, NOW, 9, [])
    assert [d.message.body for d in found] == [b"stays", b"new"]
    landing.close()
    db.close()


def test_mail_is_read_the_same_before_and_after_it_is_cleared(house: House) -> None:
    receptions = [Mail(NOW + n).reception(body=b"%d" % n) for n in range(200)]
    house.store.apply(batch(*receptions))
    before = reader.due_deliveries(house.db, house.landing.read, X, NOW + 999, 999, [])
    house.clear()
    assert reader.due_deliveries(house.db, house.landing.read, X, NOW + 999, 999, []) == before
    assert [d.message.body for d in before] == [b"%d" % n for n in range(200)]
    assert {place for _, _, place in house.rows()} == {None}


def test_mail_that_is_cleared_while_it_is_being_read_is_read_from_its_row(house: House) -> None:
    house.store.apply(batch(Mail().reception()))

    def overtaken(place: int, identity: int) -> tuple[bytes, bytes]:
        house.clear()
        house.store.apply(batch(Mail(NOW + 1).reception()))  # into the same file
        return house.landing.read(place, identity)

    (found,) = reader.due_deliveries(house.db, overtaken, X, NOW, 9, [])
    assert (found.message.head, found.message.body) == (HEAD, b"body\r\n")


def test_a_transaction_that_fails_leaves_the_landing_fit_for_the_next(house: House) -> None:
    reception = Mail().reception()
    house.store.apply(batch(reception))
    with pytest.raises(sqlite3.IntegrityError):
        house.store.apply(batch(Mail(NOW + 1).reception(), reception))
    house.store.apply(batch(Mail(NOW + 2).reception(body=b"next")))
    house.clear()
    assert [body for _, body, _ in house.rows()] == [b"body\r\n", b"next"]


def test_names_that_are_not_of_the_landing_keep_nobody_from_starting(tmp_path: Path) -> None:
    for name in (".nfs0001", "lost+found", "1.bak", "007", "1_0", "²"):
        (tmp_path / name).touch()
    made = Landing(tmp_path)
    (place,) = made.append([(1, b"head", b"body")], 0.0)
    assert made.read(place, 1) == (b"head", b"body")
    made.close()
    assert (tmp_path / "lost+found").exists()


def test_a_content_that_is_written_over_while_it_is_read_is_not_taken_for_whole(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = landing.append([(1, b"", b"a" * 20_000)], 0.0)
    real = os.pread

    def slow(file: int, size: int, at: int) -> bytes:
        found = real(file, size, at)
        if at == 0:  # between the first read and the second
            landing.ended(LATER)
            landing.cleared(1)
            landing.append([(2, b"", b"b" * 20_000)], LATER)
        return found

    monkeypatch.setattr(os, "pread", slow)
    with pytest.raises(Moved):
        landing.read(place, 1)


def test_a_file_that_is_removed_while_it_is_read_is_known_to_have_moved(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SPARE", 0)
    (place,) = landing.append([(1, b"", b"a" * 20_000)], 0.0)
    real = os.pread

    def slow(file: int, size: int, at: int) -> bytes:
        if at:
            landing.ended(LATER)
            landing.cleared(1)
        return real(file, size, at)

    monkeypatch.setattr(os, "pread", slow)
    with pytest.raises(Moved):
        landing.read(place, 1)


def test_a_directory_that_cannot_be_synced_uses_up_no_files(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", faulty)
        for n in range(20):
            with pytest.raises(OSError, match="Input/output"):
                landing.append([(n, b"", b"x")], 0.0)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    (place,) = landing.append([(1, b"", b"x")], 0.0)
    assert landing.read(place, 1) == (b"", b"x")


def test_what_the_landing_does_not_take_goes_into_its_row(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    mail = Mail()
    old = mail.reception()
    house.store.apply(batch(old))

    def full(file: int, parts: object, at: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        house.store.apply(batch(mail.departure(old.deliveries[0]), mail.reception(body=b"new")))
    assert house.rows() == [(HEAD, b"new", None)]
    assert "No space" in house.store.landing_fault
    house.store.apply(batch(mail.reception()))
    assert house.store.landing_fault == ""


def spoil(house: House) -> None:
    """The first content is not there any more."""
    (path,) = (path for path in house.landing._directory.iterdir() if path.name == "1")
    with open(path, "r+b") as file:
        file.write(b"\0" * 8)


def test_a_content_that_cannot_be_read_keeps_nothing_else_from_being_cleared(house: House) -> None:
    mail = Mail()
    house.store.apply(batch(mail.reception(body=b"spoilt"), mail.reception(body=b"beside it")))
    house.store.apply(batch(mail.reception(body=b"in the next file")))
    spoil(house)
    with pytest.raises(OSError, match="do not lie in"):
        house.clear()
    assert [body for _, body, _ in house.rows()] == [b"", b"beside it", b"in the next file"]
    assert 2 not in dict(house.landing.ended(0.0))


def test_a_content_that_is_lost_keeps_no_other_delivery_of_its_queue_waiting(house: House) -> None:
    mail = Mail()
    house.store.apply(batch(mail.reception(body=b"spoilt"), mail.reception(body=b"beside it")))
    spoil(house)
    lost, found = reader.due_deliveries(house.db, house.landing.read, X, NOW, 9, [])
    assert (lost.message.head, lost.message.body) == (b"", None)  # as one whose body file is gone
    assert found.message.body == b"beside it"
