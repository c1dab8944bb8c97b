"""Serves an ASGI application on a bound socket with uvicorn, on the running loop.

Rules:
- Signals are the composition root's; uvicorn touches none.
- A connection has HEAD_TIMEOUT_S for each request's head, and MAX_HEAD_BYTES.
- Connections are bounded; beyond MAX_CONNECTIONS the answer is 503.
"""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ratelimitd.transport import sockets
from ratelimitd.transport.listen import ListenAddress

HEAD_TIMEOUT_S = 10.0
MAX_HEAD_BYTES = 64 * 1024
KEEP_ALIVE_S = 75
MAX_CONNECTIONS = 2_048


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server that is listening on `address`."""

    address: ListenAddress
    _server: "_Server"
    _task: "asyncio.Task[None]"
    _file: sockets.SocketFile

    async def stop(self, grace_s: float) -> None:
        """Take no more connections, and wait at most `grace_s` for requests in flight."""
        # While it still listens nobody else can have taken the path.
        self._file.remove()
        self._server.config.timeout_graceful_shutdown = max(1, round(grace_s))
        self._server.should_exit = True
        await asyncio.wait((self._task,), timeout=grace_s + 1)
        if not self._task.done():
            self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


async def start_http(app: ASGIApp, address: ListenAddress, flag: str) -> HttpServer:
    """Open `address` and serve `app`; ConfigError names `flag` if it cannot be opened."""
    sock = sockets.bind(address, flag)
    return await serve_http(app, sock, sockets.bound_address(address, sock))


async def serve_http(app: ASGIApp, sock: socket.socket, address: ListenAddress) -> HttpServer:
    """Serve `app` on a socket that is bound to `address`, and own the socket and its file."""
    file = sockets.SocketFile(address)
    server = _Server(to_config(app))
    task = asyncio.create_task(server.serve([sock]), name=f"http {address}")
    started = asyncio.create_task(server.is_started.wait())
    await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        started.cancel()
        await task
    return HttpServer(address, server, task, file)


def to_config(app: ASGIApp) -> uvicorn.Config:
    """Return how every HTTP connection of ours is served."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        # Below it there is a line for each broken request that anybody sends.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=MAX_CONNECTIONS,
    )


class _Server(uvicorn.Server):
    """uvicorn that leaves signals alone and says when it accepts."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's connection, given up when a request's head is too slow or too large."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._is_in_head = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless the head has too many."""
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """Begin to wait for the next head."""
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Wait no more: the head is complete."""
        self._is_in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _start_timer(self) -> None:
        self._stop_timer()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
