"""The embedded store: a real server as our child, on a unix socket in the data directory.

Rules:
- It never outlives the daemon (child_exec.py), and saves its data when the daemon ends; the wait
  goes on while the snapshot grows, and is bounded.
- One daemon per directory; the next start waits for an orphan that still saves (embedded_files.py).
- If it dies while we run it is started again; the breaker answers meanwhile.
- Counters may be dropped when memory is short (volatile-ttl): those that end soonest first.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ratelimitd.defects import DefectLog
from ratelimitd.errors import ConfigError
from ratelimitd.store import child_exec
from ratelimitd.store.address import Endpoint, StoreAddress, StoreKind
from ratelimitd.store.embedded_files import (
    ServerFiles,
    bound_log,
    find_server_program,
    log_tail,
    prepare_files,
    snapshot_state,
    take_lock,
    write_owner,
)

DEFAULT_MAX_MEMORY_BYTES = 512 * 1024 * 1024
# Loading a snapshot of the default memory takes a few seconds on a slow disk.
START_TIMEOUT_S = 30.0
# A snapshot of the default memory is written in a few seconds. With what follows it is ten in all:
# orchestrators kill after thirty, and a drain comes before.
STOP_TIMEOUT_S = 7.0
# A server whose snapshot does not grow for so long hangs, or has nothing more to write.
STALL_TIMEOUT_S = 2.0
TERMINATE_TIMEOUT_S = 1.0
SNAPSHOT_INTERVAL_S = 60
MIN_RESTART_PAUSE_S = 0.1
MAX_RESTART_PAUSE_S = 5.0
_POLL_S = 0.02
_WATCH_INTERVAL_S = 0.1

_log = logging.getLogger(__name__)


async def start_embedded(
    data_dir: Path,
    *,
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES,
    on_event: Callable[[str], None] | None = None,
) -> "EmbeddedServer":
    """Start the server of limits in `data_dir`/limits and wait until it answers.

    ConfigError tells what an operator has to change: the directory, another daemon, the program.
    To be called from the main thread: the server ends with the thread that started it.
    """
    assert threading.current_thread() is threading.main_thread()
    program = find_server_program()
    files = prepare_files(data_dir, "limits")
    lock = await take_lock(files)
    server = EmbeddedServer(program, files, lock, max_memory_bytes, on_event or _ignore)
    try:
        await server.start()
    except BaseException:
        await server.stop()
        raise
    return server


class EmbeddedServer:
    """A running server of ours; `stop` ends it and frees the directory."""

    def __init__(
        self,
        program: Path,
        files: ServerFiles,
        lock: int,
        max_memory_bytes: int,
        on_event: Callable[[str], None],
    ) -> None:
        """Own `lock`, an open descriptor, until stopped."""
        self.files = files
        self.address = StoreAddress(
            kind=StoreKind.SINGLE, endpoints=(Endpoint(unix_path=str(files.socket)),)
        )
        self._program = program
        self._lock = lock
        self._max_memory_bytes = max_memory_bytes
        self._on_event = on_event
        self._process: subprocess.Popen[bytes] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._defects = DefectLog(_log)

    @property
    def pid(self) -> int | None:
        """The process id of the server, None while it is down."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the server, wait until it answers, and watch it from then on."""
        await self._launch()
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Save and end the server, by force if it does not; free the directory."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
            self._watching = None
        process = self._process
        if process is not None and process.poll() is None:
            await self._end(process)
        self._process = None
        self.files.socket.unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _launch(self) -> None:
        """Start the process and wait for its first PONG; ConfigError shows its last words."""
        bound_log(self.files)
        self.files.socket.unlink(missing_ok=True)
        with self.files.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - fork must be in this thread; our own program
                [
                    sys.executable,
                    *("-I", "-S", child_exec.__file__),
                    *(str(os.getpid()), str(self._program)),
                    *_server_options(self.files, self._max_memory_bytes),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.files.directory,
                pass_fds=(self._lock,),
                # Ctrl-C in a terminal is for the daemon: it drains first, then ends the server.
                start_new_session=True,
            )
        write_owner(self._lock, self._process.pid)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while not await _has_answered(self.files.socket, b"PING\r\n", b"+PONG"):
            code = self._process.poll()
            if code is not None:
                self._fail_to_start(f"ended with code {code}")
            if asyncio.get_running_loop().time() > deadline:
                self._fail_to_start(f"did not answer within {START_TIMEOUT_S:.0f} s")
            await asyncio.sleep(_POLL_S)

    def _fail_to_start(self, what: str) -> None:
        raise ConfigError(
            f"embedded store: {self._program} {what}; the end of {self.files.log}:\n"
            f"{log_tail(self.files)}"
        )

    async def _watch(self) -> None:
        """Start the server again whenever it died, less often if it keeps dying."""
        pause_s = MIN_RESTART_PAUSE_S
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            try:
                bound_log(self.files)
                if self._process is not None and self._process.poll() is not None:
                    pause_s = await self._start_again(self._process.returncode, pause_s)
            except Exception as error:  # noqa: BLE001 - without it a server that dies stays dead
                self._defects.record(error, "embedded store: watching it failed")
                await asyncio.sleep(pause_s)

    async def _start_again(self, code: int, pause_s: float) -> float:
        """Start the server after `pause_s`; return how long to wait before the next time."""
        self._on_event(f"embedded store: the server {_how_ended(code)}; starting it again")
        await asyncio.sleep(pause_s)
        try:
            await self._launch()
        except (ConfigError, OSError) as error:
            await self._kill()
            self._on_event(str(error))
            return min(pause_s * 2, MAX_RESTART_PAUSE_S)
        self._on_event("embedded store: the server was started again")
        return MIN_RESTART_PAUSE_S

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        await _has_answered(self.files.socket, b"SHUTDOWN SAVE\r\n", b"")
        if await self._has_saved_and_ended(process):
            return
        self._on_event("embedded store: the server did not save and end; terminating it")
        process.terminate()
        if not await _has_ended(process, TERMINATE_TIMEOUT_S):
            await self._kill()

    async def _has_saved_and_ended(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait while the snapshot makes progress, and STOP_TIMEOUT_S at most."""
        now = asyncio.get_running_loop().time
        deadline = now() + STOP_TIMEOUT_S
        written = snapshot_state(self.files)
        stalled_at = now() + STALL_TIMEOUT_S
        while process.poll() is None:
            if now() > min(deadline, stalled_at):
                return False
            await asyncio.sleep(_POLL_S)
            found = snapshot_state(self.files)
            if found != written:
                written, stalled_at = found, now() + STALL_TIMEOUT_S
        return True

    async def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            await _has_ended(self._process, TERMINATE_TIMEOUT_S)


def _server_options(files: ServerFiles, max_memory_bytes: int) -> list[str]:
    options: dict[str, str | list[str]] = {
        "port": "0",
        "unixsocket": str(files.socket),
        "unixsocketperm": "700",
        "dir": str(files.directory),
        "dbfilename": "limits.rdb",
        "save": [str(SNAPSHOT_INTERVAL_S), "1"],
        "appendonly": "no",
        # A full disk must not stop the limits: they live in memory.
        "stop-writes-on-bgsave-error": "no",
        "maxmemory": str(max_memory_bytes),
        "maxmemory-policy": "volatile-ttl",
        "protected-mode": "yes",
        "databases": "1",
        "daemonize": "no",
        "logfile": str(files.log),
        "loglevel": "notice",
    }
    arguments: list[str] = []
    for name, value in options.items():
        arguments += [f"--{name}", *([value] if isinstance(value, str) else value)]
    return arguments


async def _has_answered(socket: Path, line: bytes, start: bytes) -> bool:
    """Whether the server answers `line` with something that begins with `start`."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(line)
                return (await reader.readline()).startswith(start)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False


async def _has_ended(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while process.poll() is None:
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _how_ended(code: int) -> str:
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended with code {code}"


def _ignore(_: str) -> None:
    """Listen to nothing."""
