"""What a planner remembers is bounded, and changes no plan; see also the property tests."""

from collections.abc import Mapping
from itertools import product

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.subject import Subject
from ratelimitd.policy.compile import compile_policy
from ratelimitd.services.convert import RequestBounds, from_rls_request
from ratelimitd.services.planner import (
    MAX_COSTS,
    MAX_ENTRIES,
    MAX_WHOLE,
    MAX_WHOLE_CHECKS,
    Planner,
)
from ratelimitd.services.subject_cache import UNKNOWN, Cached
from ratelimitd.services.subject_reads import OnRead
from ratelimitd.store.wire import pack_plan
from tests.services.conftest import message_of

POLICY = compile_policy(
    {
        "p.yaml": """
domain: api
descriptors:
  - {key: a, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: b, rate_limit: {unit: minute, requests_per_unit: 9}}
  - {key: free, rate_limit: {unlimited: true}}
"""
    }
).policy
OPTIONS = DecisionOptions()
SECRET = b"s" * 32


@pytest.fixture
def planner() -> Planner:
    return Planner(POLICY, OPTIONS, SECRET, RequestBounds())


def assert_plans_as_the_long_way(planner: Planner, message: rls_pb2.RateLimitRequest) -> None:
    expected = make_plan(POLICY, from_rls_request(message, RequestBounds()), OPTIONS, SECRET)
    packed = pack_plan(expected)
    ready = planner.plan(message.SerializeToString())
    assert (ready.keys, ready.shape) == (packed.keys, packed.shape)
    assert ready.plan == expected


def test_flood_of_paths_is_remembered_within_a_bound(planner: Planner) -> None:
    # when there are more paths than may be remembered, each asked for until it is
    most = 0
    for keys in product(("a=1", "b=1"), repeat=9):
        message = message_of(*keys)
        for _ in range(2):
            planner.plan(message.SerializeToString())
        known = planner._known.values()  # noqa: SLF001 - what must stay bounded
        most = max(most, sum(len(one.recipes) for one in known))
    # then most of the room was used, and the last path is right
    assert MAX_ENTRIES / 2 < most <= MAX_ENTRIES
    assert_plans_as_the_long_way(planner, message_of(*keys))


def test_flood_of_costs_is_one_path_whose_plans_are_those_of_the_long_way(
    planner: Planner,
) -> None:
    # given
    for _ in range(2):
        planner.plan(message_of("a=1", "free=1").SerializeToString())
    # when
    for hits in (*range(5 * MAX_COSTS), 2**31, 2**32 - 1, 1):
        message = message_of("a=1", "free=1", hits=hits)
        for _ in range(2):
            assert_plans_as_the_long_way(planner, message)
    # then
    (known,) = planner._known.values()  # noqa: SLF001 - what must stay bounded
    assert len(known.outlines) == MAX_COSTS


def test_path_first_seen_at_another_cost_has_the_plans_of_the_long_way(planner: Planner) -> None:
    for hits in (7, 7, 1, 0, 3):
        assert_plans_as_the_long_way(planner, message_of("b=1", "a=2", hits=hits))


@pytest.mark.parametrize(("checks", "most"), [(1, MAX_WHOLE), (8, MAX_WHOLE_CHECKS // 8)])
def test_whole_plans_are_held_within_a_bound(planner: Planner, checks: int, most: int) -> None:
    # given a path that is known
    bodies = [message_of(*[f"a={number}"] * checks).SerializeToString() for number in range(most)]
    for body in bodies[:2]:
        planner.plan(body)
    # when as many plans are asked for as may be held
    for body in bodies:
        assert planner.plan(body).whole is None
        assert len(planner.plan(body).plan.checks) == checks
    # then each was made once, and one more does not add to them
    whole = planner._whole  # noqa: SLF001 - what must stay bounded
    assert len(whole) == most
    assert planner.plan(bodies[0]).plan is whole[bodies[0]]
    planner.plan(message_of(*["a=more"] * checks).SerializeToString()).plan  # noqa: B018 - held
    assert len(whole) < most


class Records:
    """A directory of what a test says."""

    blocks = None

    def __init__(self) -> None:
        self.records: Mapping[str, Cached] = {}

    def get(self, field: str) -> Cached:
        return self.records.get(field, UNKNOWN)

    def want(self, fields: object, done: OnRead) -> None:
        raise AssertionError("a planner asks nobody")


def test_plan_stands_while_the_registry_says_the_same_of_its_subjects() -> None:
    # given a plan of a subject that nobody knows yet
    policy = compile_policy(
        {
            "p.yaml": "{domain: api, subjects: {key: a}, descriptors: "
            "[{key: a, rate_limit: {unit: minute, requests_per_unit: 5}}]}"
        }
    ).policy
    directory = Records()
    planner = Planner(policy, OPTIONS, SECRET, RequestBounds(), directory=directory)  # type: ignore[arg-type]  # blocks are facts here
    body = message_of("a=1").SerializeToString()
    ready = planner.plan(body)
    (field,) = ready.missing
    # then
    assert planner.is_current(ready)
    # when there is no record of it
    directory.records = {field: None}
    # then it was planned rightly, and will not be missing
    assert planner.is_current(ready)
    met = planner.plan(body)
    assert (met.keys, met.shape, met.subjects, met.missing) == (
        ready.keys,
        ready.shape,
        ready.subjects,
        (),
    )
    # when it is forgotten, or has a record
    for records in ({}, {field: Subject("pro")}):
        directory.records = records
        # then
        assert not planner.is_current(met)
