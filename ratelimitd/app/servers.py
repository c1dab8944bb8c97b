"""Opens every port: gRPC for gateways, HTTP, admin, and the metrics' own if there is one."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.app.calls import with_deadline
from ratelimitd.app.subject_calls import SUBJECT_SERVICE, subject_methods
from ratelimitd.services.inspect import InspectService
from ratelimitd.services.ratelimit import RateLimitService
from ratelimitd.services.registry_access import RegistryAccess
from ratelimitd.settings.model import ListenSettings
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.transport.grpc import GrpcPort, UnaryMethod, start_grpc
from ratelimitd.transport.health import HEALTH, HealthReporter
from ratelimitd.transport.http import HttpPages, metrics_app
from ratelimitd.transport.http_server import start_http
from ratelimitd.transport.listen import ListenAddress
from ratelimitd.transport.reflection import reflection_servicer

RATE_LIMIT_SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
INSPECT_SERVICE = "ratelimitd.inspect.v1.InspectService"
# A page in flight when the daemon stops is small; nobody waits for it as for a decision.
HTTP_GRACE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a daemon listens, with the ports that the system chose."""

    grpc: ListenAddress
    http: ListenAddress
    admin: ListenAddress
    metrics: ListenAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What is served, and who is told about it."""

    service: RateLimitService
    registry: RegistryAccess
    pages: HttpPages
    reporter: HealthReporter
    telemetry: Telemetry
    default_deadline_s: float


class DataPorts(Protocol):
    """The two ports that gateways and services call, whoever serves them."""

    async def open(self, stack: AsyncExitStack) -> tuple[ListenAddress, ListenAddress]:
        """Open the gRPC port and the HTTP port; ConfigError if that cannot be.

        /healthz is on the HTTP port, so it answers nobody before the gRPC port does.
        """
        ...

    async def drain(self) -> None:
        """Take no more calls, and let those in flight end."""
        ...

    def measure(self) -> None:
        """Leave what is known of connections in the counters of this process."""
        ...


async def open_ports(
    listen: ListenSettings, ports: Ports, data: DataPorts, stack: AsyncExitStack
) -> tuple[Addresses, Callable[[], Awaitable[None]]]:
    """Open all ports; `stack` closes them at once, and what is returned drains them before.

    Raises ConfigError for the first that cannot be opened.
    """
    metrics = None
    if listen.metrics is not None:
        app = metrics_app(listen.metrics_path, ports.pages.metrics)
        metrics = await start_http(app, listen.metrics, "--metrics")
        stack.push_async_callback(metrics.stop, HTTP_GRACE_S)
    admin = await start_grpc(
        GrpcPort(address=listen.admin, flag="--admin"),
        [
            hot_method(ports),
            *_inspect_methods(ports),
            *subject_methods(ports.registry, ports.default_deadline_s),
        ],
        observe_call=ports.telemetry.observe_call,
        add_servicers=lambda server: _add_admin(server, ports.reporter),
    )
    stack.push_async_callback(admin.stop, 0)
    grpc_address, http = await data.open(stack)
    addresses = Addresses(
        grpc=grpc_address,
        http=http,
        admin=admin.address,
        metrics=None if metrics is None else metrics.address,
    )

    async def drain() -> None:
        await asyncio.gather(data.drain(), admin.stop(listen.drain_grace_s))

    return addresses, drain


def hot_method(ports: Ports) -> UnaryMethod:
    """Return ShouldRateLimit for grpcio."""
    return UnaryMethod(
        RATE_LIMIT_SERVICE,
        "ShouldRateLimit",
        rls_pb2.RateLimitRequest,
        with_deadline(ports.service.should_rate_limit, ports.default_deadline_s),
    )


def _inspect_methods(ports: Ports) -> list[UnaryMethod]:
    inspect = InspectService(ports.service)
    return [
        UnaryMethod(
            INSPECT_SERVICE,
            "Peek",
            inspect_pb2.PeekRequest,
            with_deadline(inspect.peek, ports.default_deadline_s),
        ),
        UnaryMethod(INSPECT_SERVICE, "Explain", inspect_pb2.ExplainRequest, inspect.explain),
    ]


def add_health(server: grpc.aio.Server, reporter: HealthReporter) -> None:
    """Let `server` answer health checks."""
    health_pb2_grpc.add_HealthServicer_to_server(reporter.servicer, server)


def _add_admin(server: grpc.aio.Server, reporter: HealthReporter) -> None:
    add_health(server, reporter)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        reflection_servicer((RATE_LIMIT_SERVICE, INSPECT_SERVICE, SUBJECT_SERVICE, HEALTH)), server
    )
