"""The configuration: what loads, what is filled in, and what each fault is called."""

import datetime
import re
import shutil
import tomllib
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from relayd import config
from relayd.config import ConfigError, Routes, checks, control_path, load
from relayd.reputation import Rule
from relayd.shaping import rules
from relayd.validation import BULK, OFF, Rules
from relayd.warmup import Plan

EXAMPLE = Path(__file__).parent.parent / "etc" / "relayd.toml"
NODE = '[node]\nname = "mx1.relay.example"\nspool = "spool"\ncontrol = "control.sock"\n'
POOLS = NODE + "[source.a]\n[stream.s]\npool = 'p'\n"
RELAY = """
[[listener]]
service = "relay"
listen = "tcp:2525"
allow = ["127.0.0.1/32"]
account = "crm"
stream = "default"
"""
FEED = NODE + '[feed.f]\ntype = "file"\n'
REDIS = FEED.replace("file", "redis")
SUBMISSIONS = '[[listener]]\nservice = "submissions"\nlisten = "tcp:465"\n'


def written(directory: Path, text: str, **more: str) -> Path:
    (directory / "relayd.toml").write_text(text)
    for name, part in more.items():
        (directory / "conf.d").mkdir(exist_ok=True)
        (directory / "conf.d" / f"{name}.toml").write_text(part)
    return directory / "relayd.toml"


def faults(path: Path) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        load(path)
    return {fault.key: fault.text for fault in raised.value.faults}


def pair(directory: Path, name: str = "relay") -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    crt, pem = directory / f"{name}.crt", directory / f"{name}.key"
    crt.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    pem.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return crt, pem


def with_tls(crt: Path | str, key: Path | str) -> str:
    return NODE + f'[tls]\ncertificate = "{crt}"\nkey = "{key}"\n' + SUBMISSIONS


def example(tmp_path: Path, *, everything: bool) -> str:
    crt, key = pair(tmp_path)
    text = EXAMPLE.read_text()
    text = text.replace("/etc/relayd/tls/fullchain.pem", str(crt)).replace("/etc/relayd/tls/privkey.pem", str(key))
    return re.sub(r"(?m)^#(?=[\[a-z])", "", text) if everything else text


@pytest.mark.parametrize("everything", [False, True])
def test_example_loads_as_shipped_and_with_everything_switched_on(tmp_path, everything):
    loaded = load(written(tmp_path, example(tmp_path, everything=everything)))
    assert [door.service for door in loaded.listener] == ["submissions", "submission", "relay"]
    assert (
        bool(loaded.route)
        == bool(loaded.sandbox)
        == bool(loaded.dkim)
        == bool(loaded.auth)
        == bool(loaded.api)
        == bool(loaded.filter)
        == bool(loaded.metrics)
        == bool(loaded.feed)
        == everything
    )


def test_example_names_every_key_that_exists_and_no_other_default(tmp_path):
    raw = tomllib.loads(example(tmp_path, everything=True))
    shown = {
        config.Node: raw["node"],
        config.TLS: raw["tls"],
        config.Api: raw["api"],
        config.Auth: raw["auth"],
        config.Filter: raw["filter"],
        config.Suspicion: raw["suspicion"],
        config.Listener: {**raw["listener"][2], **raw["listener"][0]},
        config.Source: raw["source"]["t1"],
        Plan: raw["warmup"]["default"],
        config.Pool: raw["pool"]["transactional"],
        config.Provider: raw["provider"]["bigprovider"],
        config.Stream: raw["stream"]["transactional"],
        config.Route: raw["route"][0],
        config.NextHop: raw["fallback"]["provider"],
        config.Dkim: raw["dkim"]["sender.example"],
        config.Login: raw["login"],
        config.Feedback: raw["feedback"],
        config.Blocklists: raw["blocklists"],
        config.Statistics: raw["statistics"],
        config.Resolver: raw["resolver"],
        config.Validation: raw["validation"],
        config.Retry: raw["retry"],
        config.Egress: raw["egress"],
        config.Reputation: raw["reputation"],
        Rule: raw["reputation"]["account"],
        config.FileFeed: raw["feed"]["log"],
        config.RedisFeed: raw["feed"]["queue"],
        config.Exports: raw["exports"],
        config.Sandbox: raw["sandbox"],
        config.Metrics: raw["metrics"],
    }
    assert {key for table in raw["reaction"].values() for key in table} == set(rules._KEYS)
    for kind, table in shown.items():
        assert set(table) == {field.name for field in msgspec.structs.fields(kind)}
    loaded = load(written(tmp_path, example(tmp_path, everything=True)))
    slow = raw["reaction"]["bigprovider-slow"]
    least = {key: slow[key] for key in ("provider", "codes", "enhanced", "stages", "text", "after", "action", "for")}
    least |= {key: slow[key] for key in ("rate", "connections", "connection_rate", "origin")}
    assert loaded.reaction["bigprovider-slow"] == rules.parse("bigprovider-slow", least)
    assert loaded.reaction["bigprovider-blocked"].move
    assert (loaded.resolver, loaded.retry, loaded.egress) == (config.Resolver(), config.Retry(), config.Egress())
    assert (loaded.login, loaded.blocklists) == (config.Login(), config.Blocklists())
    assert loaded.statistics == config.Statistics()
    assert loaded.feedback == config.Feedback()
    assert loaded.reputation == config.Reputation()
    assert loaded.auth == config.Auth(url=raw["auth"]["url"])
    certificate = {key: raw["tls"][key] for key in ("certificate", "key")}
    assert loaded.api == config.Api(listen=raw["api"]["listen"], **certificate)
    assert loaded.filter == config.Filter(url=raw["filter"]["url"])
    assert loaded.suspicion == config.Suspicion()
    assert loaded.feed == {
        "log": config.FileFeed(type="file", path=raw["feed"]["log"]["path"]),
        "queue": config.RedisFeed(type="redis", url=raw["feed"]["queue"]["url"]),
    }
    assert loaded.exports == config.Exports()
    assert msgspec.structs.replace(loaded.warmup["default"], caps_for={}) == Plan()
    assert (loaded.validation, loaded.stream["transactional"].validation) == (config.Validation(), OFF)
    plain = config.Listener(service="submissions", listen="tcp:465")
    assert loaded.listener[0] == plain
    assert (loaded.node.min_free, loaded.node.drain) == (512 * 2**20, 30.0)
    assert loaded.stream["transactional"].priority == config.Stream().priority


def test_config_without_sources_pools_and_streams_has_one_of_each_called_default(tmp_path):
    loaded = load(written(tmp_path, NODE))
    assert loaded.source == {"default": config.Source(address=(), ehlo="mx1.relay.example")}
    assert loaded.pool["default"].sources == {"default": 1}
    assert loaded.stream["default"].pool == "default"
    assert loaded.node.default_stream == "default"


def test_sources_without_pool_make_one_pool_of_equal_weights(tmp_path):
    text = NODE + '[source.a]\naddress = "192.0.2.1"\n[source.b]\naddress = ["192.0.2.2", "2001:DB8::2"]\n'
    loaded = load(written(tmp_path, text))
    assert loaded.pool["default"].sources == {"a": 1, "b": 1}
    assert loaded.source["b"].address == ("192.0.2.2", "2001:db8::2")


def test_stream_takes_the_retries_of_the_relay_unless_it_has_its_own(tmp_path):
    retry = '[retry]\nschedule = ["1m"]\nexpire = "1h30m"\n'
    streams = '[stream.a]\n[stream.b]\nschedule = ["2s", "3s"]\nexpire = "1d"\n'
    loaded = load(written(tmp_path, NODE + retry + streams))
    assert (loaded.stream["a"].schedule, loaded.stream["a"].expire) == ((60.0,), 5400.0)
    assert (loaded.stream["b"].schedule, loaded.stream["b"].expire) == ((2.0, 3.0), 86400.0)


def test_a_source_is_warm_unless_it_names_a_plan(tmp_path):
    text = "[source.a]\n[source.b]\nwarmup = 'slow'\n[warmup.slow]\ncaps = { first = 10, growth = 2, days = 3 }\n"
    loaded = load(written(tmp_path, NODE + text + "[warmup.slow.caps_for]\ngmail = [5, 10]\n"))
    assert loaded.warming() == {"b": Plan(caps=(10, 20, 40), caps_for={"gmail": (5, 10)})}


def test_a_stream_validates_nothing_unless_it_says_so(tmp_path):
    text = "[stream.a]\n[stream.b]\nvalidation = 'bulk'\n[stream.c.validation]\nrole = 'accept'\ntypo = 'drop'\n"
    streams = load(written(tmp_path, NODE + text, later="[stream.c.validation]\ntypo = 'refuse'")).stream
    assert (streams["a"].validation, streams["b"].validation) == (OFF, BULK)
    assert streams["c"].validation == Rules("refuse", "refuse", "refuse", "accept", "refuse", "refuse")


def test_first_stream_is_the_default_and_stands_in_for_unknown_ones(tmp_path):
    loaded = load(written(tmp_path, NODE + "[stream.first]\n[stream.second]\n"))
    assert [loaded.stream_named(name) for name in ("", "second", "gone")] == ["first", "second", "first"]


def test_relay_clients_act_for_the_listeners_account_or_their_own(tmp_path):
    more = ', { net = "10.1.0.0/16", account = "crm2" }, { net = "::1", stream = "default" }]'
    loaded = load(written(tmp_path, NODE + RELAY.replace('/32"]', '/32"' + more)))
    assert loaded.listener[0].allow == (
        config.Allow("127.0.0.1/32", "crm", "default"),
        config.Allow("10.1.0.0/16", "crm2", "default"),
        config.Allow("::1/128", "crm", "default"),
    )
    assert loaded.accounts() == {"crm", "crm2"}


def test_paths_are_taken_from_the_files_directory(tmp_path):
    path = written(tmp_path, NODE)
    assert load(path).node.spool == str(tmp_path / "spool")
    assert control_path(path) == str(tmp_path / "control.sock")


def test_conf_d_merges_tables_and_appends_arrays_in_lexical_order(tmp_path):
    path = written(
        tmp_path,
        NODE + '[egress]\nport = 26\n[[route]]\ndomain = "a.example"\nvia = "h1:25"\n',
        b='[egress]\nconnections = 3\n[[route]]\ndomain = "c.example"\nvia = "h3:25"\n',
        a='[egress]\nport = 27\nconnections = 2\n[[route]]\ndomain = "b.example"\nvia = "h2:25"\n',
    )
    loaded = load(path)
    assert (loaded.egress.port, loaded.egress.connections) == (27, 3)
    assert [route.via for route in loaded.route] == ["h1:25", "h2:25", "h3:25"]


def shaped(directory: Path, **files: str) -> None:
    (directory / "shaping.d").mkdir()
    for name, text in files.items():
        (directory / "shaping.d" / f"{name}.toml").write_text(text)


REACTION = '[reaction.slow]\ncodes = "421"\naction = "limit"\nrate = "10/min"\nfor = "1h"\n'


def test_shaping_d_comes_first_so_that_everything_else_overrides_it_key_by_key(tmp_path):
    shaped(tmp_path, a=REACTION, b='[reaction.slow]\nfor = "2h"\n[provider.big]\nmatch = ["*.big.example"]\n')
    main = NODE + '[reaction.slow]\nrate = "5/min"\nprovider = "big"\n[site."a.example"]\ntls = "off"\n'
    loaded = load(written(tmp_path, main, x='[reaction.slow]\nrate = "7/min"\nenabled = false\n'))
    slow = loaded.reaction["slow"]
    assert (str(slow.limits.rate), slow.duration, slow.provider, slow.enabled) == ("7/m", 7200, "big", False)
    assert loaded.provider["big"].match == ("*.big.example",) and loaded.site["a.example"].tls == "off"


def test_nothing_is_what_takes_back_what_shaping_d_says(tmp_path):
    shaped(tmp_path, a=REACTION)
    change = '[reaction.slow]\naction = "suspend"\n'
    path = written(tmp_path, NODE + change)
    assert faults(path)["reaction.slow.rate"].startswith('belongs to action "limit", not to')
    assert load(written(tmp_path, NODE + change + 'rate = ""\n')).reaction["slow"].action == "suspend"


def test_shaping_d_holds_shaping_only_and_a_fault_names_its_file(tmp_path):
    shaped(tmp_path, a="[node]\nname = 'x'\n[[route]]\n[reaction.b]\nfor = 5\n", b="[egres]\nport = 1\n")
    with pytest.raises(ConfigError) as raised:
        load(written(tmp_path, NODE))
    found = {fault.key: (Path(fault.file).name, fault.text) for fault in raised.value.faults}
    only = "does not belong here: a file of shaping has [provider.NAME], [site.NAME], [reaction.NAME] only"
    assert found == {
        "node": ("a.toml", only),
        "route": ("a.toml", only),
        "egres": ("b.toml", only),
        "reaction.b.for": ("a.toml", '5 is not a duration: write "90s", "5m", "1h30m" or "3d"'),
    }


def test_shaping_d_that_is_no_toml_is_reported_with_its_file(tmp_path):
    shaped(tmp_path, a="[reaction")
    with pytest.raises(ConfigError, match=r"shaping\.d/a\.toml: is not TOML"):
        load(written(tmp_path, NODE))


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("[reaction.go]\ncodes = '421'\naction = 'move'\nto = 'p'\n", "reaction.go.to", "there is no pool 'p'"),
        (
            "[reaction.slow]\nprovider = 'gmial'\n",
            "reaction.slow.provider",
            "there is no provider 'gmial' .did you mean",
        ),
        ("[reaction.slow]\nenabled = 0\n", "reaction.slow.enabled", "neither true nor false"),
        ("[reaction.slwo]\nenabled = false\n", "reaction.slwo.action", "nothing to switch off"),
        ("[reaction.'a b']\ncodes = '421'\n", "reaction.a b", "is not a name"),
        ("[[reaction]]\ncodes = '421'\n", "reaction", "holds named tables"),
        ("[provider.two]\nmatch = ['*.g.example']\n", "provider.two.match", "is in .provider.gmail. already"),
        ("[provider.two]\nmatch = ['*']\n", "provider.two.match", "names no mail hosts"),
        ("[provider.two]\n", "provider.two.match", "is missing"),
        ("[provider.two]\nmatch = '*.g.example'\n", "provider.two.match", "is not a list"),
    ],
)
def test_one_bad_rule_or_provider_refuses_the_whole(tmp_path, text, key, words):
    shaped(tmp_path, a=REACTION + "[provider.gmail]\nmatch = ['*.g.example']\n")
    if text.startswith("[[reaction]]"):
        shutil.rmtree(tmp_path / "shaping.d")
    found = faults(written(tmp_path, NODE, x=text))
    assert list(found) == [key] and re.search(words, found[key])


def test_fault_names_the_file_that_the_key_is_from(tmp_path):
    route = '[[route]]\ndomain = "*"\n'
    path = written(tmp_path, NODE + route + 'via = "h:25"\n', x="[node]\ndrain = 5\n" + route)
    with pytest.raises(ConfigError) as raised:
        load(path)
    found = {fault.key: Path(fault.file).name for fault in raised.value.faults}
    assert found == {"node.drain": "x.toml", "route[1].via": "x.toml"}


def test_every_faulty_table_is_reported_with_its_first_fault(tmp_path):
    text = '[node]\nname = "x y"\nspool = 3\ncontrol = "c"\n[egress]\nprot = 25\nidle = "soon"\n'
    text += "[sourc.a]\n[pool.p]\nsources = { t1 = 0 }\n"
    found = faults(written(tmp_path, text))
    assert found == {
        "node.name": "'x y' is not a host name",
        "egress.prot": 'unknown key (did you mean "port"?)',
        "sourc": 'unknown table (did you mean "source"?)',
        "pool.p.sources": "0 is not a whole number, at least 1",
    }


def test_error_reads_as_file_key_and_text_on_a_line_each(tmp_path):
    path = written(tmp_path, NODE.replace("mx1.relay.example", ""))
    with pytest.raises(ConfigError, match=re.escape(f"{path}: node.name: '' is not a host name")):
        load(path)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("", "node.name", "is missing"),
        ("node = 3", "node", "must be a table"),
        ("listener = 3\n" + NODE, "listener", "write [[listener]]"),
        (NODE + "[source]\naddress = '192.0.2.1'", "source", "write [source.NAME]"),
        (NODE + "[source.'a b']", "source.a b", "is not a name"),
        (NODE + "[source.a]\naddress = '192.0.2.300'", "source.a.address", "is not an IP address"),
        (NODE + "[source.a]\naddress = ['192.0.2.1', '192.0.2.2']", "source.a.address", "one address per family"),
        (NODE + "[source.a]\nehlo = 'a b'", "source.a.ehlo", "is not a host name"),
        (NODE + "[source.t1]\n[pool.p]\nsources = { t2 = 1 }", "pool.p.sources", 'did you mean "t1"?'),
        (NODE + "[source.a]\nwarmup = 'slwo'\n[warmup.slow]", "source.a.warmup", 'did you mean "slow"?'),
        (NODE + "[warmup.slow]\ncaps = [50, 40]", "warmup.slow.caps", "day 2 has 40, less than the day before"),
        (NODE + "[warmup.slow.caps_for]\ngmail = []", "warmup.slow.caps_for", "gmail: [] are no caps"),
        (NODE + "[warmup.slow]\nblocks = 2", "warmup.slow.blocks", "2 is not a share, 0 to 1: write 0.1 for 10 %"),
        (NODE + "[warmup.slow]\nday_share = -0.5", "warmup.slow.day_share", "is not a share"),
        (NODE + "[warmup.slow]\nsamples = 0", "warmup.slow.samples", "at least 1"),
        (NODE + "[warmup.slow]\nstop = 'yes'", "warmup.slow.stop", "'yes' is of the wrong type: bool expected"),
        (NODE + "[warmup.slow]\nlongest_wait = 4", "warmup.slow.longest_wait", "is not a duration"),
        (NODE + "[warmup.slow]\nshares = 1", "warmup.slow.shares", "unknown key"),
        (NODE + "[pool.p]\nsources = { }", "pool.p.sources", "names no source"),
        (POOLS + '[pool.p]\nsources = { a = 1 }\noverflow = "x"', "pool.p.overflow", "there is no pool 'x'"),
        (POOLS + '[pool.p]\nsources = { a = 1 }\noverflow = "p"', "pool.p.overflow", "is the pool itself"),
        (
            POOLS + '[pool.p]\nsources = { a = 1 }\noverflow = "q"\n[pool.q]\nsources = { a = 1 }\noverflow = "p"',
            "pool.p.overflow",
            "q has an overflow itself",
        ),
        (NODE + "[stream.s]\nfallback = 'x'", "stream.s.fallback", "there is no fallback 'x'"),
        (NODE + "[stream.s]\nfallback_after = 0", "stream.s.fallback_after", "at least 1"),
        (NODE + "[pool.p]\nsources = { a = true }", "pool.p.sources", "not a whole number"),
        (NODE + "[stream.s]\npool = 'defualt'", "stream.s.pool", 'did you mean "default"?'),
        (NODE + "[stream.s]\npool_for = 'p'", "stream.s.pool_for", 'is not { "*.DOMAIN" = "POOL" }'),
        (NODE + "[stream.s]\npool_for = { '*' = 'default' }", "stream.s.pool_for", 'write pool = "POOL"'),
        (NODE + "[stream.s]\npool_for = { '*.r u' = 'default' }", "stream.s.pool_for", "is not a host name"),
        (NODE + "[stream.s]\npool_for = { '*.ru' = 'defualt' }", "stream.s.pool_for", 'did you mean "default"?'),
        (NODE + "[stream.s]\npriority = 101", "stream.s.priority", "0 to 100"),
        (NODE + "[stream.s]\nvalidation = 'strict'", "stream.s.validation", 'write "off", "bulk"'),
        (NODE + "[stream.s.validation]\nrolle = 'drop'", "stream.s.validation", 'did you mean "role"?'),
        (NODE + "[validation]\nrole = 'f'", "validation.role", 'did you mean "roles"?'),
        (NODE + "[validation]\nroles = 'none.txt'", "validation.roles", "none.txt: No such file or directory"),
        (
            NODE + "[validation]\ntypos = 'relayd.toml'",
            "validation.typos",
            "relayd.toml, line 1: '[node]' is not a misspelt",
        ),
        (NODE + "[feed.f]\npath = 'f'", "feed.f.type", "is missing"),
        (FEED.replace("file", "flie") + "path = 'f'", "feed.f.type", "'flie' is none of file, redis"),
        (FEED, "feed.f.path", "is missing"),
        (FEED + "path = 'f'\nevents = ['bounce']", "feed.f.events", """no event 'bounce' (did you mean "bounced"?)"""),
        (FEED + "path = 'f'\naccounts = ['a b']", "feed.f.accounts", "is not a name"),
        (FEED + "path = 'f'\nrotate = 0", "feed.f.rotate", "0 is no size at all"),
        (FEED + "path = 'f'\n[feed.g]\ntype = 'file'\npath = './f'", "feed.g.path", "is written by [feed.f] already"),
        (REDIS + "url = 'http://h'", "feed.f.url", "is not the URL of a Redis"),
        (REDIS + "url = 'redis://127.0.0.1/x'", "feed.f.url", "is not the URL of a Redis"),
        (
            REDIS + "url = 'redis://:secret@127.0.0.1'",
            "feed.f.url",
            "must hold no password: it goes into password_file",
        ),
        (REDIS + "url = 'redis://192.0.2.1'", "feed.f.url", "would send events to 192.0.2.1 in clear: write rediss://"),
        (REDIS + "url = 'redis://localhost'\npassword_file = 'none'", "feed.f.password_file", "none cannot be read"),
        (REDIS + "url = 'rediss://h'\nauthorities = 'none'", "feed.f.authorities", "No such file"),
        (NODE + "[retry]\nschedule = []", "retry.schedule", "names no wait"),
        (NODE + "[retry]\nschedule = ['0s']", "retry.schedule", "no time at all"),
        (NODE + "[retry]\nexpire = 3", "retry.expire", "is not a duration"),
        (NODE + "[egress]\nport = 70000", "egress.port", "1 to 65535"),
        (NODE + "[egress]\ntls = 'yes'", "egress.tls", "none of off, may, encrypt, verify"),
        (NODE + "[resolver]\nnameservers = ['127.0.0.1:x']", "resolver.nameservers", "is not host:port"),
        (NODE + "[resolver]\nnameservers = ['ns.example']", "resolver.nameservers", "is not an IP address"),
        (NODE + "[[route]]\ndomain = '*.'\nvia = 'h:25'", "route[0].domain", "is not a host name"),
        (NODE + "[[route]]\ndomain = '*'\nvia = 'h'", "route[0].via", "is not host:port"),
        (NODE + "default_stream = 'x'", "node.default_stream", "no stream 'x'"),
        (NODE + "min_free = '5 MB'", "node.min_free", "is not a size"),
        (NODE + "[[listener]]\nservice = 'smtp'\nlisten = 'tcp:25'", "listener[0].service", "is none of submissions"),
        (NODE + "[feedback]\naccept = '30d'", "feedback.accept", "'30d' is too short"),
        (NODE + "[feedback]\ndomain = 'a@b'", "feedback.domain", "is not a host name"),
        (NODE + "[stream.news]\nunsubscribe = 'header'", "stream.news.unsubscribe", "needs [feedback] domain"),
        (
            NODE + "[[listener]]\nservice = 'feedback'\nlisten = 'tcp:25'",
            "listener[0].service",
            "needs [feedback] domain",
        ),
        (
            NODE + "[feedback]\ndomain = 'b.example'\n" + RELAY.replace('"relay"', '"feedback"'),
            "listener[0].allow",
            "belongs to a relay listener only",
        ),
        (NODE + "[stream.s]\nfeeds = 'all'", "stream.s.feeds", "stops every stream"),
        (NODE + "[stream.s]\nsuppress = { hard = -1 }", "stream.s.suppress", "hard: -1 is not a whole number"),
        (NODE + "[stream.s]\nsuppress = { hart = 1 }", "stream.s.suppress", "there is no key 'hart' (did you mean"),
        (NODE + "[feedback]\nrules = ['none.toml']", "feedback.rules", "none.toml cannot be read"),
        (NODE + SUBMISSIONS, "listener[0].service", "needs a [tls] table"),
        (NODE + RELAY.replace('["127.0.0.1/32"]', "[]"), "listener[0].allow", "names no client"),
        (NODE + RELAY.replace("127.0.0.1/32", "127.0.0.1/8"), "listener[0].allow", "has bits behind its prefix"),
        (NODE + RELAY.replace('["127.0.0.1/32"]', "[{ nett = '::1' }]"), "listener[0].allow", 'did you mean "net"?'),
        (NODE + RELAY.replace('["127.0.0.1/32"]', "[{ account = 'a' }]"), "listener[0].allow", "names no net"),
        (NODE + RELAY.replace('account = "crm"', ""), "listener[0].account", "is missing"),
        (NODE + RELAY.replace('stream = "default"', ""), "listener[0].stream", "is missing"),
        (NODE + RELAY.replace('stream = "default"', 'stream = "x"'), "listener[0].stream", "no stream 'x'"),
        (NODE + RELAY.replace("tcp:2525", "tcp:smtp"), "listener[0].listen", "has no port"),
        (NODE + RELAY.replace("tcp:2525", "ssl:465"), "listener[0].listen", "no endpoint to listen on"),
        (NODE + RELAY.replace("tcp:2525", "tcp:25:interface=lo"), "listener[0].listen", "is not an IP address"),
        (NODE + RELAY + "bare = 'fix'", "listener[0].bare", "is none of reject, normalise"),
        (NODE + RELAY + "max_size = -1", "listener[0].max_size", "is not a size"),
        (NODE + "[auth]", "auth.url", "is missing"),
        (NODE + "[auth]\nurl = 'crm.example/login'", "auth.url", 'is not a URL: write "https://'),
        (NODE + "[auth]\nurl = 'https:///login'", "auth.url", "is not a URL"),
        (NODE + "[auth]\nurl = 'https://crm.example:port/'", "auth.url", "is not a URL"),
        (NODE + "[auth]\nurl = 'https://crm.example/a b'", "auth.url", "is not a URL"),
        (NODE + "[auth]\nurl = 'ftp://crm.example/'", "auth.url", "is not a URL"),
        (NODE + "[auth]\nurl = 'http://crm.example/'", "auth.url", "would send passwords to crm.example in clear"),
        (NODE + "[auth]\nurl = 'http://192.0.2.1/'", "auth.url", "would send passwords to 192.0.2.1 in clear"),
        (NODE + "[auth]\nurl = 'https://me:pw@crm.example/'", "auth.url", "goes into token_file"),
        (NODE + "[api]", "api.listen", "is missing"),
        (NODE + "[api]\nlisten = 'tcp:8443'", "api.certificate", "tokens would come in clear"),
        (NODE + "[api]\nlisten = 'tcp:8443:interface=192.0.2.1'", "api.certificate", "tcp:8443:interface=127.0.0.1"),
        (NODE + "[api]\nlisten = 'systemd:domain=INET:index=0'", "api.certificate", "tokens would come in clear"),
        (NODE + "[api]\nlisten = 'unix:/tmp/api'", "api.listen", "write tcp:8443; [node] control is the socket"),
        (NODE + "[api]\nlisten = 'tcp:8443'\ncertificate = 'x'", "api.key", "certificate and key go together"),
        (NODE + "[api]\nlisten = 'tcp:8443'\nkey = 'x'", "api.certificate", "certificate and key go together"),
        (NODE + "[api]\nlisten = 'tcp:8443'\ncertificate = 'x'\nkey = 'x'", "api.certificate", "No such file"),
        (NODE + "[api]\nlisten = 'tcp:8443'\nrate = 'fast'", "api.rate", "is not a rate"),
        (NODE + "[api]\nlisten = 'tcp:8443'\nallow = ['10.1.2.3/8']", "api.allow", "behind its prefix"),
        (NODE + RELAY + "[api]\nlisten = 'tcp:2525:interface=127.0.0.1'", "api.listen", "is taken by listener[0]"),
        (NODE + "[filter]", "filter.url", "is missing"),
        (NODE + "[filter]\nurl = '127.0.0.1:11333'", "filter.url", 'write "http://127.0.0.1:11333/checkv2"'),
        (NODE + "[filter]\nurl = 'http://192.0.2.1/checkv2'", "filter.url", "would send mail to 192.0.2.1 in clear"),
        (NODE + "[filter]\nurl = 'https://f.example/'\nauthorities = 'none'", "filter.authorities", "No such file"),
        (NODE + "[filter]\nurl = 'https://f.example/'\non_error = 'maybe'", "filter.on_error", "none of open, closed"),
        (
            NODE + "[filter]\nurl = 'https://f.example/'\nactions = { rejct = 'mark' }",
            "filter.actions",
            'no action of the filter (did you mean "reject"?)',
        ),
        (
            NODE + "[filter]\nurl = 'https://f.example/'\nactions = { reject = 'bin' }",
            "filter.actions",
            "is one of take, mark, defer, refuse",
        ),
        (
            NODE + "[filter]\nurl = 'https://f.example/'\nactions = { reject = ['bin'] }",
            "filter.actions",
            "one of take",
        ),
        (NODE + "[filter]\nurl = 'https://me:pw@f.example/'", "filter.url", "the filter is asked without one"),
        (NODE + "[suspicion]\ncalm = 70", "suspicion.calm", "above the threshold, 60"),
        (NODE + "[statistics]\nminutes = '100d'", "statistics.hours", "at least as long as minutes"),
        (NODE + "[statistics]\nhours = '2000d'", "statistics.hours", "at most as long as days"),
        (NODE + "[suspicion]\nthreshold = 101", "suspicion.threshold", "101"),
        (NODE + "[auth]\nurl = 'https://crm.example/'\ntoken_file = 'none'", "auth.token_file", "No such file"),
        (NODE + "[auth]\nurl = 'https://crm.example/'\ntoken_file = '/dev/null'", "auth.token_file", "no token"),
        (NODE + "[webhooks]\nauthorities = 'none'", "webhooks.authorities", "No such file"),
        (NODE + "[webhooks]\nallow = ['10.0.0.1/8']", "webhooks.allow", "bits behind its prefix"),
        (NODE + "[auth]\nurl = 'https://crm.example/'\nauthorities = 'none'", "auth.authorities", "No such file"),
        (NODE + "[auth]\nurl = 'https://crm.example/'\nauthorities = '/dev/null'", "auth.authorities", "no PEM"),
    ],
)
def test_fault_is_called_by_its_key_and_in_words(tmp_path, text, key, words):
    assert words in faults(written(tmp_path, text)).get(key, "")


@pytest.mark.parametrize("interface", ["127.0.0.1", "::1"])
def test_the_api_may_be_in_clear_for_this_machine(tmp_path, interface):
    listen = f"tcp:8443:interface={interface}".replace("::1", "\\:\\:1")
    api = load(written(tmp_path, NODE + f"[api]\nlisten = '{listen}'\n")).api
    assert api == config.Api(listen=listen)


def test_the_api_has_the_certificate_of_tls_unless_it_has_its_own(tmp_path):
    (tmp_path / "own").mkdir()
    (crt, key), (own, own_key) = pair(tmp_path), pair(tmp_path / "own")
    api = "[api]\nlisten = 'tcp:8443'\n"
    loaded = load(written(tmp_path, with_tls(crt, key) + api)).api
    assert (loaded.certificate, loaded.key) == (str(crt), str(key))
    given = api + f"certificate = '{own}'\nkey = '{own_key}'\n"
    loaded = load(written(tmp_path, with_tls(crt, key) + given)).api
    assert (loaded.certificate, loaded.key) == (str(own), str(own_key))
    crossed = api + f"certificate = '{own}'\nkey = '{key}'\n"
    assert "is not the key of" in faults(written(tmp_path, NODE + crossed))["api.key"]


@pytest.mark.parametrize(
    "url", ["https://crm.example/login?a=b", "http://127.0.0.1:8080/", "http://[::1]:8080/", "http://localhost/"]
)
def test_passwords_go_out_encrypted_or_to_this_machine(tmp_path, url):
    auth = load(written(tmp_path, NODE + f'[auth]\nurl = "{url}"\n')).auth
    assert auth == config.Auth(url=url)


def test_token_of_more_than_a_word_is_refused_and_not_shown(tmp_path):
    (tmp_path / "token").write_text("s3cret\nother\n")
    text = NODE + '[auth]\nurl = "https://crm.example/"\ntoken_file = "token"\n'
    (fault,) = faults(written(tmp_path, text)).values()
    assert "holds no token" in fault and "s3cret" not in fault
    (tmp_path / "token").write_text("s3cret\n")
    assert "s3cret" not in repr(load(written(tmp_path, text)))


def test_text_that_is_no_toml_is_reported_with_its_line(tmp_path):
    assert "line 2" in faults(written(tmp_path, "[node]\nname = \n"))[""]


def test_missing_file_is_a_fault_of_its_name(tmp_path):
    assert faults(tmp_path / "none.toml") == {"": "No such file or directory"}
    with pytest.raises(ConfigError, match=r"none\.toml"):
        control_path(tmp_path / "none.toml")


def test_control_path_does_without_the_rest_being_right(tmp_path):
    assert control_path(written(tmp_path, '[node]\ncontrol = "/run/x.sock"\n[tls]\nkey = "none"\n')) == "/run/x.sock"
    with pytest.raises(ConfigError, match=r"node\.control"):
        control_path(written(tmp_path, "[node]\n"))


def test_control_socket_path_ends_at_107_bytes(tmp_path):
    fits, longer = "/" + "x" * 106, "/" + "ж" * 53 + "x"
    assert load(written(tmp_path, NODE.replace("control.sock", fits))).node.control == fits
    assert "108 bytes long" in faults(written(tmp_path, NODE.replace("control.sock", longer)))["node.control"]


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("tcp:25", "tcp:port=25", True),
        ("tcp:25", "tcp:25:interface=127.0.0.1", True),
        ("tcp:25:interface=127.0.0.1", "tcp:25:interface=127.0.0.2", False),
        ("tcp:25", "tcp6:25", False),
        ("tcp:0", "tcp:0", False),
        ("unix:/tmp/a", "unix:/tmp/a", True),
        ("systemd:domain=INET:index=0", "systemd:domain=INET:index=1", False),
    ],
)
def test_two_listeners_cannot_share_a_port(tmp_path, one, other, clash):
    path = written(tmp_path, NODE + RELAY.replace("tcp:2525", one) + RELAY.replace("tcp:2525", other))
    if clash:
        assert "is taken by listener[0]" in faults(path)["listener[1].listen"]
    else:
        assert len(load(path).listener) == 2


def test_metrics_and_listener_cannot_share_a_port(tmp_path):
    path = written(tmp_path, NODE + RELAY + '[metrics]\nlisten = "tcp:2525:interface=127.0.0.1"\n')
    assert "is taken by listener[0]" in faults(path)["metrics.listen"]


@pytest.mark.parametrize("listen", ["tcp:9100", "tcp:9100:interface=192.0.2.1", "systemd:domain=INET:index=0"])
def test_metrics_that_others_can_reach_need_the_networks_that_may(tmp_path, listen):
    table = f'[metrics]\nlisten = "{listen}"\n'
    assert "name who may ask" in faults(written(tmp_path, NODE + RELAY + table))["metrics.allow"]
    loaded = load(written(tmp_path, NODE + RELAY + table + 'allow = ["10.0.0.0/8"]\n'))
    assert loaded.metrics.allow == ("10.0.0.0/8",)


@pytest.mark.parametrize(
    "listen", ["tcp:9100:interface=127.0.0.1", "tcp6:9100:interface=\\\\:\\\\:1", "unix:/run/m.sock"]
)
def test_metrics_for_this_machine_need_none(tmp_path, listen):
    loaded = load(written(tmp_path, NODE + RELAY + f'[metrics]\nlisten = "{listen}"\n'))
    assert loaded.metrics is not None and loaded.metrics.allow == ()


def test_sandbox_and_listener_cannot_share_a_port(tmp_path):
    path = written(tmp_path, NODE + RELAY + '[sandbox]\nlisten = "tcp:2525"\nmaildir = "m"\n')
    assert "is taken by listener[0]" in faults(path)["sandbox.listen"]


def test_ssh_is_off_until_it_has_somewhere_to_listen(tmp_path):
    assert load(written(tmp_path, NODE)).ssh is None
    found = load(written(tmp_path, NODE + '[ssh]\nlisten = "tcp:2222"\nauthorized_keys = "people"\n')).ssh
    assert (found.manhole, found.auth_time, found.authorized_keys) == ("off", 20.0, str(tmp_path / "people"))
    assert faults(written(tmp_path, NODE + "[ssh]\n")) == {"ssh.listen": "is missing"}
    assert "ssh.manhole" in faults(written(tmp_path, NODE + '[ssh]\nlisten = "tcp:2222"\nmanhole = "yes"\n'))
    path = written(tmp_path, NODE + RELAY + '[ssh]\nlisten = "tcp:2525"\n')
    assert "is taken by listener[0]" in faults(path)["ssh.listen"]


def test_beside_the_control_socket_there_is_room_for_those_of_ssh(tmp_path):
    long = "/" + "x" * 90 + "/c.sock"
    node = f'[node]\nname = "mx1.relay.example"\nspool = "spool"\ncontrol = "{long}"\n'
    assert load(written(tmp_path, node)).node.control == long
    assert "is longer than 86 bytes" in faults(written(tmp_path, node + '[ssh]\nlisten = "tcp:2222"\n'))["node.control"]


def test_listener_with_login_names_no_clients(tmp_path):
    path = written(tmp_path, with_tls(*pair(tmp_path)) + 'account = "crm"\n')
    assert faults(path) == {"listener[0].account": "belongs to a relay listener only"}


def test_tls_files_that_match_are_taken(tmp_path):
    crt, key = pair(tmp_path)
    assert load(written(tmp_path, with_tls(crt.name, key.name))).tls == config.TLS(certificate=str(crt), key=str(key))


def test_tls_files_are_looked_into(tmp_path):
    crt, key = pair(tmp_path)
    _, other = pair(tmp_path, "other")
    junk = tmp_path / "junk"
    junk.write_bytes(b"\xff nothing")
    for files, fault, words in [
        ((tmp_path / "none", key), "tls.certificate", "No such file"),
        ((junk, key), "tls.certificate", "holds no PEM certificate"),
        ((crt, tmp_path / "none"), "tls.key", "No such file"),
        ((crt, junk), "tls.key", "holds no PEM private key"),
        ((crt, other), "tls.key", "is not the key of"),
    ]:
        assert words in faults(written(tmp_path, with_tls(*files)))[fault]


def test_route_is_the_exact_domain_then_the_longest_suffix_then_any():
    def route(domain: str) -> config.Route:
        return config.Route(domain=domain, via="h:25")

    routes = Routes([route("*"), route("*.example"), route("*.a.example"), route("a.example")])
    for domain, expected in [
        ("a.example", "a.example"),
        ("x.a.example", "*.a.example"),
        ("y.x.a.example", "*.a.example"),
        ("b.example", "*.example"),
        ("example", "*"),
        ("elsewhere.test", "*"),
    ]:
        assert routes.find(domain).domain == expected
    assert Routes([route("a.example")]).find("b.example") is None
    assert Routes([]).find("b.example") is None


def test_first_of_two_routes_for_a_domain_counts():
    routes = Routes([config.Route(domain="a.example", via="one:25"), config.Route(domain="a.example", via="two:25")])
    assert routes.find("a.example").via == "one:25"


@pytest.mark.parametrize(
    ("package", "table", "key"),
    [
        ("zstandard", FEED + 'path = "f"\ncompress = "zstd"', "feed.f.compress"),
        ("txredisapi", REDIS + 'url = "redis://127.0.0.1"', "feed.f.type"),
    ],
)
def test_a_feed_that_needs_a_package_says_which_one_is_missing(tmp_path, monkeypatch, package, table, key):
    assert load(written(tmp_path, table)).feed
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == package else object())
    assert "pip install 'relayd[" in faults(written(tmp_path, table))[key]
