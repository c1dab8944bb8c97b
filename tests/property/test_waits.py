"""What the algorithms promise: refused until exactly retry_after, and how much a span admits."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.decisions.plan import Check, Periods
from ratelimitd.policy.model import Calendar, Unit
from tests.property.requests import DAY_US, NOW_US, border_us
from tests.support.plans import check_of, gcra_of, limit_of, places_of, plan_of, sliding_of
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def client(session_store: Server) -> Iterator[redis.Redis]:
    connected = session_store.client()
    yield connected
    connected.flushall()


@pytest.fixture(scope="module")
def store(client: redis.Redis) -> ScriptedStore:
    return ScriptedStore(client)


@st.composite
def counted(draw: st.DrawFn) -> Check:
    """Draw a check that is admitted alone, and refused once its counter is used up."""
    amount = draw(st.integers(1, 6))
    cost = draw(st.integers(1, amount))
    day = NOW_US // DAY_US
    periods = None
    match draw(st.sampled_from(["fixed", "calendar", "sliding", "gcra", "places"])):
        case "fixed":
            limit = limit_of(amount, Unit.MINUTE, counts_denied=False)
        case "calendar":
            limit = replace(
                limit_of(amount, Unit.DAY, counts_denied=False), calendar=Calendar(Unit.DAY)
            )
            periods = Periods(*[border_us(day + step) for step in (-1, 0, 1, 2)])
        case "sliding":
            limit = sliding_of(amount, draw(st.sampled_from([1_000_000, 60_000_000, 7_000_001])))
        case "gcra":
            rate = draw(st.integers(1, 11))
            window_us = draw(st.sampled_from([1_000_000, 60_000_000, 7_000_001]))
            limit = gcra_of(rate, window_us, burst=amount)
        case _:
            limit, cost = places_of(amount), draw(st.integers(1, amount))
    return check_of(limit, cost=cost)._replace(periods=periods)


@given(counted(), st.lists(st.integers(0, 20_000_000), max_size=6), st.booleans())
def test_refused_until_exactly_retry_after(
    client: redis.Redis,
    store: ScriptedStore,
    check: Check,
    gaps_us: list[int],
    counts_denied: bool,
) -> None:
    # given a counter with a history, that refuses
    client.flushall()
    check = check._replace(limit=replace(check.limit, counts_denied=counts_denied))
    plan, now_us = plan_of(check), NOW_US
    for gap_us in gaps_us:
        store.check([plan], now_us)
        now_us += gap_us
    for _ in range(8):
        (refused,) = store.check([plan], now_us)
        if refused.is_refused:
            break
    assert refused.is_refused
    retry_us = refused.results[0].retry_after_us
    # when
    (just_before,) = store.peek([plan], now_us + retry_us - 1)
    (at_it,) = store.peek([plan], now_us + retry_us)
    # then
    assert just_before.is_refused
    assert not at_it.is_refused


@pytest.mark.parametrize(
    "rate",
    [
        (3, 1_000_000, 3),
        (3, 1_000_000, 1),
        (7, 60_000_000, 2),
        (1_000_000, 1_000_000, 5),
        (2**26, DAY_US, 2**26),
        (2**26 - 1, DAY_US, 100_000),
    ],
)
@given(data=st.data())
def test_gcra_admits_at_most_burst_and_rate_in_any_span(
    client: redis.Redis,
    store: ScriptedStore,
    rate: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    # given costs at random moments, most of them near the rate
    client.flushall()
    amount, window_us, burst = rate
    limit = gcra_of(amount, window_us, burst=burst)
    cell_us = max(1, window_us // amount)
    largest = min(burst, 3_000_000)
    now_us = NOW_US
    admitted: list[tuple[int, int]] = []
    # when
    for _ in range(data.draw(st.integers(1, 12))):
        cost = data.draw(st.one_of(st.integers(1, largest), st.just(largest)))
        now_us += data.draw(st.one_of(st.just(0), st.integers(0, 3 * cell_us * cost)))
        (reply,) = store.check([plan_of(check_of(limit, cost=cost))], now_us)
        if not reply.is_refused:
            admitted.append((now_us, cost))
    # then exactly, in every span between two moments
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            span_us = admitted[last][0] - admitted[first][0]
            total = sum(cost for _, cost in admitted[first : last + 1])
            assert total <= burst + Fraction(amount * span_us, window_us)


@pytest.mark.parametrize("amount", [1, 3, 7, 1_000, 1_000_000])
def test_gcra_asked_at_each_retry_after_loses_nothing(
    client: redis.Redis, store: ScriptedStore, amount: int
) -> None:
    # given a full bucket that is spent; the second cell covers what is below a microsecond
    client.flushall()
    plan = plan_of(check_of(gcra_of(amount, burst=2)))
    store.check([plan, plan], NOW_US)
    now_us = NOW_US
    # when one cell is asked for as soon as it is there
    for number in range(1, 50):
        (refused,) = store.check([plan], now_us)
        now_us += refused.results[0].retry_after_us
        (admitted,) = store.check([plan], now_us)
        assert not admitted.is_refused
        # then each comes at the first microsecond that the rate allows
        assert now_us == NOW_US - (-number * 1_000_000 // amount)


@given(st.lists(st.tuples(st.integers(0, 30_000_000), st.integers(1, 5)), max_size=12))
def test_sliding_window_never_admits_above_its_estimate(
    client: redis.Redis, store: ScriptedStore, asked: list[tuple[int, int]]
) -> None:
    # given
    client.flushall()
    limit = sliding_of(5)
    now_us = NOW_US
    for gap_us, cost in asked:
        now_us += gap_us
        # when
        (reply,) = store.check([plan_of(check_of(limit, cost=cost))], now_us)
        # then
        assert reply.results[0].used_final <= 5
        assert reply.is_refused == (reply.results[0].used_before + cost > 5)


@given(
    st.lists(
        st.tuples(st.integers(0, 4_000_000), st.integers(0, 5), st.sampled_from([1, 1, -1])),
        max_size=20,
    )
)
@example([(0, 0, 1), (0, 0, 1), (0, 1, 1), (0, 2, 1), (0, 0, -1), (0, 0, -1), (0, 2, 1)])
def test_concurrency_has_never_more_than_its_limit_in_flight(
    client: redis.Redis, store: ScriptedStore, calls: list[tuple[int, int, int]]
) -> None:
    # given holders that come, come again, and leave, also after they were refused
    client.flushall()
    limit, now_us = places_of(2, slot_ttl_us=10_000_000), NOW_US
    in_flight: dict[bytes, int] = {}
    for gap_us, holder, cost in calls:
        now_us += gap_us
        slot = bytes([holder]) * 16
        # when
        (reply,) = store.check([plan_of(check_of(limit, cost=cost)._replace(slot=slot))], now_us)
        # then
        in_flight = {name: until for name, until in in_flight.items() if until > now_us}
        if cost < 0:
            in_flight.pop(slot, None)
        elif not reply.is_refused:
            in_flight[slot] = now_us + 10_000_000
        assert reply.results[0].used_final == len(in_flight) <= 2


def test_a_state_ahead_of_the_clock_costs_one_bucket_at_most(
    client: redis.Redis, store: ScriptedStore
) -> None:
    # given buckets that were emptied an hour from now
    client.flushall()
    limit = gcra_of(1, burst=3, max_debt=2)
    store.check([plan_of(check_of(limit, cost=3))], NOW_US + HOUR_US)
    # when
    (reply,) = store.check([plan_of(check_of(limit, cost=1))], NOW_US)
    # then it waits for a cell and the debt
    assert reply.is_refused
    assert reply.results[0].retry_after_us == 3_000_000
