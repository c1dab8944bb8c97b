"""Plans made by hand, for tests that start behind the matching."""

from dataclasses import replace

from ratelimitd.decisions.keys import KEY_PREFIX, KeyPart, PartKind, counter_key
from ratelimitd.decisions.plan import Check, DescriptorPlan, Outcome, Plan
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.policy.model import WINDOW_US, Algorithm, FailurePolicy, Limit, Position, Unit


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


def gcra_of(
    requests_per_unit: int,
    window_us: int = 1_000_000,
    *,
    burst: int | None = None,
    max_debt: int | None = None,
    counts_denied: bool = False,
) -> Limit:
    return replace(
        limit_of(requests_per_unit, counts_denied=counts_denied),
        algorithm=Algorithm.GCRA,
        window_us=window_us,
        burst=burst,
        max_debt=max_debt,
    )


def sliding_of(
    requests_per_unit: int, window_us: int = 60_000_000, *, counts_denied: bool = False
) -> Limit:
    return replace(
        limit_of(requests_per_unit, counts_denied=counts_denied),
        algorithm=Algorithm.SLIDING_WINDOW,
        window_us=window_us,
    )


def places_of(requests_per_unit: int, slot_ttl_us: int = 10_000_000) -> Limit:
    return replace(
        limit_of(requests_per_unit),
        algorithm=Algorithm.CONCURRENCY,
        window_us=0,
        slot_ttl_us=slot_ttl_us,
    )


def check_of(limit: Limit, value: str = "v", cost: int = 1) -> Check:
    if limit.algorithm is not Algorithm.FIXED_WINDOW:
        return Check(plain_key(limit, value), limit, cost)
    key = counter_key(
        prefix="",
        domain=limit.domain,
        algorithm=limit.algorithm,
        window_us=limit.window_us,
        parts=[KeyPart("k", PartKind.VALUE, value)],
    )
    return Check(key, limit, cost)


def plain_key(limit: Limit, value: str) -> bytes:
    """Return a key for the counters of one algorithm, window and value."""
    length_us = limit.window_us or limit.slot_ttl_us
    return KEY_PREFIX + f"{{00}}{limit.algorithm}:{length_us}:{value}".encode()


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
