"""The private stores that a run uses: one server on a unix socket, or a Cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from bench.pins import pinned_to
from ratelimitd.store.embedded_files import find_server_program
from tests.support.children import start_child
from tests.support.servers import start_cluster

_MEMORY = "2gb"


@dataclass(frozen=True, slots=True)
class Store:
    """Running stores; `client` and `socket` are of a single one."""

    pids: tuple[int, ...]
    url: str
    name: str
    client: "redis.Redis | None" = None
    socket: str = ""

    def key_count(self) -> int:
        """Return how many keys a single store holds."""
        assert self.client is not None
        return int(self.client.dbsize())

    def used_memory(self) -> int:
        """Return the bytes that a single store says it uses."""
        assert self.client is not None
        return int(self.client.info("memory")["used_memory"])


@contextmanager
def running_store(directory: Path, cores: frozenset[int] | None = None) -> Iterator[Store]:
    """Run a store on a unix socket in `directory`, without snapshots, until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "store.sock"
    command = [
        *(str(find_server_program()), "--port", "0", "--unixsocket", str(socket)),
        *("--save", "", "--appendonly", "no", "--dir", str(directory)),
        *("--maxmemory", _MEMORY, "--maxmemory-policy", "volatile-ttl"),
    ]
    with pinned_to(cores):
        child = start_child("store", command, log=directory / "store.log")
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=30)
    try:
        child.wait_until(lambda: _answers(client), "answer to PING")
        info = client.info("server")
        version = str(info.get("valkey_version") or info["redis_version"])
        yield Store((child.pid,), f"unix://{socket}", version, client, str(socket))
    finally:
        client.close()
        child.stop()


@contextmanager
def running_cluster(directory: Path, cores: frozenset[int] | None = None) -> Iterator[Store]:
    """Run a Cluster of three nodes until the block ends."""
    with pinned_to(cores):
        cluster = start_cluster("valkey9", directory)
    try:
        yield Store(tuple(node.pid for node in cluster.nodes), cluster.url, "Cluster")
    finally:
        cluster.stop()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
