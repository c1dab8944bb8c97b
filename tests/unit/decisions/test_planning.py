import pytest

from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Outcome
from ratelimitd.decisions.request import Override
from ratelimitd.policy.compile import CompileOptions
from ratelimitd.policy.model import FailurePolicy, Unit
from tests.support.decide import Decider, descriptor_of, request_of

POLICY = """
domain: api
descriptors:
  - key: path
    rate_limit: {unit: minute, requests_per_unit: 2, name: per-path}
  - key: path
    value: /health
  - key: path
    value: /free
    rate_limit: {unlimited: true}
  - key: path
    value: /v*
    share_threshold: true
    rate_limit: {unit: minute, requests_per_unit: 3}
  - key: api_key
    rate_limit: {unit: hour, requests_per_unit: 5, replaces: [{name: per-path}]}
  - key: nested
    descriptors: [{key: leaf, rate_limit: {unit: day, requests_per_unit: 1}}]
  - key: kept
    rate_limit:
      {unit: hour, requests_per_unit: 9, name: kept, on_store_failure: deny, override: keep}
  - key: hidden
    sensitive: true
    rate_limit: {unit: hour, requests_per_unit: 5}
"""


def outcomes(decider: Decider, *descriptors: tuple[tuple[str, str], ...]) -> list[Outcome]:
    plan = decider.plan(request_of(*(descriptor_of(*entries) for entries in descriptors)))
    return [one.outcome for one in plan.descriptors]


def test_plan_tells_what_became_of_each_descriptor() -> None:
    # given
    decider = Decider(POLICY)
    # when
    found = outcomes(
        decider,
        (("path", "/a"),),
        (("path", "/health"),),
        (("path", "/free"),),
        (("nested", "x"),),
        (("other", "x"),),
    )
    # then
    assert found == [
        Outcome.CHECKED,
        Outcome.NO_MATCH,
        Outcome.UNLIMITED,
        Outcome.NO_MATCH,
        Outcome.NO_MATCH,
    ]


def test_plan_of_an_unknown_domain_checks_nothing_even_with_an_override() -> None:
    # when
    override = Override(1, Unit.DAY)
    plan = Decider(POLICY).plan(
        request_of(descriptor_of(("api_key", "topsecret"), override=override), domain="nope")
    )
    # then
    assert not plan.is_domain_known
    assert plan.checks == ()
    assert "topsecret" not in repr(plan.descriptors)


def test_replaced_limit_is_not_checked() -> None:
    assert outcomes(Decider(POLICY), (("path", "/a"),), (("api_key", "k"),)) == [
        Outcome.REPLACED,
        Outcome.CHECKED,
    ]


def test_two_limits_that_replace_each_other_are_both_dropped() -> None:
    # given
    decider = Decider("""
domain: api
descriptors:
  - {key: a, rate_limit: {unit: day, requests_per_unit: 1, name: a, replaces: [{name: b}]}}
  - {key: b, rate_limit: {unit: day, requests_per_unit: 1, name: b, replaces: [{name: a}]}}
""")
    # when
    found = outcomes(decider, (("a", ""),), (("b", ""),))
    # then
    assert found == [Outcome.REPLACED, Outcome.REPLACED]


@pytest.mark.parametrize(
    ("request_hits", "own_hits", "is_refund", "expected"),
    [
        (0, None, False, 1),
        (1, None, False, 1),
        (7, None, False, 7),
        (7, 0, False, 0),
        (7, 3, False, 3),
        (0, 3, True, -3),
        (0, None, True, -1),
        (0, 2**64 - 1, False, 2**53 - 1),
        (0, 2**64 - 1, True, -(2**53 - 1)),
    ],
)
def test_cost_is_the_descriptors_own_else_the_requests(
    request_hits: int, own_hits: int | None, is_refund: bool, expected: int
) -> None:
    # given
    descriptor = descriptor_of(("path", "/a"), hits=own_hits, is_refund=is_refund)
    # when
    plan = Decider(POLICY).plan(request_of(descriptor, hits=request_hits))
    # then
    assert plan.checks[0].cost == plan.descriptors[0].cost == expected


def test_override_of_an_upstream_rule_brings_its_own_limit_and_keeps_the_counter() -> None:
    # given
    decider = Decider(POLICY)
    same_unit = descriptor_of(("path", "/a"), override=Override(50, Unit.MINUTE))
    # when
    plain = decider.plan(request_of(descriptor_of(("path", "/a"))))
    overridden = decider.plan(request_of(same_unit))
    # then
    assert overridden.checks[0].limit.requests_per_unit == 50
    assert overridden.checks[0].limit.name == ""
    assert overridden.checks[0].key == plain.checks[0].key
    assert overridden.descriptors[0].metric_key == "path_/a"
    assert overridden.checks[0].limit.rule == plain.checks[0].limit.rule


def test_override_without_a_rule_is_checked() -> None:
    # given
    descriptor = descriptor_of(("a", "1"), ("b", ""), override=Override(4, Unit.DAY))
    # when
    plan = Decider(POLICY).plan(request_of(descriptor))
    # then
    assert plan.checks[0].limit.requests_per_unit == 4
    assert plan.descriptors[0].metric_key == "a_1.b"
    assert plan.checks[0].limit.rule == "api.(request)"


def test_override_keeps_a_rule_that_says_so() -> None:
    # given
    descriptor = descriptor_of(("kept", "x"), override=Override(4, Unit.DAY))
    # when
    limit = Decider(POLICY).plan(request_of(descriptor)).checks[0].limit
    # then
    assert (limit.requests_per_unit, limit.unit) == (4, Unit.DAY)
    assert limit.name == "kept"
    assert limit.on_store_failure is FailurePolicy.DENY


def test_override_hides_secret_values() -> None:
    # given
    descriptor = descriptor_of(("api_key", "topsecret"), override=Override(4, Unit.DAY))
    # when
    plan = Decider(POLICY).plan(request_of(descriptor))
    # then
    assert b"topsecret" not in plan.checks[0].key
    assert "topsecret" not in repr(plan.descriptors)


def test_override_hides_what_a_rule_calls_sensitive() -> None:
    # given
    descriptor = descriptor_of(("hidden", "topsecret"), override=Override(4, Unit.HOUR))
    decider = Decider(POLICY)
    # when
    plan = decider.plan(request_of(descriptor))
    plain = decider.plan(request_of(descriptor_of(("hidden", "topsecret"))))
    # then
    assert plan.checks[0].key == plain.checks[0].key
    assert "topsecret" not in repr(plan.descriptors)


@pytest.mark.parametrize("key", ["api_key", "hidden"])
def test_secret_value_enters_a_plan_as_a_fingerprint(key: str) -> None:
    # when
    entries = ((key, "topsecret"),)
    plan = Decider(POLICY).plan(request_of(descriptor_of(*entries), descriptor_of(*entries)))
    # then
    assert b"topsecret" not in plan.checks[0].key
    assert plan.checks[0].key == plan.checks[1].key
    ((shown_key, shown_value),) = plan.descriptors[0].entries
    assert shown_key == key
    assert len(shown_value) == 8


def test_secret_value_behind_a_failed_match_is_hidden_too() -> None:
    # when
    plan = Decider(POLICY).plan(
        request_of(descriptor_of(("hidden", "topsecret"), ("api_key", "topsecret")))
    )
    # then
    assert plan.descriptors[0].outcome is Outcome.NO_MATCH
    assert "topsecret" not in repr(plan.descriptors)


def test_shared_threshold_counts_every_value_together() -> None:
    # when
    plan = Decider(POLICY).plan(
        request_of(*(descriptor_of(("path", path)) for path in ("/v1", "/v2", "/v*")))
    )
    # then
    assert len({check.key for check in plan.checks}) == 1


def test_quota_mode_makes_every_limit_a_quota_and_unmatched_ones_pass() -> None:
    # given
    decider = Decider(POLICY, DecisionOptions(is_quota_mode=True))
    # when
    plan = decider.plan(
        request_of(
            descriptor_of(("path", "/a")),
            descriptor_of(("other", "x")),
            descriptor_of(("path", "/free")),
            descriptor_of(("z", "z"), override=Override(1, Unit.DAY)),
        )
    )
    # then
    assert [check.limit.is_quota for check in plan.checks] == [True, True]
    assert plan.passing_quota == 1


def test_domain_that_denies_what_no_rule_matches_lets_whitelists_pass() -> None:
    # given
    decider = Decider("on_no_match: deny\n" + POLICY.strip())
    # when / then
    assert outcomes(decider, (("other", "x"),)) == [Outcome.NO_MATCH_DENIED]
    assert outcomes(decider, (("nested", "x"),)) == [Outcome.NO_MATCH_DENIED]
    assert outcomes(decider, (("path", "/health"),)) == [Outcome.NO_MATCH]
    assert decider.plan(request_of(descriptor_of(("other", "x")))).is_denied


def test_key_prefix_separates_counters() -> None:
    # given
    request = request_of(descriptor_of(("path", "/a")))
    # when
    keys = {
        Decider(POLICY, DecisionOptions(key_prefix=prefix)).plan(request).checks[0].key
        for prefix in ("", "blue", "green")
    }
    # then
    assert len(keys) == 3


def test_denied_hits_count_nowhere_when_the_operator_says_so() -> None:
    # given
    decider = Decider(POLICY, compile_options=CompileOptions(counts_denied=False))
    descriptors = (
        descriptor_of(("path", "/a")),
        descriptor_of(("z", "z"), override=Override(1, Unit.DAY)),
    )
    # when
    plan = decider.plan(request_of(*descriptors))
    # then
    assert [check.limit.counts_denied for check in plan.checks] == [False, False]
