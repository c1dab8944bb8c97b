"""Listening sockets of our own: bound before anything serves, so that a taken port is one line.

Rules:
- No SO_REUSEPORT: a second daemon on a port fails at its start.
- The file of a unix socket that nobody listens on any more is replaced; a live one is not.
- Who ends removes the file that it made and no other: a successor may listen on the same path.
"""

import contextlib
import os
import secrets
import socket
import stat
from pathlib import Path

from ratelimitd.errors import ConfigError
from ratelimitd.store.address import MAX_SOCKET_PATH_BYTES
from ratelimitd.transport.listen import ListenAddress, TcpAddress, UnixAddress

BACKLOG = 2048
# Whether somebody listens is answered at once on a unix socket, or not at all.
PROBE_TIMEOUT_S = 1.0


class SocketFile:
    """The file of a unix socket that was just bound, to be removed once; a TCP port has none."""

    def __init__(self, address: ListenAddress) -> None:
        """Remember which file is at `address` now."""
        self._path = Path(address.path) if isinstance(address, UnixAddress) else None
        self._identity = self._look()

    def remove(self) -> None:
        """Remove the file, unless another one took its place."""
        identity, self._identity = self._identity, None
        if self._path is not None and identity is not None and identity == self._look():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _look(self) -> tuple[int, int, int] | None:
        """Return what tells one file from another, also from one that got its number again."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns


def bind(address: ListenAddress, flag: str) -> socket.socket:
    """Return a socket that is bound to `address` and not yet listening.

    Raises ConfigError that names `flag` and says what is in the way.
    """
    match address:
        case TcpAddress():
            return _bind_tcp(address, flag)
        case UnixAddress():
            return _bind_unix(address, flag)


def check_free(address: ListenAddress, flag: str) -> None:
    """Raise ConfigError if `address` cannot be bound; leaves nothing behind.

    For a server that binds itself and reports badly: what takes the address between this look
    and its bind is still an error there.
    """
    sock = bind(address, flag)
    file = SocketFile(address)
    sock.close()
    file.remove()


def place_beside(address: ListenAddress) -> ListenAddress:
    """Return where a server shall bind that removes its socket's file itself, when it likes.

    Bound beside and then moved, the file is ours to remove: what that server removes at its end is
    a name that is gone, not the file of a successor. A path without room for that stays.
    """
    if isinstance(address, TcpAddress):
        return address
    beside = f"{address.path}.{secrets.token_hex(2)}"
    has_room = len(os.fsencode(beside)) <= MAX_SOCKET_PATH_BYTES
    return UnixAddress(beside) if has_room else address


def move(place: ListenAddress, address: ListenAddress) -> None:
    """Put the unix socket that was bound at `place` where callers look for it."""
    if isinstance(place, UnixAddress) and isinstance(address, UnixAddress) and place != address:
        Path(place.path).rename(address.path)


def bound_address(address: ListenAddress, sock: socket.socket) -> ListenAddress:
    """Return `address` with the port that the system chose."""
    if isinstance(address, UnixAddress):
        return address
    return TcpAddress(address.host, sock.getsockname()[1])


def _bind_tcp(address: TcpAddress, flag: str) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise ConfigError(f"{flag}: cannot look up the host {address.host!r}: {reason}") from error
    family, kind, protocol, _, place = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        # A port that is bound and listened on by somebody is only found out by listening.
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{flag}: cannot listen on {address}: {_reason(error)}") from error
    return sock


def _bind_unix(address: UnixAddress, flag: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(Path(address.path))
        sock.bind(address.path)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{flag}: cannot listen on {address}: {_reason(error)}") from error
    return sock


def _remove_stale(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(17, "a file that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(98, os.strerror(98))


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]
