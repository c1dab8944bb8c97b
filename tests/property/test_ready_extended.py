"""The short ways lead where the long ones do under policies with everything that is ours.

Limits of tiers, scopes and calendars, subjects that are registered, unknown or forgotten, slots,
newcomers and blocks: a planner that learns paths plans as `make_plan` does, and a common answer is
the verdict's. The decisions are the model's.
"""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.facts import Facts
from ratelimitd.decisions.fold import fold
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.plan import Plan
from ratelimitd.decisions.planning import make_plan
from ratelimitd.decisions.subject import AmountOverride, Block, Subject, blocks_of
from ratelimitd.decisions.subject_entry import entry_field
from ratelimitd.decisions.who import subject_field
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.model import Domain, Policy
from ratelimitd.services.convert import RequestBounds, from_rls_request
from ratelimitd.services.encode import encode_response
from ratelimitd.services.planner import Planner
from ratelimitd.services.subject_cache import UNKNOWN, Cached
from ratelimitd.services.subject_reads import OnRead
from ratelimitd.store.wire import pack_plan
from ratelimitd.telemetry.counters import Telemetry
from tests.model.limits import ModelStore
from tests.property.extended import KEYS, SLOT, TIER, some_policy
from tests.property.test_ready_plans import counted

SECRET = b"0123456789abcdef0123456789abcdef"
NOW_US = 1_790_000_000_123_456
BOUNDS = RequestBounds()
VALUES = ("a", "b", "/x", "/xy", "")
RECORDS: tuple[Cached, ...] = (
    None,
    UNKNOWN,
    Subject("pro"),
    Subject("free", overrides=(AmountOverride("l0", 2),)),
    Subject("", overrides=(AmountOverride("*", 0, NOW_US + 1),)),
    Subject("root"),
)


class Directory:
    """Says something else of each subject, as the seed has it."""

    timeout_s = 0.0

    def __init__(self, rng: Random, facts: Facts) -> None:
        self.blocks = facts.blocks
        self._rng = rng
        self._records: dict[str, Cached] = {}

    def get(self, field: str) -> Cached:
        if field not in self._records:
            self._records[field] = self._rng.choice(RECORDS)
        return self._records[field]

    def want(self, fields: object, done: OnRead) -> None:
        raise AssertionError("a planner asks nobody")

    def known(self, domain: Domain, message: rls_pb2.RateLimitRequest) -> dict[str, Subject | None]:
        found: dict[str, Subject | None] = {}
        for descriptor in message.descriptors:
            entries = [(entry.key, entry.value) for entry in descriptor.entries]
            field = subject_field(domain, entries, SECRET)
            record = self.get(field) if field else UNKNOWN
            if record is not UNKNOWN:
                found[field] = record
        return found


def some_message(rng: Random) -> rls_pb2.RateLimitRequest:
    message = rls_pb2.RateLimitRequest(domain="api", hits_addend=rng.choice((0, 0, 1, 3)))
    for _ in range(rng.choice((1, 1, 2))):
        descriptor = message.descriptors.add()
        for key in rng.sample(KEYS, rng.choice((1, 1, 2))):
            descriptor.entries.add(key=key, value=rng.choice(VALUES))
        if rng.random() < 0.4:
            descriptor.entries.add(key=TIER, value=rng.choice(("free", "pro", "root")))
        if rng.random() < 0.3:
            descriptor.entries.insert(0, descriptor.entries[0])
            descriptor.entries[0].key = SLOT
            descriptor.entries[0].value = rng.choice("12")
        if rng.random() < 0.1:
            descriptor.hits_addend.value = rng.choice((0, 1))
            descriptor.is_negative_hits = rng.random() < 0.5
        if rng.random() < 0.1:
            descriptor.limit.requests_per_unit = 2
            descriptor.limit.unit = 2  # type: ignore[assignment]  # the stub wants the enum's class
    return message


def some_facts(rng: Random) -> Facts:
    if rng.random() < 0.7:
        return Facts(NOW_US)
    field = entry_field("api", "path", "/x", is_secret=False, hash_secret=SECRET)
    return Facts(NOW_US, blocks_of([Block("api", field)]))


def some_options(rng: Random) -> DecisionOptions:
    return DecisionOptions(
        is_quota_mode=rng.random() < 0.1,
        has_dynamic_metadata=rng.random() < 0.1,
        has_partitions=rng.random() < 0.3,
    )


@given(seed=st.integers(0, 2**63))
def test_planner_plans_extended_policies_as_the_long_way_does(seed: int) -> None:
    # given
    rng = Random(seed)
    policy = compile_policy({"api.yaml": some_policy(rng)}).policy
    options, facts = some_options(rng), some_facts(rng)
    directory = Directory(rng, facts)
    planner = Planner(policy, options, SECRET, BOUNDS, facts, directory)
    for _ in range(6):
        message = some_message(rng)
        body = message.SerializeToString()
        expected = long_way(policy, message, options, facts, directory)
        packed = pack_plan(expected)
        for _ in range(3):
            # when
            ready = planner.plan(body)
            # then
            assert (ready.keys, ready.shape, ready.slots) == (
                packed.keys,
                packed.shape,
                packed.slots,
            )
            assert ready.check_count == packed.check_count
            assert ready.plan == expected
            assert planner.is_current(ready)


@given(seed=st.integers(0, 2**63))
def test_common_answer_under_extended_policies_is_the_verdicts(seed: int) -> None:
    # given one store for both
    rng = Random(seed)
    policy = compile_policy({"api.yaml": some_policy(rng)}).policy
    options, facts = some_options(rng), some_facts(rng)
    directory = Directory(rng, facts)
    planner = Planner(policy, options, SECRET, BOUNDS, facts, directory)
    model, now_us = ModelStore(), NOW_US
    short, long = Telemetry(), Telemetry()
    for telemetry in (short, long):
        telemetry.policy_loaded(policy, now_s=0)
    for _ in range(8):
        message = some_message(rng)
        plan = long_way(policy, message, options, facts, directory)
        if not plan.checks:
            continue
        now_us += rng.choice((0, 1, 200_000, 5_000_000))
        (reply,) = model.check([plan], now_us)
        for _ in range(2):
            ready = planner.plan(message.SerializeToString())
        # when
        encoded = ready.outline.admit(reply, short)
        # then
        if encoded is not None:
            verdict = fold(plan, reply, options)
            assert encoded == encode_response(verdict)
            long.observe_verdict(verdict)
            assert counted(short) == counted(long)


def long_way(
    policy: Policy,
    message: rls_pb2.RateLimitRequest,
    options: DecisionOptions,
    facts: Facts,
    directory: Directory,
) -> Plan:
    """Return the plan without a planner."""
    domain = policy.domains["api"]
    if domain.subjects is not None:
        # In the order of the planner, so that a seed means the same.
        facts = facts._replace(subjects=directory.known(domain, message))
    return make_plan(policy, from_rls_request(message, BOUNDS), options, SECRET, facts)
