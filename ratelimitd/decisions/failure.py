"""What a request is answered when the store gives no decision: each rule's failure policy.

Rules:
- Several policies in one request: error beats deny beats local beats allow. A shadow rule never
  refuses, so its policy does not count.
- A request that its domain refuses whatever its limits say is refused without the store too.
- Costs of 0 and refunds are never refused. Local counters are charged only if all of the request
  is admitted.
- A status tells no remaining amount that nobody knows: only a refusal names its limit.
"""

from collections.abc import Callable, Sequence
from typing import assert_never

from ratelimitd.decisions.fold import assemble, unchecked_status
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Check, Plan
from ratelimitd.decisions.refusal import Ruling, is_refused
from ratelimitd.decisions.verdict import Code, RuleCount, RuleOutcome, Status, Verdict
from ratelimitd.policy.model import FailurePolicy, Limit

# Says for each check whether it is over its local share, and charges them if none refuses.
DecideLocally = Callable[[Sequence[Check], int], Sequence[bool]]

_STRONGEST_FIRST = (
    FailurePolicy.ERROR,
    FailurePolicy.DENY,
    FailurePolicy.LOCAL,
    FailurePolicy.ALLOW,
)
_REFUSALS = frozenset({RuleOutcome.FAILED_CLOSED, RuleOutcome.FAILED_LOCAL_REFUSED})


def failure_policy(plan: Plan) -> FailurePolicy:
    """Return the strongest failure policy among the plan's limits; allow if all are shadow."""
    if plan.is_denied:
        return FailurePolicy.DENY
    present = {check.limit.on_store_failure for check in plan.checks if not check.limit.is_shadow}
    for policy in _STRONGEST_FIRST:
        if policy in present:
            return policy
    return FailurePolicy.ALLOW


def fold_failure(plan: Plan, decide_locally: DecideLocally, options: DecisionOptions) -> Verdict:
    """Answer `plan` without the store; its strongest policy is not `error`.

    `decide_locally` gets the checks that count locally and the quota limits that pass elsewhere;
    it is asked only where no stronger policy refuses anyway.
    """
    strongest = failure_policy(plan)
    assert strongest is not FailurePolicy.ERROR, "an error has no verdict"
    outcomes = _outcomes(plan, strongest, decide_locally)
    statuses: list[Status] = []
    counts: list[RuleCount] = []
    rulings: list[Ruling] = []
    for descriptor in plan.descriptors:
        first = descriptor.check
        if first is None:
            statuses.append(unchecked_status(descriptor))
            continue
        refusing: Limit | None = None
        for at in range(first, first + descriptor.check_count):
            check, outcome = plan.checks[at], outcomes[at]
            is_over = outcome in _REFUSALS
            rulings.append(Ruling(check.limit, is_over, check.is_joined))
            if is_over and refusing is None:
                refusing = check.limit
            counts.append(_count(check, outcome))
        statuses.append(Status(Code.OVER_LIMIT, refusing) if refusing else Status(Code.OK))
    return assemble(
        plan,
        tuple(statuses),
        options,
        is_refused=plan.is_denied or is_refused(rulings, plan.passing_quota),
        counts=tuple(counts),
        failed_by=strongest.value,
    )


def failed_counts(plan: Plan) -> tuple[RuleCount, ...]:
    """Return what a request answered with an error adds to the metrics of its rules."""
    return tuple(_count(check, RuleOutcome.FAILED_ERROR) for check in plan.checks)


def _count(check: Check, outcome: RuleOutcome) -> RuleCount:
    """Count a decision that the store did not make; total hits go on, as the reference does."""
    return RuleCount(
        limit=check.limit,
        metric_key=check.metric_key,
        outcome=outcome,
        hits=max(0, check.cost),
    )


def _outcomes(
    plan: Plan, strongest: FailurePolicy, decide_locally: DecideLocally
) -> list[RuleOutcome]:
    """Return what became of each check, in order."""
    outcomes = [_outcome(check) for check in plan.checks]
    if strongest is not FailurePolicy.LOCAL:
        return outcomes
    local = [at for at, check in enumerate(plan.checks) if _policy(check) is FailurePolicy.LOCAL]
    # Quota limits that are admitted for other reasons keep the local ones from refusing alone.
    passing = plan.passing_quota + sum(
        check.limit.is_quota for at, check in enumerate(plan.checks) if at not in local
    )
    # The one before may not count locally, and then nothing is joined to it.
    checks = [
        plan.checks[at]._replace(is_joined=plan.checks[at].is_joined and at - 1 in local)
        for at in local
    ]
    overs = decide_locally(checks, passing)
    for at, is_over in zip(local, overs, strict=True):
        outcomes[at] = (
            RuleOutcome.FAILED_LOCAL_REFUSED if is_over else RuleOutcome.FAILED_LOCAL_ALLOWED
        )
    return outcomes


def _outcome(check: Check) -> RuleOutcome:
    """Return what a check comes to without local counters."""
    policy = _policy(check)
    match policy:
        case FailurePolicy.DENY | FailurePolicy.ERROR:
            # An error is left here only in a request that its domain refuses anyway.
            return RuleOutcome.FAILED_OPEN if check.cost <= 0 else RuleOutcome.FAILED_CLOSED
        case FailurePolicy.LOCAL | FailurePolicy.ALLOW:
            return RuleOutcome.FAILED_OPEN
        case _:
            assert_never(policy)


def _policy(check: Check) -> FailurePolicy:
    limit = check.limit
    return FailurePolicy.ALLOW if limit.is_shadow else limit.on_store_failure
