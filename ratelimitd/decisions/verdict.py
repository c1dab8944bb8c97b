"""What a request is answered: the overall code, a status per descriptor, headers and metadata."""

from collections.abc import Sequence
from enum import IntEnum, StrEnum
from typing import NamedTuple

from ratelimitd.decisions.plan import Plan
from ratelimitd.json_value import JsonObject
from ratelimitd.policy.model import Limit


class Code(IntEnum):
    """Envoy's RateLimitResponse.Code; UNKNOWN (0) is never answered: Envoy lets it pass."""

    OK = 1
    OVER_LIMIT = 2


class RuleOutcome(StrEnum):
    """What one rule said to one descriptor; a label in metrics."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    SHADOWED = "shadowed"
    FAILED_OPEN = "failed_open"
    FAILED_CLOSED = "failed_closed"
    FAILED_LOCAL_ALLOWED = "failed_local_allowed"
    FAILED_LOCAL_REFUSED = "failed_local_refused"
    FAILED_ERROR = "failed_error"


class Status(NamedTuple):
    """The answer to one descriptor; `limit` and `reset_s` are None where no limit applies.

    Of several limits it is the one that refused with the longest wait, else the one with least
    left. `wait_us` is how long a refusal lasts, exactly; -1 for ever, 0 where it is not known.
    `reset_us` is exact too.
    """

    code: Code
    limit: Limit | None = None
    remaining: int = 0
    reset_s: int | None = None
    wait_us: int = 0
    reset_us: int = 0


class RuleCount(NamedTuple):
    """What one descriptor adds to the metrics of its rule; hits are in units of cost.

    `over_hits`, `near_hits`, `within_hits`, `shadow_hits` and `cached_hits` follow the reference
    server's arithmetic, so that its dashboards go on.
    """

    limit: Limit
    metric_key: str
    outcome: RuleOutcome
    hits: int
    over_hits: int = 0
    near_hits: int = 0
    within_hits: int = 0
    shadow_hits: int = 0
    cached_hits: int = 0
    refunded_hits: int = 0
    is_near: bool = False
    is_overflowed: bool = False


class Verdict(NamedTuple):
    """The whole answer to one request, and what it adds to the metrics.

    `unmatched` counts descriptors that no rule matched. `is_shadowed` says that the global
    shadow mode turned a refusal into OK.
    """

    plan: Plan
    code: Code
    statuses: tuple[Status, ...]
    headers: tuple[tuple[str, str], ...] = ()
    metadata: JsonObject | None = None
    raw_body: bytes = b""
    counts: tuple[RuleCount, ...] = ()
    unmatched: int = 0
    is_shadowed: bool = False


def refusing(statuses: Sequence[Status]) -> list[int]:
    """Return the places of what refuses: a quota limit does only where no other does."""
    over = [at for at, status in enumerate(statuses) if status.code is Code.OVER_LIMIT]
    strict = [at for at in over if not _is_quota(statuses[at])]
    return strict or over


def _is_quota(status: Status) -> bool:
    return status.limit is not None and status.limit.is_quota
