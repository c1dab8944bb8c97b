"""The gRPC shell: grpcio's asyncio server around plain services.

Rules:
- A service is `async (message, CallContext) -> message` and raises errors of ours; to mount one
  more unary method is one more `UnaryMethod`.
- Messages arrive as bytes and are parsed here, so that an unreadable or an oversized one is
  INVALID_ARGUMENT with a reason. Beyond MAX_MESSAGE_BYTES grpcio answers RESOURCE_EXHAUSTED
  without reading it; an unknown method is UNIMPLEMENTED.
- An error that nobody foresaw is INTERNAL with an id that stands in the log; the server goes on.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from ratelimitd.defects import DefectLog
from ratelimitd.errors import ConfigError, NotPermitted
from ratelimitd.services.context import CallContext
from ratelimitd.services.gate import Gate, Peer
from ratelimitd.services.parse import MAX_REQUEST_BYTES, parse_request
from ratelimitd.transport import sockets
from ratelimitd.transport.errors import new_error_id, to_answer, to_internal
from ratelimitd.transport.listen import ListenAddress, TcpAddress, TlsFiles, UnixAddress
from ratelimitd.transport.tls import ServerTls, to_sans, to_tls

_log = logging.getLogger(__name__)

# What grpcio reads at all: enough to answer a too large request with a reason.
MAX_MESSAGE_BYTES = 1024 * 1024
MAX_METADATA_BYTES = 16 * 1024
# Calls in flight over all connections; beyond it they are refused with RESOURCE_EXHAUSTED.
MAX_CALLS = 10_000
# A client may ask whether we live this often, also while it has no call.
MIN_PING_INTERVAL_MS = 10_000

ObserveCall = Callable[[str, str, float], None]


class UnaryService(Protocol):
    """What is mounted: a message and its context in, a message out."""

    def __call__(self, message: Any, context: CallContext, /) -> Awaitable[Message]:
        """Answer one call."""
        ...


@dataclass(frozen=True, slots=True)
class UnaryMethod:
    """A service's method: its full name, the type of its request, and who answers.

    A request has `max_bytes`, beyond which it is INVALID_ARGUMENT; MAX_MESSAGE_BYTES bounds that.
    """

    service: str
    name: str
    request: type[Message]
    serve: UnaryService
    max_bytes: int = MAX_REQUEST_BYTES

    @property
    def path(self) -> str:
        """Return the path that clients call."""
        return f"/{self.service}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcPort:
    """A port to open; `flag` is what the operator sets it with, for messages.

    `gate` is asked about callers where they show certificates.
    """

    address: ListenAddress
    flag: str
    tls: TlsFiles | None = None
    gate: Gate | None = None
    connection_age_ms: int | None = None
    connection_age_grace_ms: int | None = None


@dataclass(frozen=True, slots=True)
class GrpcServer:
    """A server that is listening on `address`."""

    server: grpc.aio.Server
    address: ListenAddress
    file: sockets.SocketFile
    tls: ServerTls | None = None

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and wait at most `grace_s` for those in flight."""
        # While it still listens nobody else can have taken the path.
        self.file.remove()
        await self.server.stop(grace_s)


async def start_grpc(
    port: GrpcPort,
    methods: Sequence[UnaryMethod],
    *,
    observe_call: ObserveCall,
    add_servicers: Callable[[grpc.aio.Server], None] = lambda _: None,
) -> GrpcServer:
    """Open `port` and serve `methods`, and what `add_servicers` registers in grpcio's own way.

    Raises ConfigError if the port cannot be opened or the TLS files cannot be used.
    """
    tls = None if port.tls is None else to_tls(port.tls)
    handlers = _UnaryHandlers(methods, observe_call, gate=port.gate)
    guards = () if port.gate is None else (_PeerGuard(port.gate, handlers.paths, observe_call),)
    server = grpc.aio.server(
        options=_options(port), interceptors=guards, maximum_concurrent_rpcs=MAX_CALLS
    )
    server.add_generic_rpc_handlers((handlers,))
    add_servicers(server)
    sockets.check_free(port.address, port.flag)
    place = sockets.place_beside(port.address)
    try:
        if tls is None:
            number = server.add_insecure_port(str(place))
        else:
            number = server.add_secure_port(str(place), tls.credentials)
        sockets.move(place, port.address)
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{port.flag}: cannot listen on {port.address}") from error
    file = sockets.SocketFile(port.address)
    await server.start()
    match port.address:
        case TcpAddress(host=host):
            return GrpcServer(server, TcpAddress(host, number), file, tls)
        case UnixAddress():
            return GrpcServer(server, port.address, file, tls)


def _options(port: GrpcPort) -> list[tuple[str, int]]:
    options = [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        # Calls of a burst that wait for Python: beyond 1,000, the default, grpcio would reset some
        # at random with CANCEL.
        ("grpc.server.max_pending_requests", MAX_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_CALLS),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if port.connection_age_ms is not None:
        options.append(("grpc.max_connection_age_ms", port.connection_age_ms))
    if port.connection_age_grace_ms is not None:
        options.append(("grpc.max_connection_age_grace_ms", port.connection_age_grace_ms))
    return options


class _UnaryHandlers(grpc.GenericRpcHandler):
    """Finds the method of a path."""

    def __init__(
        self, methods: Sequence[UnaryMethod], observe_call: ObserveCall, *, gate: Gate | None
    ) -> None:
        defects = DefectLog(_log)
        self._handlers: Mapping[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method.path: grpc.unary_unary_rpc_method_handler(
                _to_behaviour(method, observe_call, defects, gate)
            )
            for method in methods
        }
        self.paths = frozenset(self._handlers)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        return self._handlers.get(handler_call_details.method)


def _to_behaviour(
    method: UnaryMethod, observe_call: ObserveCall, defects: DefectLog, gate: Gate | None
) -> Any:
    async def behaviour(data: bytes, call: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        start_s = time.monotonic()
        code = "CANCELLED"
        try:
            context = CallContext(
                timeout_s=call.time_remaining(),
                trace_parent=_trace_parent(call),
                caller=_admit(gate, call, method.path),
                address=call.peer(),
            )
            request = parse_request(method.request, data, method.max_bytes)
            answer = await method.serve(request, context)
            code = "OK"
            return answer.SerializeToString()
        except Exception as error:  # noqa: BLE001 - the edge: whatever a service raises is answered
            status, message = _to_status(error, method, defects)
            code = status.name
        finally:
            # Before the caller is told, so that what it knows is counted.
            observe_call(method.name, code, time.monotonic() - start_s)
        await call.abort(status, message)
        raise AssertionError("abort always raises")

    return behaviour


def _to_status(
    error: Exception, method: UnaryMethod, defects: DefectLog
) -> tuple[grpc.StatusCode, str]:
    answer = to_answer(error)
    if answer is None:
        error_id = new_error_id()
        answer = to_internal(error_id)
        defects.record(error, "%s failed, error id %s", method.path, error_id)
    return grpc.StatusCode[answer.status.name], answer.message


def _trace_parent(call: "grpc.aio.ServicerContext[bytes, bytes]") -> str | None:
    for name, value in call.invocation_metadata() or ():
        if name == "traceparent":
            return value if isinstance(value, str) else None
    return None


def _admit(gate: Gate | None, call: Any, path: str) -> Peer | None:
    """Return who calls `path`, None where nobody asks. Raises NotPermitted.

    grpcio tells nothing of connections, so its peers are looked up for each call.
    """
    if gate is None or gate.is_open:
        return None
    peer = gate.meet(to_sans(call.auth_context()))
    peer.check_method(path[1:])
    return peer


class _PeerGuard(grpc.aio.ServerInterceptor):
    """Refuses calls of methods that are registered in grpcio's own way, health above all."""

    def __init__(self, gate: Gate, ours: frozenset[str], observe_call: ObserveCall) -> None:
        """Leave the methods `ours` alone: those ask by themselves."""
        self._gate = gate
        self._ours = ours
        self._observe = observe_call

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        path = handler_call_details.method
        if handler is None or path in self._ours:
            return handler
        # Health's Watch writes to its context, so that it is awaited as a unary method is.
        if handler.unary_stream is not None:
            build, behaviour = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        else:
            build, behaviour = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        return build(
            self._guarded(path, behaviour),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _guarded(self, path: str, behaviour: Any) -> Any:
        async def guarded(request: Any, call: Any) -> Any:
            try:
                _admit(self._gate, call, path)
            except NotPermitted as error:
                self._observe(path.rpartition("/")[2], "PERMISSION_DENIED", 0.0)
                await call.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            return await behaviour(request, call)

        return guarded
