"""Runs with chosen figures, for tests of what is made of them."""

from bench.load.histogram import Histogram
from bench.load.spec import LoadResult
from bench.runs import BareRun, Run


def result_of(
    answered: int = 1_000,
    *,
    latency_ms: float = 1.0,
    cpu_s: float = 0.1,
    errors: dict[str, int] | None = None,
    over_limit: int = 0,
) -> LoadResult:
    latency, lag = Histogram(), Histogram()
    latency.record(int(latency_ms * 1e6))
    return LoadResult(
        answered=answered,
        over_limit=over_limit,
        seconds=1.0,
        client_cpu_s=cpu_s,
        latency=latency,
        lag=lag,
        errors=errors or {},
    )


def run_of(
    case: str,
    number: int = 1,
    *,
    server_us: float = 10.0,
    store_us: float = 5.0,
    rate: float = 0.0,
    connection_bytes: float | None = None,
    result: LoadResult | None = None,
) -> Run:
    result = result or result_of()
    return Run(
        case=case,
        number=number,
        result=result,
        server_cpu_s=server_us * result.answered / 1e6,
        store_cpu_s=store_us * result.answered / 1e6,
        checks_per_batch=12.5,
        rss_bytes=50 * 2**20,
        rate=rate,
        connection_bytes=connection_bytes,
    )


def bare_of(name: str, latency_ms: float) -> BareRun:
    result = result_of(latency_ms=latency_ms)
    return BareRun(name=name, about="", number=1, result=result, store_cpu_s=0.005)
