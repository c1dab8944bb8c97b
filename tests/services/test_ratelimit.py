import asyncio

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.options import DecisionOptions
from ratelimitd.errors import InvalidRequest, NotReady, StoreError, StoreUnavailable
from ratelimitd.services.context import CallContext
from tests.services.conftest import Start, message_of
from tests.support.data_plane import data_plane

__all__ = ["data_plane"]

POLICY = """
domain: api
descriptors:
  - {key: a, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: b, rate_limit: {unit: year, requests_per_unit: 2}}
"""


def with_failure(policy: str) -> str:
    rule = f"{{unit: year, requests_per_unit: 2, on_store_failure: {policy}}}"
    return f"domain: api\ndescriptors: [{{key: a, rate_limit: {rule}}}]\n"


async def test_request_is_one_script_call_whatever_its_descriptors(start: Start) -> None:
    # given a store that knows the script
    running = await start(POLICY)
    await running.ask("a=other")
    before = running.script_calls()
    # when
    codes = [await running.ask("a=1", "b=1") for _ in range(3)]
    # then
    assert codes == ["OK", "OK", "OVER_LIMIT"]
    assert running.script_calls() - before == 3


async def test_requests_that_arrive_together_travel_together(start: Start) -> None:
    # given
    running = await start(POLICY)
    before = running.script_calls()
    # when
    codes = await asyncio.gather(*(running.ask("a=1") for _ in range(200)))
    # then the first goes at once, and the rest while it is away
    assert codes.count("OK") == 2
    assert running.script_calls() - before <= 2


async def test_request_that_no_rule_matches_asks_no_store(start: Start) -> None:
    # given
    running = await start(POLICY, is_store_up=False)
    # then
    assert await running.ask("none=1") == "OK"
    assert await running.ask("a=1", domain="unknown") == "OK"


async def test_service_without_a_policy_is_not_ready(start: Start) -> None:
    # given
    running = await start(None)
    # then
    with pytest.raises(NotReady, match="no policy is loaded"):
        await running.ask("a=1")


@pytest.mark.parametrize(("policy", "code"), [("allow", "OK"), ("deny", "OVER_LIMIT")])
async def test_failure_policy_answers_when_the_store_was_never_there(
    start: Start, policy: str, code: str
) -> None:
    # given
    running = await start(with_failure(policy), is_store_up=False)
    # when
    response = await running.should_rate_limit(message_of("a=1"))
    # then
    assert rls_pb2.RateLimitResponse.Code.Name(response.overall_code) == code
    assert response.dynamic_metadata["store_failure"] == policy


async def test_failure_policy_error_raises_and_is_counted(start: Start) -> None:
    # given
    running = await start(with_failure("error"), is_store_up=False)
    # when
    with pytest.raises(StoreError):
        await running.ask("a=1")
    # then
    (row,) = running.service.telemetry.rules.snapshot()
    assert row.outcomes["failed_error"] == 1


async def test_failure_policy_local_counts_in_this_process(start: Start) -> None:
    # given a limit whose minute's worth is less than one
    running = await start(with_failure("local"), is_store_up=False)
    # then
    assert await running.ask("a=1") == "OK"
    assert await running.ask("a=1") == "OVER_LIMIT"
    assert await running.ask("a=2") == "OK"


async def test_store_that_dies_and_returns_is_used_again(start: Start) -> None:
    # given
    running = await start(with_failure("deny"))
    assert await running.ask("a=1") == "OK"
    # when
    running.server.kill()
    assert await running.ask("a=1") == "OVER_LIMIT"
    running.server.start()
    # then within a bounded number of tries, each a round trip or an answer of the breaker
    async with asyncio.timeout(5):
        while await running.ask("a=2") != "OK":  # noqa: ASYNC110 - a network's other side
            await asyncio.sleep(0.05)


async def test_deadline_that_has_passed_never_reaches_the_store(start: Start) -> None:
    # given
    running = await start(POLICY)
    before = running.script_calls()
    # when
    with pytest.raises(StoreUnavailable):
        await running.should_rate_limit(message_of("a=1"), CallContext(timeout_s=0.001))
    # then
    assert running.script_calls() == before


async def test_deny_cache_answers_without_the_store_for_a_second(start: Start) -> None:
    # given a counter that is used up
    running = await start(POLICY, deny_cache_bytes=1 << 20)
    for _ in range(3):
        await running.ask("a=1")
    before = running.script_calls()
    # when
    codes = [await running.ask("a=1") for _ in range(5)]
    # then
    assert codes == ["OVER_LIMIT"] * 5
    assert running.script_calls() == before
    # when a second has gone by
    running.clock_us[0] += 1_000_000
    await running.ask("a=1")
    # then
    assert running.script_calls() == before + 1


async def test_statuses_headers_and_metadata_reach_the_message(start: Start) -> None:
    # given
    options = DecisionOptions(has_limit_headers=True, has_dynamic_metadata=True)
    running = await start(POLICY, options=options)
    # when
    response = await running.should_rate_limit(message_of("a=1", "none=1"))
    # then
    matched, unmatched = response.statuses
    assert matched.current_limit.requests_per_unit == 2
    assert matched.current_limit.unit == rls_pb2.RateLimitResponse.RateLimit.YEAR
    assert matched.limit_remaining == 1
    assert 0 < matched.duration_until_reset.seconds <= 365 * 86_400
    assert not unmatched.HasField("current_limit")
    assert not unmatched.HasField("duration_until_reset")
    assert {header.key for header in response.response_headers_to_add} == {
        "RateLimit-Limit",
        "RateLimit-Remaining",
        "RateLimit-Reset",
    }
    assert response.dynamic_metadata["domain"] == "api"


def with_override(unit: int) -> rls_pb2.RateLimitRequest:
    message = message_of("a=1")
    message.descriptors[0].limit.unit = unit  # type: ignore[assignment]  # any number
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (message_of("a=1", domain=""), "domain: is empty"),
        (message_of(), "descriptors: is empty"),
        (message_of(*["a=1"] * 129), "descriptors: 129 sent, at most 128"),
        (message_of("=1"), r"descriptors\[0\].entries\[0\].key: is empty"),
        (message_of(",".join(["a=1"] * 65)), r"descriptors\[0\].entries: 65 sent, at most 64"),
        (message_of("a=" + "x" * 16_385), r"entries\[0\].value: longer than 16384 bytes"),
        (message_of("é" * 8_193 + "=1"), r"entries\[0\].key: longer than 16384 bytes"),
        (message_of("a=1", domain="d" * 16_385), "domain: longer"),
        (with_override(0), r"descriptors\[0\].limit.unit: 0 is not a unit; use SECOND"),
        (with_override(7), r"limit.unit: 7 is not a unit"),
        (
            rls_pb2.RateLimitRequest(domain="api", descriptors=[{}]),
            r"descriptors\[0\].entries: is empty",
        ),
    ],
)
async def test_request_that_breaks_the_protocol_is_refused_with_the_place(
    start: Start, message: rls_pb2.RateLimitRequest, text: str
) -> None:
    # given
    running = await start(POLICY)
    before = running.script_calls()
    # then
    with pytest.raises(InvalidRequest, match=text):
        await running.should_rate_limit(message)
    assert running.script_calls() == before
