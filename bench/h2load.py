"""h2load, where it is installed: another client's word for what the transport does at its peak.

It sends one body again and again, and tells no percentiles of latency, so it is for the cases with
one key only.
"""

import re
import shutil
import subprocess
from pathlib import Path

from bench.load.bodies import make_bodies
from bench.load.histogram import Histogram
from bench.load.spec import LoadResult, LoadSpec
from bench.pins import pinned_to

SPARE_S = 30.0
_RATE = re.compile(r"finished in ([\d.]+)s, ([\d.]+) req/s")
_COUNTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")


def is_installed() -> bool:
    """Tell whether there is an h2load to run."""
    return shutil.which("h2load") is not None


def run_h2load(spec: LoadSpec, directory: Path, cores: frozenset[int] | None) -> LoadResult:
    """Drive the closed loop of `spec` with h2load."""
    body = directory / "body"
    body.write_bytes(make_bodies(spec)[0])
    command = [
        *("h2load", "--duration", f"{spec.seconds:g}", "-c", str(spec.connections)),
        *("-m", str(spec.in_flight // spec.connections), "-d", str(body)),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        f"http://{spec.address}{spec.path}",
    ]
    with pinned_to(cores):
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=spec.seconds + SPARE_S
        )
    return read_output(done.stdout)


def read_output(text: str) -> LoadResult:
    """Return what h2load printed as a result without latencies.

    It knows HTTP statuses alone: an answer is one that came, whatever its grpc-status.
    """
    rate, counts = _RATE.search(text), _COUNTS.search(text)
    if rate is None or counts is None:
        raise ValueError(f"h2load said something else than expected: {text[:500]!r}")
    seconds = float(rate[1])
    bad = sum(int(counts[number]) for number in (2, 3, 4))
    return LoadResult(
        # What it counts as succeeded includes its warm-up; its rate does not.
        answered=round(float(rate[2]) * seconds),
        over_limit=0,
        seconds=seconds,
        client_cpu_s=0.0,
        latency=Histogram(),
        lag=Histogram(),
        errors={"h2load failed": bad} if bad else {},
    )
