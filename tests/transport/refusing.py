"""Servers that refuse every call, in threads of their own: for clients that block."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import TypeVar

import grpc

from ratelimitd.transport import sockets
from ratelimitd.transport.h2 import tls as h2_tls
from ratelimitd.transport.h2.connection import Call
from ratelimitd.transport.h2.link import Link
from ratelimitd.transport.h2.server import Server
from ratelimitd.transport.listen import ListenAddress, TlsFiles, UnixAddress
from ratelimitd.transport.tls import to_tls
from tests.transport.support import PATH

STOP_S = 10
T = TypeVar("T")


def refuse_by_grpcio(
    address: ListenAddress, tls: TlsFiles | None, code: grpc.StatusCode, details: str
) -> tuple[str, Callable[[], None]]:
    """Start grpcio's server; return where it listens, and what stops it."""
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((_Refusing(code, details),))
    if tls is None:
        port = server.add_insecure_port(str(address))
    else:
        port = server.add_secure_port(str(address), to_tls(tls).credentials)
    server.start()
    at = str(address) if isinstance(address, UnixAddress) else f"{address.host}:{port}"
    return at, lambda: _wait(server)


def refuse_by_h2(
    address: ListenAddress, tls: TlsFiles | None, code: grpc.StatusCode, details: str
) -> tuple[str, Callable[[], None]]:
    """Start our server; return where it listens, and what stops it."""
    number, _ = code.value

    def on_calls(link: Link, calls: list[Call]) -> None:
        for stream_id, _, _ in calls:
            link.fail(stream_id, number, details)

    async def start() -> tuple[Server, str]:
        server = Server({PATH.encode(): "hit"}, on_calls)
        sock = sockets.bind(address, "--grpc")
        at = str(sockets.bound_address(address, sock))
        await server.listen(sock, None if tls is None else h2_tls.to_tls(tls).context)
        return server, at

    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def run(task: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(task, loop).result(STOP_S)

    server, at = run(start())

    def stop() -> None:
        run(server.stop(0))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STOP_S)
        loop.close()

    return at, stop


class _Refusing(grpc.GenericRpcHandler):
    """Answers every call with one status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._status = (code, details)

    def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(*self._status))


def _wait(server: grpc.Server) -> None:
    server.stop(0).wait(STOP_S)
