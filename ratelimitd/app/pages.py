"""The pages of the HTTP port, made of what a process knows."""

from collections.abc import Callable
from importlib.metadata import version

from ratelimitd.app.calls import observed, with_deadline
from ratelimitd.app.engine import Engine
from ratelimitd.app.policy_in_force import policy_page, rlconfig_page
from ratelimitd.settings.model import Settings
from ratelimitd.settings.values import MetricsCompat
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.exposition import BuildInfo, Exposition
from ratelimitd.transport.http import HttpPages


def pages(
    settings: Settings,
    engine: Engine,
    read: Callable[[], Telemetry] | None = None,
    pid: int | None = None,
) -> HttpPages:
    """Return the pages of a process; `read` gives what /metrics shows, None for its own counters.

    `pid` is the process whose figures stand beside them.
    """
    service, telemetry = engine.service, engine.telemetry
    exposition = Exposition(
        read or telemetry,
        BuildInfo(version("ratelimitd"), settings.region),
        has_upstream_names=settings.metrics_compat is MetricsCompat.ENVOYPROXY,
        pid=pid,
    )

    def metrics(accept: str) -> tuple[bytes, str]:
        telemetry.set_queue_depth(engine.store.queued_checks)
        return exposition.render(accept)

    json_call = with_deadline(service.should_rate_limit, settings.default_deadline_s)
    return HttpPages(
        should_rate_limit=observed(json_call, "json", telemetry),
        health=engine.health,
        on_disconnect=lambda: telemetry.observe_call("json", "DISCONNECTED", 0.0),
        metrics=metrics,
        policy=lambda: policy_page(service.holder),
        rlconfig=lambda: rlconfig_page(service.holder),
    )
