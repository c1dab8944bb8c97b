"""gRPC health: the daemon's state under every name that somebody may ask for."""

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health_aio

from ratelimitd.services.health import HealthState

__all__ = ["HEALTH", "HealthReporter"]

# The whole server; the reference server's name; and the service itself, as gRPC clients ask.
SERVICE_NAMES = ("", "ratelimit", "envoy.service.ratelimit.v3.RateLimitService")


class HealthReporter:
    """Tells grpcio's health servicer, and so everybody who watches it, what the state became."""

    def __init__(self, state: HealthState) -> None:
        """Report `state`; `refresh` must follow each change of it."""
        self._state = state
        self.servicer = health_aio.HealthServicer()

    async def refresh(self) -> None:
        """Report what the state says now."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if self._state.is_serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in SERVICE_NAMES:
            await self.servicer.set(name, status)
