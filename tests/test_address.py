import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.address import AddressError, domain_of, folded, is_ascii, parse_address, parse_path


@pytest.mark.parametrize(
    ("text", "address", "rest"),
    [
        ("<a@b.example>", "a@b.example", ""),
        ("<a@b.example> SIZE=10 BODY=8BITMIME", "a@b.example", "SIZE=10 BODY=8BITMIME"),
        (" <a@b.example>", "a@b.example", ""),
        (" \t<a@b.example>\tSIZE=1", "a@b.example", "SIZE=1"),
        ("a@b.example", "a@b.example", ""),
        (" a@b.example SIZE=1", "a@b.example", "SIZE=1"),
        ("< a@b.example >", "a@b.example", ""),
        ("<>", "", ""),
        ("<> RET=HDRS", "", "RET=HDRS"),
        ("<@one.example,@two.example:a@b.example>", "a@b.example", ""),
        ("<postmaster>", "postmaster", ""),
        ("<Postmaster>", "postmaster", ""),
        ('<"a b"@c.example>', '"a b"@c.example', ""),
        ('<"a>b"@c.example> X', '"a>b"@c.example', "X"),
        ('<"a@b"@c.example>', '"a@b"@c.example', ""),
        ('<"john.doe"@c.example>', "john.doe@c.example", ""),
        ("<a..b.@docomo.example>", "a..b.@docomo.example", ""),
        ("<a+b=c@x_y.example>", "a+b=c@x_y.example", ""),
        ("<a@localhost>", "a@localhost", ""),
        ("<иван@почта.example>", "иван@почта.example", ""),
    ],
)
def test_path_is_read(text: str, address: str, rest: str) -> None:
    assert parse_path(text, smtputf8=True) == (address, rest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<",
        "<a@b.example",
        "a@b.example>",
        "<a>",
        "<@b.example>",
        "<a@>",
        "<a b@c.example>",
        "<a@b..example>",
        "<a@-b.example>",
        "<a@b-.example>",
        "<a@.example>",
        "<a@b.example.>",
        f"<a@{'x' * 64}.example>",
        "<a@b!c>",
        "<a@b.example>SIZE=1",
        "<a@b.example>,<c@d.example>",
        '<"a@b.example>',
        "<a\0b@c.example>",
        "<a@b.example> SIZE=1\rX",
        "<a@b.example\n>",
        "<a\u202eb@c.example>",
        "<a@b\u2066.example>",
        "<a\x85@b.example>",
        "<a@℀.example>",
    ],
)
def test_path_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_path(text, smtputf8=True)


def test_address_literal_is_refused_in_so_many_words() -> None:
    for literal in ("<a@[192.0.2.1]>", "<a@[IPv6:2001:db8::1]>"):
        with pytest.raises(AddressError) as caught:
            parse_path(literal, smtputf8=False)
        assert "literal" in caught.value.text


def test_beyond_ascii_needs_smtputf8() -> None:
    for text in ("<é@b.example>", "<a@é.example>"):
        assert parse_path(text, smtputf8=True)[0] == text[1:-1]
        with pytest.raises(AddressError):
            parse_path(text, smtputf8=False)


@pytest.mark.parametrize(
    ("local", "domain", "fine"),
    [
        (64, 20, True),
        (65, 20, False),
        (64, 189, True),
        (64, 190, False),
        (1, 252, True),
        (1, 253, False),
    ],
)
def test_lengths_have_limits(local: int, domain: int, fine: bool) -> None:
    labels = ".".join(["x" * 9] * 30)[:domain]
    name = labels[:-1] + "y"
    address = "a" * local + "@" + name
    if fine:
        assert parse_path(f"<{address}>", smtputf8=False) == (address, "")
    else:
        with pytest.raises(AddressError):
            parse_path(f"<{address}>", smtputf8=False)


def test_local_part_is_measured_in_octets() -> None:
    assert parse_path(f"<{'é' * 32}@b.example>", smtputf8=True)
    with pytest.raises(AddressError):
        parse_path(f"<{'é' * 33}@b.example>", smtputf8=True)


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("a@Example.ORG", "example.org"),
        ("", ""),
        ("postmaster", ""),
        ('"a@b"@C.example', "c.example"),
        ("a@Bücher.Example", "xn--bcher-kva.example"),
        ("a@ПОЧТА.рф", "xn--80a1acny.xn--p1ai"),
        ("a@x_y.bücher.example", "x_y.xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_domain_is_lower_case_a_labels(address: str, domain: str) -> None:
    assert domain_of(address) == domain


def test_addresses_that_differ_only_in_case_or_form_of_the_domain_are_folded_alike() -> None:
    assert folded("Ivan@ПОЧТА.рф") == folded("ivan@xn--80a1acny.XN--P1AI") == "ivan@xn--80a1acny.xn--p1ai"
    assert folded('"A@b"@C.example') == '"a@b"@c.example' != folded("a@c.example")


def test_is_ascii() -> None:
    assert is_ascii("a@b.example") and is_ascii("") and not is_ascii("a@bü.example")


def test_bare_address_of_a_user_is_read_and_its_faults_told() -> None:
    assert parse_address(" a@b.example ") == "a@b.example"
    for text in ("a", "<a@b.example>", "a@b@c.example", "a\n@b.example", ""):
        with pytest.raises(AddressError):
            parse_address(text)


@given(st.text(), st.booleans())
def test_any_text_gives_an_address_that_is_safe_or_an_address_error(text: str, smtputf8: bool) -> None:
    for candidate in (text, f"<{text}>", f"<a@{text}>", f"<{text}@b.example>"):
        try:
            address, rest = parse_path(candidate, smtputf8=smtputf8)
        except AddressError as error:
            assert error.text.isprintable()
            continue
        assert address.isprintable() and len(address.encode()) <= 254
        assert smtputf8 or address.isascii()
        assert not set(rest) & set("\r\n\0")
        assert domain_of(address).isascii()
        assert folded(folded(address)) == folded(address)
        assert parse_path(f"<{address}>", smtputf8=smtputf8) == (address, "")


_local = st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}", fullmatch=True)
_domain = st.from_regex(r"[a-z0-9]{1,9}(\.[a-z0-9]{1,9}){0,4}", fullmatch=True)


@given(_local, _domain, st.sampled_from(["<{}>", " <{}>", "{}", "< {} >", "<@r.example:{}>"]))
def test_ordinary_address_is_read_in_every_sloppy_form(local: str, domain: str, form: str) -> None:
    address = f"{local}@{domain}"
    assert parse_path(form.format(address), smtputf8=False) == (address, "")


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ('"jo\\hn"@x.example', "john@x.example"),
        ('"O\'Brien"@X.example', "o'brien@x.example"),
        ('"a..b"@x.example', "a..b@x.example"),
        ('"a\\ b"@x.example', '"a b"@x.example'),
        (r'"a\"b\\c"@x.example', r'"a\"b\\c"@x.example'),
        ('""@x.example', '""@x.example'),
        ("e\u0301@x.example", "\u00e9@x.example"),
        ('"hellox@x.example', '"hellox@x.example'),  # of a header: no quoted string at all
    ],
)
def test_one_mailbox_is_compared_as_one_however_it_is_written(written: str, compared: str) -> None:
    assert folded(written) == compared
    assert folded(compared) == compared
