"""Ports behind TLS for both servers, and grpcio clients with certificates."""

from pathlib import Path

import grpc
import grpc.aio

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.services.gate import Gate
from ratelimitd.services.policy_holder import PolicyHolder
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.transport.grpc import GrpcPort
from ratelimitd.transport.listen import TcpAddress, TlsFiles
from tests.support.certificates import Authority, KeyPair
from tests.transport.support import ANY_PORT, raw_call, status_of

OK_CALL = rls_pb2.RateLimitRequest(domain="d").SerializeToString()
TIMEOUT_S = 10


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
