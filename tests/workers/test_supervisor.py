"""A supervisor with real worker processes that echo."""

import asyncio
import os
import signal
from collections import Counter

import pytest

from ratelimitd.workers.messages import Listener
from tests.workers.supervised import (
    Run,
    gather,
)


async def test_connections_are_spread_evenly_and_counted(run: Run) -> None:
    async with run(2) as daemon:
        clients = await daemon.connect_many(8)
        slots = Counter([(await client.ask())["slot"] for client in clients])
        assert slots == {1: 4, 2: 4}
        await daemon.until(lambda: daemon.loads() == [4, 4], "both know of four")

        # when those of one worker leave, the next ones go there
        ours = [client for client in clients if (await client.ask())["slot"] == 1]
        for client in ours[:3]:
            await client.close()
        await daemon.until(lambda: daemon.loads() == [1, 4], "the closed ones are known")
        again = await daemon.connect_many(3)

        assert {(await client.ask())["slot"] for client in again} == {1}


async def test_listeners_are_told_apart_and_balanced_apart(run: Run) -> None:
    async with run(2) as daemon:
        pages = [await daemon.connect(Listener.HTTP) for _ in range(4)]
        calls = await daemon.connect_many(4)

        told = [await client.ask() for client in (*pages, *calls)]

    assert [each["listener"] for each in told] == ["HTTP"] * 4 + ["GRPC"] * 4
    assert Counter((each["listener"], each["slot"]) for each in told) == {
        ("HTTP", 1): 2,
        ("HTTP", 2): 2,
        ("GRPC", 1): 2,
        ("GRPC", 2): 2,
    }


async def test_killed_worker_costs_its_connections_and_is_replaced(run: Run) -> None:
    async with run(2) as daemon:
        clients = await daemon.connect_many(8)
        told = [await client.ask() for client in clients]
        victim = told[0]["pid"]
        of_victim = [c for c, t in zip(clients, told, strict=True) if t["pid"] == victim]
        others = [c for c, t in zip(clients, told, strict=True) if t["pid"] != victim]

        # when it is killed while calls are in flight
        slow = [asyncio.create_task(client.ask(b"slow")) for client in others]
        await asyncio.sleep(0)
        os.kill(victim, signal.SIGKILL)

        # then its own come back to the one that is left at once, and the others are answered
        for client in of_victim:
            assert await client.reader.read() == b""
        back = await daemon.connect_many(len(of_victim))
        assert max(daemon.loads()) == 8
        assert victim not in {answer["pid"] for answer in await gather(slow)}
        await daemon.until(lambda: daemon.ready() == 2, "another worker")
        assert victim not in daemon.pids()
        assert daemon.telemetry.worker_restarts == 1

        # and all are even again once those who are told to leave have
        staying = [*others, *back]
        while daemon.loads() != [4, 4]:
            for index, client in enumerate(staying):
                if await client.is_told_to_leave():
                    await client.close()
                    (staying[index],) = await daemon.connect_many(1)
        slots = Counter([(await client.ask())["slot"] for client in staying])
        assert slots == {1: 4, 2: 4}


async def test_worker_that_keeps_ending_is_started_ever_later(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async with run(1) as daemon:
        for _ in range(3):
            await daemon.until(lambda: daemon.ready() == 1, "a worker")
            (pid,) = daemon.pids()
            os.kill(pid, signal.SIGKILL)
            await daemon.until(lambda gone=pid: gone not in daemon.pids(), "its end is seen")

        client = await daemon.connect()  # waits with the kernel meanwhile
        assert (await client.ask())["slot"] == 1

    told = [record for record in caplog.records if "starting another" in record.message]
    assert [record.__dict__["fields"]["restart_in_s"] for record in told] == [0.0, 0.1, 0.2]


async def test_worker_that_is_terminated_finishes_first(run: Run) -> None:
    async with run(2) as daemon:
        client = await daemon.connect()
        pid = (await client.ask())["pid"]
        slow = asyncio.create_task(client.ask(b"slow"))
        await asyncio.sleep(0.05)

        os.kill(pid, signal.SIGTERM)

        assert (await slow)["pid"] == pid
        await daemon.until(lambda: pid not in daemon.pids() and daemon.ready() == 2, "another")
        assert (await (await daemon.connect()).ask())["pid"] != pid


async def test_changed_policy_reaches_all_and_those_that_start_later(run: Run) -> None:
    async with run(2) as daemon:
        clients = await daemon.connect_many(2)
        assert {(await client.ask())["policy"] for client in clients} == {"first"}

        serial = daemon.supervisor.tell_policy({"name": b"second"}, "")
        await daemon.until(
            lambda: all(child.policy_serial == serial for child in daemon.supervisor.children),
            "both to say so",
        )
        assert [child.policy_revision for child in daemon.supervisor.children] == ["second"] * 2
        assert {(await client.ask())["policy"] for client in clients} == {"second"}

        (pid, _) = daemon.pids()
        os.kill(pid, signal.SIGKILL)
        await daemon.until(lambda: pid not in daemon.pids() and daemon.ready() == 2, "another")
        later = [await (await daemon.connect()).ask() for _ in range(2)]
        assert {told["policy"] for told in later} == {"second"}
