"""A store for tests of a policy: a server of our own, without a disk, that knows no time."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import hiredis

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import ConfigError
from ratelimitd.store.embedded_files import find_server_program
from ratelimitd.store.scripts import load_scripts
from ratelimitd.store.wire import from_reply, pack_plan, to_arguments

START_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
_STEP_S = 0.01
_READ_BYTES = 65_536


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

    def check(self, plan: Plan, now_us: int) -> Reply:
        """Decide and charge a plan at a time.

        Keys live by the server's clock, which is not that of the tests: they are kept for ever.
        """
        packed = pack_plan(plan)
        keys, arguments = to_arguments([packed], now_us)
        kept = sorted(set(keys))
        commands: list[Sequence[bytes | str | int]] = [
            ("MULTI",),
            ("EVALSHA", self._check.sha, len(keys), *keys, *arguments),
            *(("PERSIST", key) for key in kept),
            ("EXEC",),
        ]
        *_, results = self._exchange(commands)
        raw = results[0] if isinstance(results, list) else results
        if isinstance(raw, Exception):
            raise ConfigError(f"the test's server: {raw}")
        return from_reply(raw, [packed]).replies[0]

    def _ask(self, *words: bytes | str | int) -> object:
        (reply,) = self._exchange([words])
        if isinstance(reply, Exception):
            raise ConfigError(f"the test's server: {reply}")
        return reply

    def _exchange(self, commands: Sequence[Sequence[bytes | str | int]]) -> list[object]:
        packed = [hiredis.pack_command(tuple(words)) for words in commands]  # type: ignore[arg-type]  # takes any number
        self._connection.sendall(b"".join(packed))
        replies: list[object] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is not False:
                replies.append(reply)
                continue
            data = self._connection.recv(_READ_BYTES)
            if not data:
                raise ConfigError("the test's server ended")
            self._reader.feed(data)
        return replies


@contextlib.contextmanager
def running_store() -> Iterator[PrivateStore]:
    """Start a server, and end it. ConfigError if none can be found or started."""
    program = find_server_program()
    with tempfile.TemporaryDirectory(prefix="ratelimitd-") as directory:
        path = Path(directory) / "s"
        process = subprocess.Popen(  # noqa: S603 - our own program
            [
                str(program),
                *("--port", "0", "--unixsocket", str(path), "--dir", directory),
                *("--save", "", "--appendonly", "no", "--daemonize", "no"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with _connect(path, program, process) as connection:
                yield PrivateStore(connection)
        finally:
            process.kill()
            process.wait()


def _connect(path: Path, program: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    end_s = time.monotonic() + START_TIMEOUT_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if process.poll() is not None or time.monotonic() > end_s:
                raise ConfigError(f"{program}: it did not start") from error
            time.sleep(_STEP_S)
        else:
            return connection
