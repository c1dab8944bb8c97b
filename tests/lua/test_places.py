"""Places held at once, and new counters, by example."""

from collections.abc import Iterator

import pytest
import redis

from ratelimitd.decisions.plan import Births, Check, CheckResult
from ratelimitd.policy.model import Limit, Unit
from tests.support.plans import check_of, gcra_of, limit_of, places_of, plan_of, sliding_of
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server

# The start of a minute.
NOW_US = 1_790_000_040_000_000
A, B, C = (letter * 16 for letter in (b"A", b"B", b"C"))


@pytest.fixture
def client(store_server: Server) -> Iterator[redis.Redis]:
    connected = store_server.client()
    yield connected
    connected.flushall()


@pytest.fixture
def store(client: redis.Redis) -> ScriptedStore:
    return ScriptedStore(client)


def ask(store: ScriptedStore, check: Check, now_us: int = NOW_US) -> CheckResult:
    (reply,) = store.check([plan_of(check)], now_us)
    return reply.results[0]


def test_slot_is_one_place_however_often_it_is_taken(
    client: redis.Redis, store: ScriptedStore
) -> None:
    # given
    first = check_of(places_of(1), cost=3)._replace(slot=A)
    ask(store, first)
    # when it comes again, later
    again = ask(store, first, NOW_US + 4_000_000)
    # then it holds its one place, and longer
    assert (again.is_over, again.used_before, again.used_final) == (False, 1, 1)
    assert client.zscore(first.key, A) == NOW_US + 14_000_000
    # then another waits for that deadline exactly
    other = first._replace(slot=B)
    refused = ask(store, other, NOW_US + 4_000_000)
    assert (refused.is_over, refused.retry_after_us) == (True, 10_000_000)
    assert ask(store, other, NOW_US + 13_999_999).is_over
    assert not ask(store, other, NOW_US + 14_000_000).is_over
    assert client.zrange(first.key, 0, -1) == [B]


def test_holder_stays_when_the_limit_was_lowered(store: ScriptedStore) -> None:
    # given two holders, and room for one
    for slot in (A, B):
        ask(store, check_of(places_of(2))._replace(slot=slot))
    lowered = check_of(places_of(1))
    # then who comes again keeps its place, and a question says that there are too many
    assert not ask(store, lowered._replace(slot=A)).is_over
    assert ask(store, lowered._replace(cost=0)).is_over
    assert ask(store, lowered._replace(slot=C)).is_over


def test_wait_for_several_places_is_until_the_last_of_them_is_free(store: ScriptedStore) -> None:
    # given a deadline each second, and no place left
    check = check_of(places_of(3))
    for number in range(3):
        ask(store, check, NOW_US + number * 1_000_000)
    # when
    refused = [ask(store, check._replace(cost=cost), NOW_US + 2_000_000) for cost in (1, 2, 3, 4)]
    # then
    waits = [result.retry_after_us for result in refused]
    assert waits == [8_000_000, 9_000_000, 10_000_000, -1]


def test_release_of_who_holds_nothing_frees_nobody(
    client: redis.Redis, store: ScriptedStore
) -> None:
    # given
    check = check_of(places_of(1))
    ask(store, check._replace(slot=A))
    # when
    released = ask(store, check._replace(slot=B, cost=-1))
    # then
    assert released.used_final == 1
    assert client.zrange(check.key, 0, -1) == [A]


def test_refund_without_a_slot_frees_the_nearest_deadlines(
    client: redis.Redis, store: ScriptedStore
) -> None:
    # given a deadline each second
    check = check_of(places_of(9))
    for number in range(4):
        ask(store, check, NOW_US + number * 1_000_000)
    # when
    ask(store, check._replace(cost=-2), NOW_US + 3_000_000)
    ask(store, check._replace(cost=-1), NOW_US + 3_000_000)
    # then
    last_us = NOW_US + 13_000_000
    assert client.zcount(check.key, last_us, last_us) == client.zcard(check.key) == 1


def test_last_deadline_goes_with_its_holder_within_a_batch(store: ScriptedStore) -> None:
    # given two holders
    check = check_of(places_of(2))
    ask(store, check._replace(slot=A))
    ask(store, check._replace(slot=B), NOW_US + 1_000_000)
    # when the last of them leaves between two questions
    question, release = check._replace(cost=0), check._replace(slot=B, cost=-1)
    plans = [plan_of(question), plan_of(release), plan_of(question)]
    replies = store.check(plans, NOW_US + 2_000_000)
    # then
    resets = [reply.results[0].reset_us for reply in replies]
    assert resets == [9_000_000, 8_000_000, 8_000_000]


def test_cost_beyond_what_may_be_taken_without_a_slot_never_fits(store: ScriptedStore) -> None:
    # given
    check = check_of(places_of(2**32 - 1))
    # then
    assert not ask(store, check._replace(cost=1000)).is_over
    assert ask(store, check._replace(cost=1001)).retry_after_us == -1


def test_new_counters_beyond_the_bound_share_one(client: redis.Redis, store: ScriptedStore) -> None:
    # given room for one new counter a second
    limit = limit_of(2, Unit.YEAR)
    births = Births(b"rl:1:{00}births", b"rl:1:{00}overflow", 1)
    a, b, c = (check_of(limit, value)._replace(births=births) for value in "abc")
    # when
    results = [ask(store, check) for check in (a, b, c, a, b)]
    # then
    assert [result.is_overflowed for result in results] == [False, True, True, False, True]
    assert [result.used_after for result in results] == [1, 1, 2, 2, 3]
    assert sorted(client.scan_iter()) == sorted([a.key, births.key, births.overflow_key])
    # when a second later
    assert not ask(store, b, NOW_US + 1_000_000).is_overflowed
    # then a question gives birth to nothing
    assert not ask(store, c._replace(cost=0), NOW_US + 1_000_000).is_overflowed


def test_refusal_that_writes_nothing_is_no_birth(client: redis.Redis, store: ScriptedStore) -> None:
    # given a new counter that is refused
    births = Births(b"rl:1:{00}births", b"rl:1:{00}overflow", 1)
    closed = check_of(limit_of(0, counts_denied=False))._replace(births=births)
    opened = check_of(limit_of(5), "other")._replace(births=births)
    # when both are asked in one batch
    refused, admitted = store.check([plan_of(closed), plan_of(opened)], NOW_US)
    # then
    assert refused.is_refused
    assert not admitted.results[0].is_overflowed
    assert client.get(births.key) == b"%d:1" % NOW_US


def test_release_in_a_request_that_is_refused_frees_its_place(
    client: redis.Redis, store: ScriptedStore
) -> None:
    # given a call that ends with more tokens than there are left
    place = check_of(places_of(1, slot_ttl_us=3_600_000_000))._replace(slot=A)
    tokens = check_of(limit_of(100), "tokens", cost=150)
    ask(store, place)
    # when
    (ended,) = store.check([plan_of(place._replace(cost=-1), tokens)], NOW_US)
    # then
    assert ended.is_refused
    assert client.zcard(place.key) == 0
    assert not ask(store, place._replace(slot=B)).is_over


@pytest.mark.parametrize(
    "limit", [limit_of(5), sliding_of(5), gcra_of(5), places_of(5)], ids=lambda one: one.algorithm
)
def test_refund_to_nobody_leaves_nothing(
    client: redis.Redis, store: ScriptedStore, limit: Limit
) -> None:
    # when
    ask(store, check_of(limit, cost=-2))
    # then
    assert client.dbsize() == 0
