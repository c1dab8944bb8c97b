"""How the hits of one check spread over the reference server's counters, so dashboards go on."""

import struct
from functools import lru_cache

from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Check, CheckResult
from ratelimitd.decisions.verdict import RuleCount, RuleOutcome

_FLOAT32 = struct.Struct("f")


@lru_cache(maxsize=4096)
def near_threshold(requests_per_unit: int, ratio: float) -> int:
    """Return the use from which a limit is near: floor of the product in single precision."""
    amount, factor = _to_float32(requests_per_unit), _to_float32(ratio)
    return int(_to_float32(amount * factor))


def near_part(before: int, after: int, cost: int, threshold: int) -> int:
    """Return how much of an admitted cost lies beyond the threshold."""
    if after <= threshold:
        return 0
    return cost if before >= threshold else after - threshold


def count_hits(
    check: Check,
    result: CheckResult,
    outcome: RuleOutcome,
    options: DecisionOptions,
) -> RuleCount:
    """Split the cost into within, near and over: the part of it that crossed each threshold."""
    limit = check.limit
    cost, amount = check.cost, limit.capacity
    if cost < 0:
        return RuleCount(
            limit=limit,
            metric_key=check.metric_key,
            outcome=outcome,
            hits=0,
            refunded_hits=result.used_before - result.used_after,
        )
    before, after = result.used_before, result.used_after
    threshold = near_threshold(amount, options.near_limit_ratio)
    within = near = over = 0
    if after <= amount:
        within = cost
        near = near_part(before, after, cost, threshold)
    elif before >= amount:
        over = cost
    else:
        over = after - amount
        near = amount - max(threshold, before)
    return RuleCount(
        limit=limit,
        metric_key=check.metric_key,
        outcome=outcome,
        hits=cost,
        over_hits=over,
        near_hits=near,
        within_hits=within,
        shadow_hits=over if limit.is_shadow else 0,
        is_near=near > 0,
        is_overflowed=result.is_overflowed,
    )


def _to_float32(number: float) -> float:
    """Round to the nearest IEEE 754 single."""
    value: float = _FLOAT32.unpack(_FLOAT32.pack(number))[0]
    return value
