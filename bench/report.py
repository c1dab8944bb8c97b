"""RESULTS.md: the machine, the commit, the command, and every run."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bench.bare import BareRun

# With fewer keys, connections and tables outweigh them.
_MANY_KEYS = 100_000

HEAD = (
    "case",
    "keys",
    "run",
    "decisions/s",
    "p50 ms",
    "p99 ms",
    "server us/decision",
    "store us/decision",
    "checks/batch",
    "server RSS MB",
    "store B/key",
    "errors",
)
BARE_HEAD = ("case", "keys", "decisions/s", "client us/decision", "store us/decision")


_INTRODUCTION = """\
# Results

Written by `make bench`. Client, server and store share the machine, so compare runs of one machine
only. CPU per decision is user plus system time of the process tree, from /proc; it depends less on
what else runs than decisions/s do. The loop is closed, so p50 and p99 are what a caller waits at
the full load that the clients can make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured run through the daemon; CPU is user plus system time, per decision."""

    case: str
    keys: int
    number: int
    decisions_per_s: float
    p50_us: int
    p99_us: int
    server_us: float
    store_us: float
    checks_per_batch: float
    server_rss_bytes: int
    store_bytes_per_key: float
    errors: int

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        return (
            self.case,
            f"{self.keys:,}",
            str(self.number),
            f"{self.decisions_per_s:,.0f}",
            f"{self.p50_us / 1e3:.2f}",
            f"{self.p99_us / 1e3:.2f}",
            f"{self.server_us:.0f}",
            f"{self.store_us:.1f}",
            f"{self.checks_per_batch:.1f}",
            f"{self.server_rss_bytes / 2**20:.0f}",
            f"{self.store_bytes_per_key:.0f}" if self.keys >= _MANY_KEYS else "-",
            str(self.errors),
        )


def to_text(
    *,
    command: str,
    store: str,
    runs: Sequence[Run],
    bare: Sequence[BareRun],
    keys: int,
    load: float,
) -> str:
    """Return the page; `keys` is how many the bare runs used, `load` the machine's before."""
    parts = [
        _INTRODUCTION,
        "\n".join(_facts(command, store, load)),
        "## Through the daemon: ShouldRateLimit over gRPC, one descriptor, all admitted",
        _table(HEAD, [run.cells() for run in runs]),
        "## The store alone: check.lua on one connection",
        _table(BARE_HEAD, [_bare_cells(run, keys) for run in bare]),
    ]
    return "\n\n".join(parts) + "\n"


def to_line(run: Run) -> str:
    """Return one run as a line for people."""
    return ", ".join(f"{name} {cell}" for name, cell in zip(HEAD, run.cells(), strict=True))


def _bare_cells(run: BareRun, keys: int) -> tuple[str, ...]:
    return (
        run.name,
        f"{keys:,}",
        f"{run.decisions_per_s:,.0f}",
        f"{run.client_us:.1f}",
        f"{run.store_us:.1f}",
    )


def _facts(command: str, store: str, load: float) -> list[str]:
    """Return what a reader needs to compare: machine, versions, commit, command."""
    python = platform.python_version()
    kernel = ".".join(platform.release().split(".")[:2])
    libraries = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "redis", "protobuf"))
    return [
        f"- machine: {_cpu_model()}, {os.cpu_count()} cores, Linux {kernel}",
        f"- versions: CPython {python}, {libraries}, store {store}",
        f"- load average before the run: {load:.1f}",
        f"- commit: {_commit()}",
        f"- command: `{command}`",
    ]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _commit() -> str:
    """Return the commit, and whether the tree differs from it."""
    here = Path(__file__).parent
    commit = _git(here, "rev-parse", "--short", "HEAD") or "unknown"
    changed = _git(here, "status", "--porcelain", "--", "../ratelimitd", "../lua")
    return f"{commit} with local changes" if changed else commit


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=directory, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
