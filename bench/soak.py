"""`python -m bench.soak`: does the memory of workers stay flat under ever new keys and headers?

Two workers with a policy of 1,000 rules answer an open loop that asks for a million keys, for all
before one comes again and for some of them often, with ten thousand different header blocks; most
calls are traced. Every `--sample` seconds the memory of each worker is printed; the end is a
verdict, and exit code 1 if it is not good. Nothing is sent but to loopback.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from bench import proc, report
from bench.clients import Clients, running_clients
from bench.decisions import POLICY
from bench.load.spec import Draw, LoadResult, LoadSpec
from bench.stores import running_store
from tests.support.daemon import Daemon, running_daemon

WORKERS = 2
RULES = 1_000
KEYS = 1_000_000
VARIANTS = 10_000
# Of each process; enough for every worker to have some of all.
CONNECTIONS = 16
# What a worker may have, and what it may gain once its caches are full.
MAX_BYTES = 60 * 2**20
MAX_GROWTH_BYTES = 2**20
SHOWN_SAMPLES = 10
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """The memory of each worker, by pid, some seconds after the start."""

    seconds: float
    resident: dict[int, int]

    def to_line(self) -> str:
        """Return it for a person."""
        each = ", ".join(f"{size / _MIB:.2f}" for size in self.resident.values())
        return f"{self.seconds:6.0f} s   {each} MiB"


@dataclass(slots=True)
class Soak:
    """What was seen so far."""

    samples: list[Sample] = field(default_factory=list)

    def growth_bytes(self) -> int:
        """Return how much the worker that grew most has gained from the second quarter on.

        What the first quarter brings is caches that fill.
        """
        count = len(self.samples)
        second = self.samples[count // 4 : max(count // 2, count // 4 + 1)]
        last = self.samples[-max(1, count // 4) :]
        return max(_mean(last, pid) - _mean(second, pid) for pid in self.samples[0].resident)

    def faults(self, result: LoadResult, keys: int) -> list[str]:
        """Return everything that is not as it should be."""
        if len(self.samples) < 4:
            return ["too few samples; make --minutes longer or --sample shorter"]
        if len({tuple(sample.resident) for sample in self.samples}) > 1:
            return ["a worker ended and was replaced"]
        found = []
        if (growth := self.growth_bytes()) > MAX_GROWTH_BYTES:
            found.append(f"a worker grew by {growth / _MIB:.2f} MiB after the first quarter")
        if (largest := max(max(sample.resident.values()) for sample in self.samples)) > MAX_BYTES:
            found.append(f"a worker has {largest / _MIB:.1f} MiB")
        if result.errors:
            found.append(f"calls failed: {result.errors} {result.first_error}".strip())
        if keys < KEYS:
            found.append(f"only {keys:,} keys were asked for; make --minutes or --rate larger")
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak, and tell what came of it; return the exit code."""
    options = _parser().parse_args(arguments)
    seconds = options.minutes * 60
    soak = Soak()
    with (
        tempfile.TemporaryDirectory(prefix="ratelimitd-soak-") as name,
        running_store(Path(name) / "store") as store,
        running_daemon(
            _write_policy(Path(name) / "policy"),
            store.url,
            Path(name) / "daemon",
            flags=("--data-plane", "h2", "--workers", str(WORKERS), "--log-level", "warning"),
        ) as daemon,
        running_clients(_specs(daemon, options.rate, seconds), None) as clients,
    ):
        result = _sampled(soak, daemon, clients, options.sample)
        keys = store.key_count()
    faults = soak.faults(result, keys)
    lines = _told(soak, result, keys, faults)
    print("\n".join(lines))
    if options.output is not None:
        with options.output.open("a", encoding="utf-8") as sink:
            print(f"\n## Soak of {options.minutes:g} minutes\n", file=sink)
            for line in (f"{report.machine()}, commit {report.commit()}", *lines):
                print(f"- {line}", file=sink)
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--rate", type=float, default=5000.0, help="calls a second, of all together"
    )
    parser.add_argument("--sample", type=float, default=30.0, help="seconds between two looks")
    parser.add_argument("--output", type=Path, help="a file to append the result to")
    return parser


def _write_policy(directory: Path) -> Path:
    """Write the benchmarks' policy, and another domain of RULES rules."""
    directory.mkdir()
    for file in POLICY.glob("*.yaml"):
        (directory / file.name).write_bytes(file.read_bytes())
    rule = "  - {{key: path, value: /{}, rate_limit: {{unit: minute, requests_per_unit: 9}}}}\n"
    rules = "".join(rule.format(number) for number in range(RULES))
    (directory / "many.yaml").write_text(f"domain: many\ndescriptors:\n{rules}", "utf-8")
    return directory


def _specs(daemon: Daemon, rate: float, seconds: float) -> list[LoadSpec]:
    """Return what three processes do: ever new keys without and with tracing, and known ones."""
    plain = LoadSpec(
        address=daemon.grpc_address,
        seconds=seconds,
        seed=1,
        connections=CONNECTIONS,
        rate=rate * 0.4,
        keys=KEYS,
        draw=Draw.UNIFORM,
        variants=VARIANTS,
    )
    return [
        plain,
        replace(plain, seed=2, traced=True),
        replace(plain, seed=3, traced=True, rate=rate * 0.2, draw=Draw.ZIPF),
    ]


def _sampled(soak: Soak, daemon: Daemon, clients: Clients, every_s: float) -> LoadResult:
    """Let the clients run, and look at the workers meanwhile."""
    start_s = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running: Future[LoadResult] = pool.submit(clients.run)
        while not running.done():
            time.sleep(min(every_s, max(0.0, start_s + clients.seconds - time.monotonic()) + 0.1))
            seconds = time.monotonic() - start_s
            if seconds > clients.seconds:
                break
            resident = {pid: proc.resident_bytes(pid) for pid in daemon.worker_pids()}
            soak.samples.append(Sample(seconds, resident))
            print(soak.samples[-1].to_line(), flush=True)
        return running.result()


def _told(soak: Soak, result: LoadResult, keys: int, faults: Sequence[str]) -> list[str]:
    """Return what a reader wants to know, one line for each thing."""
    asked = f"{result.answered:,} calls in {result.seconds:.0f} s for {keys:,} keys"
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}: {WORKERS} workers, a policy of {RULES:,} rules",
        f"{asked}, {VARIANTS:,} different header blocks, most calls traced",
    ]
    step = max(1, len(soak.samples) // SHOWN_SAMPLES)
    lines += [f"memory after {sample.to_line().strip()}" for sample in soak.samples[::step]]
    verdict = "; ".join(faults) if faults else f"flat, and below {MAX_BYTES // _MIB} MiB"
    return [*lines, f"verdict: {verdict}"]


def _mean(samples: Sequence[Sample], pid: int) -> int:
    return sum(sample.resident[pid] for sample in samples) // len(samples)


if __name__ == "__main__":
    sys.exit(main())
