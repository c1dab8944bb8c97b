"""A plan and its reply become a verdict.

Rules:
- One status per descriptor, in order. A shadow limit answers OK; an over-limit status under the
  global shadow mode stays, only the overall code changes.
- The overall code is never UNKNOWN: Envoy lets that pass.
- Whole seconds are rounded up and never 0, so that nobody comes back too early.
"""

from ratelimitd.decisions.body import to_body
from ratelimitd.decisions.headers import to_headers
from ratelimitd.decisions.metadata import to_metadata
from ratelimitd.decisions.near import count_hits
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import CheckResult, DescriptorPlan, Outcome, Plan, Reply
from ratelimitd.decisions.verdict import (
    Code,
    RuleCount,
    RuleOutcome,
    Status,
    Verdict,
)
from ratelimitd.policy.model import Limit

US_PER_S = 1_000_000
UNLIMITED_REMAINING = 4_294_967_295


def fold(
    plan: Plan, reply: Reply | None, options: DecisionOptions, *, is_cached: bool = False
) -> Verdict:
    """Turn the store's reply into the answer; `reply` is None for a plan without checks.

    `is_cached` says that the reply came from the deny cache.
    """
    assert (reply is None) == (not plan.checks), "exactly the plans with checks have a reply"
    statuses = tuple(_status(descriptor, reply) for descriptor in plan.descriptors)
    return assemble(
        plan,
        statuses,
        options,
        is_refused=plan.is_denied if reply is None else reply.is_refused,
        counts=_counts(plan, reply, options, is_cached=is_cached) if reply else (),
    )


def assemble(
    plan: Plan,
    statuses: tuple[Status, ...],
    options: DecisionOptions,
    *,
    is_refused: bool,
    counts: tuple[RuleCount, ...],
    failed_by: str = "",
) -> Verdict:
    """Complete an answer whose statuses are known; `failed_by` is the failure policy that acted."""
    is_shadowed = is_refused and options.is_shadow_mode
    return Verdict(
        plan=plan,
        code=Code.OVER_LIMIT if is_refused and not is_shadowed else Code.OK,
        statuses=statuses,
        headers=to_headers(plan, statuses, options) if options.has_limit_headers else (),
        metadata=to_metadata(plan, statuses, options, failed_by),
        raw_body=to_body(plan, statuses) if is_refused and not is_shadowed else b"",
        counts=counts,
        unmatched=plan.unmatched,
        is_shadowed=is_shadowed,
    )


def unchecked_status(descriptor: DescriptorPlan) -> Status:
    """Return the status of a descriptor that the store is not asked about."""
    if descriptor.outcome is Outcome.NO_MATCH_DENIED:
        return Status(Code.OVER_LIMIT)
    if descriptor.outcome is Outcome.UNLIMITED:
        return Status(Code.OK, remaining=UNLIMITED_REMAINING)
    return Status(Code.OK)


def whole_seconds(time_us: int) -> int:
    """Return a time in seconds, rounded up."""
    return -(-time_us // US_PER_S)


def _status(descriptor: DescriptorPlan, reply: Reply | None) -> Status:
    if descriptor.check is None:
        return unchecked_status(descriptor)
    assert reply is not None
    assert descriptor.limit is not None
    limit, result = descriptor.limit, reply.results[descriptor.check]
    return Status(
        code=Code.OVER_LIMIT if result.is_over and not limit.is_shadow else Code.OK,
        limit=limit,
        remaining=_remaining(limit, result),
        reset_s=whole_seconds(result.reset_us),
    )


def _remaining(limit: Limit, result: CheckResult) -> int:
    """Return what would be admitted now; where denied hits count, what this check left."""
    if result.is_over and (limit.counts_denied or limit.is_shadow):
        return 0
    used = result.used_after if limit.counts_denied else result.used_final
    return max(0, limit.requests_per_unit - used)


def _counts(
    plan: Plan, reply: Reply, options: DecisionOptions, *, is_cached: bool
) -> tuple[RuleCount, ...]:
    counts = []
    for descriptor in plan.descriptors:
        if descriptor.check is None or descriptor.limit is None:
            continue
        limit, result = descriptor.limit, reply.results[descriptor.check]
        if is_cached:
            counts.append(_cached_count(descriptor, limit))
        else:
            outcome = _outcome(limit, result)
            counts.append(count_hits(descriptor, limit, result, outcome, options))
    return tuple(counts)


def _cached_count(descriptor: DescriptorPlan, limit: Limit) -> RuleCount:
    return RuleCount(
        limit=limit,
        metric_key=descriptor.metric_key,
        outcome=RuleOutcome.REFUSED,
        hits=descriptor.cost,
        over_hits=descriptor.cost,
        cached_hits=descriptor.cost,
    )


def _outcome(limit: Limit, result: CheckResult) -> RuleOutcome:
    if not result.is_over:
        return RuleOutcome.ALLOWED
    return RuleOutcome.SHADOWED if limit.is_shadow else RuleOutcome.REFUSED
