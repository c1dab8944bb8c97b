"""What a run costs, read from /proc, and the private store that it runs on."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from ratelimitd.store.embedded_files import find_server_program
from tests.support.children import start_child

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STORE_MEMORY = "2gb"


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time since the start and resident memory of some processes."""

    cpu_s: float
    rss_bytes: int


def usage(pids: Sequence[int]) -> Usage:
    """Add up user and system time and resident memory of `pids`; gone ones count nothing."""
    cpu_ticks = rss_pages = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            cpu_ticks += int(fields[11]) + int(fields[12])
            rss_pages += int(fields[21])
    return Usage(cpu_ticks / _TICKS_PER_S, rss_pages * _PAGE_BYTES)


def tree(root: int) -> list[int]:
    """Return `root` and all that descends from it."""
    parents = {
        int(entry.name): int(fields[1])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (fields := _stat(int(entry.name)))
    }
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()


@dataclass(frozen=True, slots=True)
class Store:
    """A running private store and a client of it."""

    pid: int
    url: str
    version: str
    client: "redis.Redis"

    def used_memory(self) -> int:
        """Return the bytes that the store says it uses."""
        return int(self.client.info("memory")["used_memory"])

    def key_count(self) -> int:
        """Return how many keys it holds."""
        return int(self.client.dbsize())


@contextmanager
def running_store(directory: Path) -> Iterator[Store]:
    """Run a store on a unix socket in `directory`, without snapshots, until the block ends."""
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "store.sock"
    command = [
        *(str(find_server_program()), "--port", "0", "--unixsocket", str(socket)),
        *("--save", "", "--appendonly", "no", "--dir", str(directory)),
        *("--maxmemory", _STORE_MEMORY, "--maxmemory-policy", "volatile-ttl"),
    ]
    child = start_child("store", command, log=directory / "store.log")
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=30)
    try:
        child.wait_until(lambda: _answers(client), "answer to PING")
        info = client.info("server")
        version = str(info.get("valkey_version") or info["redis_version"])
        yield Store(child.pid, f"unix://{socket}", version, client)
    finally:
        client.close()
        child.stop()


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def now_s() -> float:
    """Return the clock that every measurement uses."""
    return time.perf_counter()
