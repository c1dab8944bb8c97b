"""A worker's work for tests: each line is answered with who answers and by which policy."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn, cast

from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.processes import Publisher, worker_file
from ratelimitd.workers.messages import Adopt, Begin, Listener
from ratelimitd.workers.policy_copy import read_policy_copy

SLOW_S = 0.3


class Line(asyncio.Protocol):
    """One connection; `slow` is answered later."""

    def __init__(self, work: "Echo", listener: Listener) -> None:
        self.work = work
        self.listener = listener
        self.transport: asyncio.Transport | None = None
        self.in_flight = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.work.links[self.listener].add(self)

    def data_received(self, data: bytes) -> None:
        for line in data.splitlines():
            if line == b"garbage":
                os.write(int(sys.argv[1]), b"garbage")  # the channel's descriptor
            self.in_flight += 1
            delay_s = SLOW_S if line == b"slow" else 0.0
            asyncio.get_running_loop().call_later(delay_s, self.answer)

    def answer(self) -> None:
        self.in_flight -= 1
        self.work.telemetry.global_shadow += 1
        if self.transport is not None:
            told = {**self.work.told, "listener": self.listener.name}
            self.transport.write(json.dumps(told).encode() + b"\n")

    def leave(self) -> None:
        """Say goodbye, as GOAWAY does."""
        if self.transport is not None:
            self.transport.write(b"goaway\n")

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.work.links[self.listener].discard(self)
        self.work.on_closed()


class Echo:
    """What `compose` gives."""

    def __init__(self, begin: Begin, on_closed: Callable[[], None]) -> None:
        self.directory = Path(begin.directory)
        self.on_closed = on_closed
        self.links: dict[Listener, set[Line]] = {listener: set() for listener in Listener}
        self.told: dict[str, object] = {"slot": begin.slot, "pid": os.getpid(), "policy": ""}
        self.telemetry = Telemetry()
        self.publisher = Publisher(self.directory / worker_file(begin.number), self.telemetry)

    def open_connections(self, listener: Listener) -> int:
        return len(self.links[listener])

    async def adopt(self, message: Adopt) -> None:
        assert message.sock is not None
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Line(self, message.listener), message.sock
        )

    def move(self, count: int) -> None:
        for line in list(self.links[Listener.GRPC])[:count]:
            line.leave()

    async def load_policy(self) -> tuple[int, str]:
        copy = read_policy_copy(self.directory)
        self.told["policy"] = (copy.files or {}).get("name", b"").decode()
        return copy.serial, str(self.told["policy"])

    async def drain(self, grace_s: float) -> None:
        lines = [line for links in self.links.values() for line in links]
        for line in lines:
            line.leave()
        async with asyncio.timeout(grace_s):
            while any(  # noqa: ASYNC110 - a few lines for a test
                line.in_flight for line in lines
            ):
                await asyncio.sleep(0.01)  # the real ones have an event


@asynccontextmanager
async def compose(begin: Begin, on_closed: Callable[[], None]) -> AsyncIterator[Echo]:
    """Compose a worker that echoes."""
    work = Echo(begin, on_closed)
    try:
        yield work
    finally:
        for links in work.links.values():
            for line in list(links):
                if line.transport is not None:
                    line.transport.close()
        work.publisher.close()


def compose_nothing(begin: Begin, on_closed: Callable[[], None]) -> NoReturn:
    """Fail as a worker does that cannot begin."""
    sys.exit(7)


@asynccontextmanager
async def compose_stubborn(begin: Begin, on_closed: Callable[[], None]) -> AsyncIterator[Echo]:
    """Compose a worker that does not end when it should."""
    async with compose(begin, on_closed) as work:
        yield work
        await asyncio.sleep(60)
