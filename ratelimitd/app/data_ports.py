"""Who serves the ports that gateways call, in the daemon's own process: grpcio or our HTTP/2."""

from contextlib import AsyncExitStack

from ratelimitd.app.certificate import follow_certificate
from ratelimitd.app.engine import Engine
from ratelimitd.app.h2_port import h2_server, measure, server_tls
from ratelimitd.app.servers import HTTP_GRACE_S, DataPorts, Ports, add_health, hot_method
from ratelimitd.services.gate import Gate
from ratelimitd.settings.model import ListenSettings, Settings
from ratelimitd.settings.values import DataPlane
from ratelimitd.transport import sockets
from ratelimitd.transport.grpc import GrpcPort, GrpcServer, start_grpc
from ratelimitd.transport.h2.server import Server
from ratelimitd.transport.h2.tls import ServerTls
from ratelimitd.transport.http import HttpPages, http_app
from ratelimitd.transport.http_server import start_http
from ratelimitd.transport.listen import ListenAddress


def data_ports(settings: Settings, engine: Engine, ports: Ports) -> DataPorts:
    """Return who serves the gRPC and the HTTP port in this process; nothing is open yet."""
    if settings.data_plane is DataPlane.H2:
        return _H2Ports(settings, engine, ports.pages)
    return _GrpcioPorts(settings.listen, ports, engine.gate)


class _GrpcioPorts:
    """The gRPC port on grpcio's server."""

    def __init__(self, listen: ListenSettings, ports: Ports, gate: Gate) -> None:
        self._listen = listen
        self._gate = gate if listen.knows_callers else None
        self._ports = ports
        self._server: GrpcServer | None = None

    async def open(self, stack: AsyncExitStack) -> tuple[ListenAddress, ListenAddress]:
        listen = self._listen
        port = GrpcPort(
            address=listen.grpc,
            flag="--grpc",
            tls=listen.tls,
            gate=self._gate,
            connection_age_ms=listen.connection_age_ms,
            connection_age_grace_ms=listen.connection_age_grace_ms,
        )
        server = await start_grpc(
            port,
            [hot_method(self._ports)],
            observe_call=self._ports.telemetry.observe_call,
            add_servicers=lambda server: add_health(server, self._ports.reporter),
        )
        stack.push_async_callback(server.stop, 0)
        self._server = server
        return server.address, await _open_http(listen, self._ports.pages, stack)

    async def drain(self) -> None:
        assert self._server is not None, "open comes first"
        await self._server.stop(self._listen.drain_grace_s)

    def measure(self) -> None:
        """Look at the certificate; grpcio does not tell how many connections it has."""
        tls = self._server.tls if self._server is not None else None
        follow_certificate(tls.files if tls else None, self._ports.telemetry.workers[1])


class _H2Ports:
    """The gRPC port on our HTTP/2 server, in the daemon's loop."""

    def __init__(self, settings: Settings, engine: Engine, pages: HttpPages) -> None:
        self._settings = settings
        self._engine = engine
        self._pages = pages
        self._tls: ServerTls | None = None
        self._server: Server | None = None

    async def open(self, stack: AsyncExitStack) -> tuple[ListenAddress, ListenAddress]:
        self._tls = server_tls(self._settings.listen)
        address = self._settings.listen.grpc
        sock = sockets.bind(address, "--grpc")
        stack.callback(sockets.SocketFile(address).remove)
        bound = sockets.bound_address(address, sock)
        server = h2_server(self._settings, self._engine, on_closed=lambda: None)
        stack.push_async_callback(server.stop, 0)
        await server.listen(sock, self._tls.context if self._tls else None)
        self._server = server
        return bound, await _open_http(self._settings.listen, self._pages, stack)

    async def drain(self) -> None:
        assert self._server is not None, "open comes first"
        await self._server.stop(self._settings.listen.drain_grace_s)

    def measure(self) -> None:
        if self._server is not None:
            telemetry = self._engine.telemetry
            telemetry.workers[1].connections_grpc = len(self._server.links)
            measure(self._server, telemetry)
            follow_certificate(self._tls.files if self._tls else None, telemetry.workers[1])


async def _open_http(
    listen: ListenSettings, pages: HttpPages, stack: AsyncExitStack
) -> ListenAddress:
    http = await start_http(http_app(pages), listen.http, "--http")
    stack.push_async_callback(http.stop, HTTP_GRACE_S)
    return http.address
