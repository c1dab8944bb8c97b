"""Dial one server: a connected, authenticated link, or StoreUnavailable.

Rules:
- The handshake is AUTH, SELECT and PING at most (RESP2): the least ACL and Redis 6.2 suffice.
- PING is always sent: a server may refuse a TLS client certificate, or one client too many, only
  when it has read something. Found here, nothing of a call was written.
- The password file and the TLS files are read again for each dial.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from ratelimitd.errors import ConfigError, StoreUnavailable
from ratelimitd.store.address import Endpoint, StoreAddress, Tls
from ratelimitd.store.exchange import pack
from ratelimitd.store.failures import from_dial_error, is_refusing_clients
from ratelimitd.store.link import ErrorReply, StoreLink

L = TypeVar("L", bound=StoreLink)


async def dial(address: StoreAddress, endpoint: Endpoint) -> StoreLink:
    """Return a new link to `endpoint`, ready for commands; the caller bounds the time."""
    return await dial_as(StoreLink, address, endpoint)


async def dial_as(make: Callable[[], L], address: StoreAddress, endpoint: Endpoint) -> L:
    """Return a new link of another kind, in the same way."""
    link: L | None = None
    try:
        user, password = address.credentials.read()
        link = await _connect(make, address, endpoint)
        await _shake_hands(link, user, password, address.database)
    except ConfigError as error:
        raise StoreUnavailable(str(error)) from error
    except (ErrorReply, OSError, UnicodeError) as error:
        unavailable = from_dial_error(error, endpoint)
        if link is not None:
            link.hang_up()
            is_reply = isinstance(error, ErrorReply)
            if address.tls and not address.tls.certificate_file and not is_reply:
                unavailable = StoreUnavailable(f"{unavailable}; it may want a client certificate")
        raise unavailable from error
    except BaseException:
        if link is not None:
            link.hang_up()
        raise
    return link


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


async def _connect(make: Callable[[], L], address: StoreAddress, endpoint: Endpoint) -> L:
    loop = asyncio.get_running_loop()
    if endpoint.unix_path:
        _, link = await loop.create_unix_connection(make, endpoint.unix_path)
        return link
    _, link = await loop.create_connection(
        make,
        endpoint.host,
        endpoint.port,
        ssl=None if address.tls is None else _to_context(address.tls),
        server_hostname=None if address.tls is None else endpoint.host,
    )
    return link


async def _shake_hands(link: StoreLink, user: str, password: str, database: int) -> None:
    """Say who we are. Raises the first error reply, and what ended the connection.

    An error reply to PING is a sign of life too: the call will get and tell it.
    """
    commands: list[tuple[str, ...]] = []
    if password:
        commands.append(("AUTH", user, password) if user else ("AUTH", password))
    if database:
        commands.append(("SELECT", str(database)))
    commands.append(("PING",))
    *replies, sign = await link.exchange(b"".join(map(pack, commands)), len(commands))
    if isinstance(sign, ErrorReply) and is_refusing_clients(sign):
        replies.append(sign)
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise reply


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
