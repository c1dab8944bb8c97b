import asyncio

import pytest

from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.store.breaker import FAILURES_TO_OPEN, Breaker


async def _never() -> None:
    raise StoreUnavailable("still away")


async def test_breaker_opens_after_failures_in_a_row_only() -> None:
    # given
    breaker = Breaker(_never, now=lambda: 0.0)
    # when
    for _ in range(3 * FAILURES_TO_OPEN):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.record_failure(StoreReplyLost("slow"))
        breaker.record_success()
    # then
    assert not breaker.is_open
    breaker.check()


async def test_breaker_tells_how_long_it_is_open_and_why() -> None:
    # given
    time_s = 10.0
    told: list[tuple[bool, str]] = []
    breaker = Breaker(_never, now=lambda: time_s, on_change=lambda *event: told.append(event))
    # when
    for _ in range(2 * FAILURES_TO_OPEN):
        breaker.record_failure(StoreUnavailable("connection refused"))
    time_s = 12.5
    # then
    assert breaker.open_for_s == 2.5
    assert breaker.opened_count == 1
    assert told == [(True, "connection refused")]
    with pytest.raises(StoreUnavailable, match="connection refused; not asked again"):
        breaker.check()
    await breaker.close()


async def test_breaker_closes_on_the_first_probe_that_is_answered() -> None:
    # given
    answers = iter([StoreUnavailable("still away"), None])

    async def probe() -> None:
        error = next(answers)
        if error is not None:
            raise error

    closed = asyncio.Event()

    def on_change(is_open: bool, _: str) -> None:
        if not is_open:
            closed.set()

    breaker = Breaker(probe, now=lambda: 0.0, on_change=on_change)
    # when
    breaker.open(StoreUnavailable("away"))
    async with asyncio.timeout(5):
        await closed.wait()
    # then
    breaker.check()
    assert breaker.open_for_s == 0.0
    await breaker.close()
