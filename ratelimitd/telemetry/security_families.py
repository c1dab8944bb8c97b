"""What a scrape tells of our certificate, and of callers that were refused for theirs."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ratelimitd.telemetry.counters import Telemetry


def security_families(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield the families."""
    refused = CounterMetricFamily(
        "ratelimitd_callers_refused",
        "Calls refused because of the caller's certificate.",
        labels=["reason"],
    )
    for reason, count in sorted(telemetry.refused_callers.items()):
        refused.add_metric([reason], count)
    yield refused
    ends = GaugeMetricFamily(
        "ratelimitd_tls_certificate_not_after_seconds",
        "When the certificate of the gRPC port ends, in Unix time; the first to end of all"
        " processes.",
    )
    known = [series.certificate_not_after_s for series in list(telemetry.workers.values())]
    if times := [time_s for time_s in known if time_s is not None]:
        ends.add_metric([], min(times))
    yield ends
