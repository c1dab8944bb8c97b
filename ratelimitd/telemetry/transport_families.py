"""What a scrape tells of our HTTP/2 server; each label is one of a short fixed list."""

from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric

from ratelimitd.telemetry.counters import Telemetry

# The key in `Telemetry.transport`, the family, its label, and what it says.
_FAMILIES: Final = (
    (
        "accepted",
        "ratelimitd_h2_connections_accepted",
        "",
        "Connections that were accepted, also those that were closed at once.",
    ),
    (
        "closed",
        "ratelimitd_h2_connections_closed",
        "reason",
        "Connections that ended, by why they did.",
    ),
    (
        "over_limit",
        "ratelimitd_h2_connections_over_limit",
        "",
        "Connections closed at once, because the process had as many as it may.",
    ),
    (
        "handshakes",
        "ratelimitd_h2_tls_handshake_failures",
        "reason",
        "TLS handshakes that failed.",
    ),
    (
        "errors",
        "ratelimitd_h2_connection_errors",
        "code",
        "Connections ended because the peer broke HTTP/2's rules.",
    ),
    (
        "over_bound",
        "ratelimitd_h2_over_bound",
        "bound",
        "Connections ended because the peer ran over a bound.",
    ),
    ("refused", "ratelimitd_h2_refused", "reason", "Calls that the transport refused or gave up."),
    ("resets", "ratelimitd_h2_resets", "by", "Streams reset, by the peer or by us."),
    (
        "blocks",
        "ratelimitd_h2_header_blocks",
        "result",
        "Header blocks: known by their bytes (hit), or decoded (miss).",
    ),
    (
        "dropped",
        "ratelimitd_h2_answers_dropped",
        "",
        "Answers that nobody waited for any more.",
    ),
)


def transport_families(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield the families of the HTTP/2 server."""
    for key, name, label, text in _FAMILIES:
        counts = dict(telemetry.transport.get(key, {}))
        family = CounterMetricFamily(name, text, labels=[label] if label else [])
        for value, count in sorted(counts.items()):
            family.add_metric([value] if label else [], count)
        yield family
