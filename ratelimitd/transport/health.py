"""gRPC health: the daemon's state under every name that somebody may ask for.

Rules:
- A Watch ends once it was told that the daemon drains: whoever watches would otherwise hold the
  whole grace that is meant for calls.
"""

import asyncio
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH

from ratelimitd.services.health import SERVICE_NAMES, HealthState

__all__ = ["HEALTH", "HealthReporter"]


class HealthReporter:
    """Tells those who ask, and those who watch, what the state became."""

    def __init__(self, state: HealthState) -> None:
        """Report `state`; `refresh` must follow each change of it."""
        self._state = state
        self.servicer = _Health()

    async def refresh(self) -> None:
        """Report what the state says now."""
        self.servicer.tell(is_serving=self._state.is_serving, is_ending=self._state.is_draining)


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it has no types
    """Answers Check and Watch with what it was last told; knows nobody before."""

    def __init__(self) -> None:
        self._status: int | None = None
        self._is_ending = False
        self._changed = asyncio.Event()

    def tell(self, *, is_serving: bool, is_ending: bool) -> None:
        """Answer so from now on, and wake whoever watches."""
        kinds = health_pb2.HealthCheckResponse
        self._status = kinds.SERVING if is_serving else kinds.NOT_SERVING
        self._is_ending = is_ending
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802 - gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        status = self._status_of(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Any, context: Any) -> None:  # noqa: N802 - gRPC's name
        """Refuse, as every method that is not there is refused."""
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:  # noqa: N802 - gRPC's name
        told: int | None = None
        while True:
            changed = self._changed
            status = self._status_of(request.service)
            if status is None:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            elif self._is_ending:
                return
            else:
                await changed.wait()

    def _status_of(self, service: str) -> int | None:
        return self._status if service in SERVICE_NAMES else None
