"""TLS of the gRPC port: who is served, who is not, and certificates that change."""

import os
import shutil
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
from ratelimitd.errors import ConfigError
from ratelimitd.transport.grpc import GrpcPort
from ratelimitd.transport.h2.server import OnCalls, Server
from ratelimitd.transport.h2.tls import PeerGuard, to_context
from ratelimitd.transport.h2.unary import Calls, from_service
from ratelimitd.transport.listen import TcpAddress, TlsFiles
from ratelimitd.transport.tls import to_credentials
from ratelimitd.transport.tls_files import REFUSED_PEER
from tests.support.certificates import Authority, KeyPair, make_authority
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
    calls: OnCalls = Calls(service.observe_call)
    if port.accepted_names:
        calls = PeerGuard(frozenset(port.accepted_names), calls, service.observe_call)
    context = to_context(port.tls)
    method = from_service(
        "ShouldRateLimit", rls_pb2.RateLimitRequest, service.should_rate_limit, TIMEOUT_S
    )
    server = Server({PATH.encode(): method}, calls)
    sock = socket.create_server(("127.0.0.1", 0))
    await server.listen(sock, context)
    try:
        yield H2Served(TcpAddress("127.0.0.1", sock.getsockname()[1]))
    finally:
        await server.stop(0.1)


@pytest.fixture(params=["grpcio", "h2"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Give each of the two servers."""
    return serving if request.param == "grpcio" else serving_h2


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca")


@pytest.fixture
def server_pair(authority: Authority) -> KeyPair:
    return authority.issue("localhost")


def port(
    pair: KeyPair, client_ca: Path | None = None, accepted_names: tuple[str, ...] = ()
) -> GrpcPort:
    return GrpcPort(
        address=ANY_PORT,
        flag="--grpc",
        tls=TlsFiles(certificate=pair.certificate, key=pair.key, client_ca=client_ca),
        accepted_names=accepted_names,
    )


def channel_to(
    address: object, authority: Authority, client: KeyPair | None = None
) -> grpc.aio.Channel:
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
    async with channel_to(address, authority, client) as channel:
        return await status_of(raw_call(channel)(OK_CALL, timeout=TIMEOUT_S))


async def test_tls_serves_who_trusts_us(
    authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    async with serve(EchoService(), port(server_pair)) as server:
        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")


async def test_tls_refuses_plain_text_and_goes_on(
    authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    async with serve(EchoService(), port(server_pair)) as server:
        async with grpc.aio.insecure_channel(str(server.address)) as channel:
            code, _ = await status_of(raw_call(channel)(OK_CALL, timeout=TIMEOUT_S))
            assert code is grpc.StatusCode.UNAVAILABLE

        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")


async def test_client_ca_requires_a_certificate_of_it(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    stranger = make_authority(tmp_path / "other", "Other CA").issue("client")
    async with serve(EchoService(), port(server_pair, authority.certificate)) as server:
        no_certificate, _ = await outcome(server.address, authority)
        wrong_authority, _ = await outcome(server.address, authority, stranger)
        right = await outcome(server.address, authority, authority.issue("client"))

    assert no_certificate is grpc.StatusCode.UNAVAILABLE
    assert wrong_authority is grpc.StatusCode.UNAVAILABLE
    assert right == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize(
    ("sans", "is_accepted"),
    [
        (("envoy.internal",), True),
        (("spiffe://cluster/envoy",), True),
        (("other.internal", "envoy.internal"), True),
        (("other.internal",), False),
        (("envoy.internal.evil.example",), False),
        (("spiffe://cluster/envoy/other",), False),
        (("10.0.0.1",), False),
    ],
)
async def test_names_are_compared_with_dns_names_and_uris(
    authority: Authority,
    server_pair: KeyPair,
    sans: tuple[str, ...],
    is_accepted: bool,
    serve: Serve,
) -> None:
    # The common name would match: it must not be looked at.
    client = authority.issue("envoy.internal", sans)
    names = ("envoy.internal", "spiffe://cluster/envoy", "10.0.0.1")
    service = EchoService()

    async with serve(service, port(server_pair, authority.certificate, names)) as server:
        found = await outcome(server.address, authority, client)

    refused = (grpc.StatusCode.PERMISSION_DENIED, REFUSED_PEER)
    assert found == ((grpc.StatusCode.OK, "") if is_accepted else refused)
    assert len(service.contexts) == int(is_accepted)


async def test_changed_certificate_is_used_for_the_next_connection(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    other = make_authority(tmp_path / "other", "Other CA")
    async with serve(EchoService(), port(server_pair)) as server:
        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")

        replace(other.issue("localhost"), server_pair)

        assert await outcome(server.address, other) == (grpc.StatusCode.OK, "")
        code, _ = await outcome(server.address, authority)
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_authority_that_was_taken_out_is_trusted_no_more(
    tmp_path: Path, authority: Authority, server_pair: KeyPair, serve: Serve
) -> None:
    other = make_authority(tmp_path / "other", "Other CA")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(authority.certificate, trusted)
    old, new = authority.issue("client"), other.issue("client")
    async with serve(EchoService(), port(server_pair, trusted)) as server:
        assert await outcome(server.address, authority, old) == (grpc.StatusCode.OK, "")

        shutil.copy(other.certificate, tmp_path / "trusted.new")
        (tmp_path / "trusted.new").replace(trusted)

        assert await outcome(server.address, authority, new) == (grpc.StatusCode.OK, "")
        code, _ = await outcome(server.address, authority, old)
        assert code is grpc.StatusCode.UNAVAILABLE


async def test_broken_certificate_keeps_the_last_one_and_is_logged_once(
    authority: Authority, server_pair: KeyPair, caplog: pytest.LogCaptureFixture, serve: Serve
) -> None:
    async with serve(EchoService(), port(server_pair)) as server:
        server_pair.certificate.write_text("not a certificate")

        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")
        assert await outcome(server.address, authority) == (grpc.StatusCode.OK, "")

    lines = [record for record in caplog.records if "keeping the last ones" in record.getMessage()]
    assert len(lines) == 1


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("how", ["missing", "garbage", "directory"])
def test_files_that_cannot_be_used_are_one_line_that_names_them(
    authority: Authority, server_pair: KeyPair, broken: str, how: str
) -> None:
    files = TlsFiles(
        certificate=server_pair.certificate,
        key=server_pair.key,
        client_ca=authority.certificate,
    )
    path: Path = getattr(files, broken)
    path.unlink()
    if how == "garbage":
        path.write_text("garbage")
    elif how == "directory":
        path.mkdir()

    with pytest.raises(ConfigError) as caught:
        to_credentials(files)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_key_of_another_certificate_is_refused(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")

    with pytest.raises(ConfigError, match="not a certificate and its unencrypted key"):
        to_credentials(TlsFiles(certificate=one.certificate, key=other.key))


def replace(new: KeyPair, old: KeyPair) -> None:
    """Put new files in place as an operator does: written beside, then renamed."""
    for source, target in ((new.key, old.key), (new.certificate, old.certificate)):
        beside = target.with_suffix(".new")
        shutil.copy(source, beside)
        os.replace(beside, target)  # noqa: PTH105 - what the name says
