"""A store asked directly, by those who wait for its answers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ratelimitd.decisions.plan import Plan, Reply
from ratelimitd.errors import StoreError, StoreReplyLost
from ratelimitd.store.batcher import Send
from ratelimitd.store.port import Answer, OnReplies, Store, all_or_raise
from ratelimitd.store.wire import PackedPlan, pack_plan


async def check(store: Store, plans: Sequence[Plan], *, timeout_s: float) -> list[Reply]:
    return all_or_raise(await check_each(store, plans, timeout_s=timeout_s))


async def check_each(store: Store, plans: Sequence[Plan], *, timeout_s: float) -> Sequence[Answer]:
    answered: asyncio.Future[Sequence[Answer]] = asyncio.get_running_loop().create_future()

    def done(answers: Sequence[Answer]) -> None:
        if not answered.done():
            answered.set_result(answers)

    store.send([pack_plan(plan) for plan in plans], done)
    try:
        async with asyncio.timeout(timeout_s):
            return await answered
    except TimeoutError:
        return [StoreReplyLost("store: no answer in time")] * len(plans)


def sending(answer: Callable[[Sequence[Plan]], Awaitable[Sequence[Answer]]]) -> Send:
    """Return a sender that tells what `answer` returns, or raises, for a batch."""
    tasks = set()

    def send(plans: Sequence[PackedPlan], done: OnReplies) -> None:
        async def run() -> None:
            try:
                answers = await answer([packed.plan for packed in plans])
            except StoreError as error:
                answers = [error] * len(plans)
            done(answers)

        task = asyncio.create_task(run())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return send
