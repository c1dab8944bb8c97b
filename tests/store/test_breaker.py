import asyncio

import pytest

from ratelimitd.errors import StoreReplyLost, StoreUnavailable
from ratelimitd.store.breaker import FAILURES_TO_OPEN, Breaker


async def _never() -> None:
    raise StoreUnavailable("still away")


async def test_breaker_opens_after_failures_in_a_row_only() -> None:
    # given
    told: list[tuple[bool, str]] = []
    breaker = Breaker(_never, on_change=lambda *event: told.append(event))
    # when
    for _ in range(3 * FAILURES_TO_OPEN):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.record_failure(StoreReplyLost("slow"))
        breaker.record_success()
    # then
    assert told == []
    breaker.check()


async def test_breaker_tells_once_that_it_is_open_and_why() -> None:
    # given
    told: list[tuple[bool, str]] = []
    breaker = Breaker(_never, on_change=lambda *event: told.append(event))
    # when
    for _ in range(2 * FAILURES_TO_OPEN):
        breaker.record_failure(StoreUnavailable("connection refused"))
    # then
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

    breaker = Breaker(probe, on_change=on_change)
    # when
    breaker.open(StoreUnavailable("away"))
    async with asyncio.timeout(5):
        await closed.wait()
    # then
    breaker.check()
    await breaker.close()


async def test_breaker_goes_on_probing_after_a_defect_in_the_probe(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # given
    answers = iter([ValueError("a defect"), None])
    closed = asyncio.Event()

    async def probe() -> None:
        error = next(answers)
        if error is not None:
            raise error

    def on_change(is_open: bool, _: str) -> None:
        if not is_open:
            closed.set()

    breaker = Breaker(probe, on_change=on_change)
    # when
    breaker.open(StoreUnavailable("away"))
    async with asyncio.timeout(5):
        await closed.wait()
    # then
    assert [record.getMessage() for record in caplog.records] == ["the probe of the store failed"]
    await breaker.close()
