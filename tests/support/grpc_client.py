"""A gRPC client of the daemon, on the generated messages and grpcio."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc.aio

from ratelimitd._proto.envoy.service.ratelimit.v3.rls_pb2 import (
    RateLimitRequest,
    RateLimitResponse,
)

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

ShouldRateLimit = Callable[[RateLimitRequest], Awaitable[RateLimitResponse]]


def rate_limit_request(domain: str, *descriptors: str, hits: int = 0) -> RateLimitRequest:
    """Build a request; a descriptor is written `key=value,key=value`."""
    request = RateLimitRequest(domain=domain, hits_addend=hits)
    for text in descriptors:
        descriptor = request.descriptors.add()
        for entry in text.split(","):
            key, _, value = entry.partition("=")
            descriptor.entries.add(key=key, value=value)
    return request


@asynccontextmanager
async def connected(address: str, timeout_s: float = 10) -> AsyncIterator[ShouldRateLimit]:
    """Open one connection of its own; each call is given up after `timeout_s`."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        method = channel.unary_unary(
            METHOD,
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )

        async def should_rate_limit(request: RateLimitRequest) -> RateLimitResponse:
            answer: RateLimitResponse = await method(request, timeout=timeout_s)
            return answer

        yield should_rate_limit
