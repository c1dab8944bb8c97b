"""Each algorithm at its borders, by example."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import ceil, gcd

import pytest
import redis

from ratelimitd.decisions.plan import Check, CheckResult, Periods, Reply
from ratelimitd.policy.model import Algorithm, Calendar, Unit
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


def calendar_check(cost: int = 1) -> Check:
    """Periods of ten, twenty and thirty seconds."""
    limit = replace(limit_of(9, Unit.DAY), calendar=Calendar(Unit.DAY))
    starts = (0, 10_000_000, 30_000_000, 60_000_000)
    return check_of(limit, cost=cost)._replace(periods=Periods(*[NOW_US + us for us in starts]))


@pytest.mark.parametrize(
    ("at_us", "reset_us"),
    [
        (0, 10_000_000),
        (9_999_999, 1),
        (10_000_000, 20_000_000),
        (29_999_999, 1),
        (30_000_000, 30_000_000),
        (59_999_999, 1),
    ],
)
def test_calendar_takes_the_period_that_holds_now(
    client: redis.Redis, store: ScriptedStore, at_us: int, reset_us: int
) -> None:
    # when
    result = ask(store, calendar_check(), NOW_US + at_us)
    # then
    assert result == CheckResult(False, 0, 1, 1, reset_us, 0)
    assert store.ttl_ms[calendar_check().key] <= -(-reset_us // 1000)
    start_us = max(start for start in calendar_check().periods or () if start <= NOW_US + at_us)
    assert client.get(calendar_check().key) == b"%d:1" % start_us


@pytest.mark.parametrize("at_us", [-1, 60_000_000])
def test_calendar_without_a_period_for_now_decides_nothing(
    client: redis.Redis, store: ScriptedStore, at_us: int
) -> None:
    # given a stale request between two that are not, each with a slot
    place = check_of(places_of(5))
    plans = [
        plan_of(place._replace(slot=A)),
        plan_of(place._replace(slot=B), calendar_check(), is_denied=True),
        plan_of(place._replace(slot=C), check_of(limit_of(5), cost=2)),
    ]
    # when
    replies = store.check(plans, NOW_US + at_us)
    # then
    nothing = CheckResult(False, 0, 0, 0, 0, 0)
    assert replies[1] == Reply(NOW_US + at_us, True, (nothing, nothing), is_stale=True)
    assert [result.used_final for result in replies[2].results] == [2, 2]
    assert sorted(client.zrange(place.key, 0, -1)) == [A, C]
    assert client.dbsize() == 2


def test_window_in_the_future_is_pulled_to_now_with_its_count(
    client: redis.Redis, store: ScriptedStore
) -> None:
    for check, state in (
        (check_of(limit_of(9)), b"%d:4"),
        (calendar_check(), b"%d:4"),
        (check_of(sliding_of(9)), b"%d:3:1"),
    ):
        # given
        client.set(check.key, state % (NOW_US + 3_600_000_000))
        # then
        assert ask(store, check).used_before == 4


def test_sliding_window_counts_the_part_of_the_last_one_that_overlaps(
    store: ScriptedStore,
) -> None:
    # given eight of a minute
    check = check_of(sliding_of(8), cost=8)
    ask(store, check)
    one = check._replace(cost=1)
    # then at the border it counts whole, and later in parts rounded up
    assert ask(store, one, NOW_US + 60_000_000).used_before == 8
    assert ask(store, one, NOW_US + 60_000_000).retry_after_us == 7_500_000
    assert ask(store, one, NOW_US + 67_499_999).is_over
    assert not ask(store, one, NOW_US + 67_500_000).is_over
    assert ask(store, one._replace(cost=0), NOW_US + 119_999_999).used_before == 2
    # when a whole window has passed
    assert ask(store, one._replace(cost=0), NOW_US + 180_000_000).used_before == 0


def test_sliding_window_waits_for_its_own_count_in_the_next_window(store: ScriptedStore) -> None:
    # given four of four, a second into the minute
    check = check_of(sliding_of(4), cost=4)
    ask(store, check, NOW_US + 1_000_000)
    # when
    refused = ask(store, check._replace(cost=1), NOW_US + 1_000_000)
    # then a quarter of the next window must pass too
    assert refused.retry_after_us == 59_000_000 + 15_000_000


@pytest.mark.parametrize("beyond", [1, 2, 5, -1, -2, -5])
def test_sliding_window_of_a_year_and_more_is_weighed_exactly(
    client: redis.Redis, store: ScriptedStore, beyond: int
) -> None:
    # given a rest of the window whose weight is hardly more, or less, than a whole number
    window_us = (400 * 86_400 + 1) * 1_000_000
    step = gcd(window_us, 2**20)
    part_us = window_us // step
    rest_us = window_us - part_us + beyond * pow(2**20 // step, -1, part_us) % part_us
    check = check_of(sliding_of(2**32 - 1, window_us), cost=0)
    end_us = (NOW_US // window_us + 1) * window_us
    client.set(check.key, b"%d:0:%d" % (end_us - window_us, 2**20))
    # when
    result = ask(store, check, end_us - rest_us)
    # then
    assert result.used_before == ceil(Fraction(rest_us * 2**20, window_us))


@pytest.mark.parametrize(
    ("limit", "unreadable"),
    [
        (limit_of(5), (b"", b"x", b"1:2:3", b"1790000040000000:1x", b"1790000040000000:")),
        (sliding_of(5), (b"", b"1:2", b"1:2:", b"1:2:4294967297", b"1:99999999999:1")),
        (gcra_of(5), (b"", b"1", b"1:2:3", b"-1:0", b"9007199254740992:0", b"1:1.5")),
    ],
    ids=["fixed", "sliding", "gcra"],
)
def test_unreadable_state_is_absent_and_overwritten_by_a_question_too(
    client: redis.Redis, store: ScriptedStore, limit: object, unreadable: tuple[bytes, ...]
) -> None:
    for state in unreadable:
        # given
        check = check_of(limit, cost=0)  # type: ignore[arg-type]
        client.set(check.key, state)
        # when
        result = ask(store, check)
        # then
        assert result.used_before == 0
        assert store.unreadable == 1
        assert client.get(check.key) != state


def test_gcra_of_a_changed_number_rounds_a_remainder_that_is_too_large(
    client: redis.Redis, store: ScriptedStore
) -> None:
    # given a remainder of 6/7 us, read as sevenths and as thirds
    check = check_of(gcra_of(7, burst=1), cost=0)
    client.set(check.key, b"%d:6" % NOW_US)
    # then
    assert ask(store, check).reset_us == 1
    thirds = check_of(gcra_of(3, burst=1), cost=1)
    assert ask(store, thirds).retry_after_us == 1


def test_gcra_counts_cells_exactly_where_a_float_cannot(store: ScriptedStore) -> None:
    # given cells so many and so small that their time in 1/limit us is far above 2^53
    limit = gcra_of(2**26 - 3, 365 * 86_400_000_000, burst=2**26)
    for cells in range(2**25 + 1, 2**26, 2**20 - 3):
        check = check_of(limit, str(cells), cells)
        # then what is used is what was spent
        assert ask(store, check).used_final == cells


def test_gcra_debt_is_capped_and_what_exceeds_it_is_told(store: ScriptedStore) -> None:
    # given a bucket of three and a debt of two, a cell each second
    check = check_of(gcra_of(1, burst=3, max_debt=2, counts_denied=True), cost=4)
    # when
    first = ask(store, check)
    lost_first = store.lost
    second = ask(store, check)
    # then
    assert (first.used_final, first.retry_after_us, lost_first) == (4, -1, 0)
    assert (second.used_before, second.used_final, store.lost) == (4, 5, 3)
    # then a question is over until the debt is gone
    question = check._replace(cost=0)
    assert ask(store, question, NOW_US + 1_999_999).retry_after_us == 1
    assert not ask(store, question, NOW_US + 2_000_000).is_over


def test_gcra_of_nothing_admits_nothing_and_writes_nothing(
    client: redis.Redis, store: ScriptedStore
) -> None:
    # given
    check = check_of(gcra_of(0, counts_denied=True))
    # then
    assert ask(store, check) == CheckResult(True, 0, 0, 0, 0, -1)
    assert not ask(store, check._replace(cost=0)).is_over
    assert client.dbsize() == 0


@pytest.mark.parametrize(
    "check",
    [
        check_of(limit_of(5, Unit.SECOND)),
        check_of(sliding_of(5, 1_000_000)),
        check_of(gcra_of(3)),
        check_of(places_of(5, slot_ttl_us=1_000_001)),
        calendar_check(),
    ],
    ids=[f"valkey9-{kind}" for kind in ("fixed", "sliding", "gcra", "places", "calendar")],
)
def test_life_is_rounded_up_to_whole_milliseconds(valkey9: Server, check: Check) -> None:
    # given a server whose clock stands still within a transaction
    client = valkey9.client()
    client.flushall()
    store = ScriptedStore(client)
    # when it means something for so many milliseconds and a bit
    life_us = ask(store, check, NOW_US + 1).reset_us
    if check.limit.algorithm is Algorithm.SLIDING_WINDOW:
        life_us += check.limit.window_us
    # then
    assert life_us % 1000
    assert store.ttl_ms == {check.key: life_us // 1000 + 1}
