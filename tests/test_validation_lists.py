"""The lists: what is shipped, what a slip of a finger makes of a name, what an operator's own file may hold."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.address import domain_of, parse_address
from relayd.config import Validation
from relayd.errors import InputError
from relayd.validation import read_lists, read_traps
from relayd.validation.lists import slips

SHIPPED = read_lists({})
NAMES = [field.name for field in msgspec.structs.fields(Validation)]


def own(directory: Path, **texts: str) -> dict[str, str]:
    """Files of one's own by the names of the lists, all others empty."""
    for name in NAMES:
        (directory / name).write_text(texts.get(name, ""), "utf-8")
    return {name: str(directory / name) for name in NAMES}


def test_the_shipped_lists_are_there_and_tell_apart_what_is_real():
    assert "mailinator.com" in SHIPPED.disposable and "noreply" in SHIPPED.roles
    assert SHIPPED.typos["gmial.com"] == "gmail.com"
    meant = set(SHIPPED.typos.values())
    assert not meant & set(SHIPPED.typos)
    assert not meant & SHIPPED.disposable


def test_every_shipped_entry_can_be_met_in_an_address():
    for domain in [*SHIPPED.typos, *SHIPPED.disposable]:
        assert domain_of(parse_address(f"x@{domain}", smtputf8=False)) == domain
    for role in SHIPPED.roles:
        assert parse_address(f"{role}@firm.example", smtputf8=False) == f"{role}@firm.example"


@pytest.mark.parametrize(
    ("word", "slip"),
    [
        ("gmail", "gmal"),  # left out
        ("gmail", "gmai"),
        ("gmail", "gmaill"),  # doubled
        ("gmail", "ggmail"),
        ("gmail", "gamil"),  # swapped
        ("gmail", "gmali"),
        ("gmail", "gnail"),  # beside
        ("gmail", "gmaul"),
        ("yandex", "yandez"),
        ("com", "con"),
    ],
)
def test_a_slip_of_one_finger(word, slip):
    assert slip in set(slips(word))


@pytest.mark.parametrize("other", ["mail", "email", "ymail", "hmail", "gmails", "gomail", "gmx", "gxail", "gliam"])
def test_no_slip_of_one_finger(other):
    assert other not in set(slips("gmail"))


@given(st.text("abcdefghijklmnopqrstuvwxyz-0", min_size=2, max_size=20))
def test_a_slip_keeps_the_first_letter_and_the_length_within_one(word):
    for slip in slips(word):
        assert slip[0] == word[0] and abs(len(slip) - len(word)) <= 1


def test_an_ending_that_somebody_has_is_never_a_slip():
    """.co, .cm and .om are countries: only what is written down counts there."""
    assert SHIPPED.typos["aol.con"] == "aol.com"
    assert not {"aol.co", "aol.cm", "aol.om"} & set(SHIPPED.typos)


def test_files_of_ones_own_take_the_place_of_the_shipped(tmp_path):
    texts = {
        "typos": "# mine\n\nFirm.Exmaple firm.example  # theirs\n",
        "providers": "provider.example\n",
        "neighbours": "provder.example",
        "roles": "Info\n",
        "disposable": "\tbin.example\nмусор.рф\n",
    }
    lists = read_lists(own(tmp_path, **texts))
    assert lists.roles == {"info"}
    assert lists.disposable == {"bin.example", "xn--l1aegcj.xn--p1ai"}
    assert lists.typos["firm.exmaple"] == "firm.example"
    assert lists.typos["provier.example"] == "provider.example"
    assert not {"provder.example", "gmial.com"} & set(lists.typos)


def test_one_file_leaves_the_other_lists_as_they_are(tmp_path):
    (tmp_path / "roles").write_text("")
    lists = read_lists({"roles": str(tmp_path / "roles"), "typos": ""})
    assert (lists.roles, lists.typos, lists.disposable) == (frozenset(), SHIPPED.typos, SHIPPED.disposable)


def test_what_is_real_is_no_misspelling_even_if_somebody_wrote_it_down(tmp_path):
    typos = "a.example b.example\nb.example b.example\nc.example b.example"
    texts = {"typos": typos, "neighbours": "a.example", "providers": "c.example"}
    assert read_lists(own(tmp_path, **texts)).typos == {}


@pytest.mark.parametrize("domain", ["mail.example", "web.example"])
def test_a_name_of_four_letters_has_no_slips(tmp_path, domain):
    assert read_lists(own(tmp_path, providers=domain)).typos == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("disposable", "a.example\n\nb example\n", "line 3: 'b example' is not a domain"),
        ("disposable", "localhost", "line 1: 'localhost' is not a domain"),
        ("disposable", "@a.example", "line 1: '@a.example' is not a host name"),
        ("disposable", "ж\u202e.рф", "line 1: Domain is not a valid internationalised name"),
        ("providers", "a..example", "line 1: 'a..example' is not a host name"),
        ("neighbours", "*.example", "is not a host name"),
        ("typos", "a.example", "is not a misspelt domain, a space and the domain that was meant"),
        ("typos", "a.example b.example c.example", "is not a misspelt domain"),
        ("typos", "a.example b", "line 1: 'b' is not a domain"),
        ("roles", "abuse@", "line 1: 'abuse@' is not what stands before the \"@\" of an address"),
        ("roles", "x\ny z", "line 2: 'y z' is not what stands"),
    ],
)
def test_a_faulty_line_is_named_with_its_list_and_file(tmp_path, name, text, words):
    paths = own(tmp_path, **{name: text})
    with pytest.raises(InputError) as raised:
        read_lists(paths)
    assert raised.value.field == name
    assert paths[name] in raised.value.text and words in raised.value.text


def test_traps_are_addresses_a_line_each_as_addresses_are_compared(tmp_path):
    assert read_traps("") == frozenset()
    (tmp_path / "traps.txt").write_text("# of bought lists\nOld.Box@Provider.Example\n\nx@b\u00fccher.example\n")
    assert read_traps(str(tmp_path / "traps.txt")) == {"old.box@provider.example", "x@xn--bcher-kva.example"}
    (tmp_path / "traps.txt").write_text("a@b.example\nnobody\n")
    with pytest.raises(InputError, match="line 2"):
        read_traps(str(tmp_path / "traps.txt"))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"roles: .*none: No such file or directory"):
        read_lists({"roles": str(tmp_path / "none")})
    (tmp_path / "latin1").write_bytes(b"caf\xe9.example\n")
    with pytest.raises(InputError, match=r"disposable: .*latin1 is not text in UTF-8"):
        read_lists({"disposable": str(tmp_path / "latin1")})
