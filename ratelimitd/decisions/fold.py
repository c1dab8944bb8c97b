"""A plan and its reply become a verdict.

Rules:
- One status per descriptor, in order. A shadow limit answers OK; an over-limit status under the
  global shadow mode stays, only the overall code changes.
- The overall code is never UNKNOWN: Envoy lets that pass.
- Whole seconds are rounded up and never 0, so that nobody comes back too early.
- Of several limits of a descriptor the one that refused with the longest wait is told, else the
  one with least left.
"""

import math
from collections.abc import Sequence

from ratelimitd.decisions.body import to_body
from ratelimitd.decisions.headers import to_headers
from ratelimitd.decisions.metadata import to_metadata
from ratelimitd.decisions.near import count_hits
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Check, CheckResult, DescriptorPlan, Outcome, Plan, Reply
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
    plan: Plan,
    reply: Reply | None,
    options: DecisionOptions,
    *,
    is_cached: bool = False,
    now_us: int = 0,
) -> Verdict:
    """Turn the store's reply into the answer; `reply` is None for a plan without checks.

    `is_cached` says that the reply came from the deny cache. `now_us`, microseconds since the Unix
    epoch, tells how long a block still lasts.
    """
    assert (reply is None) == (not plan.checks), "exactly the plans with checks have a reply"
    statuses = tuple([_status(plan, descriptor, reply, now_us) for descriptor in plan.descriptors])
    return assemble(
        plan,
        statuses,
        options,
        is_refused=plan.is_denied if reply is None else reply.is_refused,
        counts=_counts(plan, reply, options, is_cached=is_cached) if reply else (),
        now_us=reply.now_us if reply else now_us,
    )


def assemble(
    plan: Plan,
    statuses: tuple[Status, ...],
    options: DecisionOptions,
    *,
    is_refused: bool,
    counts: tuple[RuleCount, ...],
    failed_by: str = "",
    now_us: int = 0,
) -> Verdict:
    """Complete an answer whose statuses are known; `failed_by` is the failure policy that acted.

    `now_us` is the store's clock, where it decided.
    """
    is_shadowed = is_refused and options.is_shadow_mode
    return Verdict(
        plan=plan,
        code=Code.OVER_LIMIT if is_refused and not is_shadowed else Code.OK,
        statuses=statuses,
        headers=to_headers(
            plan, statuses, options, now_us, is_refused=is_refused and not is_shadowed
        ),
        metadata=to_metadata(plan, statuses, options, failed_by),
        raw_body=to_body(plan, statuses) if is_refused and not is_shadowed else b"",
        counts=counts,
        unmatched=plan.unmatched,
        is_shadowed=is_shadowed,
    )


def unchecked_status(descriptor: DescriptorPlan, now_us: int = 0) -> Status:
    """Return the status of a descriptor that the store is not asked about."""
    if descriptor.outcome is Outcome.NO_MATCH_DENIED:
        return Status(Code.OVER_LIMIT)
    if descriptor.outcome is Outcome.BLOCKED:
        until_us = descriptor.blocked_until_us
        if until_us is None:
            return Status(Code.OVER_LIMIT, wait_us=-1)
        wait_us = max(1, until_us - now_us)
        return Status(Code.OVER_LIMIT, None, 0, whole_seconds(wait_us), wait_us, wait_us)
    if descriptor.outcome is Outcome.UNLIMITED:
        return Status(Code.OK, remaining=UNLIMITED_REMAINING)
    return Status(Code.OK)


def whole_seconds(time_us: int) -> int:
    """Return a time in seconds, rounded up."""
    return -(-time_us // US_PER_S)


def _status(plan: Plan, descriptor: DescriptorPlan, reply: Reply | None, now_us: int) -> Status:
    first = descriptor.check
    if first is None:
        return unchecked_status(descriptor, now_us)
    assert reply is not None
    results = reply.results
    if descriptor.check_count == 1:
        return _status_of(plan.checks[first].limit, results[first])
    return told_of(
        [
            _status_of(plan.checks[at].limit, results[at])
            for at in range(first, first + descriptor.check_count)
        ]
    )


def told_of(statuses: Sequence[Status]) -> Status:
    """Return the one of a descriptor's statuses that its caller is told."""
    refusals = [status for status in statuses if status.code is Code.OVER_LIMIT]
    if refusals:
        return max(refusals, key=lambda status: longest(status.wait_us))
    return min(statuses, key=lambda status: status.remaining)


def longest(wait_us: int) -> float:
    """Return a wait to compare with others: none is longer than for ever."""
    return math.inf if wait_us < 0 else wait_us


def _status_of(limit: Limit, result: CheckResult) -> Status:
    is_over = result.is_over and not limit.is_shadow
    return Status(
        Code.OVER_LIMIT if is_over else Code.OK,
        limit,
        _remaining(limit, result),
        max(1, whole_seconds(result.reset_us)),
        result.retry_after_us if is_over else 0,
        result.reset_us,
    )


def _remaining(limit: Limit, result: CheckResult) -> int:
    """Return what would be admitted now; where denied hits count, what this check left."""
    if result.is_over and (limit.counts_denied or limit.is_shadow):
        return 0
    used = result.used_after if limit.counts_denied else result.used_final
    return max(0, limit.capacity - used)


def _counts(
    plan: Plan, reply: Reply, options: DecisionOptions, *, is_cached: bool
) -> tuple[RuleCount, ...]:
    counts = []
    for check, result in zip(plan.checks, reply.results, strict=True):
        if is_cached:
            counts.append(_cached_count(check))
        else:
            outcome = _outcome(check.limit, result)
            counts.append(count_hits(check, result, outcome, options))
    return tuple(counts)


def _cached_count(check: Check) -> RuleCount:
    return RuleCount(
        limit=check.limit,
        metric_key=check.metric_key,
        outcome=RuleOutcome.REFUSED,
        hits=check.cost,
        over_hits=check.cost,
        cached_hits=check.cost,
    )


def _outcome(limit: Limit, result: CheckResult) -> RuleOutcome:
    if not result.is_over:
        return RuleOutcome.ALLOWED
    return RuleOutcome.SHADOWED if limit.is_shadow else RuleOutcome.REFUSED
