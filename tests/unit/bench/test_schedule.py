from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.schedule import Schedule, connection_order

MS = 1_000_000


def take_all(schedule: Schedule, step_ns: int) -> list[int]:
    found: list[int] = []
    now_ns = 0
    while not schedule.is_over:
        now_ns += step_ns
        found += schedule.take_due(now_ns)
    return found


@given(steps=st.lists(st.integers(0, 40 * MS), max_size=30))
def test_instants_do_not_depend_on_when_they_are_taken(steps: list[int]) -> None:
    # Given
    all_at_once = Schedule(2_000, 0.5, "seed").take_due(10**12)
    schedule = Schedule(2_000, 0.5, "seed")

    # When
    taken: list[int] = []
    now_ns = 0
    for step in steps:
        now_ns += step
        due = schedule.take_due(now_ns)
        assert all(instant <= now_ns for instant in due)
        taken += due
    taken += schedule.take_due(10**12)

    # Then
    assert taken == all_at_once


def test_instants_of_a_stall_are_due_at_their_own_times() -> None:
    # A caller that could not send for 100 ms owes a hundred calls, at a hundred instants.
    schedule = Schedule(1_000, 1.0, "seed")
    schedule.take_due(100 * MS)
    owed = schedule.take_due(200 * MS)
    assert 60 < len(owed) < 140
    assert owed == sorted(owed)
    assert owed[0] < 110 * MS
    assert owed[-1] > 190 * MS


def test_rate_is_what_was_asked_for() -> None:
    found = take_all(Schedule(10_000, 5.0, "seed"), MS)
    assert 49_000 < len(found) < 51_000
    assert found[-1] < 5_000 * MS


def test_schedule_ends_and_gives_nothing_after_it() -> None:
    schedule = Schedule(1_000, 0.1, "seed")
    last = schedule.take_due(10**12)[-1]
    assert last < 100 * MS
    assert schedule.is_over
    assert schedule.take_due(10**13) == []


def test_equal_seeds_give_equal_instants() -> None:
    one, same, other = (take_all(Schedule(500, 1.0, seed), MS) for seed in ("a", "a", "b"))
    assert one == same
    assert one != other


@pytest.mark.parametrize("weights", [(1, 1), (1, 5)])
def test_connections_are_used_within_their_weights(weights: tuple[int, int]) -> None:
    counts = Counter(connection_order(300, weights, "seed"))
    low, high = weights
    assert set(counts) == set(range(300))
    assert set(counts.values()) == set(range(low, high + 1))
