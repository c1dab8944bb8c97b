import asyncio
import gc
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.app.policy_in_force import put_in_force
from ratelimitd.errors import InvalidRequest, NotReady, StoreError
from ratelimitd.policy.compile import compile_policy
from ratelimitd.policy.loaded import Loaded
from ratelimitd.policy.model import Policy
from ratelimitd.policy.transfer import compile_to_frames, load
from ratelimitd.services.context import CallContext
from ratelimitd.services.gate import Peer
from ratelimitd.services.hot_path import HotPath
from ratelimitd.services.parse import MAX_REQUEST_BYTES
from ratelimitd.services.plan_cache import MAX_BYTES, WHOLE_PLAN_BYTES
from ratelimitd.services.planner import Planner
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
  - {key: closed, rate_limit: {unit: year, requests_per_unit: 0}}
"""


class Read:
    """Where the calls of a read are answered: the numbers of each group, and of those that fail."""

    def __init__(self) -> None:
        self.answers: list[list[int]] = []
        self.failed: list[int] = []
        self.errors: list[Exception] = []
        self.is_answered = asyncio.Event()
        self.caller: Peer | None = None

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> None:
        self.answers.append([number for number, _ in answers])
        self.is_answered.set()

    def fail(self, number: int, error: Exception) -> None:
        self.failed.append(number)
        self.errors.append(error)
        self.is_answered.set()


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


@contextmanager
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def loaded(requests_per_unit: int) -> Loaded:
    text = POLICY.replace("requests_per_unit: 2", f"requests_per_unit: {requests_per_unit}")
    return load(compile_to_frames({"p.yaml": text.encode()}))


def held(kind: type) -> int:
    return sum(type(one) is kind for one in gc.get_objects())


async def test_replaced_policy_is_let_go_of_without_a_collection_also_while_nobody_asks(
    start: Start,
) -> None:
    # given
    running = await start(None)
    service = running.service
    hot = HotPath(service, DEFAULT_DEADLINE_S)
    planners: list[weakref.ref[Planner | None]] = []
    with no_collections():
        policies = held(Policy)
        for requests_per_unit in range(3, 8):
            # when a policy is replaced whose plans are remembered
            await put_in_force(loaded(requests_per_unit), service.holder, service.telemetry)
            # then
            assert [ref for ref in planners if ref() is not None] == []
            assert held(Policy) == policies + 1
            for value in ("a=1", "a=2", "closed=1"):
                for _ in range(3):
                    await overall(running, hot, value)
            assert len(hot.plans) == 3
            planners.append(weakref.ref(hot._planner))  # noqa: SLF001 - who held it


async def test_plans_survive_a_refresh_that_finds_the_same_secret(start: Start) -> None:
    # given
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    for _ in range(3):
        await overall(running, hot, "a=1")
    opened = running.opened
    # when
    assert await opened.hash_secret.refresh(opened.client, timeout_s=5)
    await overall(running, hot, "a=1")
    # then
    assert (hot.plans.hits, hot.plans.misses) == (2, 2)


async def test_refusals_that_come_once_do_not_push_out_what_is_remembered(start: Start) -> None:
    # given
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    kept = [message_of(f"a=kept{number}") for number in range(20)]
    for message in kept * 2:
        await ask(hot, message)
    # when more requests are refused than the room would be for
    for start_at in range(0, MAX_BYTES // WHOLE_PLAN_BYTES, 500):
        once = [message_of(f"closed=once{start_at + number}") for number in range(500)]
        read = Read()
        hot.serve([(n, PATIENT, one.SerializeToString()) for n, one in enumerate(once)], read)
        await read.is_answered.wait()
        assert read.errors == []
    # then
    assert len(hot.plans) == len(kept)
    before = hot.plans.hits
    for message in kept:
        await ask(hot, message)
    assert hot.plans.hits - before == len(kept)


async def test_error_of_a_batch_is_told_to_each_call_and_raised_by_none(start: Start) -> None:
    # given a store that goes away
    running = await start(POLICY)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    await overall(running, hot, "a=warm")
    running.server.kill()
    read = Read()
    body = message_of("a=1").SerializeToString()
    # when
    hot.serve([(number, PATIENT, body) for number in range(200)], read)
    await read.is_answered.wait()
    # then one error is told, and what it holds did not grow with the calls
    assert read.failed == list(range(200))
    (error,) = set(read.errors)
    assert isinstance(error, StoreError)
    assert len(list(traceback.walk_tb(error.__traceback__))) < 20


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
    with pytest.raises(StoreError, match=r"not usable since the start: store .*cannot connect"):
        await ask(hot, message_of("a=1"))
