"""A supervisor of echoing workers for each test that asks."""

import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.workers.messages import Listener
from ratelimitd.workers.supervisor import Supervisor, WorkerOptions
from tests.workers.supervised import ROOT, Run, Running, children_of, line_of


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    @asynccontextmanager
    async def running(
        count: int = 2, target: str = "compose", grace_s: float = 5.0
    ) -> AsyncIterator[Running]:
        listeners = {
            listener: socket.create_server(("127.0.0.1", 0), backlog=512) for listener in Listener
        }
        for sock in listeners.values():
            sock.setblocking(False)
        telemetry = Telemetry()
        options = WorkerOptions(
            count=count,
            target=f"tests.workers.echo:{target}",
            settings="",
            directory=tmp_path,
            grace_s=grace_s,
        )
        supervisor = Supervisor(options, listeners, telemetry)
        addresses = {listener: sock.getsockname() for listener, sock in listeners.items()}
        running = Running(supervisor, telemetry, tmp_path, addresses)
        supervisor.tell_policy({"name": b"first"})
        try:
            await supervisor.start()
            yield running
        finally:
            for client in running.clients:
                client.writer.close()
            await supervisor.stop()

    yield running
    left = [pid for pid in children_of(os.getpid()) if b"ratelimitd.workers.main" in line_of(pid)]
    assert left == [], "a worker was left behind"
