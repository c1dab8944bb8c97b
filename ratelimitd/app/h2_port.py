"""The gRPC port on our own HTTP/2 server: which methods it has, and for how long it lets them."""

from collections.abc import Callable, Mapping
from typing import Final

from grpc_health.v1 import health_pb2

from ratelimitd.app.engine import Engine
from ratelimitd.services.health_check import HealthCheckService
from ratelimitd.services.hot_path import HotPath
from ratelimitd.services.ratelimit import METHOD
from ratelimitd.settings.model import ListenSettings, Settings
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.transport.h2.guard import PeerGuard
from ratelimitd.transport.h2.handshakes import NO_ALPN, REASONS
from ratelimitd.transport.h2.link import Link, Timeouts
from ratelimitd.transport.h2.server import OnCalls, Server
from ratelimitd.transport.h2.tls import ServerTls, to_tls
from ratelimitd.transport.h2.unary import Calls, Method, from_service

SHOULD_RATE_LIMIT: Final = f"/{METHOD}".encode()
HEALTH_CHECK: Final = b"/grpc.health.v1.Health/Check"


def h2_server(settings: Settings, engine: Engine, on_closed: Callable[[], None]) -> Server:
    """Return a server without connections; `on_closed` is called after each that ends."""
    observe_call = engine.telemetry.observe_call
    methods = _methods(engine, settings.default_deadline_s)
    calls = Calls(observe_call)
    on_calls: OnCalls = calls
    if settings.listen.knows_callers:
        on_calls = PeerGuard(engine.gate, methods, calls, observe_call)
    return _Server(methods, on_calls, _timeouts(settings.listen), on_closed)


def server_tls(listen: ListenSettings) -> ServerTls | None:
    """Return how connections are encrypted, if they are; ConfigError for files that are wrong."""
    return None if listen.tls is None else to_tls(listen.tls)


def measure(server: Server, telemetry: Telemetry) -> None:
    """Copy what `server` counted, for the next scrape."""
    links, counts = server.counters, server.profile.counters
    telemetry.transport = {
        "accepted": {"": links.accepted},
        "closed": dict(links.closed),
        "over_limit": {"": links.over_limit},
        "handshakes": dict.fromkeys(REASONS, 0)
        | links.failed_handshakes
        | {NO_ALPN: links.closed.get(NO_ALPN, 0)},
        "errors": dict(counts.connection_errors),
        "over_bound": dict(counts.over_bound),
        "refused": dict(counts.refused),
        "resets": {"peer": counts.peer_resets, "us": counts.our_resets},
        "blocks": {"hit": counts.block_hits, "miss": counts.block_misses},
        "dropped": {"": counts.answers_dropped},
    }


def _methods(engine: Engine, default_s: float) -> Mapping[bytes, Method]:
    health = HealthCheckService(engine.health)
    hot = HotPath(engine.service, default_s)
    return {
        SHOULD_RATE_LIMIT: Method("ShouldRateLimit", hot.serve),
        HEALTH_CHECK: from_service("Check", health_pb2.HealthCheckRequest, health.check, default_s),
    }


def _timeouts(listen: ListenSettings) -> Timeouts:
    return Timeouts(
        max_age_s=max(1, listen.connection_age_ms // 1000),
        grace_s=max(1, listen.connection_age_grace_ms // 1000),
    )


class _Server(Server):
    """A server that tells when a connection ended."""

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        on_calls: OnCalls,
        timeouts: Timeouts,
        on_closed: Callable[[], None],
    ) -> None:
        super().__init__(methods, on_calls, timeouts=timeouts)
        self._on_closed = on_closed

    def remove(self, link: Link, reason: str) -> None:
        super().remove(link, reason)
        self._on_closed()
