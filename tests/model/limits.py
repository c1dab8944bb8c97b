"""An independent opinion on check.lua: plain Python over a dict, written from the rules in prose.

Where the script charges and rolls back, the model first asks "would each fit?" on a copy and then
books what the outcome says; where the script keeps text, the model keeps (start, used).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ratelimitd.decisions.plan import Check, CheckResult, Plan, Reply

LARGEST = 2**53 - 1


@dataclass
class Counter:
    """What one key holds: when its window began and what was used in it."""

    start_us: int
    used: int


@dataclass
class ModelStore:
    """A store that decides like the scripts should; `writes` names the keys of the last batch."""

    counters: dict[bytes, Counter] = field(default_factory=dict)
    writes: set[bytes] = field(default_factory=set)

    def check(self, plans: Sequence[Plan], now_us: int) -> list[Reply]:
        """Decide and book each plan in turn."""
        self.writes = set()
        return [self._decide(plan, now_us, is_booked=True) for plan in plans]

    def peek(self, plans: Sequence[Plan], now_us: int) -> list[Reply]:
        """Decide each plan as if it came alone, and book nothing."""
        return [self._decide(plan, now_us, is_booked=False) for plan in plans]

    def used(self, check: Check, now_us: int) -> int:
        """Return what the window that holds `now_us` has used."""
        counter = self.counters.get(check.key)
        if counter is None:
            return 0
        window = check.limit.window_us
        is_past = counter.start_us < (now_us // window) * window
        return 0 if is_past else counter.used

    def _decide(self, plan: Plan, now_us: int, *, is_booked: bool) -> Reply:
        used = {check.key: self.used(check, now_us) for check in plan.checks}
        tentative = dict(used)
        seen: list[tuple[bool, int, int]] = []
        for check in plan.checks:
            before = tentative[check.key]
            after = booked(before, check.cost)
            seen.append((check.cost >= 0 and after > check.limit.requests_per_unit, before, after))
            tentative[check.key] = after
        is_refused = plan.is_denied or refuses(plan, [over for over, _, _ in seen])
        charged = [check for check in plan.checks if not is_refused or check.limit.counts_denied]
        for check in charged:
            used[check.key] = booked(used[check.key], check.cost)
        if is_booked:
            for check in charged:
                if check.cost != 0:
                    window = check.limit.window_us
                    start = (now_us // window) * window
                    self.counters[check.key] = Counter(start, used[check.key])
                    self.writes.add(check.key)
        results = tuple(
            result(check, asked(plan, at), now_us, seen[at], used[check.key])
            for at, check in enumerate(plan.checks)
        )
        return Reply(now_us, is_refused, results)


def booked(used: int, cost: int) -> int:
    """Return the count after a cost or a refund: never below zero, never beyond 2^53 - 1."""
    return min(max(used + cost, 0), LARGEST)


def refuses(plan: Plan, overs: Sequence[bool]) -> bool:
    """Say whether a request is refused: an enforced limit is over, or all quota limits are."""
    enforced = [
        over and not check.limit.is_shadow
        for check, over in zip(plan.checks, overs, strict=True)
        if not check.limit.is_quota
    ]
    quotas = [
        over and not check.limit.is_shadow
        for check, over in zip(plan.checks, overs, strict=True)
        if check.limit.is_quota
    ] + [False] * plan.passing_quota
    return any(enforced) or (bool(quotas) and all(quotas))


def asked(plan: Plan, at: int) -> int:
    """Return what a request asks of the counter of a check, up to that check."""
    key = plan.checks[at].key
    return sum(max(0, check.cost) for check in plan.checks[: at + 1] if check.key == key)


def result(
    check: Check, need: int, now_us: int, seen: tuple[bool, int, int], final: int
) -> CheckResult:
    """Fill in the times: the window's end, and the wait until what is asked may fit."""
    over, before, after = seen
    window = check.limit.window_us
    reset_us = (now_us // window + 1) * window - now_us
    if not over:
        retry_us = 0
    elif need > check.limit.requests_per_unit:
        retry_us = -1
    else:
        retry_us = reset_us
    return CheckResult(over, before, after, final, reset_us, retry_us)
