"""give_back.lua: what one part of a request was charged, after another part refused it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from ratelimitd.decisions.plan import Check, CheckResult, Periods
from ratelimitd.policy.model import Calendar, Limit, Unit
from ratelimitd.store.wire import Charge
from tests.support.plans import check_of, gcra_of, limit_of, places_of, plan_of, sliding_of
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server

NOW_US = 1_790_000_000_000_000
A, B = b"A" * 16, b"B" * 16


@pytest.fixture
def client(store_server: Server) -> Iterator[redis.Redis]:
    connected = store_server.client()
    yield connected
    connected.flushall()


@pytest.fixture
def store(client: redis.Redis) -> ScriptedStore:
    return ScriptedStore(client)


def spend(store: ScriptedStore, check: Check, now_us: int = NOW_US) -> CheckResult:
    (reply,) = store.check([plan_of(check)], now_us)
    return reply.results[0]


def used(store: ScriptedStore, check: Check, now_us: int = NOW_US) -> int:
    (reply,) = store.peek([plan_of(check._replace(cost=0))], now_us)
    return reply.results[0].used_before


def charge_of(check: Check, amount: int, charged_at_us: int = NOW_US) -> Charge:
    return Charge(check, check.key, amount, charged_at_us)


def calendar_check() -> Check:
    limit = replace(limit_of(10, Unit.DAY), calendar=Calendar(Unit.DAY))
    periods = Periods(*[NOW_US + step for step in (-50, -20, 60_000_000, 90_000_000)])
    return check_of(limit, cost=3)._replace(periods=periods)


@pytest.mark.parametrize(
    "check",
    [
        check_of(limit_of(10), cost=3),
        check_of(sliding_of(10), cost=3),
        calendar_check(),
    ],
    ids=["fixed", "sliding", "calendar"],
)
def test_charge_of_a_window_is_given_back_into_that_window_only(
    store: ScriptedStore, check: Check
) -> None:
    # given two charges
    spend(store, check)
    spend(store, check)
    # when
    given = store.give_back([charge_of(check, 3)], NOW_US + 1)
    # then
    assert given == 1
    assert used(store, check, NOW_US + 1) == 3
    # when the window has passed, or was not there yet
    assert store.give_back([charge_of(check, 3)], NOW_US + 60_000_001) == 0
    assert store.give_back([charge_of(check, 3, NOW_US - 60_000_000)], NOW_US) == 0
    assert used(store, check, NOW_US + 1) == 3


def test_charge_of_a_calendar_without_a_period_for_now_is_kept(store: ScriptedStore) -> None:
    # given
    check = calendar_check()
    spend(store, check)
    # then
    assert store.give_back([charge_of(check, 3)], NOW_US + 90_000_000) == 0
    assert used(store, check) == 3


@pytest.mark.parametrize(
    "limit", [limit_of(10), sliding_of(10), gcra_of(10), places_of(10)], ids=lambda x: x.algorithm
)
def test_give_back_of_an_absent_counter_does_nothing(
    client: redis.Redis, store: ScriptedStore, limit: Limit
) -> None:
    assert store.give_back([charge_of(check_of(limit), 1)], NOW_US) <= 1
    assert used(store, check_of(limit)) == 0
    assert not client.exists(check_of(places_of(10)).key)


def test_cells_are_given_back_less_what_time_gave_back_already(store: ScriptedStore) -> None:
    # given six cells of a second each, three of them before
    check = check_of(gcra_of(1, burst=10), cost=3)
    spend(store, check)
    spend(store, check)
    # when a second and a half of the three is over
    given = store.give_back([charge_of(check, 3)], NOW_US + 1_500_000)
    # then a second and a half goes back: 4.5 - 1.5
    assert given == 1
    assert used(store, check, NOW_US + 1_500_000) == 3
    assert used(store, check, NOW_US + 1_500_001) == 3
    assert used(store, check, NOW_US + 2_500_000) == 2


def test_cells_that_time_gave_back_are_not_given_twice(store: ScriptedStore) -> None:
    # given
    check = check_of(gcra_of(1, burst=10), cost=3)
    spend(store, check)
    spend(store, check, NOW_US + 3_000_001)
    # when
    given = store.give_back([charge_of(check, 3)], NOW_US + 3_000_001)
    # then
    assert given == 0
    assert used(store, check, NOW_US + 3_000_001) == 3


def test_refunded_cells_are_taken_again(store: ScriptedStore) -> None:
    # given
    check = check_of(gcra_of(1, burst=10), cost=3)
    spend(store, check)
    spend(store, check._replace(cost=-2))
    # when
    given = store.give_back([charge_of(check, -2)], NOW_US)
    # then
    assert given == 1
    assert used(store, check) == 3


def test_slot_is_given_back_by_its_name(client: redis.Redis, store: ScriptedStore) -> None:
    # given two holders
    check = check_of(places_of(5))
    spend(store, check._replace(slot=A))
    spend(store, check._replace(slot=B))
    # when
    given = store.give_back([charge_of(check._replace(slot=B), 1)], NOW_US)
    # then
    assert given == 1
    assert client.zrange(check.key, 0, -1) == [A]
    # when it is gone already
    assert store.give_back([charge_of(check._replace(slot=B), 1)], NOW_US) == 0
    # when the last goes, so does the key
    store.give_back([charge_of(check._replace(slot=A), 1)], NOW_US)
    assert not client.exists(check.key)


def test_places_without_a_name_are_given_back_by_their_deadline(store: ScriptedStore) -> None:
    # given places of two moments
    check = check_of(places_of(9), cost=2)
    spend(store, check)
    spend(store, check, NOW_US + 1)
    # when
    given = store.give_back([charge_of(check, 2, NOW_US + 1)], NOW_US + 2)
    # then those that were taken last are free
    assert given == 1
    assert used(store, check, NOW_US + 2) == 2
    assert used(store, check, NOW_US + 10_000_000) == 0
