from collections.abc import Sequence

import pytest

from ratelimitd.decisions.failure import failed_counts, failure_policy, fold_failure
from ratelimitd.decisions.local import decide_local
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Check, Plan
from ratelimitd.decisions.verdict import Code, RuleOutcome
from ratelimitd.policy.model import WINDOW_US, FailurePolicy, Unit
from tests.support.decide import Decider, descriptor_of, request_of
from tests.support.plans import check_of, limit_of, plan_of

ERROR, DENY, LOCAL, ALLOW = (
    FailurePolicy.ERROR,
    FailurePolicy.DENY,
    FailurePolicy.LOCAL,
    FailurePolicy.ALLOW,
)
OPTIONS = DecisionOptions()


def plan_with(*policies: FailurePolicy, cost: int = 1) -> Plan:
    return plan_of(*(check_of(limit_of(5, on_store_failure=one), cost=cost) for one in policies))


def never_over(checks: Sequence[Check], passing_quota: int) -> list[bool]:
    return [False] * len(checks)


def always_over(checks: Sequence[Check], passing_quota: int) -> list[bool]:
    return [True] * len(checks)


@pytest.mark.parametrize(
    ("present", "strongest"),
    [
        ([ALLOW, LOCAL, DENY, ERROR], ERROR),
        ([ALLOW, LOCAL, DENY], DENY),
        ([ALLOW, LOCAL], LOCAL),
        ([ALLOW], ALLOW),
    ],
)
def test_strongest_failure_policy_decides(
    present: list[FailurePolicy], strongest: FailurePolicy
) -> None:
    assert failure_policy(plan_with(*present)) is strongest


def test_shadow_rules_have_no_say() -> None:
    # given
    shadow = check_of(limit_of(1, is_shadow=True, on_store_failure=ERROR))
    # when / then
    assert failure_policy(plan_of(shadow)) is ALLOW
    verdict = fold_failure(plan_of(shadow), always_over, OPTIONS)
    assert verdict.code is Code.OK
    assert verdict.counts[0].outcome is RuleOutcome.FAILED_OPEN


def test_deny_refuses_and_charges_no_local_counter() -> None:
    # given
    def unexpected(checks: Sequence[Check], passing_quota: int) -> list[bool]:
        raise AssertionError(checks)

    # when
    verdict = fold_failure(plan_with(LOCAL, DENY), unexpected, OPTIONS)
    # then
    assert verdict.code is Code.OVER_LIMIT
    assert [one.outcome for one in verdict.counts] == [
        RuleOutcome.FAILED_OPEN,
        RuleOutcome.FAILED_CLOSED,
    ]


def test_refunds_and_questions_are_never_refused() -> None:
    assert fold_failure(plan_with(DENY, cost=0), never_over, OPTIONS).code is Code.OK
    assert fold_failure(plan_with(DENY, cost=-1), never_over, OPTIONS).code is Code.OK


def test_local_counters_decide() -> None:
    # when
    admitted = fold_failure(plan_with(LOCAL), never_over, OPTIONS)
    refused = fold_failure(plan_with(LOCAL), always_over, OPTIONS)
    # then
    assert admitted.code is Code.OK
    assert admitted.counts[0].outcome is RuleOutcome.FAILED_LOCAL_ALLOWED
    assert refused.code is Code.OVER_LIMIT
    assert refused.counts[0].outcome is RuleOutcome.FAILED_LOCAL_REFUSED


def test_failure_is_told_in_metadata_even_without_dynamic_metadata() -> None:
    # when
    quiet = fold_failure(plan_with(ALLOW), never_over, OPTIONS)
    telling = fold_failure(plan_with(ALLOW), never_over, DecisionOptions(has_dynamic_metadata=True))
    # then
    assert quiet.metadata == {"store_failure": "allow"}
    assert telling.metadata is not None
    assert telling.metadata["store_failure"] == "allow"


def test_descriptors_that_need_no_store_keep_their_answer() -> None:
    # given
    decider = Decider("""
domain: api
on_no_match: deny
descriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1, on_store_failure: allow}}]
""")
    plan = decider.plan(request_of(descriptor_of(("a", "1")), descriptor_of(("none", ""))))
    # when
    verdict = fold_failure(plan, never_over, OPTIONS)
    # then
    assert verdict.code is Code.OVER_LIMIT
    assert [status.code for status in verdict.statuses] == [Code.OK, Code.OVER_LIMIT]
    assert [one.outcome for one in failed_counts(plan)] == [RuleOutcome.FAILED_ERROR]


def admitted(amount: int, unit: Unit, share: int, times_us: list[int], cost: int = 1) -> int:
    limit, tat, count = limit_of(amount, unit), None, 0
    for now_us in times_us:
        is_over, tat = decide_local(tat, limit, share, cost, now_us)
        count += 0 if is_over else cost
    return count


@pytest.mark.parametrize(
    ("amount", "unit", "share", "burst"),
    [
        (10, Unit.SECOND, 1, 10),
        (10, Unit.SECOND, 4, 2),
        (10, Unit.MINUTE, 1, 10),
        (600, Unit.HOUR, 1, 10),
        (3, Unit.HOUR, 12, 1),
        (0, Unit.HOUR, 1, 0),
    ],
)
def test_local_burst_is_a_share_of_at_most_a_minute(
    amount: int, unit: Unit, share: int, burst: int
) -> None:
    assert admitted(amount, unit, share, [0] * 50) == burst


@pytest.mark.parametrize("amount", [1, 3, 7, 1000])
def test_local_rate_admits_at_most_burst_and_one_window_more(amount: int) -> None:
    # given one window of steady demand
    window_us = WINDOW_US[Unit.MINUTE]
    times_us = [step * window_us // 5000 for step in range(5001)]
    # then
    assert admitted(amount, Unit.MINUTE, 1, times_us) <= 2 * amount


def test_local_decision_admits_questions_and_refunds_and_survives_a_clock_step() -> None:
    # given a counter that is used up
    limit = limit_of(1, Unit.MINUTE)
    _, tat = decide_local(None, limit, 1, 1, 60_000_000)
    # then
    assert decide_local(tat, limit, 1, 0, 60_000_000)[0] is False
    assert decide_local(tat, limit, 1, -1, 60_000_000)[0] is False
    assert decide_local(tat, limit, 1, 1, 0)[0] is True
    assert decide_local(tat, limit, 1, 1, 120_000_000)[0] is False


def test_quota_limits_refuse_only_together_without_the_store_too() -> None:
    # given
    def quota(policy: FailurePolicy) -> Check:
        return check_of(limit_of(5, is_quota=True, on_store_failure=policy))

    # then
    both = fold_failure(plan_of(quota(DENY), quota(DENY)), never_over, OPTIONS)
    one = fold_failure(plan_of(quota(DENY), quota(ALLOW)), never_over, OPTIONS)
    assert both.code is Code.OVER_LIMIT
    assert one.code is Code.OK


def test_error_has_no_verdict() -> None:
    with pytest.raises(AssertionError):
        fold_failure(plan_with(ERROR), never_over, OPTIONS)


def test_request_that_its_domain_refuses_is_refused_without_the_store_too() -> None:
    # given a rule whose policy is `error`
    plan = plan_of(check_of(limit_of(5)), is_denied=True)
    # when
    assert failure_policy(plan) is DENY
    verdict = fold_failure(plan, never_over, OPTIONS)
    # then
    assert verdict.code is Code.OVER_LIMIT


def test_status_of_a_failure_that_lets_pass_tells_no_amount() -> None:
    # when
    (status,) = fold_failure(plan_with(ALLOW), never_over, OPTIONS).statuses
    # then
    assert status.limit is None
    assert status.reset_s is None


def test_quota_limits_that_pass_keep_local_ones_from_refusing_alone() -> None:
    # given
    told: list[int] = []

    def note(checks: Sequence[Check], passing_quota: int) -> list[bool]:
        told.append(passing_quota)
        return [True] * len(checks)

    def quota(policy: FailurePolicy) -> Check:
        return check_of(limit_of(5, is_quota=True, on_store_failure=policy))

    # when
    verdict = fold_failure(plan_of(quota(LOCAL), quota(ALLOW)), note, OPTIONS)
    # then
    assert told == [1]
    assert verdict.code is Code.OK
