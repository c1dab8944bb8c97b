"""Natural batching: one batch in flight; what arrives meanwhile is the next one.

Rules:
- No timer: an idle store is asked at once, a busy one gets larger batches.
- A plan is in one batch, and a batch is sent once, whatever became of its callers.
- A caller is answered by its own deadline: StoreUnavailable while its plan is still queued (it is
  then never sent), StoreReplyLost once it is on its way.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreReplyLost, StoreUnavailable

# About 2 ms of store; KEYS of a script must stay well below what Lua's unpack takes.
MAX_BATCH_CHECKS = 512
# 32 full batches, about 64 ms of store: whoever stands further back misses its deadline anyway.
MAX_QUEUED_CHECKS = 16_384

Send = Callable[[Sequence[Plan]], Awaitable[Sequence[Reply | StoreError]]]


@dataclass(slots=True)
class _Waiting:
    plan: Plan
    answer: asyncio.Future[Reply]
    is_sent: bool = False


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
        self._running: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def queued_checks(self) -> int:
        """How many checks wait for their batch."""
        return self._queued_checks

    async def check(self, plan: Plan, *, timeout_s: float) -> Reply:
        """Decide and charge one plan in the next batch."""
        assert plan.checks, "a plan without checks needs no store"
        if self._is_closed:
            raise StoreUnavailable("store queue: shutting down")
        if timeout_s <= 0:
            raise StoreUnavailable("store queue: the deadline has passed")
        if self._queued_checks + len(plan.checks) > self._max_queued_checks and self._queue:
            raise StoreUnavailable("store queue: full")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(plan, loop.create_future())
        self._queue.append(waiting)
        self._queued_checks += len(plan.checks)
        if self._running is None:
            self._running = loop.create_task(self._run())
        expiry = loop.call_later(timeout_s, _expire, waiting)
        try:
            return await waiting.answer
        finally:
            expiry.cancel()

    async def close(self) -> None:
        """Refuse what is queued and wait for the batch in flight, which its sender bounds."""
        self._is_closed = True
        while self._queue:
            waiting = self._queue.popleft()
            _fail(waiting, StoreUnavailable("store queue: shutting down"))
        self._queued_checks = 0
        if self._running is not None:
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        """Send batch after batch until nothing waits."""
        try:
            while batch := self._take():
                await self._send_batch(batch)
        finally:
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
            if not waiting.answer.done():
                waiting.is_sent = True
                batch.append(waiting)
                checks += size
        return batch

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self._send([waiting.plan for waiting in batch])
        except asyncio.CancelledError:
            for waiting in batch:
                _fail(waiting, StoreReplyLost("store: shutting down before the answer came"))
            raise
        except Exception as error:  # noqa: BLE001 - a defect must reach its callers, not end the queue
            for waiting in batch:
                _fail(waiting, _copy(error))
            return
        late = sum(waiting.answer.done() for waiting in batch)
        if late and self._on_late is not None:
            self._on_late(late)
        for waiting, answer in zip(batch, answers, strict=True):
            if isinstance(answer, StoreError):
                _fail(waiting, _copy(answer))
            elif not waiting.answer.done():
                waiting.answer.set_result(answer)


def _expire(waiting: _Waiting) -> None:
    error: StoreError
    if waiting.is_sent:
        error = StoreReplyLost("store: no answer in time")
    else:
        error = StoreUnavailable("store queue: the deadline passed before it was sent")
    _fail(waiting, error)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


def _copy(error: Exception) -> Exception:
    """Return an instance for one caller: a shared one would gather everybody's traceback."""
    match error:
        case StoreUnavailable():
            return StoreUnavailable(str(error))
        case StoreReplyLost():
            return StoreReplyLost(str(error))
        case _:
            return error
