"""How workers and their supervisor end, and what goes wrong on the way."""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from ratelimitd.errors import ConfigError
from ratelimitd.telemetry.processes import read_all
from ratelimitd.transport.acceptor import PAUSE_S
from ratelimitd.workers import supervisor as module
from ratelimitd.workers.messages import Listener
from tests.workers.supervised import (
    Client,
    Run,
    connect,
    descriptors_used_up,
    gather,
    is_alive,
    supervise,
    until_ended,
)


async def test_stop_loses_no_call_and_adds_up_all_counters(run: Run) -> None:
    async with run(2) as daemon:
        clients = await daemon.connect_many(8)
        slow = [asyncio.create_task(client.ask(b"slow")) for client in clients]
        await asyncio.sleep(0.05)

        await daemon.supervisor.stop()

        assert len(await gather(slow)) == 8
        assert read_all(daemon.directory).global_shadow == 16
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*daemon.addresses[Listener.GRPC])


async def test_counters_of_a_killed_worker_stay_in_the_sum(run: Run) -> None:
    async with run(2) as daemon:
        clients = await daemon.connect_many(4)
        pid = (await clients[0].ask())["pid"]
        os.kill(pid, signal.SIGTERM)
        await daemon.until(lambda: daemon.telemetry.worker_restarts == 1, "its end")

        assert read_all(daemon.directory).global_shadow >= 3
        await daemon.supervisor.stop()

        assert read_all(daemon.directory).global_shadow == 5
        left = sorted(path.name for path in daemon.directory.glob("*.metrics"))
        assert left == ["control.metrics", "ended.metrics"]


async def test_worker_that_does_not_end_is_killed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KILL_MARGIN_S", 0.5)
    async with run(1, "compose_stubborn", grace_s=0.1) as daemon:
        (pid,) = daemon.pids()
        await daemon.supervisor.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_worker_that_cannot_begin_stops_the_start(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"worker [12] ended with code 7 before it was ready"):
        async with run(2, "compose_nothing"):
            pass


async def test_connections_wait_while_descriptors_are_short(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async with run(1) as daemon:
        # given a client whose connection cannot be accepted, for longer than one pause
        sock = socket.socket()
        sock.setblocking(False)
        with descriptors_used_up():
            with suppress(BlockingIOError):
                sock.connect(daemon.addresses[Listener.GRPC])
            await daemon.until(lambda: "accepting fails" in caplog.text, "the warning")
            await asyncio.sleep(PAUSE_S * 2)

        # when there is room again, then it is served
        client = Client(*await asyncio.open_connection(sock=sock))
        daemon.clients.append(client)
        assert (await client.ask())["slot"] == 1
    assert caplog.text.count("accepting fails") == 1


async def test_worker_that_hangs_ends_without_a_supervisor(tmp_path: Path) -> None:
    process, line = await supervise(tmp_path, "compose_stubborn", grace_s=0.1)

    process.kill()
    await process.wait()

    await until_ended(line["pids"])


async def test_workers_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    # given a supervisor of two workers in a process of its own, and a call in flight
    process, line = await supervise(tmp_path, "compose", grace_s=5.0)
    client = await connect(("127.0.0.1", line["port"]))
    told = await client.ask()
    assert told["pid"] in line["pids"]
    client.writer.write(b"slow\n")
    await client.writer.drain()
    await asyncio.sleep(0.1)

    # when it is killed
    process.kill()
    await process.wait()

    # then the call is answered, and the workers end by themselves
    assert (await client.answer())["pid"] == told["pid"]
    await client.close()
    await until_ended(line["pids"])


async def test_kernel_ends_the_workers_of_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    # given channels that do not end with the supervisor, so that no worker learns of it there
    process, line = await supervise(tmp_path, "compose", grace_s=5.0, has_holder=True)
    try:
        # when it is killed
        process.kill()

        # then its workers end all the same
        await until_ended([process.pid, *line["pids"]])
        assert is_alive(line["holder"])
    finally:
        os.kill(line["holder"], signal.SIGKILL)
        await process.wait()


async def test_garbage_from_a_worker_ends_that_worker(run: Run) -> None:
    async with run(2) as daemon:
        client = await daemon.connect()
        pid = (await client.ask())["pid"]

        client.writer.write(b"garbage\n")

        await daemon.until(lambda: pid not in daemon.pids() and daemon.ready() == 2, "another")
        assert daemon.telemetry.worker_restarts == 1
