"""Fixed windows, of the clock and of a calendar: state is (start, used)."""

from itertools import pairwise

from ratelimitd.decisions.plan import Check
from tests.model.outcome import Outcome, Told

LARGEST = 2**53 - 1

State = tuple[int, int]


def window_at(check: Check, now_us: int) -> tuple[int, int] | None:
    """Return the window or period that holds `now_us`, as (start, end)."""
    if check.limit.calendar is None:
        length = check.limit.window_us
        number = now_us // length
        return number * length, (number + 1) * length
    assert check.periods is not None
    borders = list(check.periods)
    for start, end in pairwise(borders):
        if start <= now_us < end:
            return start, end
    return None


def used_at(state: State | None, start_us: int) -> int:
    """Return the count that still holds in the window that starts then."""
    if state is None or state[0] < start_us:
        return 0
    return state[1]


def pulled(state: State, check: Check, now_us: int) -> State:
    """Return a state from a later window as one of this window."""
    start, _ = window_at(check, now_us) or (0, 0)
    return (min(state[0], start), state[1])


def charge(state: State | None, check: Check, now_us: int) -> Outcome:
    """Add the cost: never below zero, never beyond 2^53 - 1."""
    start, _ = window_at(check, now_us) or (0, 0)
    before = used_at(state, start)
    after = min(max(before + check.cost, 0), LARGEST)
    over = check.cost >= 0 and after > check.limit.requests_per_unit
    return Outcome((start, after), before, after, over)


def tell(state: State | None, check: Check, now_us: int, need: int | None) -> Told:
    """Tell the count and the window's end, which is also the wait of who is over."""
    start, end = window_at(check, now_us) or (0, 0)
    used, reset = used_at(state, start), end - now_us
    if need is None:
        return Told(used, reset, 0)
    return Told(used, reset, reset if need <= check.limit.requests_per_unit else -1)


def life_us(state: State, check: Check, now_us: int) -> int:
    """Return how long the state means something."""
    _, end = window_at(check, now_us) or (0, 0)
    return end - now_us
