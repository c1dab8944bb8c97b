"""`make bench`: decisions per second and CPU per decision, through the real daemon and without it.

Everything runs on loopback and on a private store; children are ended by their own pids.
"""

import argparse
import os
import shlex
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from rich.progress import Progress

from bench import bare, report
from bench.load import LoadSpec, running_clients
from bench.proc import Store, running_store, tree, usage
from ratelimitd.policy.model import Policy
from tests.support.daemon import Daemon, running_daemon

WARM_UP_S = 1.0
BARE_KEYS = 1_000
RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True, slots=True)
class Case:
    """One load on one number of keys."""

    name: str
    keys: int
    processes: int
    connections: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Bench:
    """A case and what it runs on; `empty_bytes` is what the store used without a key."""

    case: Case
    daemon: Daemon
    store: Store
    empty_bytes: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every case, print each run, and write the results."""
    options = _parser().parse_args(arguments)
    runs: list[report.Run] = []
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="ratelimitd-bench-") as name,
        running_store(Path(name)) as store,
        Progress(transient=True) as progress,
    ):
        policy = bare.load_policy()
        empty_bytes = store.used_memory()
        _fill(store, policy, BARE_KEYS, progress)
        bare_runs = list(bare.measure(store, policy, BARE_KEYS, options.seconds / 2))
        with running_daemon(
            bare.POLICY, store.url, Path(name) / "daemon", flags=("--log-level", "warning")
        ) as daemon:
            for case in _cases(options):
                _fill(store, policy, case.keys, progress)
                bench = Bench(case, daemon, store, empty_bytes)
                runs += _measure(bench, options, progress)
        store_name = f"{store.version} on a unix socket"
    text = report.to_text(
        command=shlex.join(["python", "-m", "bench.run", *(arguments or sys.argv[1:])]),
        store=store_name,
        runs=runs,
        bare=bare_runs,
        keys=BARE_KEYS,
        load=load,
    )
    options.output.write_text(text, "utf-8")
    print(text)
    print(f"written: {options.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case")
    parser.add_argument("--keys", type=int, default=1_000_000, help="keys of the large case")
    parser.add_argument("--processes", type=int, default=2, help="client processes")
    parser.add_argument("--connections", type=int, default=2, help="connections per process")
    parser.add_argument("--in-flight", type=int, default=8, help="calls in flight per connection")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where to write the results")
    return parser


def _cases(options: argparse.Namespace) -> list[Case]:
    load = (options.processes, options.connections, options.in_flight)
    calls = options.processes * options.connections * options.in_flight
    return [
        Case("one at a time", BARE_KEYS, 1, 1, 1),
        Case(f"{calls} in flight", BARE_KEYS, *load),
        Case(f"{calls} in flight", options.keys, *load),
    ]


def _fill(store: Store, policy: Policy, keys: int, progress: Progress) -> None:
    """Have a counter for each key before the run, so that the store is as large as it says."""
    if store.key_count() >= keys:
        return
    task = progress.add_task(f"filling {keys:,} keys", total=keys)
    for done in bare.fill(store, policy, keys):
        progress.update(task, completed=done)


def _measure(bench: Bench, options: argparse.Namespace, progress: Progress) -> Iterator[report.Run]:
    """Warm up, then yield each run of a case."""
    case = bench.case
    task = progress.add_task(f"{case.name}, {case.keys:,} keys", total=options.runs)
    with running_clients(_specs(bench, WARM_UP_S, seed=0)) as clients:
        clients.run()
    for number in range(1, options.runs + 1):
        run = _run(bench, options.seconds, number)
        progress.console.print(report.to_line(run))
        progress.advance(task)
        yield run


def _run(bench: Bench, seconds: float, number: int) -> report.Run:
    """Drive the daemon once, and read what it cost before and after."""
    case, daemon, store = bench.case, bench.daemon, bench.store
    with running_clients(_specs(bench, seconds, seed=number)) as clients:
        server_pids, batches = tree(daemon.child.pid), _batches(daemon)
        server, kept = usage(server_pids), usage([store.pid])
        result = clients.run()
        server_after, kept_after = usage(server_pids), usage([store.pid])
    checks, calls = (
        after - before for after, before in zip(_batches(daemon), batches, strict=True)
    )
    decisions = max(result.decisions, 1)
    return report.Run(
        case=case.name,
        keys=case.keys,
        number=number,
        decisions_per_s=result.decisions / result.seconds,
        p50_us=result.percentile_us(0.50),
        p99_us=result.percentile_us(0.99),
        server_us=(server_after.cpu_s - server.cpu_s) / decisions * 1e6,
        store_us=(kept_after.cpu_s - kept.cpu_s) / decisions * 1e6,
        checks_per_batch=checks / max(calls, 1),
        server_rss_bytes=server_after.rss_bytes,
        store_bytes_per_key=(store.used_memory() - bench.empty_bytes) / max(store.key_count(), 1),
        errors=result.errors,
    )


def _specs(bench: Bench, seconds: float, *, seed: int) -> list[LoadSpec]:
    case = bench.case
    return [
        LoadSpec(
            bench.daemon.grpc_address,
            case.keys,
            seconds,
            case.connections,
            case.in_flight,
            seed * 100 + number,
        )
        for number in range(case.processes)
    ]


def _batches(daemon: Daemon) -> tuple[float, float]:
    """Return how many checks in how many batches the daemon has sent to the store."""
    with urllib.request.urlopen(f"{daemon.http_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("ratelimitd_store_batch_checks_") and not sample.labels
    }
    prefix = "ratelimitd_store_batch_checks"
    return values.get(f"{prefix}_sum", 0.0), values.get(f"{prefix}_count", 0.0)


if __name__ == "__main__":
    main()
