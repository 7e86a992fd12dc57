"""What holds towards a destination, and where it was said."""

from pathlib import Path

import pytest

from relayd import config
from relayd.destinations import Destinations
from relayd.shaping.limits import Limits, rate
from tests.test_config import NODE

TABLES = """
[provider.gmail]
match = ["*.google.com"]
connections = 10
rate = "50/s"
source = { rate = "100/s" }

[site."x.example"]
rate = "5/s"
tls = "verify"
account = { rate = "1/s" }

[site."l.google.com"]
deliveries_per_session = 3

[egress]
connections = 7
pool = { connections = 90 }
"""


@pytest.fixture
def loaded(tmp_path: Path) -> config.Config:
    (tmp_path / "relayd.toml").write_text(NODE + TABLES)
    return config.load(tmp_path / "relayd.toml")


def test_the_nearest_table_says_what_holds_for_a_path_key_by_key(loaded: config.Config) -> None:
    made = Destinations(loaded)
    other = made.policy("o.example", ("mx.o.example",)).terms
    assert (other.limits.connections, other.limits.rate, other.names, other.group) == (7, None, (), "")
    gmail = made.policy("y.example", ("aspmx.google.com",))
    assert gmail.terms.limits == Limits(10, rate("50/s"), deliveries_per_session=100) and gmail.tls == "may"
    assert (gmail.terms.names, gmail.terms.group) == (("gmail",), "gmail")
    own = made.policy("x.example", ("aspmx.google.com",))
    assert own.terms.limits == Limits(10, rate("5/s"), deliveries_per_session=100) and own.tls == "verify"
    assert own.terms.names == ("gmail", "site x.example")
    hosts = made.policy("z.example", ("gmail-smtp-in.l.google.com",)).terms
    assert hosts.limits == Limits(10, rate("50/s"), deliveries_per_session=3)


def test_limits_of_whole_sources_pools_and_accounts_hold_side_by_side(loaded: config.Config) -> None:
    terms = Destinations(loaded).policy("x.example", ("aspmx.google.com",)).terms
    assert [layer.name for layer in terms.layers] == ["[egress]", "[provider.gmail]", "[site.x.example]"]
    general, gmail, own = terms.layers
    assert (general.pool.connections, gmail.source.rate, own.account.rate) == (90, rate("100/s"), rate("1/s"))


def test_what_one_domain_says_of_itself_changes_nothing_for_others_on_the_same_hosts(loaded: config.Config) -> None:
    made = Destinations(loaded)
    assert made.policy("y.example", ("aspmx.google.com",)) is made.policy("w.example", ("aspmx.google.com",))
    assert made.policy("x.example", ("aspmx.google.com",)) != made.policy("y.example", ("aspmx.google.com",))


def test_a_provider_is_who_runs_the_preferred_host(loaded: config.Config) -> None:
    made = Destinations(loaded)
    assert made.provider(("mx.own.example", "aspmx.google.com")) == ""
    assert made.provider(("aspmx.google.com", "mx.own.example")) == "gmail"
    assert made.provider(("google.com",)) == "" and made.provider(()) == ""


def test_every_limit_can_say_its_file_and_line(loaded: config.Config, tmp_path: Path) -> None:
    rows = Destinations(loaded).explain("x.example", ("aspmx.google.com",))
    text = (tmp_path / "relayd.toml").read_text().splitlines()
    found = {(row["scope"], row["limit"]): row for row in rows}
    for key, value, table, line in (
        (("path", "connections"), 10, "[provider.gmail]", "connections = 10"),
        (("path", "rate"), "5/s", "[site.x.example]", 'rate = "5/s"'),
        (("source", "rate"), "100/s", "[provider.gmail]", 'source = { rate = "100/s" }'),
        (("pool", "connections"), 90, "[egress]", "pool = { connections = 90 }"),
    ):
        row = found[key]
        file, _, number = row["where"].rpartition(":")
        assert (row["value"], row["table"], text[int(number) - 1]) == (value, table, line)
        assert file == str(tmp_path / "relayd.toml")
    default = found["path", "deliveries_per_session"]
    assert (default["value"], default["where"]) == (100, "default")


@pytest.mark.parametrize(
    ("table", "key", "word"),
    [
        ('[provider.gmail]\nmatch = ["*.google.com"]\nrat = "1/s"', "provider.gmail.rat", "did you mean"),
        ("[provider.gmail]\nrate = '1/s'", "provider.gmail.match", "is missing"),
        ('[site."x.example"]\nhours = "8 to 5"', "site.x.example.hours", "write"),
        ('[egress]\nsource = { rate = "quick" }', "egress.source", "is not a rate"),
        ('[egress]\naccount = { connection_rate = "1/s" }', "egress.account", "no limit here"),
        ('[egress]\nbytes = "10/s/s"', "egress.bytes", "is not a volume"),
    ],
)
def test_a_faulty_limit_is_told_with_file_and_key(tmp_path: Path, table: str, key: str, word: str) -> None:
    (tmp_path / "relayd.toml").write_text(NODE + table)
    with pytest.raises(config.ConfigError) as raised:
        config.load(tmp_path / "relayd.toml")
    (fault,) = raised.value.faults
    assert (fault.file, fault.key) == (str(tmp_path / "relayd.toml"), key) and word in fault.text
