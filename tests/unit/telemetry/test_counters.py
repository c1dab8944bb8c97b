from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.decisions.verdict import RuleOutcome
from ratelimitd.policy.model import Domain, Node, Policy, Wildcard
from ratelimitd.telemetry.counters import MAX_NAMES, OTHER, BreakerState, Telemetry
from ratelimitd.telemetry.series import (
    MAX_DYNAMIC_NAME,
    MAX_DYNAMIC_SERIES,
    MAX_RETIRED_SERIES,
    OVERFLOW_KEY,
    ROWS_PER_STEP,
    Histogram,
    limit_nodes,
    names_of,
)
from tests.unit.telemetry.samples import POSITION, count, limit, policy, verdict


def test_histogram_counts_a_value_at_its_bound_in_that_bucket() -> None:
    histogram = Histogram((0.01, 0.02))

    for seconds in (0.01, 0.0100001, 0.02, 0.5):
        histogram.observe(seconds)

    assert histogram.cumulative() == [("0.01", 1), ("0.02", 3), ("+Inf", 4)]
    assert histogram.count == 4


@given(st.lists(st.floats(0, 10, allow_nan=False)))
def test_histogram_buckets_never_fall_and_end_at_the_count(values: list[float]) -> None:
    histogram = Histogram((0.5, 1.0, 5.0))

    for number in values:
        histogram.observe(number)

    buckets = [number for _, number in histogram.cumulative()]
    assert buckets == sorted(buckets)
    assert buckets[:3] == [sum(v <= bound for v in values) for bound in (0.5, 1.0, 5.0)]
    assert buckets[-1] == len(values)


def test_verdict_adds_each_descriptor_to_its_rule() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("ip", "path_/a"), now_s=1.0)

    telemetry.observe_verdict(verdict(count("ip", hits=3, within=3), count("path_/a")))
    telemetry.observe_verdict(
        verdict(count("ip", RuleOutcome.REFUSED, hits=2, over=2, near=1, cached=2))
    )

    row = telemetry.rules.rows["api", "ip"]
    assert row.outcomes == {"allowed": 1, "refused": 1}
    assert (row.hits, row.within_hits, row.over_hits, row.near_hits) == (5, 3, 2, 1)
    assert (row.near, row.cached_hits) == (1, 2)
    assert telemetry.rules.rows["api", "path_/a"].hits == 1
    assert telemetry.deny_cache_answers == 1


def test_refund_is_counted_apart_because_counters_never_fall() -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(count("ip", hits=5, within=5)))

    telemetry.observe_verdict(verdict(count("ip", hits=0, refunded=3)))

    row = telemetry.rules.rows["api", "ip"]
    assert (row.hits, row.within_hits, row.refunded_hits) == (5, 5, 3)


def test_request_that_ended_with_an_error_is_counted_by_its_rules() -> None:
    telemetry = Telemetry()

    telemetry.observe_failed([count("ip", RuleOutcome.FAILED_ERROR, hits=2)])

    row = telemetry.rules.rows["api", "ip"]
    assert row.outcomes["failed_error"] == 1
    assert row.hits == 2


def test_unknown_domain_is_counted_without_its_name() -> None:
    telemetry = Telemetry()

    telemetry.observe_verdict(
        verdict(domain="sent-by-a-caller", unmatched=2, is_domain_known=False)
    )
    telemetry.observe_verdict(verdict(unmatched=3))

    assert telemetry.domain_not_found == 2
    assert telemetry.unmatched == {"api": 3}


def test_unmatched_of_a_removed_domain_is_forgotten_on_reload() -> None:
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(unmatched=1))
    telemetry.observe_verdict(verdict(domain="gone", unmatched=1))

    telemetry.policy_loaded(policy("ip"), now_s=1.0)

    assert telemetry.unmatched == {"api": 1}


def test_values_beyond_the_cap_share_one_row() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("tenant", "ip"), now_s=1.0)

    for number in range(MAX_DYNAMIC_SERIES + 500):
        telemetry.observe_verdict(verdict(count(f"tenant_{number}", rule="tenant")))
    telemetry.observe_verdict(verdict(count("ip")))

    assert len(telemetry.rules.rows) == MAX_DYNAMIC_SERIES + 2
    assert telemetry.rules.rows["api", OVERFLOW_KEY].hits == 500
    assert telemetry.rules.overflowed == 500
    assert telemetry.rules.rows["api", "ip"].hits == 1  # a rule of the policy always has a row


def test_value_longer_than_a_label_may_be_goes_to_the_overflow() -> None:
    telemetry = Telemetry()

    telemetry.observe_verdict(verdict(count("v" * (MAX_DYNAMIC_NAME + 1))))

    assert list(telemetry.rules.rows) == [("api", OVERFLOW_KEY)]


def test_overflow_is_apart_from_rules_of_a_like_name() -> None:
    telemetry = Telemetry()
    alike = ["other", "(other)", "((other))", "(other", "x"]
    telemetry.policy_loaded(policy(*alike), now_s=1.0)

    for number, name in enumerate(alike, 1):
        telemetry.observe_verdict(verdict(count(name, hits=number)))
    telemetry.observe_verdict(verdict(count("v" * (MAX_DYNAMIC_NAME + 1), hits=99)))

    shown = {row.name: row.hits for row in telemetry.rules.snapshot()}
    assert shown == {
        "other": 1,
        "((other))": 2,
        "(((other)))": 3,
        "(other": 4,
        "x": 5,
        "(other)": 99,
    }


def test_rules_of_the_policy_are_not_capped() -> None:
    telemetry = Telemetry()
    rules = [f"rule{number}" for number in range(MAX_DYNAMIC_SERIES + 100)]
    telemetry.policy_loaded(policy(*rules), now_s=1.0)

    for rule in rules:
        telemetry.observe_verdict(verdict(count(rule)))

    assert len(telemetry.rules.rows) == len(rules)
    assert telemetry.rules.overflowed == 0


def test_removed_rules_keep_their_counts_up_to_a_bound() -> None:
    telemetry = Telemetry()
    for generation in range(4):
        rules = [f"rule{generation}-{number}" for number in range(600)]
        telemetry.policy_loaded(policy(*rules), now_s=1.0)
        for rule in rules:
            telemetry.observe_verdict(verdict(count(rule)))

    telemetry.policy_loaded(policy("ip"), now_s=2.0)

    assert len(telemetry.rules.rows) == MAX_RETIRED_SERIES
    assert ("api", "rule3-599") in telemetry.rules.rows
    assert ("api", "rule0-0") not in telemetry.rules.rows


def test_reload_with_prepared_names_tidies_up_in_steps_while_counting_goes_on() -> None:
    # given many rows of rules that are gone
    telemetry = Telemetry()
    rules = [f"rule{number}" for number in range(3 * ROWS_PER_STEP)]
    telemetry.policy_loaded(policy(*rules), now_s=1.0)
    for rule in rules:
        telemetry.observe_verdict(verdict(count(rule)))
    after = policy("ip", "tenant")

    # when a policy with its names is put in force
    steps = telemetry.policy_loaded(after, now_s=2.0, names=names_of(after))
    assert len(telemetry.rules.rows) == len(rules)
    telemetry.observe_verdict(verdict(count("ip"), count("tenant_7", rule="tenant")))
    taken = sum(1 for _ in steps)

    # then the rows go step by step, and a value that came first holds its slot
    assert taken >= 3
    assert len(telemetry.rules.rows) == MAX_RETIRED_SERIES + 2
    for number in range(MAX_DYNAMIC_SERIES):
        telemetry.observe_verdict(verdict(count(f"tenant_x{number}", rule="tenant")))
    assert telemetry.rules.rows["api", OVERFLOW_KEY].hits == 1


def test_reload_frees_the_slots_of_values_whose_rule_is_gone() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("tenant"), now_s=1.0)
    for number in range(MAX_DYNAMIC_SERIES):
        telemetry.observe_verdict(verdict(count(f"tenant_{number}", rule="tenant")))

    telemetry.policy_loaded(policy("user"), now_s=2.0)
    telemetry.observe_verdict(verdict(count("user_1", rule="user")))

    assert ("api", "user_1") in telemetry.rules.rows
    assert telemetry.rules.overflowed == 0


def test_reload_keeps_the_cap_on_values_whose_rule_stays() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("tenant"), now_s=1.0)
    for number in range(MAX_DYNAMIC_SERIES):
        telemetry.observe_verdict(verdict(count(f"tenant_{number}", rule="tenant")))

    telemetry.policy_loaded(policy("tenant"), now_s=2.0)
    telemetry.observe_verdict(verdict(count("tenant_new", rule="tenant")))

    assert ("api", "tenant_new") not in telemetry.rules.rows
    assert telemetry.rules.overflowed == 1


def test_reload_keeps_the_overflow_of_a_domain_that_stays() -> None:
    # given an overflow, the oldest row of all
    telemetry = Telemetry()
    telemetry.observe_verdict(verdict(count("v" * (MAX_DYNAMIC_NAME + 1))))
    rules = [f"rule{number}" for number in range(MAX_RETIRED_SERIES + 1)]
    telemetry.policy_loaded(policy(*rules), now_s=1.0)
    for rule in rules:
        telemetry.observe_verdict(verdict(count(rule)))

    # when so many rules go that the oldest of them are forgotten
    telemetry.policy_loaded(policy("ip"), now_s=2.0)

    assert ("api", OVERFLOW_KEY) in telemetry.rules.rows
    assert ("api", "rule0") not in telemetry.rules.rows


def test_reload_keeps_the_counts_of_rules_that_stay() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("ip"), now_s=1.0)
    telemetry.observe_verdict(verdict(count("ip")))

    telemetry.policy_loaded(policy("ip", "user"), now_s=2.0)
    telemetry.observe_verdict(verdict(count("ip")))

    assert telemetry.rules.rows["api", "ip"].hits == 2


def test_limits_are_found_at_every_level_and_once() -> None:
    # given a wildcard that stands among the exact names too, as the policy compiles it
    inner = policy("child").domains["api"].root.exact["child"]
    outer = policy("parent").domains["api"].root.exact["parent"]
    wildcard = Node(
        name="path_*",
        rule="api.path_*",
        position=POSITION,
        exact={"child": inner},
        limits=(limit("path_*"),),
        metric_key="path_*",
    )
    root = Node(
        name="",
        rule="api",
        position=POSITION,
        exact={"parent": outer, "path_*": wildcard},
        wildcards=(Wildcard(("path_", ""), wildcard),),
    )
    nested = Policy("ff", {"api": Domain(name="api", root=root, position=POSITION)})

    found = sorted(node.metric_key for _, node in limit_nodes(nested))

    assert found == ["child", "parent", "path_*"]


def test_breaker_counts_each_opening_once() -> None:
    telemetry = Telemetry()

    for state in (
        BreakerState.OPEN,
        BreakerState.OPEN,
        BreakerState.CLOSED,
        BreakerState.OPEN,
        BreakerState.CLOSED,
    ):
        telemetry.set_breaker(state)

    assert telemetry.store.breaker_opened == 2
    assert telemetry.store.breaker is BreakerState.CLOSED


def test_names_of_methods_codes_and_errors_are_bounded() -> None:
    telemetry = Telemetry()

    for number in range(MAX_NAMES * 2):
        telemetry.observe_call(f"Method{number}", "OK", 0.001)
        telemetry.observe_call("Method0", f"CODE{number}", 0.001)
        telemetry.observe_store_call(0.001, 1, 1, f"kind{number}")

    assert len(telemetry.methods) == MAX_NAMES + 1
    assert telemetry.methods[OTHER].seconds.count == MAX_NAMES
    assert len(telemetry.methods["Method0"].codes) == MAX_NAMES + 1
    assert len(telemetry.store.errors) == MAX_NAMES + 1
    assert sum(telemetry.store.errors.values()) == MAX_NAMES * 2


def test_failed_policy_load_keeps_the_revision_in_force() -> None:
    telemetry = Telemetry()
    telemetry.policy_loaded(policy("ip", revision="aa"), now_s=10.0)

    telemetry.policy_load_failed()

    assert telemetry.policy.revision == "aa"
    assert telemetry.policy.last_success_s == 10.0
    assert (telemetry.policy.successes, telemetry.policy.errors) == (1, 1)
    assert not telemetry.policy.is_last_load_ok
