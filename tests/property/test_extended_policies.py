"""Policies with everything that is ours: they compile, are shown, and travel between processes."""

import json
from collections.abc import Iterator, Sequence
from random import Random

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import make_plan
from ratelimitd.errors import Finding, PolicyError
from ratelimitd.policy.active import active_policy, exists_at
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.dump import limits, to_document, to_rlconfig, to_table
from ratelimitd.policy.model import Policy
from ratelimitd.policy.transfer import compile_to_frames, load
from ratelimitd.services.convert import from_rls_request
from ratelimitd.telemetry.series import names_of
from tests.model.limits import ModelStore
from tests.property.extended import some_policy
from tests.property.test_ready_extended import (
    BOUNDS,
    NOW_US,
    SECRET,
    some_message,
    some_options,
)
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server


@pytest.fixture(scope="module")
def client(valkey9: Server) -> Iterator[redis.Redis]:
    connected = valkey9.client()
    yield connected
    connected.flushall()


@pytest.fixture(scope="module")
def store(client: redis.Redis) -> ScriptedStore:
    return ScriptedStore(client)


# 5,000 in CI: enough that every pair of keys meets. That takes minutes on a slow core.
MANY = 10 * settings().max_examples
MANY_S = 600

# Two days in 2026, so that calendars and limits with an end have something to say.
TIMES_US = (1_798_000_000_000_000, 1_780_000_000_000_000)


@pytest.mark.timeout(MANY_S)
@settings(max_examples=MANY)
@given(seed=st.integers(0, 2**63))
def test_extended_policy_compiles_and_survives_the_way_to_a_worker(seed: int) -> None:
    # given
    files: dict[str, str | bytes] = {"api.yaml": some_policy(Random(seed))}
    # when
    policy = compile_policy(files).policy
    # then
    check_uses(policy, files)


@pytest.mark.timeout(MANY_S)
@settings(max_examples=MANY)
@given(seed=st.integers(0, 2**63))
def test_spoiled_policy_has_findings_and_raises_nothing_else(seed: int) -> None:
    # given a policy with one of its values replaced
    rng = Random(seed)
    document = json.loads(some_policy(rng))
    spoil(rng, document)
    files: dict[str, str | bytes] = {"api.yaml": json.dumps(document)}
    # when
    findings: Sequence[Finding] = ()
    try:
        policy = compile_policy(files).policy
    except PolicyError as error:
        findings = error.findings
    # then what compiles is also shown, travels and is looked at over time
    if findings:
        assert all(finding.message for finding in findings)
    else:
        check_uses(policy, files)


@given(seed=st.integers(0, 2**63))
def test_extended_policies_decide_as_the_model_does(
    client: redis.Redis, store: ScriptedStore, seed: int
) -> None:
    # given ten policies, and a story for each
    rng = Random(seed)
    for _ in range(10):
        client.flushall()
        policy = compile_policy({"api.yaml": some_policy(rng)}).policy
        options, model, now_us = some_options(rng), ModelStore(), NOW_US
        for _ in range(3):
            now_us += rng.choice((0, 1, 250_000, 3_000_000, -1_000_000, 86_400_000_000))
            facts = Facts(now_us)
            plans = [
                plan
                for _ in range(2)
                if (plan := plan_of(policy, some_message(rng), options, facts)).checks
            ]
            # when
            replies = store.check(plans, now_us) if plans else []
            # then
            assert replies == model.check(plans, now_us)


def check_uses(policy: Policy, files: dict[str, str | bytes]) -> None:
    """Show a policy, send it to a worker, and look at it at several times."""
    loaded = load(compile_to_frames(files))
    assert loaded.policy == policy
    assert loaded.names == names_of(policy)
    every = list(limits(policy))
    assert loaded.names.count == len(every) == len(to_table(policy)) - 1
    assert len(to_rlconfig(policy).splitlines()) == len(every)
    json.dumps(to_document(policy))
    for now_us in TIMES_US:
        active = active_policy(policy, now_us)
        assert active.until_us is None or active.until_us > now_us
        there = [limit for limit in every if exists_at(limit, now_us)]
        assert sorted(map(id, limits(active.policy))) == sorted(map(id, there))
        assert not (names_of(active.policy).keys - loaded.names.keys)
        assert not (set(open_rules(active.policy)) - set(open_rules(policy)))


def open_rules(policy: Policy) -> Iterator[str]:
    """Yield the rules that let everything pass: those without a limit, and without rules below."""
    nodes = [domain.root for domain in policy.domains.values()]
    while nodes:
        below = nodes.pop().exact.values()
        yield from (node.rule for node in below if not node.limits and not node.exact)
        nodes += below


def plan_of(
    policy: Policy, message: rls_pb2.RateLimitRequest, options: DecisionOptions, facts: Facts
) -> Plan:
    active = active_policy(policy, facts.now_us).policy
    return make_plan(active, from_rls_request(message, BOUNDS), options, SECRET, facts)


def spoil(rng: Random, node: object) -> None:
    """Replace one value somewhere below `node`."""
    wrong: object = rng.choice((None, -1, 2**70, 0.5, "", "x", [], {}, [[]], True, "1s", {"a": {}}))
    while True:
        if isinstance(node, dict) and node:
            key = rng.choice(sorted(node))
            below = node[key]
            if not isinstance(below, dict | list) or not below or rng.random() < 0.2:
                node[key] = wrong
                return
            node = below
        elif isinstance(node, list) and node:
            at = rng.randrange(len(node))
            if not isinstance(node[at], dict | list) or rng.random() < 0.1:
                node[at] = wrong
                return
            node = node[at]
        else:
            return
