"""Who gets the next connection, and who gives up some: properties of the pure rules."""

from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.workers.balance import FILL_S, PATIENCE_S, Rebalancer, choose

LOADS = st.lists(st.integers(0, 5_000), min_size=2, max_size=8)


def give_up(loads: dict[int, int], surplus: dict[int, int]) -> None:
    """Move what is given up, as clients do that come back at once."""
    for worker, count in surplus.items():
        assert 0 < count <= loads[worker]
        loads[worker] -= count
        for _ in range(count):
            place = choose(list(loads.values()), 0)
            assert place is not None
            loads[list(loads)[place]] += 1


@given(st.lists(st.none() | st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 7))
def test_choose_returns_one_with_the_fewest(loads: list[int | None], after: int) -> None:
    chosen = choose(loads, after % len(loads))

    able = [load for load in loads if load is not None]
    if able:
        assert chosen is not None
        assert loads[chosen] == min(able)
    else:
        assert chosen is None


@given(st.integers(1, 8), st.integers(0, 7))
def test_choose_goes_round_among_equals(count: int, after: int) -> None:
    chosen = [after % count]
    for _ in range(count):
        found = choose([5] * count, chosen[-1])
        assert found is not None
        chosen.append(found)

    assert chosen[1:] == [(after + 1 + step) % count for step in range(count)]


@given(st.integers(1, 8), st.lists(st.integers(0, 99), max_size=100))
def test_connections_are_even_while_none_closes(count: int, arrivals: list[int]) -> None:
    loads: list[int | None] = [0] * count
    last = 0
    for _ in arrivals:
        found = choose(loads, last)
        assert found is not None
        last = found
        loads[last] = (loads[last] or 0) + 1

    known = [load for load in loads if load is not None]
    assert max(known) - min(known) <= 1


@given(LOADS)
@example([8, 0])
@example([3, 3, 1])
def test_worker_that_joins_is_filled_until_all_are_even(numbers: list[int]) -> None:
    loads = dict(enumerate(numbers))
    total = sum(numbers)
    rebalancer = Rebalancer()
    rebalancer.join(0.0)

    for second in range(int(FILL_S)):
        surplus = rebalancer.surplus(dict(loads), float(second))
        give_up(loads, surplus)

    assert max(loads.values()) - min(loads.values()) <= 1
    assert sum(loads.values()) == total


def test_worker_that_joins_gets_half_of_eight_within_seconds() -> None:
    loads = {1: 8, 2: 0}
    rebalancer = Rebalancer()
    rebalancer.join(0.0)
    rounds: list[dict[int, int]] = []
    while surplus := rebalancer.surplus(loads, float(len(rounds))):
        rounds.append(surplus)
        give_up(loads, surplus)

    assert rounds == [{1: 1}] * 4
    assert loads == {1: 4, 2: 4}


def test_filling_ends_although_clients_stay_away() -> None:
    rebalancer = Rebalancer()
    rebalancer.join(0.0)

    assert rebalancer.surplus({1: 9, 2: 0}, FILL_S - 1) == {1: 1}
    assert rebalancer.surplus({1: 9, 2: 0}, FILL_S) == {}


@given(LOADS)
def test_nobody_gives_up_anything_before_the_patience_ends(numbers: list[int]) -> None:
    rebalancer = Rebalancer()
    loads = dict(enumerate(numbers))

    for second in range(int(PATIENCE_S)):
        assert rebalancer.surplus(loads, float(second)) == {}

    surplus = rebalancer.surplus(loads, PATIENCE_S)
    mean = sum(numbers) / len(numbers)
    assert set(surplus) == {worker for worker, load in loads.items() if load >= mean + 2}
    assert set(surplus.values()) <= {1}


def test_each_connection_given_up_needs_the_whole_patience() -> None:
    rebalancer = Rebalancer()
    loads = {1: 10, 2: 0}

    given = [second for second in range(100) if rebalancer.surplus(loads, float(second))]

    assert given == [30, 60, 90]


def test_patience_begins_anew_after_a_moment_of_balance() -> None:
    rebalancer = Rebalancer()
    high, even = {1: 10, 2: 0}, {1: 5, 2: 5}

    assert rebalancer.surplus(high, 0.0) == {}
    assert rebalancer.surplus(even, 29.0) == {}
    assert rebalancer.surplus(high, 30.0) == {}
    assert rebalancer.surplus(high, 59.0) == {}
    assert rebalancer.surplus(high, 60.0) == {1: 1}


def test_a_single_worker_never_gives_up() -> None:
    rebalancer = Rebalancer()
    rebalancer.join(0.0)

    assert rebalancer.surplus({1: 100}, 0.0) == {}
    assert rebalancer.surplus({1: 100}, 100.0) == {}
    assert rebalancer.surplus({}, 200.0) == {}
