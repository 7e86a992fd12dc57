"""The collector: all metrics of a running relay, as prometheus-client wants them.

Enter: the relay.  Leave: metric families; in ``encoded``, text.  A row that cannot be read costs its own metric and is
logged and counted: monitoring must not be what fails.
"""

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector as Collects
from twisted.logger import Logger

from relayd.histogram import Histogram
from relayd.metrics.table import METRICS, Metric

FAULTS = Metric("relayd_metrics_faults_total", "counter", "Metrics that could not be read, see the log", lambda r: None)


class Collector(Collects):
    """See the module.  For the main thread; ``relay`` is what the table's rows read."""

    log = Logger()

    def __init__(self, relay: Any) -> None:
        self._relay = relay
        self._faults = 0

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            try:
                yield family(metric, metric.read(self._relay))
            except Exception:
                self._faults += 1
                self.log.failure("The metric {name} cannot be read", name=metric.name)
        yield family(FAULTS, self._faults)


class _Page(Collects):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


class Process(Collects):
    """What the process itself shows: memory, CPU, files, garbage collections.  Any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def collect(self) -> Iterable[Family]:
        return self._registry.collect()


def encoded(families: Iterable[Family], accept: str) -> tuple[bytes, str]:
    """The page and its content type, in the format that the asker prefers.  Any thread."""
    encode, kind = choose_encoder(accept)
    return encode(_Page(families)), kind


def family(metric: Metric, value: Any) -> Family:
    """One metric with what was read of it."""
    name, help, labels = metric.name, metric.help, metric.labels
    if isinstance(value, Histogram):
        found = HistogramMetricFamily(name, help)
        steps = [("+Inf" if bound == inf else str(bound), count) for bound, count in value.steps()]
        found.add_metric([], steps, value.sum)
        return found
    made = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(name, help, labels=labels)
    if not labels:
        if value is not None:
            made.add_metric([], float(value))
        return made
    for of, number in value.items():
        made.add_metric([of] if isinstance(of, str) else list(of), float(number))
    return made
