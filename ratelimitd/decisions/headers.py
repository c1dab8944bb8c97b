"""The reference server's own response headers: limit, remaining and reset of one status."""

from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.verdict import Code, Status


def to_headers(
    plan: Plan, statuses: tuple[Status, ...], options: DecisionOptions
) -> tuple[tuple[str, str], ...]:
    """Speak of the status with the least left, or of the last refusal that is not a quota's."""
    chosen: Status | None = None
    refusal: Status | None = None
    for descriptor, status in zip(plan.descriptors, statuses, strict=True):
        if status.limit is None:
            continue
        if chosen is None or status.remaining < chosen.remaining:
            chosen = status
        is_quota = descriptor.limit is not None and descriptor.limit.is_quota
        if status.code is Code.OVER_LIMIT and not is_quota:
            refusal = status
    told = refusal or chosen
    if told is None or told.limit is None:
        return ()
    return (
        (options.limit_header, str(told.limit.requests_per_unit)),
        (options.remaining_header, str(told.remaining)),
        (options.reset_header, str(told.reset_s or 0)),
    )
