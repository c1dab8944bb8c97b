"""What a request is answered when the store gives no decision: each rule's failure policy.

Several policies in one request: error beats deny beats local beats allow. A shadow rule never
refuses, so its policy does not count. Costs of 0 and refunds are never refused.
"""

from collections.abc import Callable
from typing import assert_never

from ratelimitd.decisions.fold import assemble, unchecked_status
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Check, DescriptorPlan, Plan
from ratelimitd.decisions.refusal import is_refused
from ratelimitd.decisions.verdict import Code, RuleCount, RuleOutcome, Status, Verdict
from ratelimitd.policy.model import FailurePolicy, Limit

_STRONGEST_FIRST = (
    FailurePolicy.ERROR,
    FailurePolicy.DENY,
    FailurePolicy.LOCAL,
    FailurePolicy.ALLOW,
)


def failure_policy(plan: Plan) -> FailurePolicy:
    """Return the strongest failure policy among the plan's limits; allow if all are shadow."""
    present = {check.limit.on_store_failure for check in plan.checks if not check.limit.is_shadow}
    for policy in _STRONGEST_FIRST:
        if policy in present:
            return policy
    return FailurePolicy.ALLOW


def fold_failure(
    plan: Plan, decide_locally: Callable[[Check], bool], options: DecisionOptions
) -> Verdict:
    """Answer `plan` without the store; its strongest policy is not `error`.

    `decide_locally` says whether a check is over its local share, and charges it; it is asked
    only where the whole request is decided locally, so a certain refusal charges nothing.
    """
    strongest = failure_policy(plan)
    assert strongest is not FailurePolicy.ERROR, "an error has no verdict"
    statuses: list[Status] = []
    counts: list[RuleCount] = []
    overs: list[tuple[Limit, bool]] = []
    for descriptor in plan.descriptors:
        if descriptor.check is None or descriptor.limit is None:
            statuses.append(unchecked_status(descriptor))
            continue
        outcome = _outcome(plan.checks[descriptor.check], strongest, decide_locally)
        is_over = outcome in (RuleOutcome.FAILED_CLOSED, RuleOutcome.FAILED_LOCAL_REFUSED)
        overs.append((descriptor.limit, is_over))
        statuses.append(Status(Code.OVER_LIMIT if is_over else Code.OK, descriptor.limit))
        counts.append(failed_count(descriptor, descriptor.limit, outcome))
    return assemble(
        plan,
        tuple(statuses),
        options,
        is_refused=plan.is_denied or is_refused(overs, plan.passing_quota),
        counts=tuple(counts),
        failed_by=strongest.value,
    )


def failed_counts(plan: Plan) -> tuple[RuleCount, ...]:
    """Return what a request answered with an error adds to the metrics of its rules."""
    return tuple(
        failed_count(descriptor, descriptor.limit, RuleOutcome.FAILED_ERROR)
        for descriptor in plan.descriptors
        if descriptor.check is not None and descriptor.limit is not None
    )


def failed_count(descriptor: DescriptorPlan, limit: Limit, outcome: RuleOutcome) -> RuleCount:
    """Count a decision that the store did not make; total hits go on, as the reference does."""
    return RuleCount(
        limit=limit,
        metric_key=descriptor.metric_key,
        outcome=outcome,
        hits=max(0, descriptor.cost),
    )


def _outcome(
    check: Check, strongest: FailurePolicy, decide_locally: Callable[[Check], bool]
) -> RuleOutcome:
    policy = FailurePolicy.ALLOW if check.limit.is_shadow else check.limit.on_store_failure
    match policy:
        case FailurePolicy.DENY:
            return RuleOutcome.FAILED_OPEN if check.cost <= 0 else RuleOutcome.FAILED_CLOSED
        case FailurePolicy.LOCAL if strongest is FailurePolicy.LOCAL:
            is_over = decide_locally(check)
            return RuleOutcome.FAILED_LOCAL_REFUSED if is_over else RuleOutcome.FAILED_LOCAL_ALLOWED
        case FailurePolicy.LOCAL | FailurePolicy.ALLOW:
            return RuleOutcome.FAILED_OPEN
        case FailurePolicy.ERROR:  # pragma: no cover - fold_failure was not called then
            raise AssertionError("an error has no verdict")
        case _:
            assert_never(policy)
