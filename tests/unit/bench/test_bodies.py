from collections import Counter
from dataclasses import replace

import pytest
from grpc_health.v1 import health_pb2

from bench.decisions import load_policy, plan_of
from bench.load.bodies import DRAWS, draw_keys, make_bodies
from bench.load.spec import Body, Draw, LoadSpec
from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.request import Descriptor, Request

SPEC = LoadSpec(address="127.0.0.1:1", seconds=1, seed=1, keys=50)


def read(body: bytes) -> rls_pb2.RateLimitRequest:
    assert body[:1] == b"\0"
    assert int.from_bytes(body[1:5], "big") == len(body) - 5
    return rls_pb2.RateLimitRequest.FromString(body[5:])


@pytest.mark.parametrize(
    ("body", "descriptors"),
    [(Body.LIMITS, 1), (Body.LIMITS, 3), (Body.LIMITS, 10), (Body.DENIED, 1)],
)
def test_every_descriptor_of_a_body_has_a_limit_and_a_counter(body: Body, descriptors: int) -> None:
    # Given
    message = read(make_bodies(replace(SPEC, body=body, descriptors=descriptors))[0])

    # When
    asked = tuple(
        Descriptor(tuple((entry.key, entry.value) for entry in descriptor.entries))
        for descriptor in message.descriptors
    )
    request = Request(message.domain, asked)
    plan = make_plan(load_policy(), request, DecisionOptions(), b"\0" * 32)

    # Then
    assert len(asked) == descriptors
    assert len({check.key for check in plan.checks}) == descriptors


def test_bare_plan_charges_the_counter_of_the_load() -> None:
    message = read(make_bodies(SPEC)[0])
    (entry,) = message.descriptors[0].entries
    policy = load_policy()
    asked = Request(message.domain, (Descriptor(((entry.key, entry.value),)),))
    plan = make_plan(policy, asked, DecisionOptions(), b"\0" * 32)
    assert plan_of(policy, int(entry.value)).checks == plan.checks


def test_health_body_asks_for_the_whole_server() -> None:
    (body,) = make_bodies(replace(SPEC, body=Body.HEALTH))
    assert health_pb2.HealthCheckRequest.FromString(body[5:]).service == ""


def test_uniform_keys_repeat_only_after_all_were_drawn() -> None:
    keys = 1000
    found = draw_keys(keys, Draw.UNIFORM, "seed")
    assert len(found) >= DRAWS
    assert all(len(set(found[at : at + keys])) == keys for at in range(0, len(found), keys))


def test_zipf_draws_low_keys_far_more_often() -> None:
    counts = Counter(draw_keys(1000, Draw.ZIPF, "seed"))
    assert counts[0] > 8 * counts[9] > 8 * counts[99] > 0


@pytest.mark.parametrize("draw", Draw)
def test_equal_seeds_draw_equal_keys(draw: Draw) -> None:
    assert draw_keys(100, draw, "a") == draw_keys(100, draw, "a") != draw_keys(100, draw, "b")
