"""Where limits of ours stand, exactly, in dynamic metadata."""

from collections.abc import Sequence

from ratelimitd.decisions.metadata import to_metadata
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.verdict import Status
from ratelimitd.json_value import JsonValue
from ratelimitd.policy.model import Scope
from tests.unit.decisions.answers import admitted, joined_plan, limit, plan, refused

TOLD = DecisionOptions(has_dynamic_metadata=True)


def limits_of(of: Plan, *statuses: Status) -> JsonValue | Sequence[JsonValue]:
    told = to_metadata(of, statuses, TOLD, "")
    assert told is not None
    return told.get("limits")


def test_limit_is_told_exactly() -> None:
    # given
    big = limit(2**40, name="per-key", scope=Scope.TIER)
    # when
    told = limits_of(plan(big), admitted(big, 2**40 - 1, 29_000_001))
    # then
    assert told == [
        {
            "rule": "per-key",
            "scope": "tier",
            "limit": 2**40,
            "remaining": 2**40 - 1,
            "reset_us": 29_000_001,
        }
    ]


def test_refusal_is_told_with_its_exact_wait() -> None:
    # given
    one, other = limit(name="one"), limit()
    # when
    told = limits_of(plan(one, other), refused(one, 123_456), refused(other, -1, 5))
    # then
    assert told == [
        {
            "rule": "one",
            "scope": "subject",
            "limit": 10,
            "remaining": 0,
            "reset_us": 30_000_000,
            "retry_after_us": 123_456,
        },
        {
            "rule": "test.k",
            "scope": "subject",
            "limit": 10,
            "remaining": 0,
            "reset_us": 5,
            "retry_after_us": -1,
        },
    ]


def test_limit_of_the_reference_servers_keys_is_not_told() -> None:
    # given
    plain, ours = limit(has_upstream_override=True), limit(name="ours")
    # when
    both = limits_of(plan(plain, ours), admitted(plain), admitted(ours))
    alone = limits_of(plan(plain), admitted(plain))
    # then
    assert isinstance(both, list)
    assert [one["rule"] for one in both if isinstance(one, dict)] == ["ours"]
    assert alone is None


def test_descriptor_with_several_limits_tells_the_one_of_its_status() -> None:
    # given
    per_key, everybody = limit(name="per-key"), limit(500, name="everybody")
    # when
    told = limits_of(joined_plan(per_key, everybody), admitted(per_key))
    # then
    assert isinstance(told, list)
    assert len(told) == 1


def test_nothing_is_told_where_metadata_is_off() -> None:
    # given
    per_key = limit()
    # when
    told = to_metadata(plan(per_key), (admitted(per_key),), DecisionOptions(), "")
    # then
    assert told is None
