"""What a scrape tells of the processes that answer requests; autoscaling follows it."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ratelimitd.telemetry.counters import Telemetry


def worker_families(telemetry: Telemetry) -> Iterator[Metric]:
    """Yield how busy each process is that answers requests."""
    label = ["worker"]
    busy = GaugeMetricFamily(
        "ratelimitd_worker_utilization_ratio",
        "Share of the last second that the process spent computing; 1 is a whole core.",
        labels=label,
    )
    queue = GaugeMetricFamily(
        "ratelimitd_worker_queue_depth", "Checks that wait for the next store call.", labels=label
    )
    connections = GaugeMetricFamily(
        "ratelimitd_worker_connections", "Open connections.", labels=[*label, "listener"]
    )
    cpu = CounterMetricFamily(
        "ratelimitd_worker_cpu_seconds", "CPU time of the process.", labels=label
    )
    memory = GaugeMetricFamily(
        "ratelimitd_worker_resident_memory_bytes", "Memory of the process.", labels=label
    )
    for number, series in sorted(telemetry.workers.items()):
        name = str(number)
        busy.add_metric([name], series.utilization_ratio)
        queue.add_metric([name], series.queue_depth)
        cpu.add_metric([name], series.cpu_seconds)
        memory.add_metric([name], series.resident_bytes)
        if series.connections_grpc is not None:
            connections.add_metric([name, "grpc"], series.connections_grpc)
        if series.connections_http is not None:
            connections.add_metric([name, "http"], series.connections_http)
    yield from (busy, queue, connections, cpu, memory)
    yield CounterMetricFamily(
        "ratelimitd_worker_restarts",
        "Workers that ended without being told to, and were started again.",
        value=telemetry.worker_restarts,
    )
