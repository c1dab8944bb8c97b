"""Plans for store tests: one check per counter name, all on long windows so that none rolls over.

`key_in` finds a counter whose key lies in a given partition, for tests of a Cluster.
"""

from collections.abc import Iterator

from ratelimitd.decisions.keys import (
    PARTITION_TAGS,
    KeyPart,
    PartKind,
    counter_key,
    partition_of,
)
from ratelimitd.decisions.plan import Check, Plan
from ratelimitd.decisions.request import Request
from ratelimitd.policy.model import WINDOW_US, Algorithm, Limit, Position, Unit

YEAR_US = WINDOW_US[Unit.YEAR]


def make_limit(
    requests_per_unit: int = 10,
    *,
    is_shadow: bool = False,
    is_quota: bool = False,
    counts_denied: bool = True,
) -> Limit:
    return Limit(
        domain="d",
        rule="d.k",
        position=Position("policy.yaml", 1, 1),
        unit=Unit.YEAR,
        window_us=YEAR_US,
        requests_per_unit=requests_per_unit,
        is_shadow=is_shadow,
        is_quota=is_quota,
        counts_denied=counts_denied,
    )


def make_key(name: str) -> bytes:
    return counter_key(
        prefix="",
        domain="d",
        algorithm=Algorithm.FIXED_WINDOW,
        window_us=YEAR_US,
        parts=[KeyPart("k", PartKind.VALUE, name)],
    )


def make_plan(*checks: Check, passing_quota: int = 0, is_denied: bool = False) -> Plan:
    return Plan(
        request=Request("d", ()),
        policy_revision="0",
        descriptors=(),
        checks=checks,
        passing_quota=passing_quota,
        is_denied=is_denied,
    )


def one(name: str, limit: int = 10, cost: int = 1) -> Plan:
    return make_plan(Check(make_key(name), make_limit(limit), cost))


def keys_of_all_partitions(prefix: str = "p") -> dict[bytes, bytes]:
    """Return a counter key for each of the partitions, by tag."""
    found: dict[bytes, bytes] = {}
    for number in _numbers():
        key = make_key(f"{prefix}{number}")
        found.setdefault(partition_of(key), key)
        if len(found) == len(PARTITION_TAGS):
            return found
    raise AssertionError("every partition is found")


def _numbers() -> Iterator[int]:
    yield from range(100_000)
