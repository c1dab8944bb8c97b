"""Natural batching: one batch in flight; what arrives meanwhile is the next one.

Rules:
- No timer: an idle store is asked at the end of the turn of the loop in which something arrived, a
  busy one as soon as it answered, with larger batches. The next batch leaves before the answers of
  the last one are told, so that the store works meanwhile.
- A plan is in one batch, and a batch is sent once, whatever became of its callers.
- A caller is answered by its own deadline: StoreUnavailable while its plan is still queued (it is
  then never sent), StoreReplyLost once it is on its way.
- Answers are told by the list, to whoever takes them: `take` gets what it asked for, in order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.defects import DefectLog
from ratelimitd.errors import StoreError, StoreOverloaded, StoreReplyLost, StoreUnavailable
from ratelimitd.store.port import Answer, OnReplies
from ratelimitd.store.wire import PackedPlan, pack_plan

_log = logging.getLogger("ratelimitd.store")

# About 2 ms of store; KEYS of a script must stay well below what Lua's unpack takes.
MAX_BATCH_CHECKS = 512
# Deadlines are looked at no more often, and one that is nearer counts as passed: timers of the
# loop know whole milliseconds.
EXPIRY_STEP_S = 0.001
# 32 full batches, about 64 ms of store: whoever stands further back misses its deadline anyway.
MAX_QUEUED_CHECKS = 16_384

_NEVER_S = float("inf")

Send = Callable[[Sequence[PackedPlan], OnReplies], None]
Take = Callable[[Sequence["Waiting"], Sequence[Answer]], None]


class Waiting:
    """One plan on its way; `take` is None once its caller was answered.

    `ticket` is the caller's own, to know it by.
    """

    __slots__ = ("deadline_s", "is_queued", "is_sent", "plan", "take", "ticket")

    def __init__(self, plan: PackedPlan, deadline_s: float, take: Take, ticket: Any) -> None:
        """Wait for the answer to `plan` until the loop's time `deadline_s`."""
        self.plan = plan
        self.deadline_s = deadline_s
        self.take: Take | None = take
        self.ticket = ticket
        self.is_queued = False
        self.is_sent = False


class Batcher:
    """Turns single plans into batches for `send`, which tells an answer for each plan."""

    def __init__(
        self,
        send: Send,
        *,
        max_batch_checks: int = MAX_BATCH_CHECKS,
        max_queued_checks: int = MAX_QUEUED_CHECKS,
        on_late: Callable[[int], None] | None = None,
        on_full: Callable[[], None] | None = None,
    ) -> None:
        """`on_late` is told how many answers of a batch came after their callers' deadlines.

        `on_full` is told of each plan that found no room.
        """
        self._send = send
        self._max_batch_checks = max_batch_checks
        self._max_queued_checks = max_queued_checks
        self._on_late = on_late
        self._on_full = on_full
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Waiting] = deque()
        self._queued_checks = 0
        self._in_flight: Sequence[Waiting] = ()
        # Whether the end of this turn, or of the batch in flight, looks at the queue.
        self._is_busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_at_s = _NEVER_S
        self._defects = DefectLog(_log)
        self._is_closed = False

    @property
    def queued_checks(self) -> int:
        """How many checks wait for their batch."""
        return self._queued_checks

    async def check(self, plan: Plan, *, timeout_s: float) -> Reply:
        """Decide and charge one plan in the next batch; raises StoreError for no decision."""
        answered: asyncio.Future[Reply] = self._loop.create_future()

        def take(_: Sequence[Waiting], answers: Sequence[Answer]) -> None:
            (answer,) = answers
            if answered.done():
                return
            if isinstance(answer, Reply):
                answered.set_result(answer)
            else:
                answered.set_exception(_copy(answer))

        waiting = self.submit(pack_plan(plan), self._loop.time() + timeout_s, take, None)
        try:
            return await answered
        finally:
            waiting.take = None

    def submit(self, plan: PackedPlan, deadline_s: float, take: Take, ticket: Any) -> Waiting:
        """Put one plan into the next batch; `take` gets its answer until `deadline_s`, once.

        A refusal is told at once, before this returns.
        """
        waiting = Waiting(plan, deadline_s, take, ticket)
        size = len(plan.keys)
        assert size, "a plan without checks needs no store"
        if self._is_closed:
            self._tell_one(waiting, StoreUnavailable("store queue: shutting down"))
            return waiting
        if self._queue and self._queued_checks + size > self._max_queued_checks:
            if self._on_full is not None:
                self._on_full()
            full = StoreOverloaded("store queue: full; the store is slower than its callers")
            self._tell_one(waiting, full)
            return waiting
        if deadline_s < self._expires_at_s:
            now_s = self._loop.time()
            if deadline_s <= now_s + EXPIRY_STEP_S / 2:
                passed = StoreUnavailable("store queue: the deadline has passed")
                self._tell_one(waiting, passed)
                return waiting
            self._expire_at(deadline_s, now_s)
        waiting.is_queued = True
        self._queue.append(waiting)
        self._queued_checks += size
        if not self._is_busy:
            self._is_busy = True
            self._idle.clear()
            self._loop.call_soon(self._send_next)
        return waiting

    async def close(self) -> None:
        """Refuse what is queued and wait for the batch in flight, which its sender bounds."""
        self._is_closed = True
        while self._queue:
            waiting = self._queue.popleft()
            self._leave(waiting)
            self._tell_one(waiting, StoreUnavailable("store queue: shutting down"))
        await self._idle.wait()
        if self._expiry is not None:
            self._expiry.cancel()

    def _send_next(self) -> None:
        """Send what waits as one batch, or rest."""
        batch = self._in_flight = self._take()
        if not batch:
            self._is_busy = False
            self._idle.set()
            return

        def done(answers: Sequence[Answer]) -> None:
            self._on_answers(batch, answers)

        try:
            self._send([waiting.plan for waiting in batch], done)
        except Exception as error:  # noqa: BLE001 - a defect must reach its callers, not end the queue
            self._defects.record(error, "a batch could not be sent")
            lost = StoreReplyLost(f"store: {type(error).__name__}; see the log")
            self._loop.call_soon(done, [lost] * len(batch))

    def _take(self) -> Sequence[Waiting]:
        """Take what fits into one batch, at least one plan, leaving out whom nobody awaits."""
        queue = self._queue
        if not queue:
            return ()
        now_s = self._loop.time()
        batch: list[Waiting] = []
        room = self._max_batch_checks
        while queue:
            waiting = queue[0]
            size = len(waiting.plan.keys)
            if batch and size > room:
                break
            queue.popleft()
            self._leave(waiting)
            if waiting.take is None:
                continue
            if waiting.deadline_s <= now_s:
                self._tell_one(waiting, _too_late(waiting))
                continue
            waiting.is_sent = True
            batch.append(waiting)
            room -= size
        return batch

    def _leave(self, waiting: Waiting) -> None:
        """Count one as queued no more."""
        if waiting.is_queued:
            waiting.is_queued = False
            self._queued_checks -= len(waiting.plan.keys)

    def _on_answers(self, batch: Sequence[Waiting], answers: Sequence[Answer]) -> None:
        if batch is not self._in_flight:
            # A sender that told its answers and then failed: they were taken.
            return
        self._send_next()
        if len(answers) != len(batch):
            self._defects.record(None, "%d answers to %d plans", len(answers), len(batch))
            answers = [StoreReplyLost("store: no answer; see the log")] * len(batch)
        taker = batch[0].take
        if taker is not None and all(waiting.take is taker for waiting in batch):
            for waiting in batch:
                waiting.take = None
            self._tell(taker, batch, answers)
            return
        late = sum(waiting.take is None for waiting in batch)
        for waiting, answer in zip(batch, answers, strict=True):
            self._tell_one(waiting, answer)
        if late and self._on_late is not None:
            self._on_late(late)

    def _tell(self, take: Take, batch: Sequence[Waiting], answers: Sequence[Answer]) -> None:
        try:
            take(batch, answers)
        except Exception as error:  # noqa: BLE001 - the others are answered all the same
            self._defects.record(error, "the answers of a batch could not be told")

    def _tell_one(self, waiting: Waiting, answer: Answer) -> None:
        """Tell one caller, once."""
        take, waiting.take = waiting.take, None
        if take is not None:
            self._tell(take, (waiting,), (answer,))

    def _expire_at(self, deadline_s: float, now_s: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires_at_s = max(deadline_s, now_s + EXPIRY_STEP_S)
        self._expiry = self._loop.call_at(self._expires_at_s, self._expire)

    def _expire(self) -> None:
        """Answer whose deadline has passed, and look again at the next one.

        One timer for all: callers of one kind have deadlines in the order they came, so it is
        seldom moved. While the store answers it runs about once in the time that callers wait,
        while it is silent once a millisecond at most. Who was answered leaves the queue's room.
        """
        self._expiry = None
        self._expires_at_s = _NEVER_S
        queue = self._queue
        now_s = self._loop.time()
        next_s = _NEVER_S
        for waiting in list(chain(self._in_flight, queue)):
            if waiting.take is None:
                continue
            if waiting.deadline_s <= now_s:
                self._leave(waiting)
                self._tell_one(waiting, _too_late(waiting))
            elif waiting.deadline_s < next_s:
                next_s = waiting.deadline_s
        # Also from behind somebody patient: what nobody awaits would gather there unbounded.
        for _ in range(len(queue)):
            waiting = queue.popleft()
            if waiting.take is None:
                self._leave(waiting)
            else:
                queue.append(waiting)
        if next_s < self._expires_at_s:
            self._expire_at(next_s, now_s)


def _too_late(waiting: Waiting) -> StoreError:
    if waiting.is_sent:
        return StoreReplyLost("store: no answer in time")
    return StoreUnavailable("store queue: the deadline passed before it was sent")


def _copy(error: StoreError) -> StoreError:
    """Return an instance for one caller: a shared one would gather everybody's traceback."""
    for kind in (StoreReplyLost, StoreOverloaded):
        if isinstance(error, kind):
            return kind(str(error))
    return StoreUnavailable(str(error))
