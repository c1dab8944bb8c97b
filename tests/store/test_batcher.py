import asyncio
from collections.abc import Sequence

import pytest

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreOverloaded, StoreReplyLost, StoreUnavailable
from ratelimitd.store.batcher import Batcher
from ratelimitd.store.port import OnReplies
from ratelimitd.store.scripts import Scripts
from ratelimitd.store.single import SingleStore
from ratelimitd.store.wire import PackedPlan
from tests.store.conftest import MakeClient
from tests.store.plans import make_plan, one
from tests.support.servers import Server
from tests.support.stores import sending


class Gate:
    """A sender that answers when told, so that what queues meanwhile is certain."""

    def __init__(self) -> None:
        self.batches: list[list[Plan]] = []
        self.answers: asyncio.Queue[StoreError | None] = asyncio.Queue()

    async def send(self, plans: Sequence[Plan]) -> Sequence[Reply | StoreError]:
        self.batches.append(list(plans))
        error = await self.answers.get()
        if error is not None:
            raise error
        return [Reply(number, False, ()) for number, _ in enumerate(plans)]

    def answer(self, error: StoreError | None = None) -> None:
        self.answers.put_nowait(error)

    def names(self) -> list[int]:
        return [len(batch) for batch in self.batches]


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_batcher_sends_what_arrived_meanwhile_as_one_batch() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    # when
    calls = [asyncio.create_task(batcher.check(one("a"), timeout_s=5))]
    await _settle()
    calls += [asyncio.create_task(batcher.check(one(f"b{n}"), timeout_s=5)) for n in range(7)]
    await _settle()
    gate.answer()
    gate.answer()
    replies = await asyncio.gather(*calls)
    # then
    assert gate.names() == [1, 7]
    assert [reply.now_us for reply in replies] == [0, 0, 1, 2, 3, 4, 5, 6]


async def test_batcher_joins_requests_of_one_loop_turn() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    gate.answer()
    # when
    await asyncio.gather(*(batcher.check(one(f"b{n}"), timeout_s=5) for n in range(10)))
    # then
    assert gate.names() == [10]


async def test_batch_holds_at_most_its_checks_and_at_least_one_plan() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send), max_batch_checks=4)
    check = one("a").checks[0]
    large = make_plan(*[check] * 9)
    pair = make_plan(check, check)
    for _ in range(4):
        gate.answer()
    # when
    await asyncio.gather(
        *(batcher.check(plan, timeout_s=5) for plan in (pair, pair, pair, large, pair))
    )
    # then
    sizes = [sum(len(plan.checks) for plan in batch) for batch in gate.batches]
    assert sizes == [4, 2, 9, 2]


async def test_queue_past_its_bound_refuses_at_once() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send), max_queued_checks=3)
    calls = [asyncio.create_task(batcher.check(one("a"), timeout_s=5))]
    await _settle()
    calls += [asyncio.create_task(batcher.check(one("a"), timeout_s=5)) for _ in range(3)]
    await _settle()
    # when
    with pytest.raises(StoreOverloaded, match="full"):
        await batcher.check(one("a"), timeout_s=5)
    # then
    gate.answer()
    gate.answer()
    assert len(await asyncio.gather(*calls)) == 4
    assert batcher.queued_checks == 0


async def test_request_whose_deadline_passes_in_the_queue_is_never_sent() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    first = asyncio.create_task(batcher.check(one("a"), timeout_s=5))
    await _settle()
    # when
    with pytest.raises(StoreUnavailable, match="before it was sent"):
        await batcher.check(one("late"), timeout_s=0.01)
    gate.answer()
    await first
    await _settle()
    # then
    assert gate.names() == [1]


async def test_request_whose_deadline_passes_in_flight_is_perhaps_spent() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    patient = asyncio.create_task(batcher.check(one("a"), timeout_s=5))
    # when
    with pytest.raises(StoreReplyLost, match="no answer in time"):
        await batcher.check(one("hasty"), timeout_s=0.01)
    gate.answer()
    # then
    assert isinstance(await patient, Reply)
    assert gate.names() == [2]


async def test_deadline_that_has_passed_already_is_never_queued() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    # when / then
    with pytest.raises(StoreUnavailable, match="deadline has passed"):
        await batcher.check(one("a"), timeout_s=0)
    assert gate.batches == []


async def test_cancelled_request_leaves_the_queue_and_others_go_on() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    first = asyncio.create_task(batcher.check(one("a"), timeout_s=5))
    await _settle()
    leaving = asyncio.create_task(batcher.check(one("b"), timeout_s=5))
    staying = asyncio.create_task(batcher.check(one("c"), timeout_s=5))
    await _settle()
    # when
    leaving.cancel()
    first.cancel()
    gate.answer()
    gate.answer()
    # then
    assert (await staying).now_us == 0
    assert gate.names() == [1, 1]


async def test_error_of_a_batch_reaches_each_request_and_the_next_batch_goes_on() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    calls = [asyncio.create_task(batcher.check(one("a"), timeout_s=5)) for _ in range(3)]
    await _settle()
    # when
    gate.answer(StoreReplyLost("gone"))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    gate.answer()
    reply = await batcher.check(one("a"), timeout_s=5)
    # then
    assert [str(error) for error in errors] == ["gone"] * 3
    assert len({id(error) for error in errors}) == 3
    assert reply.now_us == 0


async def test_defect_in_the_sender_is_perhaps_spent_and_does_not_end_the_queue() -> None:
    # given
    def broken(plans: Sequence[PackedPlan], done: OnReplies) -> None:
        if len(plans) == 1:
            raise KeyError("defect")
        done([Reply(0, False, ()) for _ in plans])

    batcher = Batcher(broken)
    # when
    with pytest.raises(StoreReplyLost, match="KeyError"):
        await batcher.check(one("a"), timeout_s=5)
    replies = await asyncio.gather(*(batcher.check(one("a"), timeout_s=5) for _ in range(2)))
    # then
    assert len(replies) == 2


async def test_answers_that_are_too_few_leave_nobody_waiting() -> None:
    # given
    async def short(plans: Sequence[Plan]) -> Sequence[Reply | StoreError]:
        return [Reply(0, False, ())]

    batcher = Batcher(sending(short))
    # when
    calls = (batcher.check(one("a"), timeout_s=5) for _ in range(2))
    errors = await asyncio.gather(*calls, return_exceptions=True)
    # then
    assert [type(error) for error in errors] == [StoreReplyLost] * 2


async def test_earlier_deadline_behind_a_later_one_is_kept() -> None:
    # given a store that is silent
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    patient = asyncio.create_task(batcher.check(one("a"), timeout_s=30))
    await _settle()
    # when
    with pytest.raises(StoreUnavailable, match="before it was sent"):
        await batcher.check(one("b"), timeout_s=0.01)
    # then
    assert not patient.done()
    gate.answer()
    assert (await patient).now_us == 0
    await batcher.close()


async def test_errors_of_single_plans_reach_only_their_requests() -> None:
    # given
    async def send(plans: Sequence[Plan]) -> Sequence[Reply | StoreError]:
        return [StoreUnavailable("node down"), *(Reply(1, False, ()) for _ in plans[1:])]

    batcher = Batcher(sending(send))
    # when
    first, second = await asyncio.gather(
        batcher.check(one("a"), timeout_s=5),
        batcher.check(one("b"), timeout_s=5),
        return_exceptions=True,
    )
    # then
    assert isinstance(first, StoreUnavailable)
    assert isinstance(second, Reply)


async def test_closed_batcher_refuses_what_waits_and_finishes_what_flies() -> None:
    # given
    gate = Gate()
    batcher = Batcher(sending(gate.send))
    flying = asyncio.create_task(batcher.check(one("a"), timeout_s=5))
    await _settle()
    waiting = asyncio.create_task(batcher.check(one("b"), timeout_s=5))
    await _settle()
    # when
    gate.answer()
    await batcher.close()
    # then
    assert (await flying).now_us == 0
    with pytest.raises(StoreUnavailable, match="shutting down"):
        await waiting
    with pytest.raises(StoreUnavailable, match="shutting down"):
        await batcher.check(one("c"), timeout_s=5)


async def test_batches_on_a_real_store_count_every_request_once(
    store_server: Server, make_client: MakeClient, scripts: Scripts
) -> None:
    # given
    store = SingleStore(make_client(store_server.url), scripts)

    batcher = Batcher(store.send)
    await batcher.check(one("other"), timeout_s=5)
    store_server.execute("CONFIG", "RESETSTAT")
    # when
    replies = await asyncio.gather(
        *(batcher.check(one("a", limit=100), timeout_s=5) for _ in range(400))
    )
    # then
    stats = store_server.client().info("commandstats")
    assert sum(not reply.is_refused for reply in replies) == 100
    assert stats["cmdstat_evalsha"]["calls"] == 1
    assert {reply.results[0].used_after for reply in replies} == set(range(1, 401))
