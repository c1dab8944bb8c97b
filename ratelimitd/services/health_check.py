"""gRPC health's Check, for a transport that has no health service of its own."""

from dataclasses import dataclass

from grpc_health.v1 import health_pb2

from ratelimitd.errors import UnknownService
from ratelimitd.services.context import CallContext
from ratelimitd.services.health import SERVICE_NAMES, HealthState


@dataclass(frozen=True, slots=True)
class HealthCheckService:
    """Tells what `state` says when it is asked."""

    state: HealthState

    async def check(
        self, message: health_pb2.HealthCheckRequest, context: CallContext
    ) -> health_pb2.HealthCheckResponse:
        """Answer one Check. Raises UnknownService."""
        del context
        if message.service not in SERVICE_NAMES:
            raise UnknownService("no such service")
        status = health_pb2.HealthCheckResponse.SERVING
        if not self.state.is_serving:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status)
