"""One call of a running daemon, over whatever connection the flags ask for."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from ratelimitd.errors import ConfigError, RatelimitError

R = TypeVar("R", bound=Message)

# What gRPC says itself; every other text came from the server, whatever words are in it.
_NOT_CONNECTED = "failed to connect to all addresses"
_NOT_RESOLVED = "errors resolving "
_CLOSED = ("Socket closed", "onnection reset")
_WRONG_PORT = "hit asks the gRPC port (8081), the other commands the admin port (8082)"
_NOBODY = "nothing listens on {}; is ratelimitd running there?"
_NOT_GRPC = f"{{}} does not speak gRPC: {_WRONG_PORT}"
_OTHER_NAME = "the certificate of {} is for another name; give the one that it has: --server-name"
_NOT_TRUSTED = "the certificate of {} is not trusted; name who signed it: --ca"
_DIAL_ERRORS = {
    "refused": _NOBODY,
    "No such file": _NOBODY,
    "HTTP/2": _NOT_GRPC,
    "http1": _NOT_GRPC,
    "WRONG_VERSION_NUMBER": "{} does not speak TLS; leave out --tls, --ca and --cert",
    "CERTIFICATE_VERIFY_FAILED": _NOT_TRUSTED,
    "certificate signature failure": _NOT_TRUSTED,
    "Peer name": _OTHER_NAME,
    "ostname": _OTHER_NAME,
}
_LOST = ("Socket closed", "recvmsg:", "sendmsg:", "GOAWAY received", "Connection reset")


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

    @property
    def is_tls(self) -> bool:
        """Whether TLS is spoken."""
        return self.has_tls or any((self.ca, self.certificate, self.key))


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
    if not connection.is_tls:
        return grpc.insecure_channel(connection.address)
    if (connection.certificate is None) != (connection.key is None):
        raise ConfigError("--cert and --key: give both, a certificate and its key")
    files = (connection.ca, connection.certificate, connection.key)
    ca, certificate, key = (None if path is None else _read(path) for path in files)
    _check_files(connection)
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


def _check_files(connection: Connection) -> None:
    """Raise ConfigError for files that gRPC would only fail with when it connects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if connection.ca is not None:
        try:
            context.load_verify_locations(connection.ca)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"--ca: {connection.ca} holds no certificate in PEM form") from error
    if connection.certificate is not None:
        try:
            # An encrypted key would ask at the terminal; an empty password is never right.
            context.load_cert_chain(connection.certificate, connection.key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigError(
                f"--cert and --key: {connection.certificate} and {connection.key} are not a "
                "certificate and its unencrypted key in PEM form"
            ) from error


def _explain(error: grpc.RpcError, connection: Connection) -> str:
    details = " ".join((error.details() or "").split())
    address = connection.address
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if details.startswith(_NOT_CONNECTED):
            return _explain_dial(details.rpartition("last error: ")[2], connection)
        case grpc.StatusCode.UNAVAILABLE if details.startswith(_NOT_RESOLVED):
            return f"cannot find {address}: there is no such name"
        case grpc.StatusCode.UNAVAILABLE if details.startswith(_LOST):
            return _explain_lost(connection)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer from {address} within {connection.timeout_s:g} s"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"{address} does not know this call: {_WRONG_PORT}"
        case code:
            return f"{code.name}: {details}"


def _explain_dial(reason: str, connection: Connection) -> str:
    """Say why nobody could be asked; the first of the words that gRPC uses decides."""
    if any(word in reason for word in _CLOSED):
        return _explain_lost(connection)
    told = next((told for word, told in _DIAL_ERRORS.items() if word in reason), None)
    address = connection.address
    return told.format(address) if told else f"cannot connect to {address}: {reason}"


def _explain_lost(connection: Connection) -> str:
    wants = "want a certificate (--cert, --key)" if connection.is_tls else "speak TLS (--tls, --ca)"
    return f"{connection.address} closed the connection; does it {wants}?"
