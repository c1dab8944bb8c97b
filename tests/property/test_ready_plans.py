"""The short ways to a plan and to an answer lead where the long ones do, whatever is asked.

Each example has a few rules, options and requests, and asks for all of them with one planner, so
that most take a path that another one took before.
"""

import json
import re
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.decisions.planning import make_plan
from ratelimitd.errors import InvalidRequest
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.model import Policy
from ratelimitd.services.convert import RequestBounds, from_rls_request
from ratelimitd.services.encode import encode_response
from ratelimitd.services.planner import Planner
from ratelimitd.store.wire import pack_plan
from ratelimitd.telemetry.counters import Telemetry
from ratelimitd.telemetry.series import RuleSeries
from tests.model.limits import ModelStore

SECRET = b"0123456789abcdef0123456789abcdef"
NOW_US = 1_790_000_000_123_456
# A shared `*x` is reached as a pattern by a value that ends with x, else by its own name.
KEYS = ("user", "api_key", "path", "a_b", "star*", "*x")
VALUES = (
    "",
    "alice",
    "carol",
    "bob",
    "1",
    "2",
    "/x/y",
    "/x/*",
    "1x",
    "a|b=c",
    "é" * 20,
    "v" * 200,
    "%41",
)
BOUNDS = RequestBounds(max_descriptors=4, max_entries=3, max_text_bytes=150)


def some_policy(rng: Random) -> Policy:
    keys = rng.sample(KEYS, rng.randint(1, 4))
    rules = [some_rule(rng, key, depth=2) for key in keys]
    rules += [some_rule(rng, key, value=rng.choice(("/x/*", "alice", "a*"))) for key in keys]
    document = {
        "domain": "api",
        "on_no_match": rng.choice(("allow", "deny")),
        "descriptors": rules,
    }
    return compile_policy({"api.yaml": json.dumps(document)}).policy


def some_rule(rng: Random, key: str, *, depth: int = 1, value: str = "") -> dict[str, object]:
    """Return a rule, with one below it now and then."""
    rule: dict[str, object] = {"key": key}
    if value:
        rule["value"] = value
    if "*" in key + value and rng.random() < 0.5:
        rule["share_threshold"] = True
    for flag in ("shadow_mode", "quota_mode", "detailed_metric", "value_to_metric", "sensitive"):
        if rng.random() < 0.12:
            rule[flag] = True
    roll = rng.random()
    if roll < 0.9:
        rule["rate_limit"] = {"unlimited": True} if roll < 0.1 else some_limit(rng)
    if depth > 1 and rng.random() < 0.5:
        rule["descriptors"] = [some_rule(rng, rng.choice(KEYS))]
    return rule


def some_limit(rng: Random) -> dict[str, object]:
    limit: dict[str, object] = {
        "unit": rng.choice(("second", "minute", "year")),
        "requests_per_unit": rng.choice((0, 1, 3, 5, 10**9)),
    }
    if rng.random() < 0.2:
        limit["name"] = "one"
    elif rng.random() < 0.2:
        limit["replaces"] = [{"name": "one"}]
    if rng.random() < 0.3:
        limit["count_denied"] = False
    return limit


def some_message(rng: Random) -> rls_pb2.RateLimitRequest:
    message = rls_pb2.RateLimitRequest(
        domain="api" if rng.random() < 0.95 else rng.choice(("", "other")),
        hits_addend=rng.choice((0, 0, 0, 1, 2, 2**32 - 1)),
    )
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        descriptor = message.descriptors.add()
        for _ in range(rng.choice((1, 1, 1, 2, 4)) if rng.random() < 0.98 else 0):
            descriptor.entries.add(key=rng.choice((*KEYS, "")[:-1]), value=rng.choice(VALUES))
        if rng.random() < 0.1:
            descriptor.hits_addend.value = rng.choice((0, 1, 3))
        if rng.random() < 0.1:
            descriptor.is_negative_hits = True
        if rng.random() < 0.1:
            descriptor.limit.requests_per_unit = 2
            descriptor.limit.unit = 2  # type: ignore[assignment]  # the stub wants the enum's class
    return message


def some_options(rng: Random) -> DecisionOptions:
    return DecisionOptions(
        is_shadow_mode=rng.random() < 0.1,
        is_quota_mode=rng.random() < 0.1,
        has_limit_headers=rng.random() < 0.1,
        has_dynamic_metadata=rng.random() < 0.1,
        key_prefix=rng.choice(("", "", "p|1")),
    )


def some_messages(rng: Random) -> Iterator[rls_pb2.RateLimitRequest]:
    """Yield a few messages, each also at another cost: that takes the same path."""
    for _ in range(8):
        message = some_message(rng)
        yield message
        message.hits_addend = rng.choice((1, 3))
        yield message


def planned(
    policy: Policy, message: rls_pb2.RateLimitRequest, options: DecisionOptions
) -> Plan | str:
    """Return the plan by the long way, or why there is none."""
    try:
        return make_plan(policy, from_rls_request(message, BOUNDS), options, SECRET)
    except InvalidRequest as error:
        return str(error)


def counted(telemetry: Telemetry) -> object:
    def values(row: RuleSeries) -> object:
        return [getattr(row, name) for name in RuleSeries.__slots__]

    rows = {key: values(row) for key, row in telemetry.rules.rows.items()}
    return rows, telemetry.unmatched, telemetry.domain_not_found, telemetry.global_shadow


@given(seed=st.integers(0, 2**63))
def test_planner_plans_as_the_long_way_does(seed: int) -> None:
    # given
    rng = Random(seed)
    policy, options = some_policy(rng), some_options(rng)
    planner = Planner(policy, options, SECRET, BOUNDS)
    for message in some_messages(rng):
        expected = planned(policy, message, options)
        # when
        if not isinstance(expected, Plan):
            with pytest.raises(InvalidRequest, match=f"^{re.escape(expected)}$"):
                planner.plan(message.SerializeToString())
            continue
        packed = pack_plan(expected)
        # A path is learned at its second sight.
        for _ in range(3):
            ready = planner.plan(message.SerializeToString())
            # then
            assert (ready.keys, ready.shape) == (packed.keys, packed.shape)
            assert ready.plan == expected


@given(seed=st.integers(0, 2**63))
def test_common_answer_is_the_verdicts(seed: int) -> None:
    # given one store for both
    rng = Random(seed)
    policy, options = some_policy(rng), some_options(rng)
    planner = Planner(policy, options, SECRET, BOUNDS)
    model = ModelStore()
    short, long = Telemetry(), Telemetry()
    for telemetry in (short, long):
        telemetry.policy_loaded(policy, now_s=0)
    for message in some_messages(rng):
        plan = planned(policy, message, options)
        if not isinstance(plan, Plan) or not plan.checks:
            continue
        (reply,) = model.check([plan], NOW_US)
        for _ in range(2):
            ready = planner.plan(message.SerializeToString())
        verdict = fold(plan, reply, options)
        # when
        encoded = ready.outline.admit(reply, short)
        # then
        if encoded is not None:
            assert encoded == encode_response(verdict)
            long.observe_verdict(verdict)
            assert counted(short) == counted(long)
        else:
            assert is_uncommon(plan, reply, options)


def is_uncommon(plan: Plan, reply: Reply, options: DecisionOptions) -> bool:
    """Tell whether a verdict is to be made: a common answer must not be missed without need."""
    return (
        reply.is_refused
        or any(result.is_over for result in reply.results)
        or any(one.cost < 0 for one in plan.descriptors)
        or bool(plan.unmatched)
        or options.has_limit_headers
        or options.has_dynamic_metadata
    )
