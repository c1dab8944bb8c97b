"""Load through real gRPC: client processes, each with connections, each with calls in flight.

The loop is closed: a call is sent when the one before it was answered. `python -m bench.load` is
one client process; `running_clients` starts several and lets them begin together.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from random import Random
from time import perf_counter_ns

import grpc

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
CALL_TIMEOUT_S = 5.0
START_TIMEOUT_S = 30.0
# All keys have one length, so that a request is the same bytes around its number.
_DIGITS = 9
_PLACE = b"#" * _DIGITS


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What one client process does."""

    address: str
    keys: int
    seconds: float
    connections: int
    in_flight: int
    seed: int


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of it; `latencies_us` are sorted and of answered calls only."""

    decisions: int
    errors: int
    seconds: float
    latencies_us: list[int]

    def percentile_us(self, share: float) -> int:
        """Return the latency that `share` of the calls did not exceed."""
        last = len(self.latencies_us) - 1
        return self.latencies_us[round(share * last)] if last >= 0 else 0


def merged(results: Sequence[LoadResult]) -> LoadResult:
    """Return what several processes did at the same time as one result."""
    return LoadResult(
        sum(result.decisions for result in results),
        sum(result.errors for result in results),
        max(result.seconds for result in results),
        sorted(latency for result in results for latency in result.latencies_us),
    )


@contextmanager
def running_clients(specs: Sequence[LoadSpec]) -> Iterator["Clients"]:
    """Start one process for each spec, connected and waiting; they end with the block."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.load", json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for spec in specs
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a load client did not connect; its message is above")
        yield Clients(processes, max(spec.seconds for spec in specs))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@dataclass(frozen=True, slots=True)
class Clients:
    """Processes that wait for the word."""

    processes: list[subprocess.Popen[str]]
    seconds: float

    def run(self) -> LoadResult:
        """Let all begin at once and return what they did together."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        timeout_s = self.seconds + START_TIMEOUT_S
        lines = [process.communicate(timeout=timeout_s)[0] for process in self.processes]
        return merged([LoadResult(**json.loads(line)) for line in lines])


def request_template() -> tuple[bytes, bytes]:
    """Return the bytes before and after the user's number in a request."""
    message = rls_pb2.RateLimitRequest(domain="bench")
    message.descriptors.add().entries.add(key="user", value=_PLACE.decode())
    head, tail = message.SerializeToString().split(_PLACE)
    return head, tail


async def drive(spec: LoadSpec) -> LoadResult:
    """Connect, say so, wait for the word, then call until the time is over."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(spec.address, options=options) for _ in range(spec.connections)
    ]
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        start_ns = perf_counter_ns()
        end_ns = start_ns + int(spec.seconds * 1e9)
        callers = [
            _call_until(end_ns, channel, spec.keys, Random(f"{spec.seed}/{number}/{one}"))
            for number, channel in enumerate(channels)
            for one in range(spec.in_flight)
        ]
        outcomes = await asyncio.gather(*callers)
        seconds = (perf_counter_ns() - start_ns) / 1e9
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
    latencies_us = sorted(latency for latencies, _ in outcomes for latency in latencies)
    errors = sum(count for _, count in outcomes)
    return LoadResult(len(latencies_us), errors, seconds, latencies_us)


async def _call_until(
    end_ns: int, channel: grpc.aio.Channel, keys: int, random: Random
) -> tuple[list[int], int]:
    """Call one after the other; return the latencies of answers and the number of errors."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    head, tail = request_template()
    latencies_us: list[int] = []
    errors = 0
    while (start_ns := perf_counter_ns()) < end_ns:
        request = b"%b%0*d%b" % (head, _DIGITS, random.randrange(keys), tail)
        try:
            await call(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            errors += 1
        else:
            latencies_us.append((perf_counter_ns() - start_ns) // 1_000)
    return latencies_us, errors


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(drive(LoadSpec(**json.loads(sys.argv[1])))))))
