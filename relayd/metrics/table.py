"""The table of metrics: each with its type, its labels, what it means, and how it is read from a running relay.

Enter: the relay (``service.Node``), of which each row reads one thing.  Leave: numbers.  A row costs a scrape some
microseconds, and never asks a disk or a peer.  Labels have few values: outcomes, stages, reasons, directions, and what
the configuration names (sources, pools, providers, feeds); never an account, a connection, a domain or a site.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from relayd import __version__
from relayd.histogram import Histogram
from relayd.metrics.counts import OTHER
from relayd.outcome import Stage

Numbers = Mapping[Any, float]  # by a label's value, or the tuple of several


class Metric(NamedTuple):
    """One row.  ``read`` gives a number, Numbers if it has labels, a Histogram if it is one, None for nothing."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Any], float | Numbers | Histogram | None]
    labels: tuple[str, ...] = ()


def _both(into: float, out: float) -> Numbers:
    return {"in": into, "out": out}


def _sessions(relay: Any) -> Numbers:
    doors = (service.factory for service in relay.doors.listeners.values())
    ours = (len(door.sessions) for door in doors if door.comings is relay.comings)  # not those of the sandbox
    return _both(sum(ours), len(relay.courier.sessions))


def _by_source(relay: Any) -> Numbers:
    busy = Counter(session.path.source for session in relay.courier.sessions)
    return {name: busy[name] for name in relay.pools.sources}


def _by_provider(relay: Any) -> Numbers:
    named = relay.config.provider
    groups = (session.site.policy.terms.group for session in relay.courier.sessions)
    return {**dict.fromkeys((*named, OTHER), 0), **Counter(group if group in named else OTHER for group in groups)}


def _in_use(relay: Any, source: str) -> bool:
    return source not in relay.pools.out_of_use and source not in relay.pools.drained


def _usable(relay: Any) -> Numbers:
    return {name: sum(_in_use(relay, s) for s in weights) for name, weights in relay.pools.pools.items()}


def _reactions(relay: Any) -> Numbers:
    named, now = relay.config.provider, relay.now()
    holding = (active for active in relay.reactions.all() if active.state(now) == "holds")
    found = Counter((active.group if active.group in named else OTHER, active.action) for active in holding)
    return {**{(OTHER, action): 0 for action in ("suspend", "limit", "skip-mx")}, **found}


def _held_back(relay: Any) -> Numbers:
    acts = Counter(relay.reputation.acts(at) for at in relay.reputation.all(bad=True))
    return {step: acts[step] for step in ("slow", "hold", "block")}


def _warming(relay: Any) -> Numbers:
    now = relay.now()
    return {
        source: sum(at.used + at.over for at in relay.warmup.standings(source, now))
        for source in relay.config.warming()
    }


def _listed(relay: Any) -> float:
    return float(sum(row.entries for row in relay.suppressions.lists()))


def _failed(relay: Any) -> Numbers:
    stages: tuple[Stage, ...] = ("connect", "banner", "ehlo", "starttls", "tls", "auth")
    return {**dict.fromkeys(stages, 0), **relay.courier.failed}


def _lag(relay: Any) -> Numbers:
    return {name: behind for name, behind, _ in relay.feeding.faults()}


def _silence(thread: Any) -> float:
    return max(0.0, time.monotonic() - float(thread.beat))


def _depth(relay: Any, place: int) -> float | None:
    if relay.depth is None:
        return None
    count, oldest = relay.depth
    return float(count) if place == 0 else max(0.0, relay.now() - oldest) if oldest else 0.0


def _row(
    kind: Literal["counter", "gauge", "histogram"],
    name: str,
    help: str,
    read: Callable[[Any], float | Numbers | Histogram | None],
    *labels: str,
) -> Metric:
    return Metric(f"relayd_{name}", kind, help, read, labels)


SECTIONS: dict[str, tuple[Metric, ...]] = {
    "The relay": (
        _row("gauge", "build_info", "1, with the version of relayd", lambda r: {__version__: 1}, "version"),
        _row(
            "gauge", "ready", "1 while mail is taken, as /readyz says", lambda r: not any(r.health.unready().values())
        ),
        _row(
            "gauge",
            "unready",
            "1 for each reason why no mail is taken",
            lambda r: {reason: bool(why) for reason, why in r.health.unready().items()},
            "reason",
        ),
        _row("gauge", "healthy", "1 while relayctl health finds no fault", lambda r: r.health.report()["ok"]),
        _row("gauge", "health_faults", "Faults that relayctl health tells", lambda r: len(r.health.report()["faults"])),
        _row(
            "gauge",
            "health_warnings",
            "Warnings that relayctl health tells",
            lambda r: len(r.health.report()["warnings"]),
        ),
        _row("gauge", "reload_refused", "1 if the last reload was refused", lambda r: bool(r.health.reload_fault)),
        _row(
            "gauge",
            "certificate_expiry_timestamp_seconds",
            "When the certificate of the listeners ends (unix seconds)",
            lambda r: r.tls.expires if r.tls else None,
        ),
    ),
    "The main loop": (
        _row(
            "histogram",
            "loop_lag_seconds",
            "How late the main loop's beats were, one each second",
            lambda r: r.heart.lags,
        ),
        _row("counter", "loop_stalls_total", "Beats that were more than 5 s late", lambda r: r.heart.stalls),
        _row("gauge", "loop_longest_stall_seconds", "The longest of them since the start", lambda r: r.heart.longest),
    ),
    "The spool": (
        _row("gauge", "queue_deliveries", "Deliveries in the spool", lambda r: _depth(r, 0)),
        _row("gauge", "queue_oldest_seconds", "Since the oldest of them came in", lambda r: _depth(r, 1)),
        _row("gauge", "spool_free_bytes", "Free where the spool lies", lambda r: r.health.free),
        _row(
            "gauge",
            "spool_min_free_bytes",
            "Below it no mail is taken: [node] min_free",
            lambda r: r.config.node.min_free,
        ),
        _row(
            "gauge",
            "spool_failing",
            "1 while the spool cannot be written, or could not last",
            lambda r: bool(r.health.spool_fault),
        ),
        _row(
            "gauge",
            "writer_alive",
            "1 while the thread that writes the spool runs",
            lambda r: r.spool.writer.is_alive(),
        ),
        _row("gauge", "writer_silence_seconds", "Since its last sign of life", lambda r: _silence(r.spool.writer)),
        _row("gauge", "writer_waiting_changes", "Changes that are not on disk yet", lambda r: r.spool.writer.waiting),
        _row("counter", "writer_changes_total", "Changes that it made durable", lambda r: r.spool.writer.changes),
        _row(
            "histogram",
            "writer_commit_seconds",
            "Time of one commit, of many changes",
            lambda r: r.spool.writer.commits,
        ),
        _row(
            "gauge", "mover_alive", "1 while the thread that moves the records runs", lambda r: r.spool.mover.is_alive()
        ),
        _row("gauge", "mover_silence_seconds", "Since its last sign of life", lambda r: _silence(r.spool.mover)),
    ),
    "Mail in": (
        _row("counter", "messages_received_total", "Messages that were answered with 250", lambda r: r.relay.messages),
        _row("counter", "recipients_received_total", "Their recipients who get a copy", lambda r: r.relay.recipients),
        _row("counter", "received_bytes_total", "Their content", lambda r: r.relay.bytes),
        _row(
            "counter",
            "refusals_total",
            "Policy's refusals of logins, senders, recipients and messages, by SMTP code",
            lambda r: {str(code): count for code, count in r.relay.refusals.items()},
            "reason",
        ),
        _row(
            "counter",
            "unfit_total",
            "Times that mail was refused because the relay was not fit",
            lambda r: r.relay.unfits,
        ),
        _row("gauge", "receiving_bytes", "Content in memory of messages being received", lambda r: r.relay.memory),
        _row("counter", "logins_total", "Logins, by what became of them", lambda r: r.guard.totals, "outcome"),
        _row(
            "gauge",
            "login_failures_remembered",
            "Addresses and logins with failures that are not forgotten",
            lambda r: r.guard.remembered,
        ),
        _row("gauge", "signer_waiting", "Messages that wait for a DKIM signature", lambda r: r.relay.signer.pending),
    ),
    "Sessions": (
        _row("gauge", "sessions", "SMTP sessions that are open, or being opened", _sessions, "direction"),
        _row(
            "counter",
            "sessions_opened_total",
            "Sessions with clients that began, with mail servers that became ready",
            lambda r: _both(r.comings.opened, r.courier.opened),
            "direction",
        ),
        _row(
            "counter", "sessions_refused_total", "Clients' sessions that were one too many", lambda r: r.comings.refused
        ),
        _row(
            "counter",
            "sessions_failed_total",
            "Attempts at a session with a mail server that failed, by how far they came",
            _failed,
            "stage",
        ),
        _row(
            "counter",
            "tls_messages_total",
            "Messages that came by TLS, and deliveries that went by it",
            lambda r: _both(r.relay.secured, r.courier.outcomes.secured),
            "direction",
        ),
        _row("gauge", "source_sessions", "Sessions with mail servers, by source", _by_source, "source"),
        _row("gauge", "provider_sessions", "Sessions with mail servers, by provider", _by_provider, "provider"),
    ),
    "Mail out": (
        _row(
            "counter",
            "outcomes_total",
            "What became of deliveries and attempts at them",
            lambda r: r.courier.outcomes.totals,
            "outcome",
        ),
        _row("gauge", "outcomes_waiting", "Outcomes that are not on disk yet", lambda r: r.courier.outcomes.unanswered),
        _row("gauge", "memory_deliveries", "Deliveries in memory", lambda r: r.scheduler.memory.loaded),
        _row("gauge", "memory_bytes", "What their content takes", lambda r: r.scheduler.memory.bytes),
        _row("gauge", "memory_queues", "Queues in memory", lambda r: len(r.scheduler.queues)),
        _row("gauge", "memory_sites", "Sites in memory", lambda r: len(r.scheduler.sites)),
        _row(
            "gauge",
            "source_in_use",
            "1 while a source is in use: neither drained nor without its address",
            lambda r: {name: _in_use(r, name) for name in r.pools.sources},
            "source",
        ),
        _row("gauge", "pool_sources_in_use", "Sources of a pool that are in use", _usable, "pool"),
        _row("gauge", "warmup_sent_today", "Deliveries by a source in warm-up since 0:00 UTC", _warming, "source"),
        _row("gauge", "reactions_active", "Reactions that hold, by what they do", _reactions, "provider", "reason"),
        _row("counter", "reactions_total", "Reactions that began, or began anew", lambda r: r.reactions.fired),
    ),
    "The DNS": (
        _row("counter", "dns_lookups_total", "Questions that the cache did not answer", lambda r: r.resolver.totals[0]),
        _row("counter", "dns_failures_total", "Those that nobody answered", lambda r: r.resolver.totals[1]),
        _row("gauge", "dns_cache_entries", "Answers that are kept", lambda r: r.resolver.totals[2]),
        _row(
            "counter",
            "dns_unroutable_total",
            "Look-ups of a domain that found no way there",
            lambda r: r.courier.unroutable,
        ),
    ),
    "Who sends, and to whom not": (
        _row("gauge", "accounts", "Accounts", lambda r: r.directory.counts[0]),
        _row("gauge", "connections", "Connections: logins", lambda r: r.directory.counts[1]),
        _row("gauge", "reputation_held_back", "Who is held back, by the step", _held_back, "reason"),
        _row(
            "gauge",
            "suspects",
            "Senders under suspicion",
            lambda r: len(r.suspects.suspicion.findings) if r.suspects else 0,
        ),
        _row("gauge", "suppressed_addresses", "Entries of all suppression lists", _listed),
        _row("gauge", "suppression_ready", "1 once their filter is in memory", lambda r: r.suppressions.ready),
    ),
    "Events, as the records tell them": (
        _row("counter", "events_total", "Events", lambda r: r.events.read().events, "event", "provider", "source"),
        _row(
            "counter",
            "refusals_by_class_total",
            "Events of mail that was not taken, by what the reply was taken for",
            lambda r: r.events.read().classes,
            "event",
            "class",
        ),
        _row("histogram", "delivery_seconds", "From reception to delivery", lambda r: r.events.read().waits),
        _row("gauge", "feed_lag_seconds", "How far a feed is behind the records", _lag, "feed"),
        _row(
            "gauge",
            "feed_failing",
            "1 while a feed cannot go on",
            lambda r: {name: bool(fault) for name, _, fault in r.feeding.faults()},
            "feed",
        ),
    ),
}
METRICS: tuple[Metric, ...] = tuple(metric for rows in SECTIONS.values() for metric in rows)
