"""What the registry says of a subject decides, from the first call on and as soon as it changes."""

import asyncio
from collections.abc import Collection, Sequence

import pytest

from ratelimitd._proto.envoy.service.ratelimit.v3 import rls_pb2
from ratelimitd.decisions.subject import EMPTY, AmountOverride, Block, Subject, blocks_of
from ratelimitd.decisions.subject_entry import entry_field
from ratelimitd.services.context import CallContext
from ratelimitd.services.hot_path import HotPath
from ratelimitd.services.subject_cache import UNKNOWN, Cached
from ratelimitd.services.subject_reads import OnRead
from tests.services.conftest import DEFAULT_DEADLINE_S, PATIENT, Start, message_of
from tests.services.test_hot_path import Read

POLICY = """
domain: api
subjects: {key: tenant}
descriptors:
  - key: tenant
    rate_limit:
      {name: per-tenant, unit: year, requests_per_unit: {pro: 100, default: 2}}
"""
A = entry_field("api", "tenant", "a", is_secret=False, hash_secret=b"")


class Registry:
    """A directory whose answers the test gives; it knows nobody until it is answered."""

    timeout_s = 3600.0

    def __init__(self) -> None:
        self.blocks = EMPTY
        self.records: dict[str, Subject | None] = {}
        self.questions: list[Collection[str]] = []
        self.waiting: list[OnRead] = []

    def __len__(self) -> int:
        return 0

    def get(self, field: str) -> Cached:
        return self.records.get(field, UNKNOWN)

    def want(self, fields: Collection[str], done: OnRead) -> None:
        self.questions.append(list(fields))
        self.waiting.append(done)

    def answer(self, **records: Subject | None) -> None:
        for name, record in records.items():
            field = entry_field("api", "tenant", name, is_secret=False, hash_secret=b"")
            self.records[field] = record
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(None)


class Told(Read):
    """Keeps the answers too."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: dict[int, str] = {}

    def answer_all(self, answers: Sequence[tuple[int, bytes]]) -> None:
        for number, encoded in answers:
            response = rls_pb2.RateLimitResponse.FromString(encoded)
            self.codes[number] = rls_pb2.RateLimitResponse.Code.Name(response.overall_code)
        super().answer_all(answers)


def call(number: int, value: str, context: CallContext = PATIENT) -> tuple[int, CallContext, bytes]:
    return number, context, message_of(f"tenant={value}").SerializeToString()


async def test_calls_of_a_read_ask_once_for_their_subjects(start: Start) -> None:
    # given
    registry = Registry()
    running = await start(POLICY, directory=registry)
    hot, told = HotPath(running.service, DEFAULT_DEADLINE_S), Told()
    # when four calls of two subjects come in one read, and the registry has one of them
    hot.serve([call(1, "a"), call(3, "a"), call(5, "a"), call(7, "b")], told)
    assert registry.questions == [[A, A.replace("=a", "=b")]]
    registry.answer(a=Subject("pro"), b=None)
    await told.is_answered.wait()
    # then
    assert told.codes == {1: "OK", 3: "OK", 5: "OK", 7: "OK"}
    hot.serve([call(9, "a")], told)
    assert len(registry.questions) == 1


async def test_registered_tier_acts_on_the_next_call_and_keeps_what_was_used(start: Start) -> None:
    # given a caller that used up its default
    registry = Registry()
    registry.answer(a=None)
    running = await start(POLICY, directory=registry)
    hot = HotPath(running.service, DEFAULT_DEADLINE_S)
    told = Told()
    for number in (1, 3, 5):
        told.is_answered.clear()
        hot.serve([call(number, "a")], told)
        await told.is_answered.wait()
    assert told.codes == {1: "OK", 3: "OK", 5: "OVER_LIMIT"}
    # when
    registry.answer(a=Subject("pro"))
    told.is_answered.clear()
    hot.serve([call(7, "a")], told)
    await told.is_answered.wait()
    message = rls_pb2.RateLimitRequest.FromString(call(9, "a")[2])
    response = await running.service.should_rate_limit(message, PATIENT)
    # then
    assert told.codes[7] == "OK"
    assert response.statuses[0].limit_remaining == 100 - 4


async def test_record_that_changed_is_asked_for_again(start: Start) -> None:
    # given a caller without a record, whose plan is kept
    registry = Registry()
    registry.answer(a=None)
    running = await start(POLICY, directory=registry)
    hot, told = HotPath(running.service, DEFAULT_DEADLINE_S), Told()
    for number in (1, 3, 5):
        told.is_answered.clear()
        hot.serve([call(number, "a")], told)
        await told.is_answered.wait()
    assert told.codes[5] == "OVER_LIMIT"
    # when the directory hears that it has one now
    del registry.records[A]
    told.is_answered.clear()
    hot.serve([call(7, "a")], told)
    registry.answer(a=Subject("pro"))
    await told.is_answered.wait()
    # then
    assert registry.questions == [[A]]
    assert told.codes[7] == "OK"


async def test_suspended_subject_is_refused(start: Start) -> None:
    # given
    registry = Registry()
    registry.answer(a=Subject("pro", overrides=(AmountOverride("*", 0, None, "unpaid"),)))
    running = await start(POLICY, directory=registry)
    # then
    assert await running.ask("tenant=a") == "OVER_LIMIT"


async def test_call_does_not_wait_for_a_registry_longer_than_its_caller(start: Start) -> None:
    # given a registry that does not answer
    running = await start(POLICY, directory=Registry())
    hot, told = HotPath(running.service, DEFAULT_DEADLINE_S), Told()
    # when
    hot.serve([call(1, "a", CallContext(timeout_s=0.5))], told)
    await asyncio.wait_for(told.is_answered.wait(), 5)
    # then it was decided as if nobody were registered, or ran out of time there
    assert told.codes == {1: "OK"} or told.failed == [1]


async def test_blocked_entry_is_refused_and_let_in_again(start: Start) -> None:
    # given
    registry = Registry()
    registry.answer(a=None)
    running = await start(POLICY, directory=registry, wall_us=lambda: 10)
    assert await running.ask("tenant=a") == "OK"
    # when
    registry.blocks = blocks_of([Block("api", A, None, "abuse")])
    before = running.script_calls()
    refused = [await running.ask("tenant=a") for _ in range(3)]
    calls = running.script_calls() - before
    registry.blocks = EMPTY
    # then the store was not asked meanwhile
    assert refused == ["OVER_LIMIT"] * 3
    assert calls == 0
    assert await running.ask("tenant=a") == "OK"
    assert running.service.telemetry.blocked == 3


@pytest.mark.parametrize("data_plane", ["grpcio", "h2"])
async def test_period_around_a_wrong_clock_is_asked_once_more(start: Start) -> None:
    # given a clock of ours that is a year behind the store's
    policy = """
domain: api
descriptors:
  - key: a
    rate_limit: {unit: day, calendar: true, requests_per_unit: 1}
  - {key: warm, rate_limit: {unit: day, requests_per_unit: 1}}
"""
    running = await start(policy, wall_us=lambda: 1_700_000_000_000_000)
    await running.ask("warm=1")
    before = running.script_calls()
    # when
    codes = [await running.ask("a=1"), await running.ask("a=1")]
    # then each was decided by its second call
    assert codes == ["OK", "OVER_LIMIT"]
    assert running.script_calls() - before == 4
    assert running.service.telemetry.stale_periods == 2
