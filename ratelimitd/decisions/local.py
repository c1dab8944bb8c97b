"""Deciding without the store: one limiter per counter in this process, whatever the rule counts.

While the store is away, a rule with `on_store_failure: local` gets a share of its limit per
process, max(1, L div share), as a GCRA with at most one minute's worth of burst. Over an outage
of length t a fleet of `share` processes admits at most share x (burst + rate x t) per counter,
besides what the store had admitted before: the counters here start empty.
"""

from ratelimitd.policy.model import Limit

MINUTE_US = 60_000_000


def decide_local(
    tat_us: int | None, limit: Limit, share: int, cost: int, now_us: int
) -> tuple[bool, int]:
    """Return (is_over, the new TAT); the TAT is None for a counter never seen.

    GCRA (ITU-T I.371): `cost` cells conform when the theoretical arrival time, advanced by them,
    is at most one burst ahead of now. A refusal changes nothing. Hits of 0 or below are admitted.
    """
    tat = now_us if tat_us is None else max(tat_us, now_us)
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
