"""The bounds that docs/algorithms.md states hold for the traffic that its pictures show."""

from collections.abc import Iterator
from itertools import pairwise
from operator import ge

import pytest

from bench.traffic import (
    BURST,
    CALL_US,
    DAILY,
    HOUR_US,
    LIMIT,
    SILENT_US,
    SLOT_TTL_S,
    START_US,
    US_PER_S,
    Asker,
    Traffic,
    counted_in,
    in_days,
    in_flight,
    in_windows,
    midnights_us,
    most_in,
)
from tests.support.scripted import ScriptedStore
from tests.support.servers import Server


@pytest.fixture
def asker(valkey9: Server) -> Iterator[Asker]:
    client = valkey9.client()
    client.flushall()
    yield Asker(ScriptedStore(client))
    client.flushall()


def exceeding(traffic: Traffic, burst: int, rate: int) -> list[tuple[int, int]]:
    """Return the spans, from one admitted request to another, with more than burst + rate x t."""
    times_us = traffic.admitted_us
    return [
        (first_us, last_us)
        for at, first_us in enumerate(times_us)
        for count, last_us in enumerate(times_us[at:], start=1)
        if count * US_PER_S > burst * US_PER_S + rate * (last_us - first_us)
    ]


def by_window(traffic: Traffic, window_us: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    for at_us in traffic.admitted_us:
        counts[at_us // window_us] = counts.get(at_us // window_us, 0) + 1
    return counts


def test_fixed_window_admits_its_limit_per_window_and_twice_that_across_a_border(
    asker: Asker,
) -> None:
    # when
    traffic = in_windows(asker, "fixed_window")
    # then
    assert max(by_window(traffic, US_PER_S).values()) == LIMIT
    assert most_in(traffic.admitted_us, US_PER_S) == 2 * LIMIT
    # and twice the limit really comes at once: within a third of a window
    assert most_in(traffic.admitted_us, US_PER_S // 3) == 2 * LIMIT


def test_sliding_window_is_never_above_its_limit_by_its_estimate(asker: Asker) -> None:
    # when
    traffic = in_windows(asker, "sliding_window")
    # then
    assert max(traffic.counts) == LIMIT
    assert max(by_window(traffic, US_PER_S).values()) == LIMIT


def test_sliding_window_admits_at_most_the_limit_and_its_rate_in_any_span(asker: Asker) -> None:
    # when
    traffic = in_windows(asker, "sliding_window")
    # then
    assert exceeding(traffic, LIMIT, LIMIT) == []
    assert most_in(traffic.admitted_us, US_PER_S // 3) <= LIMIT + LIMIT // 3


def test_gcra_admits_at_most_burst_and_rate_in_any_span(asker: Asker) -> None:
    # when
    traffic = in_windows(asker, "gcra")
    # then
    assert exceeding(traffic, BURST, LIMIT) == []
    # and no less would do: the burst is admitted at once, as is what comes at the rate
    assert exceeding(traffic, BURST - 1, LIMIT) != []
    steady_us = [at_us for at_us in traffic.admitted_us if 3 <= (at_us - START_US) / US_PER_S < 4]
    assert len(steady_us) == LIMIT


def test_calendar_admits_its_limit_per_local_day_also_where_it_has_25_hours(asker: Asker) -> None:
    # given
    borders_us = midnights_us()
    assert [(end_us - begin_us) // HOUR_US for begin_us, end_us in pairwise(borders_us)] == [25, 24]
    # when
    traffic = in_days(asker)
    # then
    per_day = [
        sum(begin_us <= at_us < end_us for at_us in traffic.admitted_us)
        for begin_us, end_us in pairwise(borders_us)
    ]
    assert per_day == [DAILY, DAILY]


def test_concurrency_with_slots_has_at_most_its_limit_in_flight(asker: Asker) -> None:
    # when
    occupancy = in_flight(asker, has_slots=True)
    # then
    assert max(occupancy.in_flight) == LIMIT
    assert max(occupancy.held) == LIMIT


def test_concurrency_frees_places_whose_release_was_lost(asker: Asker) -> None:
    # when
    occupancy = in_flight(asker, has_slots=True)
    # then: what is in flight always has its place
    assert all(map(ge, occupancy.held, occupancy.in_flight))
    # and all that began in the second before nobody listened keep theirs for their time to live
    first_us = START_US + SILENT_US[0] - CALL_US
    moments = list(zip(occupancy.at_us, occupancy.in_flight, occupancy.held, strict=True))
    assert {
        held
        for at_us, _, held in moments
        if first_us + CALL_US <= at_us < first_us + SLOT_TTL_S * US_PER_S
    } == {LIMIT}
    returned_us = [at_us for at_us, flying, _ in moments if at_us > first_us and flying == 1]
    assert first_us + SLOT_TTL_S * US_PER_S in returned_us


def test_concurrency_without_slots_exceeds_its_limit_by_releases_of_refused_calls(
    asker: Asker,
) -> None:
    # when
    occupancy = in_flight(asker, has_slots=False)
    # then
    assert max(occupancy.held) == LIMIT
    assert max(occupancy.in_flight) > LIMIT


def test_counted_in_leaves_out_where_its_span_begins() -> None:
    assert counted_in((1, 2, 3, 4), 2, 4) == 2
