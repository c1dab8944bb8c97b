from ratelimitd.policy.compile import compile_policy
from ratelimitd.services.health import HealthState
from ratelimitd.services.local_counters import MAX_COUNTERS, LocalCounters
from ratelimitd.services.policy_holder import PolicyHolder
from tests.support.plans import check_of, limit_of

POLICY = compile_policy({"p.yaml": "domain: api"}).policy


def test_dead_store_leaves_the_daemon_serving_unless_the_operator_says_otherwise() -> None:
    # given
    holder = PolicyHolder(policy=POLICY)
    # then
    assert HealthState(holder=holder).is_serving
    health = HealthState(holder=holder, needs_store=True)
    assert health.problems() == ("store: not reachable",)
    health.is_store_up = True
    assert health.is_serving


def test_missing_policy_counts_only_where_it_is_needed() -> None:
    assert HealthState(holder=PolicyHolder()).is_serving
    health = HealthState(holder=PolicyHolder(), needs_policy=True)
    assert health.problems() == ("policy: no domain is loaded",)


def test_draining_daemon_is_not_serving() -> None:
    health = HealthState(holder=PolicyHolder(policy=POLICY), is_draining=True)
    assert not health.is_serving
    assert health.details()["daemon"] == "draining"


def test_details_tell_a_bad_reload_and_what_is_served_meanwhile() -> None:
    # given
    holder = PolicyHolder(load_error="p.yaml:1:1: wrong")
    health = HealthState(holder=holder, is_store_up=True)
    # then
    assert health.details()["policy"] == "invalid, none loaded"
    holder.policy = POLICY
    assert health.details()["policy"] == f"invalid, serving {POLICY.revision}"
    holder.load_error = ""
    assert health.details() == {
        "policy": f"ok, {POLICY.revision}",
        "store": "ok",
        "daemon": "ok",
    }


def test_local_counters_are_bounded() -> None:
    # given
    counters = LocalCounters(1, lambda: 0)
    limit = limit_of(1)
    # when
    for index in range(MAX_COUNTERS + 10):
        assert counters.decide([check_of(limit, str(index))], 0) == [False]
    # then
    assert len(counters) == MAX_COUNTERS
    assert counters.decide([check_of(limit, str(MAX_COUNTERS))], 0) == [True]
    counters.clear()
    assert len(counters) == 0


def test_local_counters_charge_nothing_for_a_refused_request() -> None:
    # given one counter that is used up, and one that is not
    counters = LocalCounters(1, lambda: 0)
    used_up, fresh = check_of(limit_of(1), "a"), check_of(limit_of(1), "b")
    counters.decide([used_up], 0)
    # when
    assert counters.decide([fresh, used_up], 0) == [False, True]
    # then
    assert counters.decide([fresh], 0) == [False]


def test_local_counters_charge_one_counter_named_twice_for_both() -> None:
    counters = LocalCounters(1, lambda: 0)
    check = check_of(limit_of(2), "a")
    assert counters.decide([check, check, check], 0) == [False, False, True]
    assert counters.decide([check, check], 0) == [False, False]
    assert counters.decide([check], 0) == [True]
