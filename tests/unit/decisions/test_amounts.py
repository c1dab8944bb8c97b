"""Numbers from outside the policy are cut to what can be counted exactly."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.decisions.amounts import MAX_GCRA_SPAN_US, with_amount, with_override
from ratelimitd.decisions.request import Override
from ratelimitd.policy.model import WINDOW_US, Algorithm, Calendar, Unit
from tests.support.plans import limit_of

GCRA = replace(limit_of(10), algorithm=Algorithm.GCRA)
UNITS = sorted(WINDOW_US)


@pytest.mark.parametrize(
    ("algorithm", "most"),
    [
        (Algorithm.FIXED_WINDOW, 2**53 - 1),
        (Algorithm.SLIDING_WINDOW, 2**32 - 1),
        (Algorithm.GCRA, 2**26),
        (Algorithm.CONCURRENCY, 10_000),
    ],
)
def test_amount_is_cut_to_what_its_algorithm_counts(algorithm: Algorithm, most: int) -> None:
    # given
    limit = replace(limit_of(10), algorithm=algorithm)
    # then
    assert with_amount(limit, 2**60).requests_per_unit == most
    assert with_amount(limit, 3).requests_per_unit == 3
    assert with_amount(limit, 10) is limit


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(UNITS),
    st.one_of(st.none(), st.integers(1, 2**26)),
    st.one_of(st.none(), st.integers(0, 2**26)),
)
def test_overridden_gcra_stays_within_exact_times(
    amount: int, unit: Unit, burst: int | None, debt: int | None
) -> None:
    # given
    limit = replace(GCRA, burst=burst, max_debt=debt)
    # when
    changed = with_override(limit, Override(amount, unit))
    # then
    assert changed.requests_per_unit == min(amount, 2**26)
    assert changed.window_us == WINDOW_US[unit]
    if amount:
        per_cell = Fraction(changed.window_us, changed.requests_per_unit)
        assert (changed.capacity + changed.debt) * per_cell <= MAX_GCRA_SPAN_US


def test_override_with_the_calendars_unit_keeps_the_calendar() -> None:
    # given
    limit = replace(limit_of(10, Unit.MONTH), calendar=Calendar(Unit.MONTH, "Europe/Berlin", 3))
    # then
    assert with_override(limit, Override(5, Unit.MONTH)).calendar == limit.calendar
    assert with_override(limit, Override(5, Unit.DAY)).calendar is None


def test_override_of_concurrency_is_a_number_alone() -> None:
    # given
    limit = replace(limit_of(10), algorithm=Algorithm.CONCURRENCY, window_us=0, unit=Unit.UNKNOWN)
    # when
    changed = with_override(limit, Override(5, Unit.DAY))
    # then
    assert (changed.requests_per_unit, changed.window_us, changed.unit) == (5, 0, Unit.UNKNOWN)
