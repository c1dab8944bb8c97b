"""Counters become the answer to a scrape: our names, and the reference server's on request.

`render` may run in a thread: it reads snapshots, and a scrape of thousands of rules takes longer
than a request may wait.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector

from ratelimitd.telemetry import compat
from ratelimitd.telemetry.counters import BreakerState, Telemetry
from ratelimitd.telemetry.security_families import security_families
from ratelimitd.telemetry.series import Histogram, to_label
from ratelimitd.telemetry.transport_families import transport_families
from ratelimitd.telemetry.worker_families import worker_families


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What this process is: its version and the region that it serves, "" for none."""

    version: str
    region: str = ""


class Exposition:
    """Renders one Telemetry in a registry of its own, with the figures of a process."""

    def __init__(
        self,
        telemetry: Telemetry | Callable[[], Telemetry],
        build: BuildInfo,
        *,
        has_upstream_names: bool = False,
        pid: int | None = None,
    ) -> None:
        """Collect `telemetry`, or what it returns then, at each scrape.

        `has_upstream_names` is METRICS_COMPAT=envoyproxy. `pid` is the process whose figures are
        shown, None for this one.
        """
        self._read: Callable[[], Telemetry] = (
            (lambda: telemetry) if isinstance(telemetry, Telemetry) else telemetry
        )
        self._build = build
        self._has_upstream_names = has_upstream_names
        self._process = ProcessCollector(pid=lambda: "self" if pid is None else pid, registry=None)

    def render(self, accept_header: str = "") -> tuple[bytes, str]:
        """Return the body and its content type in the best format that the caller accepts.

        With the reference server's names it is always the text format: OpenMetrics has no way
        to write counters whose names do not end in `_total`.
        """
        telemetry = self._read()
        registry = CollectorRegistry()
        registry.register(_TelemetryCollector(telemetry, self._build))
        registry.register(self._process)
        if self._has_upstream_names:
            ours = generate_latest(registry)
            return ours + compat.render(telemetry), CONTENT_TYPE_PLAIN_0_0_4
        try:
            encode, content_type = choose_encoder(accept_header)
        except (TypeError, ValueError):  # an Accept header whose version is no number
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encode(registry), content_type


class _TelemetryCollector(Collector):
    """Turns the counters into families; holds nothing of its own."""

    def __init__(self, telemetry: Telemetry, build: BuildInfo) -> None:
        """Show `telemetry` once."""
        self._telemetry = telemetry
        self._build = build

    def collect(self) -> Iterator[Metric]:
        """Yield every family, also the empty ones, so that the list of names is stable."""
        telemetry = self._telemetry
        yield from _rules(telemetry)
        yield from _requests(telemetry)
        yield from _store(telemetry)
        yield from _policy(telemetry)
        yield from _logs(telemetry)
        yield from security_families(telemetry)
        yield from worker_families(telemetry)
        yield from transport_families(telemetry)
        build = InfoMetricFamily("ratelimitd_build", "Version and region of this process.")
        region = to_label(self._build.region)
        build.add_metric([], {"version": self._build.version, "region": region})
        yield build


def _rules(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield what the rules decided."""
    rows = telemetry.rules.snapshot()
    labels = ["domain", "rule"]
    decisions = CounterMetricFamily(
        "ratelimitd_decisions",
        "Decisions of rules, one for each descriptor.",
        labels=[*labels, "outcome"],
    )
    near = CounterMetricFamily(
        "ratelimitd_near_limit",
        "Descriptors admitted above the near-limit ratio of their rule.",
        labels=labels,
    )
    refunded = CounterMetricFamily(
        "ratelimitd_refunded_hits", "Cost given back by negative hits.", labels=labels
    )
    overflowed = CounterMetricFamily(
        "ratelimitd_overflowed_values",
        "Decisions on values that shared a counter, because too many were new in a second.",
        labels=labels,
    )
    for row in rows:
        for outcome, count in list(row.outcomes.items()):
            decisions.add_metric([row.domain, row.name, outcome], count)
        near.add_metric([row.domain, row.name], row.near)
        if row.refunded_hits:
            refunded.add_metric([row.domain, row.name], row.refunded_hits)
        if row.overflowed:
            overflowed.add_metric([row.domain, row.name], row.overflowed)
    yield decisions
    yield near
    yield refunded
    yield overflowed
    yield CounterMetricFamily(
        "ratelimitd_metric_keys_overflowed",
        'Decisions counted under the rule "(other)", because too many values have a metric.',
        value=telemetry.rules.overflowed,
    )


def _requests(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield what happened to requests as a whole."""
    unmatched = CounterMetricFamily(
        "ratelimitd_unmatched", "Descriptors that no rule matched.", labels=["domain"]
    )
    for domain, count in list(telemetry.unmatched.items()):
        unmatched.add_metric([to_label(domain)], count)
    yield unmatched
    yield CounterMetricFamily(
        "ratelimitd_domain_not_found",
        "Descriptors of domains that the policy does not have.",
        value=telemetry.domain_not_found,
    )
    yield CounterMetricFamily(
        "ratelimitd_blocked", "Requests refused because of a block.", value=telemetry.blocked
    )
    yield CounterMetricFamily(
        "ratelimitd_unknown_tiers",
        "Limits decided by their default, because they do not name the caller's tier.",
        value=telemetry.unknown_tiers,
    )
    yield CounterMetricFamily(
        "ratelimitd_stale_periods",
        "Requests asked again, because the store's time was in no period that was sent.",
        value=telemetry.stale_periods,
    )
    yield CounterMetricFamily(
        "ratelimitd_global_shadow",
        "Refusals that the global shadow mode turned into OK.",
        value=telemetry.global_shadow,
    )
    yield CounterMetricFamily(
        "ratelimitd_deny_cache_hits",
        "Descriptors refused from the deny cache, without the store.",
        value=telemetry.deny_cache_answers,
    )
    calls = CounterMetricFamily(
        "ratelimitd_calls", "Calls by gRPC status code.", labels=["method", "code"]
    )
    seconds = HistogramMetricFamily(
        "ratelimitd_call_seconds", "How long calls took in this process.", labels=["method"]
    )
    for method, series in list(telemetry.methods.items()):
        for code, count in list(series.codes.items()):
            calls.add_metric([method, code], count)
        seconds.add_metric([method], series.seconds.cumulative(), series.seconds.total)
    yield calls
    yield seconds


def _store(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield the calls to the store and its own figures."""
    store = telemetry.store
    yield _histogram("ratelimitd_store_seconds", "How long store calls took.", store.seconds)
    yield _histogram("ratelimitd_store_batch_checks", "Checks in a store call.", store.checks)
    yield _histogram("ratelimitd_store_batch_requests", "Requests in a store call.", store.plans)
    errors = CounterMetricFamily(
        "ratelimitd_store_errors", "Store calls that gave no decision.", labels=["kind"]
    )
    for kind, count in list(store.errors.items()):
        errors.add_metric([kind], count)
    yield errors
    yield CounterMetricFamily(
        "ratelimitd_lost_debt",
        "Cost of denied hits beyond max_debt, which was not recorded.",
        value=store.lost_debt,
    )
    breaker = GaugeMetricFamily(
        "ratelimitd_store_breaker_state", "1 for the state of the breaker.", labels=["state"]
    )
    for state in BreakerState:
        breaker.add_metric([state.value], int(state is store.breaker))
    yield breaker
    yield CounterMetricFamily(
        "ratelimitd_store_breaker_opened",
        "How often the breaker opened.",
        value=store.breaker_opened,
    )
    yield GaugeMetricFamily(
        "ratelimitd_store_queued_checks",
        "Checks that wait for the next store call.",
        value=store.queued_checks,
    )
    yield CounterMetricFamily(
        "ratelimitd_store_late_answers",
        "Answers of the store that came after their request's deadline.",
        value=store.late_answers,
    )
    yield CounterMetricFamily(
        "ratelimitd_store_unreadable_state",
        "Stored values that could not be read, counted as absent and overwritten.",
        value=store.unreadable_states,
    )
    give_backs = CounterMetricFamily(
        "ratelimitd_store_give_backs",
        "Charges of refused requests that a Cluster had to take back.",
        labels=("result",),
    )
    give_backs.add_metric(["done"], store.give_backs_done)
    give_backs.add_metric(["lost"], store.give_backs_lost)
    yield give_backs
    yield from _store_info(telemetry)


def _store_info(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield what the store says of itself, where it says something."""
    store = telemetry.store
    if store.used_memory_bytes is not None:
        yield GaugeMetricFamily(
            "ratelimitd_store_used_memory_bytes",
            "Memory that the store uses.",
            value=store.used_memory_bytes,
        )
    if store.max_memory_bytes is not None:
        yield GaugeMetricFamily(
            "ratelimitd_store_max_memory_bytes",
            "Memory that the store may use; 0 is no limit.",
            value=store.max_memory_bytes,
        )
    if store.keys is not None:
        yield GaugeMetricFamily(
            "ratelimitd_store_keys", "Keys in the store's database.", value=store.keys
        )
    if store.evicted_keys is not None:
        yield CounterMetricFamily(
            "ratelimitd_store_evicted_keys",
            "Keys that the store dropped for want of memory: limits forgotten too early.",
            value=store.evicted_keys,
        )


def _policy(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield the policy in force and how its loads went."""
    policy = telemetry.policy
    info = InfoMetricFamily("ratelimitd_policy", "The policy in force.")
    if policy.revision:
        info.add_metric([], {"revision": policy.revision})
    yield info
    yield GaugeMetricFamily("ratelimitd_policy_domains", "Domains in force.", value=policy.domains)
    yield GaugeMetricFamily("ratelimitd_policy_rules", "Limits in force.", value=policy.rules)
    loads = CounterMetricFamily("ratelimitd_policy_loads", "Policy loads.", labels=["result"])
    loads.add_metric(["success"], policy.successes)
    loads.add_metric(["error"], policy.errors)
    yield loads
    yield GaugeMetricFamily(
        "ratelimitd_policy_last_load_ok",
        "1 if the last load put a policy in force, 0 if it was refused.",
        value=int(policy.is_last_load_ok),
    )
    yield GaugeMetricFamily(
        "ratelimitd_policy_last_success_timestamp_seconds",
        "When a policy was last put in force, in Unix time; 0 for never.",
        value=policy.last_success_s,
    )


def _logs(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield what the log left out."""
    logs = telemetry.logs
    dropped = CounterMetricFamily(
        "ratelimitd_log_lines_dropped",
        "Log lines lost: the queue was full, or the output could not be written.",
        labels=["reason"],
    )
    dropped.add_metric(["queue_full"], logs.dropped_full)
    dropped.add_metric(["unwritable"], logs.dropped_unwritable)
    yield dropped
    yield CounterMetricFamily(
        "ratelimitd_refusal_lines_suppressed",
        "Refusals not logged, because their rule had its lines of that second.",
        value=logs.suppressed_refusals,
    )


def _histogram(name: str, help_text: str, values: Histogram) -> Metric:
    """Return one histogram without labels."""
    return HistogramMetricFamily(
        name, help_text, buckets=values.cumulative(), sum_value=values.total
    )
