"""gcra in fractions: state is (us, rem), the time at which all is forgotten."""

from fractions import Fraction
from math import ceil, floor

from ratelimitd.decisions.plan import Check
from ratelimitd.policy.model import Limit
from tests.model.outcome import Outcome, Told

State = tuple[int, int]


def cell_of(limit: Limit) -> Fraction:
    """Return the time that one cell takes."""
    return Fraction(limit.window_us, limit.requests_per_unit)


def ahead(state: State | None, limit: Limit, now_us: int) -> Fraction:
    """Return how far the state is ahead of now: at most burst and debt."""
    if state is None:
        return Fraction(0)
    us, rem = state
    amount = limit.requests_per_unit
    forgotten = us + (Fraction(rem, amount) if rem < amount else Fraction(1))
    most = (limit.capacity + limit.debt) * cell_of(limit)
    return min(max(forgotten - now_us, Fraction(0)), most)


def state_of(time: Fraction, limit: Limit) -> State:
    """Return a time as it is stored."""
    us = floor(time)
    rem = (time - us) * limit.requests_per_unit
    assert rem.denominator == 1, "every time is a multiple of 1/limit us"
    return us, int(rem)


def pulled(state: State, check: Check, now_us: int) -> State:
    """Return a state that is ahead of now by more than burst and debt as one that is not."""
    limit = check.limit
    if limit.requests_per_unit == 0:
        return state
    us, rem = state
    whole = us + (Fraction(rem, limit.requests_per_unit) if rem < limit.requests_per_unit else 1)
    most = now_us + (limit.capacity + limit.debt) * cell_of(limit)
    return state_of(most, limit) if whole > most else state


def charge(state: State | None, check: Check, now_us: int) -> Outcome:
    """Add the cost: never before now, never beyond burst and debt."""
    limit, cost = check.limit, check.cost
    if limit.requests_per_unit == 0:
        is_ahead = state is not None and (state > (now_us, 0))
        return Outcome(state, 0, 0, cost > 0 or (cost == 0 and is_ahead))
    cell = cell_of(limit)
    most = limit.capacity + limit.debt
    was = ahead(state, limit, now_us)
    taken = max(min(cost, most), -most)
    then = max(was + taken * cell, Fraction(0))
    over = cost >= 0 and (then > limit.capacity * cell or cost > limit.capacity)
    beyond = was / cell + cost - most
    kept = min(then, most * cell)
    before = ceil(was / cell)
    lost = max(0, ceil(beyond)) if cost > 0 else 0
    return Outcome(
        state_of(now_us + kept, limit), before, ceil(then / cell), over, min(lost, 2**53 - 1)
    )


def tell(state: State | None, check: Check, now_us: int, need: int | None) -> Told:
    """Tell the cells used, the time to a full bucket, and when `need` conforms."""
    limit = check.limit
    if limit.requests_per_unit == 0:
        return Told(0, 0, 0 if need is None else -1)
    cell = cell_of(limit)
    there = ahead(state, limit, now_us)
    used, full = ceil(there / cell), ceil(there)
    if need is None:
        return Told(used, full, 0)
    if need > limit.capacity:
        return Told(used, full, -1)
    wait = max(0, ceil(there + need * cell - limit.capacity * cell))
    return Told(used, wait, wait)


def life_us(state: State, check: Check, now_us: int) -> int:
    """Return how long the state means something."""
    us, rem = state
    return us + (1 if rem else 0) - now_us
