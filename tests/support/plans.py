"""Plans made by hand, for tests that start behind the matching."""

from ratelimitd.decisions.keys import KeyPart, PartKind, counter_key
from ratelimitd.decisions.plan import Check, DescriptorPlan, Outcome, Plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.policy.model import WINDOW_US, FailurePolicy, Limit, Position, Unit


def limit_of(
    requests_per_unit: int,
    unit: Unit = Unit.MINUTE,
    *,
    name: str = "",
    is_shadow: bool = False,
    is_quota: bool = False,
    counts_denied: bool = True,
    on_store_failure: FailurePolicy = FailurePolicy.ERROR,
) -> Limit:
    return Limit(
        domain="test",
        rule=f"test.{name or 'k'}",
        position=Position("test.yaml", 1, 1),
        name=name,
        unit=unit,
        window_us=WINDOW_US[unit],
        requests_per_unit=requests_per_unit,
        is_shadow=is_shadow,
        is_quota=is_quota,
        counts_denied=counts_denied,
        on_store_failure=on_store_failure,
    )


def check_of(limit: Limit, value: str = "v", cost: int = 1) -> Check:
    key = counter_key(
        prefix="",
        domain=limit.domain,
        algorithm=limit.algorithm,
        window_us=limit.window_us,
        parts=[KeyPart("k", PartKind.VALUE, value)],
    )
    return Check(key, limit, cost)


def plan_of(*checks: Check, passing_quota: int = 0, is_denied: bool = False) -> Plan:
    return Plan(
        request=Request("test", tuple(Descriptor((("k", "v"),)) for _ in checks)),
        policy_revision="0" * 16,
        descriptors=tuple(
            DescriptorPlan(
                Outcome.CHECKED, (("k", "v"),), check.limit, "k", cost=check.cost, check=index
            )
            for index, check in enumerate(checks)
        ),
        checks=checks,
        passing_quota=passing_quota,
        is_denied=is_denied,
    )
