import asyncio
from collections.abc import Sequence

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.errors import InvalidRequest, NotReady, StoreError
from ratelimitd.policy.compile import compile_policy
from ratelimitd.services.context import CallContext
from ratelimitd.services.gate import Peer
from ratelimitd.services.hot_path import HotPath
from ratelimitd.services.parse import MAX_REQUEST_BYTES
from tests.services.conftest import (
    DEFAULT_DEADLINE_S,
    PATIENT,
    Running,
    Start,
    message_of,
)
from tests.services.conftest import ask_hot_path as ask

POLICY = """
domain: api
descriptors:
  - {key: a, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: free, rate_limit: {unlimited: true}}
"""


class Read:
    """Where the calls of a read are answered: the numbers of each group, and of those that fail."""

    def __init__(self) -> None:
        self.answers: list[list[int]] = []
        self.failed: list[int] = []
        self.is_answered = asyncio.Event()
        self.caller: Peer | None = None

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> None:
        self.answers.append([number for number, _ in answers])
        self.is_answered.set()

    def fail(self, number: int, error: Exception) -> None:
        self.failed.append(number)


async def overall(running: Running, hot: HotPath, *descriptors: str) -> str:
    response = await ask(hot, message_of(*descriptors))
    return rls_pb2.RateLimitResponse.Code.Name(response.overall_code)


async def test_hot_path_answers_what_the_service_answers(start: Start) -> None:
    # given one counter for each way
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    for descriptors in (["a=%s"], ["a=%s", "free=1"], ["none=%s"], ["free=%s"]):
        for _ in range(3):
            # when
            ours = await ask(hot, message_of(*[text.replace("%s", "hot") for text in descriptors]))
            plain = await running.service.should_rate_limit(
                message_of(*[text.replace("%s", "plain") for text in descriptors]), PATIENT
            )
            # then; the clock may have moved between the two
            for status in (*ours.statuses, *plain.statuses):
                status.ClearField("duration_until_reset")
            assert ours == plain


async def test_calls_of_one_turn_are_one_batch(start: Start) -> None:
    # given
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    await overall(running, hot, "a=warm")
    before = running.script_calls()
    # when
    codes = await asyncio.gather(*(overall(running, hot, "a=1") for _ in range(100)))
    # then
    assert codes.count("OK") == 2
    assert running.script_calls() - before == 1


async def test_answers_to_a_read_go_back_together(start: Start) -> None:
    # given two reads in one turn, one of them with a call that is refused at once
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    await overall(running, hot, "a=warm")
    before = running.script_calls()
    reads = [Read(), Read()]
    calls = [(number, PATIENT, message_of("a=1").SerializeToString()) for number in (1, 3, 5)]
    # when
    hot.serve(calls, reads[0])
    hot.serve([*calls, (7, PATIENT, b"")], reads[1])
    for read in reads:
        await read.is_answered.wait()
    # then
    assert running.script_calls() - before == 1
    assert [read.answers for read in reads] == [[[1, 3, 5]], [[1, 3, 5]]]
    assert [read.failed for read in reads] == [[], [7]]


async def test_new_policy_is_in_force_at_once_for_known_requests(start: Start) -> None:
    # given a request that is remembered
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    codes = [await overall(running, hot, "a=1") for _ in range(3)]
    assert codes == ["OK", "OK", "OVER_LIMIT"]
    assert len(hot.plans) == 1
    # when
    raised = POLICY.replace("requests_per_unit: 2", "requests_per_unit: 100")
    running.service.holder.policy = compile_policy({"p.yaml": raised}).policy
    # then
    assert await overall(running, hot, "a=1") == "OK"


async def test_requests_that_cannot_be_answered_say_why(start: Start) -> None:
    # given
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    # then
    with pytest.raises(InvalidRequest, match="not a readable RateLimitRequest"):
        await ask(hot, b"\xff\xff")
    with pytest.raises(InvalidRequest, match="65537 bytes, at most 65536"):
        await ask(hot, b"x" * (MAX_REQUEST_BYTES + 1))
    with pytest.raises(InvalidRequest, match="domain: is empty"):
        await ask(hot, b"")
    running.service.holder.policy = None
    with pytest.raises(NotReady):
        await ask(hot, message_of("a=1"))


async def test_deadline_that_has_passed_is_told_and_spends_nothing(start: Start) -> None:
    # given
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    # when
    with pytest.raises(StoreError):
        await ask(hot, message_of("a=1"), CallContext(timeout_s=0.001))
    # then
    assert await overall(running, hot, "a=1") == "OK"
    assert await overall(running, hot, "a=1") == "OK"


async def test_store_that_was_never_reached_is_told(start: Start) -> None:
    # given
    running = await start(POLICY, is_store_up=False)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    # then
    with pytest.raises(StoreError, match="not reached since the start"):
        await ask(hot, message_of("a=1"))
