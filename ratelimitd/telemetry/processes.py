"""One directory in which every process of a daemon leaves its counters, and their sum.

    control.metrics     the supervisor's own, with the policy and what the store says of itself
    worker-N.metrics    those of the N-th worker that was started
    ended.metrics       the sum of workers that are no more, and their numbers

Rules:
- A file has one writer. A worker writes once a second and before it answers a scrape, so that no
  scrape, whoever answers it, sees less than the one before.
- When a worker ends, its last file is added to the sum first and removed second; a reader looks
  at the workers first and at the sum last. So nothing is missed, and the numbers in the sum tell
  what would be counted twice.
- A worker that is killed takes what it counted since its last write with it: a second at most.
"""

import time
from collections.abc import Callable
from pathlib import Path

from ratelimitd.telemetry.counters import Telemetry, WorkerSeries
from ratelimitd.telemetry.mapped import MappedFile, read_mapped
from ratelimitd.telemetry.snapshot import Snapshot, add, fold, from_bytes, to_bytes

CONTROL = "control.metrics"
ENDED = "ended.metrics"
# A reader needs the numbers of those workers only whose files it may still have found.
MAX_FOLDED = 256
_PAGE_BYTES = 4096


def worker_file(number: int) -> str:
    """Return the name of the file of the worker that was started as the `number`-th."""
    return f"worker-{number}.metrics"


class Publisher:
    """Leaves the counters of this process in a file."""

    def __init__(self, path: Path, telemetry: Telemetry) -> None:
        """Write what `telemetry` holds, for the first time now."""
        self._file = MappedFile(path)
        self._telemetry = telemetry
        self.publish()

    def publish(self) -> None:
        """Write the counters as they are; may be called by any thread."""
        self._file.write(to_bytes(Snapshot(self._telemetry)))

    def close(self) -> None:
        """Write the last counters."""
        self.publish()
        self._file.close()


class EndedWorkers:
    """The supervisor's sum of the workers that are no more."""

    def __init__(self, directory: Path) -> None:
        """Keep the sum in `directory`."""
        self._directory = directory
        self._file = MappedFile(directory / ENDED)
        self._sum = Telemetry()
        self._folded: list[int] = []

    def fold(self, number: int) -> None:
        """Add the file of a worker that has ended, and remove it."""
        path = self._directory / worker_file(number)
        data = read_mapped(path)
        if data is not None:
            fold(self._sum, from_bytes(data).telemetry)
            self._folded = [*self._folded[-MAX_FOLDED + 1 :], number]
            self._file.write(to_bytes(Snapshot(self._sum, frozenset(self._folded))))
        path.unlink(missing_ok=True)


def read_all(directory: Path) -> Telemetry:
    """Return the sum of all processes."""
    parts: dict[int, Telemetry] = {}
    for path in directory.glob("worker-*.metrics"):
        number = int(path.stem.removeprefix("worker-"))
        data = read_mapped(path)
        if data is not None:
            parts[number] = from_bytes(data).telemetry
    control = read_mapped(directory / CONTROL)
    total = Telemetry() if control is None else from_bytes(control).telemetry
    ended = read_mapped(directory / ENDED)
    if ended is not None:
        snapshot = from_bytes(ended)
        fold(total, snapshot.telemetry)
        for number in snapshot.folded:
            parts.pop(number, None)
    for _, part in sorted(parts.items()):
        add(total, part)
    return total


class Pulse:
    """Measures this process once a second, as the worker `number` of `telemetry`."""

    def __init__(
        self,
        telemetry: Telemetry,
        number: int,
        now_s: Callable[[], float] = time.monotonic,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        """Begin to measure."""
        self.series = telemetry.workers.setdefault(number, WorkerSeries())
        self._now_s, self._cpu_s = now_s, cpu_s
        self._last_s, self._last_cpu_s = now_s(), cpu_s()

    def beat(self, queue_depth: int) -> None:
        """Take the measures since the last call."""
        now_s, cpu_s = self._now_s(), self._cpu_s()
        wall_s = now_s - self._last_s
        series = self.series
        if wall_s > 0:
            series.utilization_ratio = min(1.0, (cpu_s - self._last_cpu_s) / wall_s)
        self._last_s, self._last_cpu_s = now_s, cpu_s
        series.cpu_seconds = cpu_s
        series.queue_depth = queue_depth
        series.resident_bytes = _resident_bytes()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0
