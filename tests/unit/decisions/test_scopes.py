"""Several limits on one descriptor: who asks, what counts where, and what is told."""

import pytest

from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Outcome, Plan
from ratelimitd.decisions.planning import MAX_COUNTERS, make_plan
from ratelimitd.decisions.request import Descriptor, Override
from ratelimitd.decisions.subject import AmountOverride, Block, Subject, blocks_of
from ratelimitd.decisions.subject_entry import entry_field
from ratelimitd.decisions.verdict import Code
from ratelimitd.errors import InvalidRequest
from ratelimitd.policy.model import Scope, Unit
from tests.model.limits import ModelStore
from tests.support.decide import NOW_US, SECRET, descriptor_of, policy_of, request_of

TIERED = """
domain: api
subjects: {key: tenant, tier: plan, trust_tier_entry: true}
descriptors:
  - key: tenant
    limits:
      - {name: per-key, unit: year, requests_per_unit: {free: 2, pro: 4, default: 1}}
      - {name: per-tier, scope: tier, unit: year, requests_per_unit: {free: 3, default: 100}}
      - {name: global, scope: global, unit: year, requests_per_unit: 5}
  - key: other
    rate_limit: {unit: year, requests_per_unit: 1}
"""
POLICY = policy_of(TIERED)
UNTRUSTED = policy_of(TIERED.replace("trust_tier_entry: true", "trust_tier_entry: false"))


def tenant(name: str, plan: str = "") -> Descriptor:
    entries = [("tenant", name)]
    if plan:
        entries.insert(0, ("plan", plan))
    return descriptor_of(*entries)


def field_of(name: str) -> str:
    return entry_field("api", "tenant", name, is_secret=False, hash_secret=SECRET)


def plan_for(
    *descriptors: Descriptor,
    facts: Facts | None = None,
    is_trusted: bool = True,
    options: DecisionOptions | None = None,
) -> Plan:
    policy = POLICY if is_trusted else UNTRUSTED
    return make_plan(
        policy,
        request_of(*descriptors),
        options or DecisionOptions(),
        SECRET,
        facts or Facts(NOW_US),
    )


def amounts(plan: Plan) -> list[int]:
    return [check.limit.requests_per_unit for check in plan.checks]


def test_limits_of_a_descriptor_are_checks_that_belong_together() -> None:
    # when
    plan = plan_for(tenant("a", "free"), descriptor_of(("other", "x")))
    # then
    assert [check.is_joined for check in plan.checks] == [False, True, True, False]
    assert [(one.check, one.check_count) for one in plan.descriptors] == [(0, 3), (3, 1)]
    assert len({check.key for check in plan.checks}) == 4
    assert [check.metric_key for check in plan.checks] == [
        "tenant/per-key",
        "tenant/per-tier",
        "tenant/global",
        "other",
    ]


def test_counters_are_shared_by_scope() -> None:
    # when
    free_a, free_b = plan_for(tenant("a", "free")), plan_for(tenant("b", "free"))
    pro_a = plan_for(tenant("a", "pro"))
    keys = [[check.key for check in plan.checks] for plan in (free_a, free_b, pro_a)]
    # then an upgrade keeps what the key used, and moves to the counter of another tier
    assert keys[0][0] != keys[1][0]
    assert keys[0][0] == keys[2][0]
    assert keys[0][1] == keys[1][1]
    assert keys[0][1] != keys[2][1]
    assert keys[0][2] == keys[1][2] == keys[2][2]


def test_tier_entry_is_believed_only_if_it_is_trusted() -> None:
    # then
    assert amounts(plan_for(tenant("a", "free"))) == [2, 3, 5]
    assert amounts(plan_for(tenant("a", "free"), is_trusted=False)) == [1, 100, 5]
    assert amounts(plan_for(tenant("a"))) == [1, 100, 5]


def test_tier_of_nobody_is_the_default_and_counted() -> None:
    # when
    forged, honest = plan_for(tenant("a", "root")), plan_for(tenant("a"))
    # then
    assert amounts(forged) == [1, 100, 5]
    assert forged.unknown_tiers == 2
    assert honest.unknown_tiers == 0
    assert [check.key for check in forged.checks] == [check.key for check in honest.checks]


def test_registry_beats_the_entry_and_an_override_beats_both() -> None:
    # given
    registered = Facts(NOW_US, subjects={field_of("a"): Subject("pro")})
    overridden = Facts(
        NOW_US,
        subjects={
            field_of("a"): Subject("pro", overrides=(AmountOverride("per-key", 7, None, ""),))
        },
    )
    # then
    assert amounts(plan_for(tenant("a", "free"), facts=registered)) == [4, 100, 5]
    assert amounts(plan_for(tenant("a", "free"), facts=overridden)) == [7, 100, 5]
    assert amounts(plan_for(tenant("b", "free"), facts=overridden)) == [2, 3, 5]


def test_override_ends_when_it_expires() -> None:
    # given
    until = Subject("", overrides=(AmountOverride("*", 0, NOW_US, ""),))
    facts = Facts(NOW_US - 1, subjects={field_of("a"): until})
    # then
    assert amounts(plan_for(tenant("a"), facts=facts)) == [0, 0, 0]
    assert amounts(plan_for(tenant("a"), facts=facts._replace(now_us=NOW_US))) == [1, 100, 5]


def test_refusal_of_one_limit_leaves_the_others_untouched() -> None:
    # given two free keys, each used up
    store = ModelStore()
    asked = [plan_for(tenant(name, "free")) for name in "aabb"]
    codes = [store.check([plan], NOW_US)[0].is_refused for plan in asked]
    # when
    (peeked,) = store.peek([plan_for(tenant("c", "free"))], NOW_US)
    # then the tier refused the last one, and it cost nothing anywhere
    assert codes == [False, False, False, True]
    assert [result.used_before for result in peeked.results] == [0, 3, 3]


def test_status_tells_the_limit_that_refuses_longest() -> None:
    # given a key whose own limit and whose tier's limit both refuse
    store = ModelStore()
    plan = plan_for(tenant("a", "free"))
    for _ in range(2):
        store.check([plan], NOW_US)
    (reply,) = store.check([plan], NOW_US)
    # when
    verdict = fold(plan, reply, DecisionOptions())
    # then
    (status,) = verdict.statuses
    assert verdict.code is Code.OVER_LIMIT
    assert status.limit is not None
    assert status.limit.name == "per-key"
    assert [count.outcome.value for count in verdict.counts] == ["refused", "allowed", "allowed"]


def test_status_of_an_admitted_request_tells_the_limit_with_least_left() -> None:
    # given
    store = ModelStore()
    for name in "bcd":
        store.check([plan_for(tenant(name, "pro"))], NOW_US)
    plan = plan_for(tenant("a", "pro"))
    (reply,) = store.check([plan], NOW_US)
    # when
    (status,) = fold(plan, reply, DecisionOptions()).statuses
    # then
    assert status.limit is not None
    assert (status.limit.name, status.remaining) == ("global", 1)


def test_override_of_a_request_is_for_the_subjects_limit() -> None:
    # given
    sent = Descriptor((("tenant", "a"),), Override(9, Unit.DAY))
    # when
    plan = plan_for(sent)
    # then
    assert amounts(plan) == [9, 100, 5]
    assert [check.limit.unit for check in plan.checks] == [Unit.DAY, Unit.YEAR, Unit.YEAR]
    assert plan.checks[0].limit.scope is Scope.SUBJECT


def test_blocked_request_touches_no_counter() -> None:
    # given
    blocks = blocks_of([Block("api", field_of("a"), NOW_US + 1_500_000, "abuse")])
    facts = Facts(NOW_US, blocks)
    # when
    plan = plan_for(descriptor_of(("other", "x")), tenant("a", "pro"), facts=facts)
    verdict = fold(plan, None, DecisionOptions(), now_us=NOW_US)
    # then
    assert plan.checks == ()
    assert [one.outcome for one in plan.descriptors] == [Outcome.UNASKED, Outcome.BLOCKED]
    assert verdict.code is Code.OVER_LIMIT
    assert [(one.code, one.reset_s) for one in verdict.statuses] == [
        (Code.OK, None),
        (Code.OVER_LIMIT, 2),
    ]
    assert plan_for(tenant("b"), facts=facts).checks
    assert plan_for(tenant("a"), facts=facts._replace(now_us=NOW_US + 1_500_000)).checks


def test_partition_by_puts_counters_of_a_subject_together() -> None:
    # given
    text = TIERED.replace("domain: api", "domain: api\npartition_by: tenant")
    policy = policy_of(
        text.replace("scope: tier", "scope: subject, window: 2s").replace(
            "unit: year, requests_per_unit: {free: 3", "requests_per_unit: {free: 3"
        )
    )
    for name in ("a", "b", "c", "d"):
        # when
        plan = make_plan(policy, request_of(tenant(name)), DecisionOptions(), SECRET)
        # then
        first, second, _ = (check.key[:9] for check in plan.checks)
        assert first == second


def test_new_keys_lie_with_their_counter_where_partitions_matter() -> None:
    # given
    policy = policy_of(
        "domain: api\ndescriptors: [{key: k, rate_limit: "
        "{unit: second, requests_per_unit: 1, max_new_keys_per_second: 100}}]"
    )
    request = request_of(descriptor_of(("k", "v")))
    # when
    single = make_plan(policy, request, DecisionOptions(), SECRET).checks[0]
    parted = make_plan(policy, request, DecisionOptions(has_partitions=True), SECRET).checks[0]
    # then
    assert single.births is not None
    assert parted.births is not None
    assert (single.births.per_second, parted.births.per_second) == (100, 2)
    assert len({single.key, single.births.key, single.births.overflow_key}) == 3
    tags = {key[:9] for key in (parted.key, parted.births.key, parted.births.overflow_key)}
    assert len(tags) == 1


def test_override_of_a_subject_is_for_its_own_counters_and_a_suspension_for_all() -> None:
    # given
    def facts(*overrides: AmountOverride) -> Facts:
        return Facts(NOW_US, subjects={field_of("a"): Subject("", overrides=overrides)})

    # then what many share has one number for all
    assert amounts(plan_for(tenant("a"), facts=facts(AmountOverride("*", 50)))) == [50, 100, 5]
    assert amounts(plan_for(tenant("a"), facts=facts(AmountOverride("global", 50)))) == [1, 100, 5]
    # then nothing is admitted by any
    assert amounts(plan_for(tenant("a"), facts=facts(AmountOverride("*", 0)))) == [0, 0, 0]
    assert amounts(plan_for(tenant("a"), facts=facts(AmountOverride("global", 0)))) == [1, 100, 0]


def test_number_of_a_request_is_for_one_limit_and_gives_way_to_a_suspension() -> None:
    # given
    own = Override(7, Unit.YEAR)
    asked = tenant("a", "free")._replace(override=own)
    unmatched = descriptor_of(("nothing", "x"))._replace(override=own)
    suspended = Facts(
        NOW_US, subjects={field_of("a"): Subject("", overrides=(AmountOverride("*", 0),))}
    )
    # then the others have the numbers of their tier
    assert amounts(plan_for(asked)) == [7, 3, 5]
    # then
    assert amounts(plan_for(asked, facts=suspended)) == [0, 0, 0]
    assert amounts(plan_for(unmatched, facts=suspended)) == [7]


def test_number_of_a_request_is_not_for_what_many_share() -> None:
    # given
    policy = policy_of(
        "{domain: api, descriptors: [{key: all, rate_limit: "
        "{unit: year, requests_per_unit: 5, scope: global}}]}"
    )
    asked = descriptor_of(("all", "x"))._replace(override=Override(500, Unit.YEAR))
    # when
    plan = make_plan(policy, request_of(asked), DecisionOptions(), SECRET, Facts(NOW_US))
    # then
    assert amounts(plan) == [5]


def test_entry_with_a_long_key_is_blocked() -> None:
    # given
    key = "k" * 97
    field = entry_field("api", key, "x", is_secret=False, hash_secret=SECRET)
    facts = Facts(NOW_US, blocks_of([Block("api", field)]))
    # when
    blocked, other = (plan_for(descriptor_of((key, value)), facts=facts) for value in "xy")
    # then
    assert blocked.is_blocked
    assert not other.is_blocked


def test_secret_of_one_rule_stays_secret_where_a_request_brings_its_own_limit() -> None:
    # given
    policy = policy_of(
        "{domain: api, descriptors: [{key: route, descriptors: [{key: email, sensitive: true, "
        "rate_limit: {unit: year, requests_per_unit: 5}}]}]}"
    )
    asked = descriptor_of(("email", "alice@x"))._replace(override=Override(5, Unit.YEAR))
    # when
    plan = make_plan(policy, request_of(asked), DecisionOptions(), SECRET, Facts(NOW_US))
    # then
    assert b"alice" not in plan.checks[0].key
    assert "alice" not in repr(plan.descriptors[0].entries)


def test_request_that_reaches_too_many_counters_is_refused_with_a_reason() -> None:
    # given
    asked = [tenant(str(number)) for number in range(MAX_COUNTERS // 3 + 1)]
    # then
    assert len(plan_for(*asked[:-1]).checks) == MAX_COUNTERS // 3 * 3
    with pytest.raises(InvalidRequest, match="1026 counters, at most 1024"):
        plan_for(*asked)
