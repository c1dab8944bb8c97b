"""TLS handshakes that fail are counted by why, however the connection came."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ratelimitd.transport.h2 import server as server_module
from ratelimitd.transport.h2.handshakes import REASONS, reason_of
from ratelimitd.transport.h2.server import Server
from tests.support.certificates import Authority, KeyPair, make_authority
from tests.transport.h2.peer import METHODS

CLIENT_S = 5
NOW = datetime.now(UTC).replace(tzinfo=None)
# Runs in a thread, and is given the port.
Client = Callable[[int], None]


class World:
    """A server's context, and clients of it."""

    def __init__(self, directory: Path) -> None:
        self.authority = make_authority(directory / "ca")
        self.stranger = make_authority(directory / "other", "Other CA")
        pair = self.authority.issue("localhost")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(pair.certificate, pair.key)
        self.context.set_alpn_protocols(["h2"])
        self.context.load_verify_locations(self.authority.certificate)
        self.context.verify_mode = ssl.CERT_REQUIRED

    def client(
        self,
        pair: KeyPair | None,
        *,
        trusts: Authority | None = None,
        newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        ciphers: str = "",
        protocols: tuple[str, ...] = ("h2",),
    ) -> Client:
        """Return a client that shakes hands and waits until the server closes."""

        def run(port: int) -> None:
            context = ssl.create_default_context(cafile=str((trusts or self.authority).certificate))
            context.maximum_version = newest
            context.set_alpn_protocols(list(protocols))
            if ciphers:
                context.set_ciphers(ciphers)
            if pair is not None:
                context.load_cert_chain(pair.certificate, pair.key)
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port), CLIENT_S) as sock,
                context.wrap_socket(sock, server_hostname="localhost") as encrypted,
            ):
                while encrypted.recv(1024):
                    continue

        return run


def raw(data: bytes, *, is_reset: bool = False, waits: bool = False) -> Client:
    """Return a client that sends `data` and ends, or waits until the server does."""

    def run(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), CLIENT_S) as sock:
            sock.sendall(data)
            if waits:
                with suppress(OSError):
                    sock.recv(1024)
            elif is_reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return run


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


Serving = Callable[[ssl.SSLContext], "AsyncIterator[tuple[Server, int]]"]


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[tuple[Server, int]]:
    """Serve as the one process does."""
    server = Server(METHODS, lambda *_: None)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.listen(listener, context)
    try:
        yield server, listener.getsockname()[1]
    finally:
        await server.stop(0)


@asynccontextmanager
async def adopting(context: ssl.SSLContext) -> AsyncIterator[tuple[Server, int]]:
    """Serve as a worker does: somebody else accepts."""
    server = Server(METHODS, lambda *_: None)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)

    async def adopt_all() -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            try:
                await server.adopt(accepted, context)
            except OSError:
                accepted.close()

    adopter = asyncio.create_task(adopt_all())
    try:
        yield server, listener.getsockname()[1]
    finally:
        adopter.cancel()
        listener.close()
        await server.stop(0)


WAYS = [listening, adopting]
OLD = ssl.TLSVersion.TLSv1_2
NEW = ssl.TLSVersion.TLSv1_3


async def failures(world: World, way: object, client: Client) -> dict[str, int]:
    """Return what is counted of one client."""
    assert callable(way)
    async with way(world.context) as (server, port):
        running = asyncio.create_task(asyncio.to_thread(client, port))
        counted: dict[str, int] = server.counters.failed_handshakes
        async with asyncio.timeout(CLIENT_S):
            while not counted and not server.counters.closed:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
        await running
        no_alpn = server.counters.closed.get("no_alpn", 0)
        return counted | ({"no_alpn": no_alpn} if no_alpn else {})


@pytest.mark.parametrize("version", [OLD, NEW], ids=["1.2", "1.3"])
@pytest.mark.parametrize("way", WAYS)
async def test_failures_of_certificates_have_their_reasons(
    world: World, way: object, version: ssl.TLSVersion
) -> None:
    day = timedelta(days=1)
    expired = world.authority.issue("expired", not_after=NOW - day)
    clients = {
        "no_certificate": world.client(None, newest=version),
        "unknown_authority": world.client(world.stranger.issue("client"), newest=version),
        "expired": world.client(expired, newest=version),
        "refused_by_peer": world.client(
            world.authority.issue("client"), trusts=world.stranger, newest=version
        ),
        "no_alpn": world.client(
            world.authority.issue("client"), newest=version, protocols=("http/1.1",)
        ),
    }
    for reason, client in clients.items():
        assert await failures(world, way, client) == {reason: 1}


@pytest.mark.parametrize("way", WAYS)
async def test_failures_before_certificates_have_their_reasons(
    world: World, way: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "HANDSHAKE_S", 0.3)
    pair = world.authority.issue("client")
    hello = b"\x16\x03\x01\x02\x00\x01\x00"
    clients = {
        "no_common_parameters": world.client(pair, newest=OLD, ciphers="ECDHE-RSA-AES128-SHA256"),
        "not_tls": raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", waits=True),
        "timeout": raw(b"", waits=True),
        "reset": raw(hello, is_reset=True),
    }
    for reason, client in clients.items():
        assert await failures(world, way, client) == {reason: 1}
    assert await failures(world, way, raw(hello)) == {"reset": 1}

    world.context.minimum_version = NEW
    assert await failures(world, way, world.client(pair, newest=OLD)) == {"no_common_parameters": 1}


@pytest.mark.parametrize("way", WAYS)
async def test_handshake_that_succeeds_is_no_failure(world: World, way: object) -> None:
    context = ssl.create_default_context(cafile=str(world.authority.certificate))
    pair = world.authority.issue("client")
    context.load_cert_chain(pair.certificate, pair.key)
    context.set_alpn_protocols(["h2"])
    assert callable(way)
    async with way(world.context) as (server, port):
        connected = asyncio.open_connection("localhost", port, ssl=context)
        _, writer = await asyncio.wait_for(connected, CLIENT_S)
        assert len(server.links) == 1
        writer.close()

    assert server.counters.failed_handshakes == {}


@pytest.mark.parametrize("way", WAYS)
async def test_handshakes_under_way_count_as_connections(
    world: World, way: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(way)
    async with way(world.context) as (server, port):
        server._max_connections = 0  # noqa: SLF001 - a peer that never finishes holds one
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), CLIENT_S) == b""
        writer.close()

    assert server.counters.over_limit == 1


async def test_stop_ends_handshakes_under_way(world: World) -> None:
    async with listening(world.context) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(CLIENT_S):
            while not server._shaking:  # noqa: SLF001, ASYNC110 - as above
                await asyncio.sleep(0.005)

        await server.stop(0)

        assert await asyncio.wait_for(reader.read(), CLIENT_S) == b""
        writer.close()


def named(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, "told by OpenSSL")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (named("HTTP_REQUEST"), "not_tls"),
        (named("NO_SUITABLE_GROUPS"), "no_common_parameters"),
        (named("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "refused_by_peer"),
        (named("SSLV3_ALERT_CERTIFICATE_EXPIRED"), "refused_by_peer"),
        (named("SOMETHING_NEW"), "other"),
        (ssl.SSLError(1, "without a reason"), "other"),
        (ssl.SSLEOFError(8, "ended"), "reset"),
        (TimeoutError(), "timeout"),
        (OSError(24, "Too many open files"), "other"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a name in a certificate"), "other"),
    ],
)
def test_every_error_has_one_of_the_reasons(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
    assert reason in REASONS


def test_certificate_with_another_fault_is_a_bad_one() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate is not yet valid")
    error.verify_code = 9

    assert reason_of(error) == "bad_certificate"
