"""What a scrape tells of callers that were refused for who they are."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric

from ratelimitd.telemetry.counters import Telemetry


def caller_families(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield the families."""
    refused = CounterMetricFamily(
        "ratelimitd_callers_refused",
        "Calls refused because of the caller's certificate.",
        labels=["reason"],
    )
    for reason, count in sorted(telemetry.refused_callers.items()):
        refused.add_metric([reason], count)
    yield refused
