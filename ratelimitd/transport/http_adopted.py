"""Serves an ASGI application on connections that somebody else accepted, on the running loop."""

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from ratelimitd.transport.http_server import BoundedProtocol, to_config


class HttpConnections:
    """The HTTP connections of a process; `on_closed` is called after each that ends."""

    def __init__(self, app: ASGIApp, on_closed: Callable[[], None]) -> None:
        """Serve `app`."""
        self._config = to_config(app)
        self._config.load()
        self._state = ServerState()
        self._on_closed = on_closed
        self._empty = asyncio.Event()
        self._is_draining = False

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._state.connections)

    async def adopt(self, accepted: socket.socket) -> None:
        """Serve a connection. Raises OSError if it is gone."""
        await asyncio.get_running_loop().connect_accepted_socket(self._new, accepted)

    async def drain(self, grace_s: float) -> None:
        """Let requests in flight end within `grace_s`, and close."""
        self._is_draining = True
        for connection in list(self._state.connections):
            connection.shutdown()
        self._tell_closed()
        try:
            await asyncio.wait_for(self._empty.wait(), grace_s)
        except TimeoutError:
            for connection in list(self._state.connections):
                connection.transport.abort()

    def _new(self) -> asyncio.Protocol:
        return _AdoptedProtocol(self._config, self._state, {}, on_closed=self._tell_closed)

    def _tell_closed(self) -> None:
        if self._is_draining and not self._state.connections:
            self._empty.set()
        self._on_closed()


class _AdoptedProtocol(BoundedProtocol):
    """A connection whose end somebody waits for."""

    def __init__(self, *args: object, on_closed: Callable[[], None]) -> None:
        super().__init__(*args)
        self._tell_closed = on_closed

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tell_closed()
