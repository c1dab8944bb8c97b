"""Services for transport tests: one that answers, and ports of the real servers around it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import grpc.aio

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.errors import InvalidRequest, NotReady, StoreUnavailable
from ratelimitd.services.context import CallContext
from ratelimitd.transport import sockets
from ratelimitd.transport.grpc import GrpcPort, GrpcServer, UnaryMethod, start_grpc
from ratelimitd.transport.h2.guard import PeerGuard
from ratelimitd.transport.h2.server import OnCalls, Server
from ratelimitd.transport.h2.tls import to_tls
from ratelimitd.transport.h2.unary import Calls, from_service
from ratelimitd.transport.listen import ListenAddress, TcpAddress

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"
PATH = f"/{SERVICE}/ShouldRateLimit"
ANY_PORT = TcpAddress("127.0.0.1", 0)
# For calls without a deadline on our own server.
DEFAULT_DEADLINE_S = 7.0


@dataclass
class EchoService:
    """Answers by the domain: `over` is refused, an error's name raises it, the rest is OK."""

    contexts: list[CallContext] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)

    async def should_rate_limit(
        self, message: rls_pb2.RateLimitRequest, context: CallContext
    ) -> rls_pb2.RateLimitResponse:
        """Answer one request."""
        self.contexts.append(context)
        match message.domain:
            case "invalid":
                raise InvalidRequest("domain: is empty")
            case "store":
                raise StoreUnavailable("the store does not answer")
            case "not_ready":
                raise NotReady("no policy is loaded")
            case "bug":
                raise ZeroDivisionError("secret detail")
            case "unknown":
                return rls_pb2.RateLimitResponse()
        code = "OVER_LIMIT" if message.domain == "over" else "OK"
        answer = rls_pb2.RateLimitResponse(overall_code=code)
        answer.statuses.add(code=code, limit_remaining=len(message.descriptors))
        return answer

    def observe_call(self, method: str, code: str, _: float, count: int = 1) -> None:
        """Remember what would be counted."""
        self.calls.append((method, code))

    def method(self) -> UnaryMethod:
        """Return the service as a mounted method."""
        return UnaryMethod(
            SERVICE, "ShouldRateLimit", rls_pb2.RateLimitRequest, self.should_rate_limit
        )


@asynccontextmanager
async def serving(
    service: EchoService,
    port: GrpcPort | None = None,
    add_servicers: Callable[[grpc.aio.Server], None] = lambda _: None,
) -> AsyncIterator[GrpcServer]:
    """Serve `service` until the block ends."""
    server = await start_grpc(
        port or GrpcPort(address=ANY_PORT, flag="--grpc"),
        [service.method()],
        observe_call=service.observe_call,
        add_servicers=add_servicers,
    )
    try:
        yield server
    finally:
        await server.stop(0)


class Served(Protocol):
    """A server that listens, whichever it is."""

    @property
    def address(self) -> ListenAddress:
        """Return where."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and wait at most `grace_s` for those in flight."""
        ...


@dataclass(frozen=True, slots=True)
class H2Served:
    """Our own server, listening on `address`."""

    server: Server
    address: ListenAddress

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and wait at most `grace_s` for those in flight."""
        await self.server.stop(grace_s)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def serving_h2(service: EchoService, port: GrpcPort | None = None) -> AsyncIterator[H2Served]:
    """Serve `service` on our HTTP/2 server until the block ends."""
    port = port or GrpcPort(address=ANY_PORT, flag="--grpc")
    method = from_service(
        "ShouldRateLimit", rls_pb2.RateLimitRequest, service.should_rate_limit, DEFAULT_DEADLINE_S
    )
    methods = {PATH.encode(): method}
    calls = Calls(service.observe_call)
    on_calls: OnCalls = calls
    if port.gate is not None:
        on_calls = PeerGuard(port.gate, methods, calls, service.observe_call)
    server = Server(methods, on_calls)
    try:
        sock = sockets.bind(port.address, port.flag)
        file = sockets.SocketFile(port.address)
        address = sockets.bound_address(port.address, sock)
        await server.listen(sock, None if port.tls is None else to_tls(port.tls).context)
        yield H2Served(server, address)
        file.remove()
    finally:
        await server.stop(0)


def raw_call(channel: grpc.aio.Channel, path: str = PATH) -> Callable[..., Awaitable[bytes]]:
    """Return a method of `channel` that sends and receives bytes as they are."""
    return channel.unary_unary(path)


async def status_of(call: Awaitable[bytes]) -> tuple[grpc.StatusCode, str]:
    """Return the status and message that a call failed with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""
