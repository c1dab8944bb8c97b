"""Measure one case: warm up, then some runs, each with what it cost."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import h2load, proc
from bench.cases import BARE_KEYS, BareCase, Case
from bench.clients import running_clients, split
from bench.daemons import Served
from bench.load.spec import LoadResult, LoadSpec, StoreSpec
from bench.pins import Pins
from bench.runs import BareRun, Run
from bench.stores import Store

WARM_UP_S = 1.0
WARM_UP_CONNECTIONS = 8
# With fewer keys, connections and tables outweigh them; with fewer connections, caches do.
MANY_KEYS = 100_000
MANY_CONNECTIONS = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often, on how many load processes; `empty_bytes` is the bare store."""

    seconds: float
    runs: int
    processes: int
    empty_bytes: int = 0


def measure(case: Case, served: Served, plan: Plan, rate: float = 0.0) -> Iterator[Run]:
    """Warm up, then yield each run of a case; `rate` is an open loop's."""
    warm_up(case, served, plan, rate)
    # One run asked for is a quick look, whatever the case would like.
    count = max(case.runs, plan.runs) if plan.runs > 1 and case.runs != 1 else 1
    for number in range(1, count + 1):
        specs = _specs(case, served, plan, seed=number, rate=rate)
        with running_clients(specs, served.pins.load) as clients:
            yield _observed(case, served, plan, clients.run, number=number, rate=rate)


def measure_h2load(case: Case, served: Served, plan: Plan) -> Iterator[Run]:
    """Yield each run of a case with h2load as the client."""
    spec = case.to_spec(served.daemon.grpc_address, seconds=plan.seconds, seed=1)
    with tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name:

        def drive() -> LoadResult:
            return h2load.run_h2load(spec, Path(name), served.pins.load)

        for number in range(1, plan.runs + 1):
            yield replace(_observed(case, served, plan, drive, number=number), tool="h2load")


def measure_bare(case: BareCase, store: Store, pins: Pins, plan: Plan) -> Iterator[BareRun]:
    """Yield each run of asking the store itself."""
    for number in range(1, plan.runs + 1):
        spec = StoreSpec(
            socket=store.socket,
            seconds=plan.seconds,
            seed=number,
            batch=case.batch,
            pipelined=case.pipelined,
            keys=BARE_KEYS,
        )
        with running_clients([spec], pins.load) as clients:
            before = proc.usage(store.pids)
            result = clients.run()
            cpu_s = sum(proc.spent(before, proc.usage(store.pids)).values())
        yield BareRun(
            name=case.name, about=case.about, number=number, result=result, store_cpu_s=cpu_s
        )


def warm_up(case: Case, served: Served, plan: Plan, rate: float = 0.0) -> None:
    """Let caches fill, over a few connections; then look how much memory that took.

    Where memory is divided by connections, the caches must be full before there are many.
    """
    few = replace(case, connections=min(case.connections, WARM_UP_CONNECTIONS), spreads=False)
    seconds = WARM_UP_S
    if case.connections >= MANY_CONNECTIONS and not served.plain_rss_bytes:
        seconds, rate = max(seconds, plan.seconds), 0.0
    specs = _specs(few, served, replace(plan, seconds=seconds), seed=0, rate=rate)
    with running_clients(specs, served.pins.load) as clients:
        clients.run()
    if not served.plain_rss_bytes:
        served.plain_rss_bytes = proc.usage([served.daemon.child.pid]).rss_bytes


def _specs(case: Case, served: Served, plan: Plan, *, seed: int, rate: float) -> list[LoadSpec]:
    address = served.daemon.grpc_address
    spec = case.to_spec(address, seconds=plan.seconds, seed=seed, rate=rate, ca=served.ca)
    return split(spec, plan.processes)


def _observed(
    case: Case,
    served: Served,
    plan: Plan,
    drive: Callable[[], LoadResult],
    *,
    number: int,
    rate: float = 0.0,
) -> Run:
    """Drive the daemon once, and read what it cost before and after."""
    daemon, store, pins = served.daemon, served.store, served.pins
    root = daemon.child.pid
    batches = proc.read_batches(daemon.http_url)
    server, kept = proc.usage([root]), proc.usage(store.pids)
    result = drive()
    server_after, kept_after = proc.usage([root]), proc.usage(store.pids)
    by_process = proc.spent(server, server_after)
    server_cpu_s = sum(by_process.values())
    return Run(
        case=case.name,
        number=number,
        result=result,
        server_cpu_s=server_cpu_s,
        store_cpu_s=sum(proc.spent(kept, kept_after).values()),
        checks_per_batch=proc.read_batches(daemon.http_url).per_call_since(batches),
        rss_bytes=server_after.rss_bytes,
        rate=rate,
        connection_bytes=_connection_bytes(case, served, server_after.rss_bytes),
        store_bytes_per_key=_bytes_per_key(case, store, plan),
        process_shares=tuple(
            sorted((cpu_s / max(server_cpu_s, 1e-9) for cpu_s in by_process.values()), reverse=True)
        ),
        cores=pins.parts(),
    )


def _connection_bytes(case: Case, served: Served, rss_bytes: int) -> float | None:
    """Return what a connection added to the daemon's memory, buffers of its calls included."""
    if case.connections < MANY_CONNECTIONS:
        return None
    return (rss_bytes - served.plain_rss_bytes) / case.connections


def _bytes_per_key(case: Case, store: Store, plan: Plan) -> float | None:
    if store.client is None or case.keys < MANY_KEYS or not plan.empty_bytes:
        return None
    return (store.used_memory() - plan.empty_bytes) / max(store.key_count(), 1)
