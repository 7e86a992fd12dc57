"""What operators type, and what it means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd import notation


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("3d", 259200), ("500ms", 0.5), ("1.5h", 5400), ("1w", 604800)],
)
def test_duration_is_seconds(text, seconds):
    assert notation.duration(text) == seconds


@pytest.mark.parametrize("value", ["", "5", 5, "m5", "5 m", "-5m", "5min", "0s", None, True, "٣m"])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match=r"duration|no time"):
        notation.duration(value)


@given(st.integers(1, 10**7))
def test_shown_duration_reads_back_as_its_two_largest_units(seconds):
    back = notation.duration(notation.show_duration(seconds))
    assert 0 <= seconds - back < seconds * 0.05 + 1


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2h", 1e9 - 7200),
        ("1h30m", 1e9 - 5400),
        ("99999d", 0.0),  # before all
        ("2026-05-03", 1777766400.0),
        ("2026-05-03T14:00:00Z", 1777816800.0),
        ("2026-05-03 14:00", 1777816800.0),
        ("2026-05-03T16:00:00.5+02:00", 1777816800.5),
    ],
)
def test_moment_is_so_long_ago_or_a_time_in_utc(text, moment):
    assert notation.moment(text, 1e9) == moment


@pytest.mark.parametrize(
    "value",
    [
        "",
        "5",
        5,
        None,
        "now",
        "20260503",
        "2026-02-30",
        "0001-01-01",
        "9999-12-31",
        "2026-W10",
        "2026-05-03T25:00",
        "٢h",
    ],
)
def test_what_is_no_moment_is_refused(value):
    with pytest.raises(ValueError, match="is not a time: write"):
        notation.moment(value, 1e9)


@pytest.mark.parametrize(
    ("value", "size"), [("50M", 50 * 2**20), ("1G", 2**30), ("512", 512), (7, 7), ("0", 0), ("2T", 2**41)]
)
def test_size_is_bytes(value, size):
    assert notation.size(value) == size


@pytest.mark.parametrize("value", ["", "M", "5MB", "1.5M", -1, True, 2.0, None])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(ValueError, match="is not a size"):
        notation.size(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mx.example:25", ("mx.example", 25)),
        ("127.0.0.1:2600", ("127.0.0.1", 2600)),
        ("[2001:DB8::1]:26", ("2001:db8::1", 26)),
        ("[::1]", ("::1", 53)),
        ("::1", ("::1", 53)),
        ("127.0.0.1", ("127.0.0.1", 53)),
    ],
)
def test_host_and_port(text, expected):
    assert notation.host_port(text, 53) == expected


@pytest.mark.parametrize(
    "text", ["", "h", "h:", "h:0", "h:65536", "h:x", ":25", "[::1", "[::1]25", "[h]:25", "a b:25", 25]
)
def test_host_without_a_good_port_is_refused(text):
    with pytest.raises(ValueError, match="is not"):
        notation.host_port(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:465", notation.Endpoint("tcp", 465)),
        ("tcp:port=465:interface=127.0.0.1", notation.Endpoint("tcp", 465, "127.0.0.1")),
        (r"tcp6:465:interface=\:\:1", notation.Endpoint("tcp6", 465, "::1")),
        ("unix:/run/relayd/in.sock:mode=660", notation.Endpoint("unix", path="/run/relayd/in.sock")),
        (r"unix:/run/a\:b", notation.Endpoint("unix", path="/run/a:b")),
    ],
)
def test_endpoint_is_understood(text, expected):
    assert notation.endpoint(text) == expected


@given(st.text())
def test_endpoint_parser_raises_nothing_but_value_errors(text):
    try:
        notation.endpoint(text)
    except ValueError:
        return
    assert text.partition(":")[0] in ("tcp", "tcp6", "unix", "systemd")


@pytest.mark.parametrize(
    ("client", "inside"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("10.2.0.0", False),
        ("2001:db8::5", True),
        ("::1", False),
        ("", False),
    ],
)
def test_client_lies_within_networks_of_its_family(client, inside):
    assert notation.within(client, ("10.1.0.0/16", "2001:db8::/32")) is inside


def test_name_is_safe_to_put_into_queue_names_and_commands():
    assert notation.name("crm-1_eu@x.y") == "crm-1_eu@x.y"
    for bad in ("", "-x", "a b", "a/b", "a\n", "x" * 65, None):
        with pytest.raises(ValueError, match="is not a name"):
            notation.name(bad)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("newsletter", ("", "")),
        ("account:crm/newsletter", ("account", "crm")),
        ("connection:crm-1@x.y/own", ("connection", "crm-1@x.y")),
    ],
)
def test_a_suppression_list_is_named_after_its_owner(name, owner):
    assert notation.list_name(name) == name and notation.list_owner(name) == owner


@pytest.mark.parametrize(
    "text", ["", "a b", "a/b", "crm:x", "stream:crm/x", "account:/x", "account:crm/", "account:crm/a/b", None]
)
def test_what_names_no_suppression_list_is_refused_with_the_forms(text):
    with pytest.raises(ValueError, match="write NAME, account:ACCOUNT/NAME or connection:LOGIN/NAME"):
        notation.list_name(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2h", 1_797_000_000.0 - 7200),
        ("2026-12-11", 1_796_947_200.0),
        ("2026-12-11T14:40", 1_797_000_000.0),
        ("2026-12-11T14:40:00Z", 1_797_000_000.0),
        ("2026-12-11T17:40:00+03:00", 1_797_000_000.0),
    ],
)
def test_a_moment_is_a_time_or_how_long_ago(text, found):
    assert notation.moment(text, 1_797_000_000.0) == found


@pytest.mark.parametrize("text", ["yesterday", "", "7", None, 5, "2026-13-01"])
def test_what_is_no_moment_is_refused_with_what_to_write(text):
    with pytest.raises(ValueError, match="is not a time: write"):
        notation.moment(text, 1_797_000_000.0)
