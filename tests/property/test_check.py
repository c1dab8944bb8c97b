"""check.lua and peek.lua on real servers, against the model, for any history."""

from collections.abc import Iterator
from random import Random

import pytest
import redis
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratelimitd.decisions.plan import Check, Plan
from ratelimitd.policy.model import WINDOW_US, Unit
from tests.model.limits import ModelStore
from tests.support.plans import check_of, limit_of, plan_of
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server

NOW_US = 1_790_000_000_000_000
DAY_US = WINDOW_US[Unit.DAY]
LARGEST = 2**53 - 1
GARBAGE = (
    b"",
    b"nonsense",
    b"1:2:3",
    b"-1:5",
    b"1.5:2",
    b"99999999999999999:1",
    b"1:9007199254740993",
    b"1790000000000000:",
    b"1790000000000000:1x",
    b"1790000000000000:99999999999999999",
    b"\xff\x00",
)


@pytest.fixture(scope="module")
def client(session_store: Server) -> Iterator[redis.Redis]:
    connected = session_store.client()
    yield connected
    connected.flushall()


@pytest.fixture(scope="module")
def store(client: redis.Redis) -> ScriptedStore:
    return ScriptedStore(client)


costs = st.one_of(
    st.integers(-3, 6), st.just(0), st.sampled_from([LARGEST, -LARGEST, 2**32 - 1, LARGEST - 1])
)


@st.composite
def checks(draw: st.DrawFn) -> Check:
    limit = limit_of(
        draw(st.one_of(st.integers(0, 6), st.just(2**32 - 1))),
        draw(st.sampled_from([Unit.MINUTE, Unit.SECOND, Unit.YEAR])),
        is_shadow=draw(st.booleans()),
        is_quota=draw(st.booleans()),
        counts_denied=draw(st.booleans()),
    )
    return check_of(limit, draw(st.sampled_from("aab")), draw(costs))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    return plan_of(
        *draw(st.lists(checks(), min_size=1, max_size=4)),
        passing_quota=draw(st.integers(0, 1)),
        is_denied=draw(st.sampled_from([False, False, False, True])),
    )


# Steps to borders of every unit, small ones, and backwards.
steps = st.one_of(
    st.integers(-3_000_000, 3_000_000),
    st.sampled_from([0, 1, -1, 999_999, 60_000_000, -10_000_000, 10_000_000, -DAY_US, DAY_US]),
    st.just(366 * DAY_US),
)
histories = st.lists(
    st.tuples(steps, st.lists(plans(), min_size=1, max_size=3)), min_size=1, max_size=12
)


@given(histories)
def test_check_equals_the_model(
    client: redis.Redis, store: ScriptedStore, history: list[tuple[int, list[Plan]]]
) -> None:
    # given
    client.flushall()
    model, now_us = ModelStore(), NOW_US
    for step, batch in history:
        now_us += step
        # when
        peeked = store.peek(batch, now_us)
        expected_peek = model.peek(batch, now_us)
        replies = store.check(batch, now_us)
        expected = model.check(batch, now_us)
        # then
        assert peeked == expected_peek
        assert replies == expected
        assert set(store.ttl_ms) == model.writes
        assert_lives(store, batch, now_us)


def assert_lives(store: ScriptedStore, batch: list[Plan], now_us: int) -> None:
    """Each written key lives until its window ends, in whole milliseconds rounded up."""
    window_of = {check.key: check.limit.window_us for plan in batch for check in plan.checks}
    for key, ttl_ms in store.ttl_ms.items():
        window_us = window_of[key]
        expected_ms = -(-(window_us - now_us % window_us) // 1000)
        # The server's clock may tick between the script's SET and PTTL.
        assert expected_ms - 500 <= ttl_ms <= expected_ms


@given(histories, st.data())
def test_batch_borders_do_not_matter(
    client: redis.Redis,
    store: ScriptedStore,
    history: list[tuple[int, list[Plan]]],
    data: st.DataObject,
) -> None:
    # given one moment, and everything that is asked in it
    batch = [plan for _, plans_then in history for plan in plans_then]
    cut = data.draw(st.integers(0, len(batch)))
    client.flushall()
    # when decided as one list
    together = store.check(batch, NOW_US)
    state_together = {key: client.get(key) for key in client.scan_iter()}
    # when decided in two
    client.flushall()
    apart = [
        reply for part in (batch[:cut], batch[cut:]) if part for reply in store.check(part, NOW_US)
    ]
    # then
    assert apart == together
    assert {key: client.get(key) for key in client.scan_iter()} == state_together


@given(st.lists(plans(), min_size=1, max_size=3), st.sampled_from(GARBAGE), st.booleans())
def test_garbage_counts_as_absent_and_is_overwritten(
    client: redis.Redis,
    store: ScriptedStore,
    batch: list[Plan],
    garbage: bytes,
    is_wrong_type: bool,
) -> None:
    # given a counter that holds what no script wrote
    client.flushall()
    spoiled = batch[0].checks[0].key
    if is_wrong_type:
        client.rpush(spoiled, garbage)
    else:
        client.set(spoiled, garbage)
    # when
    replies = store.check(batch, NOW_US)
    # then
    assert replies == ModelStore().check(batch, NOW_US)
    if not is_wrong_type:
        assert store.unreadable == 1
        assert client.get(spoiled) != garbage


@given(st.lists(checks(), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_order_of_limits_in_a_request_does_not_matter(
    client: redis.Redis, store: ScriptedStore, of_one: list[Check], random: Random
) -> None:
    # given limits of one request on counters of their own
    assume(len({check.key for check in of_one}) == len(of_one))
    shuffled = of_one.copy()
    random.shuffle(shuffled)
    # when
    client.flushall()
    (in_order,) = store.check([plan_of(*of_one)], NOW_US)
    client.flushall()
    (in_other_order,) = store.check([plan_of(*shuffled)], NOW_US)
    # then
    assert in_order.is_refused == in_other_order.is_refused
    by_key = {check.key: r for check, r in zip(of_one, in_order.results, strict=True)}
    other = {check.key: r for check, r in zip(shuffled, in_other_order.results, strict=True)}
    assert by_key == other


@given(histories)
@example([(0, [plan_of(check_of(limit_of(0, counts_denied=False)))])])
def test_refusal_that_counts_no_denied_hits_changes_nothing(
    client: redis.Redis, store: ScriptedStore, history: list[tuple[int, list[Plan]]]
) -> None:
    # given
    client.flushall()
    now_us = NOW_US
    for step, batch in history:
        now_us += step
        for plan in batch:
            before = {key: client.get(key) for key in client.scan_iter()}
            # when
            (reply,) = store.check([plan], now_us)
            # then
            if reply.is_refused and not any(c.limit.counts_denied for c in plan.checks):
                assert {key: client.get(key) for key in client.scan_iter()} == before


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, WINDOW_US[Unit.MINUTE] - 1))
def test_refused_until_exactly_retry_after(
    client: redis.Redis, store: ScriptedStore, amount: int, cost: int, offset_us: int
) -> None:
    # given a counter that is used up
    assume(cost <= amount)
    client.flushall()
    limit = limit_of(amount)
    start_us = NOW_US - NOW_US % limit.window_us + offset_us
    store.check([plan_of(check_of(limit, cost=amount))], start_us)
    # when
    (refused,) = store.check([plan_of(check_of(limit, cost=cost))], start_us)
    retry_us = refused.results[0].retry_after_us
    (just_before,) = store.check([plan_of(check_of(limit, cost=cost))], start_us + retry_us - 1)
    (at_it,) = store.check([plan_of(check_of(limit, cost=cost))], start_us + retry_us)
    # then
    assert refused.is_refused
    assert just_before.is_refused
    assert not at_it.is_refused
