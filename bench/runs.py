"""What was measured: one run of a case, and which of several is the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.spec import LoadResult

# The percentiles that tables and plots show.
SHARES = (0.5, 0.9, 0.99, 0.999)
_PARTS = ("server", "store", "load")
# A part that uses more than this share of a core is what limits the run.
_BUSY = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measured run through the daemon; CPU is user plus system time of whole trees."""

    case: str
    number: int
    result: LoadResult
    server_cpu_s: float
    store_cpu_s: float
    checks_per_batch: float
    rss_bytes: int
    rate: float = 0.0
    connection_bytes: float | None = None
    store_bytes_per_key: float | None = None
    process_shares: tuple[float, ...] = ()
    cores: tuple[frozenset[int], ...] = (frozenset({0}), frozenset({1}), frozenset({2}))
    tool: str = ""

    @property
    def decisions_per_s(self) -> float:
        """Return the rate of answers."""
        return self.result.answered / max(self.result.seconds, 1e-9)

    @property
    def server_us(self) -> float:
        """Return the daemon's CPU for one decision."""
        return self.server_cpu_s / max(self.result.answered, 1) * 1e6

    @property
    def store_us(self) -> float:
        """Return the store's CPU for one decision."""
        return self.store_cpu_s / max(self.result.answered, 1) * 1e6

    @property
    def errors(self) -> int:
        """Return how many calls had no answer, or another status than OK."""
        return sum(self.result.errors.values())

    def latency_ms(self, share: float) -> float:
        """Return a percentile of the latency."""
        return self.result.latency.percentile_ns(share) / 1e6

    def busy(self) -> tuple[float, ...]:
        """Return how much of their cores server, store and load used: 1 is all of them."""
        used = (self.server_cpu_s, self.store_cpu_s, self.result.client_cpu_s)
        seconds = max(self.result.seconds, 1e-9)
        pairs = zip(used, self.cores, strict=True)
        return tuple(cpu_s / seconds / len(cores) for cpu_s, cores in pairs)

    def limited_by(self) -> str:
        """Return who had no CPU to spare, together with who shares those cores; "-" if nobody."""
        by_cores: dict[frozenset[int], list[tuple[str, float]]] = {}
        for name, cores, share in zip(_PARTS, self.cores, self.busy(), strict=True):
            by_cores.setdefault(cores, []).append((name, share))
        fullest = max(by_cores.values(), key=lambda parts: sum(share for _, share in parts))
        if sum(share for _, share in fullest) < _BUSY:
            return "-"
        return " + ".join(name for name, _ in fullest)


@dataclass(frozen=True, slots=True, kw_only=True)
class BareRun:
    """One way of asking the store itself."""

    name: str
    about: str
    number: int
    result: LoadResult
    store_cpu_s: float

    @property
    def decisions_per_s(self) -> float:
        """Return the rate of decisions."""
        return self.result.answered / max(self.result.seconds, 1e-9)

    @property
    def store_us(self) -> float:
        """Return the store's CPU for one decision."""
        return self.store_cpu_s / max(self.result.answered, 1) * 1e6

    @property
    def client_us(self) -> float:
        """Return the client's CPU for one decision."""
        return self.result.client_cpu_s / max(self.result.answered, 1) * 1e6


def best(runs: Sequence[Run]) -> Run:
    """Return the run to quote: the lowest p99 of an open loop, else the least CPU per decision.

    Runs with errors count only if there are no others.
    """
    assert runs, "a case that ran has runs"
    kept = [run for run in runs if not run.errors] or list(runs)
    if kept[0].rate:
        return min(kept, key=lambda run: run.latency_ms(0.99))
    return min(kept, key=lambda run: run.server_us + run.store_us)


def peak(runs: Sequence[Run]) -> float:
    """Return the highest rate of several runs."""
    return max(run.decisions_per_s for run in runs)


def median(values: Sequence[float]) -> float:
    """Return the middle one; of an even number the lower."""
    return sorted(values)[(len(values) - 1) // 2]
