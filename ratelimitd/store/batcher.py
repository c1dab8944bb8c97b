"""Natural batching: one batch in flight; what arrives meanwhile is the next one.

Rules:
- No timer: an idle store is asked at once, a busy one gets larger batches.
- A plan is in one batch, and a batch is sent once, whatever became of its callers.
- A caller is answered by its own deadline: StoreUnavailable while its plan is still queued (it is
  then never sent), StoreReplyLost once it is on its way.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable

_log = logging.getLogger("ratelimitd.store")

# About 2 ms of store; KEYS of a script must stay well below what Lua's unpack takes.
MAX_BATCH_CHECKS = 512
# 32 full batches, about 64 ms of store: whoever stands further back misses its deadline anyway.
MAX_QUEUED_CHECKS = 16_384

Send = Callable[[Sequence[Plan]], Awaitable[Sequence[Reply | StoreError]]]


Done = Callable[[Reply | StoreError], None]


class _Waiting:
    """One plan on its way; `done` is None once its caller was answered."""

    __slots__ = ("deadline_s", "done", "is_sent", "plan")

    def __init__(self, plan: Plan, deadline_s: float, done: Done) -> None:
        self.plan = plan
        self.deadline_s = deadline_s
        self.done: Done | None = done
        self.is_sent = False

    def answer(self, answer: Reply | StoreError) -> None:
        """Tell the caller, once."""
        done, self.done = self.done, None
        if done is not None:
            done(answer)


class Batcher:
    """Turns single plans into batches for `send`, which answers each plan or raises for all."""

    def __init__(
        self,
        send: Send,
        *,
        max_batch_checks: int = MAX_BATCH_CHECKS,
        max_queued_checks: int = MAX_QUEUED_CHECKS,
        on_late: Callable[[int], None] | None = None,
    ) -> None:
        """`on_late` is told how many answers of a batch came after their callers' deadlines."""
        self._send = send
        self._max_batch_checks = max_batch_checks
        self._max_queued_checks = max_queued_checks
        self._on_late = on_late
        self._queue: deque[_Waiting] = deque()
        self._queued_checks = 0
        self._in_flight: Sequence[_Waiting] = ()
        self._running: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def queued_checks(self) -> int:
        """How many checks wait for their batch."""
        return self._queued_checks

    async def check(self, plan: Plan, *, timeout_s: float) -> Reply:
        """Decide and charge one plan in the next batch; raises StoreError for no decision."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()

        def done(result: Reply | StoreError) -> None:
            if answer.done():
                return
            if isinstance(result, Reply):
                answer.set_result(result)
            else:
                answer.set_exception(result)

        waiting = self.submit(plan, timeout_s, done)
        try:
            return await answer
        finally:
            if waiting is not None:
                waiting.done = None

    def submit(self, plan: Plan, timeout_s: float, done: Done) -> _Waiting | None:
        """Put one plan into the next batch; `done` gets the reply or why there is none, once.

        A refusal is told at once, and returns None.
        """
        assert plan.checks, "a plan without checks needs no store"
        loop = asyncio.get_running_loop()
        refusal = self._refusal(plan, timeout_s)
        if refusal:
            done(StoreUnavailable(refusal))
            return None
        deadline_s = loop.time() + timeout_s
        waiting = _Waiting(plan, deadline_s, done)
        self._queue.append(waiting)
        self._queued_checks += len(plan.checks)
        if self._running is None:
            self._running = loop.create_task(self._run())
        if self._expiry is None or deadline_s < self._expiry.when():
            self._expire_at(deadline_s)
        return waiting

    async def close(self) -> None:
        """Refuse what is queued and wait for the batch in flight, which its sender bounds."""
        self._is_closed = True
        while self._queue:
            self._queue.popleft().answer(StoreUnavailable("store queue: shutting down"))
        self._queued_checks = 0
        if self._running is not None:
            await asyncio.wait({self._running})
        if self._expiry is not None:
            self._expiry.cancel()

    def _refusal(self, plan: Plan, timeout_s: float) -> str:
        if self._is_closed:
            return "store queue: shutting down"
        if timeout_s <= 0:
            return "store queue: the deadline has passed"
        if self._queue and self._queued_checks + len(plan.checks) > self._max_queued_checks:
            return "store queue: full"
        return ""

    async def _run(self) -> None:
        """Send batch after batch until nothing waits."""
        try:
            while batch := self._take():
                self._in_flight = batch
                await self._send_batch(batch)
        finally:
            self._in_flight = ()
            self._running = None

    def _take(self) -> list[_Waiting]:
        """Take what fits into one batch, at least one plan, leaving out whom nobody awaits."""
        batch: list[_Waiting] = []
        checks = 0
        while self._queue:
            size = len(self._queue[0].plan.checks)
            if batch and checks + size > self._max_batch_checks:
                break
            waiting = self._queue.popleft()
            self._queued_checks -= size
            if waiting.done is not None:
                waiting.is_sent = True
                batch.append(waiting)
                checks += size
        return batch

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self._send([waiting.plan for waiting in batch])
            pairs = list(zip(batch, answers, strict=True))
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.answer(StoreReplyLost("store: shutting down before the answer came"))
            raise
        except StoreError as error:
            for waiting in batch:
                waiting.answer(_copy(error))
            return
        except Exception as error:  # noqa: BLE001 - a defect must reach its callers, not end the queue
            _log.exception("a batch failed")
            for waiting in batch:
                waiting.answer(StoreReplyLost(f"store: {type(error).__name__}; see the log"))
            return
        late = sum(waiting.done is None for waiting in batch)
        if late and self._on_late is not None:
            self._on_late(late)
        for waiting, answer in pairs:
            waiting.answer(_copy(answer) if isinstance(answer, StoreError) else answer)

    def _expire_at(self, deadline_s: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        """Answer whose deadline has passed, and look again at the next one.

        One timer for all: callers of one kind have deadlines in the order they came, so it is
        seldom moved, and runs about once in the time that callers wait.
        """
        self._expiry = None
        now_s = asyncio.get_running_loop().time()
        next_s: float | None = None
        for waiting in chain(self._in_flight, self._queue):
            if waiting.done is None:
                continue
            if waiting.deadline_s <= now_s:
                waiting.answer(_too_late(waiting))
            elif next_s is None or waiting.deadline_s < next_s:
                next_s = waiting.deadline_s
        if next_s is not None:
            self._expire_at(next_s)


def _too_late(waiting: _Waiting) -> StoreError:
    if waiting.is_sent:
        return StoreReplyLost("store: no answer in time")
    return StoreUnavailable("store queue: the deadline passed before it was sent")


def _copy(error: StoreError) -> StoreError:
    """Return an instance for one caller: a shared one would gather everybody's traceback."""
    lost = isinstance(error, StoreReplyLost)
    return StoreReplyLost(str(error)) if lost else StoreUnavailable(str(error))
