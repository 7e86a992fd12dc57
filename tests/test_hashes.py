"""Hashes of other systems: each format by known answers, what is refused, and what no hash may cost.

The answers are not ours: OpenSSL's (openssl passwd -5, -6; openssl dgst), the reference vectors of SHA-crypt and of
crypt_blowfish, and what bcryptjs, Python's bcrypt, passlib and Django made.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.directory import hashes
from relayd.directory.hashes import imported, kind, verify

PASSWORD = "Пароль-1 & more"
LONG = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789chars after 72 are ignored"
BCRYPT = "$2b$05$1iA4oZv2V9wVDB0peQweV.DvYigjyuje3vh/Cv9EpkVGDc4hGdfaa"

KNOWN = [
    ("bcrypt", BCRYPT, PASSWORD),
    ("bcrypt", "$2b$05$TckWAa02xin6xnfxV9dwlO/oUduqfNFgmMXw3l4QYrNAthbKyv.gW", PASSWORD),
    ("bcrypt", "$2a$05$CZ8vu4klZzmy4WIHiI4nX.WrmTEYSLE92g2YwlWcvlkUEuoAD2EuG", PASSWORD),
    ("bcrypt", "$2y$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a", "U*U*U"),
    ("bcrypt", "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui", LONG),
    ("SHA-crypt", "$5$saltstring$CVUr5sX2bJxjuyKeXjXRD7kUmVuhr56Tvbg3Pmcd6.D", PASSWORD),
    ("SHA-crypt", "$5$rounds=1234$rVyIz3joeFVt567I$Dp6vFNDqOegTYv2fcATTqFFqUlfjvondYtsqx3iyh08", PASSWORD),
    ("SHA-crypt", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5", "Hello world!"),
    (
        "SHA-crypt",
        "$6$saltstring$tltGRSiNRlvOpE4erDUiHFRb5NK7BmPlcrcSJ5ekUGqpY./yq6WJMk4CQ0su7AF1FGJ7VV2.pt4rjZGdUn2FF1",
        PASSWORD,
    ),
    (
        "SHA-crypt",
        "$6$rounds=5000$saltstring$"
        "svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        "Hello world!",
    ),
    ("PBKDF2", "pbkdf2_sha256$1000$seasalt$Mum+RBFSdDdFCMXUKfLAz0xS0wh0Zd3X3CKjCZJI05o=", PASSWORD),
    ("SHA", "{SHA}Zulvh8RrU5j1MjxpkVCDYqTx8vc=", PASSWORD),
    ("SHA256", "{SHA256}th75mIlhSHfaiFO/TiLrDUgfIWvm+u7lE5+GpGc5Ds0=", PASSWORD),
    (
        "SHA512",
        "{SHA512}xDKoRlH4eIUUhnaCOV1xntpDDY10i41n9BHpbHC65+F4qLiHDFXsfHQuWcNe1vN4GcqVGpZ5phiRr7+kRr8fUg==",
        PASSWORD,
    ),
    ("SSHA", "{SSHA}tp1pJX5s8CZKjIHqRNeu/PSPRXafs3bu", PASSWORD),
    ("SSHA256", "{SSHA256}3ninNgsPNAWTHKRpVbZcj1q/kR93UbfbivJtYbOfkY70nnPu3TsHAA==", PASSWORD),
    (
        "SSHA512",
        "{SSHA512}ihm4exTrQf5nuxIrV44P4foFAvolpW3TPQw30CQADy72KY7xzRcdWYDpl5bF3/vV6VrSHUB9hDEz5L9IhhSpGiqlVKpVqpWy",
        PASSWORD,
    ),
    # RFC 7914 section 12, the second vector, cut to its first 32 bytes: PBKDF2 makes no byte depend on the length.
    ("scrypt", "scrypt$1024$8$16$TmFDbA==$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWI=", "password"),
]


@pytest.mark.parametrize(("scheme", "stored", "password"), KNOWN, ids=lambda value: str(value)[:12])
def test_password_that_made_a_hash_elsewhere_is_right_here_and_no_other_is(scheme, stored, password):
    assert imported(stored) == stored and kind(stored) == scheme
    assert verify(password.encode(), stored)
    assert not verify(password[:-1].encode() if password is not LONG else b"x", stored) and not verify(b"", stored)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("{BLF-CRYPT}" + BCRYPT, BCRYPT),
        ("{CRYPT}" + BCRYPT, BCRYPT),
        ("{crypt}" + KNOWN[5][1], KNOWN[5][1]),
        ("{SHA512-CRYPT}" + KNOWN[8][1], KNOWN[8][1]),
        ("{SHA256-CRYPT}" + KNOWN[5][1] + "\n", KNOWN[5][1]),
        ("{ssha}tp1pJX5s8CZKjIHqRNeu/PSPRXafs3bu", "{SSHA}tp1pJX5s8CZKjIHqRNeu/PSPRXafs3bu"),
    ],
)
def test_prefixes_of_dovecot_and_ldap_are_understood_in_any_case(written, kept):
    assert imported(written) == kept
    assert verify(PASSWORD.encode(), kept)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "external",
        "hunter2hunter2",
        "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
        "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b",
        "$2x$05$/OK.fbVrR/bpIqNJ5ianF.CE5elHaaO4EbggVDjb8P19RukzXSM3e",
        BCRYPT[:-1],
        BCRYPT + "x",
        "{SSHA}tp1pJX5s8CZKjIHqRNeu/PSPRXY=",
        "{SHA}tp1pJX5s8CZKjIHqRNeu/PSPRXafs3bu",
        "{SHA}Zulvh8RrU5j1MjxpkVCDYqTx8vc",
        "{MD5}Zulvh8RrU5j1MjxpkVCDYg==",
        "$5$saltstring$" + KNOWN[8][1].rpartition("$")[2],
        "$6$saltstring$CVUr5sX2bJxjuyKeXjXRD7kUmVuhr56Tvbg3Pmcd6.D",
        "pbkdf2_sha256$0$seasalt$Mum+RBFSdDdFCMXUKfLAz0xS0wh0Zd3X3CKjCZJI05o=",
        "pbkdf2_sha256$1000$seasalt$Mum+RBFSdDdFCMXUKfLAz0w=",
        "scrypt$1000$8$1$TmFDbA==$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWI=",
        "scrypt$1024$8$1$TmFDbA==$",
    ],
)
def test_any_other_format_is_refused_with_those_that_work_and_without_the_hash(text):
    with pytest.raises(
        ValueError, match=r"is of no format that works here.*bcrypt.*SHA-crypt.*Django.*\{SSHA\}"
    ) as said:
        imported(text)
    assert not text or text not in str(said.value)
    assert not verify(b"hunter2hunter2", text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BCRYPT.replace("$05$", "$15$"), "bcrypt cost is 15, the most is 14"),
        (BCRYPT.replace("$05$", "$31$"), "bcrypt cost is 31"),
        (KNOWN[6][1].replace("=1234", "=999999999"), "SHA-crypt cost is 999999999, the most is 1000000"),
        (KNOWN[10][1].replace("1000", "900000000"), "PBKDF2 cost is 900000000, the most is 2000000"),
        (KNOWN[-1][1].replace("$1024$", "$1048576$"), "scrypt cost is 134217728, the most is 262144"),
    ],
)
def test_hash_that_takes_absurdly_long_to_check_is_refused(text, words):
    with pytest.raises(ValueError, match=f"takes too long to check: its {words}"):
        imported(text)


@pytest.mark.parametrize(
    ("stored", "password"), [(stored, password) for _, stored, password in KNOWN if stored.startswith("$")]
)
def test_password_with_a_nul_is_never_taken_for_its_part_before_it(stored, password):
    assert not verify(password.encode() + b"\0x", stored)


@pytest.mark.parametrize("stored", [BCRYPT, KNOWN[5][1]])
def test_without_libcrypt_its_hashes_are_refused_and_match_nothing(stored, monkeypatch):
    monkeypatch.setattr(hashes, "_crypt_r", None)
    with pytest.raises(ValueError, match="this system's libcrypt does not know"):
        imported(stored)
    assert not verify(PASSWORD.encode(), stored)


def test_kind_tells_how_a_password_is_kept():
    assert kind(hashes.EXTERNAL) == "external" and kind("nonsense") == "unknown"


_STARTS = st.sampled_from(["", "$2b$", "$5$", "$6$rounds=", "{SSHA}", "{SHA256}", "pbkdf2_sha256$1$", "scrypt$"])


@given(_STARTS, st.text(alphabet="0123456789./abcXYZ$={}+\0é\n", max_size=120))
def test_text_that_is_no_hash_is_refused_in_words_and_matches_nothing(start, rest):
    try:
        imported(start + rest)
    except ValueError as refused:
        assert str(refused)
    assert not verify(b"x", start + rest)
