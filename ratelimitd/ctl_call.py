"""One call of a running daemon, over whatever connection the flags ask for."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from ratelimitd.errors import ConfigError, RatelimitError

R = TypeVar("R", bound=Message)


class CallError(RatelimitError):
    """The daemon did not answer, or answered with an error; the message is for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where to call and how; any TLS file asks for TLS, too."""

    address: str
    timeout_s: float
    has_tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None


def call(connection: Connection, path: str, request: Message, answer: type[R]) -> R:
    """Send `request` and return the answer; CallError says why there is none."""
    with _channel(connection) as channel:
        method: grpc.UnaryUnaryMultiCallable[Message, R] = channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return method(request, timeout=connection.timeout_s)
        except grpc.RpcError as error:
            raise CallError(_explain(error, connection)) from error


def _channel(connection: Connection) -> grpc.Channel:
    files = (connection.ca, connection.certificate, connection.key)
    if not connection.has_tls and not any(files):
        return grpc.insecure_channel(connection.address)
    if (connection.certificate is None) != (connection.key is None):
        raise ConfigError("--cert and --key: give both, a certificate and its key")
    ca, certificate, key = (None if path is None else _read(path) for path in files)
    options = []
    if connection.server_name is not None:
        options.append(("grpc.ssl_target_name_override", connection.server_name))
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.secure_channel(connection.address, credentials, options)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _explain(error: grpc.RpcError, connection: Connection) -> str:
    details = " ".join((error.details() or "").split())
    address = connection.address
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if "refused" in details or "No such file" in details:
            return f"nothing listens on {address}; is ratelimitd running there?"
        case grpc.StatusCode.UNAVAILABLE if "failed to connect" in details:
            return f"cannot connect to {address}: {details.rpartition('last error: ')[2]}"
        case grpc.StatusCode.UNAVAILABLE if "onnection" in details or "ocket" in details:
            return f"{address} closed the connection; does it speak TLS, or want a certificate?"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer from {address} within {connection.timeout_s:g} s"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} does not know this call; is it the right port?"
        case code:
            return f"{code.name}: {details}"
