from hypothesis import given
from hypothesis import strategies as st

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.verdict import Code, Status, Verdict
from ratelimitd.policy.model import Limit, Position, Unit
from ratelimitd.services.encode import encode_response
from tests.support.plans import plan_of

Response = rls_pb2.RateLimitResponse
UINT32_MAX = 2**32 - 1

texts = st.text(max_size=200)
amounts = st.one_of(st.integers(0, 300), st.integers(0, 2**53), st.sampled_from([127, 128, 16_384]))
limits = st.builds(
    Limit,
    domain=st.just("d"),
    rule=st.just("d.k"),
    position=st.just(Position("f", 1, 1)),
    name=texts,
    unit=st.sampled_from(Unit),
    requests_per_unit=amounts,
)
statuses = st.builds(
    Status,
    code=st.sampled_from(Code),
    limit=st.none() | limits,
    remaining=amounts,
    reset_s=st.none() | st.integers(0, 366 * 86_400),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, width=32) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
verdicts = st.builds(
    Verdict,
    plan=st.just(plan_of()),
    code=st.sampled_from(Code),
    statuses=st.lists(statuses, max_size=4).map(tuple),
    headers=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
    metadata=st.none() | st.dictionaries(texts, json_values, max_size=3),
    raw_body=st.binary(max_size=300),
)


def message_of(verdict: Verdict) -> rls_pb2.RateLimitResponse:
    """Build the message field by field, the way the generated code means it."""
    message = Response(overall_code=verdict.code.name, raw_body=verdict.raw_body)
    for status in verdict.statuses:
        added = message.statuses.add(code=status.code.name)
        added.limit_remaining = min(status.remaining, UINT32_MAX)
        if status.limit is not None:
            added.current_limit.SetInParent()
            added.current_limit.requests_per_unit = min(status.limit.requests_per_unit, UINT32_MAX)
            added.current_limit.unit = Response.RateLimit.Unit.Value(status.limit.unit.name)  # type: ignore[assignment]  # the stub wants the enum's class
            added.current_limit.name = status.limit.name
        if status.reset_s is not None:
            added.duration_until_reset.SetInParent()
            added.duration_until_reset.seconds = status.reset_s
    for name, value in verdict.headers:
        message.response_headers_to_add.add(key=name, value=value)
    if verdict.metadata is not None:
        message.dynamic_metadata.SetInParent()
        message.dynamic_metadata.update(dict(verdict.metadata))
    return message


@given(verdicts)
def test_encoded_response_is_the_message_that_protobuf_builds(verdict: Verdict) -> None:
    assert Response.FromString(encode_response(verdict)) == message_of(verdict)
