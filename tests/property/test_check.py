"""check.lua and peek.lua on real servers, against the model, for any history."""

from collections.abc import Iterator
from random import Random

import pytest
import redis
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratelimitd.decisions.plan import Check, Plan, Reply
from ratelimitd.policy.model import Algorithm
from tests.model.limits import ModelStore, counts_denied
from tests.property.requests import (
    KINDS,
    NOW_US,
    History,
    Moment,
    checks,
    dump,
    histories,
    lone_moments,
    plans,
)
from tests.support.plans import check_of, limit_of, places_of, plan_of
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server

GARBAGE = (
    b"",
    b"nonsense",
    b"1:2:3:4",
    b"-1:5",
    b"1.5:2",
    b"99999999999999999:1",
    b"1:9007199254740993",
    b"1790000000000000:",
    b"1790000000000000:1x",
    b"1790000000000000:99999999999999999",
    b"1:2",
    b"1:2:-3",
    b"1790000000000000:9999999999:1",
    b"1790000000000000:1:4294967297",
    b"99999999999999999:1:1",
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


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_check_of_one_algorithm_equals_the_model(
    client: redis.Redis, store: ScriptedStore, kind: str, data: st.DataObject
) -> None:
    assert_as_the_model(client, store, data.draw(st.lists(lone_moments(kind), max_size=10)))


@given(histories)
def test_check_equals_the_model(
    client: redis.Redis, store: ScriptedStore, history: History
) -> None:
    assert_as_the_model(client, store, history)


def assert_as_the_model(client: redis.Redis, store: ScriptedStore, history: History) -> None:
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
        assert_equal(peeked, expected_peek)
        assert_equal(replies, expected)
        assert (store.lost, store.unreadable) == (model.lost, 0)
        assert set(store.ttl_ms) == set(model.lives_ms)
        for key, ttl_ms in store.ttl_ms.items():
            # The server's clock may tick between the script's SET and PTTL.
            assert model.lives_ms[key] - 500 <= ttl_ms <= model.lives_ms[key]


def assert_equal(replies: list[Reply], expected: list[Reply]) -> None:
    """Compare check by check: what differs is small, a list of replies is not."""
    for reply, right in zip(replies, expected, strict=True):
        for number, (result, right_result) in enumerate(
            zip(reply.results, right.results, strict=True)
        ):
            assert (number, result) == (number, right_result)
        assert reply == right


@given(histories, st.data())
def test_batch_borders_do_not_matter(
    client: redis.Redis,
    store: ScriptedStore,
    history: History,
    data: st.DataObject,
) -> None:
    # given one moment, and everything that is asked in it
    batch = [plan for _, plans_then in history for plan in plans_then]
    cut = data.draw(st.integers(0, len(batch)))
    client.flushall()
    # when decided as one list
    together = store.check(batch, NOW_US)
    state_together = dump(client)
    # when decided in two
    client.flushall()
    apart = [
        reply for part in (batch[:cut], batch[cut:]) if part for reply in store.check(part, NOW_US)
    ]
    # then
    assert apart == together
    assert dump(client) == state_together


@given(
    st.lists(plans(has_births=False), min_size=1, max_size=3),
    st.sampled_from(GARBAGE),
    st.sampled_from(["string", "list", "set"]),
)
def test_garbage_counts_as_absent_and_is_overwritten(
    client: redis.Redis, store: ScriptedStore, batch: list[Plan], garbage: bytes, kind: str
) -> None:
    # given a counter that holds what no script wrote
    client.flushall()
    spoiled = batch[0].checks[0]
    match kind:
        case "string":
            client.set(spoiled.key, garbage)
        case "list":
            client.rpush(spoiled.key, garbage)
        case _:
            client.zadd(spoiled.key, {garbage: 1_790_000_000_000_001})
    garbled = dump(client)[spoiled.key]
    # when
    replies = store.check(batch, NOW_US)
    # then
    assert replies == ModelStore().check(batch, NOW_US)
    has_sets = spoiled.limit.algorithm is Algorithm.CONCURRENCY
    if replies[0].is_stale:
        return
    if has_sets or (kind == "string" and not _is_readable(spoiled, garbage)):
        assert store.unreadable == 1
        assert dump(client).get(spoiled.key) != garbled


def _is_readable(check: Check, state: bytes) -> bool:
    """Two of the examples are the state of another algorithm."""
    is_gcra_or_fixed = check.limit.algorithm is not Algorithm.SLIDING_WINDOW
    return state == b"1:2" and is_gcra_or_fixed


@pytest.mark.parametrize(
    "members",
    [
        {b"short": 1_790_000_000_000_001},
        {b"A" * 16: 1_790_000_000_000_001.5},
        {b"A" * 16: -1},
        {b"A" * 16: float("inf")},
        {b"A" * 16: 2**53},
    ],
)
def test_set_with_odd_members_counts_as_empty(
    client: redis.Redis, store: ScriptedStore, members: dict[bytes, float]
) -> None:
    # given a set beside whose odd member there is a right one
    client.flushall()
    check = check_of(places_of(1))._replace(slot=b"C" * 16)
    client.zadd(check.key, {b"B" * 16: NOW_US + 5_000_000, **members})
    # when
    (reply,) = store.check([plan_of(check)], NOW_US)
    # then
    assert not reply.is_refused
    assert store.unreadable == 1
    assert client.zrange(check.key, 0, -1) == [check.slot]


@given(
    st.lists(checks(has_births=False), min_size=1, max_size=4), st.randoms(use_true_random=False)
)
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
@example([Moment(0, [plan_of(check_of(limit_of(0, counts_denied=False)))])])
def test_refusal_that_counts_no_denied_hits_changes_nothing_but_what_is_ahead(
    client: redis.Redis, store: ScriptedStore, history: History
) -> None:
    # given
    client.flushall()
    model, now_us = ModelStore(), NOW_US
    for step, batch in history:
        now_us += step
        for plan in batch:
            before = dump(client)
            # when
            (reply,) = store.check([plan], now_us)
            model.check([plan], now_us)
            # then
            if reply.is_refused and not any(counts_denied(c) for c in plan.checks):
                after = dump(client)
                assert set(before) == set(after)
                changed = {key for key, state in after.items() if before[key] != state}
                assert changed <= set(model.lives_ms)
                # and what was ahead of the clock is so no more
                assert store.check([plan], now_us) == [reply]
                assert dump(client) == after
