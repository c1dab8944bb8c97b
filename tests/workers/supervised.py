"""Supervisors with real worker processes that echo, and clients of them."""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.workers.messages import Listener
from ratelimitd.workers.supervisor import Supervisor

WAIT_S = 15
ROOT = Path(__file__).parents[2]


@dataclass
class Client:
    """One connection, that sends lines."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, line: bytes = b"x") -> dict[str, Any]:
        self.writer.write(line + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            while (line := await self.reader.readline()) == b"goaway\n":
                continue
        assert line, "the connection ended without an answer"
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def is_told_to_leave(self) -> bool:
        with suppress(TimeoutError):
            return await asyncio.wait_for(self.reader.readline(), 0.01) == b"goaway\n"
        return False

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@dataclass
class Running:
    supervisor: Supervisor
    telemetry: Telemetry
    directory: Path
    addresses: dict[Listener, tuple[str, int]]
    clients: list[Client] = field(default_factory=list)

    async def connect(self, listener: Listener = Listener.GRPC) -> Client:
        address = self.addresses[listener]
        client = await connect(address)
        self.clients.append(client)
        return client

    async def connect_many(self, count: int) -> list[Client]:
        clients = [await self.connect() for _ in range(count)]
        for client in clients:
            await client.ask()
        return clients

    def pids(self) -> set[int]:
        return {child.process.pid for child in self.supervisor.children}

    def ready(self) -> int:
        return sum(child.is_ready for child in self.supervisor.children)

    def loads(self) -> list[int]:
        children = self.supervisor.children
        return sorted(child.loads[Listener.GRPC].connections for child in children)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, what
            await asyncio.sleep(0.02)


Run = Callable[..., Any]

SUPERVISE = """
import asyncio, json, socket, subprocess
from pathlib import Path
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.workers.messages import Listener
from ratelimitd.workers.supervisor import Supervisor, WorkerOptions

async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    options = WorkerOptions(count=2, target="tests.workers.echo:{target}", settings="",
        directory=Path({directory!r}), grace_s={grace_s})
    supervisor = Supervisor(options, {{Listener.GRPC: listener}}, Telemetry())
    supervisor.tell_policy({{"name": b"first"}})
    await supervisor.start()
    pids = [child.process.pid for child in supervisor.children]
    channels = [child.channel.fileno() for child in supervisor.children]
    told = {{"port": listener.getsockname()[1], "pids": pids}}
    if {has_holder}:
        holder = subprocess.Popen(["sleep", "60"], pass_fds=channels, stdout=subprocess.DEVNULL)
        told["holder"] = holder.pid
    print(json.dumps(told), flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@contextmanager
def descriptors_used_up() -> Iterator[None]:
    """Leave this process no descriptor to spare."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(used) + 1, hard))
    fillers: list[int] = []
    try:
        with suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        yield
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def connect(address: tuple[str, int]) -> Client:
    return Client(*await asyncio.open_connection(*address))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(text) for text in (task / "children").read_text().split()]
    return found


def line_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


async def gather(awaitables: Sequence[Awaitable[dict[str, Any]]]) -> list[dict[str, Any]]:
    return await asyncio.gather(*awaitables)


async def until_ended(pids: Sequence[int]) -> None:
    """Wait until none of `pids` runs."""
    async with asyncio.timeout(WAIT_S):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110 - other processes set no event
            await asyncio.sleep(0.02)


async def supervise(
    directory: Path, target: str, grace_s: float, *, has_holder: bool = False
) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
    """Return a process that supervises two workers, and their pids and port.

    With a holder, another process keeps the channels open whatever becomes of the supervisor.
    """
    code = SUPERVISE.format(
        directory=str(directory), target=target, grace_s=grace_s, has_holder=has_holder
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    line = json.loads(await asyncio.wait_for(process.stdout.readline(), WAIT_S))
    return process, line
