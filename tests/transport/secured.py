"""Both servers of the gRPC port behind TLS, and grpcio clients with certificates."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio
import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.services.gate import Gate
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.transport.grpc import GrpcPort
from ratelimitd.transport.h2.guard import PeerGuard
from ratelimitd.transport.h2.server import OnCalls, Server
from ratelimitd.transport.h2.tls import to_tls
from ratelimitd.transport.h2.unary import Calls, from_service
from ratelimitd.transport.listen import TcpAddress, TlsFiles
from tests.support.certificates import Authority, KeyPair
from tests.transport.support import ANY_PORT, PATH, EchoService, raw_call, serving, status_of

Serve = Callable[[EchoService, GrpcPort], AbstractAsyncContextManager["Served"]]
OK_CALL = rls_pb2.RateLimitRequest(domain="d").SerializeToString()
TIMEOUT_S = 10


class Served(Protocol):
    """A server that listens."""

    @property
    def address(self) -> object:
        """Return where it listens."""
        ...


@dataclass
class H2Served:
    """Our own server."""

    address: TcpAddress


@asynccontextmanager
async def serving_h2(service: EchoService, port: GrpcPort) -> AsyncIterator[H2Served]:
    """Serve `service` on our HTTP/2 server until the block ends."""
    assert port.tls is not None
    method = from_service(
        "ShouldRateLimit", rls_pb2.RateLimitRequest, service.should_rate_limit, TIMEOUT_S
    )
    methods = {PATH.encode(): method}
    calls = Calls(service.observe_call)
    on_calls: OnCalls = calls
    if port.gate is not None:
        on_calls = PeerGuard(port.gate, methods, calls, service.observe_call)
    tls = to_tls(port.tls)
    server = Server(methods, on_calls)
    sock = socket.create_server(("127.0.0.1", 0))
    await server.listen(sock, tls.context)
    try:
        yield H2Served(TcpAddress("127.0.0.1", sock.getsockname()[1]))
    finally:
        await server.stop(0.1)


@pytest.fixture(params=["grpcio", "h2"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Give each of the two servers."""
    return serving if request.param == "grpcio" else serving_h2


def port(
    pair: KeyPair,
    client_ca: Path | None = None,
    accepted_names: tuple[str, ...] = (),
    holder: PolicyHolder | None = None,
) -> GrpcPort:
    """Return a port with TLS, and with a gate if callers must show certificates."""
    gate = Gate(holder or PolicyHolder(), Telemetry(), accepted_names)
    return GrpcPort(
        address=ANY_PORT,
        flag="--grpc",
        tls=TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=client_ca),
        gate=None if client_ca is None else gate,
    )


def channel_to(
    address: object, authority: Authority, client: KeyPair | None = None
) -> grpc.aio.Channel:
    """Return a channel that trusts `authority` and shows the certificate of `client`."""
    assert isinstance(address, TcpAddress)
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        client.key.read_bytes() if client else None,
        client.certificate.read_bytes() if client else None,
    )
    return grpc.aio.secure_channel(
        f"localhost:{address.port}",
        credentials,
        # Each channel shakes hands anew, so that none rides on another's connection.
        [("grpc.use_local_subchannel_pool", 1)],
    )


async def outcome(
    address: object, authority: Authority, client: KeyPair | None = None
) -> tuple[grpc.StatusCode, str]:
    """Return how one call on a connection of its own ended."""
    async with channel_to(address, authority, client) as channel:
        return await status_of(raw_call(channel)(OK_CALL, timeout=TIMEOUT_S))
