"""Load processes: started together, connected, let go at once, and ended with the block."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from bench.load.spec import (
    LoadResult,
    LoadSpec,
    StoreSpec,
    merged,
    result_from_json,
    spec_to_json,
)
from bench.pins import pinned_to

# For connecting, preparing bodies, and waiting for the last answers.
SPARE_S = 60.0


@dataclass(frozen=True, slots=True)
class Clients:
    """Processes that are connected and wait for the word."""

    processes: list[subprocess.Popen[str]]
    seconds: float

    def run(self) -> LoadResult:
        """Let all begin at once and return what they did together."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        timeout_s = self.seconds + SPARE_S
        lines = [process.communicate(timeout=timeout_s)[0] for process in self.processes]
        if not all(lines):
            raise RuntimeError("a load process ended without a result; its message is above")
        return merged([result_from_json(line) for line in lines])


@contextmanager
def running_clients(
    specs: Sequence[LoadSpec | StoreSpec], cores: frozenset[int] | None
) -> Iterator[Clients]:
    """Start one process for each spec on `cores`; they are connected when the block begins."""
    processes: list[subprocess.Popen[str]] = []
    try:
        with pinned_to(cores):
            processes += [_start(spec) for spec in specs]
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a load process did not connect; its message is above")
        yield Clients(processes, max(spec.seconds for spec in specs))
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def split(spec: LoadSpec, processes: int) -> list[LoadSpec]:
    """Divide the load of `spec` over at most `processes`; each has a connection and a call."""
    count = max(1, min(processes, spec.connections, spec.in_flight))
    return [
        replace(
            spec,
            seed=spec.seed * 100 + number,
            connections=_share(spec.connections, count, number),
            in_flight=_share(spec.in_flight, count, number),
            rate=spec.rate / count,
        )
        for number in range(count)
    ]


def _share(total: int, count: int, number: int) -> int:
    return total // count + (number < total % count)


def _start(spec: LoadSpec | StoreSpec) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.load", spec_to_json(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
