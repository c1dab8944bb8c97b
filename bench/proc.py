"""What a run costs, read from /proc over whole process trees, and from the daemon's metrics."""

import os
import resource
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_BATCHES = "ratelimitd_store_batch_checks"
# Files and sockets of a process besides the connections that are asked for.
_SPARE_FILES = 256


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time since the start of each process, and resident memory of all."""

    cpu_s: Mapping[int, float]
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Batches:
    """How many checks in how many batches the daemon has sent to the store."""

    checks: float
    calls: float

    def per_call_since(self, before: "Batches") -> float:
        """Return the mean size of the batches since `before`."""
        return (self.checks - before.checks) / max(self.calls - before.calls, 1)


def usage(roots: Iterable[int]) -> Usage:
    """Read the processes `roots` and all that descend from them; gone ones count nothing."""
    cpu_s: dict[int, float] = {}
    rss_pages = 0
    for pid in _trees(list(roots)):
        fields = _stat(pid)
        if fields:
            cpu_s[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
            rss_pages += int(fields[21])
    return Usage(cpu_s, rss_pages * _PAGE_BYTES)


def spent(before: Usage, after: Usage) -> dict[int, float]:
    """Return the CPU seconds that each process has used in between."""
    return {pid: cpu_s - before.cpu_s.get(pid, 0.0) for pid, cpu_s in after.cpu_s.items()}


def read_batches(http_url: str) -> Batches:
    """Ask the daemon's /metrics; labels, if there are any, are summed up."""
    with urllib.request.urlopen(f"{http_url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    checks = calls = 0.0
    for family in text_string_to_metric_families(text):
        if family.name == _BATCHES:
            checks += sum(one.value for one in family.samples if one.name == f"{_BATCHES}_sum")
            calls += sum(one.value for one in family.samples if one.name == f"{_BATCHES}_count")
    return Batches(checks, calls)


def allow_files() -> None:
    """Raise this process's limit of open files, and so its children's, as far as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def can_open(connections: int) -> bool:
    """Tell whether a process may have so many connections."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft == resource.RLIM_INFINITY or soft >= connections + _SPARE_FILES


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process, 0 if it is gone."""
    fields = _stat(pid)
    return int(fields[21]) * _PAGE_BYTES if fields else 0


def _trees(roots: Sequence[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = list(roots)
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()
