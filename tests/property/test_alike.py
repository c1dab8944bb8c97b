"""A request that is not read, because others like it were, is planned as if it had been read.

Whatever the bytes are: a planner that knows many kinds of requests says of each what a planner
says that knows none, errors included.
"""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.decisions.subject import AmountOverride, Subject
from ratelimitd.errors import InvalidRequest
from ratelimitd.policy.compile import compile_policy
from ratelimitd.services.convert import RequestBounds
from ratelimitd.services.planner import Planner
from ratelimitd.services.subject_cache import UNKNOWN, Cached
from ratelimitd.services.subject_reads import OnRead

SECRET = b"0123456789abcdef0123456789abcdef"
BOUNDS = RequestBounds(max_descriptors=4, max_entries=3, max_text_bytes=64)
POLICY = compile_policy(
    {
        "plain.yaml": """
domain: plain
descriptors:
  - {key: user, rate_limit: {unit: minute, requests_per_unit: 5}}
  - {key: user, value: "a*", rate_limit: {unit: minute, requests_per_unit: 6}}
  - {key: user, value: bob, rate_limit: {unit: minute, requests_per_unit: 7}}
  - key: route
    descriptors:
      - {key: user, sensitive: true, rate_limit: {unit: hour, requests_per_unit: 5}}
  - key: route
    value: r
    descriptors:
      - {key: user, rate_limit: {unit: hour, requests_per_unit: 6}}
  - {key: slot_user, rate_limit: {algorithm: concurrency, slot: id, requests_per_unit: 5}}
""",
        "tiers.yaml": """
domain: tiers
subjects: {key: user, tier: tier, trust_tier_entry: true}
descriptors:
  - key: user
    limits:
      - {name: own, unit: minute, requests_per_unit: {default: 5, pro: 50}}
      - {scope: tier, unit: minute, requests_per_unit: {default: 50, pro: 500}}
      - {scope: global, unit: minute, requests_per_unit: 1000}
""",
    }
).policy
RECORDS: tuple[Cached, ...] = (
    None,
    UNKNOWN,
    Subject("pro"),
    Subject("", overrides=(AmountOverride("own", 2),)),
)
# Of equal lengths, so that they are of one kind; some are chosen by an entry, or are no plain text.
VALUES = ("bob", "bab", "bib", "abc", "é1", "%|1", "", "x" * 60, "y" * 60, "é" * 30)
Outcome = tuple[object, ...] | str


class Directory:
    """Says of each subject what its name's length and letters have it say."""

    blocks = None

    def get(self, field: str) -> Cached:
        return RECORDS[sum(field.encode()) % len(RECORDS)]

    def want(self, fields: object, done: OnRead) -> None:
        raise AssertionError("a planner asks nobody")


def new_planner() -> Planner:
    return Planner(POLICY, DecisionOptions(), SECRET, BOUNDS, directory=Directory())  # type: ignore[arg-type]  # blocks are facts here


def outcome(planner: Planner, body: bytes) -> Outcome:
    try:
        ready = planner.plan(body)
    except InvalidRequest as error:
        return str(error)
    return ready.keys, ready.shape, ready.slots, ready.subjects, ready.missing, ready.plan


def some_body(rng: Random) -> bytes:
    message = rls_pb2.RateLimitRequest(domain=rng.choice(("plain", "tiers")))
    message.hits_addend = rng.choice((0, 0, 0, 2))
    for _ in range(rng.choice((1, 1, 1, 2))):
        entries = message.descriptors.add().entries
        if rng.random() < 0.4:
            entries.add(key=rng.choice(("route", "tier")), value=rng.choice(("r", "s", "pro")))
        entries.add(key=rng.choice(("user", "user", "slot_user")), value=rng.choice(VALUES))
        if rng.random() < 0.3:
            entries.add(key=rng.choice(("tier", "id")), value=rng.choice(("pro", "abc")))
    return message.SerializeToString()


def changed(rng: Random, body: bytes) -> bytes:
    """Return other bytes of the same length, or nearly."""
    at = rng.randrange(len(body))
    byte = bytes((rng.choice((0, 1, 3, 0x7A, 0x80, 0xC3, 0xFF, body[at] ^ 1)),))
    return rng.choice(
        (
            body,
            body[:at] + byte + body[at + 1 :],
            body + byte,
            body[:at] + body[at + 1 :] + byte,
            body[:-1],
        )
    )


@given(seed=st.integers(0, 2**63))
def test_request_of_a_known_kind_is_planned_as_if_it_were_read(seed: int) -> None:
    # given a planner that has seen many kinds, often enough
    rng = Random(seed)
    planner = new_planner()
    bodies = [some_body(rng) for _ in range(12)]
    for body in bodies * 3:
        outcome(planner, body)
    for _ in range(30):
        body = changed(rng, rng.choice((*bodies, some_body(rng))))
        # when
        found = outcome(planner, body)
        # then
        assert found == outcome(new_planner(), body)
