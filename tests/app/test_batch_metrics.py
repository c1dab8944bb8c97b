import asyncio
from collections.abc import Iterator, Sequence

import pytest

from ratelimitd.app.batch_metrics import measured
from ratelimitd.decisions.plan import Check, Plan, Reply
from ratelimitd.decisions.request import Descriptor, Request
from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.store.batcher import Batcher, Send
from ratelimitd.store.port import Answer, OnReplies
from ratelimitd.store.wire import PackedPlan, pack_plan
from ratelimitd.telemetry.counters import Telemetry
from tests.support.stores import sending
from tests.unit.telemetry.samples import limit

REPLY = Reply(now_us=0, is_refused=False, results=())


def plan(checks: int) -> PackedPlan:
    request = Request("api", (Descriptor((("ip", "1"),)),))
    return pack_plan(
        Plan(
            request=request,
            policy_revision="00ff",
            descriptors=(),
            checks=(Check(key=b"k", limit=limit("ip"), cost=1),) * checks,
        )
    )


def clock(*times_s: float) -> Iterator[float]:
    yield from times_s


def answering(*answers: Answer) -> Send:
    def send(plans: Sequence[PackedPlan], done: OnReplies) -> None:
        done(answers)

    return send


def ask(send: Send, *plans: PackedPlan) -> Sequence[Answer]:
    told: list[Sequence[Answer]] = []
    send(plans, told.append)
    (answers,) = told
    return answers


def test_batch_is_timed_and_sized() -> None:
    telemetry = Telemetry()
    times = clock(10.0, 10.004)
    send = measured(answering(REPLY, REPLY), telemetry, lambda: next(times))

    answers = ask(send, plan(1), plan(2))

    store = telemetry.store
    assert answers == (REPLY, REPLY)
    assert store.seconds.total == pytest.approx(0.004)
    assert (store.checks.total, store.plans.total) == (3, 2)
    assert store.errors == {}


def test_batch_never_sent_is_an_error_without_a_time() -> None:
    telemetry = Telemetry()
    times = clock(10.0, 10.001)
    send = measured(answering(StoreUnavailable("open")), telemetry, lambda: next(times))

    ask(send, plan(1))

    assert telemetry.store.errors == {"unavailable": 1}
    assert telemetry.store.seconds.count == 0


def test_lost_reply_is_an_error_with_its_time() -> None:
    telemetry = Telemetry()
    times = clock(10.0, 10.25)
    send = measured(answering(StoreReplyLost("silence")), telemetry, lambda: next(times))

    ask(send, plan(1))

    assert telemetry.store.errors == {"reply_lost": 1}
    assert telemetry.store.seconds.total == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ((REPLY, StoreUnavailable("node")), "unavailable"),
        ((StoreReplyLost("node"), StoreUnavailable("node")), "reply_lost"),
    ],
)
def test_batch_decided_in_part_counts_its_worst_error(
    answers: tuple[Answer, ...], kind: str
) -> None:
    telemetry = Telemetry()
    times = clock(10.0, 10.001)

    ask(measured(answering(*answers), telemetry, lambda: next(times)), plan(1), plan(1))

    assert telemetry.store.errors == {kind: 1}


async def test_answer_after_its_deadline_is_counted_as_late() -> None:
    # given a batch whose answer waits until its caller was told that none came
    telemetry = Telemetry()
    is_told = asyncio.Event()

    async def answer(plans: Sequence[Plan]) -> Sequence[Answer]:
        await is_told.wait()
        return [REPLY] * len(plans)

    batcher = Batcher(sending(answer), on_late=telemetry.late_answer)
    with pytest.raises(StoreReplyLost):
        await batcher.check(plan(1).plan, timeout_s=0.001)

    # when the answer comes
    is_told.set()
    await batcher.check(plan(1).plan, timeout_s=10)

    # then it is late, and the one in time is not
    assert telemetry.store.late_answers == 1
    await batcher.close()
