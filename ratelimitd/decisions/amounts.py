"""How much a limit admits for one request: the rule's number, its tier's, or an override's.

Rules:
- A number from outside the policy (a request, the registry) may be anything. It is cut to what
  its algorithm counts exactly, with the bounds that the policy check holds its own numbers to.
- An override changes how much, and from a request also in which time; the rule stays the rule.
"""

from dataclasses import replace

from ratelimitd.decisions.request import Override
from ratelimitd.policy.model import WINDOW_US, Algorithm, Limit

# Largest numbers of each algorithm: an integer of the store is exact below 2^53, gcra multiplies
# numbers of 2^26 and adds times of 2^52 us, a sliding estimate multiplies by 2^20.
MAX_AMOUNT = {
    Algorithm.FIXED_WINDOW: 2**53 - 1,
    Algorithm.SLIDING_WINDOW: 2**32 - 1,
    Algorithm.GCRA: 2**26,
    Algorithm.CONCURRENCY: 10_000,
}
MAX_GCRA_SPAN_US = 2**52


def with_amount(limit: Limit, amount: int) -> Limit:
    """Return the limit with another number."""
    amount = min(amount, MAX_AMOUNT[limit.algorithm])
    if amount == limit.requests_per_unit:
        return limit
    return _within_bounds(replace(limit, requests_per_unit=amount))


def with_override(limit: Limit, override: Override) -> Limit:
    """Return the limit with the number and the unit that a request brings."""
    limit = replace(limit, is_unlimited=False)
    if limit.algorithm is Algorithm.CONCURRENCY:
        return with_amount(limit, override.requests_per_unit)
    if limit.calendar is not None and limit.calendar.unit is override.unit:
        return with_amount(limit, override.requests_per_unit)
    amount = min(override.requests_per_unit, MAX_AMOUNT[limit.algorithm])
    changed = replace(
        limit,
        requests_per_unit=amount,
        unit=override.unit,
        window_us=WINDOW_US[override.unit],
        calendar=None,
    )
    return _within_bounds(changed)


def _within_bounds(limit: Limit) -> Limit:
    """Cut a burst and a debt to what can be counted exactly at the limit's rate."""
    if limit.algorithm is not Algorithm.GCRA or not limit.requests_per_unit:
        return limit
    longest = MAX_GCRA_SPAN_US * limit.requests_per_unit // limit.window_us
    burst = min(limit.capacity, longest)
    debt = min(limit.debt, longest - burst)
    if (burst, debt) == (limit.capacity, limit.debt):
        return limit
    return replace(limit, burst=burst, max_debt=debt)
