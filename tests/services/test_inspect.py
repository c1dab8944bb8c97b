import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd._proto.envoy.type.v3 import ratelimit_unit_pb2
from ratelimitd._proto.ratelimitd.inspect.v1 import inspect_pb2
from ratelimitd.errors import StoreUnavailable
from ratelimitd.services.inspect import InspectService
from tests.services.conftest import PATIENT, Start, message_of

POLICY = """
domain: api
descriptors:
  - {key: a, rate_limit: {unit: year, requests_per_unit: 1}}
"""


async def test_peek_answers_and_spends_nothing(start: Start) -> None:
    # given
    running = await start(POLICY)
    inspect = InspectService(running.service)
    request = inspect_pb2.PeekRequest(request=message_of("a=1"))
    # when
    peeked = [(await inspect.peek(request, PATIENT)).response for _ in range(3)]
    # then
    assert {answer.overall_code for answer in peeked} == {rls_pb2.RateLimitResponse.OK}
    assert await running.ask("a=1") == "OK"
    after = (await inspect.peek(request, PATIENT)).response
    assert after.overall_code == rls_pb2.RateLimitResponse.OVER_LIMIT


async def test_peek_needs_the_store_only_where_a_limit_applies(start: Start) -> None:
    # given
    running = await start(POLICY, is_store_up=False)
    inspect = InspectService(running.service)
    # then
    unmatched = inspect_pb2.PeekRequest(request=message_of("none=1"))
    answer = await inspect.peek(unmatched, PATIENT)
    assert answer.response.overall_code == rls_pb2.RateLimitResponse.OK
    with pytest.raises(StoreUnavailable):
        await inspect.peek(inspect_pb2.PeekRequest(request=message_of("a=1")), PATIENT)


async def test_explain_tells_the_rule_or_where_matching_stopped(start: Start) -> None:
    # given
    running = await start(POLICY, is_store_up=False)
    inspect = InspectService(running.service)
    # when
    answer = await inspect.explain(
        inspect_pb2.ExplainRequest(request=message_of("a=1", "none=1")), PATIENT
    )
    # then
    matched, stopped = answer.descriptors
    assert matched.steps[0].matched_by == "default"
    assert matched.position == "p.yaml:4:14"
    assert stopped.steps[-1].matched_by == "none"
    assert stopped.limit == ""
    assert answer.policy_revision == running.service.holder.current().revision


async def test_explain_tells_of_an_override_and_hides_secrets(start: Start) -> None:
    # given
    running = await start(POLICY)
    message = message_of("a=1", "api_key=topsecret")
    message.descriptors[0].limit.requests_per_unit = 7
    message.descriptors[0].limit.unit = ratelimit_unit_pb2.HOUR
    # when
    answer = await InspectService(running.service).explain(
        inspect_pb2.ExplainRequest(request=message), PATIENT
    )
    # then
    assert "7 per hour" in answer.descriptors[0].summary
    assert "topsecret" not in str(answer)


async def test_explain_tells_limits_apart_that_have_no_names(start: Start) -> None:
    # given
    running = await start(
        """
domain: api
subjects: {key: a}
descriptors:
  - key: a
    limits:
      - {unit: year, requests_per_unit: 1}
      - {unit: year, requests_per_unit: {pro: 5, default: 3}, scope: tier}
"""
    )
    # when
    answer = await InspectService(running.service).explain(
        inspect_pb2.ExplainRequest(request=message_of("a=1")), PATIENT
    )
    # then
    told = [(one.scope, one.amount, one.reason) for one in answer.descriptors[0].limits]
    assert told == [
        ("subject", "1 per year", ""),
        ("tier", "3 per year", "no tier is known: the default"),
    ]
