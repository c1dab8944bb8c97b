"""Sliding windows: state is (start, current, previous); waits are searched for, not computed."""

from fractions import Fraction
from math import ceil

from ratelimitd.decisions.plan import Check
from tests.model.outcome import Outcome, Told

MOST_COUNTED = 2**32

State = tuple[int, int, int]


def aged(state: State | None, window_us: int, now_us: int) -> State:
    """Return the state as the window that holds `now_us` sees it."""
    number = now_us // window_us
    start = number * window_us
    if state is None:
        return start, 0, 0
    match number - state[0] // window_us:
        case 1:
            return start, 0, state[1]
        case passed if passed > 1:
            return start, 0, 0
        case _:
            return start, state[1], state[2]


def estimate(state: State, window_us: int, now_us: int) -> int:
    """Return the count of this window and the overlapping part of the last one."""
    start, current, previous = state
    overlap = Fraction(start + window_us - now_us, window_us)
    parts = ceil(overlap * 2**20)
    return current + ceil(Fraction(previous * parts, 2**20))


def pulled(state: State, check: Check, now_us: int) -> State:
    """Return a state from a later window as one of this window."""
    start = now_us // check.limit.window_us * check.limit.window_us
    return (min(state[0], start), *state[1:])


def charge(state: State | None, check: Check, now_us: int) -> Outcome:
    """Add the cost to the current window: never below zero, never beyond 2^32."""
    window = check.limit.window_us
    start, current, previous = aged(state, window, now_us)
    before = estimate((start, current, previous), window, now_us)
    charged = (start, min(max(current + check.cost, 0), MOST_COUNTED), previous)
    after = estimate(charged, window, now_us)
    over = check.cost >= 0 and after > check.limit.requests_per_unit
    return Outcome(charged, before, after, over)


def fits(state: State | None, check: Check, now_us: int, need: int) -> bool:
    """Say whether `need` would be admitted then."""
    window = check.limit.window_us
    there = estimate(aged(state, window, now_us), window, now_us)
    return there + need <= check.limit.requests_per_unit


def tell(state: State | None, check: Check, now_us: int, need: int | None) -> Told:
    """Tell the estimate, the window's end, and when `need` fits: the estimate only falls.

    A state from a later window counts as this one's, as if it had been written now.
    """
    window = check.limit.window_us
    now = aged(state, window, now_us)
    reset = now[0] + window - now_us
    used = estimate(now, window, now_us)
    if need is None:
        return Told(used, reset, 0)
    if need > check.limit.requests_per_unit:
        return Told(used, reset, -1)
    too_early, enough = -1, reset + window
    while enough - too_early > 1:
        middle = (too_early + enough) // 2
        if fits(now, check, now_us + middle, need):
            enough = middle
        else:
            too_early = middle
    return Told(used, reset, enough)


def life_us(state: State, check: Check, now_us: int) -> int:
    """Return how long the state means something: it is the previous one in the next window."""
    window = check.limit.window_us
    return (now_us // window + 2) * window - now_us
