"""What a load process is told and what it answers, both as one line of JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from bench.load import histogram
from bench.load.histogram import Histogram

CHECK_PATH = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
HEALTH_PATH = "/grpc.health.v1.Health/Check"


class Body(StrEnum):
    """What is asked."""

    LIMITS = "limits"  # limits that are out of reach
    DENIED = "denied"  # limits that are used up after one call
    GCRA = "gcra"  # a limit by gcra
    SLIDING = "sliding"  # a sliding window
    SCOPES = "scopes"  # the limits of a key, its tier and everybody, decided together
    HEALTH = "health"  # a health check: the transport alone


class Draw(StrEnum):
    """How keys are drawn."""

    ZIPF = "zipf"
    UNIFORM = "uniform"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """What one process does: `in_flight` calls at any time, or with `rate` that many a second."""

    address: str
    seconds: float
    seed: int
    connections: int = 1
    in_flight: int = 1
    rate: float = 0.0
    weights: tuple[int, int] = (1, 1)
    spreads: bool = False  # closed loop: the next call goes to the next connection
    body: Body = Body.LIMITS
    descriptors: int = 1
    keys: int = 1
    draw: Draw = Draw.ZIPF
    traced: bool = False
    variants: int = 0  # different header blocks besides, of which none is kept
    ca: str = ""
    max_calls: int = 20_000_000

    @property
    def path(self) -> str:
        """Return the method that is called."""
        return HEALTH_PATH if self.body is Body.HEALTH else CHECK_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSpec:
    """What one process asks the store itself: `pipelined` commands of `batch` decisions each."""

    socket: str
    seconds: float
    seed: int
    batch: int
    pipelined: int
    keys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What came of it; latencies are of answered calls, `lag` is how late we ourselves sent."""

    answered: int
    over_limit: int
    seconds: float
    client_cpu_s: float
    latency: Histogram
    lag: Histogram
    errors: dict[str, int] = field(default_factory=dict)
    first_error: str = ""
    reconnects: int = 0

    def to_json(self) -> str:
        """Return the line that ends a load process."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        histograms = {"latency": self.latency.to_json(), "lag": self.lag.to_json()}
        return json.dumps(fields | histograms)


def result_from_json(line: str) -> LoadResult:
    """Return what `to_json` wrote."""
    fields: dict[str, Any] = json.loads(line)
    for name in ("latency", "lag"):
        fields[name] = histogram.from_json(fields[name])
    return LoadResult(**fields)


def merged(results: Sequence[LoadResult]) -> LoadResult:
    """Return what several processes did at the same time as one result."""
    errors: dict[str, int] = {}
    for result in results:
        for name, count in result.errors.items():
            errors[name] = errors.get(name, 0) + count
    return LoadResult(
        answered=sum(result.answered for result in results),
        over_limit=sum(result.over_limit for result in results),
        seconds=max(result.seconds for result in results),
        client_cpu_s=sum(result.client_cpu_s for result in results),
        latency=histogram.merged(result.latency for result in results),
        lag=histogram.merged(result.lag for result in results),
        errors=errors,
        first_error=next((result.first_error for result in results if result.first_error), ""),
        reconnects=sum(result.reconnects for result in results),
    )


def spec_to_json(spec: LoadSpec | StoreSpec) -> str:
    """Return the argument that starts a load process."""
    return json.dumps({"kind": type(spec).__name__, **asdict(spec)})


def spec_from_json(text: str) -> LoadSpec | StoreSpec:
    """Return what `spec_to_json` wrote."""
    fields: dict[str, Any] = json.loads(text)
    if fields.pop("kind") == StoreSpec.__name__:
        return StoreSpec(**fields)
    return _load_spec(fields)


def _load_spec(fields: Mapping[str, Any]) -> LoadSpec:
    low, high = fields["weights"]
    typed = {"body": Body(fields["body"]), "draw": Draw(fields["draw"]), "weights": (low, high)}
    return LoadSpec(**{**fields, **typed})
