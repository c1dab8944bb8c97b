"""What the figures of a run say about each other, beside what we want them to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.cases import MAIN, YARDSTICK
from bench.runs import BareRun, Run, best, median, peak


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure, the bound it shall keep, and whether it does."""

    text: str
    value: float
    bound: float
    is_at_most: bool
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Tell whether the bound is kept."""
        return self.value <= self.bound if self.is_at_most else self.value >= self.bound


Runs = Mapping[str, Sequence[Run]]


def make_ratios(runs: Runs, bare: Mapping[str, Sequence[BareRun]]) -> list[Ratio]:
    """Return every figure whose cases ran."""
    return [*_costs(runs), *_relations(runs, bare), *_latencies(runs), *_memory(runs)]


def _costs(runs: Runs) -> list[Ratio]:
    found = []
    for case, bound in (
        (MAIN, 15),
        ("gcra", 15),
        ("traceparent", 25),
        ("keys_1m_uniform", 25),
        ("cluster", 30),
    ):
        if case in runs:
            text = f"CPU per decision of the server, {case}"
            found.append(Ratio(text, best(runs[case]).server_us, bound, True, " us"))
    for case, bound in ((MAIN, 23), ("gcra", 24)):
        if case in runs:
            text = f"CPU per decision of server and store, {case}"
            found.append(Ratio(text, _both_us(runs[case]), bound, True, " us"))
    return found


def _relations(runs: Runs, bare: Mapping[str, Sequence[BareRun]]) -> list[Ratio]:
    found = []
    for text, case, to, value, bound, is_at_most in (
        (
            "server CPU of the grpcio yardstick, against ours",
            YARDSTICK,
            MAIN,
            _server_us,
            12,
            False,
        ),
        ("server CPU of 3 descriptors, against 1", "descriptors_3", MAIN, _server_us, 1.8, True),
        (
            "CPU of key, tier and global, against one gcra",
            "key_tier_global",
            "gcra",
            _both_us,
            1.7,
            True,
        ),
        ("server CPU with 2 workers, against 1", "workers_2", MAIN, _server_us, 1.15, True),
        ("decisions/s with 1 M keys, against 1 k", "keys_1m", "keys_1k", peak, 0.8, False),
    ):
        if case in runs and to in runs and (base := value(runs[to])):
            found.append(Ratio(text, value(runs[case]) / base, bound, is_at_most, "x"))
    if "in_flight_1" in runs and "bare_one" in bare:
        ours = min(run.latency_ms(0.5) for run in runs["in_flight_1"])
        limit = min(run.result.latency.percentile_ns(0.5) / 1e6 for run in bare["bare_one"])
        if limit:
            text = "p50 with one in flight, against a bare EVALSHA"
            found.append(Ratio(text, ours / limit, 3, True, "x"))
    return found


def _server_us(runs: Sequence[Run]) -> float:
    return best(runs).server_us


def _both_us(runs: Sequence[Run]) -> float:
    run = best(runs)
    return run.server_us + run.store_us


def _latencies(runs: Runs) -> list[Ratio]:
    found = []
    for case, share, name, bound in (
        ("open_50", 0.99, "p99", 5),
        ("open_50", 0.999, "p99.9", 20),
        ("fleet_50", 0.99, "p99", 5),
    ):
        if case in runs:
            value = median([run.latency_ms(share) for run in runs[case]])
            text = f"{name} of {case}, median of {len(runs[case])} runs"
            found.append(Ratio(text, value, bound, True, " ms"))
    return found


def _memory(runs: Runs) -> list[Ratio]:
    found = []
    for case in ("fleet_50", "fleet_hold"):
        values = [run.connection_bytes for run in runs.get(case, ()) if run.connection_bytes]
        if values:
            text = f"server memory per connection, {case}"
            found.append(Ratio(text, min(values) / 1024, 12, True, " KiB"))
    return found
