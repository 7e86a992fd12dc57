"""Texts: what is alike though names and numbers differ, where links lead, and that nothing breaks or takes long."""

import time
from base64 import b64encode
from quopri import encodestring

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.suspicion.text import LIMIT, PARTS, alike, different, examine, plain

HEAD = b"From: a@x.example\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
LETTER = """Dear %s, we thank you for all that you have bought at our shop in the last year, and we would like to show
you what is new this spring: shoes, shirts, hats and all that goes with them. Come by, or order on our pages before the
end of the month, and what you order is brought to your door within two days. Your order of last time had number %d.
With kind regards, the people of the shop"""
OTHER = """The meeting of tomorrow is moved to Thursday because the room is taken, please bring the plans of the house
that we have talked about and tell everybody who should come. If you cannot, send somebody who knows the matter well
enough to decide, for we will not be able to wait any longer with the answer to the council"""


def sketch(text: str, head: bytes = HEAD) -> tuple[int, ...]:
    return examine(head, text.encode()).sketch


def test_texts_that_differ_in_names_and_numbers_are_alike_and_others_are_not() -> None:
    one, two = sketch(LETTER % ("Anna", 17)), sketch(LETTER % ("Herr Doktor Boris Müller", 88123))
    assert one != two and alike(one, two)
    assert not alike(one, sketch(OTHER))


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Transfer-Encoding: base64\r\n\r\n", b64encode((LETTER % ("Olga", 3)).encode())),
        (b"content-transfer-encoding: Quoted-Printable\r\n\r\n", encodestring((LETTER % ("Olga", 3)).encode())),
        (b"Content-Type: TEXT/HTML\r\n\r\n", b"<p class='x'>" + (LETTER % ("<b>Olga</b>", 3)).encode() + b"</p>"),
        (
            b'Content-Type: multipart/mixed;\r\n boundary="=_b"\r\n\r\n',
            b"--=_b\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\n\r\n"
            + (LETTER % ("Olga", 3)).encode()
            + b"\r\n--in--\r\n--=_b\r\nContent-Type: image/png\r\n\r\nhttp://picture.example\r\n--=_b--\r\n",
        ),
    ],
    ids=["base64", "quoted-printable", "html", "nested"],
)
def test_a_text_is_the_same_however_it_is_wrapped(head: bytes, body: bytes) -> None:
    found = examine(b"From: a@x.example\r\n" + head, body)
    assert alike(found.sketch, sketch(LETTER % ("Olga", 3)))
    assert not found.links


def test_in_other_alphabets_texts_are_alike_too() -> None:
    letter = (
        "Дорогой %s, спасибо за покупку в нашем магазине, мы рады предложить вам весенние скидки на обувь и платья "
    )
    letter += (
        "до конца месяца, приходите или закажите доставку на дом на наших страницах прямо сейчас с любовью ваш магазин"
    )
    assert alike(sketch(letter % "Иван"), sketch(letter % "Мария"))
    assert not alike(sketch(letter % "Иван"), sketch(LETTER % ("Anna", 1)))


def test_a_few_words_are_like_nothing() -> None:
    assert sketch("Your code is 123456") == () and not alike((), ())


def test_links_are_counted_by_host_or_address() -> None:
    body = b"http://www.A.example/1 https://a.example:8080/2 <a href='HTTP://b.example'> mailto:x@c.example?subject=y"
    assert examine(HEAD, body).links.bit_count() == 3
    many = b" ".join(b"http://h%d.example/" % (n % 200) for n in range(1000))
    assert 180 < different(examine(HEAD, many).links) < 220


def test_a_full_bitmap_has_an_end() -> None:
    assert 3000 < different((1 << 512) - 1) < 4000 and different(0) == 0


def test_no_more_than_the_beginning_and_so_many_parts_are_read() -> None:
    assert not examine(HEAD, b" " * LIMIT + b"http://late.example").links
    parts = b"".join(b"--b\r\n\r\npart%d\r\n" % n for n in range(50))
    assert plain(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n", parts).count(b"part") < PARTS


PIECES = st.sampled_from(
    [
        b"Content-Type: multipart/mixed; boundary=b\r\n",
        b"Content-Type: text/html\r\n",
        b"Content-Transfer-Encoding: base64\r\n",
        b"Content-Transfer-Encoding: quoted-printable\r\n",
        *b'\r\n\r\n|--b\r\n|--b--|=|QUJD=|<|http://|mailto:|a@b.example|www.|\xff\xfe|=3D=0|boundary="|:|word '.split(
            b"|"
        ),
        "Ж".encode(),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=20)), st.lists(PIECES | st.binary(max_size=20)))
def test_nothing_raises_and_a_text_is_always_like_itself(head: list[bytes], body: list[bytes]) -> None:
    found = examine(b"".join(head), b"".join(body))
    assert found == examine(b"".join(head), b"".join(body))
    assert not found.sketch or alike(found.sketch, found.sketch)
    assert all(0 <= value < 1 << 32 for value in found.sketch) and 0 <= found.links < 1 << 512


@pytest.mark.parametrize(
    "piece",
    [b"<", b">", b"http://", b"mailto:", b"--b\r\n\r\n", b"a ", b"abc ", b"=", b"A", b"\r\n", b"www.http://x@",
     b"--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n", b"content-type: ", b"boundary=\"", b"http://\xff"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", [b"7bit", b"base64", b"quoted-printable"])
def test_the_longest_hostile_text_takes_no_longer_than_an_honest_one(piece: bytes, encoding: bytes) -> None:
    head = b"Content-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: " + encoding + b"\r\n\r\n"
    for hostile in (head, head.replace(b"multipart/mixed", b"text/html"), piece * (LIMIT // len(piece))):
        before = time.process_time()
        examine(hostile, piece * (LIMIT // len(piece)))
        assert time.process_time() - before < 0.5  # 64 KB of prose take 5 ms
