"""The dashboard and the alert rules in etc/: they load, and name only metrics and labels that a relay has."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from relayd.control.verbs import VERBS
from relayd.events import NAMES
from relayd.metrics.collector import FAULTS, Process
from relayd.metrics.table import METRICS
from relayd.outcome import Kind
from tests.metrics_kit import Watched, named, samples

ETC = Path(__file__).parent.parent / "etc"
ALERTS = ETC / "prometheus" / "alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((ETC / "grafana" / "relayd.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SHOWN = [(panel["title"], target["expr"]) for panel in PANELS for target in panel.get("targets", ())]
EXPRESSIONS = [*SHOWN, *((rule["alert"], rule["expr"]) for rule in RULES)]
LABELS = {metric.name: set(metric.labels) for metric in (*METRICS, FAULTS)}
PROMTOOL = shutil.which("promtool")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The names that a scrape of a relay has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("signal.signal", lambda *args: None)
        running = Watched(tmp_path_factory.mktemp("relay"))
        yield samples(running) | {s.name for family in Process().collect() for s in family.samples}
        running.stop()


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_metric_that_is_named_exists(there: set[str], title: str, expression: str):
    assert named(expression) or "process_" in expression or "up{" in expression
    assert named(expression) | set(re.findall(r"\bprocess_\w+", expression)) <= there


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_label_that_is_named_is_one_of_its_metric(title: str, expression: str):
    for name, selector in re.findall(r"\b(relayd_\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))
        assert labels - {"instance", "job"} <= _labels(name)
    if len(re.findall(r"\bby \(", expression)) == 1:
        (by,) = re.findall(r"\bby \(([^)]*)\)", expression)
        of = set().union(*map(_labels, named(expression)))
        assert {label.strip() for label in by.split(",")} <= of | {"instance", "le"}


def _labels(name: str) -> set[str]:
    return LABELS[re.sub(r"_(bucket|sum|count)$", "", name)]


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_event_and_outcome_that_is_named_is_one_that_happens(title: str, expression: str):
    for label, values in (("event", NAMES), ("outcome", get_args(Kind))):
        for found in re.findall(rf'\b{label}=~?"([^"]*)"', expression):
            assert set(found.split("|")) <= set(values)


def test_every_alert_says_what_is_wrong_and_what_to_do():
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]


def test_every_command_that_an_alert_names_exists():
    told = " ".join(rule["annotations"]["description"] for rule in RULES)
    commands = re.findall(r"relayctl ((?:[a-z]+ ?)+)", told)
    assert commands
    for words in commands:
        assert any(f"{words.strip()} ".startswith(f"{verb.name} ") for verb in VERBS), words


def test_the_panels_have_their_own_numbers_and_places():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert taken.isdisjoint(cells) and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_every_variable_of_the_dashboard_is_one_that_it_has():
    known = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval", "__all"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) <= known


def promtool(*words: str) -> None:
    if PROMTOOL is None:
        pytest.skip("promtool is not installed: it comes with Debian's package prometheus")
    ran = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_promtool_loads_the_alerts():
    promtool("check", "rules", str(ALERTS))


def test_promtool_understands_what_the_dashboard_asks(tmp_path: Path):
    """As rules, which is what promtool reads."""
    rules = [
        {"record": f"panel:{n}", "expr": expression.replace("$__rate_interval", "5m")}
        for n, (_, expression) in enumerate(SHOWN)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(file))


def _case(alert: str, at: str, series: dict[str, str], **labels: str) -> dict[str, Any]:
    severity = next(rule["labels"]["severity"] for rule in RULES if rule["alert"] == alert)
    summary = {
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "interval": "1m",
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": [{"exp_labels": labels}]}],
    }
    labels["severity"] = severity
    return summary


def test_the_alerts_that_count_fire_when_they_should(tmp_path: Path):
    here = 'instance="mx1"'
    event = "relayd_events_total{" + here + ', event="%s", provider="%s", source="s1"}'
    cases = [
        _case("RelaydDown", "5m", {'up{job="relayd", instance="mx1"}': "0x10"}, instance="mx1", job="relayd"),
        _case(
            "RelaydNotReady",
            "5m",
            {
                f'relayd_unready{{{here}, reason="spool_fault"}}': "1x10",
                f'relayd_unready{{{here}, reason="x"}}': "0x10",
            },
            instance="mx1",
            reason="spool_fault",
        ),
        _case(
            "RelaydProviderDefers",
            "60m",
            {
                event % ("Delivery", "google"): "0+10x100",
                event % ("TransientFailure", "google"): "0+30x100",
                event % ("Delivery", "yandex"): "0+30x100",
                event % ("TransientFailure", "yandex"): "0+10x100",
            },
            instance="mx1",
            provider="google",
        ),
        _case("RelaydLoopStalls", "10m", {f"relayd_loop_stalls_total{{{here}}}": "0 0 0 1x20"}, instance="mx1"),
        _case(
            "RelaydDiskShort",
            "30m",
            {f"relayd_spool_free_bytes{{{here}}}": "900x60", f"relayd_spool_min_free_bytes{{{here}}}": "500x60"},
            instance="mx1",
        ),
        _case("RelaydQueueGrows", "120m", {f"relayd_queue_deliveries{{{here}}}": "20000+60x150"}, instance="mx1"),
        _case(
            "RelaydCertificateEnds",
            "90m",
            {f"relayd_certificate_expiry_timestamp_seconds{{{here}}}": f"{10 * 86400}x100"},
            instance="mx1",
        ),
        _case(
            "RelaydFeedBehind",
            "30m",
            {f'relayd_feed_lag_seconds{{{here}, feed="f"}}': "900x60"},
            instance="mx1",
            feed="f",
        ),
    ]
    # What is told of them is for people: promtool would have every word of it here too.
    plain = yaml.safe_load(ALERTS.read_text("utf-8"))
    for rule in plain["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(plain))
    file = tmp_path / "cases.yml"
    file.write_text(yaml.safe_dump({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": cases}))
    promtool("test", "rules", str(file))
