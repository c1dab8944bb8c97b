"""An independent opinion on check.lua: plain Python over a dict, written from the rules in prose.

Where the script charges and rolls back, the model first asks "would each fit?" on a copy and then
books what the outcome says; where the script keeps text, the model keeps tuples. What each
algorithm holds is in a module of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from ratelimitd.decisions.plan import Births, Check, CheckResult, Plan, Reply
from ratelimitd.policy.model import Algorithm
from tests.model import concurrency, fixed, gcra, sliding
from tests.model.outcome import Outcome, Told

SECOND_US = 1_000_000

_ALGORITHMS: dict[Algorithm, ModuleType] = {
    Algorithm.FIXED_WINDOW: fixed,
    Algorithm.SLIDING_WINDOW: sliding,
    Algorithm.GCRA: gcra,
    Algorithm.CONCURRENCY: concurrency,
}

Counters = dict[bytes, Any]


class _Seen(NamedTuple):
    """What one check saw, and the counter that it charges."""

    check: Check
    key: bytes
    outcome: Outcome
    is_overflowed: bool


@dataclass
class ModelStore:
    """A store that decides like the scripts should.

    `lives_ms` says how long each key that the last batch wrote must live, and `lost` what gcra
    could not remember in it. What is ahead of the clock when a check meets it is written as it
    counts.
    """

    counters: Counters = field(default_factory=dict)
    lives_ms: dict[bytes, int] = field(default_factory=dict)
    lost: int = 0

    def check(self, plans: Sequence[Plan], now_us: int) -> list[Reply]:
        """Decide and book each plan in turn."""
        self.lives_ms = {}
        self.lost = 0
        return [self._decide(plan, now_us, is_booked=True) for plan in plans]

    def peek(self, plans: Sequence[Plan], now_us: int) -> list[Reply]:
        """Decide each plan as if it came alone, and book nothing."""
        return [self._decide(plan, now_us, is_booked=False) for plan in plans]

    def _decide(self, plan: Plan, now_us: int, *, is_booked: bool) -> Reply:
        if any(is_stale(check, now_us) for check in plan.checks):
            nothing = tuple(CheckResult(False, 0, 0, 0, 0, 0) for _ in plan.checks)
            return Reply(now_us, True, nothing, is_stale=True)
        seen, newborn = self._look(plan, now_us, is_booked=is_booked)
        is_refused = plan.is_denied or refuses(plan, [one.outcome.is_over for one in seen])
        held = dict(self.counters)
        lives: dict[bytes, int] = {}
        lost = 0
        for check, key, _, _ in seen:
            state = pulled(held.get(key), check, now_us)
            if state != held.get(key):
                held[key] = state
                lives[key] = life_ms(state, check, now_us)
            if not spends(check) or (is_refused and not counts_denied(check)):
                continue
            if check.cost < 0 and state is None:
                continue
            booked = charge(held.get(key), check, now_us)
            held[key] = booked.state
            lost = min(lost + booked.lost, 2**53 - 1)
            lives[key] = life_ms(booked.state, check, now_us)
            for births in newborn.pop(key, ()):
                second = now_us // SECOND_US
                held[births.key] = (second * SECOND_US, births_at(held, births, now_us) + 1)
                lives[births.key] = -(-((second + 1) * SECOND_US - now_us) // 1000)
        results = [
            CheckResult(
                one.outcome.is_over,
                one.outcome.before,
                one.outcome.after,
                *told(held.get(one.key), one, now_us, need_of(seen[: index + 1])),
                one.is_overflowed,
            )
            for index, one in enumerate(seen)
        ]
        if is_booked:
            self._book(held, lives, lost)
        return Reply(now_us, is_refused, tuple(results))

    def _pull_births(self, key: bytes, now_us: int) -> None:
        """Write a count of births that is ahead of the clock as one of this second."""
        state, start = self.counters.get(key), now_us // SECOND_US * SECOND_US
        if state is not None and state[0] > start:
            self.counters[key] = (start, state[1])
            self.lives_ms[key] = -(-(start + SECOND_US - now_us) // 1000)

    def _look(
        self, plan: Plan, now_us: int, *, is_booked: bool
    ) -> tuple[list[_Seen], dict[bytes, list[Births]]]:
        """Charge a copy as if the plan were admitted; also returns the births of new keys."""
        held = dict(self.counters)
        newborn: dict[bytes, list[Births]] = {}
        seen = []
        for check in plan.checks:
            key, births = check.key, check.births
            if births is not None and self._is_new(check, held, newborn, now_us):
                if is_booked:
                    self._pull_births(births.key, now_us)
                if births_at(held, births, now_us) < births.per_second:
                    newborn.setdefault(key, []).append(births)
                    start = now_us // SECOND_US * SECOND_US
                    held[births.key] = (start, births_at(held, births, now_us) + 1)
                else:
                    key = births.overflow_key
            held[key] = state = pulled(held.get(key), check, now_us)
            outcome = charge(state, check, now_us)
            if spends(check):
                held[key] = outcome.state
            seen.append(_Seen(check, key, outcome, key != check.key))
        return seen, newborn

    def _is_new(
        self, check: Check, held: Counters, newborn: dict[bytes, list[Births]], now_us: int
    ) -> bool:
        """Say whether charging a check would give birth to its counter."""
        if check.cost <= 0:
            return False
        if check.limit.algorithm is Algorithm.CONCURRENCY:
            return not concurrency.active(held.get(check.key), check, now_us)
        return check.key not in self.counters and check.key not in newborn

    def _book(self, held: Counters, lives: dict[bytes, int], lost: int) -> None:
        self.lost = min(self.lost + lost, 2**53 - 1)
        self.lives_ms.update(lives)
        for key, state in list(held.items()):
            if state == {}:
                del held[key]
                self.lives_ms.pop(key, None)
        self.counters = held


def is_stale(check: Check, now_us: int) -> bool:
    """Say whether no period of the check's calendar holds `now_us`."""
    return check.limit.calendar is not None and fixed.window_at(check, now_us) is None


def charge(state: Any, check: Check, now_us: int) -> Outcome:
    """Charge one counter as if the request were admitted."""
    outcome: Outcome = _ALGORITHMS[check.limit.algorithm].charge(state, check, now_us)
    return outcome


def pulled(state: Any, check: Check, now_us: int) -> Any:
    """Return the state of a counter, of which nothing is further ahead of now than may be."""
    if state is None:
        return None
    return _ALGORITHMS[check.limit.algorithm].pulled(state, check, now_us)


def told(state: Any, seen: _Seen, now_us: int, need: int) -> Told:
    """Tell of one counter after the request; who is over waits for `need`."""
    module = _ALGORITHMS[seen.check.limit.algorithm]
    asked = need if seen.outcome.is_over else None
    result: Told = module.tell(state, seen.check, now_us, asked)
    return result


def life_ms(state: Any, check: Check, now_us: int) -> int:
    """Return the time to live in whole milliseconds, rounded up, at least one."""
    life_us: int = _ALGORITHMS[check.limit.algorithm].life_us(state, check, now_us)
    return max(1, -(-life_us // 1000))


def births_at(held: Counters, births: Births, now_us: int) -> int:
    """Return how many counters are new in this second."""
    return fixed.used_at(held.get(births.key), now_us // SECOND_US * SECOND_US)


def spends(check: Check) -> bool:
    """Say whether charging a check changes its counter."""
    is_closed = check.limit.algorithm is Algorithm.GCRA and check.limit.requests_per_unit == 0
    return check.cost != 0 and not is_closed


def counts_denied(check: Check) -> bool:
    """Say whether a check is charged when its request is refused: a place never is, and a refund
    always.
    """
    if check.cost < 0:
        return True
    return check.limit.counts_denied and check.limit.algorithm is not Algorithm.CONCURRENCY


def need_of(seen: Sequence[_Seen]) -> int:
    """Return what the last of these checks and those before it ask of its counter."""
    return sum(max(0, one.check.cost) for one in seen if one.key == seen[-1].key)


def refuses(plan: Plan, overs: Sequence[bool]) -> bool:
    """Say whether a request is refused: an enforced limit is over, or all quota descriptors are."""
    descriptor = -1
    quotas: dict[int, bool] = {}
    for check, over in zip(plan.checks, overs, strict=True):
        descriptor += not check.is_joined or descriptor < 0
        counts = over and not check.limit.is_shadow
        if check.limit.is_quota:
            quotas[descriptor] = quotas.get(descriptor, False) or counts
        elif counts:
            return True
    return bool(quotas) and all(quotas.values()) and plan.passing_quota == 0
