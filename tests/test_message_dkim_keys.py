import base64

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from dkim import load_pk_from_dns
from dkim_kit import ed25519, key, private
from dkim_kit import rsa as rsa_key

from relayd.message.dkim import Key, aligned, dns_record, generate, keys, load_key, mismatch, to_pem
from relayd.message.dkim.keys import Algorithm, txt_strings

# Two primes of 256 bits: a key that no receiver takes, and that need not be kept secret.
P = 0xF8A5F6CAF697DBF9DAF66187FA80B1F1065D658BDCFBB0034166B442BF753D4F
Q = 0xC4A37279594B70F1FBACB263ADAD4F7FDACBEF0CBCE4A50A7CF786C7C9260331
ALGORITHMS: tuple[Algorithm, ...] = ("rsa-sha256", "ed25519-sha256")
EACH = pytest.mark.parametrize("algorithm", ALGORITHMS)


def pem(private: object, form: str = "PKCS8", password: bytes = b"") -> bytes:
    secrecy = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    encoding, layout = serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form)
    return private.private_bytes(encoding, layout, secrecy)  # type: ignore[attr-defined,no-any-return]


def rsa_of(p: int, q: int, d: int = 0) -> rsa.RSAPrivateKey:
    d = d or pow(65537, -1, (p - 1) * (q - 1))
    parts = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, *parts, rsa.RSAPublicNumbers(65537, p * q))
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def public(private: keys.PrivateKey) -> str:
    return Key("a.example", "s", private).published


# Reading and making


@EACH
@pytest.mark.parametrize("known", [False, True])
def test_a_generated_key_is_read_back_from_its_pem(algorithm: Algorithm, known: bool) -> None:
    made = generate(algorithm)
    assert public(load_key(to_pem(made), known=known)) == public(made)
    assert Key("a.example", "s", made).algorithm == algorithm


def test_the_older_rsa_pem_is_read() -> None:
    assert public(load_key(pem(private("rsa-sha256"), "TraditionalOpenSSL"))) == public(private("rsa-sha256"))


def test_the_bare_seed_of_rfc_8463_is_read() -> None:
    seed = b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n"
    assert public(load_key(seed)) == "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


REFUSED = [
    (pem(private("rsa-sha256"), password=b"secret"), "encrypted"),
    (pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
    (pem(rsa_of(P, Q)), "512 bits"),
    (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key that can be read"),
    (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no private key that can be read"),
    (b"", "no private key"),
    (b"not base64!", "no private key"),
    (base64.b64encode(bytes(31)), "no private key"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
@pytest.mark.parametrize("known", [False, True])
def test_what_is_no_key_for_dkim_is_refused_with_a_sentence(text: bytes, reason: str, known: bool) -> None:
    with pytest.raises(ValueError, match=reason):
        load_key(text, known=known)


def test_rsa_too_long_for_receivers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "MOST_BITS", 2047)
    with pytest.raises(ValueError, match="2048 bits"):
        load_key(to_pem(private("rsa-sha256")))


def test_rsa_whose_numbers_do_not_fit_is_refused_the_first_time() -> None:
    whole = private("rsa-sha256")
    assert isinstance(whole, rsa.RSAPrivateKey)
    numbers = whole.private_numbers()
    with pytest.raises(ValueError, match="no private key that can be read"):
        load_key(pem(rsa_of(numbers.p, numbers.q, numbers.d + 2)))


def test_rsa_of_1024_bits_signs_but_is_called_weak() -> None:
    short = load_key(to_pem(rsa.generate_private_key(65537, 1024)))
    assert Key("a.example", "s", short).weak
    assert not rsa_key().weak
    assert not ed25519().weak


@pytest.mark.parametrize(
    "domain",
    [
        "",
        "example",
        "A.example",
        "a.example.",
        "a..example",
        "a.example\r\nX: y",
        "ü.example",
        "a;b.example",
        "x" * 64 + ".example",
        "a." * 127 + "example",
    ],
)
def test_a_domain_that_cannot_sign_makes_no_key(domain: str) -> None:
    with pytest.raises(ValueError, match="is not a domain"):
        key("ed25519-sha256", domain)


@pytest.mark.parametrize("selector", [".", "a b", "a;", "a\r\n", "ü", "a..b"])
def test_a_selector_that_is_no_name_makes_no_key(selector: str) -> None:
    with pytest.raises(ValueError, match="is not a selector"):
        key("ed25519-sha256", selector=selector)


# Publishing


@EACH
def test_the_record_to_publish_is_what_dkimpy_reads_as_that_key(algorithm: Algorithm) -> None:
    name, text = dns_record(key(algorithm, selector="2026.a"))
    assert name == "2026.a._domainkey.sender.example"
    _, bits, kind, _ = load_pk_from_dns(name.encode(), lambda name, timeout: text.encode())
    assert (kind, bits) == ((b"rsa", 2048) if algorithm == "rsa-sha256" else (b"ed25519", 256))


def test_a_long_record_is_cut_into_strings_that_dns_can_carry() -> None:
    _, text = dns_record(rsa_key())
    assert len(text) > 255
    assert "".join(txt_strings(text)) == text
    assert max(map(len, txt_strings(text))) == 255


@EACH
def test_its_own_record_fits_a_key(algorithm: Algorithm) -> None:
    assert mismatch(key(algorithm), dns_record(key(algorithm))[1]) == ""


RECORDS = [
    ("v=DKIM1; k=ed25519; p={p}", ""),
    ("k=ed25519;p={p};", ""),
    (" v = DKIM1 ; h=sha1:sha256; k=ed25519; s=email; t=y; n=note; p={spaced}", ""),
    ("v=DKIM2; k=ed25519; p={p}", "another version"),
    ("v=DKIM1; k=ed25519", "no public key"),
    ("", "no public key"),
    ("v=DKIM1; k=ed25519; p=", "revoked"),
    ("v=DKIM1; p={p}", "not for ed25519"),
    ("v=DKIM1; k=rsa; p={p}", "not for ed25519"),
    ("v=DKIM1; k=ed25519; h=sha1; p={p}", "sha256"),
    ("v=DKIM1; k=ed25519; s=tlsrpt; p={p}", "not for mail"),
    ("v=DKIM1; k=ed25519; p=AAAA", "another public key"),
]


@pytest.mark.parametrize(("record", "fault"), RECORDS)
def test_a_published_record_is_judged(record: str, fault: str) -> None:
    p = ed25519().published
    found = mismatch(ed25519(), record.format(p=p, spaced=f"{p[:9]} \t{p[9:]}"))
    assert fault in found
    assert bool(fault) == bool(found)


# Choosing

A, SUB, OWN = ed25519(domain="a.example"), ed25519(domain="sub.a.example"), ed25519(domain="relay.example")
BOTH = [rsa_key(domain="b.example"), ed25519(domain="b.example")]
KEYS = {"a.example": [A], "sub.a.example": [SUB], "b.example": BOTH, "empty.a.example": [], "example": [OWN]}


@pytest.mark.parametrize(
    ("domain", "signing"),
    [
        ("a.example", [A]),
        ("sub.a.example", [SUB]),
        ("news.sub.a.example", [SUB]),
        ("x.y.a.example", [A]),
        ("empty.a.example", [A]),
        ("b.example", BOTH),
        ("nota.example", []),
        ("other.example", []),
        ("example", [OWN]),
        ("", []),
    ],
)
def test_the_keys_of_the_from_domain_or_its_nearest_parent_sign(domain: str, signing: list[Key]) -> None:
    assert aligned(domain, KEYS) == signing


def test_the_relay_s_own_key_signs_second() -> None:
    assert aligned("news.a.example", KEYS, [OWN]) == [A, OWN]
    assert aligned("other.example", KEYS, [OWN]) == [OWN]


def test_one_domain_does_not_sign_twice_when_it_is_the_relay_s_own() -> None:
    assert aligned("sub.a.example", KEYS, [SUB, A]) == [SUB, A]
    assert aligned("b.example", KEYS, BOTH) == BOTH


def test_a_choice_among_many_keys_is_one_look_up_for_each_label() -> None:
    asked: list[str] = []

    class Counting(dict[str, list[Key]]):
        def get(self, domain: str, default: object = None) -> list[Key] | None:  # type: ignore[override]
            asked.append(domain)
            return super().get(domain)

    many = Counting({f"d{i}.example": [A] for i in range(20_000)})
    assert aligned("x.y.d19999.example", many) == [A]
    assert asked == ["x.y.d19999.example", "y.d19999.example", "d19999.example"]
