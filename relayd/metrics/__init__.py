"""Metrics for Prometheus, and what load balancers and Kubernetes ask: is it alive, ready, well?

Enter: the counters that the rooms of a running relay keep anyhow, read when somebody asks; events, counted by the
thread that reads the records.  Leave: ``/metrics``, ``/livez``, ``/readyz``, ``/healthz``.  Nothing here costs a
message anything.  Floors within: counts < table < collector < web; page.
"""

from relayd.metrics.collector import Collector
from relayd.metrics.counts import EventCounts
from relayd.metrics.web import MetricsService

__all__ = ["Collector", "EventCounts", "MetricsService"]
