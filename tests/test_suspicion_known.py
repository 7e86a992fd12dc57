"""Recipients of before: who is new to an account, within one size, and across a restart."""

import pytest

from relayd.suspicion.known import Known


def test_an_address_is_new_once_to_each_account_and_case_does_not_matter() -> None:
    known = Known(1 << 20)
    assert not known.seen("crm", "Anna@x.example")
    assert known.seen("crm", "anna@X.example")
    assert not known.seen("crm2", "anna@x.example")


def test_few_new_ones_are_taken_for_known_when_it_is_nearly_full() -> None:
    known = Known(1 << 16)
    capacity = known._most
    wrong = sum(known.seen("crm", f"a{n}@x.example") for n in range(capacity))
    assert wrong < capacity * 0.04


def test_it_rolls_what_was_written_to_lately_is_remembered_and_what_never_comes_again_is_not() -> None:
    known = Known(1 << 12)
    known.seen("crm", "regular@x.example")
    known.seen("crm", "once@x.example")
    missed = 0
    for n in range(known._most * 6):
        known.seen("crm", f"a{n}@x.example")
        if n % 50 == 0:
            missed += not known.seen("crm", "regular@x.example")
    assert not missed
    assert sum(not known.seen("crm", f"a{n}@x.example") for n in range(100)) > 80
    assert len(known._now) * 8 + len(known._before) * 8 == 1 << 12


def test_what_is_known_outlives_a_restart(tmp_path) -> None:
    known = Known(1 << 16)
    for n in range(500):
        known.seen("crm", f"a{n}@x.example")
    known.save(tmp_path / "recipients")
    again = Known(1 << 16)
    assert again.load(tmp_path / "recipients") and again.count == known.count
    assert all(again.seen("crm", f"a{n}@x.example") for n in range(500))
    assert [path.name for path in tmp_path.iterdir()] == ["recipients"]


def test_what_is_empty_takes_no_room_on_disk(tmp_path) -> None:
    known = Known(32 << 20)
    known.seen("crm", "a@x.example")
    known.save(tmp_path / "recipients")
    found = (tmp_path / "recipients").stat()
    assert found.st_size > 32 << 20 and found.st_blocks * 512 < 1 << 20
    again = Known(32 << 20)
    assert again.load(tmp_path / "recipients") and again.seen("crm", "a@x.example")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: b"x" + raw, lambda raw: raw[9:]])
def test_a_damaged_file_or_one_of_another_size_is_not_believed(tmp_path, damage) -> None:
    path = tmp_path / "recipients"
    known = Known(1 << 16)
    known.seen("crm", "a@x.example")
    known.save(path)
    assert not Known(1 << 17).load(path)
    path.write_bytes(damage(path.read_bytes()))
    fresh = Known(1 << 16)
    assert not fresh.load(path)
    assert not fresh.seen("crm", "a@x.example")
