"""Deadlines of callers while the store is silent, or the loop held up; see also test_batcher.py."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop

from ratelimitd.decisions.plan import Reply
from ratelimitd.errors import StoreError, StoreOverloaded, StoreUnavailable
from ratelimitd.store.address import parse_address
from ratelimitd.store.batcher import Batcher, Waiting
from ratelimitd.store.connection import Answers, NodeClient
from ratelimitd.store.exchange import Command
from ratelimitd.store.port import Answer, OnReplies
from ratelimitd.store.wire import PackedPlan, pack_plan
from tests.store.plans import one
from tests.support.servers import Server

PLAN = pack_plan(one("a"))
PATIENT_S = 30.0


class Store:
    """A store that is silent until it is told to answer."""

    def __init__(self) -> None:
        self.batches: list[Sequence[PackedPlan]] = []
        self._silent: list[OnReplies] = []

    def send(self, plans: Sequence[PackedPlan], done: OnReplies) -> None:
        self.batches.append(plans)
        self._silent.append(done)

    def answer(self) -> None:
        """Answer what was sent, and what is sent next."""
        while self._silent:
            self._silent.pop()([Reply(0, False, ()) for _ in self.batches[-1]])


class Told:
    """What callers were answered, by their tickets."""

    def __init__(self) -> None:
        self.answers: dict[object, Answer] = {}
        self.on_answer: Callable[[], None] = lambda: None

    def take(self, batch: Sequence[Waiting], answers: Sequence[Answer]) -> None:
        for waiting, answer in zip(batch, answers, strict=True):
            assert waiting.ticket not in self.answers
            self.answers[waiting.ticket] = answer
        self.on_answer()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(PATIENT_S):
            while len(self.answers) < count:  # noqa: ASYNC110 - the loop's own timers are waited for
                await asyncio.sleep(0.001)

    def kinds(self) -> dict[object, type[Answer]]:
        return {ticket: type(answer) for ticket, answer in self.answers.items()}


def run_on_uvloop(scenario: Coroutine[Any, Any, None]) -> None:
    """Run as the daemon does: its timers know whole milliseconds, and a nearer one is none."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario)


def test_deadlines_nearer_than_a_timer_can_be_are_answered_on_uvloop() -> None:
    async def scenario() -> None:
        # given a store that stalls, and callers without and with a millisecond left
        store, told = Store(), Told()
        batcher = Batcher(store.send)
        now_s = asyncio.get_running_loop().time()
        hasty_ms, patient_ms = (0.3, 0.31, 2.3, 2.6, 20, 20.3), (30_000, 30_001)
        # when
        for ms in (*patient_ms, *hasty_ms):
            batcher.submit(PLAN, now_s + ms / 1000, told.take, ms)
        await told.reach(len(hasty_ms))
        store.answer()
        # then the hasty ones are told, before or after they were sent, the patient ones answered
        assert all(isinstance(told.answers.pop(ms), StoreError) for ms in hasty_ms)
        assert told.kinds() == dict.fromkeys(patient_ms, Reply)
        await batcher.close()

    run_on_uvloop(scenario())


def test_call_that_comes_while_the_next_deadline_is_near_is_taken_on_uvloop() -> None:
    async def scenario() -> None:
        # given two deadlines that no timer can tell apart
        store, told = Store(), Told()
        batcher = Batcher(store.send)
        loop = asyncio.get_running_loop()

        def call_again() -> None:
            told.on_answer = lambda: None
            loop.call_soon(batcher.submit, PLAN, loop.time() + PATIENT_S, told.take, "again")

        told.on_answer = call_again
        now_s = loop.time()
        batcher.submit(PLAN, now_s + 0.0100, told.take, "first")
        batcher.submit(PLAN, now_s + 0.0103, told.take, "second")
        # when a call comes between the two
        await told.reach(2)
        await asyncio.sleep(0)
        store.answer()
        # then
        assert isinstance(told.answers.pop("first"), StoreError)
        assert isinstance(told.answers.pop("second"), StoreError)
        assert told.kinds() == {"again": Reply}
        await batcher.close()

    run_on_uvloop(scenario())


async def test_plan_whose_deadline_passed_while_the_loop_was_held_up_is_never_sent() -> None:
    # given one in flight and one in the queue
    store, told = Store(), Told()
    batcher = Batcher(store.send)
    loop = asyncio.get_running_loop()
    batcher.submit(PLAN, loop.time() + PATIENT_S, told.take, "first")
    await asyncio.sleep(0)
    late_s = loop.time() + 0.002
    batcher.submit(PLAN, late_s, told.take, "late")
    # when nothing runs until the deadline has passed, and then the answer comes first
    while loop.time() <= late_s:
        time.sleep(0.001)  # noqa: ASYNC251 - what holds up the loop
    store.answer()
    # then
    assert told.kinds() == {"first": Reply, "late": StoreUnavailable}
    assert len(store.batches) == 1
    await batcher.close()


async def test_plans_answered_by_their_deadline_leave_room_in_the_queue() -> None:
    # given a full queue behind a silent store, a patient caller at its head
    store, told = Store(), Told()
    batcher = Batcher(store.send, max_queued_checks=3)
    loop = asyncio.get_running_loop()
    batcher.submit(PLAN, loop.time() + PATIENT_S, told.take, "in flight")
    await asyncio.sleep(0)
    batcher.submit(PLAN, loop.time() + PATIENT_S, told.take, "patient")
    for ticket in ("hasty", "hasty too"):
        batcher.submit(PLAN, loop.time() + 0.01, told.take, ticket)
    batcher.submit(PLAN, loop.time() + PATIENT_S, told.take, "too many")
    assert told.kinds() == {"too many": StoreOverloaded}
    # when the deadlines pass while the store is silent
    await told.reach(3)
    # then there is room again, and everybody is counted once
    assert batcher.queued_checks == 1
    batcher.submit(PLAN, loop.time() + PATIENT_S, told.take, "later")
    assert batcher.queued_checks == 2
    store.answer()
    assert batcher.queued_checks == 0
    assert told.kinds()["later"] is Reply
    await batcher.close()


async def test_queue_holds_nobody_who_was_answered_also_behind_somebody_patient() -> None:
    # given a silent store, and somebody patient in front of the hasty ones
    store, told = Store(), Told()
    batcher = Batcher(store.send, max_queued_checks=10)
    loop = asyncio.get_running_loop()
    batcher.submit(PLAN, loop.time() + PATIENT_S, told.take, "in flight")
    await asyncio.sleep(0)
    batcher.submit(PLAN, loop.time() + PATIENT_S, told.take, "patient")
    # when far more deadlines pass than the queue has room for
    for at in range(0, 50, 5):
        for number in range(at, at + 5):
            batcher.submit(PLAN, loop.time() + 0.002, told.take, number)
        await told.reach(at + 5)
    # then
    assert set(told.kinds().values()) == {StoreUnavailable}
    assert batcher.queued_checks == len(batcher._queue) == 1  # noqa: SLF001 - what it holds
    store.answer()
    assert told.kinds()["patient"] is Reply
    await batcher.close()


def test_reply_that_waits_while_we_are_held_up_is_no_silence(valkey9: Server) -> None:
    async def scenario() -> None:
        # given a connection that is ready
        address = parse_address(valkey9.url)
        client = NodeClient(address, address.endpoints[0], store_timeout_s=0.05)
        await client.run("PING", timeout_s=5)
        told: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()

        def hold_up(_: Answers) -> None:
            """Send once more, and let the loop come back long after the store has answered."""
            client.send([Command(("PING",))], told.set_result)
            time.sleep(0.2)

        # when that happens while the loop reads, so that its timers come before it reads again
        client.send([Command(("PING",))], hold_up)
        answers = await asyncio.wait_for(told, PATIENT_S)
        # then
        assert answers == [b"PONG"]
        assert not client.breaker.is_silent
        await client.close()

    run_on_uvloop(scenario())
