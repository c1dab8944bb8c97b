"""Deciding without the store: one limiter per counter in this process, whatever the rule counts.

While the store is away, a rule with `on_store_failure: local` gets a share of its limit per
process, max(1, L div share), as a GCRA with at most one minute's worth of burst. Over an outage
of length t a fleet of `share` processes admits at most share x (burst + rate x t) per counter,
besides what the store had admitted before: the counters here start empty.

A concurrency limit counts what it admitted less what was released, whoever released it. A count
that nobody touched for a slot's time to live is forgotten. A fleet holds at most share x max(1,
L div share) slots at once, besides those that the store had given out and releases that get lost.
"""

from typing import NamedTuple

from ratelimitd.policy.model import Algorithm, Limit

MINUTE_US = 60_000_000


class LocalState(NamedTuple):
    """A theoretical arrival time, or how many slots are held and when that was said."""

    at_us: int
    held: int = 0


def decide_local(
    state: LocalState | None, limit: Limit, share: int, cost: int, now_us: int
) -> tuple[bool, LocalState]:
    """Return (is_over, the new state); the state is None for a counter never seen."""
    if limit.algorithm is Algorithm.CONCURRENCY:
        return _decide_slots(state, limit, share, cost, now_us)
    tat = now_us if state is None else max(state.at_us, now_us)
    is_over, tat = _decide_rate(tat, limit, share, cost, now_us)
    return is_over, LocalState(tat)


def _decide_rate(tat: int, limit: Limit, share: int, cost: int, now_us: int) -> tuple[bool, int]:
    """Decide by a theoretical arrival time that is not in the past.

    GCRA (ITU-T I.371): `cost` cells conform when the theoretical arrival time, advanced by them,
    is at most one burst ahead of now. A refusal changes nothing. Hits of 0 or below are admitted.
    """
    if cost <= 0:
        return False, tat
    if limit.requests_per_unit == 0:
        return True, tat
    amount = max(1, limit.requests_per_unit // share)
    burst = max(1, min(amount, amount * MINUTE_US // limit.window_us))
    interval_us = -(-limit.window_us // amount)
    advanced = tat + cost * interval_us
    if advanced > now_us + burst * interval_us:
        return True, tat
    return False, advanced


def _decide_slots(
    state: LocalState | None, limit: Limit, share: int, cost: int, now_us: int
) -> tuple[bool, LocalState]:
    """Decide by how many slots are held; each call takes or releases one, as by its name."""
    is_forgotten = state is None or now_us - state.at_us >= limit.slot_ttl_us
    held = 0 if is_forgotten or state is None else state.held
    step = 1 if limit.slot else abs(cost)
    if cost <= 0:
        return False, LocalState(now_us, max(0, held - step) if cost else held)
    most = max(1, limit.requests_per_unit // share) if limit.requests_per_unit else 0
    if held + step > most:
        return True, LocalState(now_us, held)
    return False, LocalState(now_us, held + step)
