"""Load on the store itself: the physical limit of any server that decides in it.

The same event loop and clock as the load on the daemon; commands are encoded before the clock
starts. `batch` decisions are one command, `pipelined` commands are one write and one wait.
"""

import asyncio
import sys
import time
from time import perf_counter_ns
from typing import cast

import hiredis

from bench.decisions import check_command, load_check, load_policy, pack_command, plan_of
from bench.load.bodies import draw_keys
from bench.load.drive import GO
from bench.load.spec import Draw, LoadResult, StoreSpec
from bench.load.tally import Tally

STEPS = 256
ANSWER_TIMEOUT_S = 5.0


async def drive_store(spec: StoreSpec) -> LoadResult:
    """Do what `spec` says, and return what came of it."""
    writes = _make_writes(spec)
    loop = asyncio.get_running_loop()
    _, replies = await loop.create_unix_connection(_Replies, spec.socket)
    try:
        await replies.ask(pack_command("SCRIPT", "LOAD", load_check().text), 1)
        print("ready", flush=True)
        if await asyncio.to_thread(sys.stdin.readline) != GO:
            raise SystemExit("nobody said go")
        return await _measure(spec, replies, writes)
    finally:
        replies.close()


async def _measure(spec: StoreSpec, replies: "_Replies", writes: list[bytes]) -> LoadResult:
    tally = Tally()
    decisions = spec.batch * spec.pipelined
    cpu_s, start_ns = time.process_time(), perf_counter_ns()
    end_ns = start_ns + int(spec.seconds * 1e9)
    steps = 0
    while (now_ns := perf_counter_ns()) < end_ns:
        await replies.ask(writes[steps % len(writes)], spec.pipelined)
        tally.add_decisions(decisions, perf_counter_ns() - now_ns)
        steps += 1
    return tally.to_result((perf_counter_ns() - start_ns) / 1e9, time.process_time() - cpu_s)


def _make_writes(spec: StoreSpec) -> list[bytes]:
    """Return what each step writes: encoded commands."""
    policy = load_policy()
    keys = draw_keys(spec.keys, Draw.ZIPF, f"{spec.seed}/store")
    writes = []
    at = 0
    for _ in range(STEPS if spec.batch * spec.pipelined > 1 else STEPS * 16):
        commands = []
        for _ in range(spec.pipelined):
            plans = [plan_of(policy, keys[(at + i) % len(keys)]) for i in range(spec.batch)]
            commands.append(check_command(plans))
            at += spec.batch
        writes.append(b"".join(commands))
    return writes


class _Replies(asyncio.Protocol):
    """A connection that writes and waits until so many replies have come."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._missing = 0
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    async def ask(self, data: bytes, replies: int) -> None:
        """Write `data` and wait for its replies; raises the first that is an error."""
        assert self._transport is not None
        self._missing = replies
        done = self._done = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        await done

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Count replies."""
        self._reader.feed(data)
        done = self._done
        while (reply := self._reader.gets()) is not False:
            self._missing -= 1
            if isinstance(reply, Exception) and done is not None and not done.done():
                done.set_exception(reply)
        if self._missing == 0 and done is not None and not done.done():
            done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let nobody wait for replies that will not come."""
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the store closed the connection"))
