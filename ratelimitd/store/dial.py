"""Dial one server: a connected, authenticated redis-py connection, or StoreUnavailable.

Rules:
- The handshake is AUTH, SELECT and PING at most (RESP2): the least ACL and Redis 6.2 suffice.
- The password file and the TLS files are read again for each dial.
"""

import asyncio
import contextlib
import select
import ssl
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection

from ratelimitd.errors import ConfigError, StoreUnavailable
from ratelimitd.store.address import Endpoint, StoreAddress, Tls
from ratelimitd.store.failures import ERROR_REPLIES, from_dial_error

# Closing waits for the peer's part of a TLS shutdown at most this long.
CLOSE_TIMEOUT_S = 1.0


async def dial(address: StoreAddress, endpoint: Endpoint) -> AbstractConnection:
    """Return a new connection to `endpoint`, ready for commands; the caller bounds the time."""
    connection: AbstractConnection | None = None
    has_shaken_hands = False
    try:
        connection = _to_connection(address, endpoint)
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has no types here
        has_shaken_hands = True
        await _ask_for_a_sign(connection)
    except ConfigError as error:
        raise StoreUnavailable(str(error)) from error
    except (redis_errors.RedisError, OSError, UnicodeError) as error:
        await _abandon(connection)
        unavailable = from_dial_error(error, endpoint)
        if has_shaken_hands and address.tls and not address.tls.certificate_file:
            unavailable = StoreUnavailable(f"{unavailable}; it may want a client certificate")
        raise unavailable from error
    except BaseException:
        await _abandon(connection)
        raise
    return connection


def check_usable(address: StoreAddress) -> None:
    """Raise ConfigError for what no later dial could do better: files and names as they are."""
    address.credentials.read()
    if address.tls is not None:
        _to_context(address.tls)
    for endpoint in address.endpoints:
        try:
            endpoint.host.encode("idna")
        except UnicodeError as error:
            raise ConfigError(f"store URL: {endpoint.host!r} is not a host name") from error


def is_alive(connection: AbstractConnection) -> bool:
    """Whether a connection without a call is still open, and nothing unasked lies in it."""
    reader, writer = connection._reader, connection._writer  # noqa: SLF001 - no public look
    if reader is None or writer is None or writer.is_closing():
        return False
    # Bytes that nobody asked for: replies would be taken for one another's.
    if reader.exception() is not None or reader.at_eof() or reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001 - no public look
        return False
    # The loop may not have read yet that the peer closed: anything readable is a bad sign.
    poll = select.poll()
    poll.register(writer.get_extra_info("socket").fileno(), select.POLLIN)
    return not poll.poll(0)


async def hang_up(connection: AbstractConnection) -> None:
    """Close a connection at once, whatever state it is in."""
    with contextlib.suppress(redis_errors.RedisError, OSError):
        await connection.disconnect(nowait=True)


async def close(connection: AbstractConnection) -> None:
    """Close a connection and wait, bounded, until its transport is gone."""
    with contextlib.suppress(redis_errors.RedisError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.disconnect()


async def _ask_for_a_sign(connection: AbstractConnection) -> None:
    """Send a PING: a server may close a new connection only when it has read something.

    It refuses a TLS client certificate like that, and one client too many. Found here, nothing of
    a call was written. An error reply is a sign too: the call will get and tell it.
    """
    with contextlib.suppress(*ERROR_REPLIES):
        await connection.send_command("PING", check_health=False)
        await connection.read_response(disconnect_on_error=False)


async def _abandon(connection: AbstractConnection | None) -> None:
    if connection is not None:
        await hang_up(connection)


def _to_connection(address: StoreAddress, endpoint: Endpoint) -> AbstractConnection:
    user, password = address.credentials.read()
    options: dict[str, Any] = {
        "db": address.database,
        "username": user or None,
        "password": password or None,
        "protocol": 2,
        "driver_info": None,
        # Our own clocks bound every wait.
        "socket_timeout": None,
        "socket_connect_timeout": None,
    }
    if endpoint.unix_path:
        return _UnixConnection(path=endpoint.unix_path, **options)
    context = None if address.tls is None else _to_context(address.tls)
    return _TcpConnection(context=context, host=endpoint.host, port=endpoint.port, **options)


def _to_context(tls: Tls) -> ssl.SSLContext:
    try:
        # With a CA file it alone is trusted, not the system's authorities beside it.
        context = ssl.create_default_context(cafile=tls.ca_file)
        context.check_hostname = tls.checks_hostname
        if tls.certificate_file is not None:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except OSError as error:
        files = ", ".join(
            str(file) for file in (tls.ca_file, tls.certificate_file, tls.key_file) if file
        )
        reason = getattr(error, "reason", None) or error.strerror or "unreadable"
        raise ConfigError(f"store TLS files {files}: {reason}") from error
    return context


class _TcpConnection(Connection):
    """redis-py's TCP connection with a TLS context of ours."""

    def __init__(self, *, context: ssl.SSLContext | None, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def _connection_arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"host": self.host, "port": self.port}
        if self._context is not None:
            arguments["ssl"] = self._context
            arguments["server_hostname"] = self.host
        return arguments


class _UnixConnection(UnixDomainSocketConnection):
    """redis-py's unix connection, shaking hands once: the original does it twice."""

    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_unix_connection(path=self.path)
